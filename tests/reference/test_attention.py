"""The recipe `attention` against a slow, obvious version written from its formula: value and gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detdistill.distillation.pair import Pair
from detdistill.distillation.recipe import Recipe
from detdistill.methods.attention import AttentionSettings, build_attention
from detdistill.methods.parts.non_local import NonLocalBlock
from detdistill.types import Clock, Observation, Pyramid
from observations import batch, random_observation, spec

SIZES = [(40, 56), (64, 33), (9, 64)]
SCENE = batch(SIZES, grid=(64, 64))
STRIDES = (8, 16)
POOLS = {8: 8, 16: 4}
CLOCK = Clock(step=0, total_steps=1)
GAINS = {"features": 4.2e-4, "channels": 2.4e-2, "cells": 2.4e-2, "nonlocal": 4.2e-4}


def cut(maps: Tensor, image: int, stride: int) -> Tensor:
    """The inside cells of one image, (c, h, w)."""
    height, width = SIZES[image]
    return maps[image, :, : math.ceil(height / stride), : math.ceil(width / stride)]


def shared_softmax(values: list[Tensor], temperature: float) -> list[Tensor]:
    """As many times the softmax as there are values."""
    largest = max(float(value.detach()) for value in values)
    powers = [((value - largest) / temperature).exp() for value in values]
    total = sum(powers)
    return [len(values) * power / total for power in powers]


def mask_of_cells(maps: Tensor, temperature: float) -> Tensor:
    strengths = [maps[:, y, x].abs().mean() for y in range(maps.shape[1]) for x in range(maps.shape[2])]
    return torch.stack(shared_softmax(strengths, temperature)).reshape(maps.shape[1:])


def mask_of_channels(maps: Tensor, temperature: float) -> Tensor:
    return torch.stack(shared_softmax([channel.abs().mean() for channel in maps], temperature))


def averaged(theirs: Tensor, ours: Tensor, share: float) -> Tensor:
    return ((theirs + share * ours) / (1 + share)).detach()


def norm(numbers: list[Tensor], settings: AttentionSettings) -> Tensor:
    root = sum(number**2 for number in numbers) ** 0.5
    return root / len(numbers) ** 0.5 if settings.normalize else root


def modules_of(recipe: Recipe, name: str, stride: int) -> dict[str, nn.Module]:
    (term,) = (weighted.term for weighted in recipe.terms if weighted.name == f"attention.{name}")
    return {
        path.removeprefix("measure.").replace(f".stride_{stride}", ""): module
        for path, module in term.named_modules()
        if path.endswith(f"stride_{stride}")
    }


def convolved(conv: nn.Module, maps: Tensor) -> Tensor:
    assert isinstance(conv, nn.Conv2d)
    return F.conv2d(maps[None], conv.weight, conv.bias, padding=conv.padding)[0]


def features(recipe: Recipe, s: Tensor, t: Tensor, stride: int, settings: AttentionSettings) -> Tensor:
    mask = averaged(mask_of_cells(t, 0.1), mask_of_cells(s, 0.1), settings.student_mask)
    channels = torch.ones(len(t))
    if settings.channel_mask is not False:
        channels = mask_of_channels(t, 0.1)
        if len(s) == len(t):
            channels = averaged(channels, mask_of_channels(s, 0.1), settings.student_mask)
    aligned = convolved(modules_of(recipe, "features", stride)["align.convs"], s)
    numbers = [
        (t[c, y, x] - aligned[c, y, x]) * (mask[y, x] * channels[c]) ** 0.5
        for c in range(len(t))
        for y in range(t.shape[1])
        for x in range(t.shape[2])
    ]
    return norm(numbers, settings)


def channels(recipe: Recipe, s: Tensor, t: Tensor, stride: int, settings: AttentionSettings) -> Tensor:
    linear = modules_of(recipe, "channels", stride)["align"]
    assert isinstance(linear, nn.Linear)
    means = [channel.mean() for channel in s]
    numbers = []
    for c, goal in enumerate(t):
        value = linear.bias[c] + sum(linear.weight[c, i] * mean for i, mean in enumerate(means))
        numbers.append(goal.mean() - value)
    return norm(numbers, settings)


def cells(recipe: Recipe, s: Tensor, t: Tensor, stride: int, settings: AttentionSettings) -> Tensor:
    conv = modules_of(recipe, "cells", stride)["align"]
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    mean_s, mean_t = sum(s) / len(s), sum(t) / len(t)
    numbers = []
    height, width = mean_t.shape
    for y in range(height):
        for x in range(width):
            value = conv.bias[0]
            for i in (-1, 0, 1):
                for j in (-1, 0, 1):
                    if 0 <= y + i < height and 0 <= x + j < width:
                        value = value + conv.weight[0, 0, i + 1, j + 1] * mean_s[y + i, x + j]
            numbers.append(mean_t[y, x] - value)
    return norm(numbers, settings)


def largest_in_windows(maps: Tensor, pool: int) -> list[Tensor]:
    """One key (c,) per window that fits; a pool larger than the map takes all there is."""
    kernel_h, kernel_w = min(pool, maps.shape[1]), min(pool, maps.shape[2])
    return [
        maps[:, y : y + kernel_h, x : x + kernel_w].amax((1, 2))
        for y in range(0, maps.shape[1] - kernel_h + 1, kernel_h)
        for x in range(0, maps.shape[2] - kernel_w + 1, kernel_w)
    ]


def non_local(block: nn.Module, maps: Tensor, pool: int) -> Tensor:
    assert isinstance(block, NonLocalBlock)
    theta, phi, g = convolved(block.project, maps).chunk(3)
    keys, values = largest_in_windows(phi, pool), largest_in_windows(g, pool)
    answers = []
    for y in range(maps.shape[1]):
        for x in range(maps.shape[2]):
            answer = sum((theta[:, y, x] * key).sum() * value for key, value in zip(keys, values, strict=True))
            answers.append(answer / len(keys))
    expanded = convolved(block.expand, torch.stack(answers, dim=1).reshape(len(theta), *maps.shape[1:]))
    result = []
    for c, channel in enumerate(expanded):
        mean = channel.mean()
        variance = ((channel - mean) ** 2).mean()
        result.append(maps[c] + block.gain[c] * (channel - mean) / (variance + 1e-5) ** 0.5 + block.bias[c])
    return torch.stack(result)


def relations(recipe: Recipe, s: Tensor, t: Tensor, stride: int, settings: AttentionSettings) -> Tensor:
    modules = modules_of(recipe, "nonlocal", stride)
    ours = convolved(modules["align.convs"], non_local(modules["students"], s, POOLS[stride]))
    theirs = non_local(modules["teachers"], t, POOLS[stride])
    return norm([(a - b) for a, b in zip(ours.flatten(), theirs.flatten(), strict=True)], settings)


SLOW = {"features": features, "channels": channels, "cells": cells, "nonlocal": relations}


def slow(recipe: Recipe, student: Observation, teacher: Observation, settings: AttentionSettings) -> Tensor:
    factor = 1.0 if settings.normalize else math.sqrt(2.0)
    total = torch.zeros(())
    for image in range(len(SIZES)):
        for stride, ours, theirs in zip(STRIDES, student.pyramid.levels, teacher.pyramid.levels, strict=True):
            s, t = cut(ours, image, stride), cut(theirs, image, stride)
            for name, gain in GAINS.items():
                total = total + factor * gain * SLOW[name](recipe, s, t, stride, settings) / len(SIZES)
    return total


def fast(recipe: Recipe, student: Observation, teacher: Observation) -> Tensor:
    return sum(
        (w.gain * w.term(Pair(student, teacher, SCENE), CLOCK).values.sum(1).mean() for w in recipe.terms),
        torch.zeros(()),
    )


def start(recipe: Recipe) -> None:
    """Blocks as they are after some training: at the start their convolutions would not matter."""
    for weighted in recipe.terms:
        for module in weighted.term.modules():
            if isinstance(module, NonLocalBlock):
                nn.init.normal_(module.gain)
                nn.init.normal_(module.bias)


@pytest.mark.parametrize(
    ("student_channels", "settings"),
    [
        (3, AttentionSettings()),
        (4, AttentionSettings(student_mask=0.5)),
        (4, AttentionSettings(channel_mask=False, normalize=True)),
    ],
)
def test_attention_equals_its_slow_reference(student_channels: int, settings: AttentionSettings) -> None:
    torch.manual_seed(0)
    recipe = build_attention(spec(channels=student_channels), spec(channels=4), settings)
    start(recipe)
    trained = [parameter for weighted in recipe.terms for parameter in weighted.term.parameters()]
    student = random_observation(SCENE, seed=1, channels=student_channels, requires_grad=True)
    teacher = random_observation(SCENE, seed=2, channels=4)
    inputs = [*student.pyramid.levels, *trained]
    results = []
    for value in (fast(recipe, student, teacher), slow(recipe, student, teacher, settings)):
        results.append([value.detach(), *torch.autograd.grad(value, inputs)])
    for fast_one, slow_one in zip(*results, strict=True):
        torch.testing.assert_close(fast_one, slow_one, rtol=1e-3, atol=2e-7)
    assert all(gradient.abs().sum() > 0 for gradient in results[0])


def test_other_grids_are_compared_after_resizing_the_student() -> None:
    # The image fills both grids: nothing but the resize happens to the student.
    torch.manual_seed(0)
    scene = batch([(64, 64)])
    settings = AttentionSettings(normalize=True)
    recipe = build_attention(spec(channels=3), spec(channels=4), settings)
    start(recipe)
    teacher = random_observation(scene, seed=2)
    maps = [torch.randn(1, 3, 7, 8), torch.randn(1, 3, 4, 3)]
    resized = [
        F.interpolate(level, goal.shape[-2:], mode="bilinear", align_corners=False)
        for level, goal in zip(maps, teacher.pyramid.levels, strict=True)
    ]
    found = []
    for levels in (maps, resized):
        student = Observation(pyramid=Pyramid(tuple(levels), STRIDES))
        found.append([w.term(Pair(student, teacher, scene), CLOCK).values for w in recipe.terms])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
