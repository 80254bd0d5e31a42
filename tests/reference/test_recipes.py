"""Every recipe against a slow, obvious version written from its formula: value and gradients."""

from __future__ import annotations

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detdistill.distillation.pair import Pair
from detdistill.distillation.recipe import Recipe
from detdistill.methods.frs import FRSSettings, build_frs
from detdistill.methods.hint import HintSettings, build_hint
from detdistill.methods.parts.align import ConvAlign
from detdistill.methods.ssim import SSIMSettings, build_ssim
from detdistill.types import Clock, Observation
from observations import batch, random_observation, spec

SIZES = [(40, 56), (64, 33)]
SCENE = batch(SIZES, grid=(64, 64))
STRIDES = (8, 16)
STUDENT, TEACHER = spec(channels=3, anchors=2), spec(channels=5, anchors=2)
CLOCK = Clock(step=0, total_steps=1)


def observations() -> tuple[Observation, Observation]:
    student = random_observation(SCENE, seed=1, channels=3, anchors=2, requires_grad=True)
    return student, random_observation(SCENE, seed=2, channels=5, anchors=2)


def loss(recipe: Recipe, student: Observation, teacher: Observation) -> Tensor:
    return sum(
        (w.gain * w.term(Pair(student, teacher, SCENE), CLOCK).values.sum(1).mean() for w in recipe.terms),
        torch.zeros(()),
    )


def cut(maps: Tensor, image: int, stride: int) -> Tensor:
    """The inside cells of one image, (c, h, w)."""
    height, width = SIZES[image]
    return maps[image, ..., : math.ceil(height / stride), : math.ceil(width / stride)]


def aligned(recipe: Recipe, maps: Tensor, stride: int) -> Tensor:
    align = recipe.terms[0].term.align
    assert isinstance(align, ConvAlign)
    conv = align.convs[f"stride_{stride}"]
    assert isinstance(conv, nn.Conv2d)
    made = F.conv2d(maps[None], conv.weight, conv.bias, padding=conv.padding)[0]
    return made.clamp(min=0) if align.relu else made


def standardize(channel: Tensor) -> Tensor:
    mean = channel.sum() / channel.numel()
    variance = ((channel - mean) ** 2).sum() / channel.numel()
    return (channel - mean) / torch.sqrt(variance + 1e-5)


def slow_hint(recipe: Recipe, student: Observation, teacher: Observation, settings: HintSettings) -> Tensor:
    total = torch.zeros(())
    for image in range(len(SIZES)):
        for stride, ours, theirs in zip(STRIDES, student.pyramid.levels, teacher.pyramid.levels, strict=True):
            s, t = aligned(recipe, cut(ours, image, stride), stride), cut(theirs, image, stride)
            cost, cells = torch.zeros(()), 0
            for channel in range(t.shape[0]):
                a, b = s[channel], t[channel]
                if settings.normalized:
                    a, b = standardize(a), standardize(b)
                for y in range(t.shape[1]):
                    for x in range(t.shape[2]):
                        cost = cost + (a[y, x] - b[y, x]).abs() ** settings.p
                        cells += 1
            total = total + settings.gain * cost / cells / len(SIZES)
    return total


def slow_frs(recipe: Recipe, student: Observation, teacher: Observation, settings: FRSSettings) -> Tensor:
    assert student.class_logits is not None
    assert teacher.class_logits is not None
    total = torch.zeros(())
    feature_gain, class_gain = 0.005, 0.02
    if settings.scale == "per_channel":
        feature_gain *= 256 / teacher.pyramid.levels[0].shape[1]
        class_gain *= 9 * 80 / teacher.class_logits.levels[0][0, ..., 0, 0].numel()
    for image in range(len(SIZES)):
        for level, stride in enumerate(STRIDES):
            s = aligned(recipe, cut(student.pyramid.levels[level], image, stride), stride)
            t = cut(teacher.pyramid.levels[level], image, stride)
            if settings.standardize:
                s, t = (torch.stack([standardize(channel) for channel in maps]) for maps in (s, t))
            p = cut(student.class_logits.levels[level], image, stride).sigmoid()
            q = cut(teacher.class_logits.levels[level], image, stride).sigmoid()
            features, classes, mass = torch.zeros(()), torch.zeros(()), torch.zeros(())
            for y in range(t.shape[1]):
                for x in range(t.shape[2]):
                    mask = max(q[a, k, y, x] for a in range(q.shape[0]) for k in range(q.shape[1]))
                    mass = mass + mask
                    for c in range(t.shape[0]):
                        features = features + mask * (t[c, y, x] - s[c, y, x]) ** 2
                    for a in range(q.shape[0]):
                        for k in range(q.shape[1]):
                            target, score = q[a, k, y, x], p[a, k, y, x]
                            bce = -(target * score.log() + (1 - target) * (1 - score).log())
                            classes = classes + mask * bce
            total = total + (feature_gain * features / mass + class_gain * classes / mass) / len(SIZES)
    return total


