"""MGD against a slow version with loops, written from its formula: value and gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detdistill.distillation.pair import Pair
from detdistill.distillation.term import LevelTerm
from detdistill.methods.mgd import MaskedGeneration, MGDSettings, build_mgd
from detdistill.methods.parts.align import ConvAlign
from detdistill.methods.parts.generation import Generation
from detdistill.random import draw_seed
from detdistill.types import Clock, Observation
from observations import batch, random_observation, spec

SIZES = [(40, 56), (64, 33)]
SCENE = batch(SIZES, grid=(64, 64))
STRIDES = (8, 16)
CLOCK = Clock(step=0, total_steps=1)


def convolve(maps: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 3 × 3 convolution with zeros around the map, cell by cell."""
    height, width = maps.shape[1:]
    assert conv.bias is not None
    rows = []
    for y in range(height):
        for x in range(width):
            value = conv.bias
            for i in range(3):
                for j in range(3):
                    if 0 <= y + i - 1 < height and 0 <= x + j - 1 < width:
                        value = value + conv.weight[:, :, i, j] @ maps[:, y + i - 1, x + j - 1]
            rows.append(value)
    return torch.stack(rows, dim=1).reshape(-1, height, width)


def slow(term: LevelTerm, student: Observation, teacher: Observation) -> Tensor:
    total, drop = torch.zeros(()), term.measure.drop
    for image, (high, wide) in enumerate(SIZES):
        for level, stride in enumerate(STRIDES):
            height, width = math.ceil(high / stride), math.ceil(wide / stride)
            s = student.pyramid.levels[level][image, :, :height, :width]
            t = teacher.pyramid.levels[level][image, :, :height, :width]
            if isinstance(term.align, ConvAlign):
                conv = term.align.convs[f"stride_{stride}"]
                assert isinstance(conv, nn.Conv2d)
                s = F.conv2d(s[None], conv.weight, conv.bias, padding=conv.padding)[0]
            generator = torch.Generator().manual_seed(draw_seed(SCENE.seeds[image], stride))
            draws = torch.rand(height, width, generator=generator)
            masked = torch.stack(
                [
                    torch.stack([s[:, y, x] if draws[y, x] >= drop else 0 * s[:, y, x] for x in range(width)], 1)
                    for y in range(height)
                ],
                dim=1,
            )
            network = term.measure.generators[f"stride_{stride}"]
            assert isinstance(network, Generation)
            painted = convolve(torch.clamp(convolve(masked, network.first), min=0), network.second)
            for c in range(t.shape[0]):
                for y in range(height):
                    for x in range(width):
                        total = total + (painted[c, y, x] - t[c, y, x]) ** 2 / len(SIZES)
    return total


@pytest.mark.parametrize(
    ("channels", "aligner", "drop"), [(3, "auto", None), (5, "auto", 0.3), (3, "conv3x3", 0.0), (5, "identity", 0.65)]
)
def test_mgd_equals_its_slow_reference(channels: int, aligner: str, drop: float | None) -> None:
    torch.manual_seed(0)
    settings = MGDSettings(aligner=aligner, drop=drop)  # type: ignore[arg-type]
    term = build_mgd(spec(channels=channels), spec(channels=5), settings).terms[0].term
    assert isinstance(term, LevelTerm)
    assert isinstance(term.measure, MaskedGeneration)
    results = []
    for compute in (lambda s, t: term(Pair(s, t, SCENE), CLOCK).values.sum(1).mean(), lambda s, t: slow(term, s, t)):
        student = random_observation(SCENE, seed=1, channels=channels, requires_grad=True)
        value = compute(student, random_observation(SCENE, seed=2, channels=5))
        results.append([value.detach(), *torch.autograd.grad(value, [*student.pyramid.levels, *term.parameters()])])
    for fast_one, slow_one in zip(*results, strict=True):
        scale = slow_one.abs().max()
        assert scale > 0
        torch.testing.assert_close(fast_one / scale, slow_one / scale, rtol=1e-3, atol=2e-5)
