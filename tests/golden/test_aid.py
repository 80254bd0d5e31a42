"""AID on numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set

import pytest
import torch
from torch import Tensor

from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.distillation.step import DistillationStep
from detdistill.methods.aid import AIDSettings, wrap_aid
from detdistill.methods.parts.weigh import Granularity, by_teacher_loss
from detdistill.types import Batch, Clock, Knowledge, Need, Observation, Pyramid, StepReport, TaskLoss
from made_up_steps import Known, Stub, lit
from observations import spec

CLOCK = Clock(step=0, total_steps=1)
HALF = 10 * math.log(2)  # exp(−0.1 · 10 ln 2) = 1/2
LAYOUT = spec(strides=(8, 16), channels=3)


def judged(
    classification: Sequence[Sequence[float]],
    box: Sequence[Sequence[float]] | None = None,
    *,
    roi: tuple[Sequence[float], Sequence[float]] | None = None,
) -> TaskLoss:
    """Losses by image and level; boxes without error where they are left out."""
    classes = torch.tensor(classification)
    return TaskLoss(
        total=torch.zeros(()),
        strides=tuple(8 * 2**level for level in range(classes.shape[1])),
        classification=classes,
        box=torch.zeros_like(classes) if box is None else torch.tensor(box),
        roi_classification=None if roi is None else torch.tensor(roi[0]),
        roi_box=None if roi is None else torch.tensor(roi[1]),
    )


def weights(loss: TaskLoss, strides: Sequence[int | None], *, by: Granularity = "image_level") -> Tensor:
    return by_teacher_loss(loss, strides, knowledge=Knowledge.FEATURE, alpha=0.1, granularity=by)


class Judge(Stub):
    """A teacher whose losses are given; it has two levels."""

    def __init__(self, loss: TaskLoss) -> None:
        super().__init__(3.0)
        self.spec = LAYOUT
        self.given = loss

    def observe(self, pyramid: Pyramid, batch: Batch, needs: Set[Need]) -> Observation:
        return Observation(pyramid, task_loss=self.given if Need.IMAGE_LOSSES in needs else None)


def report(costs: list[list[float]], loss: TaskLoss, *, gain: float = 1.0, **settings: object) -> StepReport:
    """A step of one term of these costs by image and level, under aid."""
    base = Recipe("known", (WeightedTerm("known.term", Known(costs, (8, 16)), gain),))
    recipe = wrap_aid(base, LAYOUT, LAYOUT, AIDSettings(**settings))
    return DistillationStep(Stub(2.0), FrozenTeacher(Judge(loss)), recipe)(lit(*[0.5] * len(costs)), CLOCK)


@pytest.mark.parametrize(
    ("difficulty", "expected"),
    [(0.0, 1.0), (1.0, 0.9048374), (5.0, 0.6065307), (HALF, 0.5), (10.0, 0.3678794), (50.0, 0.0067379)],
)
def test_a1_the_weight_is_exp_of_minus_a_tenth(difficulty: float, expected: float) -> None:
    # exp(−0.1 · D), D split between class and box loss: 0.25 + 0.75 of it
    loss = judged([[0.25 * difficulty]], [[0.75 * difficulty]])
    torch.testing.assert_close(weights(loss, (8,)), torch.tensor([[expected]]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("gain", "total"), [(1.0, 4.0), (0.5, 2.0)])
def test_a2_levels_are_weighed_one_by_one(gain: float, total: float) -> None:
    # 2 · exp(0) + 4 · exp(−ln 2) = 2 + 2
    parts = report([[2.0, 4.0]], judged([[0.0, HALF]]), gain=gain).parts
    assert float(parts["known.term"]) == pytest.approx(total, abs=1e-6)


@pytest.mark.parametrize("difficulty", [0.0, 3.7, 1e30, math.inf])
def test_a3_alpha_0_is_the_method_itself(difficulty: float) -> None:
    # 2 · 1 + 4 · 1, exactly
    parts = report([[2.0, 4.0]], judged([[difficulty, 0.3]]), alpha=0.0).parts
    assert float(parts["known.term"]) == 6.0


def test_a4_the_weight_takes_no_gradient_and_the_cost_takes_the_weight() -> None:
    # dL/dK = w = (1, 1/2); D gets none
    loss = judged([[0.0, HALF]])
    difficulty = loss.classification.requires_grad_()
    cost = torch.tensor([[2.0, 4.0]], requires_grad=True)
    weight = weights(loss, (8, 16))
    assert not weight.requires_grad
    (cost * weight).sum().backward()
    assert difficulty.grad is None
    torch.testing.assert_close(cost.grad, torch.tensor([[1.0, 0.5]]))


@pytest.mark.parametrize("by", ["image_level", "level", "image", "batch"])
def test_a5_the_larger_the_loss_the_smaller_the_weight(by: Granularity) -> None:
    found = [float(weights(judged([[d]]), (8,), by=by)) for d in (0.0, 0.01, 1.0, 5.0, 80.0, 1e4, math.inf)]
    assert found[:5] == sorted(found[:5], reverse=True)
    assert len(set(found[:5])) == 5
    assert all(0 < weight <= 1 for weight in found)


@pytest.mark.parametrize(
    ("by", "total"),
    [
        # one level, D = (0, 10 ln 2): (2 · 1 + 4 · 0.5) / 2
        ("image_level", 2.0),
        ("image", 2.0),
        # mean D = 5 ln 2: exp(−0.5 ln 2) = 0.7071068, times the mean cost 3
        ("level", 2.1213203),
        ("batch", 2.1213203),
    ],
)
def test_a6_weights_of_images_and_of_the_batch_differ(by: str, total: float) -> None:
    costs, loss = [[2.0, 0.0], [4.0, 0.0]], judged([[0.0, 0.0], [HALF, 0.0]])
    assert float(report(costs, loss, granularity=by).parts["known.term"]) == pytest.approx(total, abs=1e-6)


def test_one_image_weighs_alike_alone_and_as_a_batch() -> None:
    # Where the source takes a batch's mean, at batch size 1 it is the image's: exp(−0.04), exp(−0.14); exp(−0.17)
    loss = judged([[0.1, 0.9]], [[0.2, 0.4]], roi=([0.05], [0.05]))
    by_level, by_image = torch.tensor([[0.9607894, 0.8693582]]), torch.tensor([[0.8436648, 0.8436648]])
    for by, expected in (("image_level", by_level), ("level", by_level), ("image", by_image), ("batch", by_image)):
        torch.testing.assert_close(weights(loss, (8, 16), by=by), expected, rtol=0, atol=1e-6)


def test_a7_two_stages() -> None:
    # RoI class + box 0.3 + 0.2 = 0.5 on every level; RPN (0.1, 0.2, 0, 0, 0) as halves of class and box:
    # exp(−0.06), exp(−0.07), exp(−0.05) three times
    halves = [[0.05, 0.1, 0.0, 0.0, 0.0]]
    loss = judged(halves, halves, roi=([0.3], [0.2]))
    expected = torch.tensor([[0.9417645, 0.9323938, 0.9512294, 0.9512294, 0.9512294]])
    torch.testing.assert_close(weights(loss, (8, 16, 32, 64, 128)), expected, rtol=0, atol=1e-6)


def test_a7_an_image_counts_its_second_stage_once() -> None:
    # 0.1 + 0.2 + 0.5 = 0.8: exp(−0.08), as the column without a level and, by image, everywhere
    halves = [[0.05, 0.1, 0.0, 0.0, 0.0]]
    loss = judged(halves, halves, roi=([0.3], [0.2]))
    expected = torch.tensor([[0.9231163]])
    torch.testing.assert_close(weights(loss, (None,)), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(weights(loss, (8, None), by="image"), expected.expand(1, 2), rtol=0, atol=1e-6)


def test_diagnostics_tell_the_weights_mean_spread_and_levels() -> None:
    # weights (1, 1/2), (1/4, 1/2): mean 0.5625; deviations 0.4375, −0.0625, −0.3125, −0.0625: mean square 0.07421875
    told = report([[2.0, 4.0], [1.0, 1.0]], judged([[0.0, HALF], [2 * HALF, HALF]])).diagnostics
    assert float(told["known.term/weight"]) == pytest.approx(0.5625)
    assert float(told["known.term/weight_sd"]) == pytest.approx(math.sqrt(0.07421875))
    assert float(told["known.term/weight_stride_8"]) == pytest.approx(0.625)
    assert float(told["known.term/weight_stride_16"]) == pytest.approx(0.5)
    # What is shown beside them is the bare cost.
    assert float(told["known.term/cost_stride_8"]) == 1.5
