"""crosskd: the teacher's frozen heads read the student's maps, and shall say what they say of the teacher's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detdistill.detectors.base import DetectorSpec, TowerLayout
from detdistill.distillation.pair import Pair, Select, grid_of, level_at, pyramid
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.distillation.term import Term, shared_strides
from detdistill.errors import CapabilityError, ConfigError
from detdistill.gfl.assign import box_overlaps
from detdistill.methods.features import aligner_for, full_precision, recipe_of, require_gain, require_one_of
from detdistill.methods.method import Method, ScheduledSettings
from detdistill.methods.parts import compare
from detdistill.methods.parts.align import IdentityAlign
from detdistill.methods.parts.distributions import softened_divergence
from detdistill.methods.published import Kind, published
from detdistill.settings.bounds import Gain, Within
from detdistill.types import (
    BoxDistributions,
    Boxes,
    ClassLogits,
    Clock,
    Cost,
    Knowledge,
    Need,
    Observation,
    Pyramid,
)

# What the teacher's heads say of the student's maps and of the teacher's own → costs of every anchor and cell.
CrossCost = Callable[[Observation, Observation, int], Float[Tensor, "b a h w"]]


@dataclass(frozen=True, slots=True)
class CrossKDNumbers:
    """The published numbers of one kind of detector: three gains, and how many of 4 convolutions are the student's."""

    classes: float
    boxes: float
    distributions: float
    after: int


PUBLISHED_NUMBERS = {
    Kind.DISTRIBUTIONS: CrossKDNumbers(1.0, 2.0, 3.0, after=3),
    Kind.ANCHORS: CrossKDNumbers(1.0, 1.0, 0.0, after=3),
    Kind.ANCHOR_FREE: CrossKDNumbers(0.4, 0.75, 0.0, after=2),
}
"""By kind of the teacher, from the authors' configurations."""

_PUBLISHED_DEPTH = 4


@dataclass(frozen=True, slots=True)
class CrossKDSettings(ScheduledSettings):
    """Numbers of the recipe `crosskd`. None takes the published one of the teacher's kind.

    Attributes:
        class_gain: multiplier of the term on class scores; a gain of 0 leaves its term out.
        box_gain: multiplier of the term on boxes.
        distribution_gain: multiplier of the term on the distributions over distances, which a GFL teacher has.
        reading: ``"towers"`` the teacher's towers go on from the middle of the student's, which needs equally wide and
            deep ones; ``"pyramid"`` they read its aligned pyramid; ``"auto"`` the towers where they are equal.
        after: how many convolutions of the towers are the student's; None is the published share, 3 of 4 (FCOS 2).
        aligner: how the pyramid's channels become the teacher's; ``"auto"`` is a 1×1 convolution where they differ.
    """

    class_gain: Gain | None = None
    box_gain: Gain | None = None
    distribution_gain: Gain | None = None
    reading: Literal["auto", "towers", "pyramid"] = "auto"
    after: Annotated[int, Within(1, 64)] | None = None
    aligner: Literal["auto", "identity", "conv1x1", "conv3x3"] = "auto"


