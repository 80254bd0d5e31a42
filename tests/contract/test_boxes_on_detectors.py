"""What a teacher found as objects of the student's own loss: the same promises on every detector."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Sequence, Set
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from detdistill.detectors.base import Detector
from detdistill.detectors.boxes_alone import BoxesAlone
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.found import cost_of
from detdistill.distillation.startup import prove
from detdistill.distillation.step import DistillationStep
from detdistill.distillation.view import CLEAN
from detdistill.methods.catalogue import build_recipe
from detdistill.types import Batch, Clock, Detections, Need, Observation, Pyramid, Targets, TaskLoss
from scenes_in_memory import BOXES, CLASSES, FAMILIES, scene_batch, tiny_student, tiny_teacher
from thorough import covering

pytestmark = pytest.mark.covering("family")

CLOCK = Clock(0, 1)
LOSSES = frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES})
# A teacher that learned nothing is sure of nothing.
ANY_SCORE = "boxes(score=0.001, doubtful=0)"


class Says(BoxesAlone):
    """A black box that says of every image of the scenes what it is told to say."""

    def __init__(self, boxes: Sequence[Sequence[Sequence[float]]] = BOXES, *, score: float = 1.0) -> None:
        super().__init__("oracle", CLASSES)
        self.boxes, self.score = boxes, score
        self.register_buffer("content", torch.zeros(32, dtype=torch.uint8))

    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        found = []
        for image in batch.image_ids:
            boxes = torch.tensor(self.boxes[image % 10], dtype=torch.float32).reshape(-1, 4)
            labels = torch.arange(len(boxes)) % len(CLASSES)
            classes = functional.one_hot(labels, len(CLASSES)).float()
            found.append(Detections(boxes, torch.full((len(boxes),), self.score), labels, classes))
        return tuple(found)


@functools.cache
def known(family: str) -> Detector:
    """Not to be trained."""
    return tiny_student(family).eval()


def against(student: Detector, batch: Batch, found: Sequence[Targets]) -> TaskLoss:
    """The student's loss on what was found."""
    loss = student(replace(batch, found=tuple(found)), frozenset({Need.FOUND_LOSS})).found_loss
    assert loss is not None
    return loss


