"""The step: what it adds up, what it weighs, what it shows to whom, and what it keeps out of the module tree."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.pair import Level, Pair, level_at
from detdistill.distillation.recipe import WarmUp, WeightedTerm
from detdistill.distillation.step import DistillationStep, SupervisedStep
from detdistill.distillation.term import LevelTerm, shared_strides
from detdistill.distillation.view import CLEAN, View
from detdistill.errors import CapabilityError, ShapeError
from detdistill.methods.catalogue import build_recipe
from detdistill.methods.features import cellwise
from detdistill.methods.parts import compare
from detdistill.methods.parts.align import IdentityAlign
from detdistill.methods.parts.normalize import by_mask_sum
from detdistill.types import Clock, Knowledge, Need, Pyramid
from every_method import ALONE, ON_MAPS, OPTIONS, aligned_by, both_wrappers, first_family
from made_up_steps import Known, PixelTerm, Stub, Table, lit, step_of
from observations import batch as blank
from observations import observation, random_observation, spec, with_boxes
from scenes_in_memory import scene_batch, tiny_student, tiny_teacher

pytestmark = pytest.mark.covering("name")

START = Clock(step=0, total_steps=100)
FROSTED = View("frosted")


COSTS = [[1.0, 2.0], [5.0, 10.0]]


def test_total_is_the_task_plus_the_parts() -> None:
    """Task 2 · 0.5; terms (3 + 15)/2 = 9 and 4, times their gains 0.5 and 2."""
    first = WeightedTerm("m.first", Known(COSTS, (8, 16)), 0.5)
    second = WeightedTerm("m.second", Known([[4.0], [4.0]], (None,)), 2.0)
    report = step_of(first, second)(lit(0.25, 0.75), START)
    assert {name: float(value) for name, value in report.parts.items()} == {
        "task": 1.0,
        "m.first": 4.5,
        "m.second": 8.0,
    }
    assert float(report.total.detach()) == 13.5
    assert {name: float(value) for name, value in report.diagnostics.items()} == {
        "m.first/cost_stride_8": 3.0,
        "m.first/cost_stride_16": 6.0,
        "m.second/cost_stride_None": 4.0,
    }


def test_parts_and_diagnostics_are_detached_and_the_total_is_not() -> None:
    step = step_of(WeightedTerm("m", PixelTerm(), 1.0))
    report = step(lit(0.5), START)
    assert report.total.requires_grad
    assert not any(value.requires_grad for value in (*report.parts.values(), *report.diagnostics.values()))
    report.total.backward()
    # d/ds of s·0.5 + (s·0.5 − 3·0.5)² at s = 2
    assert step.student.scale.grad == pytest.approx(0.5 + 2 * (-0.5) * 0.5)


def test_a_recipe_without_terms_is_the_task() -> None:
    student, batch = Stub(2.0), lit(0.25, 0.75)
    report = step_of(student=student)(batch, START)
    alone = SupervisedStep(student)(batch, START)
    assert report.total == alone.total
    assert list(report.parts) == list(alone.parts) == ["task"]
    assert not alone.parts["task"].requires_grad
    assert list(dict(SupervisedStep(student).named_parameters())) == ["student.scale"]


def test_a_student_without_a_task_loss_is_refused() -> None:
    for step in (step_of(student=Stub(1.0, loss=False)), SupervisedStep(Stub(1.0, loss=False))):
        with pytest.raises(CapabilityError) as caught:
            step(lit(0.5), START)
        assert str(caught.value) == (
            "The student's observation must hold its task loss, got none. Answer Need.TASK_LOSS in observe()."
        )


@pytest.mark.parametrize(
    ("warm_up", "clock", "factor"),
    [
        (WarmUp(), Clock(0, 100), 1.0),
        (WarmUp(steps=10), Clock(0, 100), 0.0),
        (WarmUp(steps=10), Clock(1, 100), 0.1),
        (WarmUp(steps=10), Clock(10, 100), 1.0),
        (WarmUp(steps=10), Clock(99, 100), 1.0),
        (WarmUp(steps=500, longest=0.05), Clock(1, 100), 0.2),
        (WarmUp(steps=500, longest=0.05), Clock(0, 10), 1.0),
        (WarmUp(steps=500, longest=0.05), Clock(250, 100_000), 0.5),
        (WarmUp(steps=3, longest=0.0), Clock(0, 100), 1.0),
    ],
)
def test_warm_up_grows_from_nothing(warm_up: WarmUp, clock: Clock, factor: float) -> None:
    assert warm_up(clock) == pytest.approx(factor)
    step = step_of(WeightedTerm("m", Known(COSTS, (8, 16)), 2.0, warm_up=warm_up))
    report = step(lit(0.25, 0.75), clock)
    assert float(report.parts["m"]) == pytest.approx(18.0 * factor)
    assert float(report.total.detach()) == pytest.approx(1.0 + 18.0 * factor)
    # What is shown to people is the bare cost.
    assert float(report.diagnostics["m/cost_stride_8"]) == 3.0


@pytest.mark.parametrize("name", [*ALONE, both_wrappers("hint")[0]])
def test_every_recipe_reports_zero_for_a_warm_up_at_its_start(name: str) -> None:
    family = first_family(name)
    student, teacher = tiny_student(family), tiny_teacher(family)
    recipe = build_recipe(name, student.spec, teacher.spec)
    warmed = tuple(replace(term, warm_up=WarmUp(steps=4)) for term in recipe.terms)
    step = DistillationStep(student, teacher, replace(recipe, terms=warmed))
    reports = [step(scene_batch(), Clock(index, 100)) for index in (0, 2)]
    for term in recipe.terms:
        assert reports[0].parts[term.name] == 0
        assert reports[1].parts[term.name] > 0
    assert reports[0].total == reports[0].parts["task"]


def test_frs_warms_up_over_500_steps_capped_at_a_twentieth() -> None:
    student, teacher = tiny_student("fcos"), tiny_teacher("fcos")
    warm_ups = [term.warm_up for term in build_recipe("frs", student.spec, teacher.spec).terms]
    assert [warm_up.within(100_000) for warm_up in warm_ups] == [500, 500]
    assert [warm_up.within(600) for warm_up in warm_ups] == [30, 30]


def test_weights_apply_by_image_and_stride_and_take_no_gradient() -> None:
    """Image 1: 1·3 + 2·5 = 13, image 2: 5·0 + 10·1 = 10; gain 2."""
    parameter = nn.Parameter(torch.ones(()))
    weigh = Table({8: (3.0, 0.0), 16: (5.0, 1.0)}, parameter)
    term = Known(COSTS, (8, 16), knowledge=Knowledge.LOCALIZATION)
    step = step_of(WeightedTerm("m", term, 2.0, weigh=weigh))
    report = step(lit(0.25, 0.75), START)
    assert float(report.parts["m"]) == 23.0
    assert float(report.total.detach()) == 24.0
    assert float(report.diagnostics["m/weight"]) == 2.25
    assert float(report.diagnostics["m/cost_stride_16"]) == 6.0
    report.total.backward()
    assert parameter.grad is None
    assert term.factor.grad == 23.0
    (seen, knowledge) = weigh.asked[0]
    assert knowledge is Knowledge.LOCALIZATION
    assert seen.task_loss is not None


def test_weights_read_the_clean_view_even_where_the_term_does_not() -> None:
    weigh = Table({8: (1.0,)}, nn.Parameter(torch.ones(())))
    step = step_of(WeightedTerm("m", PixelTerm(), 1.0, view=FROSTED, weigh=weigh))
    step(lit(0.5, frosted=0.25), START)
    assert float(weigh.asked[0][0].pyramid.levels[0].mean()) == 1.5


def test_a_twin_view_shows_both_sides_the_twin_and_leaves_the_task_clean() -> None:
    student, teacher = Stub(2.0), Stub(3.0)
    plain = WeightedTerm("clean", PixelTerm(), 1.0)
    twin = WeightedTerm("twin", PixelTerm(), 1.0, view=FROSTED)
    step = step_of(twin, plain, student=student, teacher=teacher)
    report = step(lit(0.5, frosted=0.25), START)
    assert {name: float(value) for name, value in report.parts.items()} == {
        "task": 1.0,
        "twin": 0.0625,
        "clean": 0.25,
    }
    assert student.asked == [(0.5, {Need.TASK_LOSS, Need.PYRAMID}), (0.25, {Need.PYRAMID})]
    assert teacher.asked == [(0.5, {Need.PYRAMID}), (0.25, {Need.PYRAMID})]


def test_a_view_keeps_the_geometry() -> None:
    batch = lit(0.5, frosted=0.25)
    assert CLEAN(batch) is batch
    seen = FROSTED(batch)
    assert torch.equal(seen.images, batch.twins["frosted"])
    assert (seen.sizes, seen.targets, seen.seeds, seen.image_ids) == (
        batch.sizes,
        batch.targets,
        batch.seeds,
        batch.image_ids,
    )


def test_a_missing_twin_is_refused_with_the_remedy() -> None:
    step = step_of(WeightedTerm("m", PixelTerm(), 1.0, view=FROSTED))
    with pytest.raises(CapabilityError) as caught:
        step(lit(0.5, foggy=0.1, dark=0.2), START)
    assert str(caught.value) == (
        "The batch must hold a twin named 'frosted', got ['dark', 'foggy']. "
        "Let the loader make it, or choose a recipe without that view."
    )


def test_each_detector_is_asked_for_what_its_terms_need_once_per_view() -> None:
    student, teacher = Stub(2.0), Stub(3.0)
    scored = Known(COSTS, (8, 16), student_needs={Need.CLASS_LOGITS}, teacher_needs={Need.BOX_DISTRIBUTIONS})
    terms = (
        WeightedTerm("a", scored, 1.0),
        WeightedTerm("b", Known(COSTS, (8, 16), teacher_needs=set()), 1.0),
        WeightedTerm("c", Known(COSTS, (8, 16), student_needs=set()), 1.0, view=FROSTED),
    )
    step = step_of(*terms, student=student, teacher=teacher)
    step(lit(0.5, 0.5, frosted=0.25), START)
    assert student.asked == [(0.5, {Need.TASK_LOSS, Need.CLASS_LOGITS, Need.PYRAMID}), (0.25, frozenset())]
    assert teacher.asked == [(0.5, {Need.BOX_DISTRIBUTIONS}), (0.25, {Need.PYRAMID})]
    assert step.recipe.views() == (CLEAN, FROSTED)


def test_terms_get_the_views_batch_and_the_clock() -> None:
    term = Known([[1.0]], (8,))
    batch = lit(0.5, frosted=0.25)
    step_of(WeightedTerm("m", term, 1.0, view=FROSTED))(batch, Clock(7, 9))
    _, taught, seen, clock = term.seen[0]
    assert clock == Clock(7, 9)
    assert torch.equal(seen.images, batch.twins["frosted"])
    assert not taught.pyramid.levels[0].requires_grad


def test_parameters_are_exactly_the_students_and_the_terms() -> None:
    student = Stub(2.0)
    step = step_of(WeightedTerm("m.first", Known(COSTS, (8, 16)), 1.0), student=student)
    assert list(dict(step.named_parameters())) == ["student.scale", "terms.m_first.factor"]
    assert list(step.state_dict()) == ["student.scale", "student.counter", "terms.m_first.factor"]
    assert not any(isinstance(module, FrozenTeacher) for module in step.modules())


def test_train_and_freezing_never_reach_the_teacher() -> None:
    teacher = Stub(3.0)
    step = step_of(WeightedTerm("m", PixelTerm(), 1.0), teacher=teacher)
    step.train().requires_grad_(True)
    assert step.student.training
    assert not teacher.training
    assert not teacher.scale.requires_grad


def test_a_deep_copy_shares_the_teacher_and_nothing_else() -> None:
    step = step_of(WeightedTerm("m", Known(COSTS, (8, 16)), 1.0))
    copied = copy.deepcopy(step)
    assert copied.teacher is step.teacher
    assert copied.student is not step.student
    assert {id(p) for p in copied.parameters()}.isdisjoint({id(p) for p in step.parameters()})
    # The copy's recipe holds the copy's terms: it trains what it uses.
    assert copied.recipe.terms[0].term is copied.terms["m"]
    copied(lit(0.5, 0.5), START).total.backward()
    assert copied.terms["m"].factor.grad is not None
    assert step.terms["m"].factor.grad is None


def test_the_teacher_moves_with_the_step_but_keeps_its_dtype() -> None:
    teacher = Stub(3.0)
    step = step_of(WeightedTerm("m", Known(COSTS, (8, 16)), 1.0), teacher=teacher)
    step.double()
    assert step.student.scale.dtype == torch.float64
    assert teacher.scale.dtype == torch.float32
    assert step.to("meta") is step
    assert step.teacher.device.type == step.terms["m"].factor.device.type == "meta"
    assert teacher.counter.device.type == "meta"


@pytest.mark.parametrize("name", [*ALONE, f"ikd(hint{OPTIONS['ikd']})"])
def test_under_autocast_costs_stay_float32(name: str) -> None:
    family = first_family(name)
    student, teacher = tiny_student(family, norm="group"), tiny_teacher(family)
    recipe = build_recipe(name, student.spec, teacher.spec, seed=1)
    half = FrozenTeacher(copy.deepcopy(teacher._detector), autocast=torch.bfloat16)
    batch = scene_batch().image(0)
    plain = DistillationStep(student, teacher, recipe)(batch, Clock(0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        step = DistillationStep(student, half, recipe)
        shown = step.see(batch, step.recipe)
        seen, taught = shown.students, shown.teachers
        assert seen[CLEAN].pyramid.levels[0].dtype == taught[CLEAN].pyramid.levels[0].dtype == torch.bfloat16
        for weighted in recipe.terms:
            assert weighted.term(shown.pairs()[weighted.view], START).values.dtype == torch.float32
        report = step(batch, Clock(0, 1))
    assert report.total.dtype == torch.float32
    for part, value in report.parts.items():
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(float(plain.parts[part]), rel=0.05)
    report.total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in step.parameters())


# What MGD's term trains is not an aligner alone: its generator stands between the maps and the cost, and runs in half
# precision under autocast as every trained convolution does. The cost itself is float32 (see the test above).
PAINTED = {"mgd"}


@pytest.mark.parametrize("name", ON_MAPS)
def test_what_a_term_computes_does_not_depend_on_autocast(name: str) -> None:
    one = spec(channels=4, bins=5)
    recipe = build_recipe(aligned_by(name, "identity"), one, one)
    scene = with_boxes(blank([(64, 96), (40, 50)]), seed=1)
    seen, taught = (random_observation(scene, seed=seed, bins=5) for seed in (0, 1))
    for weighted in recipe.terms:
        plain = weighted.term(Pair(seen, taught, scene), START).values
        assert plain.any()
        with torch.autocast("cpu", torch.bfloat16):
            cast = weighted.term(Pair(seen, taught, scene), START).values
        if name in PAINTED:
            assert cast.dtype == torch.float32
            torch.testing.assert_close(cast, plain, rtol=0.02, atol=0)
        else:
            assert torch.equal(cast, plain)


def test_padding_never_counts_whatever_the_focus_says() -> None:
    """All cells of a 2×4 grid in focus, the left half inside: Σ cost / Σ mask = 4 · 1 / 4, not 4 / 8 nor 8 / 4."""

    def everywhere(level: Level, pair: Pair) -> Tensor:
        return torch.ones_like(level.teacher)

    term = LevelTerm(cellwise(compare.squared, by_mask_sum, everywhere), strides=(8,), align=IdentityAlign(1, 1))
    scene = blank([(16, 16)], grid=(16, 32))
    maps = torch.ones(1, 1, 2, 4)
    cost = term(Pair(observation([maps], strides=(8,)), observation([0 * maps], strides=(8,)), scene), START)
    assert cost.values.tolist() == [[1.0]]
    assert cost.strides == (8,)


def test_levels_are_found_by_stride_or_refused() -> None:
    maps = Pyramid((torch.zeros(1), torch.ones(1), torch.full((1,), 2.0)), (8, 16, 32))
    assert [float(level_at(maps, stride)) for stride in (32, 8)] == [2.0, 0.0]
    with pytest.raises(ShapeError) as caught:
        level_at(maps, 64)
    assert str(caught.value) == (
        "The observation must have a level of stride 64, got [8, 16, 32]. "
        "Build the recipe for the specs of these two detectors."
    )


def test_the_finest_levels_are_the_students_whatever_the_teacher_has() -> None:
    student = spec(family="faster_rcnn", strides=(4, 8, 16, 32, 64))
    for strides, paired in (((4, 8, 16, 32, 64), (4, 8, 16, 32)), ((8, 16, 32, 64, 128), (8, 16, 32))):
        assert shared_strides(student, spec(strides=strides), last=4) == paired
    with pytest.raises(CapabilityError, match="must share at least one stride"):
        shared_strides(student, spec(strides=(64, 128)), last=4)


def test_maps_that_do_not_fit_after_alignment_are_refused() -> None:
    student, teacher = tiny_student("fcos"), tiny_teacher("fcos")
    recipe = build_recipe("hint(aligner=identity)", student.spec, student.spec)
    step = DistillationStep(student, teacher, recipe)
    with pytest.raises(ShapeError) as caught:
        step(scene_batch(), START)
    assert str(caught.value) == (
        "The aligned student map of stride 8 must be (3, 24, 12, 16) as the teacher's, got (3, 16, 12, 16). "
        "Build the recipe for the specs of these two detectors."
    )
