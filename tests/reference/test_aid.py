"""AID against a slow, obvious version: image after image, level after level, weights by `math.exp`."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.pair import Pair
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.distillation.step import DistillationStep
from detdistill.distillation.term import LevelTerm
from detdistill.methods.aid import AIDSettings, wrap_aid
from detdistill.methods.catalogue import build_recipe
from detdistill.methods.parts.weigh import by_teacher_loss
from detdistill.types import Batch, Clock, Knowledge, Need, Observation, TaskLoss
from observations import batch, random_observation, spec
from scenes_in_memory import FAMILIES, scene_batch, tiny_student, tiny_teacher
from thorough import covering

CLOCK = Clock(step=0, total_steps=1)
LOSSES = frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES})
GRANULARITIES = ("image_level", "level", "image", "batch")
ALPHA = 0.7


def slow_difficulty(loss: TaskLoss, image: int, stride: int | None, *, knowledge: Knowledge, by: str) -> float:
    """D of one image and stride, summed number by number."""
    images = range(loss.classification.shape[0]) if by in ("level", "batch") else [image]
    whole = by in ("image", "batch") or stride is None
    found = []
    for i in images:
        total = 0.0
        for level, own in enumerate(loss.strides):
            if whole or own == stride:
                if knowledge is not Knowledge.LOCALIZATION:
                    total += float(loss.classification[i, level])
                if knowledge is not Knowledge.CLASSIFICATION:
                    total += float(loss.box[i, level])
        if loss.roi_classification is not None and loss.roi_box is not None:
            if knowledge is not Knowledge.LOCALIZATION:
                total += float(loss.roi_classification[i])
            if knowledge is not Knowledge.CLASSIFICATION:
                total += float(loss.roi_box[i])
        found.append(total)
    return sum(found) / len(found)


def slow_aid(recipe: Recipe, shown: Observation, taught: Observation, *, scene: Batch, by: str) -> Tensor:
    """Σ gain · mean over images of Σ over levels of exp(−alpha · D) · cost."""
    total = torch.zeros(())
    for weighted in recipe.terms:
        cost = weighted.term(Pair(shown, taught, scene), CLOCK)
        for image in range(len(scene)):
            for column, stride in enumerate(cost.strides):
                difficulty = slow_difficulty(taught.task_loss, image, stride, knowledge=weighted.term.knowledge, by=by)
                weight = math.exp(-ALPHA * difficulty)
                total = total + weighted.gain * weight * cost.values[image, column] / len(scene)
    return total


def random_loss(images: int, *, strides: tuple[int, ...], two_stage: bool) -> TaskLoss:
    generator = torch.Generator().manual_seed(5)
    classification, box = torch.rand((2, images, len(strides)), generator=generator) * 2
    regions = torch.rand((2, images), generator=generator)
    return TaskLoss(
        total=torch.zeros(()),
        strides=strides,
        classification=classification,
        box=box,
        roi_classification=regions[0] if two_stage else None,
        roi_box=regions[1] if two_stage else None,
        other={"centerness": 100 * regions[0]},
    )


def base_recipe() -> Recipe:
    """FRS's feature and class terms, and a box term made of the feature term."""
    student, teacher = spec(channels=3, anchors=2), spec(channels=5, anchors=2)
    recipe = build_recipe("frs", student, teacher, seed=2)
    features = recipe.terms[0].term
    assert isinstance(features, LevelTerm)
    boxes = LevelTerm(
        features.measure,
        strides=features.strides,
        align=features.align,
        knowledge=Knowledge.LOCALIZATION,
        teacher_needs=features.teacher_needs,
    )
    terms = tuple(replace(term, gain=1.0) for term in recipe.terms)
    return Recipe("mixed", (*terms, WeightedTerm("mixed.boxes", boxes, 0.3)))


