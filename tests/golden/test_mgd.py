"""MGD on numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from detdistill.distillation.pair import Pair
from detdistill.distillation.term import LevelTerm
from detdistill.methods.mgd import MaskedGeneration, MGDSettings, build_mgd
from detdistill.methods.parts.generation import Generation, kept_cells
from detdistill.types import Clock
from observations import batch, observation, spec

CLOCK = Clock(step=0, total_steps=1)


def term_of(*, channels: int, drop: float, strides: tuple[int, ...] = (8,)) -> LevelTerm:
    """The term with generators that copy what is not negative."""
    layout = spec(strides=strides, channels=channels)
    term = build_mgd(layout, layout, MGDSettings(drop=drop)).terms[0].term
    assert isinstance(term, LevelTerm)
    assert isinstance(term.measure, MaskedGeneration)
    for generator in term.measure.generators.values():
        assert isinstance(generator, Generation)
        for conv in (generator.first, generator.second):
            nn.init.dirac_(conv.weight)
            nn.init.zeros_(conv.bias)
    return term


def test_i9_nothing_dropped_and_a_copying_generator_cost_nothing() -> None:
    maps = torch.rand(2, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    both = observation([maps], strides=(8,))
    cost = term_of(channels=4, drop=0.0)(Pair(both, both, batch([(32, 48), (20, 30)])), CLOCK)
    assert torch.equal(cost.values, torch.zeros(2, 1))


def test_the_cost_is_a_plain_sum() -> None:
    # T = 3, S = 1, 4 channels, 2 × 3 inside cells of 4 × 4: 4 · 6 · (3 − 1)² = 96; RetinaNet's gain 2e-5
    student, teacher = (observation([torch.full((1, 4, 4, 4), value)], strides=(8,)) for value in (1.0, 3.0))
    cost = term_of(channels=4, drop=0.0)(Pair(student, teacher, batch([(16, 24)], grid=(32, 32))), CLOCK)
    assert cost.values.tolist() == [[96.0]]


def test_dropped_cells_cost_the_teachers_square() -> None:
    # T = S = 1 in 2 channels: a kept cell costs 0, a dropped one 2 · 1²
    both = observation([torch.ones(1, 2, 8, 8)], strides=(8,))
    scene = batch([(64, 64)])
    term = term_of(channels=2, drop=0.5)
    student = torch.ones(1, 2, 8, 8, requires_grad=True)
    cost = term(Pair(observation([student], strides=(8,)), both, scene), CLOCK).values
    (gradient,) = torch.autograd.grad(
        term(Pair(observation([3 * student], strides=(8,)), both, scene), CLOCK).values, student
    )
    kept = (gradient != 0).all(1).sum().item()
    assert 0 < kept < 64
    assert cost.item() == 2.0 * (64 - kept)


@pytest.mark.parametrize("drop", [0.45, 0.65])
def test_the_published_share_is_dropped(drop: float) -> None:
    # 100 × 100 cells: the share's standard deviation is sqrt(0.65 · 0.35 / 10⁴) < 0.005
    kept = kept_cells([7], [(800, 800)], 8, grid=(100, 100), drop=drop, device=torch.device("cpu"))
    assert 1 - kept.float().mean().item() == pytest.approx(drop, abs=0.02)


@pytest.mark.parametrize(
    ("family", "gain", "drop", "count"),
    [("retinanet", 2e-5, 0.65, 5), ("gfl", 2e-5, 0.65, 5), ("fcos", 2e-5, 0.65, 5), ("faster_rcnn", 5e-7, 0.45, 4)],
)
def test_published_numbers(family: str, gain: float, drop: float, count: int) -> None:
    strides = (4, 8, 16, 32, 64)
    layout = spec(family=family, strides=strides)
    (weighted,) = build_mgd(layout, layout, MGDSettings()).terms
    assert isinstance(weighted.term, LevelTerm)
    assert (weighted.gain, weighted.term.measure.drop, weighted.term.strides) == (gain, drop, strides[:count])
