"""Every method on standardised features against itself on maps that a slow loop standardised: value and gradients."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from detdistill.distillation.pair import Pair
from detdistill.methods.catalogue import METHODS, build_recipe
from detdistill.methods.method import FeatureSettings
from detdistill.types import Clock, Observation
from every_method import awake
from observations import batch, random_observation, spec, with_boxes

SIZES = [(40, 56), (64, 33)]
SCENE = with_boxes(batch(SIZES, grid=(64, 64)), seed=1)
# Four, so that two are inside FGD's blocks: the norm of a single one would leave a gradient of nothing but noise.
LAYOUT = spec(channels=4)
FEATURE_METHODS = sorted(name for name, method in METHODS.items() if issubclass(method.settings, FeatureSettings))
# What sees no channel's mean; an aligner that has nothing to learn, as the slow version has none.
SEES = {"attention": ["channel_gain=0"], "ssim": ["window=5"]}


def slowly(seen: Observation) -> Observation:
    """The maps with every channel of every image standardised by itself, and zeros in the padding."""
    levels = []
    for stride, maps in zip(seen.pyramid.strides, seen.pyramid.levels, strict=True):
        images = []
        for (height, width), image in zip(SIZES, maps, strict=True):
            rows, columns = math.ceil(height / stride), math.ceil(width / stride)
            channels = []
            for channel in image:
                values = [channel[y, x] for y in range(rows) for x in range(columns)]
                mean = sum(values) / len(values)
                variance = sum((value - mean) ** 2 for value in values) / len(values)
                scaled = [(value - mean) / torch.sqrt(variance + 1e-5) for value in values]
                made = torch.zeros_like(channel)
                made[:rows, :columns] = torch.stack(scaled).reshape(rows, columns)
                channels.append(made)
            images.append(torch.stack(channels))
        levels.append(torch.stack(images))
    return replace(seen, pyramid=replace(seen.pyramid, levels=tuple(levels)))


@pytest.mark.parametrize("name", FEATURE_METHODS)
def test_a_method_sees_standardised_maps(name: str) -> None:
    results = []
    has_aligner = any(one.name == "aligner" for one in fields(METHODS[name].settings))
    words = [*(["aligner=identity"] if has_aligner else []), *SEES.get(name, [])]
    for how in ("standardized", "raw"):
        recipe = awake(build_recipe(f"{name}({', '.join([*words, f'features={how}'])})", LAYOUT, LAYOUT, seed=3))
        student = random_observation(SCENE, seed=1, channels=4, requires_grad=True)
        teacher = random_observation(SCENE, seed=2, channels=4)
        seen = (student, teacher) if how == "standardized" else (slowly(student), slowly(teacher))
        pair = Pair(*seen, SCENE)
        values = torch.cat([one.term(pair, Clock(0, 1)).values for one in recipe.terms], dim=1)
        trained = list(dict.fromkeys(p for one in recipe.terms for p in one.term.parameters()))
        gradients = torch.autograd.grad(values.sum(), [*student.pyramid.levels, *trained], allow_unused=True)
        results.append([values.detach(), *gradients])
    for fast, slow in zip(*results, strict=True):
        assert (fast is None) == (slow is None)
        if isinstance(fast, Tensor):
            torch.testing.assert_close(fast, slow, rtol=1e-3, atol=1e-4)
    assert all(gradient.any() for gradient in results[0][1:3])
