"""The step: student, teacher and recipe in, one report out. DDP and compile wrap it; EMA averages its student."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from detdistill.detectors.base import Detector
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distill.recipe import Recipe, WeightedTerm
from detdistill.distill.view import CLEAN, View
from detdistill.errors import CapabilityError
from detdistill.types import Batch, Clock, Need, Observation, StepReport

Observations = dict[View, Observation]


def task_loss(observation: Observation) -> Tensor:
    """The detector's own training loss of an observation.

    Raises:
        CapabilityError: the observation was made without it.
    """
    if observation.task_loss is None:
        raise CapabilityError(
            "The student's observation must hold its task loss, got none. Answer Need.TASK_LOSS in observe()."
        )
    return observation.task_loss.total


class SupervisedStep(nn.Module):
    """A step of the detector alone: its own training loss, nothing else.

    Args:
        student: the detector to train.
    """

    def __init__(self, student: Detector) -> None:
        super().__init__()
        self.student = student

    def forward(self, batch: Batch, clock: Clock) -> StepReport:
        """The report of one batch; gradients flow from `total` to the student's parameters."""
        del clock
        total = task_loss(self.student(batch, frozenset({Need.TASK_LOSS})))
        return StepReport(total=total, parts={"task": total.detach()}, diagnostics={})


class DistillationStep(nn.Module):
    """A step of the student under a recipe: its own training loss plus what the recipe adds.

    The module's parameters are exactly the student's and what the terms train. The teacher is held, not
    registered: train(), parameters(), state_dict(), DDP and EMA never reach it, and it follows the step to
    another device (never to another dtype).

    Args:
        student: the detector to train.
        teacher: a frozen teacher.
        recipe: built for the specs of these two.
    """

    def __init__(self, student: Detector, teacher: FrozenTeacher, recipe: Recipe) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.recipe = recipe
        self.terms = nn.ModuleDict({_key(weighted): weighted.term for weighted in recipe.terms})

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DistillationStep:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.teacher.to(next(self.student.parameters()).device)
        return self

    def observe(self, batch: Batch) -> tuple[Observations, Observations]:
        """What student and teacher see on every view of the batch.

        Returns:
            The student's observations (gradients flow; the clean one holds the task loss) and the teacher's.
        """
        students: Observations = {}
        teachers: Observations = {}
        for view in dict.fromkeys((CLEAN, *self.recipe.views)):
            seen = view(batch)
            own = frozenset({Need.TASK_LOSS}) if view == CLEAN else frozenset[Need]()
            students[view] = self.student(seen, own | self.recipe.student_needs(view))
            teachers[view] = self.teacher.observe(seen, self.recipe.teacher_needs(view))
        return students, teachers

    def forward(self, batch: Batch, clock: Clock) -> StepReport:
        """The report of one batch.

        Args:
            batch: images, targets and seeds, on the step's device.
            clock: where the run is; warm-ups read it.

        Returns:
            `total` = task + Σ gain · warm-up · mean over images of Σ over levels of weight · cost.
        """
        students, teachers = self.observe(batch)
        total = task_loss(students[CLEAN])
        parts = {"task": total.detach()}
        diagnostics: dict[str, Tensor] = {}
        for weighted in self.recipe.terms:
            view = weighted.view
            cost = weighted.term(students[view], teachers[view], view(batch), clock)
            values = cost.values
            if weighted.weigh is not None:
                weight = weighted.weigh(teachers[CLEAN], cost.strides, knowledge=weighted.term.knowledge).detach()
                values = values * weight
                diagnostics[f"{weighted.name}/weight"] = weight.mean()
            loss = weighted.gain * weighted.warm_up(clock) * values.sum(1).mean()
            total = total + loss
            parts[weighted.name] = loss.detach()
            for stride, column in zip(cost.strides, cost.values.detach().unbind(1), strict=True):
                diagnostics[f"{weighted.name}/cost_stride_{stride}"] = column.mean()
        return StepReport(total=total, parts=parts, diagnostics=diagnostics)


def _key(weighted: WeightedTerm) -> str:
    return weighted.name.replace(".", "_")
