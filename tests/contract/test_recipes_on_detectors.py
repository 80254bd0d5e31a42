"""Every recipe, alone and in either wrapper, on every detector; the teacher has another backbone and channels."""

from __future__ import annotations

import copy

import pytest
import torch

from detdistill.distillation.pair import Pair
from detdistill.distillation.recipe import Recipe
from detdistill.distillation.step import DistillationStep
from detdistill.distillation.view import CLEAN
from detdistill.training.optimizer import build_optimizer
from detdistill.training.settings import TrainSettings
from detdistill.types import Need
from every_method import (
    ALONE,
    CLOCK,
    OBJECTS_ALONE,
    OPTIONS,
    TWIN,
    WRAPPING,
    families_of,
    require_equal_in_any_batch,
    require_equal_without_padding,
    trained_by,
)
from pairs_in_memory import (
    Couple,
    known_pair,
    known_recipe,
    require_paired_by_stride,
    require_useful,
    student_of,
)
from scenes_in_memory import FAMILIES, STUDENT_CHANNELS, TEACHER_CHANNELS, leaves_of
from thorough import covering

# A wrapper leaves the terms inside as they are: each is here once on every detector, around one method after the other.
CASES = [(name, family) for name in ALONE for family in families_of(name)]
CASES += [
    (f"{wrapper}({name}{OPTIONS.get(wrapper, '')})", family)
    for wrapper in WRAPPING
    for family in FAMILIES
    for name in [[one for one in ALONE if family in families_of(one)][FAMILIES.index(family)]]
]
# In `make test`, each recipe on one detector, and both wrappers on every detector.
every_case = pytest.mark.parametrize(("method", "family"), covering(CASES))


def found(method: str, family: str) -> tuple[Recipe, Couple]:
    """A recipe that is not to be trained, and the pair it is for."""
    return known_recipe(method, family, family), known_pair(family, family)


def test_the_pairs_differ_in_backbone_and_channels_and_nothing_is_left_out() -> None:
    assert {name for name, _ in CASES} >= {*ALONE}
    assert {family for _, family in CASES} == {*FAMILIES}
    assert all(sum(name.startswith(f"{wrapper}(") for name, _ in CASES) == len(FAMILIES) for wrapper in WRAPPING)
    assert STUDENT_CHANNELS != TEACHER_CHANNELS
    for family in FAMILIES:
        pair = known_pair(family, family)
        assert pair.student.spec.name != pair.teacher.spec.name
        assert pair.student.spec.pyramid.channels != pair.teacher.spec.pyramid.channels


@every_case
def test_every_term_is_finite_and_reaches_every_map(method: str, family: str) -> None:
    require_useful(*found(method, family), sparse=OBJECTS_ALONE)


@every_case
def test_an_image_costs_the_same_in_any_batch(method: str, family: str) -> None:
    recipe, pair = found(method, family)
    require_equal_in_any_batch(recipe, pair.seen)


@every_case
def test_padding_never_teaches(method: str, family: str) -> None:
    recipe, pair = found(method, family)
    require_equal_without_padding(recipe, pair.seen, seed=1)


@every_case
def test_levels_meet_by_stride(method: str, family: str) -> None:
    require_paired_by_stride(*found(method, family))


@every_case
def test_a_step_trains_the_student_and_the_aligners_never_the_teacher(method: str, family: str) -> None:
    pair = known_pair(family, family)
    student, recipe = copy.deepcopy(student_of(family)), pair.awake_recipe(method)
    step = DistillationStep(student, pair.teacher, recipe).train()
    before = pair.teacher.digest()
    owned = {id(p) for p in (*student.parameters(), *trained_by(recipe))}
    assert {id(p) for p in step.parameters()} == owned
    optimizer = build_optimizer(step, TrainSettings(steps=1, batch_size=3))
    optimized = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert {*optimized} == {id(p) for p in step.parameters() if p.requires_grad} >= {id(p) for p in trained_by(recipe)}
    assert len(optimized) == len({*optimized})
    report = step(pair.seen.batch, CLOCK)
    assert report.total.isfinite()
    assert list(report.parts) == ["task", *(weighted.name for weighted in recipe.terms)]
    (report.total - report.total.detach()).backward()  # the same gradient, the value aside
    assert all(p.grad is not None and p.grad.isfinite().all() for p in step.parameters() if p.requires_grad)
    for weighted in recipe.terms:
        trained = [*weighted.term.parameters()]
        assert bool(trained) == (Need.PYRAMID in weighted.term.student_needs)  # logits meet as they are
        # hint standardises after the aligner, so its bias moves nothing.
        assert all(p.grad.abs().sum() > 0 for p in trained if p.ndim > 1), weighted.name
    assert not any(p.requires_grad or p.grad is not None for p in pair.teacher._detector.parameters())
    assert pair.teacher.digest() == before
    assert not pair.teacher._detector.training


@every_case
def test_each_term_alone_reaches_the_students_weights(method: str, family: str) -> None:
    recipe, pair = found(method, family)
    first = next(p for name, p in pair.student.named_parameters() if ".body." in name)
    for view in recipe.views():
        batch = view(pair.seen.batch)
        seen = pair.student(batch, recipe.student_needs(view))
        taught = pair.teacher.observe(batch, recipe.teacher_needs(view))
        assert seen.task_loss is None
        assert not any(level.requires_grad for level in leaves_of(taught))
        for weighted in recipe.terms:
            if weighted.view != view:
                continue
            cost = weighted.term(Pair(seen, taught, batch, heads=pair.teacher.observe_towers), CLOCK)
            values = cost.values
            if weighted.weigh is not None:
                assert view == CLEAN
                values = values * weighted.weigh(taught, cost.strides, knowledge=weighted.term.knowledge)
            (gradient,) = torch.autograd.grad(values.sum(), [first], retain_graph=True)
            assert gradient.isfinite().all()
            assert gradient.abs().sum() > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_checks_see_weights_and_twins(family: str) -> None:
    """What the wrappers add is there to be checked: other weights than 1, another view than the clean one."""
    alone, weighed, doubled = (
        known_recipe(method, family, family) for method in ("hint", "aid(hint)", "ikd(hint, attack_steps=1)")
    )
    seen = known_pair(family, family).seen
    assert [term.weigh is None for term in (*alone.terms, *weighed.terms)] == [True, False]
    weigh = weighed.terms[0].weigh
    assert weigh is not None
    weight = weigh(seen.teachers[CLEAN], (8, 16, 32), knowledge=weighed.terms[0].term.knowledge)
    assert weight.min() < 0.99
    assert weight.std() > 0
    assert doubled.views() == (CLEAN, TWIN)
    assert all(
        not torch.equal(clean, twin)
        for side in (seen.students, seen.teachers)
        for clean, twin in zip(leaves_of(side[CLEAN]), leaves_of(side[TWIN]), strict=True)
    )
