"""What dense detectors share: towers, the way from heads to an observation, who learns what, the focal loss.

Losses are kept per cell over all images, cells and anchors at once, which is what lets one computation give the
batch's loss and each image's and level's share of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any, Protocol, cast

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn
from torch.nn import functional

from detdistill.detectors.backbones import group_norm
from detdistill.detectors.base import (
    LOSS_NEEDS,
    BoxLayout,
    ClassLayout,
    DetectorSpec,
    PyramidLayout,
    TowerLayout,
)
from detdistill.detectors.settings import HeadNorm
from detdistill.detectors.towers import begun, heard
from detdistill.gfl.assign import cells_within_any, places
from detdistill.types import (
    Batch,
    BoxDistributions,
    Boxes,
    ClassKind,
    ClassLogits,
    Need,
    Observation,
    Pyramid,
    Targets,
    TaskLoss,
    Towers,
    sent,
)

FOCAL_ALPHA = 0.25
BACKGROUND = -1
LEFT_OUT = -2

Asked = tuple[Batch, bool]
"""What a loss is asked for: a batch, and whether each image's and level's part is wanted too."""


class DenseHeads(Protocol):
    """A detector whose heads say something at every cell, as `observe_dense` asks it.

    One may have `dense_losses` too: `dense_loss` of several `Asked` of the same images at once.
    """

    spec: DetectorSpec

    def class_outputs(self, pyramid: Pyramid) -> Any:
        """What the class tower says, in the detector's own form."""

    def box_outputs(self, pyramid: Pyramid) -> Any:
        """What the box tower says: the maps of the distributions where the spec has them, else in a form of its own."""

    def class_maps(self, outputs: Any, pyramid: Pyramid) -> tuple[Float[Tensor, "b a k _h _w"], ...]:
        """What the class tower said as maps, one a level, of our classes in label order."""

    def dense_loss(self, classes: Any, boxes: Any, pyramid: Pyramid, batch: Batch, *, per_image: bool) -> TaskLoss:
        """The training loss of what both towers said; `per_image` asks for each image's and level's part too."""


class TowerHeads(DenseHeads, Protocol):
    """One whose spec has towers, which shows them and its boxes, and goes on from another's."""

    def towers(self) -> tuple[tuple[nn.Module, str], tuple[nn.Module, str]]:
        """The class tower and the box tower: the module that each is in, and its name there."""

    def box_maps(self, outputs: Any, pyramid: Pyramid) -> tuple[Float[Tensor, "b a 4 _h _w"], ...]:
        """What the box tower said as boxes, one map a level, in pixels and float32. Gradients flow."""


def observe_dense(
    detector: DenseHeads,
    pyramid: Pyramid,
    batch: Batch,
    needs: Set[Need],
    *,
    box_pyramid: Pyramid | None = None,
) -> Observation:
    """`Detector.observe` for dense detectors: each tower runs once, where somebody reads it; losses are in float32.

    The box tower reads `box_pyramid`; None is the same maps as the class tower.
    """
    spec, strides = detector.spec, pyramid.strides
    learns = Need.FOUND_LOSS in needs and batch.found is not None
    loses = bool(needs & LOSS_NEEDS) or learns
    towered = cast(TowerHeads, detector)
    shows_boxes = spec.box_distributions is not None and Need.BOX_DISTRIBUTIONS in needs
    box_pyramid = pyramid if box_pyramid is None else box_pyramid
    needs = needs if spec.towers else needs - {Need.TOWERS, Need.BOXES}
    with ExitStack() as listening:
        maps = [listening.enter_context(heard(*one)) for one in towered.towers()] if Need.TOWERS in needs else []
        classes = detector.class_outputs(pyramid) if loses or maps or Need.CLASS_LOGITS in needs else None
        reads_boxes = loses or maps or shows_boxes or Need.BOXES in needs
        boxes: Any = detector.box_outputs(box_pyramid) if reads_boxes else None
    towers = Towers(*(tuple(Pyramid(tuple(said), strides) for said in one) for one in maps)) if maps else None
    logits = distributions = decoded = loss = found = None
    if Need.CLASS_LOGITS in needs:
        logits = ClassLogits(detector.class_maps(classes, pyramid), strides, ClassKind.SIGMOID)
    if shows_boxes:
        distributions = BoxDistributions(boxes, strides)
    if Need.BOXES in needs:
        decoded = Boxes(towered.box_maps(boxes, box_pyramid), strides)
    if loses:
        asked = [(batch, Need.IMAGE_LOSSES in needs)] if needs & LOSS_NEEDS else []
        asked += [(batch.against_found, True)] if learns else []
        with torch.autocast(batch.images.device.type, enabled=False):
            said = _losses(detector, classes, boxes, pyramid, asked)
        loss, found = said[0] if needs & LOSS_NEEDS else None, said[-1] if learns else None
    return Observation(pyramid, logits, distributions, loss, decoded, towers, found)


