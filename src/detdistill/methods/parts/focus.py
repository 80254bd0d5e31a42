"""WHERE it counts: masks ≥ 0 of a level, from what the teacher showed or where the objects are. No gradient flows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detdistill.distillation.pair import Level, Pair, grid_of, level_at
from detdistill.errors import CapabilityError
from detdistill.gfl.assign import some_images
from detdistill.types import Pyramid, Targets


def richness(level: Level, pair: Pair) -> Float[Tensor, "b 1 h w"]:
    """The teacher's highest class score at every cell: where it sees something rich in content.

    M = max over anchors and classes of sigmoid(teacher logits), and 0 in the padding.

    Returns:
        Masks in [0, 1).

    Raises:
        CapabilityError: the teacher showed no class logits (sigmoid classes or RPN objectness).

    Source:
        Du et al., Distilling Object Detectors with Feature Richness, NeurIPS 2021 (FRS), section 3.

    Differs from the source:
        Cells in the padding are 0; the source counts them.
    """
    logits = pair.teacher.class_logits
    if logits is None:
        raise CapabilityError(
            "The teacher's observation must hold class logits for the feature richness, got none. "
            "Use a teacher with dense class scores, or a method without a score mask such as 'ssim'."
        )
    maps = level_at(Pyramid(logits.levels, logits.strides), level.stride)
    return pair.once(
        (richness, level.stride),
        lambda: level.without_padding(maps.detach().float().amax(dim=(1, 2)).sigmoid()[:, None]),
    )


def foreground(level: Level, pair: Pair) -> Float[Tensor, "b 1 h w"]:
    """What each cell's object shares out: see `box_mask`; 0 in the padding.

    Returns:
        Masks in [0, 1]; all 0 for an image without boxes.

    Source:
        Yang et al., Focal and Global Knowledge Distillation for Detectors (FGD), CVPR 2022, section 3.1.

    Differs from the source:
        Cells in the padding are 0; see also `box_mask`.
    """
    return pair.once((foreground, level.stride), lambda: level.without_padding(_boxes(level, pair)))


def background(level: Level, pair: Pair) -> Float[Tensor, "b 1 h w"]:
    """1 / (number of such cells) at every cell of the image that no box covers; 0 elsewhere and in the padding.

    Returns:
        Masks that sum to 1 per image, or to 0 where boxes cover all of it.

    Source:
        Yang et al., Focal and Global Knowledge Distillation for Detectors (FGD), CVPR 2022, section 3.1.

    Differs from the source:
        Cells in the padding are 0 and not counted. As in the source, what an ignored box covers is background
        unless another box covers it.
    """
    free = foreground(level, pair) == 0
    free = level.inside & free if level.padded else free
    return free / free.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1)


def box_mask(targets: Targets, stride: int, *, grid: tuple[int, int]) -> Float[Tensor, "h w"]:
    """1 / (number of cells of the box) at every cell of a box; where boxes overlap the smallest one wins.

    A box covers the cells floor(x1 / stride) to ceil(x2 / stride) and floor(y1 / stride) to ceil(y2 / stride), both
    ends included, so every object weighs about 1 whatever its size. Cells beyond the grid count in the number.

    Args:
        targets: ground truth of one image, boxes in pixels of the padded batch image.
        stride: the level's nominal stride in pixels.
        grid: cells of the level, (h, w).

    Returns:
        Values in [0, 1]; 0 outside the boxes. Ignored boxes are as if they were not there.

    Source:
        Yang et al., Focal and Global Knowledge Distillation for Detectors (FGD), CVPR 2022, section 3.1.

    Differs from the source:
        Boxes are divided by the nominal stride; the source stretches them by the ratio of the padded map to the
        unpadded image, which shifts them on padded images.
    """
    return box_masks([targets], stride, grid=grid)[0]


def box_masks(targets: Sequence[Targets], stride: int, *, grid: tuple[int, int]) -> Float[Tensor, "b h w"]:
    """The `box_mask` of every image."""
    found: list[Tensor] = []
    for group in some_images([one.boxes for one in targets], cells=grid[0] * grid[1]):
        some = targets[len(found) : len(found) + len(group)]
        boxes = pad_sequence(group, batch_first=True)
        ignored = pad_sequence([one.ignored for one in some], batch_first=True, padding_value=True)
        first, last = (boxes[..., :2] / stride).floor(), (boxes[..., 2:] / stride).ceil()
        worth = (1 / (last + 1 - first).prod(dim=2)).masked_fill(ignored, 0.0)
        rows, columns = (torch.arange(side, device=worth.device) for side in grid)
        high = (rows >= first[..., 1:]) & (rows <= last[..., 1:])
        wide = (columns >= first[..., :1]) & (columns <= last[..., :1])
        covered = high[..., None] & wide[..., None, :]
        # One empty layer in front: an image without boxes has a maximum too.
        found += F.pad(covered * worth[..., None, None], (0, 0, 0, 0, 1, 0)).amax(dim=1).unbind()
    return torch.stack(found)


def _boxes(level: Level, pair: Pair) -> Float[Tensor, "b 1 h w"]:
    return box_masks(pair.batch.targets, level.stride, grid=grid_of(level.teacher))[:, None]
