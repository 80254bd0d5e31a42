"""Weights: constants and their measurement, and what the step does with weights, schedules, twins and statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

import pytest
import torch
from torch import Tensor, nn

from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.constant import ConstantWeigh, with_constant_weights
from detdistill.distillation.recipe import Fade, Recipe, WeightedTerm
from detdistill.distillation.step import DistillationStep, running_statistics_kept
from detdistill.distillation.view import View
from detdistill.distillation.weigh import Features, MeanOf, Weigh
from detdistill.errors import CapabilityError
from detdistill.types import Batch, Clock, Knowledge, Need, Observation
from made_up_steps import Known, PixelTerm, Stub, Table, lit, step_of
from scenes_in_memory import scene_batch, tiny_student, tiny_teacher

START = Clock(step=0, total_steps=100)
FROSTED = View("frosted")
FEATURE, CLASSIFICATION = Knowledge.FEATURE, Knowledge.CLASSIFICATION


class Brightness(Weigh):
    """An image's mean of the first map, plus the stride (0 for None); twice as much for class scores."""

    def __init__(self, *, features: Features = Features.TEACHER) -> None:
        self.needs = frozenset({Need.TASK_LOSS})
        self.features = features
        self.calls: list[tuple[tuple[int | None, ...], Knowledge]] = []

    def __call__(self, teacher: Observation, strides: Sequence[int | None], *, knowledge: Knowledge) -> Tensor:
        self.calls.append((tuple(strides), knowledge))
        own = teacher.pyramid.levels[0].mean((1, 2, 3))[:, None]
        return (own + torch.tensor([stride or 0 for stride in strides])) * (2 if knowledge is CLASSIFICATION else 1)


def waiting(*weighs: Weigh | None, knowledge: Knowledge = FEATURE) -> Recipe:
    terms = [
        WeightedTerm(f"m.{index}", Known([[1.0]], (8,), knowledge=knowledge), 1.0, weigh=weigh)
        for index, weigh in enumerate(weighs)
    ]
    return Recipe("m", tuple(terms))


def test_a_constant_weight_is_one_row_for_every_image() -> None:
    weigh = ConstantWeigh({(FEATURE, 8): 0.5, (FEATURE, None): 0.25, (CLASSIFICATION, 8): 0.125})
    teacher = Stub(1.0)
    seen = Observation(teacher.extract(lit(0.1, 0.2, 0.3)))
    assert weigh(seen, (None, 8), knowledge=FEATURE).tolist() == [[0.25, 0.5]] * 3
    assert weigh(seen, (8,), knowledge=CLASSIFICATION).tolist() == [[0.125]] * 3
    assert weigh.needs == frozenset()


def test_a_mean_cannot_weigh_before_it_is_measured() -> None:
    with pytest.raises(CapabilityError) as caught:
        step_of(*waiting(None, MeanOf(Brightness())).terms)
    assert str(caught.value) == (
        "A weight's plan must be measured before it is used, got one that was not on m.1. "
        "Pass the recipe through with_spread_weights(recipe, teacher, batches), then with_constant_weights."
    )


def test_the_constant_is_the_mean_over_images_whatever_the_batches() -> None:
    """Brightness 0.1, 0.2 and 0.6 times 2: mean 0.6, not the mean of batch means 0.75."""
    detector = Stub(2.0)
    mean = MeanOf(Brightness())
    measured = with_constant_weights(waiting(mean, mean), FrozenTeacher(detector), [lit(0.1, 0.2), lit(0.6)])
    weigh = measured.terms[0].weigh
    assert isinstance(weigh, ConstantWeigh)
    assert measured.terms[1].weigh is weigh
    assert weigh.weights[FEATURE, 8] == pytest.approx(8.6)
    assert weigh.weights[FEATURE, None] == pytest.approx(0.6)
    assert weigh.weights[CLASSIFICATION, 8] == pytest.approx(17.2)
    assert weigh.weights.keys() == {(knowledge, stride) for knowledge in Knowledge for stride in (8, None)}
    # Once per batch, for all weights, and only what they read.
    assert [needs for _, needs in detector.asked] == [{Need.TASK_LOSS}] * 2
    report = step_of(*measured.terms)(lit(0.9), START)
    assert float(report.parts["m.0"]) == pytest.approx(8.6)
    assert float(report.diagnostics["m.0/weight_sd"]) == 0.0


def test_every_mean_gets_its_own_constants_and_the_rest_stays() -> None:
    kept, table = Brightness(), Table({8: (3.0,), None: (1.0,)}, nn.Parameter(torch.ones(())))
    recipe = replace(waiting(MeanOf(Brightness()), kept, None, MeanOf(table)), transform_until=0.5)
    measured = with_constant_weights(recipe, FrozenTeacher(Stub(1.0)), [lit(0.25)])
    first, second, third, last = (term.weigh for term in measured.terms)
    assert first.weights[FEATURE, 8] == 8.25
    assert second is kept
    assert third is None
    assert last.weights[FEATURE, 8] == 3.0
    restored = [replace(term, weigh=old.weigh) for term, old in zip(measured.terms, recipe.terms, strict=True)]
    assert replace(measured, terms=tuple(restored)) == recipe


