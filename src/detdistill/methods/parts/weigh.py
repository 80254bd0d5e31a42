"""HOW MUCH each image and level counts, from the teacher's own loss: where the teacher errs, it teaches less."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from detdistill.errors import CapabilityError
from detdistill.types import Knowledge, TaskLoss

Granularity = Literal["image_level", "level", "image", "batch"]
GRANULARITIES: tuple[str, ...] = get_args(Granularity)
BY_LEVEL = ("image_level", "level")
BY_IMAGE = ("image_level", "image")
_COUPLED = ("level", "batch")
BY_IMAGE_REMEDY = "Write aid(..., granularity=image) if it has class and box losses of each image, else leave aid out."
_FLOAT = torch.finfo(torch.float32)


def by_teacher_loss(
    loss: TaskLoss,
    strides: Sequence[int | None],
    *,
    knowledge: Knowledge,
    alpha: float,
    granularity: Granularity = "image_level",
) -> Float[Tensor, "b l"]:
    """How far to trust the teacher on each image and level: w = exp(−alpha · D), D the teacher's loss there.

    D of an image and stride is the teacher's class and box loss on that level; a second stage adds its two losses
    to every level. D of an image (stride None) is the sum over its levels, the second stage's losses once. Features
    are weighed by class and box loss together, class scores by the class loss alone, boxes by the box loss alone.

    Args:
        loss: of the teacher, each image alone (`Need.IMAGE_LOSSES`); no gradient flows.
        strides: the columns of the cost that is weighed; None is a column that belongs to no level.
        knowledge: what that cost carries.
        alpha: how fast trust falls, per unit of loss, ≥ 0; 0 weighs everything exactly 1.
        granularity: ``"image_level"`` each image and level; ``"level"`` the level's mean over the batch's images;
            ``"image"`` the image's own D on all levels; ``"batch"`` its mean over the batch's images.

    Returns:
        Weights in (0, 1], detached.

    Raises:
        CapabilityError: the losses of each image are missing, or a stride that is asked for.

    Source:
        Lan and Tian, Adaptive Instance Distillation for Object Detection in Autonomous Driving, 2022.

    Differs from the source:
        An image is weighed alone (the source's code shares a level's mean over the batch: ``"level"``, where our mean
        is over images and the source's head divides by the batch's positives). Centerness and distribution losses
        never count. A loss that rounding took below 0 counts as 0.
    """
    found = difficulty(loss, strides, knowledge=knowledge, by_level=granularity in BY_LEVEL)
    if granularity in _COUPLED:
        found = found.mean(dim=0, keepdim=True).expand_as(found)
    # A loss that overflowed still weighs 1 at alpha 0, as 0 · max does and 0 · inf would not.
    return torch.exp(-alpha * found.clamp(min=0.0, max=_FLOAT.max)).clamp(min=_FLOAT.tiny)


def difficulty(
    loss: TaskLoss, strides: Sequence[int | None], *, knowledge: Knowledge, by_level: bool = True
) -> Float[Tensor, "b l"]:
    """D of every image and stride, as in `by_teacher_loss`; without `by_level` an image's own on all. Detached.

    Raises:
        CapabilityError: as there.
    """
    levels, regions = _shares(loss, knowledge)
    own = levels.sum(dim=1) + regions
    if by_level:
        index = {stride: level for level, stride in enumerate(loss.strides)}
        _require_strides(strides, loss)
        columns = [own if stride is None else levels[:, index[stride]] + regions for stride in strides]
    else:
        columns = [own] * len(strides)
    return torch.stack(columns, dim=1).detach()


def _shares(loss: TaskLoss, knowledge: Knowledge) -> tuple[Float[Tensor, "b l"], Float[Tensor, " b"]]:
    """What counts of the loss: on every level, and of the second stage (0 where there is none)."""
    if loss.classification is None or loss.box is None:
        raise CapabilityError(
            "The teacher's task loss must hold the class and box loss of each image and level, got the total alone. "
            "Answer Need.IMAGE_LOSSES in observe()."
        )
    none = loss.classification.new_zeros(loss.classification.shape[0])
    roi_classification = none if loss.roi_classification is None else loss.roi_classification
    roi_box = none if loss.roi_box is None else loss.roi_box
    if knowledge is Knowledge.CLASSIFICATION:
        return loss.classification, roi_classification
    if knowledge is Knowledge.LOCALIZATION:
        return loss.box, roi_box
    return loss.classification + loss.box, roi_classification + roi_box


def _require_strides(strides: Sequence[int | None], loss: TaskLoss) -> None:
    missing = [stride for stride in strides if stride is not None and stride not in loss.strides]
    if missing:
        raise CapabilityError(
            f"The strides that are weighed must be among the teacher's losses {list(loss.strides)}, got {missing}. "
            f"{BY_IMAGE_REMEDY}"
        )
