"""ld: the student learns from the teacher how sure it is about each edge of a box (Localization Distillation)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from detdistill.detectors.base import DetectorSpec
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.distillation.term import Term, levels_at, require_equal_class_layouts, shared_strides
from detdistill.errors import CapabilityError, ConfigError, ShapeError
from detdistill.gfl.assign import Cells, make_cells, match_by_atss, valuable_region
from detdistill.methods.features import recipe_of, require_gain
from detdistill.methods.method import Method
from detdistill.methods.parts.distributions import softened_divergence
from detdistill.types import Batch, Clock, Cost, Knowledge, Need, Observation, Pyramid

_FEWEST_CLASSES = 2
_TINY = torch.finfo(torch.float32).tiny
# (boxes of an image, cells, size of the image, anchor scale) → which cells are taught (n,).
Taught = Callable[[Tensor, Cells, tuple[int, int], float], Tensor]


@dataclass(frozen=True, slots=True)
class LDSettings:
    """Numbers of the recipe `ld`.

    Attributes:
        gain: multiplier of the box terms.
        temperature: softens the distributions over distances.
        valuable_region: also teach the cells around the positives, as a term of its own with the same gain.
        class_gain: multiplier of the class term; 0 leaves it out, the source's is 10.
        class_temperature: softens the class scores.
    """

    gain: float = 0.25
    temperature: float = 10.0
    valuable_region: bool = False
    class_gain: float = 0.0
    class_temperature: float = 2.0


def build_ld(student: DetectorSpec, teacher: DetectorSpec, settings: LDSettings) -> Recipe:
    """The student imitates the teacher's distributions over the distances of each box's edges, where objects are.

    Formula:
        L = gain · Σ_positives w · Σ_edges T² · KL(softmax(teacher / T) ‖ softmax(student / T)) / bins / (4 · Σ w)
        w = the student's highest class score at the positive, detached; a positive is a cell that ATSS gives an
        object (see `gfl.assign`)
        region: the same with w = 1 over the cells around the positives
        classes: class_gain · mean over positives of T² · KL over classes / number of classes

    Args:
        student: spec of the student.
        teacher: spec of the teacher.
        settings: the numbers.

    Returns:
        A recipe of the term `ld.boxes` and, where asked for, `ld.region` and `ld.classes`.

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
        Normalisers are each image's own instead of the batch's (equal at batch size 1); the region's cost is a mean
        over its cells, where the source divides its sum by a constant; the class term is off by default. Where
        student and teacher do not share all strides, only the shared levels are taught. The overlap from which on a
        cell is positive never exceeds the object's best candidate's, so that every object has one where it can.
    """
    require_gain("gain", settings.gain)
    require_gain("class_gain", settings.class_gain)
    _require_temperature("temperature", settings.temperature)
    _require_temperature("class_temperature", settings.class_temperature)
    scale = _anchor_scale(student, teacher)
    strides = shared_strides(student, teacher)

    def edges(taught: Taught, *, scored: bool) -> DistributionTerm:
        return DistributionTerm(
            Knowledge.LOCALIZATION,
            taught=taught,
            scored=scored,
            strides=strides,
            anchor_scale=scale,
            temperature=settings.temperature,
        )

    terms = [WeightedTerm("ld.boxes", edges(_positives, scored=True), settings.gain)]
    if settings.valuable_region:
        terms.append(WeightedTerm("ld.region", edges(_region, scored=False), settings.gain))
    if settings.class_gain > 0:
        _require_classes(student, teacher)
        classes = DistributionTerm(
            Knowledge.CLASSIFICATION,
            taught=_positives,
            scored=False,
            strides=strides,
            anchor_scale=scale,
            temperature=settings.class_temperature,
        )
        terms.append(WeightedTerm("ld.classes", classes, settings.class_gain))
    return recipe_of("ld", terms)


@final
class DistributionTerm(Term):
    """How far the student's softened distributions are from the teacher's: each image's weighted mean over some cells.

    Args:
        knowledge: LOCALIZATION compares each edge's distribution over distances, CLASSIFICATION the classes'.
        taught: which cells of an image count, from boxes and geometry alone.
        scored: whether a cell weighs its highest student class score, detached; else 1.
        strides: the levels to compare.
        anchor_scale: side of the squares by which objects are given to cells, in strides.
        temperature: softens both distributions.
    """

    def __init__(
        self,
        knowledge: Knowledge,
        *,
        taught: Taught,
        scored: bool,
        strides: Sequence[int],
        anchor_scale: float,
        temperature: float,
    ) -> None:
        super().__init__()
        self.knowledge = knowledge
        self.taught = taught
        self.scored = scored
        self.strides = tuple(strides)
        self.anchor_scale = anchor_scale
        self.temperature = temperature
        self.select, need = (
            (_edges, Need.BOX_DISTRIBUTIONS) if knowledge is Knowledge.LOCALIZATION else (_classes, Need.CLASS_LOGITS)
        )
        self.teacher_needs = frozenset({need})
        self.student_needs = self.teacher_needs | ({Need.CLASS_LOGITS} if scored else frozenset())

    def forward(self, student: Observation, teacher: Observation, batch: Batch, clock: Clock) -> Cost:
        """The cost per image and level; an image's levels add up to its mean. See `Term.forward`.

        Raises:
            CapabilityError: an observation was made without what the term reads.
            ShapeError: a level is missing, or the maps do not fit.
        """
        del clock
        ours, theirs = levels_at(self.select(student), self.strides), levels_at(self.select(teacher), self.strides)
        marks = levels_at(self._marks(student.pyramid, batch), self.strides)
        scores = levels_at(_classes(student), self.strides) if self.scored else None
        sums, masses = [], []
        with torch.autocast(ours[0].device.type, enabled=False):
            for level, (student_maps, teacher_maps, marked) in enumerate(zip(ours, theirs, marks, strict=True)):
                if student_maps.shape != teacher_maps.shape:
                    raise ShapeError(
                        f"The student's distributions must be {tuple(teacher_maps.shape)} as the teacher's, got "
                        f"{tuple(student_maps.shape)}. Build the recipe for the specs of these two detectors."
                    )
                where = marked.nonzero(as_tuple=True)
                weights = torch.ones_like(where[0], dtype=torch.float32)
                if scores is not None:
                    weights = _at(scores[level].detach(), where).amax(dim=(1, 2)).sigmoid()
                costs = softened_divergence(
                    _at(student_maps, where), _at(teacher_maps, where), temperature=self.temperature
                ).mean(dim=1)
                sums.append(_per_image(weights * costs, where, marked))
                masses.append(_per_image(weights, where, marked))
        whole = torch.stack(masses, dim=1).sum(dim=1, keepdim=True).clamp(min=_TINY)
        return Cost(values=torch.stack(sums, dim=1) / whole, strides=self.strides)

    def _marks(self, pyramid: Pyramid, batch: Batch) -> Pyramid:
        """Which cells are taught, (b, h, w) on all of the student's levels."""
        grids = [(level.shape[-2], level.shape[-1]) for level in pyramid.levels]
        cells = make_cells(grids, pyramid.strides, device=pyramid.levels[0].device)
        images = [
            self.taught(target.taught().boxes, cells, size, self.anchor_scale)
            for target, size in zip(batch.targets, batch.sizes, strict=True)
        ]
        levels = torch.split(torch.stack(images), list(cells.counts), dim=1)
        return Pyramid(
            tuple(level.reshape(-1, *grid) for level, grid in zip(levels, grids, strict=True)), pyramid.strides
        )


