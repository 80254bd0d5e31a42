"""A term compares what the student saw with what the teacher saw: one cost per image and level, never a scalar."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from detdistill.detectors.base import DetectorSpec
from detdistill.errors import CapabilityError, ShapeError
from detdistill.types import Batch, Clock, Cost, Knowledge, Need, Observation, Pyramid

Select = Callable[[Observation], Pyramid]
Focus = Callable[[Observation, Batch], Pyramid]
Compare = Callable[[Tensor, Tensor, Tensor], Tensor]
Normalize = Callable[[Tensor, Tensor, Tensor], Tensor]


class Term(nn.Module, ABC):
    """One comparison of student and teacher, with what it needs from both and what it trains itself.

    Every term is batch-invariant on fixed observations: its cost of image i is the same in any batch on the same
    padded grid. A term that finds no position returns a zero that is connected to the graph.
    """

    knowledge: Knowledge
    student_needs: frozenset[Need]
    teacher_needs: frozenset[Need]

    @abstractmethod
    def forward(self, student: Observation, teacher: Observation, batch: Batch, clock: Clock) -> Cost:
        """The cost per image and level.

        Args:
            student: gradients flow.
            teacher: constant.
            batch: geometry, targets and seeds.
            clock: where the run is.

        Returns:
            Cost ≥ 0, float32.
        """


class CellTerm(Term):
    """A term composed of words: select, align, compare, focus, normalize.

    Args:
        knowledge: what kind of knowledge it carries.
        select: which maps are compared.
        align: a module (levels, levels) → (levels, levels) that takes the student's paired levels to the teacher's.
        compare: (student, teacher, inside cells) → cost of the same shape.
        focus: (teacher, batch) → masks ≥ 0 per level; padding never counts, whatever it says.
        normalize: (cost · mask, mask, inside cells) → one number per image.
        inside: (observation, batch) → masks of 0 and 1: the cells inside the image.
        strides: the levels to compare; see `shared_strides`.
        student_needs: parts of the observation that `select` reads.
        teacher_needs: parts that `select` and `focus` read.
    """

    def __init__(
        self,
        *,
        knowledge: Knowledge,
        select: Select,
        align: nn.Module,
        compare: Compare,
        focus: Focus,
        normalize: Normalize,
        inside: Focus,
        strides: Sequence[int],
        student_needs: frozenset[Need],
        teacher_needs: frozenset[Need],
    ) -> None:
        super().__init__()
        self.knowledge = knowledge
        self.select = select
        self.align = align
        self.compare = compare
        self.focus = focus
        self.normalize = normalize
        self.inside = inside
        self.strides = tuple(strides)
        self.student_needs = student_needs
        self.teacher_needs = teacher_needs

    def forward(self, student: Observation, teacher: Observation, batch: Batch, clock: Clock) -> Cost:
        """The cost per image and level; see `Term.forward`.

        Raises:
            ShapeError: a level is missing, or the maps do not fit after alignment.
        """
        del clock
        levels = aligned_levels(
            self.select(student),
            self.select(teacher),
            inside=(self.inside(student, batch), self.inside(teacher, batch)),
            align=self.align,
            strides=self.strides,
        )
        masks = levels_at(self.focus(teacher, batch), self.strides)
        with torch.autocast(masks[0].device.type, enabled=False):
            columns = [self._level_cost(level, mask) for level, mask in zip(levels, masks, strict=True)]
        return Cost(values=torch.stack(columns, dim=1), strides=self.strides)

    def _level_cost(self, level: AlignedLevel, mask: Tensor) -> Tensor:
        mask = mask * level.inside
        cost = self.compare(level.student.float(), level.teacher.float(), level.inside)
        return self.normalize(torch.where(level.inside, cost * mask, 0.0), mask, level.inside)


@dataclass(frozen=True, slots=True)
class AlignedLevel:
    """One level of both sides on one grid, in the teacher's channels.

    Attributes:
        stride: the nominal stride in pixels.
        student: gradients flow. In the padding it says nothing of the image.
        teacher: constant.
        inside: cells inside the image.
    """

    stride: int
    student: Float[Tensor, "b c h w"]
    teacher: Float[Tensor, "b c h w"]
    inside: Bool[Tensor, "b 1 h w"]


def aligned_levels(
    student: Pyramid, teacher: Pyramid, *, inside: tuple[Pyramid, Pyramid], align: nn.Module, strides: Sequence[int]
) -> tuple[AlignedLevel, ...]:
    """The paired levels of two pyramids, the student's taken to the teacher's space.

    Args:
        student: gradients flow.
        teacher: constant.
        inside: masks of 0 and 1 on the student's levels and on the teacher's: the cells inside the image.
        align: a module (levels, levels) → (levels, levels) that takes the student's to the teacher's.
        strides: the levels to pair, in the order that `align` was built for.

    Returns:
        One entry per stride.

    Raises:
        ShapeError: a level is missing, or the maps do not fit after alignment.
    """
    # An aligner's kernel must not carry padding into the image: outside cells enter it as zeros.
    seen = zip(levels_at(student, strides), levels_at(inside[0], strides), strict=True)
    students, teachers = align(
        tuple(torch.where(within > 0, maps, 0.0) for maps, within in seen), levels_at(teacher, strides)
    )
    levels = []
    for stride, ours, theirs, within in zip(strides, students, teachers, levels_at(inside[1], strides), strict=True):
        if ours.shape != theirs.shape:
            raise ShapeError(
                f"The aligned student map of stride {stride} must be {tuple(theirs.shape)} as the teacher's, got "
                f"{tuple(ours.shape)}. Build the recipe for the specs of these two detectors."
            )
        levels.append(AlignedLevel(stride=stride, student=ours, teacher=theirs, inside=within > 0))
    return tuple(levels)


def levels_at(maps: Pyramid, strides: Sequence[int]) -> tuple[Tensor, ...]:
    """The levels of the given strides, in that order.

    Raises:
        ShapeError: a stride is missing.
    """
    by_stride = dict(zip(maps.strides, maps.levels, strict=True))
    missing = [stride for stride in strides if stride not in by_stride]
    if missing:
        raise ShapeError(
            f"The observation must have levels of strides {list(strides)}, got {list(maps.strides)}. "
            "Build the recipe for the specs of these two detectors."
        )
    return tuple(by_stride[stride] for stride in strides)


def shared_strides(student: DetectorSpec, teacher: DetectorSpec, *, last: int | None = None) -> tuple[int, ...]:
    """The strides that both pyramids have, fine to coarse: levels are paired by stride, never by index.

    Args:
        student: spec of the student.
        teacher: spec of the teacher.
        last: look at no more than this many of the student's levels, its finest ones; None looks at all.

    Returns:
        At least one stride.

    Raises:
        CapabilityError: there is none.
    """
    shared = [stride for stride in student.pyramid.strides[:last] if stride in teacher.pyramid.strides]
    if not shared:
        raise CapabilityError(
            f"Student and teacher must share at least one stride, got {list(student.pyramid.strides)} "
            f"({student.name}) and {list(teacher.pyramid.strides)} ({teacher.name}). "
            "Build the student with the teacher's strides, for example student.strides="
            f"{list(teacher.pyramid.strides)}."
        )
    return tuple(shared)


def pairing_note(student: DetectorSpec, teacher: DetectorSpec) -> str:
    """One sentence that says which strides are paired and which are left over, for people to read at start-up."""
    shared = shared_strides(student, teacher)
    left = [
        f"{side}: {', '.join(str(stride) for stride in spec.pyramid.strides if stride not in shared)}"
        for side, spec in (("student", student), ("teacher", teacher))
        if set(spec.pyramid.strides) - set(shared)
    ]
    paired = f"levels paired by stride: {', '.join(str(stride) for stride in shared)}"
    return f"{paired}; not paired: {'; '.join(left)}" if left else f"{paired}; none left over"


def require_equal_class_layouts(student: DetectorSpec, teacher: DetectorSpec, *, recipe: str, remedy: str) -> None:
    """Checks that class logits can be compared cell by cell.

    Args:
        student: spec of the student.
        teacher: spec of the teacher.
        recipe: the recipe's name, for the message.
        remedy: the form of the recipe that works without class logits, for the message.

    Raises:
        CapabilityError: a side offers none, or kind, anchors or classes differ.
    """
    ours, theirs = student.class_logits, teacher.class_logits
    if ours is None or theirs is None:
        side = student.name if ours is None else teacher.name
        raise CapabilityError(
            f"The recipe '{recipe}' must get class logits from both detectors, got none from {side}. {remedy}"
        )
    for what, left, right in (
        ("kind", ours.kind.value, theirs.kind.value),
        ("anchors a cell", ours.anchors, theirs.anchors),
        ("classes", list(ours.classes), list(theirs.classes)),
    ):
        if left != right:
            raise CapabilityError(
                f"The class logits for the recipe '{recipe}' must have the same {what} on both sides, got {left} "
                f"({student.name}) and {right} ({teacher.name}). {remedy}"
            )
