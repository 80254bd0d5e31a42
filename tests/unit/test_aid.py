"""aid as a wrapper: what it changes about a recipe, what it leaves, and what it refuses."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
import torch

from detdistill.detectors.base import PyramidLayout
from detdistill.distillation.constant import ConstantWeigh, with_constant_weights
from detdistill.distillation.recipe import Fade, Recipe, WarmUp, WeightedTerm
from detdistill.distillation.step import DistillationStep
from detdistill.distillation.view import View
from detdistill.distillation.weigh import Features, MeanOf
from detdistill.errors import CapabilityError, ConfigError
from detdistill.methods.aid import AIDSettings, ByTeacherLoss, wrap_aid
from detdistill.methods.catalogue import build_recipe
from detdistill.methods.parts.weigh import BY_IMAGE_REMEDY, by_teacher_loss
from detdistill.types import Clock, Knowledge, Need, Observation, Pyramid, TaskLoss
from made_up_steps import Known, PixelTerm
from observations import spec, unchecked
from scenes_in_memory import FAMILIES, STUDENT_CHANNELS, scene_batch, tiny_student, tiny_teacher

pytestmark = pytest.mark.covering("family")

CLOCK = Clock(step=3, total_steps=4)
LOSSES = frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES})
STUDENT, TEACHER = spec(channels=3), replace(spec(channels=5), name="retinanet/teacher")
FROSTED = View("frosted")
PLAIN = Recipe("plain", (WeightedTerm("plain.term", PixelTerm(), 1.0),))


def wrap(recipe: Recipe = PLAIN, **settings: Any) -> Recipe:
    return wrap_aid(recipe, STUDENT, TEACHER, unchecked(AIDSettings(), **settings))


def test_everything_but_name_and_weights_stays() -> None:
    def change(stored: Any, generator: torch.Generator) -> Any:
        del generator
        return stored

    clean = WeightedTerm("m.a", Known([[1.0]], (8,)), 0.3, warm_up=WarmUp(steps=5), fades=(Fade(0.5),))
    twin = WeightedTerm("m.b", PixelTerm(), 2.0, view=FROSTED, fades=(Fade(0.7),))
    twins = MappingProxyType({"frosted": lambda teacher, batch: batch.images})
    recipe = Recipe("m", (clean, twin), twins=twins, sample_transform=change, transform_until=0.25)
    wrapped = wrap(recipe)
    assert wrapped.name == "aid(m)"
    weigh = wrapped.terms[0].weigh
    assert isinstance(weigh, ByTeacherLoss)
    assert replace(wrapped, name="m", terms=(replace(wrapped.terms[0], weigh=None), wrapped.terms[1])) == recipe
    assert (weigh.alpha, weigh.granularity, weigh.features) == (0.1, "image_level", Features.TEACHER)
    assert weigh.needs == LOSSES


def test_other_views_are_weighed_only_on_request_by_the_one_weight() -> None:
    terms = (
        WeightedTerm("m.a", PixelTerm(), 1.0),
        WeightedTerm("m.b", PixelTerm(), 1.0),
        WeightedTerm("m.c", PixelTerm(), 1.0, view=FROSTED),
    )
    weighs = [term.weigh for term in wrap(Recipe("m", terms)).terms]
    assert weighs[0] is weighs[1]
    assert weighs[2] is None
    weighs = [term.weigh for term in wrap(Recipe("m", terms), weigh_adversarial=True).terms]
    assert weighs[0] is weighs[1] is weighs[2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"alpha": -0.1},
            "The recipe's alpha must be a finite number of at least 0, got -0.1. Give one such as 1.",
        ),
        (
            {"granularity": "box"},
            "The recipe's granularity must be one of image_level, level, image, batch, got 'box'. Choose one of them.",
        ),
        (
            {"loss_source": "both"},
            "The recipe's loss_source must be one of teacher_features, student_features, got 'both'. "
            "Choose one of them.",
        ),
        (
            {"control": True, "loss_source": "student_features"},
            "The loss_source of aid's control must be teacher_features, got student_features, whose mean changes as "
            "the student learns. Leave loss_source out.",
        ),
        (
            {"control": True, "granularity": "batch"},
            "The granularity of aid's control must be image_level or image, got batch, whose mean depends on which "
            "images share a batch. Leave granularity out.",
        ),
        (
            {"weigh_adversarial": True},
            "aid's weigh_adversarial must be false for 'plain', whose terms all are on the clean view, got true. Wrap "
            "the method in ikd inside aid, as in aid(ikd(frs), weigh_adversarial=true), or leave it out.",
        ),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        wrap(**settings)
    assert str(caught.value) == message


@pytest.mark.parametrize("control", [False, True])
def test_a_recipe_that_is_weighed_already_is_refused(control: bool) -> None:
    with pytest.raises(ConfigError) as caught:
        wrap(wrap(control=control))
    assert str(caught.value) == (
        "The terms of 'aid(plain)' must be free of weights for aid to weigh them, got weights on ['plain.term']. "
        "Wrap the method in aid once."
    )


@pytest.mark.parametrize(
    ("layout", "got"),
    [
        (PyramidLayout((8, 16), 4), "strides [8, 16] and 4 channels (fcos/made-up)"),
        (PyramidLayout((8, 16, 32), 5), "strides [8, 16, 32] and 5 channels (fcos/made-up)"),
    ],
)
def test_the_teachers_heads_must_fit_the_students_features(layout: PyramidLayout, got: str) -> None:
    settings = AIDSettings(loss_source="student_features")
    with pytest.raises(CapabilityError) as caught:
        wrap_aid(PLAIN, replace(STUDENT, pyramid=layout), TEACHER, settings)
    assert str(caught.value) == (
        "The student's pyramid must be the teacher's for aid with loss_source student_features, got "
        f"{got} and strides [8, 16] and 5 channels (retinanet/teacher). Set loss_source to teacher_features."
    )
    wrapped = wrap_aid(PLAIN, replace(STUDENT, pyramid=TEACHER.pyramid), TEACHER, settings)
    assert wrapped.terms[0].weigh.features is Features.STUDENT


@pytest.mark.parametrize("granularity", ["image_level", "level"])
def test_a_level_without_a_loss_is_refused(granularity: Any) -> None:
    layout = TEACHER.class_logits
    coarse = replace(TEACHER, class_logits=replace(layout, strides=(16,)))
    for teacher, missing in ((coarse, [8]), (replace(TEACHER, class_logits=None), [8, 16])):
        with pytest.raises(CapabilityError) as caught:
            wrap_aid(PLAIN, STUDENT, teacher, AIDSettings(granularity=granularity))
        assert str(caught.value) == (
            "The teacher of aid must have a loss on every level that is weighed, [8, 16], got none on "
            f"{missing} from retinanet/teacher. {BY_IMAGE_REMEDY}"
        )
        for works in ("image", "batch"):
            assert wrap_aid(PLAIN, STUDENT, teacher, AIDSettings(granularity=works)).name == "aid(plain)"


def test_only_the_levels_that_are_weighed_need_a_loss_unless_means_are_taken() -> None:
    student = replace(STUDENT, pyramid=PyramidLayout((16, 32), 3))
    teacher = replace(TEACHER, class_logits=replace(TEACHER.class_logits, strides=(16,)))
    assert wrap_aid(PLAIN, student, teacher, AIDSettings()).name == "aid(plain)"
    with pytest.raises(CapabilityError, match=r"\[8, 16\], got none on \[8\]"):
        wrap_aid(PLAIN, student, teacher, AIDSettings(control=True))


def maps() -> Pyramid:
    return Pyramid((torch.zeros(2, 3, 4, 4),), (8,))


def test_an_observation_without_the_losses_is_refused() -> None:
    weigh = ByTeacherLoss(alpha=0.1)
    with pytest.raises(CapabilityError) as caught:
        weigh(Observation(maps()), (8,), knowledge=Knowledge.FEATURE)
    assert str(caught.value) == (
        "The teacher's observation for aid must hold its task loss, got none. Answer Need.TASK_LOSS in observe()."
    )
    with pytest.raises(CapabilityError) as caught:
        weigh(Observation(maps(), task_loss=TaskLoss(torch.ones(()))), (8,), knowledge=Knowledge.FEATURE)
    assert str(caught.value) == (
        "The teacher's task loss must hold the class and box loss of each image and level, got the total alone. "
        "Answer Need.IMAGE_LOSSES in observe()."
    )


def test_a_stride_that_the_losses_lack_is_refused() -> None:
    loss = TaskLoss(torch.ones(()), strides=(8, 16), classification=torch.ones(2, 2), box=torch.ones(2, 2))
    with pytest.raises(CapabilityError) as caught:
        by_teacher_loss(loss, (8, None, 64), knowledge=Knowledge.FEATURE, alpha=0.1)
    assert str(caught.value) == (
        f"The strides that are weighed must be among the teacher's losses [8, 16], got [64]. {BY_IMAGE_REMEDY}"
    )
    own = by_teacher_loss(loss, (8, None, 64), knowledge=Knowledge.FEATURE, alpha=0.1, granularity="image")
    torch.testing.assert_close(own, torch.full((2, 3), -0.4).exp())


@pytest.mark.parametrize(
    ("knowledge", "level", "image"),
    # class 1 and 2, box 4 and 8, RoI class 16, RoI box 32; hundredths at alpha 0.01
    [
        (Knowledge.FEATURE, 1 + 4 + 48, 15 + 48),
        (Knowledge.CLASSIFICATION, 1 + 16, 3 + 16),
        (Knowledge.LOCALIZATION, 4 + 32, 12 + 32),
    ],
)
def test_each_knowledge_reads_its_own_losses_and_never_the_others(
    knowledge: Knowledge, level: float, image: float
) -> None:
    loss = TaskLoss(
        total=torch.full((), 1e6),
        strides=(8, 16),
        classification=torch.tensor([[1.0, 2.0]]),
        box=torch.tensor([[4.0, 8.0]]),
        roi_classification=torch.tensor([16.0]),
        roi_box=torch.tensor([32.0]),
        other={"centerness": torch.tensor([1e6])},
    )
    found = by_teacher_loss(loss, (8, None), knowledge=knowledge, alpha=0.01)
    torch.testing.assert_close(found, torch.tensor([[-level / 100, -image / 100]]).exp())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("granularity", ["image_level", "batch"])
def test_alpha_0_is_the_method_bit_by_bit(family: str, granularity: Any) -> None:
    teacher, first = tiny_teacher(family), tiny_student(family)
    results = []
    for alpha in (None, 0.0, 0.1):
        student = copy.deepcopy(first)
        recipe = build_recipe("frs", student.spec, teacher.spec, seed=1)
        if alpha is not None:
            settings = AIDSettings(alpha=alpha, granularity=granularity)
            recipe = wrap_aid(recipe, student.spec, teacher.spec, settings)
        step = DistillationStep(student, teacher, recipe)
        report = step(scene_batch(), CLOCK)
        report.total.backward()
        gradients = {name: p.grad for name, p in step.named_parameters() if p.grad is not None}
        results.append((report, gradients))
    (plain, expected), (wrapped, gradients), (weighed, _) = results
    assert torch.equal(plain.total, wrapped.total)
    assert plain.parts == wrapped.parts
    assert expected.keys() == gradients.keys()
    assert all(torch.equal(expected[name], gradients[name]) for name in expected)
    assert {name for name in plain.parts if plain.parts[name] > weighed.parts[name]} == {"frs.features", "frs.classes"}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_students_features_are_judged_by_the_teachers_heads(family: str) -> None:
    student, teacher = tiny_student(family), tiny_teacher(family, fpn_channels=STUDENT_CHANNELS)
    recipe = build_recipe("hint", student.spec, teacher.spec)
    wrapped = {
        source: wrap_aid(recipe, student.spec, teacher.spec, AIDSettings(loss_source=source))
        for source in ("student_features", "teacher_features")
    }
    scene = scene_batch()
    step = DistillationStep(student, teacher, wrapped["student_features"])
    report = step(scene, CLOCK)
    pyramid = student.train().extract(scene)
    loss = teacher.observe_pyramid(pyramid, scene, LOSSES).task_loss
    expected = by_teacher_loss(loss, student.spec.pyramid.strides, knowledge=Knowledge.FEATURE, alpha=0.1)
    torch.testing.assert_close(report.diagnostics["hint.features/weight"], expected.mean(), rtol=1e-4, atol=1e-6)
    assert wrapped["student_features"].teacher_needs(step.recipe.terms[0].view) == {Need.PYRAMID}
    other = DistillationStep(student, teacher, wrapped["teacher_features"])(scene, CLOCK)
    assert other.diagnostics["hint.features/weight"] != report.diagnostics["hint.features/weight"]
    report.total.backward()
    assert all(p.grad is None for p in teacher._detector.parameters())


def test_the_control_holds_the_mean_weight() -> None:
    student, teacher = tiny_student("faster_rcnn"), tiny_teacher("faster_rcnn")
    recipe = build_recipe("frs", student.spec, teacher.spec)
    adaptive = wrap_aid(recipe, student.spec, teacher.spec, AIDSettings(alpha=0.5))
    control = wrap_aid(recipe, student.spec, teacher.spec, AIDSettings(alpha=0.5, control=True))
    assert isinstance(control.terms[0].weigh, MeanOf)
    assert control.terms[0].weigh is control.terms[1].weigh
    assert control.teacher_needs(control.terms[0].view) == {Need.PYRAMID, Need.CLASS_LOGITS}
    scene = scene_batch()
    measured = with_constant_weights(control, teacher, [scene])
    assert isinstance(measured.terms[0].weigh, ConstantWeigh)
    told = [DistillationStep(student, teacher, held)(scene, CLOCK).diagnostics for held in (adaptive, measured)]
    for name in ("frs.features", "frs.classes"):
        for stride in student.spec.pyramid.strides:
            key = f"{name}/weight_stride_{stride}"
            torch.testing.assert_close(told[0][key], told[1][key])
    assert told[0]["frs.features/weight"] != told[0]["frs.classes/weight"]