def reflect(index: int, size: int) -> int:
    while size > 1 and not 0 <= index < size:
        index = -index if index < 0 else 2 * (size - 1) - index
    return index if size > 1 else 0


@functools.cache
def written_out(height: int, width: int, window: int) -> Tensor:
    """What every cell of a map adds to every cell of its blurred one."""
    half = window // 2
    weights = [math.exp(-((offset / 1.5) ** 2) / 2) for offset in range(-half, half + 1)]
    weights = [weight / sum(weights) for weight in weights]
    found = [[0.0] * (height * width) for _ in range(height * width)]
    for y in range(height):
        for x in range(width):
            for i, weight_y in enumerate(weights):
                for j, weight_x in enumerate(weights):
                    seen = reflect(y + i - half, height) * width + reflect(x + j - half, width)
                    found[y * width + x][seen] += weight_y * weight_x
    return torch.tensor(found)


def slow_blur(maps: Tensor, window: int) -> Tensor:
    return (written_out(*maps.shape, window) @ maps.flatten()).reshape(maps.shape)


def unit_range(images: list[Tensor], over: str) -> list[Tensor]:
    """Every image's maps (c, h, w), moved by the least and the greatest of the values that go together."""
    rescaled = []
    for maps in images:
        together = {"channel": maps.flatten(1), "image": maps.reshape(1, -1), "batch": None}[over]
        if together is None:
            together = torch.cat([every.flatten() for every in images])[None]
        low, high = together.amin(1)[:, None, None], together.amax(1)[:, None, None]
        rescaled.append((maps - low) / (high - low + 1e-8))
    return rescaled


def slow_ssim(recipe: Recipe, student: Observation, teacher: Observation, settings: SSIMSettings) -> Tensor:
    total = torch.zeros(())
    for stride, ours, theirs in zip(STRIDES, student.pyramid.levels, teacher.pyramid.levels, strict=True):
        images_s = [aligned(recipe, cut(ours, image, stride), stride) for image in range(len(SIZES))]
        images_t = [cut(theirs, image, stride) for image in range(len(SIZES))]
        over = settings.rescale_over
        for s, t in zip(unit_range(images_s, over), unit_range(images_t, over), strict=True):
            channels = []
            for x, y in zip(s, t, strict=True):
                mean_x, mean_y = slow_blur(x, settings.window), slow_blur(y, settings.window)
                var_x = slow_blur(x * x, settings.window) - mean_x**2
                var_y = slow_blur(y * y, settings.window) - mean_y**2
                covariance = slow_blur(x * y, settings.window) - mean_x * mean_y
                luminance = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
                rest = (2 * covariance + 9e-4) / (var_x + var_y + 9e-4)
                channels.append(((1 - luminance * rest) / 2).mean())
            total = total + settings.gain * torch.stack(channels).mean() / len(SIZES)
    return total


CASES = [
    ("hint", build_hint, slow_hint, HintSettings(p=1, normalized=False)),
    ("hint", build_hint, slow_hint, HintSettings(p=2, normalized=False)),
    ("hint", build_hint, slow_hint, HintSettings(p=1, normalized=True)),
    ("hint", build_hint, slow_hint, HintSettings(p=2, normalized=True)),
    ("frs", build_frs, slow_frs, FRSSettings()),
    ("frs", build_frs, slow_frs, FRSSettings(standardize=True, aligner="conv1x1")),
    ("frs", build_frs, slow_frs, FRSSettings(scale="per_channel", relu=True)),
    ("ssim", build_ssim, slow_ssim, SSIMSettings(window=5)),
    ("ssim", build_ssim, slow_ssim, SSIMSettings(window=5, rescale_over="channel")),
    ("ssim", build_ssim, slow_ssim, SSIMSettings(window=5, rescale_over="batch")),
]


@pytest.mark.parametrize(("name", "build", "slow", "settings"), CASES, ids=[f"{c[0]}-{c[3]}" for c in CASES])
def test_recipe_equals_its_slow_reference(name, build, slow, settings) -> None:
    torch.manual_seed(0)
    recipe = build(STUDENT, TEACHER, settings)
    trained = [parameter for weighted in recipe.terms for parameter in weighted.term.parameters()]
    results = []
    for compute in (loss, lambda r, s, t: slow(r, s, t, settings)):
        student, teacher = observations()
        assert student.class_logits is not None
        value = compute(recipe, student, teacher)
        inputs = [*student.pyramid.levels, *student.class_logits.levels, *trained]
        gradients = torch.autograd.grad(value, inputs, allow_unused=True)
        results.append([value.detach(), *[g if g is not None else torch.zeros(()) for g in gradients]])
    for fast_one, slow_one in zip(*results, strict=True):
        torch.testing.assert_close(fast_one, slow_one, rtol=1e-3, atol=2e-6)
    assert any(gradient.abs().sum() > 0 for gradient in results[0][1:])