@pytest.mark.parametrize("two_stage", [False, True], ids=["one-stage", "two-stage"])
@pytest.mark.parametrize("by", GRANULARITIES)
def test_aid_equals_its_slow_reference(by: str, two_stage: bool) -> None:
    scene = batch([(40, 56), (64, 33)], grid=(64, 64))
    base = base_recipe()
    student, teacher = spec(channels=3, anchors=2), spec(channels=5, anchors=2)
    wrapped = wrap_aid(base, student, teacher, AIDSettings(alpha=ALPHA, granularity=by))
    # The teacher's levels in another order than the student's: weights are looked up by stride.
    loss = random_loss(len(scene), strides=(32, 16, 8), two_stage=two_stage)
    trained = [parameter for weighted in base.terms for parameter in weighted.term.parameters()]
    results = []
    for slow in (False, True):
        shown = random_observation(scene, seed=1, channels=3, anchors=2, requires_grad=True)
        taught = replace(random_observation(scene, seed=2, channels=5, anchors=2), task_loss=loss)
        if slow:
            value = slow_aid(base, shown, taught, scene=scene, by=by)
        else:
            value = torch.zeros(())
            for weighted in wrapped.terms:
                cost = weighted.term(Pair(shown, taught, scene), CLOCK)
                weight = weighted.weigh(taught, cost.strides, knowledge=weighted.term.knowledge)
                value = value + weighted.gain * (cost.values * weight).sum(1).mean()
        inputs = [*shown.pyramid.levels, *shown.class_logits.levels, *trained]
        results.append([value.detach(), *torch.autograd.grad(value, inputs)])
    for fast, slow_one in zip(*results, strict=True):
        assert slow_one.abs().sum() > 0
        torch.testing.assert_close(fast, slow_one, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("family", "by"), covering(itertools.product(FAMILIES, GRANULARITIES)))
def test_a_step_weighs_by_what_the_teacher_loses_on_each_image_alone(family: str, by: str) -> None:
    student, teacher = tiny_student(family, norm="group"), tiny_teacher(family)
    base = build_recipe("frs", student.spec, teacher.spec)
    base = replace(base, terms=tuple(replace(term, gain=1.0) for term in base.terms))
    wrapped = wrap_aid(base, student.spec, teacher.spec, AIDSettings(alpha=ALPHA, granularity=by))
    # Term and weight of every image come from a batch of that image alone.
    scene = scene_batch()
    alone = [teacher.observe(scene.image(i), LOSSES | {Need.CLASS_LOGITS}) for i in range(len(scene))]
    joined = joined_losses([seen.task_loss for seen in alone])
    expected = dict.fromkeys([weighted.name for weighted in base.terms], 0.0)
    for weighted in base.terms:
        for i, taught in enumerate(alone):
            shown = student(scene.image(i), frozenset({Need.CLASS_LOGITS}))
            cost = weighted.term(Pair(shown, taught, scene.image(i)), CLOCK)
            for column, stride in enumerate(cost.strides):
                weight = math.exp(-ALPHA * slow_difficulty(joined, i, stride, knowledge=weighted.term.knowledge, by=by))
                expected[weighted.name] += weight * float(cost.values[0, column].detach()) / len(scene)
    terms = tuple(replace(term, warm_up=type(term.warm_up)()) for term in wrapped.terms)
    report = DistillationStep(student, teacher, replace(wrapped, terms=terms))(scene, CLOCK)
    for name, value in expected.items():
        assert float(report.parts[name]) == pytest.approx(value, rel=2e-4)
        assert 0 < float(report.diagnostics[f"{name}/weight"]) < 1


def joined_losses(losses: list[TaskLoss | None]) -> TaskLoss:
    """The losses of images that were observed one by one, as one batch's."""
    first = losses[0]
    two_stage = first.roi_box is not None
    return TaskLoss(
        total=first.total,
        strides=first.strides,
        classification=torch.cat([loss.classification for loss in losses]),
        box=torch.cat([loss.box for loss in losses]),
        roi_classification=torch.cat([loss.roi_classification for loss in losses]) if two_stage else None,
        roi_box=torch.cat([loss.roi_box for loss in losses]) if two_stage else None,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_weighs_the_same_in_any_batch(family: str) -> None:
    teacher: FrozenTeacher = tiny_teacher(family)
    scene = scene_batch()
    together = teacher.observe(scene, LOSSES).task_loss
    columns = (*together.strides, None)
    for knowledge in Knowledge:
        every = by_teacher_loss(together, columns, knowledge=knowledge, alpha=ALPHA)
        for i in range(len(scene)):
            alone = teacher.observe(scene.image(i), LOSSES).task_loss
            one = by_teacher_loss(alone, columns, knowledge=knowledge, alpha=ALPHA)
            torch.testing.assert_close(every[i : i + 1], one, rtol=1e-5, atol=1e-5)
