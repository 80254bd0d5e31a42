"""A recipe is a list of terms, each with its gain, its schedule, its view and its weight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from detdistill.distill.term import Term
from detdistill.distill.view import CLEAN, View
from detdistill.errors import ConfigError
from detdistill.types import Clock, Knowledge, Need, Observation


class Weigh(ABC):
    """HOW MUCH each image and level counts; it sits outside every term, so it wraps any recipe."""

    needs: frozenset[Need]

    @abstractmethod
    def __call__(
        self, teacher: Observation, strides: Sequence[int | None], *, knowledge: Knowledge
    ) -> Float[Tensor, "b l"]:
        """The weight ≥ 0 of every image and stride, from the teacher's clean observation. No gradient flows."""


@dataclass(frozen=True, slots=True)
class WarmUp:
    """A gain that grows linearly from 0 at step 0 to 1.

    Attributes:
        steps: after how many steps it is 1; 0 is 1 from the start.
        longest: cap on `steps` as a share of the whole run, so that a short run is not all warm-up.
    """

    steps: int = 0
    longest: float = 1.0

    def within(self, total_steps: int) -> int:
        """The number of warm-up steps of a run of `total_steps` steps."""
        return min(self.steps, int(self.longest * total_steps))

    def __call__(self, clock: Clock) -> float:
        """The factor in [0, 1] at this step."""
        steps = self.within(clock.total_steps)
        return 1.0 if steps == 0 else min(1.0, clock.step / steps)


@dataclass(frozen=True, slots=True)
class WeightedTerm:
    """A term and how it counts in a recipe.

    Attributes:
        name: unique in the recipe; its loss is reported under it.
        term: the comparison.
        gain: scalar multiplier.
        warm_up: factor over the course of the run.
        view: on which inputs it looks.
        weigh: weight per image and level; None weighs all alike.
    """

    name: str
    term: Term
    gain: float
    warm_up: WarmUp = WarmUp()
    view: View = CLEAN
    weigh: Weigh | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one distillation method adds to the student's own training.

    Attributes:
        name: the method.
        terms: what it compares.

    Raises:
        ConfigError: two terms bear one name, up to dots: one would hide the other in reports and checkpoints.
    """

    name: str
    terms: tuple[WeightedTerm, ...]

    def __post_init__(self) -> None:
        names = [term.name.replace(".", "_") for term in self.terms]
        if len(set(names)) < len(names):
            raise ConfigError(
                f"The terms of the recipe '{self.name}' must have different names, got "
                f"{[term.name for term in self.terms]}. Rename one."
            )

    @property
    def views(self) -> tuple[View, ...]:
        """The views in use, each once, the clean one first if it is there."""
        return tuple(sorted({term.view for term in self.terms}, key=lambda view: view.twin or ""))

    def student_needs(self, view: View) -> frozenset[Need]:
        """What the terms on this view read from the student."""
        needs = [weighted.term.student_needs for weighted in self.terms if weighted.view == view]
        return frozenset[Need]().union(*needs)

    def teacher_needs(self, view: View) -> frozenset[Need]:
        """What the terms on this view read from the teacher, and on the clean view what the weights read."""
        needs = [weighted.term.teacher_needs for weighted in self.terms if weighted.view == view]
        if view == CLEAN:
            needs += [weighted.weigh.needs for weighted in self.terms if weighted.weigh is not None]
        return frozenset[Need]().union(*needs)