def certain(targets: Targets, *, score: float = 1.0, ignored: bool = False) -> Targets:
    """The labels as a teacher says them that knows them."""
    count = len(targets.labels)
    return replace(
        targets,
        scores=torch.full((count,), score),
        probabilities=functional.one_hot(targets.labels, len(CLASSES)).float(),
        ignored=torch.full((count,), ignored),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_that_a_teacher_is_sure_of_cost_what_the_task_does(family: str) -> None:
    for index in range(3):
        batch = scene_batch().image(index)
        own = known(family)(batch, LOSSES).task_loss
        found = against(known(family), batch, [certain(batch.targets[0])])
        assert own is not None
        torch.testing.assert_close(cost_of(found).values.sum(), own.total, rtol=1e-6, atol=1e-6)
        if own.classification is not None:
            torch.testing.assert_close(found.classification, own.classification, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_and_finds_cost_at_once_what_each_costs_alone(family: str) -> None:
    """One of the images has nothing found, one no labels, one doubtful boxes; gradients agree too."""
    student, batch = known(family), scene_batch()
    first, second, third = batch.targets
    nothing = third.only(torch.tensor([], dtype=torch.int64))
    doubtful = replace(certain(second, score=0.6), ignored=torch.arange(len(second.labels)) == 0)
    found = (
        certain(nothing),
        doubtful,
        replace(certain(first), probabilities=torch.full((len(first.labels), 3), 1 / 3)),
    )
    batch = replace(batch, targets=(first, second, nothing))
    both = student(replace(batch, found=found), LOSSES | {Need.FOUND_LOSS})
    pairs = ((both.task_loss, student(batch, LOSSES).task_loss), (both.found_loss, against(student, batch, found)))
    tensors = [p for p in student.parameters() if p.requires_grad]
    for one, alone in pairs:
        assert one is not None
        assert alone is not None
        torch.testing.assert_close(cost_of(one).values, cost_of(alone).values, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one.total, alone.total, rtol=1e-5, atol=1e-6)
        ours, theirs = (
            torch.autograd.grad(cost_of(loss).values.sum(), tensors, allow_unused=True, retain_graph=True)
            for loss in (one, alone)
        )
        for mine, other in zip(ours, theirs, strict=True):
            assert (mine is None) == (other is None)
            if mine is not None:
                torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["fcos", "retinanet", "gfl"])
def test_labels_and_finds_are_lost_in_one_call(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    student, batch, asked = known(family), scene_batch(), []
    losses = student.dense_losses
    monkeypatch.setattr(student, "dense_losses", lambda *given: asked.append(len(given[3])) or losses(*given))
    found = tuple(map(certain, batch.targets))
    student(replace(batch, found=found), frozenset({Need.TASK_LOSS, Need.FOUND_LOSS}))
    student(batch, frozenset({Need.TASK_LOSS}))
    assert asked == [2, 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cost_grows_with_the_score_and_what_is_doubted_costs_nothing(family: str) -> None:
    batch = scene_batch().image(0)

    def cost(found: Targets) -> float:
        with torch.no_grad():
            return float(cost_of(against(known(family), batch, [found])).values.sum())

    costs = [cost(certain(batch.targets[0], score=score)) for score in (0.2, 0.5, 0.9, 1.0)]
    assert costs == sorted(costs)
    assert costs[-1] > costs[0]
    nothing = batch.targets[0].only(torch.tensor([], dtype=torch.int64))
    assert cost(certain(batch.targets[0], ignored=True)) <= cost(certain(nothing)) + 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_a_class_in_doubt_costs_the_mean_over_the_classes(family: str) -> None:
    """The loss is linear in the distribution: half of each certain class is what the half-and-half class costs."""
    batch = scene_batch().image(1)
    target = certain(batch.targets[0])

    def cost(classes: Tensor) -> Tensor:
        found = against(known(family), batch, [replace(target, probabilities=classes)])
        return cost_of(found).values.detach().sum()

    one, other = (functional.one_hot(torch.tensor([label, label]), len(CLASSES)).float() for label in (0, 2))
    torch.testing.assert_close(cost((one + other) / 2), (cost(one) + cost(other)) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_costs_the_same_in_any_batch(family: str) -> None:
    batch = scene_batch()
    found = [certain(target, score=0.6) for target in batch.targets]
    with torch.no_grad():
        together = cost_of(against(known(family), batch, found))
        for index in range(len(batch)):
            alone = cost_of(against(known(family), batch.image(index), found[index : index + 1]))
            assert alone.strides == together.strides
            torch.testing.assert_close(alone.values[0], together.values[index], rtol=1e-4, atol=1e-5)


@pytest.mark.covering("method")
@pytest.mark.parametrize(
    ("family", "method"),
    covering(itertools.product(FAMILIES, [ANY_SCORE, f"aid({ANY_SCORE})", f"ikd({ANY_SCORE}, attack_steps=1)"])),
)
def test_a_step_trains_heads_and_backbone_and_never_the_teacher(family: str, method: str) -> None:
    student, teacher = tiny_student(family), tiny_teacher(family)
    step = DistillationStep(student, teacher, build_recipe(method, student.spec, teacher.spec))
    before, batch = teacher.digest(), scene_batch()
    (proof, *_) = prove(step, batch)
    assert proof.gradient_norm > 0
    report = step(batch, CLOCK)
    assert report.total.isfinite()
    assert report.parts["boxes.objects"] > 0
    (report.total - report.total.detach()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters() if p.requires_grad)
    assert teacher.digest() == before
    seen = step.see(batch, step.recipe, task=False)
    cost = step.recipe.terms[0].term(seen.pairs()[CLEAN], CLOCK)
    tensors = {name: p for name, p in student.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(cost.values.sum(), [*tensors.values()], allow_unused=True)
    reached = {name for name, one in zip(tensors, gradients, strict=True) if one is not None and one.abs().sum() > 0}
    assert any(student.in_backbone(name) for name in reached)
    assert any("head" in name or "predictor" in name for name in reached)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_detector_says_how_probable_each_class_is(family: str) -> None:
    with torch.no_grad():
        detections = tiny_teacher(family).detect(scene_batch())
    for found in detections:
        assert found.probabilities is not None
        assert found.probabilities.shape == (len(found.labels), len(CLASSES))
        own = found.probabilities.gather(1, found.labels[:, None])[:, 0]
        # FCOS's score is the root of that and of how central the place is.
        assert (own >= found.scores**2 if family == "fcos" else (own - found.scores).abs() < 1e-6).all()
    assert any(len(found.labels) for found in detections)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_black_box_teaches_every_student_of_the_maps_of_one_pass(family: str) -> None:
    student = tiny_student(family)
    teacher = FrozenTeacher(Says())
    step = DistillationStep(student, teacher, build_recipe("boxes", student.spec, teacher.spec))
    passes = []
    student.register_forward_pre_hook(lambda *_: passes.append(1))
    report = step(scene_batch(), CLOCK)
    assert len(passes) == 1
    assert report.parts["boxes.objects"] > 0
    assert len([name for name in report.diagnostics if name.startswith("boxes.objects/cost_stride")]) >= 3


class TotalAlone(Detector):
    """A student of somebody's own, which knows of no boxes of a teacher and says its loss as one number."""

    def __init__(self, inner: Detector) -> None:
        super().__init__()
        self.inner, self.spec, self.asked = inner, inner.spec, list[frozenset[Need]]()

    def extract(self, batch: Batch) -> Pyramid:
        return self.inner.extract(batch)

    def observe(self, pyramid: Pyramid, batch: Batch, needs: Set[Need]) -> Observation:
        self.asked.append(frozenset(needs))
        seen = self.inner.observe(pyramid, batch, needs & LOSSES)
        loss = seen.task_loss
        return Observation(pyramid, task_loss=None if loss is None else TaskLoss(loss.total))

    def detect(self, batch: Batch) -> Any:
        return self.inner.detect(batch)


def test_a_student_that_says_one_number_is_asked_image_by_image() -> None:
    inner = tiny_student("fcos").eval()
    student = TotalAlone(inner)
    teacher = FrozenTeacher(Says(score=0.7))
    recipe = build_recipe("boxes", student.spec, teacher.spec)
    batch = scene_batch()
    costs = {}
    for one in (student, inner):
        seen = DistillationStep(copy.copy(one), teacher, recipe).see(batch, recipe)
        costs[one] = recipe.terms[0].term(seen.pairs()[CLEAN], CLOCK).values.sum(dim=1)
    torch.testing.assert_close(costs[student], costs[inner], rtol=1e-5, atol=1e-6)
    assert len(student.asked) == 2 + len(batch)
