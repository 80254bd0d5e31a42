"""The training losses of RetinaNet and FCOS per cell, over all images, cells and anchors at once.

They equal torchvision's own `compute_loss` on the same head outputs; keeping them per cell is what lets one
computation give the batch's loss and each image's and level's share of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional
from torchvision.ops import (
    box_iou,
    complete_box_iou_loss,
    distance_box_iou_loss,
    generalized_box_iou_loss,
)

from detdistill.types import Targets, TaskLoss

FOCAL_ALPHA = 0.25
BACKGROUND = -1
LEFT_OUT = -2
_LARGEST_AREA = 1e8  # torchvision's: of several boxes a cell takes the one with the largest 1e8 − area
_IOU_LOSSES = {
    "giou": generalized_box_iou_loss,
    "diou": distance_box_iou_loss,
    "ciou": complete_box_iou_loss,
}


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which object every anchor of every image learns.

    Attributes:
        matched: index into `boxes`, BACKGROUND, or LEFT_OUT of the loss.
        boxes: the taught boxes of all images in a row, in pixels.
        labels: their class slots.
        image: image index of each positive anchor.
        anchor: anchor index of each positive anchor.
        counts: anchors per level.
    """

    matched: Int64[Tensor, "b n"]
    boxes: Float[Tensor, "m 4"]
    labels: Int64[Tensor, " m"]
    image: Int64[Tensor, " p"]
    anchor: Int64[Tensor, " p"]
    counts: tuple[int, ...]

    @property
    def objects(self) -> Int64[Tensor, " p"]:
        """Index into `boxes` of each positive anchor."""
        return self.matched[self.image, self.anchor]

    def positives(self) -> Int64[Tensor, " b"]:
        """Positive anchors per image."""
        return (self.matched >= 0).sum(dim=1)

    def spread(self, costs: Float[Tensor, " p"]) -> Float[Tensor, "b n"]:
        """The positives' costs at their anchors, zero elsewhere."""
        cells = costs.new_zeros(self.matched.shape)
        return cells.index_put((self.image, self.anchor), costs)

    def by_level(self, cells: Float[Tensor, "b n"]) -> Float[Tensor, "b l"]:
        """Sums over every level's anchors."""
        return torch.stack([part.sum(dim=1) for part in torch.split(cells, list(self.counts), dim=1)], dim=1)


def assign(
    matches: Sequence[Int64[Tensor, " n"]], targets: Sequence[Targets], *, counts: tuple[int, ...]
) -> Assignment:
    """Joins the images' own matches.

    Args:
        matches: per image, index into its own boxes, BACKGROUND or LEFT_OUT.
        targets: the taught objects of every image, labels in class slots.
        counts: anchors per level.
    """
    first, shifted = 0, []
    for match, target in zip(matches, targets, strict=True):
        shifted.append(torch.where(match >= 0, match + first, match) if first else match)
        first += target.boxes.shape[0]
    matched = torch.stack(shifted)
    image, anchor = torch.nonzero(matched >= 0, as_tuple=True)
    return Assignment(
        matched=matched,
        boxes=torch.cat([target.boxes for target in targets]).float(),
        labels=torch.cat([target.labels for target in targets]),
        image=image,
        anchor=anchor,
        counts=counts,
    )


def match_by_iou(boxes: Float[Tensor, "m 4"], anchors: Float[Tensor, "n 4"], *, matcher: Any) -> Int64[Tensor, " n"]:
    """RetinaNet's matches of one image: by overlap, with torchvision's `Matcher`."""
    if boxes.shape[0] == 0:
        return torch.full((anchors.shape[0],), BACKGROUND, dtype=torch.int64, device=anchors.device)
    matched: Tensor = matcher(box_iou(boxes.float(), anchors))
    return matched


