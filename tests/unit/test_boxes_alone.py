"""A teacher that says boxes alone: what it can be asked, and one sentence for everything else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from detdistill.detectors.boxes_alone import BoxesAlone
from detdistill.detectors.drift import norm_drifts
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.detectors.inherit import inherit
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.distillation.startup import prove
from detdistill.distillation.step import DistillationStep, SupervisedStep
from detdistill.distillation.term import Term, paired_strides, pairing_note
from detdistill.errors import CapabilityError, ConfigError
from detdistill.methods.catalogue import METHODS, build_recipe
from detdistill.types import Batch, Clock, Cost, Detections, Knowledge, Need, Observation
from observations import spec
from scenes_in_memory import CLASSES, scene_batch, tiny_student

REFUSED = sorted(name for name, method in METHODS.items() if not method.wraps and name != "boxes")


class Corner(BoxesAlone):
    """Finds the first class in the upper left corner of every image."""

    def __init__(self) -> None:
        super().__init__("corner", CLASSES)
        self.register_buffer("content", torch.zeros(32, dtype=torch.uint8))

    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        one = Detections(torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.tensor([0.9]), torch.tensor([0]))
        return (one,) * len(batch)


class Brighter(Term):
    """Costs what the student's maps are, and reads nothing of the teacher's."""

    knowledge = Knowledge.FEATURE
    student_needs = teacher_needs = frozenset[Need]()

    def forward(self, pair: Any, clock: Clock) -> Cost:
        level = pair.student.maps.levels[0].float()
        return Cost(level.square().mean((1, 2, 3))[:, None], (8,))


@pytest.mark.parametrize("name", REFUSED)
def test_a_method_that_reads_more_than_boxes_is_refused_before_anything_is_built(name: str) -> None:
    with pytest.raises(CapabilityError) as refused:
        build_recipe(name, spec(family="gfl"), Corner().spec)
    assert str(refused.value) == (
        f"The method '{name}' must be one that reads the teacher's boxes alone, as corner shows nothing else, got "
        f"'{name}'. Distil by --method boxes."
    )


def test_a_step_goes_by_what_such_a_teacher_can_say() -> None:
    teacher, student = FrozenTeacher(Corner(), ratio=2.0), tiny_student("fcos")
    assert (teacher.spec.ratio, teacher.device.type, len(teacher.digest())) == (1.0, "cpu", 64)
    recipe = Recipe("brighter", (WeightedTerm("brighter", Brighter(), 1.0),))
    step, batch = DistillationStep(student, teacher, recipe), scene_batch()
    (proof,) = prove(step, batch)
    assert proof.gradient_norm > 0
    assert not proof.perturbed
    report = step(batch, Clock(0, 1))
    assert report.parts["brighter"] > 0
    assert teacher.detect(batch)[0].boxes.tolist() == [[0, 0, 8, 8]]


def test_its_levels_are_not_paired_and_its_norms_do_not_drift() -> None:
    assert paired_strides(spec(), Corner().spec) == ()
    assert pairing_note(spec(), Corner().spec) == "levels are not paired: corner says boxes alone"
    assert pairing_note(spec(strides=(8,)), spec(strides=(16,))) == (
        "levels paired by stride: none; not paired: student: 8; teacher: 16"
    )
    assert norm_drifts(Corner(), [scene_batch()]) == ()


def test_it_neither_learns_nor_is_inherited() -> None:
    alone = "must be a model of its own, got corner, which says boxes alone. Distil from it by --method boxes."
    batch = scene_batch()
    for asked in (
        lambda: SupervisedStep(Corner())(batch, Clock(0, 1)),
        lambda: FrozenTeacher(Corner()).observe(batch, {Need.CLASS_LOGITS}),
        lambda: FrozenTeacher(Corner()).input_gradient(batch),
        lambda: Corner().extract(batch),
    ):
        with pytest.raises(CapabilityError, match=alone):
            asked()
    with pytest.raises(CapabilityError, match="must show some, got corner, which says boxes alone"):
        _ = Corner().spec.maps
    with pytest.raises(CapabilityError, match="must have a pyramid, got none"):
        _ = Observation().maps
    with pytest.raises(ConfigError, match="a neck and heads to inherit, got corner, which says boxes alone"):
        inherit(tiny_student("fcos"), Corner(), source="corner")
