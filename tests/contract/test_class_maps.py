"""Teachers of other classes: every method teaches what both know, and nothing of what the teacher does not."""

from __future__ import annotations

import copy
import functools
import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from detdistill.detectors.base import Detector, DetectorSpec, PyramidLayout, QueryLayout
from detdistill.detectors.boxes_alone import BoxesAlone
from detdistill.detectors.catalogue import build_detector, parse_detector
from detdistill.detectors.class_map import ClassMap, read_pairs
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.detectors.inherit import initialise
from detdistill.detectors.mapped import MappedDetector
from detdistill.distillation.pair import Pair, inside_cells
from detdistill.distillation.recipe import WeightedTerm
from detdistill.distillation.step import DistillationStep
from detdistill.methods.catalogue import build_recipe
from detdistill.types import Batch, ClassKind, Detections, Need, Observation, Pyramid, Queries
from every_method import ALONE, CLOCK, OPTIONS, cost_of, families_of
from pairs_in_memory import Couple, known_pair, pair_of, student_of, with_twins
from scenes_in_memory import CLASSES, FAMILIES, TEACHER_CHANNELS, leaves_of, scene_batch, tiny_settings, tiny_student
from thorough import covering

# The teacher's classes, and what is written beside; the student's are car, truck and pedestrian.
SITUATIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "equal": (("car", "truck", "pedestrian"), ""),
    "superset": (("dog", "car", "truck", "cat", "pedestrian"), ""),
    "subset": (("truck", "car"), ""),
    "reordering": (("pedestrian", "car", "truck"), ""),
    "partial overlap": (("car", "boat", "truck"), ""),
    "merged": (("van", "lorry", "Pedestrian", "dog"), "van=truck, lorry=truck"),
}
KINDS = ("rtdetr_v2_tiny", "detr_tiny")
ANY_BOX = "boxes(score=0.001, doubtful=0)"
EVERY = (*ALONE, "ld(class_gain=10)", "aid(frs)", f"ikd(hint{OPTIONS['ikd']})")
CASES = [(name, families_of(name)[at % len(families_of(name))]) for at, name in enumerate((*EVERY, ANY_BOX))]
TAUGHT = [(method, family, situation) for method in EVERY for family in families_of(method) for situation in SITUATIONS]


@functools.cache
def own(family: str, classes: tuple[str, ...]) -> Detector:
    settings = tiny_settings(family, backbone="test_efficientnet", fpn_channels=TEACHER_CHANNELS)
    return build_detector(settings, classes, seed=7).eval()


def shown(family: str, situation: str, **words: Any) -> MappedDetector:
    classes, written = SITUATIONS[situation]
    mapped = ClassMap.between(classes, CLASSES, pairs=read_pairs(written), **words)
    return MappedDetector(copy.deepcopy(own(family, classes)), mapped)


def reordered(family: str) -> Detector:
    """The teacher whose class layers have the student's order: the same function of an image."""
    teacher = copy.deepcopy(own(family, CLASSES))
    initialise(teacher, own(family, SITUATIONS["reordering"][0]), name="t")
    return teacher


def step_with(teacher: Detector, student: Detector, method: str) -> DistillationStep:
    frozen = FrozenTeacher(teacher)
    return DistillationStep(student, frozen, build_recipe(method, student.spec, frozen.spec, seed=3))


@pytest.mark.parametrize(("method", "family"), CASES)
def test_a_reordered_teacher_teaches_as_one_with_its_class_layers_reordered(method: str, family: str) -> None:
    batch, reports = scene_batch(), []
    for teacher in (shown(family, "reordering"), reordered(family)):
        reports.append(step_with(teacher, tiny_student(family), method)(batch, CLOCK))
    for name, part in reports[0].parts.items():
        torch.testing.assert_close(part, reports[1].parts[name], rtol=1e-6, atol=1e-6)


@functools.cache
def in_situation(situation: str, family: str) -> Couple:
    teacher = FrozenTeacher(shown(family, situation))
    return pair_of(student_of(family), teacher, with_twins(scene_batch(), teacher))