def match_by_centre(
    boxes: Float[Tensor, "m 4"], anchors: Float[Tensor, "n 4"], *, counts: tuple[int, ...], radius: float
) -> Int64[Tensor, " n"]:
    """FCOS's matches of one image: cells near a box's centre, on the level that fits the box's size.

    A cell learns a box when it lies inside it, at most `radius` anchor sides from its centre, and the farthest
    edge is 4 to 8 anchor sides away (no lower end on the finest level, no upper end on the coarsest). Of
    several boxes it takes the smallest.

    Args:
        boxes: in pixels.
        anchors: squares as wide as the level's stride, around the cells' points.
        counts: anchors per level.
        radius: in anchor sides.
    """
    if boxes.shape[0] == 0:
        return torch.full((anchors.shape[0],), BACKGROUND, dtype=torch.int64, device=anchors.device)
    boxes = boxes.float()
    points = ((anchors[:, :2] + anchors[:, 2:]) / 2)[:, None]
    sides = anchors[:, 2:3] - anchors[:, :1]
    lower, upper = sides * 4, sides * 8
    lower[: counts[0]] = 0
    upper[sum(counts) - counts[-1] :] = float("inf")
    before, behind = points - boxes[:, :2], boxes[:, 2:] - points
    nearest = torch.minimum(before, behind).amin(dim=2)
    farthest = torch.maximum(before, behind).amax(dim=2)
    off_centre = (points - (boxes[:, :2] + boxes[:, 2:]) / 2).abs().amax(dim=2)
    learns = (off_centre < radius * sides) & (nearest > 0) & (farthest > lower) & (farthest < upper)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    best, matched = (learns * (_LARGEST_AREA - areas)).max(dim=1)
    return torch.where(best < 1e-5, BACKGROUND, matched)


def focal_cells(logits: Float[Tensor, "b n k"], assignment: Assignment) -> Float[Tensor, "b n"]:
    """The focal loss of every anchor, summed over classes (alpha 0.25, gamma 2).

    cost(z) = alpha_t · sigmoid(z)² · log(1 + exp(z)), where z is the logit, negated at an anchor's own class.
    """
    own = (assignment.image, assignment.anchor, assignment.labels[assignment.objects])
    wrongness = logits.index_put(own, -logits[own])
    costs = wrongness.sigmoid().square() * functional.softplus(wrongness)
    cells = (1 - FOCAL_ALPHA) * costs.sum(dim=2)
    cells = cells.index_put(own[:2], (2 * FOCAL_ALPHA - 1) * costs[own], accumulate=True)
    return torch.where(assignment.matched == LEFT_OUT, 0.0, cells)


def offset_costs(
    predicted: Float[Tensor, "p 4"],
    boxes: Float[Tensor, "p 4"],
    anchors: Float[Tensor, "p 4"],
    *,
    kind: str,
    coder: Any,
) -> Float[Tensor, " p"]:
    """RetinaNet's box loss of every positive anchor.

    Args:
        predicted: the head's offsets; gradients flow to them.
        boxes: what each should say, in pixels.
        anchors: in pixels.
        kind: torchvision's name of the loss: "l1", "smooth_l1", "giou", "diou" or "ciou".
        coder: torchvision's `BoxCoder`.
    """
    if kind in _IOU_LOSSES:
        costs: Tensor = _IOU_LOSSES[kind](coder.decode_single(predicted, anchors), boxes, reduction="none")
        return costs
    compare = functional.smooth_l1_loss if kind == "smooth_l1" else functional.l1_loss
    return compare(predicted, coder.encode_single(boxes, anchors), reduction="none").sum(dim=1)


def centreness(boxes: Float[Tensor, "p 4"], anchors: Float[Tensor, "p 4"]) -> Float[Tensor, " p"]:
    """How central each anchor's point lies in its box: sqrt(min/max of left, right · min/max of top, bottom)."""
    points = (anchors[:, :2] + anchors[:, 2:]) / 2
    before, behind = points - boxes[:, :2], boxes[:, 2:] - points
    return (torch.minimum(before, behind) / torch.maximum(before, behind)).prod(dim=1).sqrt()


def total_over_images(
    classification: Float[Tensor, "b l"],
    box: Float[Tensor, "b l"],
    positives: Int64[Tensor, " b"],
    *,
    strides: tuple[int, ...],
    per_image: bool,
) -> TaskLoss:
    """RetinaNet's total: the mean over images of each image's sums per positive of its own."""
    each = positives.clamp(min=1)[:, None]
    classification, box = classification / each, box / each
    total = (classification + box).sum(dim=1).mean()
    if not per_image:
        return TaskLoss(total=total)
    return TaskLoss(total=total, strides=strides, classification=classification, box=box)


def total_over_positives(
    classification: Float[Tensor, "b l"],
    box: Float[Tensor, "b l"],
    centre: Float[Tensor, " b"],
    positives: Int64[Tensor, " b"],
    *,
    strides: tuple[int, ...],
    per_image: bool,
) -> TaskLoss:
    """FCOS's total: the batch's sums per positive of the batch."""
    total = (classification.sum() + box.sum() + centre.sum()) / positives.sum().clamp(min=1)
    if not per_image:
        return TaskLoss(total=total)
    each = positives.clamp(min=1)
    return TaskLoss(
        total=total,
        strides=strides,
        classification=classification / each[:, None],
        box=box / each[:, None],
        other={"centerness": centre / each},
    )