def build_crosskd(student: DetectorSpec, teacher: DetectorSpec, settings: CrossKDSettings) -> Recipe:
    """What the teacher's frozen heads say of the student's maps becomes what they say of the teacher's own.

    The student's own last layers are taught by the task alone, so that the two do not pull at one output.

    Formula:
        y = teacher's scores, p = scores of the teacher's heads on the student's maps, w = max over classes of y
        L = a · Σ_levels Σ_cells Σ_classes |y − p| · BCE(p, y) / W
          + b · Σ_levels Σ_cells w · (1 − GIoU of the boxes) / W
          + c · Σ_levels Σ_cells w · mean over edges and bins of KL(teacher ‖ student) / W, W = Σ_cells w, at least 1
        a, b, c by the teacher's kind: GFL 1, 2, 3; RetinaNet 1, 1, 0; FCOS 0.4, 0.75, 0

    Raises:
        CapabilityError: the detectors share no stride, the teacher has no towers or sees images of another shape, or
            `reading: towers` meets towers that differ.
        ConfigError: an unknown aligner or reading, a negative gain, all gains 0, or `after` beyond the towers.

    Needs:
        A teacher with a class and a box tower (FCOS, RetinaNet, GFL) and a shared stride; of the student a feature
        pyramid, or equal towers. The classes of the two may differ.

    Source:
        Wang et al., CrossKD: Cross-Head Knowledge Distillation for Object Detection, CVPR 2024, from its text and the
        numbers of its configurations.

    Differs from the source:
        Each image and level is divided by its own mass of teacher's scores, at least 1: what the source divides by was
        not at hand. FCOS's boxes cost 1 − GIoU as all others. The distributions' term is a mean over bins, as in `ld`.
        Where the towers of the two differ in width or depth, the teacher's whole towers read the student's aligned
        pyramid; a start-up note says which reading ran. Padding is zeroed before the teacher reads the student's maps
        and costs nothing, but the convolutions and norms of its heads see the padded grid. Levels that the
        student lacks are the teacher's own and cost nothing. There is no choice of `features`: the heads know one.
    """
    _require_heads(teacher)
    require_one_of("reading", settings.reading, ("auto", "towers", "pyramid"))
    numbers, notes = published("crosskd", teacher, PUBLISHED_NUMBERS)
    given = (settings.class_gain, settings.box_gain, settings.distribution_gain)
    after, note = _after(student, teacher, settings, numbers)
    strides = shared_strides(student, teacher)
    align = IdentityAlign() if after else aligner_for(student, teacher, settings.aligner, strides=strides)
    costs: tuple[tuple[str, Knowledge, CrossCost, Need], ...] = (
        ("classes", Knowledge.CLASSIFICATION, class_costs, Need.CLASS_LOGITS),
        ("boxes", Knowledge.LOCALIZATION, box_costs, Need.BOXES),
        ("distributions", Knowledge.LOCALIZATION, distribution_costs, Need.BOX_DISTRIBUTIONS),
    )
    known = (numbers.classes, numbers.boxes, numbers.distributions)
    gains = [usual if own is None else own for own, usual in zip(given, known, strict=True)]
    for (name, *_), gain in zip(costs, gains, strict=True):
        require_gain(f"gain of crosskd.{name}", gain)
    if gains[2] > 0 and teacher.box_distributions is None:
        raise CapabilityError(
            f"The teacher for crosskd's distribution_gain must have box distributions, got none from {teacher.name}. "
            "Leave distribution_gain out."
        )
    needs = frozenset(need for (*_, need), gain in zip(costs, gains, strict=True) if gain > 0)
    reading = CrossReading(strides, align=align, after=after, needs=needs)
    terms = [
        WeightedTerm(f"crosskd.{name}", CrossTerm(reading, cost, knowledge, need), gain)
        for (name, knowledge, cost, need), gain in zip(costs, gains, strict=True)
    ]
    return recipe_of("crosskd", terms, notes=(*(notes if None in given else ()), note))


@final
class CrossReading(nn.Module):
    """The teacher's heads on the student's maps, which all terms of a step share.

    Args:
        strides: the shared ones.
        align: takes the student's maps to the teacher's channels.
        after: how many convolutions of the towers are the student's; 0 reads the pyramid.
        needs: what of the teacher's heads the terms compare.
    """

    def __init__(self, strides: Sequence[int], *, align: nn.Module, after: int, needs: frozenset[Need]) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.align = align
        self.after = after
        self.needs = needs
        names = ("classes", "boxes") if after else ()
        self._selects: tuple[Select, ...] = tuple(partial(_tower, name=name, after=after) for name in names)

    def forward(self, pair: Pair) -> Observation:
        """What the heads say, on all of the teacher's levels; gradients reach the student and the aligner."""
        return pair.once(self, partial(self._read, pair))

    def _read(self, pair: Pair) -> Observation:
        maps = [self._maps(pair, select) for select in self._selects or (pyramid,)]
        return pair.crossed(maps[0], maps[-1], self.needs, after=self.after)

    def _maps(self, pair: Pair, select: Select) -> Pyramid:
        theirs, levels = pair.teacher.maps, []
        for stride, level in zip(theirs.strides, theirs.levels, strict=True):
            ours, grid = level.detach(), grid_of(level)
            if stride in self.strides:
                ours = pair.students(stride, select=select, align=self.align, grid=grid)
                ours = torch.where(pair.inside(stride, grid), ours, 0.0)
            levels.append(ours.float())
        return Pyramid(tuple(levels), theirs.strides)


@final
class CrossTerm(Term):
    """What the teacher's heads say of the student's maps beside what they say of the teacher's.

    Args:
        reading: shared by the terms of a recipe.
        cost: of every anchor and cell.
        knowledge: what is compared.
        need: the part of the heads' observation that `cost` reads.
    """

    def __init__(self, reading: CrossReading, cost: CrossCost, knowledge: Knowledge, need: Need) -> None:
        super().__init__()
        self.reading = reading
        self.cost = cost
        self.knowledge = knowledge
        self.student_needs = frozenset({Need.TOWERS if reading.after else Need.PYRAMID})
        self.teacher_needs = frozenset({Need.PYRAMID, Need.CLASS_LOGITS, need})

    def forward(self, pair: Pair, clock: Clock) -> Cost:
        """The cost per image and level; see `Term.forward`.

        Raises:
            CapabilityError: the pair has no heads of the teacher's, or an observation lacks what the term reads.
        """
        del clock
        said, columns = self.reading(pair), []
        for stride in self.reading.strides:
            scores = _scores(pair.teacher, stride)
            inside = pair.inside(stride, grid_of(scores))
            with full_precision(scores):
                mass = (scores * inside).sum(dim=(1, 2, 3)).clamp(min=1)
                costs = self.cost(said, pair.teacher, stride)
                columns.append(torch.where(inside, costs, 0.0).sum(dim=(1, 2, 3)) / mass)
        return Cost(values=torch.stack(columns, dim=1), strides=self.reading.strides)


