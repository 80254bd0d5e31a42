"""ld: the student learns from the teacher how sure it is about each edge of a box (Localization Distillation)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, final

import torch
from torch import Tensor

from detdistill.detectors.base import DetectorSpec
from detdistill.distillation.pair import Pair, grid_of, level_at
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.distillation.term import Term, require_equal_class_layouts, shared_strides
from detdistill.errors import CapabilityError, ShapeError
from detdistill.gfl.assign import Cells, make_cells, match_by_atss, places, valuable_region
from detdistill.methods.features import full_precision, recipe_of, require_gain, require_temperature
from detdistill.methods.method import Method, ScheduledSettings
from detdistill.methods.parts import select
from detdistill.methods.parts.distributions import softened_divergence
from detdistill.settings.bounds import Gain, Temperature
from detdistill.types import Clock, Cost, Knowledge, Need, Pyramid

_FEWEST_CLASSES = 2
# The source divides the sum over all edges of the region by 16, four times the edges of a cell.
_REGION_SHARE = 1 / 4
# (boxes of an image, cells, size of the image, anchor scale) → how much each cell is taught (n,), 0 for not at all.
Taught = Callable[[Tensor, Cells, tuple[int, int], float], Tensor]


@dataclass(frozen=True, slots=True)
class LDSettings(ScheduledSettings):
    """Numbers of the recipe `ld`.

    Attributes:
        gain: multiplier of the box terms.
        temperature: softens the distributions over distances.
        valuable_region: also teach the cells around the positives, as a term of its own with the same gain.
        class_gain: multiplier of the class term; 0 leaves it out, the source's is 10.
        class_temperature: softens the class scores.
        reduction: "image" takes the mean over images, whatever batch they are in; "batch" is the source's: boxes and
            region add up over the images of a device, classes are a mean over all its positives.
    """

    gain: Gain = 0.25
    temperature: Temperature = 10.0
    valuable_region: bool = False
    class_gain: Gain = 0.0
    class_temperature: Temperature = 2.0
    reduction: Literal["image", "batch"] = "image"


def build_ld(student: DetectorSpec, teacher: DetectorSpec, settings: LDSettings) -> Recipe:
    """The student imitates the teacher's distributions over the distances of each box's edges, where objects are.

    Formula:
        L = gain · Σ_positives w · Σ_edges T² · KL(softmax(teacher / T) ‖ softmax(student / T)) / bins / 4
        w = the student's highest class score at the positive, detached; a positive is a cell that ATSS gives an
        object (see `gfl.assign`)
        region: the same over the cells around the positives, with w = their anchor's overlap (IoU), and / 16 for / 4
        classes: class_gain · Σ_levels mean over the level's positives of T² · KL over classes / number of classes

    Raises:
        CapabilityError: no box distributions, or of another layout; for `ld.classes` class scores of another layout
            or of a single class.
        ConfigError: a gain is negative or all are 0, or a temperature is not positive.

    Needs:
        Box distributions with the same number of bins on both sides, which the family `gfl` offers, and class
        scores of the student.

    Source:
        Zheng et al., Localization Distillation for Dense Object Detection, CVPR 2022.

    Differs from the source:
        The loss is the mean over images, each with its own positives; the source adds up boxes and region over the
        images of a device, 2 of them, which is twice as much: gain=0.5 or reduction=batch is its strength there.
        The region leaves out positives, of which the source's may hold a few; the class term is off by default.
        Where student and teacher do not share all strides, only the shared levels are taught. The overlap from which
        on a cell is positive never exceeds the object's best candidate's, so that every object has one where it can.
        Corrected: boxes were divided by the sum of w as well and the region by its number of cells, many times weaker
        than the source, and classes averaged over the positives of all levels.
    """
    require_gain("gain", settings.gain)
    require_gain("class_gain", settings.class_gain)
    require_temperature(settings.temperature)
    require_temperature(settings.class_temperature, name="class_temperature")
    term = partial(
        DistributionTerm,
        strides=shared_strides(student, teacher),
        anchor_scale=_anchor_scale(student, teacher),
        over_batch=settings.reduction == "batch",
    )
    boxes = term(Knowledge.LOCALIZATION, temperature=settings.temperature, taught=_positives, scored=True)
    terms = [WeightedTerm("ld.boxes", boxes, settings.gain)]
    if settings.valuable_region:
        region = term(Knowledge.LOCALIZATION, temperature=settings.temperature, taught=_region, share=_REGION_SHARE)
        terms.append(WeightedTerm("ld.region", region, settings.gain))
    if settings.class_gain > 0:
        _require_classes(student, teacher)
        classes = term(
            Knowledge.CLASSIFICATION, temperature=settings.class_temperature, taught=_positives, averaged=True
        )
        terms.append(WeightedTerm("ld.classes", classes, settings.class_gain))
    return recipe_of("ld", terms)


@final
class DistributionTerm(Term):
    """How far the student's softened distributions are from the teacher's, over some cells of each level.

    Args:
        knowledge: LOCALIZATION compares each edge's distribution over distances, CLASSIFICATION the classes'.
        taught: how much each cell of an image counts, from boxes and geometry alone.
        strides: the levels to compare.
        anchor_scale: side of the squares by which objects are given to cells, in strides.
        temperature: softens both distributions.
        over_batch: add up over the images, or average over those of the whole batch, instead of each image by itself.
        scored: whether a cell also weighs its highest student class score, detached.
        averaged: the cost of a level is the mean over its cells; else their sum.
        share: multiplier of that cost.
    """

    def __init__(
        self,
        knowledge: Knowledge,
        *,
        taught: Taught,
        strides: Sequence[int],
        anchor_scale: float,
        temperature: float,
        over_batch: bool,
        scored: bool = False,
        averaged: bool = False,
        share: float = 1.0,
    ) -> None:
        super().__init__()
        self.knowledge = knowledge
        self.taught = taught
        self.strides = tuple(strides)
        self.anchor_scale = anchor_scale
        self.temperature = temperature
        self.over_batch = over_batch
        self.scored = scored
        self.averaged = averaged
        self.share = share
        self.select, need = (
            (select.box_distributions, Need.BOX_DISTRIBUTIONS)
            if knowledge is Knowledge.LOCALIZATION
            else (select.class_distributions, Need.CLASS_LOGITS)
        )
        self.teacher_needs = frozenset({need})
        self.student_needs = self.teacher_needs | ({Need.CLASS_LOGITS} if scored else frozenset())

    def forward(self, pair: Pair, clock: Clock) -> Cost:
        """The cost per image and level; an image's levels add up. See `Term.forward`.

        Raises:
            CapabilityError: an observation was made without what the term reads.
            ShapeError: a level is missing, or the maps do not fit.
        """
        del clock
        ours, theirs = self.select(pair.student), self.select(pair.teacher)
        scores = select.class_distributions(pair.whole) if self.scored else None
        marks = pair.once((self.taught, self.anchor_scale), partial(_marks, pair, self.taught, self.anchor_scale))
        columns = []
        with full_precision(ours.levels[0]):
            for stride in self.strides:
                student_maps, teacher_maps = level_at(ours, stride), level_at(theirs, stride)
                if student_maps.shape != teacher_maps.shape:
                    raise ShapeError(
                        f"The student's distributions must be {tuple(teacher_maps.shape)} as the teacher's, got "
                        f"{tuple(student_maps.shape)}. Build the recipe for the specs of these two detectors."
                    )
                marked = level_at(marks, stride)
                pair.look("cells that are taught", stride, marked[:, None])
                where = places(marked != 0)
                weights = marked[where]
                if scores is not None:
                    weights = weights * _at(level_at(scores, stride).detach(), where).amax(dim=(1, 2)).sigmoid()
                costs = softened_divergence(
                    _at(student_maps, where), _at(teacher_maps, where), temperature=self.temperature
                ).mean(dim=1)
                columns.append(self._reduced(_per_image(weights * costs, where, marked), marked))
        return Cost(values=torch.stack(columns, dim=1), strides=self.strides)

    def _reduced(self, sums: Tensor, marked: Tensor) -> Tensor:
        """A level's cost per image (b,), whose mean over images is the batch's."""
        number = len(sums) if self.over_batch else 1
        if self.averaged:
            cells = marked.count_nonzero(dim=(1, 2))
            sums = sums / (cells.sum() if self.over_batch else cells).clamp(min=1)
        return sums * (number * self.share)


def _marks(pair: Pair, taught: Taught, scale: float) -> Pyramid:
    """How much each cell is taught, (b, h, w) on all of the student's levels."""
    pyramid, batch = pair.student.maps, pair.batch
    grids = [grid_of(level) for level in pyramid.levels]
    cells = make_cells(grids, pyramid.strides, device=pyramid.levels[0].device)
    images = [
        taught(target.taught().boxes, cells, size, scale)
        for target, size in zip(batch.targets, batch.sizes, strict=True)
    ]
    levels = torch.split(torch.stack(images), list(cells.counts), dim=1)
    return Pyramid(tuple(level.reshape(-1, *grid) for level, grid in zip(levels, grids, strict=True)), pyramid.strides)


