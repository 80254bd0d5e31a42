"""FCOS: torchvision's detector without anchors, whose cells near a box's centre learn it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection import FCOS
from torchvision.models.detection.fcos import FCOSHead

from detdistill.detectors.backbones import build_backbone
from detdistill.detectors.catalogue import Family
from detdistill.detectors.dense import BACKGROUND, all_background, assign, centres, focal_cells
from detdistill.detectors.settings import Boxes, HeadNorm, PyramidSettings
from detdistill.detectors.torchvision_dense import DenseDetector, dense_detector
from detdistill.detectors.torchvision_parts import NominalAnchors, overlap_costs
from detdistill.gfl.assign import some_images
from detdistill.settings.bounds import Factor, Share, Within
from detdistill.types import Targets, TaskLoss

_LARGEST_AREA = 1e8  # torchvision's: of several boxes a cell takes the one with the largest 1e8 − area


@dataclass(frozen=True, slots=True, kw_only=True)
class FCOSSettings(PyramidSettings):
    """What an FCOS is built from.

    Attributes:
        head_norm: normalisation in the towers; groups are chosen to fit the width.
        box_bias_init: in strides: the box that is predicted before anything is learnt reaches this far to each side.
            0 (torchvision's) starts at the kink of the ReLU behind it.
        class_prior: first score of every class.
        centre_radius: cells nearer than this many strides to a box's centre learn it.
        candidates_per_level: most candidates per level before non-maximum suppression.
    """

    family: Literal["fcos"] = "fcos"
    head_norm: HeadNorm = "group"
    box_bias_init: Annotated[float, Within(-100, 100)] = 3.0
    class_prior: Share = 0.01
    centre_radius: Factor = 1.5
    candidates_per_level: Boxes = 1000

    def check(self) -> None:
        """See `DetectorSettings.check`."""
        self.require_dense_head()


def build_fcos(settings: FCOSSettings, class_names: Sequence[str]) -> DenseDetector:
    """An FCOS with new weights (see `build_backbone` for where they are drawn from and what is raised)."""
    strides = settings.strides
    anchors = NominalAnchors([(stride,) for stride in strides], [(1.0,)] * len(strides), strides=strides)
    backbone = build_backbone(settings)
    head = FCOSHead(settings.fpn_channels, 1, len(class_names), num_convs=0)
    nn.init.constant_(head.regression_head.bbox_reg.bias, settings.box_bias_init)
    own = {"center_sampling_radius": settings.centre_radius}
    return dense_detector(
        FCOS, settings, class_names, backbone=backbone, head=head, anchors=anchors, loss=fcos_loss, own=own
    )


def fcos_loss(
    model: FCOS,
    rows: Mapping[str, Tensor],
    levels: tuple[Tensor, ...],
    targets: Sequence[Targets],
    *,
    strides: tuple[int, ...],
    per_image: Sequence[bool],
) -> list[TaskLoss]:
    """Focal, GIoU and centerness losses: the batch's sums per positive of the batch, as torchvision's.

    See `DenseLoss` for the arguments; the anchors are squares as wide as the stride.
    """
    anchors, counts = torch.cat(levels), tuple(level.shape[0] for level in levels)
    radius = model.center_sampling_radius
    matches = match_by_centre([target.boxes for target in targets], anchors, counts=counts, radius=radius)
    images = len(targets) // len(per_image)
    given = assign(matches, targets, counts=counts, points=centres(anchors), images=images)
    own = anchors[given.anchor]
    boxes = given.truth(own)
    predicted = model.head.box_coder.decode(given.rows(rows["bbox_regression"]), own)
    overlap = overlap_costs(predicted, boxes)
    said = given.rows(rows["bbox_ctrness"]).squeeze(1)
    central = functional.binary_cross_entropy_with_logits(said, _centreness(boxes, own), reduction="none")
    classification = given.by_level(focal_cells(rows["cls_logits"], given))
    box, centre, positives = given.by_level(given.spread(overlap)), given.spread(central).sum(dim=1), given.positives()
    parts = zip(*map(given.apart, (classification, box, centre, positives)), strict=True)
    return [_loss_of(*one, strides=strides, per_image=each) for one, each in zip(parts, per_image, strict=True)]


def _loss_of(
    classification: Float[Tensor, "b l"],
    box: Float[Tensor, "b l"],
    centre: Float[Tensor, " b"],
    positives: Int64[Tensor, " b"],
    *,
    strides: tuple[int, ...],
    per_image: bool,
) -> TaskLoss:
    total = (classification.sum() + box.sum() + centre.sum()) / positives.sum().clamp(min=1)
    if not per_image:
        return TaskLoss(total)
    each = positives.clamp(min=1)
    classification, box = classification / each[:, None], box / each[:, None]
    return TaskLoss(total, strides, classification, box, other={"centerness": centre / each})


def match_by_centre(
    boxes: Sequence[Float[Tensor, "_m 4"]], anchors: Float[Tensor, "n 4"], *, counts: tuple[int, ...], radius: float
) -> list[Int64[Tensor, " n"]]:
    """The matches of each image: cells near a box's centre, on the level that fits the box's size.

    A cell learns a box when it lies inside it, at most `radius` anchor sides from its centre, and the farthest
    edge is 4 to 8 anchor sides away (no lower end on the finest level, no upper end on the coarsest). Of
    several boxes it takes the smallest. The anchors, so many per level, are squares as wide as the level's stride.
    """
    x, y = centres(anchors).mT.contiguous()
    sides = anchors[:, 2] - anchors[:, 0]
    lower, upper = sides * 4, sides * 8
    lower[: counts[0]] = 0
    upper[sum(counts) - counts[-1] :] = float("inf")
    found = []
    for group in some_images(boxes, cells=len(anchors)):
        counts_of, every = list(map(len, group)), torch.cat(group).float()
        if not len(every):
            found += [all_background(anchors)] * len(group)
            continue
        # Cells lie side by side in memory: a box is held against all of them at once.
        left, top, right, bottom = every[..., None].unbind(dim=1)
        edges = x - left, y - top, right - x, bottom - y
        nearest, farthest = reduce(torch.minimum, edges), reduce(torch.maximum, edges)
        off_centre = torch.maximum((x - (left + right) / 2).abs(), (y - (top + bottom) / 2).abs())
        learns = (off_centre < radius * sides) & (nearest > 0) & (farthest > lower) & (farthest < upper)
        areas = (right - left) * (bottom - top)
        worth = torch.split(learns * (_LARGEST_AREA - areas), counts_of)
        best, matched = pad_sequence(list(worth), batch_first=True).max(dim=1)
        found += torch.where(best < 1e-5, BACKGROUND, matched).unbind()
    return found


def _centreness(boxes: Float[Tensor, "p 4"], anchors: Float[Tensor, "p 4"]) -> Float[Tensor, " p"]:
    """How central each anchor's point lies in its box: sqrt(min/max of left, right · min/max of top, bottom)."""
    points = (anchors[:, :2] + anchors[:, 2:]) / 2
    before, behind = points - boxes[:, :2], boxes[:, 2:] - points
    return (torch.minimum(before, behind) / torch.maximum(before, behind)).prod(dim=1).sqrt()


_SMALL = FCOSSettings(backbone="test_resnet", fpn_channels=64, head_depth=3, strides=(8, 16, 32))

_PRESETS = {"tiny": replace(_SMALL, fpn_channels=32, head_depth=2), "small": _SMALL}
FAMILY = Family("fcos", FCOSSettings, presets=_PRESETS, build=build_fcos)