def require_taught_alone(weighted: WeightedTerm, pair: Couple) -> None:
    """A finite cost that reaches what the student shows, and of its class logits those that the teacher knows alone."""
    cost, seen = cost_of(weighted, pair.seen).values, pair.seen.students[weighted.view]
    assert cost.isfinite().all(), weighted.name
    assert (cost > 0).any(), weighted.name
    gradients = torch.autograd.grad(cost.sum(), leaves_of(seen), allow_unused=True)
    assert all(one is None or one.isfinite().all() for one in gradients), weighted.name
    assert any(one is not None and one.any() for one in gradients), weighted.name
    logits, first = seen.class_logits, len(seen.maps.levels)
    if logits is None or logits.kind is not ClassKind.SIGMOID:
        return
    taught = [one for one in gradients[first : first + len(logits.levels)] if one is not None]
    for label, name in enumerate(CLASSES) if taught else ():
        assert any(bool(one[:, :, label].any()) for one in taught) == (name not in pair.teacher.spec.unknown), name


@pytest.mark.parametrize(("method", "family", "situation"), covering(TAUGHT))
def test_every_method_teaches_in_every_situation(method: str, family: str, situation: str) -> None:
    pair = in_situation(situation, family)
    for weighted in pair.awake_recipe(method).terms:
        require_taught_alone(weighted, pair)
        if situation == "equal":
            bare = cost_of(weighted, known_pair(family, family).seen)
            torch.testing.assert_close(cost_of(weighted, pair.seen).values, bare.values)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_boxes_teach_in_every_situation(situation: str) -> None:
    """Objects are of what both know; where nobody labelled, a teacher that knows less knows no background."""
    family = FAMILIES[[*SITUATIONS].index(situation) % len(FAMILIES)]
    teacher, student, batch = FrozenTeacher(shown(family, situation)), tiny_student(family), scene_batch()
    recipe = build_recipe(ANY_BOX, student.spec, teacher.spec)
    unknown = [CLASSES.index(name) for name in teacher.spec.unknown]
    for found, target, size in zip(teacher.detect(batch), batch.targets, batch.sizes, strict=True):
        objects = recipe.learnable.objects(found, target, classes=len(CLASSES))
        new = slice(len(target.labels), None)
        assert not {*objects.labels[new].tolist()} & {*unknown}
        assert not objects.probabilities[new][:, unknown].any()
        torch.testing.assert_close(objects.probabilities.sum(1), torch.ones(len(objects.labels)))
        nothing = target.only(torch.tensor([], dtype=torch.int64))
        alone = recipe.learnable.objects(found, nothing, classes=len(CLASSES), unlabelled=size)
        whole = alone.ignored & (alone.boxes == torch.tensor([0.0, 0, size[1], size[0]])).all(1)
        assert whole.any() == bool(unknown)
    step = DistillationStep(student, teacher, recipe)
    report = step(batch, CLOCK)
    assert report.total.isfinite()
    assert report.parts["boxes.objects"] > 0
    (report.total - report.task).backward()
    assert any(one.grad.any() for name, one in student.named_parameters() if one.grad is not None and "head" in name)


@functools.cache
def asking(name: str, classes: tuple[str, ...], seed: int) -> Detector:
    pytest.importorskip("transformers")
    return build_detector(parse_detector(f"hf:{name}"), classes, seed=seed).eval()


@pytest.mark.filterwarnings("ignore:.*:UserWarning:transformers.*")
@pytest.mark.parametrize("situation", SITUATIONS)
def test_queries_teach_in_every_situation(situation: str) -> None:
    (classes, written), batch = SITUATIONS[situation], scene_batch()
    kind = KINDS[[*SITUATIONS].index(situation) % len(KINDS)]
    mapped = ClassMap.between(classes, CLASSES, pairs=read_pairs(written))
    teacher, student = FrozenTeacher(MappedDetector(asking(kind, classes, 7), mapped)), asking(KINDS[0], CLASSES, 0)
    recipe = build_recipe("queries", student.spec, teacher.spec)
    with torch.no_grad():
        said = student(batch, {Need.QUERIES}).queries
    logits, boxes = said.logits.clone().requires_grad_(), said.boxes.clone().requires_grad_()
    ours = Observation(queries=replace(said, logits=logits, boxes=boxes))
    pair = Pair(ours, teacher.observe(batch, {Need.QUERIES}), batch)
    for weighted, reached in zip(recipe.terms, (logits, boxes), strict=True):
        cost = weighted.term(pair, CLOCK).values
        assert cost.isfinite().all()
        assert (cost > 0).all()
        (gradient,) = torch.autograd.grad(cost.sum(), reached, retain_graph=True)
        assert gradient.isfinite().all()
        assert gradient.any()
        if reached is logits:
            assert gradient.flatten(0, 1).any(0).tolist() == [one not in mapped.unknown for one in CLASSES]


