"""CrossKD: which reading runs, whose gradients flow, what the heads say of towers, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from detdistill.detectors.frozen import FrozenTeacher, digest
from detdistill.distillation.pair import Pair
from detdistill.distillation.startup import prove
from detdistill.distillation.step import DistillationStep
from detdistill.errors import CapabilityError, ConfigError
from detdistill.methods.catalogue import build_recipe
from detdistill.types import Clock, Need, Observation, Pyramid
from observations import observation, spec
from scenes_in_memory import scene_batch, tiny_student, tiny_teacher

pytestmark = pytest.mark.covering("family")

DENSE = ("fcos", "retinanet", "gfl")
SAID = frozenset({Need.CLASS_LOGITS, Need.BOXES, Need.BOX_DISTRIBUTIONS})
CLOCK = Clock(step=1, total_steps=2)


def parts_of(seen: Observation) -> list[torch.Tensor]:
    maps = (seen.class_logits, seen.boxes, seen.box_distributions)
    return [level for one in maps if one is not None for level in one.levels]


@pytest.mark.parametrize("family", DENSE)
def test_the_heads_say_the_same_wherever_their_towers_begin(family: str) -> None:
    detector, batch = tiny_student(family, head_depth=3).eval(), scene_batch()
    before, names = digest(detector), list(detector.state_dict())
    with torch.no_grad():
        pyramid = detector.extract(batch)
        whole = detector.observe(pyramid, batch, SAID | {Need.TOWERS})
        again = detector.observe_towers(pyramid, pyramid, batch, SAID, after=0)
        assert whole.towers is not None
        assert len(whole.towers.classes) == len(whole.towers.boxes) == detector.spec.towers.depth == 3
        assert detector.spec.towers.channels == whole.towers.classes[0].levels[0].shape[1]
        for after in (1, 2, 3):
            maps = whole.towers.classes[after - 1], whole.towers.boxes[after - 1]
            seen = detector.observe_towers(*maps, batch, SAID, after=after)
            assert all(map(torch.equal, parts_of(seen), parts_of(whole)))
        assert all(map(torch.equal, parts_of(again), parts_of(whole)))
        alone = detector.observe(pyramid, batch, frozenset({Need.TOWERS}))
        assert alone.class_logits is None
        assert torch.equal(alone.towers.boxes[2].levels[1], whole.towers.boxes[2].levels[1])
    assert digest(detector) == before
    assert list(detector.state_dict()) == names


@pytest.mark.parametrize("family", DENSE)
def test_shown_boxes_are_those_that_are_detected(family: str) -> None:
    detector, batch = tiny_student(family, score_threshold=0.0).eval(), scene_batch()
    with torch.no_grad():
        shown = detector(batch, frozenset({Need.BOXES})).boxes
        found = detector.detect(batch)
    assert shown is not None
    for index, (one, (height, width)) in enumerate(zip(found, batch.sizes, strict=True)):
        rows = torch.cat([level[index].movedim(1, -1).reshape(-1, 4) for level in shown.levels])
        limit = torch.tensor([width, height, width, height])
        rows = torch.minimum(rows.clamp(min=0), limit)
        assert len(one.boxes)
        apart = (one.boxes[:, None] - rows).abs().amax(dim=2)
        assert float(apart.amin(dim=1).max()) < 1e-3


@pytest.mark.parametrize("family", DENSE)
@pytest.mark.parametrize("reading", ["towers", "pyramid"])
def test_gradients_reach_the_student_and_never_the_teacher(family: str, reading: str) -> None:
    student, teacher = tiny_student(family, seed=1), FrozenTeacher(tiny_student(family, seed=2))
    before = teacher.digest()
    recipe = build_recipe(f"crosskd(reading={reading})", student.spec, teacher.spec)
    step = DistillationStep(student, teacher, recipe)
    batch = scene_batch()
    proofs = prove(step, batch)
    assert [proof.name for proof in proofs] == [one.name for one in recipe.terms]
    report = step(batch, CLOCK)
    (report.total - report.task).backward()
    learnt = {name for name, one in student.named_parameters() if one.grad is not None and one.grad.any()}
    assert any("backbone" in name for name in learnt)
    towers = [name for name in learnt if "tower" in name or (".conv." in name and "head" in name)]
    assert bool(towers) == (reading == "towers")
    assert not any("cls_logits" in name or "classes" in name for name in learnt)
    assert all(one.grad is None for one in teacher._detector.parameters())
    assert teacher.digest() == before


def test_a_teacher_equal_to_its_student_is_proved_on_noise() -> None:
    student = tiny_student("gfl", seed=1).eval()
    teacher = FrozenTeacher(tiny_student("gfl", seed=1))
    for reading in ("towers", "pyramid"):
        step = DistillationStep(
            student, teacher, build_recipe(f"crosskd(reading={reading})", student.spec, teacher.spec)
        )
        assert all(proof.perturbed and proof.gradient_norm > 0 for proof in prove(step, scene_batch()))


def test_the_step_in_half_precision_and_a_two_stage_student() -> None:
    teacher, batch = tiny_teacher("retinanet"), scene_batch()
    for student in (tiny_student("fcos"), tiny_student("faster_rcnn")):
        step = DistillationStep(student, teacher, build_recipe("crosskd", student.spec, teacher.spec))
        with torch.autocast("cpu", torch.bfloat16):
            report = step(batch, CLOCK)
        assert report.parts["crosskd.classes"] > 0
        report.total.backward()


def test_a_teacher_of_other_classes_and_more_levels() -> None:
    student = tiny_student("fcos", strides=(8, 16))
    teacher = tiny_teacher("fcos", classes=("one", "two", "three", "four", "five"))
    recipe = build_recipe("crosskd", student.spec, teacher.spec)
    report = DistillationStep(student, teacher, recipe)(scene_batch(), CLOCK)
    assert {name for name in report.diagnostics if "cost_stride" in name} == {
        f"crosskd.{part}/cost_stride_{stride}" for part in ("classes", "boxes") for stride in (8, 16)
    }


@pytest.mark.parametrize(
    ("student", "method", "note"),
    [
        ({}, "crosskd", "crosskd: after convolution 1 of 2 of the student's towers, which are as the teacher's, the "
                        "teacher's go on"),
        ({"head_depth": 1}, "crosskd", "crosskd: the teacher's whole heads read the student's aligned pyramid, as the "
                                       "towers differ: 1 × {width} channels and 2 × {width} channels"),
        ({}, "crosskd(reading=pyramid)", "crosskd: the teacher's whole heads read the student's aligned pyramid, as "
                                         "asked"),
    ],
)  # fmt: skip
def test_the_reading_is_told(student: dict[str, int], method: str, note: str) -> None:
    teacher = tiny_student("fcos", head_depth=2).spec
    ours = tiny_student("fcos", **{"head_depth": 2, **student}).spec
    recipe = build_recipe(method, ours, teacher)
    assert recipe.notes == (note.format(width=teacher.towers.channels),)


@pytest.mark.covering("after")
@pytest.mark.parametrize(
    ("family", "depth", "after"), [("gfl", 4, 3), ("retinanet", 4, 3), ("fcos", 4, 2), ("gfl", 1, 1)]
)
def test_the_published_share_of_a_tower(family: str, depth: int, after: int) -> None:
    one = tiny_student(family, head_depth=depth).spec
    assert f"after convolution {after} of {depth}" in build_recipe("crosskd", one, one).notes[0]


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("crosskd(after=3)", "The recipe's after must be from 1 to 1, the convolutions of a tower, got 3."),
        ("crosskd(distribution_gain=1)", "must have box distributions, got none from"),
        ("crosskd(class_gain=-1)", "must be from 0 to 1000000000, got -1.0. Give at least 0."),
        ("crosskd(class_gain=0, box_gain=0)", "got 0 for every term"),
    ],
)
def test_what_cannot_be_is_refused(method: str, said: str) -> None:
    one = tiny_student("fcos").spec
    with pytest.raises((CapabilityError, ConfigError)) as refused:
        build_recipe(method, one, one)
    assert said in str(refused.value)


def test_detectors_that_do_not_fit_are_refused() -> None:
    fcos, rcnn = tiny_student("fcos").spec, tiny_student("faster_rcnn")
    for student, teacher, method, said in (
        (
            fcos,
            rcnn.spec,
            "crosskd",
            "must get a teacher with a class and a box tower, as fcos, retinanet and gfl have",
        ),
        (rcnn.spec, fcos, "crosskd(reading=towers)", "must be equal, got none"),
        (fcos, replace(fcos, ratio=1.5), "crosskd", "a power of two times the student's size, got 1.5"),
    ):
        with pytest.raises(CapabilityError, match=said):
            build_recipe(method, student, teacher)
    nothing = Pyramid((), ())
    with pytest.raises(CapabilityError, match="must have a layout of them, got none from"):
        rcnn.observe_towers(nothing, nothing, scene_batch(), SAID, after=0)


def test_a_pair_without_heads_says_so() -> None:
    seen = observation([torch.zeros(1, 4, 1, 1)] * 2, [torch.zeros(1, 1, 3, 1, 1)] * 2)
    (first, *_) = build_recipe("crosskd(reading=pyramid)", spec(), spec()).terms
    with pytest.raises(CapabilityError, match="must be made with them, got none"):
        first.term(Pair(seen, seen, scene_batch()), CLOCK)