def test_without_a_mean_the_teacher_looks_at_nothing() -> None:
    detector, recipe = Stub(1.0), waiting(Brightness(), None)
    assert with_constant_weights(recipe, FrozenTeacher(detector), [lit(0.5)]) is recipe
    assert detector.asked == []


def test_a_mean_over_no_image_is_refused() -> None:
    with pytest.raises(CapabilityError) as caught:
        with_constant_weights(waiting(MeanOf(Brightness())), FrozenTeacher(Stub(1.0)), [])
    assert str(caught.value) == (
        "The images that a constant weight is measured on must be at least one, got none. Give the training images."
    )


def test_diagnostics_tell_mean_spread_and_every_level() -> None:
    """Weights (3, 5) and (0, 2): mean 2.5, squares of the deviations 0.25 + 6.25 + 6.25 + 0.25."""
    weigh = Table({8: (3.0, 0.0), None: (5.0, 2.0)}, nn.Parameter(torch.ones(())))
    told = step_of(WeightedTerm("m", Known([[1.0, 2.0], [5.0, 10.0]], (8, None)), 2.0, weigh=weigh))(
        lit(0.25, 0.75), START
    ).diagnostics
    assert {name: float(value) for name, value in told.items()} == {
        "m/weight": 2.5,
        "m/weight_sd": pytest.approx(3.25**0.5),
        "m/weight_stride_8": 1.5,
        "m/weight_stride_None": 3.5,
        "m/cost_stride_8": 3.0,
        "m/cost_stride_None": 6.0,
    }
    assert not any(value.requires_grad for value in told.values())


def test_a_weight_that_terms_share_is_computed_once() -> None:
    weigh = Brightness()
    costs = [[1.0]]
    terms = (
        WeightedTerm("a", Known(costs, (8,)), 1.0, weigh=weigh),
        WeightedTerm("b", Known(costs, (8,)), 1.0, weigh=weigh),
        WeightedTerm("c", Known(costs, (None,)), 1.0, weigh=weigh),
        WeightedTerm("d", Known(costs, (8,), knowledge=CLASSIFICATION), 1.0, weigh=weigh),
    )
    parts = step_of(*terms)(lit(0.5), START).parts
    assert weigh.calls == [((8,), FEATURE), ((None,), FEATURE), ((8,), CLASSIFICATION)]
    assert [float(parts[name]) for name in "abcd"] == [9.5, 9.5, 1.5, 19.0]


def test_the_teacher_is_asked_for_what_weights_read_on_the_clean_view_alone() -> None:
    teacher = Stub(3.0)
    term = WeightedTerm("m", PixelTerm(), 1.0, view=FROSTED, weigh=Brightness())
    step_of(term, teacher=teacher)(lit(0.5, frosted=0.25), START)
    assert teacher.asked == [(0.5, {Need.TASK_LOSS}), (0.25, {Need.PYRAMID})]


def test_a_weight_may_read_the_teachers_heads_on_the_students_features() -> None:
    """Student 2 · 0.5, teacher 3 · 0.5; the weight sees 1 + stride 8, and the teacher's own features stay bare."""
    student, teacher = Stub(2.0), Stub(3.0)
    term = WeightedTerm("m", Known([[1.0]], (8,)), 1.0, weigh=Brightness(features=Features.STUDENT))
    step = step_of(term, student=student, teacher=teacher)
    report = step(lit(0.5), START)
    assert float(report.parts["m"]) == 9.0
    assert [needs for _, needs in teacher.asked] == [{Need.PYRAMID}, {Need.TASK_LOSS}]
    report.total.backward()
    # d/ds of the task loss s · 0.5 alone: the weight carries no gradient to the student.
    assert float(student.scale.grad) == pytest.approx(0.5)
    seen = step.see(lit(0.5), step.recipe)
    assert float(seen.judged.pyramid.levels[0].mean()) == 1.0
    assert not seen.judged.pyramid.levels[0].requires_grad
    assert step.see(lit(0.5), replace(step.recipe, terms=())).judged is None