def _positives(boxes: Tensor, cells: Cells, size: tuple[int, int], scale: float) -> Tensor:
    return match_by_atss(boxes, cells, size=size, scale=scale).matched >= 0


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


def _edges(seen: Observation) -> Pyramid:
    boxes = seen.box_distributions
    if boxes is None:
        raise CapabilityError(
            "The observation must hold box distributions, got none. Ask for Need.BOX_DISTRIBUTIONS when observing."
        )
    return Pyramid(tuple(level.flatten(1, 2) for level in boxes.levels), boxes.strides)


def _classes(seen: Observation) -> Pyramid:
    logits = seen.class_logits
    if logits is None:
        raise CapabilityError(
            "The observation must hold class logits, got none. Ask for Need.CLASS_LOGITS when observing."
        )
    return Pyramid(logits.levels, logits.strides)


def _anchor_scale(student: DetectorSpec, teacher: DetectorSpec) -> float:
    """The student's, once its box distributions are known to be comparable with the teacher's."""
    ours, theirs = student.box_distributions, teacher.box_distributions
    if ours is None or theirs is None:
        side = student.name if ours is None else teacher.name
        raise CapabilityError(
            f"The recipe 'ld' must get box distributions from both detectors, got none from {side}. "
            "Take the family gfl on both sides, or imitate features, as with 'frs' and class_gain=0."
        )
    for what, left, right, remedy in (
        ("anchors a cell", ours.anchors, theirs.anchors, "Imitate features, as with 'frs' and class_gain=0."),
        ("bins an edge", ours.bins, theirs.bins, f"Build the student with box_bins={theirs.bins}."),
    ):
        if left != right:
            raise CapabilityError(
                f"The box distributions for the recipe 'ld' must have the same {what} on both sides, got {left} "
                f"({student.name}) and {right} ({teacher.name}). {remedy}"
            )
    if student.class_logits is None:
        raise CapabilityError(
            f"The recipe 'ld' must get class scores from the student, got none from {student.name}. "
            "Take the family gfl, or imitate features, as with 'frs' and class_gain=0."
        )
    return ours.anchor_scale


def _require_classes(student: DetectorSpec, teacher: DetectorSpec) -> None:
    remedy = "Set class_gain to 0 to imitate boxes only."
    require_equal_class_layouts(student, teacher, recipe="ld", remedy=remedy)
    if len(student.class_names) < _FEWEST_CLASSES:
        raise CapabilityError(
            "The class scores for the recipe 'ld' must be over at least 2 classes, as it compares shares, got "
            f"{list(student.class_names)}. {remedy}"
        )


def _require_temperature(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"The recipe's {name} must be a finite number above 0, got {value}. Leave it out.")


METHOD = Method(name="ld", settings=LDSettings, build=build_ld)
