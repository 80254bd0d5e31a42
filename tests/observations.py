"""Made-up specs, batches and observations for tests that need no detector."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from detdistill.detectors.base import BoxLayout, ClassLayout, DetectorSpec, PyramidLayout, TowerLayout
from detdistill.types import Batch, BoxDistributions, ClassKind, ClassLogits, Observation, Pyramid, Targets, TaskLoss

# What makes a detector of each family one for which methods have published numbers.
TRAITS: dict[str, dict[str, Any]] = {
    "retinanet": {"anchors": 3},
    "fcos": {"anchors": 1},
    "gfl": {"anchors": 1, "bins": 5},
    "faster_rcnn": {"anchors": 3, "kind": ClassKind.OBJECTNESS, "two_stage": True},
}


def spec(
    *,
    family: str = "fcos",
    strides: Sequence[int] = (8, 16),
    channels: int = 4,
    classes: Sequence[str] = ("a", "b", "c"),
    **traits: Any,
) -> DetectorSpec:
    """A spec with the traits of a family, or other `anchors`, `kind`, `bins` and `two_stage`."""
    traits = {"kind": ClassKind.SIGMOID, "bins": None, "two_stage": False} | TRAITS[family] | traits
    return DetectorSpec(
        name=f"{family}/made-up",
        class_names=tuple(classes),
        pyramid=PyramidLayout(strides=tuple(strides), channels=channels),
        class_logits=ClassLayout(
            strides=tuple(strides), kind=traits["kind"], anchors=traits["anchors"], classes=tuple(classes)
        ),
        box_distributions=None
        if traits["bins"] is None
        else BoxLayout(strides=tuple(strides), anchors=1, bins=traits["bins"], anchor_scale=3.0),
        two_stage=traits["two_stage"],
        towers=None if traits["two_stage"] else TowerLayout(depth=4, channels=channels),
    )


def unchecked(settings: Any, **values: Any) -> Any:
    """A copy of settings with values of any type, as somebody may make it whom no type checker warns."""
    changed = copy.copy(settings)
    for name, value in values.items():
        object.__setattr__(changed, name, value)
    return changed


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


def with_boxes(scene: Batch, *, seed: int, most: int = 3) -> Batch:
    """The batch with 0 to `most` boxes in every image, the last one of three or more ignored."""
    generator = torch.Generator().manual_seed(seed)
    targets = []
    for height, width in scene.sizes:
        count = int(torch.randint(most + 1, (), generator=generator))
        corners = torch.rand(count, 2, 2, generator=generator).sort(dim=1).values * torch.tensor([width, height])
        labels = torch.randint(3, (count,), generator=generator)
        ignored = torch.arange(count) >= 2
        targets.append(Targets(boxes=corners.flatten(1), labels=labels, ignored=ignored))
    return replace(scene, targets=tuple(targets))


def random_losses(images: int, *, seed: int, strides: Sequence[int] = (8, 16), two_stage: bool = False) -> TaskLoss:
    """A task loss of noise, each image on its own."""
    generator = torch.Generator().manual_seed(seed)
    classification, box = torch.rand((2, images, len(strides)), generator=generator) * 2
    regions = torch.rand((2, images), generator=generator)
    return TaskLoss(
        total=torch.zeros(()),
        strides=tuple(strides),
        classification=classification,
        box=box,
        roi_classification=regions[0] if two_stage else None,
        roi_box=regions[1] if two_stage else None,
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
    bins: int | None = None,
) -> Observation:
    """Noise on the grid of a batch; with box distributions where `bins` are given."""
    generator = torch.Generator().manual_seed(seed)
    features, logits = [], []
    height, width = shape.images.shape[-2:]
    for stride in strides:
        grid = (math.ceil(height / stride), math.ceil(width / stride))
        noise = torch.randn(len(shape), channels, *grid, generator=generator, dtype=dtype)
        features.append(noise.requires_grad_(requires_grad))
        noise = torch.randn(len(shape), anchors, classes, *grid, generator=generator, dtype=dtype)
        logits.append(noise.requires_grad_(requires_grad))
    seen = observation(features, logits, strides=strides)
    if bins is None:
        return seen
    edges = []
    for level in features:
        noise = 3 * torch.randn(len(shape), 1, 4, bins, *level.shape[-2:], generator=generator, dtype=dtype)
        edges.append(noise.requires_grad_(requires_grad))
    return replace(seen, box_distributions=BoxDistributions(levels=tuple(edges), strides=tuple(strides)))