@pytest.mark.parametrize(("until", "last"), [(1.0, 9), (2 / 3, 6), (0.25, 1), (0.0, -1)])
def test_a_term_is_off_after_its_share_of_the_run(until: float, last: int) -> None:
    """Of 10 steps: round(until · 10) are on."""
    student, teacher = Stub(2.0), Stub(3.0)
    weigh = Brightness()
    timed = WeightedTerm("timed", PixelTerm(), 1.0, view=FROSTED, weigh=weigh, fades=(Fade(until),))
    step = step_of(timed, WeightedTerm("always", PixelTerm(), 1.0), student=student, teacher=teacher)
    on = []
    for index in range(10):
        student.asked.clear()
        report = step(lit(0.5, frosted=0.25), Clock(index, 10))
        assert float(report.total.detach()) == pytest.approx(sum(float(part) for part in report.parts.values()))
        assert list(report.parts) == ["task", "timed", "always"]
        assert float(report.parts["always"]) == 0.25
        if float(report.parts["timed"]):
            on.append(index)
        # What nobody reads is not computed, and not told.
        assert len(student.asked) == (2 if index in on else 1)
        assert ("timed/weight" in report.diagnostics) == (index in on)
    assert on == list(range(last + 1))


def frosting(made: list[Tensor]):
    def make(teacher: FrozenTeacher, batch: Batch) -> Tensor:
        assert isinstance(teacher, FrozenTeacher)
        made.append(batch.images)
        return batch.images / 2

    return make


def test_a_twin_that_the_batch_lacks_is_made_by_the_recipe() -> None:
    """Student 2, teacher 3, twin 0.25: (0.5 − 0.75)²."""
    made: list[Tensor] = []
    term = WeightedTerm("m", PixelTerm(), 1.0, view=FROSTED, fades=(Fade(0.5),))
    recipe = Recipe("m", (term,), twins=MappingProxyType({"frosted": frosting(made), "unused": frosting(made)}))
    step = DistillationStep(Stub(2.0), FrozenTeacher(Stub(3.0)), recipe)
    batch = lit(0.5)
    assert float(step(batch, START).parts["m"]) == 0.0625
    assert len(made) == 1
    assert dict(batch.twins) == {}
    assert float(step.see(batch, recipe).batch.twins["frosted"].mean()) == 0.25
    made.clear()
    # One that is there is taken as it is, and none is made for a term that is off.
    assert float(step(lit(0.5, frosted=0.1), START).parts["m"]) == pytest.approx(0.01)
    assert float(step(batch, Clock(50, 100)).parts["m"]) == 0.0
    assert made == []


def norms_of(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def test_a_twin_leaves_the_students_running_statistics_to_the_clean_images() -> None:
    scene = scene_batch()
    twin = replace(scene, twins={"frosted": 1 - scene.images})
    buffers, shown = [], []
    for terms in ((), (WeightedTerm("m", PixelTerm(), 1.0, view=FROSTED),)):
        student = tiny_student("fcos").train()
        step = DistillationStep(student, tiny_teacher("fcos", fpn_channels=16), Recipe("m", terms))
        seen = step.see(twin, step.recipe)
        buffers.append({name: buffer.clone() for name, buffer in student.named_buffers()})
        shown.append(seen.students)
    assert len(norms_of(student)) > 0
    assert buffers[0].keys() == buffers[1].keys()
    assert all(torch.equal(buffers[0][name], buffers[1][name]) for name in buffers[0])
    # On the twin they normalise by its own statistics, as any batch in training.
    fresh = tiny_student("fcos").train()
    expected = fresh.extract(replace(scene, images=1 - scene.images)).levels[0]
    torch.testing.assert_close(shown[1][FROSTED].pyramid.levels[0], expected)
    # The comparison can fail: the clean images did move them.
    assert any(not torch.equal(buffer, buffers[0][name]) for name, buffer in tiny_student("fcos").named_buffers())


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("training", [True, False])
def test_statistics_are_kept_inside_and_move_again_afterwards(momentum: float | None, training: bool) -> None:
    norm = nn.BatchNorm2d(2, momentum=momentum).train(training)
    images = torch.randn(4, 2, 3, 3) + 5
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    with pytest.raises(ValueError, match="expected 4D"), running_statistics_kept(nn.Sequential(norm)):
        norm(norm(images)[0])
    assert norm.momentum == momentum
    assert all(torch.equal(before[name], buffer) for name, buffer in norm.named_buffers())
    norm(images)
    assert int(norm.num_batches_tracked) == training
    assert torch.equal(norm.running_mean, before["running_mean"]) != training


def test_a_twin_that_overflows_leaves_the_statistics_finite() -> None:
    norm = nn.BatchNorm2d(2)
    with running_statistics_kept(nn.Sequential(norm)):
        norm(torch.full((2, 2, 3, 3), torch.inf))
    assert norm.running_mean.tolist() == [0.0, 0.0]
    assert norm.running_var.tolist() == [1.0, 1.0]


def test_norms_without_running_statistics_are_left_alone() -> None:
    norm = nn.BatchNorm2d(2, track_running_stats=False)
    with running_statistics_kept(nn.Sequential(norm)):
        norm(torch.randn(2, 2, 3, 3))
    assert norm.num_batches_tracked is None
    assert norm.running_mean is None
