"""A term compares what the student saw with what the teacher saw: one cost per image and level, never a scalar."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detdistill.detectors.base import DetectorSpec
from detdistill.distillation.pair import Align, Level, Pair, Select, pyramid
from detdistill.errors import CapabilityError, typed
from detdistill.types import Clock, Cost, Knowledge, Need

# One level of both sides, and the pair it is of → one cost ≥ 0 per image, in float32.
Measure = Callable[[Level, Pair], Float[Tensor, " b"]]


class Term(nn.Module, ABC):
    """One comparison of student and teacher, with what it needs from both and what it trains itself.

    Every term is batch-invariant on fixed observations: its cost of image i is the same in any batch on the same
    padded grid. A term that finds no position returns a zero that is connected to the graph.
    """

    knowledge: Knowledge
    student_needs: frozenset[Need]
    teacher_needs: frozenset[Need]

    @abstractmethod
    def forward(self, pair: Pair, clock: Clock) -> Cost:
        """The cost per image and level.

        Args:
            pair: student and teacher on one view; gradients flow to the student.
            clock: where the run is.

        Returns:
            Cost ≥ 0, float32.
        """


@final
class LevelTerm(Term):
    """A term that measures every level on its own.

    Args:
        measure: what a level costs; a module where something is trained for it, and else a function without state.
        strides: the levels to compare; see `shared_strides`.
        align: takes the student's maps to the teacher's channels; terms that share it compute it once.
        select: which maps are compared.
        standardized: whether `measure` sees them on one scale; see `distillation.pair.standardize`.
        knowledge: what kind of knowledge it carries.
        needs: parts of both observations that `select` reads.
        teacher_needs: parts of the teacher's that `measure` reads beyond those.
    """

    def __init__(
        self,
        measure: Measure,
        *,
        strides: Sequence[int],
        align: Align | None = None,
        select: Select = pyramid,
        standardized: bool = False,
        knowledge: Knowledge = Knowledge.FEATURE,
        needs: frozenset[Need] = frozenset({Need.PYRAMID}),
        teacher_needs: frozenset[Need] = frozenset(),
    ) -> None:
        super().__init__()
        self.align = align
        self.measure = measure
        self.strides = tuple(strides)
        self.select = select
        self.standardized = standardized
        self.knowledge = knowledge
        self.student_needs = needs
        self.teacher_needs = needs | teacher_needs

    def forward(self, pair: Pair, clock: Clock) -> Cost:
        """The cost per image and level; see `Term.forward`.

        Raises:
            ShapeError: a level is missing, or the maps do not fit after alignment.
        """
        del clock
        levels = [
            pair.level(stride, select=self.select, align=self.align, standardized=self.standardized)
            for stride in self.strides
        ]
        columns = [self.measure(level, pair) for level in levels]
        return Cost(values=torch.stack(columns, dim=1), strides=self.strides)


_BY_BOXES = "Distil by --method boxes."


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
    theirs, whose = list(teacher.maps.strides), teacher.name
    shared = paired_strides(student, teacher, last=last)
    if not shared:
        example = f"for example student.strides={typed(sorted({*theirs}))}"
        remedy = f"Build the student with the teacher's strides, {example}." if student.free_strides else _BY_BOXES
        if teacher.ratio != 1.0:
            whose = f"{whose}, in the student's pixels"
            remedy = "Leave teacher.image out, or set it to a size nearer to data.image."
        raise CapabilityError(
            f"Student and teacher must share at least one stride, got {list(student.maps.strides)} "
            f"({student.name}) and {theirs} ({whose}). {remedy}"
        )
    return shared


def paired_strides(student: DetectorSpec, teacher: DetectorSpec, *, last: int | None = None) -> tuple[int, ...]:
    """As `shared_strides`, or none: a teacher that says boxes alone has none."""
    if teacher.pyramid is None:
        return ()
    return tuple(stride for stride in student.maps.strides[:last] if stride in teacher.pyramid.strides)


def pairing_note(student: DetectorSpec, teacher: DetectorSpec) -> str:
    """One sentence that says which strides are paired and which are left over, for people to read at start-up."""
    if teacher.pyramid is None:
        return f"levels are not paired: {teacher.name} says boxes alone"
    shared = paired_strides(student, teacher)

    def own(stride: int) -> str:
        return f"{stride * teacher.factor:g}"

    left = [
        f"{side}: {', '.join(named(stride) for stride in spec.maps.strides if stride not in shared)}"
        for side, spec, named in (("student", student, str), ("teacher", teacher, own))
        if set(spec.maps.strides) - set(shared)
    ]
    paired = f"levels paired by stride: {', '.join(map(str, shared)) or 'none'}"
    if teacher.ratio != 1.0:
        pairs = ", ".join(f"{stride} and {own(stride)}" for stride in shared)
        paired = f"levels paired by the share of the image that a cell covers, strides of student and teacher: {pairs}"
    if teacher.ratio != teacher.factor:
        paired += f" (the teacher's maps are resized, as its images are {teacher.ratio:.3g} times as large)"
    told = f"{paired}; not paired: {'; '.join(left)}" if left else f"{paired}; none left over"
    if teacher.ratio != 1.0 and set(teacher.pyramid.strides) - set(shared):
        told += f"; student.strides={typed(teacher.pyramid.strides)} would meet all of the teacher's"
    return told


def require_equal_class_layouts(student: DetectorSpec, teacher: DetectorSpec, *, recipe: str, remedy: str) -> None:
    """Checks that class logits can be compared cell by cell, but for classes that the teacher does not know.

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
    left_out = teacher.unknown if student.class_names == teacher.class_names else ()
    for what, left, right in (
        ("kind", ours.kind.value, theirs.kind.value),
        ("anchors a cell", ours.anchors, theirs.anchors),
        ("classes", [name for name in ours.classes if name not in left_out], list(theirs.classes)),
    ):
        if left != right:
            raise CapabilityError(
                f"The class logits for the recipe '{recipe}' must have the same {what} on both sides, got {left} "
                f"({student.name}) and {right} ({teacher.name}). {remedy}"
            )
