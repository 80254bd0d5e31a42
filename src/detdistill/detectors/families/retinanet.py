"""RetinaNet: torchvision's detector with anchors of several sizes and shapes at every cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from detdistill.detectors.backbones import build_backbone
from detdistill.detectors.catalogue import Family
from detdistill.detectors.dense import assign, centres, focal_cells
from detdistill.detectors.settings import AnchorRatios, AnchorSize, Boxes, HeadNorm, Octaves, PyramidSettings
from detdistill.detectors.torchvision_dense import DenseDetector, dense_detector
from detdistill.detectors.torchvision_parts import NominalAnchors, encoded, matched
from detdistill.errors import ConfigError
from detdistill.settings.bounds import Share
from detdistill.types import Targets, TaskLoss

_IOU_LOSSES = {"giou": generalized_box_iou_loss, "diou": distance_box_iou_loss, "ciou": complete_box_iou_loss}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetinaNetSettings(PyramidSettings):
    """What a RetinaNet is built from.

    Attributes:
        head_norm: normalisation in the towers; groups are chosen to fit the width.
        class_prior: first score of every class.
        anchor_scale: side of the smallest anchor, in strides.
        anchor_octaves: anchor sizes per octave on every level.
        anchor_ratios: height / width of the anchors.
        positive_iou: anchors that overlap a box at least so much learn it.
        negative_iou: anchors that overlap every box less are background; those up to `positive_iou` are left out.
        candidates_per_level: most candidates per level before non-maximum suppression.
    """

    family: Literal["retinanet"] = "retinanet"
    nms_threshold: Share = 0.5
    head_norm: HeadNorm = "none"
    class_prior: Share = 0.01
    anchor_scale: AnchorSize = 4.0
    anchor_octaves: Octaves = 3
    anchor_ratios: AnchorRatios = (0.5, 1.0, 2.0)
    positive_iou: Share = 0.5
    negative_iou: Share = 0.4
    candidates_per_level: Boxes = 1000

    def check(self) -> None:
        """See `DetectorSettings.check`."""
        self.require_dense_head()
        self.require_at_least_one("anchor_octaves")
        self.require("anchor_scale", self.anchor_scale > 0, "be above 0")
        if not 0 < self.negative_iou <= self.positive_iou <= 1:
            raise ConfigError(
                "student.negative_iou must be above 0 and at most student.positive_iou, "
                f"got {self.negative_iou} and {self.positive_iou}. 0.4 and 0.5 are usual."
            )


def build_retinanet(settings: RetinaNetSettings, class_names: Sequence[str]) -> DenseDetector:
    """A RetinaNet with new weights (see `build_backbone` for where they are drawn from and what is raised)."""
    octaves = [2 ** (octave / settings.anchor_octaves) for octave in range(settings.anchor_octaves)]
    sizes = [
        [max(1, int(stride * settings.anchor_scale * octave)) for octave in octaves] for stride in settings.strides
    ]
    anchors = NominalAnchors(sizes, [settings.anchor_ratios] * len(sizes), strides=settings.strides)
    backbone = build_backbone(settings)
    head = RetinaNetHead(settings.fpn_channels, anchors.num_anchors_per_location()[0], len(class_names))
    own = {"fg_iou_thresh": settings.positive_iou, "bg_iou_thresh": settings.negative_iou}
    return dense_detector(
        RetinaNet, settings, class_names, backbone=backbone, head=head, anchors=anchors, loss=retinanet_loss, own=own
    )


def retinanet_loss(
    model: RetinaNet,
    rows: Mapping[str, Tensor],
    levels: tuple[Tensor, ...],
    targets: Sequence[Targets],
    *,
    strides: tuple[int, ...],
    per_image: Sequence[bool],
) -> list[TaskLoss]:
    """Focal and box losses: the mean over images of each image's sums per positive of its own, as torchvision's.

    See `DenseLoss` for the arguments.
    """
    anchors = torch.cat(levels)
    matches = [matched(model.proposal_matcher, target.boxes.float(), anchors) for target in targets]
    counts, images = tuple(level.shape[0] for level in levels), len(targets) // len(per_image)
    given = assign(matches, targets, counts=counts, points=centres(anchors), images=images)
    predicted, own = given.rows(rows["bbox_regression"]), anchors[given.anchor]
    costs = _offset_costs(model.head.regression_head, predicted, given.truth(own), own)
    each = given.positives().clamp(min=1)[:, None]
    classification = given.by_level(focal_cells(rows["cls_logits"], given)) / each
    box = given.by_level(given.spread(costs)) / each
    found = []
    for classes, boxes, wanted in zip(given.apart(classification), given.apart(box), per_image, strict=True):
        total = (classes + boxes).sum(dim=1).mean()
        found.append(TaskLoss(total, strides, classes, boxes) if wanted else TaskLoss(total))
    return found


def _offset_costs(
    head: Any, predicted: Float[Tensor, "p 4"], boxes: Float[Tensor, "p 4"], anchors: Float[Tensor, "p 4"]
) -> Float[Tensor, " p"]:
    """The box loss of every positive anchor, of the kind that torchvision's regression head names.

    Gradients flow to the predicted offsets; boxes, which they should say, and anchors are in pixels.
    """
    kind, coder = head._loss_type, head.box_coder
    if kind in _IOU_LOSSES:
        costs: Tensor = _IOU_LOSSES[kind](coder.decode_single(predicted, anchors), boxes, reduction="none")
        return costs
    compare = functional.smooth_l1_loss if kind == "smooth_l1" else functional.l1_loss
    return compare(predicted, encoded(coder, boxes, anchors), reduction="none").sum(dim=1)


_SMALL = RetinaNetSettings(
    backbone="test_resnet", fpn_channels=64, head_depth=3, strides=(8, 16, 32), head_norm="group", anchor_scale=2.0
)

_PRESETS = {"tiny": replace(_SMALL, fpn_channels=32, head_depth=2), "small": _SMALL}
FAMILY = Family("retinanet", RetinaNetSettings, presets=_PRESETS, build=build_retinanet)
