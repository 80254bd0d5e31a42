"""spoilt: hint, whose loss is NaN in the second and third step; what is behind them learns from sound ones."""

from __future__ import annotations

from dataclasses import replace

from detdistill.detectors.base import DetectorSpec
from detdistill.distillation.pair import Pair
from detdistill.distillation.recipe import Recipe
from detdistill.distillation.term import Term
from detdistill.methods.hint import HintSettings, build_hint
from detdistill.methods.method import Method
from detdistill.types import Clock, Cost


class SpoiltSettings(HintSettings):
    """Numbers of hint."""


class Spoilt(Term):
    def __init__(self, term: Term) -> None:
        super().__init__()
        self.term, self.knowledge = term, term.knowledge
        self.student_needs, self.teacher_needs = term.student_needs, term.teacher_needs

    def forward(self, pair: Pair, clock: Clock) -> Cost:
        cost = self.term(pair, clock)
        return Cost(cost.values * float("nan"), cost.strides) if clock.step in (1, 2) else cost


def build_spoilt(student: DetectorSpec, teacher: DetectorSpec, settings: SpoiltSettings) -> Recipe:
    recipe = build_hint(student, teacher, settings)
    return Recipe("spoilt", tuple(replace(one, term=Spoilt(one.term)) for one in recipe.terms))


SPOILT = Method(name="spoilt", settings=SpoiltSettings, build=build_spoilt)
