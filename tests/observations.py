"""Made-up specs, batches and observations for tests that need no detector."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from detdistill.detectors.base import ClassLayout, DetectorSpec, PyramidLayout
from detdistill.types import Batch, ClassKind, ClassLogits, Observation, Pyramid, Targets


def spec(
    *,
    family: str = "retinanet",
    strides: Sequence[int] = (8, 16),
    channels: int = 4,
    anchors: int = 1,
    classes: Sequence[str] = ("a", "b", "c"),
    kind: ClassKind = ClassKind.SIGMOID,
) -> DetectorSpec:
    return DetectorSpec(
        name=f"{family}/made-up",
        family=family,
        class_names=tuple(classes),
        pyramid=PyramidLayout(strides=tuple(strides), channels=channels),
        class_logits=ClassLayout(strides=tuple(strides), kind=kind, anchors=anchors, classes=tuple(classes)),
    )


def batch(sizes: Sequence[tuple[int, int]], *, grid: tuple[int, int] | None = None) -> Batch:
    height = grid[0] if grid else max(size[0] for size in sizes)
    width = grid[1] if grid else max(size[1] for size in sizes)
    none = Targets(
        boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long), ignored=torch.zeros(0, dtype=torch.bool)
    )
    return Batch(
        images=torch.zeros(len(sizes), 3, height, width),
        sizes=tuple(sizes),
        stored_sizes=tuple(sizes),
        targets=(none,) * len(sizes),
        image_ids=tuple(range(len(sizes))),
        seeds=tuple(range(len(sizes))),
    )


def observation(
    features: Sequence[Tensor], logits: Sequence[Tensor] | None = None, *, strides: Sequence[int] = (8, 16)
) -> Observation:
    """Features (b, c, h, w) and logits (b, a, k, h, w) per level."""
    return Observation(
        pyramid=Pyramid(levels=tuple(features), strides=tuple(strides)),
        class_logits=None
        if logits is None
        else ClassLogits(levels=tuple(logits), strides=tuple(strides), kind=ClassKind.SIGMOID),
    )


def random_observation(
    shape: Batch,
    *,
    seed: int,
    channels: int = 4,
    anchors: int = 1,
    classes: int = 3,
    strides: Sequence[int] = (8, 16),
    requires_grad: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Observation:
    """Noise on the grid of a batch."""
    generator = torch.Generator().manual_seed(seed)
    features, logits = [], []
    height, width = shape.images.shape[-2:]
    for stride in strides:
        grid = (math.ceil(height / stride), math.ceil(width / stride))
        noise = torch.randn(len(shape), channels, *grid, generator=generator, dtype=dtype)
        features.append(noise.requires_grad_(requires_grad))
        noise = torch.randn(len(shape), anchors, classes, *grid, generator=generator, dtype=dtype)
        logits.append(noise.requires_grad_(requires_grad))
    return observation(features, logits, strides=strides)