@pytest.mark.parametrize(("family", "situation"), covering(itertools.product(FAMILIES, SITUATIONS)))
def test_detections_are_of_the_students_classes(family: str, situation: str) -> None:
    teacher = shown(family, situation)
    unknown = [CLASSES.index(name) for name in teacher.spec.unknown]
    with torch.no_grad():
        found = teacher.detect(scene_batch())
    labels = torch.cat([one.labels for one in found])
    assert len(labels)
    assert set(labels.tolist()) <= set(range(len(CLASSES))) - set(unknown)


@pytest.mark.parametrize("merge", ["sum", "max"])
def test_merged_logits(merge: Any) -> None:
    """Of the odds of several classes that exclude each other the sum, or the highest; and their gradients."""
    teacher, batch = shown("fcos", "merged", merge=merge), scene_batch()
    bare = own("fcos", SITUATIONS["merged"][0])
    with torch.no_grad():
        pyramid = bare.extract(batch)
        theirs = bare.observe(pyramid, batch, {Need.CLASS_LOGITS}).class_logits
        ours = teacher.observe(pyramid, batch, {Need.CLASS_LOGITS}).class_logits
    assert ours is not None
    assert theirs is not None
    assert ours.labels == (1, 2)
    for level, before in zip(ours.levels, theirs.levels, strict=True):
        odds = before.exp()
        merged = odds[:, :, 0] + odds[:, :, 1] if merge == "sum" else before[:, :, :2].amax(2).exp()
        torch.testing.assert_close(level[:, :, 0].sigmoid(), merged / (1 + merged), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(level[:, :, 1], before[:, :, 2])


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_teacher_does_not_know_is_no_fault_of_its(family: str) -> None:
    """Its own loss on an image whose only object it does not know is that on an image without objects."""
    needs = frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES})
    teacher, none = FrozenTeacher(shown(family, "subset")), ((),)
    alone = scene_batch(boxes=(((8, 8, 98, 68),),), sizes=((96, 128),))
    (target,) = alone.targets
    person = torch.full_like(target.labels, CLASSES.index("pedestrian"))
    unknown = teacher.observe(replace(alone, targets=(replace(target, labels=person),)), needs).task_loss
    empty = teacher.observe(scene_batch(boxes=none, sizes=((96, 128),)), needs).task_loss
    car = teacher.observe(alone, needs).task_loss
    assert unknown is not None
    assert empty is not None
    assert car is not None
    torch.testing.assert_close(unknown.total, empty.total)
    assert not torch.isclose(car.total, empty.total)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_object_of_a_merged_class_is_what_the_teacher_holds_it_for(family: str) -> None:
    """Where every object is given to either of two classes in turn, the loss is never above the worse of both."""
    needs = frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES})
    alone = scene_batch(boxes=(((8, 8, 98, 68),),), sizes=((96, 128),))
    (target,) = alone.targets
    truck = torch.full_like(target.labels, CLASSES.index("truck"))
    bare = FrozenTeacher(copy.deepcopy(shown(family, "merged").detector))
    either = [
        bare.observe(replace(alone, targets=(replace(target, labels=torch.full_like(truck, label)),)), needs).task_loss
        for label in (0, 1)
    ]
    got = FrozenTeacher(shown(family, "merged")).observe(
        replace(alone, targets=(replace(target, labels=truck),)), needs
    )
    assert got.task_loss is not None
    assert any(one is not None and torch.equal(got.task_loss.total, one.total) for one in either)


def test_a_dense_teacher_never_finds_what_the_student_lacks() -> None:
    teacher, batch = shown("fcos", "superset"), scene_batch()
    with torch.no_grad():
        seen = teacher.detector(batch, {Need.CLASS_LOGITS}).class_logits
    for level, stride in zip(seen.levels, seen.strides, strict=True):
        inside = inside_cells(batch.sizes, stride, grid=level.shape[-2:], device=level.device)
        assert inside.any()
        assert (level[:, :, [0, 3]] < -20).all()
        assert (level[:, :, [1, 2, 4]] > -20).all()


