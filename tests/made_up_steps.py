"""A detector of one number, terms with known costs, and steps made of them: every sum can be done by hand."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor, nn

from detdistill.detectors.base import Detector
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.pair import Pair
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.distillation.step import DistillationStep
from detdistill.distillation.term import Term
from detdistill.distillation.weigh import Weigh
from detdistill.types import Batch, Clock, Cost, Detections, Knowledge, Need, Observation, Pyramid, TaskLoss
from observations import batch as blank
from observations import spec


class Stub(Detector):
    """A detector of one number: its pyramid is `scale` times the pixels; it remembers what it was asked."""

    def __init__(self, scale: float, *, loss: bool = True) -> None:
        super().__init__()
        self.spec = spec(strides=(8,), channels=3)
        self.scale = nn.Parameter(torch.tensor(scale))
        self.register_buffer("counter", torch.zeros(()))
        self.loss = loss
        self.asked: list[tuple[float, frozenset[Need]]] = []

    def extract(self, batch: Batch) -> Pyramid:
        return Pyramid((self.scale * batch.images[:, :, ::8, ::8],), (8,))

    def observe(self, pyramid: Pyramid, batch: Batch, needs: Set[Need]) -> Observation:
        self.asked.append((float(batch.images.mean()), frozenset(needs)))
        loss = None
        if self.loss and Need.TASK_LOSS in needs:
            loss = TaskLoss(total=pyramid.levels[0].mean())
        return Observation(pyramid, task_loss=loss)

    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        del batch
        return ()


class Known(Term):
    """Costs `values` (b, l) times one trained factor, plus the student's mean pixel so that it is in the graph."""

    def __init__(
        self,
        values: Sequence[Sequence[float]],
        strides: Sequence[int | None],
        *,
        student_needs: Set[Need] = frozenset({Need.PYRAMID}),
        teacher_needs: Set[Need] = frozenset({Need.PYRAMID}),
        knowledge: Knowledge = Knowledge.FEATURE,
    ) -> None:
        super().__init__()
        self.knowledge = knowledge
        self.student_needs, self.teacher_needs = frozenset(student_needs), frozenset(teacher_needs)
        self.factor = nn.Parameter(torch.ones(()))
        self.values, self.strides = torch.tensor(values), tuple(strides)
        self.seen: list[tuple[Observation, Observation, Batch, Clock]] = []

    def forward(self, pair: Pair, clock: Clock) -> Cost:
        self.seen.append((pair.student, pair.teacher, pair.batch, clock))
        shown = pair.student.pyramid.levels[0].mean((1, 2, 3))
        return Cost(self.values * self.factor + 0.0 * shown[:, None], self.strides)


class PixelTerm(Term):
    """The mean squared difference of the two pyramids, per image."""

    def __init__(self) -> None:
        super().__init__()
        self.knowledge = Knowledge.FEATURE
        self.student_needs = self.teacher_needs = frozenset({Need.PYRAMID})

    def forward(self, pair: Pair, clock: Clock) -> Cost:
        difference = pair.student.pyramid.levels[0] - pair.teacher.pyramid.levels[0]
        return Cost(difference.square().mean((1, 2, 3))[:, None], (8,))


class Table(Weigh):
    """Weights from a table by image and stride, with a gradient that must not flow."""

    def __init__(self, by_stride: dict[int | None, Sequence[float]], parameter: nn.Parameter) -> None:
        self.needs = frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES})
        self.by_stride = by_stride
        self.parameter = parameter
        self.asked: list[tuple[Observation, Knowledge]] = []

    def __call__(self, teacher: Observation, strides: Sequence[int | None], *, knowledge: Knowledge) -> Tensor:
        self.asked.append((teacher, knowledge))
        return torch.tensor([self.by_stride[stride] for stride in strides]).T * self.parameter


def lit(*levels: float, **twins: float) -> Batch:
    """One image of constant brightness per level; twins likewise."""

    def images(brightness: Sequence[float]) -> Tensor:
        return torch.tensor(brightness).reshape(-1, 1, 1, 1).expand(-1, 3, 16, 16).clone()

    made = {name: images([value] * len(levels)) for name, value in twins.items()}
    return replace(blank([(16, 16)] * len(levels)), images=images(levels), twins=MappingProxyType(made))


def step_of(*terms: WeightedTerm, student: Stub | None = None, teacher: Stub | None = None) -> DistillationStep:
    frozen = FrozenTeacher(teacher or Stub(3.0))
    return DistillationStep(student or Stub(2.0), frozen, Recipe("test", terms))