def _losses(detector: DenseHeads, classes: Any, boxes: Any, pyramid: Pyramid, asked: Sequence[Asked]) -> list[TaskLoss]:
    at_once = getattr(detector, "dense_losses", None)
    if at_once is not None:
        return cast(list[TaskLoss], at_once(classes, boxes, pyramid, asked))
    return [detector.dense_loss(classes, boxes, pyramid, batch, per_image=each) for batch, each in asked]


def observe_dense_towers(
    detector: TowerHeads, classes: Pyramid, boxes: Pyramid, batch: Batch, needs: Set[Need], *, after: int
) -> Observation:
    """`Detector.observe_towers` for dense detectors."""
    with ExitStack() as cut:
        for owner, name in detector.towers():
            cut.enter_context(begun(owner, name, after))
        return observe_dense(detector, classes, batch, needs - LOSS_NEEDS - {Need.FOUND_LOSS}, box_pyramid=boxes)


def dense_spec(
    name: str,
    class_names: Sequence[str],
    *,
    strides: tuple[int, ...],
    channels: int,
    anchors: int = 1,
    boxes: BoxLayout | None = None,
    towers: TowerLayout | None = None,
) -> DetectorSpec:
    """The spec of a one-stage detector with a sigmoid score for every class, at every anchor of every cell."""
    names = tuple(class_names)
    classes = ClassLayout(strides, ClassKind.SIGMOID, anchors, names)
    pyramid = PyramidLayout(strides, channels)
    return DetectorSpec(name, names, pyramid, classes, boxes, towers=towers, free_strides=True)


