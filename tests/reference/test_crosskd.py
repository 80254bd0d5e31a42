"""CrossKD against a slow version written from its formula: the layers one by one, the cells in loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.recipe import Recipe
from detdistill.distillation.step import DistillationStep
from detdistill.methods.catalogue import build_recipe
from detdistill.methods.crosskd import CrossTerm
from detdistill.types import Batch, Clock
from scenes_in_memory import BOXES, scene_batch, tiny_student

STRIDES = (8, 16, 32)
CLOCK = Clock(step=1, total_steps=2)


def giou(a: Tensor, b: Tensor) -> Tensor:
    wide = torch.minimum(a[2], b[2]) - torch.maximum(a[0], b[0])
    high = torch.minimum(a[3], b[3]) - torch.maximum(a[1], b[1])
    common = wide.clamp(min=0) * high.clamp(min=0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    hull = (torch.maximum(a[2], b[2]) - torch.minimum(a[0], b[0])) * (
        torch.maximum(a[3], b[3]) - torch.minimum(a[1], b[1])
    )
    return common / union - (hull - union) / hull


def through(layers: Sequence[nn.Module], maps: Tensor) -> Tensor:
    for layer in layers:
        maps = layer(maps)
    return maps


def cut(depth: int, after: int) -> int:
    """Layers of the first `after` of `depth` convolutions with group-norm and ReLU."""
    assert 0 <= after <= depth
    return 3 * after


def slow(recipe: Recipe, student: Any, teacher: Any, batch: Batch, *, after: int) -> Tensor:
    """Of two GFL detectors, gains and all."""
    ours, theirs, total = student.extract(batch), teacher.extract(batch), torch.zeros(())
    head, depth = teacher.head, teacher.settings.head_depth
    term = recipe.terms[0].term
    assert isinstance(term, CrossTerm)
    for level, stride in enumerate(STRIDES):
        own = theirs.levels[level]
        for index, (height, width) in enumerate(batch.sizes):
            rows, columns = math.ceil(height / stride), math.ceil(width / stride)
            mask = torch.zeros(own.shape[-2:])
            mask[:rows, :columns] = 1
            said = {}
            for name, last in (("class_tower", head.classes), ("box_tower", head.boxes)):
                maps = ours.levels[level][index : index + 1]
                if after:
                    maps = through(getattr(student.head, name)[: cut(depth, after)], maps)
                else:
                    conv = term.reading.align.convs[f"stride_{stride}"]
                    maps = F.conv2d(maps * mask, conv.weight, conv.bias)
                crossed = last(through(getattr(head, name)[cut(depth, after) :], maps * mask))
                plain = last(through(getattr(head, name), own[index : index + 1])).detach()
                scale = head.scales[level].detach() if name == "box_tower" else 1.0
                said[name] = (scale * crossed[0], scale * plain[0])
            costs, mass = [torch.zeros(()) for _ in range(3)], torch.zeros(())
            for y in range(rows):
                for x in range(columns):
                    crossed, plain = (one[:, y, x] for one in said["class_tower"])
                    weight = plain.max().sigmoid()
                    mass = mass + weight
                    for z, t in zip(crossed, plain.sigmoid(), strict=True):
                        p = z.sigmoid()
                        costs[0] = costs[0] + (t - p).abs() * -(t * p.log() + (1 - t) * (1 - p).log())
                    boxes, divergences = [], torch.zeros(())
                    edges = [one[:, y, x].reshape(4, -1) for one in said["box_tower"]]
                    for one in edges:
                        bins = torch.arange(one.shape[1])
                        left, top, right, bottom = ((edge.softmax(0) * bins).sum() * stride for edge in one)
                        boxes.append(
                            torch.stack((x * stride - left, y * stride - top, x * stride + right, y * stride + bottom))
                        )
                    costs[1] = costs[1] + weight * (1 - giou(*boxes))
                    for a, b in zip(*edges, strict=True):
                        q, t = a.softmax(0), b.softmax(0)
                        divergences = divergences + (t * (t / q).log()).mean() / 4
                    costs[2] = costs[2] + weight * divergences
            for gain, cost in zip((1.0, 2.0, 3.0), costs, strict=True):
                total = total + gain * cost / mass.clamp(min=1) / len(batch)
    return total


@pytest.mark.parametrize("after", [0, 1, 2])
def test_crosskd_equals_its_slow_reference(after: int) -> None:
    wide = {} if after else {"fpn_channels": 24}
    student = tiny_student("gfl", seed=1, head_depth=2).eval()
    teacher = tiny_student("gfl", seed=2, head_depth=2, **wide).eval()
    reading = f"reading=towers, after={after}" if after else "reading=pyramid"
    recipe = build_recipe(f"crosskd({reading})", student.spec, teacher.spec)
    step = DistillationStep(student, FrozenTeacher(teacher), recipe)
    batch = scene_batch((BOXES[0][:1], ()), sizes=((48, 64), (35, 33)), grid=(48, 64))
    inputs = [one for name, one in step.named_parameters() if "head" not in name or (after and "tower.0." in name)]
    report = step(batch, CLOCK)
    results = []
    for value in (report.total - report.task, slow(recipe, student, teacher, batch, after=after)):
        results.append([value.detach(), *torch.autograd.grad(value, inputs)])
    for fast, loops in zip(*results, strict=True):
        torch.testing.assert_close(fast, loops, rtol=1e-3, atol=1e-5)
    assert all(gradient.any() for gradient in results[0][-2:])
