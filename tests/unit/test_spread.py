"""aid's alpha found on the training images: by hand, and on a real teacher."""

from __future__ import annotations

import math

import pytest
import torch

from detdistill.distillation.recipe import WeightedTerm
from detdistill.distillation.spread import with_spread_weights
from detdistill.distillation.step import DistillationStep
from detdistill.distillation.weigh import MeanOf, SpreadTo
from detdistill.errors import CapabilityError, ConfigError
from detdistill.methods.aid import ByTeacherLoss
from detdistill.methods.catalogue import build_recipe
from detdistill.types import Clock, Knowledge, Need
from made_up_steps import Known, step_of
from scenes_in_memory import scene_batch, tiny_student, tiny_teacher


def test_a_plan_weighs_nothing_itself() -> None:
    plan = SpreadTo(lambda alpha: ByTeacherLoss(alpha=alpha), spread=0.3)
    with pytest.raises(CapabilityError, match="A weight's plan must be measured"):
        step_of(WeightedTerm("m", Known([[1.0]], (8,)), 1.0, weigh=plan))


@pytest.mark.parametrize("family", ["fcos", "faster_rcnn"])
@pytest.mark.parametrize("target", [0.05, 0.3])
def test_alpha_is_the_least_at_which_weights_differ_enough(family: str, target: float) -> None:
    student, teacher = tiny_student(family), tiny_teacher(family)
    recipe = build_recipe("aid(hint, alpha=auto)", student.spec, teacher.spec)
    plan = recipe.terms[0].weigh
    assert isinstance(plan, SpreadTo)
    assert plan.spread == 0.3
    wanted = SpreadTo(plan.at, spread=target)
    batches = [scene_batch(seed=seed) for seed in range(3)]
    terms = tuple(WeightedTerm(one.name, one.term, one.gain, weigh=wanted) for one in recipe.terms)
    made, told = with_spread_weights(type(recipe)("aid(hint)", terms), teacher, batches)
    alpha, reached = told["hint.features"]
    strides = teacher.spec.pyramid.strides

    seen = [teacher.observe(batch, frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES})) for batch in batches]

    def spread(at: float) -> float:
        weigh = ByTeacherLoss(alpha=at)
        rows = torch.cat([weigh(one, strides, knowledge=Knowledge.FEATURE) for one in seen])
        return float(rows.double().std(dim=0, correction=0).mean())

    assert spread(alpha) == pytest.approx(reached, abs=1e-3)
    finer = [spread(10**exponent) for exponent in torch.linspace(-4, 4, 100).tolist()]
    if max(finer) >= target:
        assert reached >= target
        assert spread(alpha * 0.9) < target + 1e-3
    else:
        assert reached == pytest.approx(max(finer), abs=2e-3)
    report = DistillationStep(student, teacher, made)(batches[0], Clock(step=1, total_steps=2))
    assert 0 < float(report.diagnostics["hint.features/weight"]) <= 1


def test_its_control_has_the_mean_of_that_weight() -> None:
    student, teacher = tiny_student("fcos"), tiny_teacher("fcos")
    recipe = build_recipe("aid(frs, alpha=auto, control=true)", student.spec, teacher.spec)
    assert with_spread_weights(build_recipe("frs", student.spec, teacher.spec), teacher, [])[1] == {}
    made, told = with_spread_weights(recipe, teacher, [scene_batch(), scene_batch(seed=4)])
    weighs = [one.weigh for one in made.terms]
    assert all(isinstance(weigh, MeanOf) for weigh in weighs)
    assert len(set(told.values())) == 1
    assert all(math.isfinite(number) for number in told["frs.features"])
    with pytest.raises(CapabilityError, match="must be at least two"):
        with_spread_weights(recipe, teacher, [])


@pytest.mark.parametrize("option", ["granularity=batch", "granularity=level", "loss_source=student_features"])
def test_an_alpha_that_no_image_has_alone_is_refused(option: str) -> None:
    student = tiny_student("fcos")
    with pytest.raises(ConfigError, match="aid's alpha must be a number where"):
        build_recipe(f"aid(hint, alpha=auto, {option})", student.spec, student.spec)