def class_costs(said: Observation, teacher: Observation, stride: int) -> Float[Tensor, "b a h w"]:
    """The quality focal loss towards the teacher's scores, summed over the classes."""
    ours, theirs = _logits(said, stride), _logits(teacher, stride).detach()
    return compare.quality_focal(ours, theirs, beta=1.0).sum(dim=2)


def box_costs(said: Observation, teacher: Observation, stride: int) -> Float[Tensor, "b a h w"]:
    """1 − GIoU of the boxes, where the teacher scores."""
    ours, theirs = (_level(one.boxes, stride).movedim(2, -1) for one in (said, teacher))
    _, generalised = box_overlaps(ours, theirs.detach())
    return _scores(teacher, stride) * (1 - generalised).clamp(min=0)


def distribution_costs(said: Observation, teacher: Observation, stride: int) -> Float[Tensor, "b a h w"]:
    """The divergence of the distributions over distances, mean over edges and bins, where the teacher scores."""
    ours, theirs = (_level(one.box_distributions, stride).movedim(3, -1) for one in (said, teacher))
    return _scores(teacher, stride) * softened_divergence(ours, theirs.detach(), temperature=1.0).mean(dim=2)


def _scores(seen: Observation, stride: int) -> Float[Tensor, "b a h w"]:
    """The highest class score of every anchor and cell, constant."""
    return _logits(seen, stride).detach().amax(dim=2).sigmoid()


def _logits(seen: Observation, stride: int) -> Float[Tensor, "b a k h w"]:
    return _level(seen.class_logits, stride)


def _level(maps: ClassLogits | Boxes | BoxDistributions | None, stride: int) -> Tensor:
    if maps is None:
        raise CapabilityError(
            "The teacher's observation for crosskd must hold class scores and boxes, got none. Answer "
            "Need.CLASS_LOGITS, Need.BOXES and Need.BOX_DISTRIBUTIONS in observe() and observe_towers()."
        )
    return level_at(Pyramid(maps.levels, maps.strides), stride).float()


def _tower(seen: Observation, *, name: str, after: int) -> Pyramid:
    if seen.towers is None:
        raise CapabilityError(
            "The student's observation for crosskd must hold its towers, got none. Answer Need.TOWERS in observe()."
        )
    maps: Pyramid = getattr(seen.towers, name)[after - 1]
    return maps


def _require_heads(teacher: DetectorSpec) -> None:
    if teacher.towers is None:
        raise CapabilityError(
            "The recipe 'crosskd' must get a teacher with a class and a box tower, as fcos, retinanet and gfl have, "
            f"got none from {teacher.name}. Imitate features, as with hint."
        )
    if teacher.ratio != teacher.factor:
        raise CapabilityError(
            f"The teacher of the recipe 'crosskd' must see images of a power of two times the student's size, got "
            f"{teacher.ratio:.3g} ({teacher.name}). Leave teacher.image out, or make it twice data.image."
        )


def _after(
    student: DetectorSpec, teacher: DetectorSpec, settings: CrossKDSettings, numbers: CrossKDNumbers
) -> tuple[int, str]:
    """How many convolutions of the towers are the student's, 0 to read its pyramid, and a sentence that says so."""
    ours, theirs = student.towers, teacher.towers
    equal = ours == theirs is not None
    if settings.reading == "towers" and not equal:
        raise CapabilityError(
            f"The towers for crosskd with reading towers must be equal, got {_told(ours)} ({student.name}) and "
            f"{_told(theirs)} ({teacher.name}). Leave reading out."
        )
    if theirs is None or not equal or settings.reading == "pyramid":
        why = "as asked" if equal else f"as the towers differ: {_told(ours)} and {_told(theirs)}"
        return 0, f"crosskd: the teacher's whole heads read the student's aligned pyramid, {why}"
    usual = max(1, theirs.depth * numbers.after // _PUBLISHED_DEPTH)
    after = usual if settings.after is None else settings.after
    if not 1 <= after <= theirs.depth:
        raise ConfigError(
            f"The recipe's after must be from 1 to {theirs.depth}, the convolutions of a tower, got {after}. "
            "Leave it out, or set reading=pyramid to read before the first."
        )
    return after, (
        f"crosskd: after convolution {after} of {theirs.depth} of the student's towers, which are as the teacher's, "
        "the teacher's go on"
    )


def _told(towers: TowerLayout | None) -> str:
    return "none" if towers is None else f"{towers.depth} × {towers.channels} channels"


METHOD = Method(name="crosskd", settings=CrossKDSettings, build=build_crosskd)
