"""A recipe is a list of terms, each with its gain, its schedule, its view and its weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from detdistill.data.dataset import SampleTransform
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.found import FoundTerm, Learnable
from detdistill.distillation.term import Term
from detdistill.distillation.view import CLEAN, View
from detdistill.distillation.weigh import Features, MeanOf, SpreadTo, Weigh
from detdistill.errors import ConfigError
from detdistill.types import Batch, Clock, Need

# Makes the images of one twin of a batch, on the batch's own grid; the teacher is as before afterwards.
TwinMaker = Callable[[FrozenTeacher, Batch], Float[Tensor, "b 3 h w"]]


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


Decay = Literal["none", "linear", "cosine", "last_third"]


@dataclass(frozen=True, slots=True)
class Fade:
    """A gain that ends after a share of the run.

    Attributes:
        until: the share; with e = round(until · steps) the steps t < e are on.
        decay: the factor on the way: ``"none"`` 1, ``"linear"`` 1 - t / e, ``"cosine"`` (1 + cos(π t / e)) / 2,
            ``"last_third"`` min(1, 3 - 3 t / e).
    """

    until: float = 1.0
    decay: Decay = "none"

    def active(self, clock: Clock) -> bool:
        """Whether this step is on."""
        return clock.step < round(self.until * clock.total_steps)

    def __call__(self, clock: Clock) -> float:
        """The factor in [0, 1] at this step."""
        if not self.active(clock):
            return 0.0
        passed = clock.step / round(self.until * clock.total_steps)
        return {
            "none": 1.0,
            "linear": 1.0 - passed,
            "cosine": 0.5 * (1.0 + math.cos(math.pi * passed)),
            "last_third": min(1.0, 3.0 * (1.0 - passed)),
        }[self.decay]


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a run in which a teacher of a sequence teaches, from round(start · steps) to round(end · steps).

    Attributes:
        start: share of the run.
        end: likewise; that step is not in it.
    """

    start: float = 0.0
    end: float = 1.0

    def within(self, clock: Clock) -> Clock | None:
        """Where that part of the run is; None outside."""
        if self == Window():
            return clock
        first, last = (round(edge * clock.total_steps) for edge in (self.start, self.end))
        return Clock(clock.step - first, last - first) if first <= clock.step < last else None


Calibrated = Literal["fixed", "running"]


@dataclass(frozen=True, slots=True)
class Strength:
    """How strong the terms that share it are together: ‖their gradient‖ ÷ ‖the task's‖ at the student's pyramid.

    Attributes:
        of: the recipe that has it, without its numbers.
        value: the ratio that is wanted, at least 0; methods within have equal parts of it.
        calibration: whether the scales are measured once, at the start of a run, or followed through all of it.
    """

    of: str
    value: float
    calibration: Calibrated = "fixed"


@dataclass(frozen=True, slots=True)
class WeightedTerm:
    """A term and how it counts in a recipe.

    Attributes:
        name: unique in the recipe; its loss is reported under it.
        term: the comparison.
        gain: scalar multiplier.
        warm_up: factor over the course of the run.
        view: on which inputs it looks.
        weigh: weight per image and level, or the plan of one; None weighs all alike.
        fades: factors that end it, which multiply; what nobody needs any more is then not computed either.
        strength: what its gain is calibrated to; None takes the gain as it is.
        member: the method that compares, among those that share the strength; empty for a term that a wrapper adds,
            which is scaled as the wrapped method is as a whole.
        teacher: which of several teachers it looks at.
        window: the part of the run that counts as a whole one for it: warm-up and fades are within.
    """

    name: str
    term: Term
    gain: float
    warm_up: WarmUp = WarmUp()
    view: View = CLEAN
    weigh: Weigh | MeanOf | SpreadTo | None = None
    fades: tuple[Fade, ...] = ()
    strength: Strength | None = None
    member: str = ""
    teacher: int = 0
    window: Window = Window()

    @property
    def until(self) -> float:
        """Share of the run after which the term is off."""
        return min((fade.until for fade in self.fades), default=1.0)

    def active(self, clock: Clock) -> bool:
        """Whether the term counts at this step."""
        own = self.window.within(clock)
        return own is not None and all(fade.active(own) for fade in self.fades)

    def gain_at(self, clock: Clock) -> float:
        """What multiplies the term's loss at this step but for its calibration: gain, warm-up and fades."""
        own = self.window.within(clock)
        return 0.0 if own is None else self.gain * self.warm_up(own) * math.prod(fade(own) for fade in self.fades)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one distillation method adds to the student's own training.

    Attributes:
        name: the method.
        terms: what it compares.
        twins: makers of the twins that its views look at, by name, for batches that do not bring them along.
        sample_transform: what it changes about a sample before the resize; None for nothing.
        transform_until: share of the run after which samples are left as they are.
        notes: what a person should know before training, one sentence each; said at start-up.

    Raises:
        ConfigError: two terms bear one name, up to dots: one would hide the other in reports and checkpoints.
    """

    name: str
    terms: tuple[WeightedTerm, ...]
    twins: Mapping[str, TwinMaker] = field(default_factory=dict)
    sample_transform: SampleTransform | None = None
    transform_until: float = 1.0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [term.name.replace(".", "_") for term in self.terms]
        if len(set(names)) < len(names):
            raise ConfigError(
                f"The terms of the recipe '{self.name}' must have different names, got "
                f"{[term.name for term in self.terms]}. Rename one."
            )

    def views(self) -> tuple[View, ...]:
        """The views of the terms, each once, the clean one first if it is there."""
        return tuple(sorted({term.view for term in self.terms}, key=lambda view: view.twin or ""))

    def student_needs(self, view: View) -> frozenset[Need]:
        """What the terms on this view read from the student."""
        return frozenset[Need]().union(*(one.term.student_needs for one in self.terms if one.view == view))

    def teacher_needs(self, view: View, teacher: int = 0) -> frozenset[Need]:
        """What the terms on this view read from a teacher, and on the clean view what the weights read of it."""
        needs = [one.term.teacher_needs for one in self.terms if one.view == view and one.teacher == teacher]
        return frozenset[Need]().union(*needs, self.weight_needs(Features.TEACHER, teacher) if view == CLEAN else ())

    def weight_needs(self, features: Features, teacher: int = 0) -> frozenset[Need]:
        """What the weights of the terms read of a teacher's heads on these features."""
        weighs = [one.weigh for one in self.terms if isinstance(one.weigh, Weigh) and one.teacher == teacher]
        return frozenset[Need]().union(*(weigh.needs for weigh in weighs if weigh.features is features))

    @property
    def learnable(self) -> Learnable | None:
        """Which of the teacher's boxes its terms learn as objects; None where none does."""
        found = (one.term.learnable for one in self.terms if isinstance(one.term, FoundTerm))
        return next(found, None)

    def looks(self, view: View, teacher: int = 0) -> bool:
        """Whether its terms or weights read anything of what a teacher shows on a view."""
        weighed = any(isinstance(one.weigh, Weigh) for one in self.terms if one.teacher == teacher)
        return bool(self.teacher_needs(view, teacher)) or (view == CLEAN and weighed)

    def at(self, clock: Clock) -> Recipe:
        """The recipe of the terms that count at this step."""
        return replace(self, terms=tuple(one for one in self.terms if one.active(clock)))
