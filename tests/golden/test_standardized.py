"""Methods on standardised features, on numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from detdistill.distillation.pair import Pair
from detdistill.distillation.recipe import WeightedTerm
from detdistill.methods.catalogue import build_recipe
from detdistill.methods.parts.generation import Generation
from detdistill.types import Clock
from observations import batch, observation, spec

# Two cells of one channel: S = (10, -10), T = (1, 3). Standardised: S = (1, -1), T = (-1, 1), up to the epsilon.
STUDENT, TEACHER = torch.tensor([[[[10.0, -10.0]]]]), torch.tensor([[[[1.0, 3.0]]]])
LAYOUT = spec(strides=(8,), channels=1)
SCENE = batch([(8, 16)])


def cost(method: str, *, student: Tensor = STUDENT, teacher: Tensor = TEACHER) -> dict[str, float]:
    """The costs of a method's terms, before gains."""
    recipe = build_recipe(method, LAYOUT, LAYOUT)
    logits = torch.zeros(1, 1, 3, 1, 2)
    pair = Pair(*(observation([maps], [logits], strides=(8,)) for maps in (student, teacher)), SCENE)
    for weighted in recipe.terms:
        for module in weighted.term.modules():
            if isinstance(module, Generation):
                copying(module)
    return {weighted.name: value_of(weighted, pair) for weighted in recipe.terms}


def copying(generation: Generation) -> None:
    for conv in (generation.first, generation.second):
        nn.init.dirac_(conv.weight)
        nn.init.zeros_(conv.bias)


def value_of(weighted: WeightedTerm, pair: Pair) -> float:
    return float(weighted.term(pair, Clock(step=0, total_steps=1)).values.detach())


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # Both cells differ by 2, squared 4; the mean of both.
        ("hint(features=standardized, normalized=false, aligner=identity)", {"hint.features": 4.0}),
        ("hint(features=raw, aligner=identity)", {"hint.features": (9**2 + 13**2) / 2}),
        # Equal masks: the mean again.
        ("frs(features=standardized, aligner=identity, class_gain=0)", {"frs.features": 4.0}),
        # Nothing dropped, a generator that copies what is not negative: (1, 0) for (-1, 1).
        ("mgd(features=standardized, drop=0)", {"mgd.features": 2.0**2 + 1.0**2}),
        # |T| = (1, 1), and one channel: attentions of 1. Background: half of each cell. No object, so no foreground.
        # |S| = (1, 1) too: both attend alike. The context blocks add nothing yet.
        (
            "fgd(features=standardized)",
            {"fgd.foreground": 0.0, "fgd.background": 4.0, "fgd.attention": 0.0, "fgd.relation": 8.0},
        ),
        # Attentions of 1: the root of 4 + 4.
        ("attention(features=standardized, aligner=identity, cell_gain=0, nonlocal_gain=0)",
         {"attention.features": 8.0**0.5}),
        ("attention(features=standardized, aligner=identity, feature_gain=0, nonlocal_gain=0)",
         {"attention.cells": 8.0**0.5}),
    ],
)  # fmt: skip
def test_two_cells(method: str, expected: dict[str, float]) -> None:
    assert cost(method) == pytest.approx(expected, abs=1e-4)


def test_ssim_of_a_single_channel_has_one_scale_already() -> None:
    # One channel: psi takes any scale away, so standardising first changes nothing.
    raw, standardized = (cost(f"ssim(aligner=identity, features={how})") for how in ("raw", "standardized"))
    assert raw == pytest.approx(standardized, abs=1e-5)
    assert raw["ssim.features"] > 0.5