def _positives(boxes: Tensor, cells: Cells, size: tuple[int, int], scale: float) -> Tensor:
    return (match_by_atss(boxes, cells, size=size, scale=scale).matched >= 0).float()


def _region(boxes: Tensor, cells: Cells, size: tuple[int, int], scale: float) -> Tensor:
    match = match_by_atss(boxes, cells, size=size, scale=scale)
    return valuable_region(boxes, cells, match, size=size, scale=scale)


def _at(maps: Tensor, where: tuple[Tensor, ...]) -> Tensor:
    """The rows (p, distributions, bins) of maps (b, distributions, bins, h, w) at some cells, in float32."""
    image, row, column = where
    return maps.permute(0, 3, 4, 1, 2)[image, row, column].float()


def _per_image(values: Tensor, where: tuple[Tensor, ...], marked: Tensor) -> Tensor:
    """Sums (b,) of the values (p,) over each image's marked cells, in one fixed order."""
    spread = values.new_zeros(marked.shape).index_put(where, values)
    return spread.flatten(1).sum(dim=1)


def _anchor_scale(student: DetectorSpec, teacher: DetectorSpec) -> float:
    """The student's, once its box distributions are known to be comparable with the teacher's."""
    ours, theirs = student.box_distributions, teacher.box_distributions
    if ours is None or theirs is None:
        side = student.name if ours is None else teacher.name
        raise CapabilityError(
            f"The recipe 'ld' must get box distributions from both detectors, got none from {side}. "
            "Take the family gfl on both sides, or imitate features, as with hint."
        )
    for what, left, right, remedy in (
        ("anchors a cell", ours.anchors, theirs.anchors, "Imitate features, as with hint."),
        ("bins an edge", ours.bins, theirs.bins, f"Set student.box_bins={theirs.bins}."),
        (
            "width of a bin in strides",
            ours.bin_width,
            theirs.bin_width,
            "Leave teacher.image out, or make it twice data.image.",
        ),
    ):
        if left != right:
            raise CapabilityError(
                f"The box distributions for the recipe 'ld' must have the same {what} on both sides, got {left:.3g} "
                f"({student.name}) and {right:.3g} ({teacher.name}). {remedy}"
            )
    if student.class_logits is None:
        raise CapabilityError(
            f"The recipe 'ld' must get class scores from the student, got none from {student.name}. "
            "Take the family gfl, or imitate features, as with hint."
        )
    return ours.anchor_scale


def _require_classes(student: DetectorSpec, teacher: DetectorSpec) -> None:
    remedy = "Write ld(class_gain=0) to imitate boxes only."
    require_equal_class_layouts(student, teacher, recipe="ld", remedy=remedy)
    known = [name for name in student.class_names if name not in teacher.unknown]
    if len(known) < _FEWEST_CLASSES:
        raise CapabilityError(
            "The class scores for the recipe 'ld' must be over at least 2 classes, as it compares shares, got "
            f"{known}. {remedy}"
        )


METHOD = Method(name="ld", settings=LDSettings, build=build_ld)
