"""FGD against a slow version with loops, written from its formula: value and gradients."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detdistill.distillation.pair import Pair
from detdistill.distillation.recipe import Recipe
from detdistill.distillation.term import LevelTerm
from detdistill.methods.fgd import FGDSettings, GlobalRelation, build_fgd
from detdistill.methods.parts.align import ConvAlign
from detdistill.methods.parts.context import ContextBlock
from detdistill.types import Clock, Observation, Targets
from observations import batch, random_observation, spec

SIZES = [(40, 56), (64, 33), (24, 24)]
STRIDES = (8, 16)
# Half of them must be more than two: a LayerNorm over two numbers knows their order alone.
TEACHER_CHANNELS = 8
BOXES: list[list[tuple[float, float, float, float]]] = [
    [(3, 5, 30, 22), (10, 0, 56, 40), (20, 18, 25, 21), (0, 0, 56, 40)],  # the last one is ignored
    [(0, 30, 33, 64)],
    [],
]
TARGETS = tuple(
    Targets(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.zeros(len(boxes), dtype=torch.long),
        ignored=torch.arange(len(boxes)) == 3,
    )
    for boxes in BOXES
)
SCENE = replace(batch(SIZES, grid=(64, 64)), targets=TARGETS)
CLOCK = Clock(step=0, total_steps=1)
GAINS = {
    "retinanet": (1e-3, 5e-4, 5e-4, 5e-6, 0.5),
    "fcos": (1.6e-3, 8e-4, 8e-4, 8e-6, 0.8),
    "faster_rcnn": (5e-5, 2.5e-5, 5e-5, 5e-7, 0.5),
}


def spatial(maps: Tensor, temperature: float) -> list[list[Tensor]]:
    channels, height, width = maps.shape
    powers = [
        [torch.exp(sum(maps[c, y, x].abs() for c in range(channels)) / channels / temperature) for x in range(width)]
        for y in range(height)
    ]
    total = sum(sum(row) for row in powers)
    return [[height * width * power / total for power in row] for row in powers]


def channel(maps: Tensor, temperature: float) -> list[Tensor]:
    channels, height, width = maps.shape
    powers = []
    for c in range(channels):
        strength = sum(maps[c, y, x].abs() for y in range(height) for x in range(width)) / (height * width)
        powers.append(torch.exp(strength / temperature))
    return [channels * power / sum(powers) for power in powers]


def masks(image: int, stride: int, height: int, width: int) -> tuple[list[list[float]], list[list[float]]]:
    front = [[0.0] * width for _ in range(height)]
    for number, (x1, y1, x2, y2) in enumerate(BOXES[image]):
        if number == 3:
            continue
        left, top, right, bottom = (
            math.floor(x1 / stride),
            math.floor(y1 / stride),
            math.ceil(x2 / stride),
            math.ceil(y2 / stride),
        )
        for y in range(height):
            for x in range(width):
                if left <= x <= right and top <= y <= bottom:
                    front[y][x] = max(front[y][x], 1 / ((right + 1 - left) * (bottom + 1 - top)))
    free = sum(value == 0 for row in front for value in row)
    return front, [[1 / free if value == 0 else 0.0 for value in row] for row in front]


def context(maps: Tensor, block: ContextBlock) -> Tensor:
    channels, height, width = maps.shape
    powers = [
        [torch.exp(sum(block.score.weight[0, c, 0, 0] * maps[c, y, x] for c in range(channels))) for x in range(width)]
        for y in range(height)
    ]
    total = sum(sum(row) for row in powers)
    summed = torch.zeros(channels)
    for y in range(height):
        for x in range(width):
            summed = summed + powers[y][x] / total * maps[:, y, x]
    narrow = block.reduce.weight @ summed + block.reduce.bias
    mean = narrow.mean()
    narrow = (narrow - mean) / torch.sqrt(((narrow - mean) ** 2).mean() + 1e-5) * block.norm.weight + block.norm.bias
    added = block.expand.weight @ torch.clamp(narrow, min=0) + block.expand.bias
    return maps + added[:, None, None]


def cut(maps: Tensor, image: int, stride: int) -> Tensor:
    height, width = SIZES[image]
    return maps[image, :, : math.ceil(height / stride), : math.ceil(width / stride)]


def slow(recipe: Recipe, student: Observation, teacher: Observation, family: str) -> Tensor:
    alpha, beta, gamma, delta, temperature = GAINS[family]
    relation = recipe.terms[-1].term
    assert isinstance(relation, LevelTerm)
    assert isinstance(relation.measure, GlobalRelation)
    total = torch.zeros(())
    for image in range(len(SIZES)):
        for level, stride in enumerate(STRIDES):
            s, t = cut(student.pyramid.levels[level], image, stride), cut(teacher.pyramid.levels[level], image, stride)
            if isinstance(relation.align, ConvAlign):
                conv = relation.align.convs[f"stride_{stride}"]
                assert isinstance(conv, nn.Conv2d)
                s = F.conv2d(s[None], conv.weight, conv.bias, padding=conv.padding)[0]
            channels, height, width = t.shape
            front, back = masks(image, stride, height, width)
            a_s, a_c = spatial(t, temperature), channel(t, temperature)
            b_s, b_c = spatial(s, temperature), channel(s, temperature)
            cost = gamma * sum((b_c[c] - a_c[c]).abs() for c in range(channels))
            blocks = (
                relation.measure.student_context[f"stride_{stride}"],
                relation.measure.teacher_context[f"stride_{stride}"],
            )
            r_s, r_t = context(s, blocks[0]), context(t, blocks[1])  # type: ignore[arg-type]
            for y in range(height):
                for x in range(width):
                    cost = cost + gamma * (b_s[y][x] - a_s[y][x]).abs()
                    for c in range(channels):
                        square = (t[c, y, x] - s[c, y, x]) ** 2 * a_s[y][x] * a_c[c]
                        cost = cost + (alpha * front[y][x] + beta * back[y][x]) * square
                        cost = cost + delta * (r_s[c, y, x] - r_t[c, y, x]) ** 2
            total = total + cost / len(SIZES)
    return total


def fast(recipe: Recipe, student: Observation, teacher: Observation, family: str) -> Tensor:
    del family
    return sum(
        (w.gain * w.term(Pair(student, teacher, SCENE), CLOCK).values.sum(1).mean() for w in recipe.terms),
        torch.zeros(()),
    )


@pytest.mark.parametrize(
    ("family", "channels", "aligner"),
    [("retinanet", 3, "auto"), ("fcos", TEACHER_CHANNELS, "auto"), ("faster_rcnn", 3, "conv3x3")],
)
def test_fgd_equals_its_slow_reference(family: str, channels: int, aligner: str) -> None:
    torch.manual_seed(0)
    layout = spec(family=family, channels=channels), spec(family=family, channels=TEACHER_CHANNELS)
    recipe = build_fgd(*layout, FGDSettings(aligner=aligner))  # type: ignore[arg-type]
    trained = list(dict.fromkeys(p for weighted in recipe.terms for p in weighted.term.parameters()))
    with torch.no_grad():
        for parameter in trained:  # the zero-initialised layers too
            parameter.add_(0.3 * torch.randn(parameter.shape))
    results = []
    for compute in (fast, slow):
        student = random_observation(SCENE, seed=1, channels=channels, requires_grad=True)
        teacher = random_observation(SCENE, seed=2, channels=TEACHER_CHANNELS)
        value = compute(recipe, student, teacher, family)
        results.append([value.detach(), *torch.autograd.grad(value, [*student.pyramid.levels, *trained])])
    names = [name for name, _ in nn.ModuleList(w.term for w in recipe.terms).named_parameters()]
    assert len(names) == len(trained)
    for index, (fast_one, slow_one) in enumerate(zip(*results, strict=True)):
        # Gains are small: compare against the largest entry of each tensor, not against 1.
        scale = slow_one.abs().max()
        assert scale > 0, (["value", *STRIDES, *names])[index]
        torch.testing.assert_close(fast_one / scale, slow_one / scale, rtol=1e-3, atol=2e-5)
