"""PKD and CWD against slow versions with loops, written from their formulas: value and gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detdistill.distillation.pair import Pair
from detdistill.distillation.recipe import Recipe
from detdistill.methods.catalogue import build_recipe
from detdistill.methods.parts.align import ConvAlign
from detdistill.types import Clock, Observation
from observations import batch, random_observation, spec

SIZES = [(40, 56), (64, 33)]
SCENE = batch(SIZES, grid=(64, 64))
STRIDES = (8, 16)
CLOCK = Clock(step=0, total_steps=1)


def channels_of(recipe: Recipe, seen: Observation, image: int, level: int, *, aligned: bool) -> list[list[Tensor]]:
    """The values of each channel at the cells inside an image."""
    stride, (height, width) = STRIDES[level], SIZES[image]
    maps = seen.pyramid.levels[level][image, :, : math.ceil(height / stride), : math.ceil(width / stride)]
    align = recipe.terms[0].term.align
    if aligned and isinstance(align, ConvAlign):
        conv = align.convs[f"stride_{stride}"]
        assert isinstance(conv, nn.Conv2d)
        maps = F.conv2d(maps[None], conv.weight, conv.bias)[0]
    return [[*channel.flatten()] for channel in maps]


def standardized(values: list[Tensor], among: list[Tensor]) -> list[Tensor]:
    mean = sum(among) / len(among)
    variance = sum((value - mean) ** 2 for value in among) / len(among)
    return [(value - mean) / torch.sqrt(variance + 1e-5) for value in values]


def slow_pkd(recipe: Recipe, student: Observation, teacher: Observation, *, over_batch: bool) -> Tensor:
    total = torch.zeros(())
    for level in range(len(STRIDES)):
        ours, theirs = (
            [channels_of(recipe, seen, image, level, aligned=seen is student) for image in range(len(SIZES))]
            for seen in (student, teacher)
        )
        for image in range(len(SIZES)):
            cost, count = torch.zeros(()), 0
            for channel in range(len(theirs[image])):
                scaled = []
                for side in (ours, theirs):
                    own = side[image][channel]
                    among = [value for one in side for value in one[channel]] if over_batch else own
                    scaled.append(standardized(own, among))
                for s, t in zip(*scaled, strict=True):
                    cost, count = cost + (s - t) ** 2 / 2, count + 1
            total = total + 10 * cost / count / len(SIZES)
    return total


def slow_cwd(recipe: Recipe, student: Observation, teacher: Observation, *, temperature: float) -> Tensor:
    total = torch.zeros(())
    for level in range(len(STRIDES)):
        for image in range(len(SIZES)):
            ours = channels_of(recipe, student, image, level, aligned=True)
            theirs = channels_of(recipe, teacher, image, level, aligned=False)
            for s, t in zip(ours, theirs, strict=True):
                sum_s = sum(torch.exp(value / temperature) for value in s)
                sum_t = sum(torch.exp(value / temperature) for value in t)
                for a, b in zip(s, t, strict=True):
                    p, q = torch.exp(b / temperature) / sum_t, torch.exp(a / temperature) / sum_s
                    total = total + 10 * temperature**2 * p * torch.log(p / q) / len(theirs) / len(SIZES)
    return total


CASES = {
    "pkd": lambda *seen: slow_pkd(*seen, over_batch=False),
    "pkd(statistics=batch, aligner=conv1x1)": lambda *seen: slow_pkd(*seen, over_batch=True),
    "cwd": lambda *seen: slow_cwd(*seen, temperature=1.0),
    "cwd(temperature=0.5, aligner=conv1x1)": lambda *seen: slow_cwd(*seen, temperature=0.5),
}


@pytest.mark.parametrize("method", CASES)
def test_a_method_equals_its_slow_reference(method: str) -> None:
    wide = 3 if "conv" in method else 4
    recipe = build_recipe(method, spec(channels=wide), spec(channels=4), seed=3)
    (weighted,) = recipe.terms
    results = []
    for fast in (True, False):
        student = random_observation(SCENE, seed=1, channels=wide, requires_grad=True)
        teacher = random_observation(SCENE, seed=2, channels=4)
        if fast:
            value = weighted.gain * weighted.term(Pair(student, teacher, SCENE), CLOCK).values.sum(1).mean()
        else:
            value = CASES[method](recipe, student, teacher)
        inputs = [*student.pyramid.levels, *weighted.term.parameters()]
        results.append([value.detach(), *torch.autograd.grad(value, inputs)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert all(gradient.any() for gradient in results[0][1:3])