@pytest.mark.parametrize(("merge", "truck"), [("sum", 0.7), ("max", 0.4)])
def test_a_teacher_that_says_boxes_alone(merge: Any, truck: float) -> None:
    """Its boxes and their class probabilities are the student's; what suppresses each other is one object."""
    classes, written = SITUATIONS["merged"]
    box = torch.tensor([[8.0, 8.0, 98.0, 68.0]])
    said = Detections(
        torch.cat([box, box, box + 30]),
        torch.tensor([0.4, 0.3, 0.2]),
        torch.tensor([0, 1, 3]),
        torch.tensor([[0.4, 0.3, 0.1, 0.2]]).expand(3, -1),
    )

    class Boxes(BoxesAlone):
        def detect(self, batch: Batch) -> tuple[Detections, ...]:
            return (said,) * len(batch)

    mapped = ClassMap.between(classes, CLASSES, pairs=read_pairs(written), merge=merge)
    found = MappedDetector(Boxes("boxes", classes), mapped).detect(scene_batch())[0]
    assert found.labels.tolist() == [CLASSES.index("truck")]
    assert found.scores.tolist() == pytest.approx([0.4])
    assert found.probabilities is not None
    assert found.probabilities[0].tolist() == pytest.approx([0.0, truck, 0.1])


@pytest.mark.parametrize("kind", [ClassKind.SOFTMAX, ClassKind.SIGMOID])
def test_queries_speak_of_what_both_know(kind: ClassKind) -> None:
    """Shares among classes and none: merged ones add up, and what one side lacks is no object to the other."""
    classes, written = SITUATIONS["merged"]
    shares = torch.tensor([[[0.1, 0.2, 0.15, 0.25, 0.3]]])
    logits = shares.log() if kind is ClassKind.SOFTMAX else shares[..., :-1].logit()

    class Asking(Detector):
        spec = DetectorSpec("asking", classes, PyramidLayout((8,), 4), queries=QueryLayout(1, kind, classes))

        def extract(self, batch: Batch) -> Pyramid:
            return Pyramid((), ())

        def observe(self, pyramid: Pyramid, batch: Batch, needs: Any) -> Observation:
            return Observation(pyramid, queries=Queries(logits, torch.zeros(1, 1, 4), kind))

        def detect(self, batch: Batch) -> tuple[Detections, ...]:
            return ()

    mapped = ClassMap.between(classes, CLASSES, pairs=read_pairs(written))
    teacher, batch = MappedDetector(Asking(), mapped), scene_batch()
    assert teacher.spec.queries == QueryLayout(1, kind, ("truck", "pedestrian"))
    theirs = teacher.observe(Pyramid((), ()), batch, {Need.QUERIES})
    own = torch.tensor([[[0.4, 0.3, 0.2, 0.1]]])
    student = Queries(own.log() if kind is ClassKind.SOFTMAX else own[..., :-1].logit(), torch.zeros(1, 1, 4), kind)
    student.logits.requires_grad_()
    pair = Pair(Observation(queries=student), theirs, batch.image(0))
    spec = DetectorSpec("student", CLASSES, PyramidLayout((8,), 4), queries=QueryLayout(1, kind, CLASSES))
    (gradient,) = torch.autograd.grad(
        build_recipe("queries(box_gain=0)", spec, teacher.spec).terms[0].term(pair, CLOCK).values.sum(), student.logits
    )
    assert (gradient != 0).flatten().tolist() == [kind is ClassKind.SOFTMAX, *[True] * (student.logits.shape[2] - 1)]
    ours = pair.student
    assert theirs.queries is not None
    assert ours.queries is not None
    assert theirs.queries.labels == ours.queries.labels == (1, 2)
    said, seen = theirs.queries.logits[0, 0], ours.queries.logits[0, 0].detach()
    if kind is ClassKind.SOFTMAX:
        torch.testing.assert_close(said.softmax(0), torch.tensor([0.3, 0.15, 0.55]))
        torch.testing.assert_close(seen.softmax(0), torch.tensor([0.3, 0.2, 0.5]))
    else:
        odds = 0.1 / 0.9 + 0.2 / 0.8
        torch.testing.assert_close(said.sigmoid(), torch.tensor([odds / (1 + odds), 0.15]))
        torch.testing.assert_close(seen.sigmoid(), torch.tensor([0.3, 0.2]))