def tower(channels: int, *, depth: int, norm: HeadNorm) -> nn.Sequential:
    """3×3 convolutions with ReLU, and group-norm that fits the width where asked."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        conv = nn.Conv2d(channels, channels, 3, padding=1, bias=norm == "none")
        nn.init.normal_(conv.weight, std=0.01)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        layers += [conv, *([group_norm(channels)] if norm == "group" else []), nn.ReLU()]
    return nn.Sequential(*layers)


def prior_bias(probability: float) -> float:
    """The logit of a probability."""
    return -math.log((1 - probability) / probability)


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which object every anchor of every image learns; of the same images perhaps against several sets of targets.

    Attributes:
        matched: index into `boxes`, BACKGROUND, or LEFT_OUT of the loss; all images of one set after those of another.
        boxes: the taught boxes of all images in a row, in pixels; `labels` are their class slots.
        image: which of `matched`'s rows, and with `anchor` which anchor, each row is: a positive one, or each there is
            (see `gfl.assign.places`), of which only `positive` ones count.
        counts: anchors per level.
        worth: how much each object counts; None for 1.
        classes: how probable each slot is to be each object's class; None where `labels` are certain.
        images: how many images there are; None for as many as `matched` has.
    """

    matched: Int64[Tensor, "b n"]
    boxes: Float[Tensor, "m 4"]
    labels: Int64[Tensor, " m"]
    image: Int64[Tensor, " p"]
    anchor: Int64[Tensor, " p"]
    counts: tuple[int, ...]
    worth: Float[Tensor, " m"] | None = None
    classes: Float[Tensor, "m k"] | None = None
    images: int | None = None

    @property
    def sets(self) -> int:
        """How many sets of targets there are."""
        return 1 if self.images is None else len(self.matched) // self.images

    def apart(self, values: Shaped[Tensor, "b ..."]) -> Sequence[Shaped[Tensor, "_b ..."]]:
        """What belongs to each set of targets."""
        return (values,) if self.sets == 1 else values.tensor_split(self.sets)

    def repeated(self, values: Shaped[Tensor, "_b ..."]) -> Shaped[Tensor, "b ..."]:
        """What is said of the images, for each set of targets. Gradients flow."""
        return values if self.sets == 1 else values.repeat(self.sets, *(1,) * (values.dim() - 1))

    @property
    def objects(self) -> Int64[Tensor, " p"]:
        """Index into `boxes` of each row; 0 where it is not positive."""
        return self.matched[self.image, self.anchor].clamp(min=0)

    @property
    def positive(self) -> Bool[Tensor, " p"]:
        """Which rows are positive."""
        return self.matched[self.image, self.anchor] >= 0

    def rows(self, values: Float[Tensor, "_b n ..."]) -> Float[Tensor, "p ..."]:
        """What the images say at every row. Gradients flow."""
        return values[self.image if self.sets == 1 else self.image % len(values), self.anchor]

    def truth(self, own: Float[Tensor, "p 4"]) -> Float[Tensor, "p 4"]:
        """The box that each row learns; its `own` anchor where it learns none, so that no cost of it is infinite."""
        return torch.where(self.positive[:, None], self.boxes[self.objects], own)

    def positives(self) -> Int64[Tensor, " b"]:
        """Positive anchors per image."""
        return (self.matched >= 0).sum(dim=1)

    def spread(self, costs: Float[Tensor, " p"]) -> Float[Tensor, "b n"]:
        """The positives' costs at their anchors, as much of them as their objects count, and zero elsewhere."""
        costs = costs if self.worth is None else costs * self.worth[self.objects]
        return self.placed(costs)

    def placed(self, costs: Float[Tensor, " p"]) -> Float[Tensor, "b n"]:
        """The positives' costs at their anchors, zero elsewhere."""
        costs = torch.where(self.positive, costs, 0.0)
        return costs.new_zeros(self.matched.shape).index_put((self.image, self.anchor), costs)

    def mixed(self, own: Float[Tensor, "p k"], other: Float[Tensor, "p k"]) -> Float[Tensor, "b n"]:
        """By how much the class costs of the positives differ from those of background, where their class is drawn.

        Args:
            own: what each row and slot costs where the slot is the row's class.
            other: what it costs where it is not.

        Returns:
            At the positives Σ over slots of probability · (own − other), zero elsewhere.
        """
        assert self.classes is not None
        return self.placed((self.classes[self.objects] * (own - other)).sum(dim=1))

    def counted(self, cells: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        """Costs of all anchors: none of those left out, and of the positives as much as their objects count."""
        cells = torch.where(self.matched == LEFT_OUT, 0.0, cells)
        if self.worth is None:
            return cells
        return cells * torch.where(self.matched >= 0, self.worth[self.matched.clamp(min=0)], 1.0)

    def by_level(self, cells: Float[Tensor, "b n"]) -> Float[Tensor, "b l"]:
        """Sums over every level's anchors."""
        return torch.stack([part.sum(dim=1) for part in torch.split(cells, list(self.counts), dim=1)], dim=1)


def assign(
    matches: Sequence[Int64[Tensor, " n"]],
    targets: Sequence[Targets],
    *,
    counts: tuple[int, ...],
    points: Float[Tensor, "n 2"] | None = None,
    images: int | None = None,
) -> Assignment:
    """Joins the images' matches: indices into their own taught boxes (labels are class slots), BACKGROUND or LEFT_OUT.

    Args:
        counts: anchors per level.
        images: how many there are, where matches and targets are of several sets in a row; see `Assignment`.
        points: the anchors' centres in pixels: background where a teacher has doubts is left out. None leaves none out.
    """
    firsts = list(accumulate((len(target.boxes) for target in targets[:-1]), initial=0))
    matched = torch.stack(list(matches))
    matched = torch.where(matched >= 0, matched + sent(torch.tensor(firsts)[:, None], matched.device), matched)
    doubtful = [target.boxes[:0] if target.doubtful is None else target.doubtful for target in targets]
    rows = [row for row, some in enumerate(doubtful) if len(some)]
    if points is not None and rows:
        among = slice(rows[0], rows[-1] + 1)
        doubt = cells_within_any(points, doubtful[among])
        matched[among].masked_fill_(doubt & (matched[among] == BACKGROUND), LEFT_OUT)
    image, anchor = places(matched >= 0)
    boxes = torch.cat([target.boxes for target in targets]).float()
    labels = torch.cat([target.labels for target in targets])
    worth, classes = _counts(targets, labels)
    if not len(boxes):  # for rows that learn nothing
        boxes, labels, worth, classes = boxes.new_zeros(1, 4), labels.new_zeros(1), None, None
    return Assignment(matched, boxes, labels, image, anchor, counts, worth, classes, images)


def _counts(targets: Sequence[Targets], labels: Int64[Tensor, " m"]) -> tuple[Tensor | None, Tensor | None]:
    """How much all objects count, and the shares of their classes; objects that are certain beside others have all."""
    said = [target.probabilities for target in targets]
    slots = torch.arange(next((one.shape[1] for one in said if one is not None), 0), device=labels.device)
    worth = _column([target.scores for target in targets], targets, lambda own: torch.ones_like(own).float())
    return worth, _column(said, targets, lambda own: (own[:, None] == slots).float())


def _column(
    given: Sequence[Tensor | None], targets: Sequence[Targets], certain: Callable[[Tensor], Tensor]
) -> Tensor | None:
    """What images give in a row, and what is certain of the labels of those that give nothing; None where none does."""
    if all(one is None for one in given):
        return None
    parts = []
    for absent, run in groupby(zip(given, targets, strict=True), key=lambda one: one[0] is None):
        some = torch.cat([target.labels if one is None else one for one, target in run])
        parts.append(certain(some) if absent else some)
    return torch.cat(parts)


def centres(boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 2"]:
    """The middles of boxes."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def all_background(anchors: Float[Tensor, "n _"]) -> Int64[Tensor, " n"]:
    """The matches of an image without objects."""
    return torch.full((anchors.shape[0],), BACKGROUND, dtype=torch.int64, device=anchors.device)


def focal_cells(logits: Float[Tensor, "_b n k"], assignment: Assignment) -> Float[Tensor, "b n"]:
    """The focal loss of every anchor, summed over classes (alpha 0.25, gamma 2), equal to torchvision's.

    cost(z) = alpha_t · sigmoid(z)² · log(1 + exp(z)), where z is the logit, negated at an anchor's own class. Where
    that class is a distribution, it is the mean of the costs over it.
    """
    if assignment.classes is not None:
        said = assignment.rows(logits)
        mixed = assignment.mixed(FOCAL_ALPHA * _focal(-said), (1 - FOCAL_ALPHA) * _focal(said))
        return assignment.counted(assignment.repeated((1 - FOCAL_ALPHA) * _focal(logits).sum(dim=2)) + mixed)
    logits = assignment.repeated(logits)
    own = (assignment.image, assignment.anchor, assignment.labels[assignment.objects])
    said = logits[own]
    costs = _focal(logits.index_put(own, torch.where(assignment.positive, -said, said)))
    cells = (1 - FOCAL_ALPHA) * costs.sum(dim=2) + assignment.placed((2 * FOCAL_ALPHA - 1) * costs[own])
    return assignment.counted(cells)


def _focal(wrongness: Tensor) -> Tensor:
    """sigmoid(z)² · log(1 + exp(z)) of logits that should be low."""
    return wrongness.sigmoid().square() * functional.softplus(wrongness)
