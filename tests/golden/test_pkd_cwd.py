"""PKD and CWD on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from detdistill.distillation.pair import Pair
from detdistill.methods.catalogue import build_recipe
from detdistill.types import Clock
from observations import batch, observation, spec

CLOCK = Clock(step=0, total_steps=1)


def costs(method: str, student: Tensor, teacher: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    layout = spec(strides=(8,), channels=teacher.shape[1])
    (weighted,) = build_recipe(method, layout, layout).terms
    grid = (8 * teacher.shape[2], 8 * teacher.shape[3])
    seen = (observation([maps], strides=(8,)) for maps in (student, teacher))
    return weighted.term(Pair(*seen, batch(sizes, grid=grid)), CLOCK).values.detach()


def test_pkd_is_one_minus_the_correlation() -> None:
    # Channel 1: S = (1, 2, 3), T = (2, 4, 6), r = 1. Channel 2: T reversed, r = -1. Channel 3: S = (1, -2, 1), r = 0.
    student = torch.tensor([[[[1.0, 2, 3, 99]], [[1.0, 2, 3, 99]], [[1.0, -2, 1, 99]]]])
    teacher = torch.tensor([[[[20.0, 40, 60, 5]], [[30.0, 20, 10, 5]], [[1.0, 2, 3, 5]]]])
    found = costs("pkd", student, teacher, [(8, 24)])
    assert found.item() == pytest.approx((0 + 2 + 1) / 3, abs=1e-4)


def test_pkd_over_the_batch_is_the_sources() -> None:
    # Two images of one cell each: over the batch S = (0, 2) and T = (7, 3) are (-1, 1) and (1, -1), each image alone 0.
    student, teacher = torch.tensor([0.0, 2]).reshape(2, 1, 1, 1), torch.tensor([7.0, 3]).reshape(2, 1, 1, 1)
    assert costs("pkd", student, teacher, [(8, 8), (8, 8)]).tolist() == [[0.0], [0.0]]
    # (−1 − 1)² / 2
    found = costs("pkd(statistics=batch)", student, teacher, [(8, 8), (8, 8)])
    assert found.flatten().tolist() == pytest.approx([2.0, 2.0], abs=1e-3)


@pytest.mark.parametrize(("family", "gain"), [("retinanet", 10), ("fcos", 10), ("gfl", 10), ("faster_rcnn", 6)])
def test_pkd_takes_the_four_finest_levels_at_the_published_gain(family: str, gain: float) -> None:
    layout = spec(family=family, strides=(8, 16, 32, 64, 128))
    (weighted,) = build_recipe("pkd", layout, layout).terms
    assert weighted.gain == gain
    assert weighted.term.strides == (8, 16, 32, 64)


def test_cwd_is_the_divergence_over_cells() -> None:
    # Channel 1: teacher (3/4, 1/4), student (1/2, 1/2): 3/4 ln(3/2) + 1/4 ln(1/2). Channel 2: the same shares, 0.
    student = torch.tensor([[[[0.0, 0.0, 50]], [[4.0, 5.0, 50]]]])
    teacher = torch.tensor([[[[math.log(3), 0.0, -50]], [[0.0, 1.0, -50]]]])
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    assert costs("cwd", student, teacher, [(8, 16)]).item() == pytest.approx(expected, abs=1e-6)
    # Logits twice as large at twice the temperature: the same shares, times 2².
    found = costs("cwd(temperature=2)", 2 * student, 2 * teacher, [(8, 16)])
    assert found.item() == pytest.approx(4 * expected, abs=1e-6)
    (weighted,) = build_recipe("cwd", spec(), spec()).terms
    assert weighted.gain == 10
