"""A step with images without labels beside the labelled ones: terms see both, the task its own."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.recipe import WeightedTerm
from detdistill.distillation.step import DistillationStep, SupervisedStep
from detdistill.distillation.view import View
from detdistill.methods.catalogue import build_recipe
from detdistill.types import Clock, Need
from made_up_steps import Known, PixelTerm, Stub, Table, lit, step_of
from scenes_in_memory import scene_batch, tiny_student, tiny_teacher

START = Clock(step=0, total_steps=100)
FROSTED = View("frosted")


def test_unlabelled_images_count_in_the_terms_and_not_in_the_task() -> None:
    """Of two images each, the terms' mean is over all four: (0.25 + 0.0625 · 2 + 1) / 4; the task is the labelled's."""
    student, teacher = Stub(2.0), Stub(3.0)
    step = step_of(WeightedTerm("m", PixelTerm(), 2.0), student=student, teacher=teacher)
    report = step(replace(lit(0.5, 0.25), unlabelled=lit(0.25, 1.0)), START)
    assert float(report.parts["task"]) == 0.75
    assert float(report.parts["m"]) == 2 * (0.25 + 0.0625 + 0.0625 + 1) / 4
    assert report.task is not None
    assert float(report.task.detach()) == 0.75
    assert [needs for _, needs in student.asked] == [{Need.TASK_LOSS, Need.PYRAMID}, {Need.PYRAMID}]
    assert len(teacher.asked) == 2


def test_unlabelled_images_have_weights_of_their_own() -> None:
    """Both batches' two images weigh 3 and 0: (3 · 1 + 3 · 1) / 4."""
    weigh = Table({8: (3.0, 0.0)}, nn.Parameter(torch.ones(())))
    step = step_of(WeightedTerm("m", Known([[1.0], [5.0]], (8,)), 1.0, weigh=weigh))
    report = step(replace(lit(0.5, 0.25), unlabelled=lit(0.25, 1.0)), START)
    assert float(report.parts["m"]) == 1.5
    assert len(weigh.asked) == 2


def test_with_a_gain_the_student_learns_what_the_teacher_found() -> None:
    student = Stub(2.0)
    step = DistillationStep(student, FrozenTeacher(Stub(3.0)), step_of().recipe, pseudo_gain=0.5)
    report = step(replace(lit(0.5), unlabelled=lit(0.25)), START)
    assert {name: float(value) for name, value in report.parts.items()} == {"task": 1.0, "pseudo": 0.25}
    assert report.task is not None
    assert float(report.task.detach()) == float(report.total.detach()) == 1.25
    assert student.asked == [(0.5, {Need.TASK_LOSS}), (0.25, {Need.TASK_LOSS})]


def test_batch_norm_of_the_task_knows_labelled_images_alone() -> None:
    """Task loss and running statistics are to the bit those of the batch alone, on a grid of another size too."""
    student, teacher = tiny_student("fcos", norm="batch"), tiny_teacher("fcos")
    recipe = build_recipe("hint", student.spec, teacher.spec, seed=0)
    other = copy.deepcopy(student)
    batch = scene_batch()
    beside = scene_batch(((), ()), sizes=((64, 60), (50, 64)), grid=(64, 64), seed=3)
    alone = SupervisedStep(other).train()(batch, START)
    both = DistillationStep(student, teacher, recipe).train()(replace(batch, unlabelled=beside), START)
    assert torch.equal(both.parts["task"], alone.parts["task"])
    assert float(both.parts["hint.features"]) > 0
    pairs = zip(student.named_buffers(), other.buffers(), strict=True)
    assert [name for (name, mine), its in pairs if not torch.equal(mine, its)] == []


def test_parts_of_a_batch_take_their_share_of_the_unlabelled() -> None:
    batch = replace(lit(0.1, 0.2, 0.3, 0.4), unlabelled=lit(0.5, 0.6))
    shares = [batch.part(first, first + 2).unlabelled for first in (0, 2)]
    assert [round(float(one.images.mean()), 4) for one in shares if one is not None] == [0.5, 0.6]
    assert lit(0.1, 0.2).part(0, 1).unlabelled is None
    assert replace(lit(0.1, 0.2), unlabelled=lit(0.5)).part(0, 1).unlabelled is None
