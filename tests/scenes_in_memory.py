"""Tiny detectors of every family, and batches of noise with boxes, for tests that run real models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from detdistill.detectors import catalogue
from detdistill.detectors.base import Detector
from detdistill.detectors.catalogue import build_detector
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.detectors.hf.presets import PRESETS
from detdistill.detectors.settings import DetectorSettings, PyramidSettings
from detdistill.types import Batch, Observation, Pyramid, Targets

CLASSES = ("car", "truck", "pedestrian")
FAMILIES = tuple(name for name, one in catalogue.FAMILIES.items() if issubclass(one.settings, PyramidSettings))
"""Those of a backbone, a pyramid and heads that read it."""
SMALLEST = tuple(
    f"{family}/{next(iter(entry.presets))}" for family, entry in catalogue.FAMILIES.items() if entry.presets
)
"""The smallest preset of every family."""
SHALLOW_D_FINE: dict[str, Any] = {
    "depth_mult": 0.34,
    "backbone_config": {**PRESETS["d_fine_tiny"].config["backbone_config"], "stage_numb_of_layers": [1, 1, 1, 1]},
}
"""A D-FINE with one block where it repeats blocks."""
STUDENT_CHANNELS, TEACHER_CHANNELS = 16, 24
GRID = (96, 128)
SIZES = ((96, 128), (70, 101), (64, 33))
# Small, wide and large: every level of strides 8 to 32 has something to learn. The third image is empty.
BOXES: tuple[tuple[tuple[float, ...], ...], ...] = (
    ((4, 6, 22, 24), (30, 10, 126, 90), (60, 40, 92, 68)),
    ((8, 8, 98, 68), (50, 20, 66, 40)),
    (),
)


def tiny_settings(family: str, *, backbone: str = "test_resnet", **changes: Any) -> DetectorSettings:
    """The family's smallest preset, cut down to what runs in milliseconds; keys of other families are passed over."""
    kind = catalogue.FAMILIES[family]
    small: dict[str, Any] = {
        "fpn_channels": STUDENT_CHANNELS,
        "head_depth": 1,
        "strides": (8, 16, 32),
        "anchor_scale": 2.0,
        "anchor_octaves": 1,
        "roi_channels": 16,
        "roi_samples": 16,
        "rpn_samples": 32,
        "proposals_train": 40,
        "proposals_test": 20,
        "detections_per_image": 15,
        "score_threshold": 0.001,
    }
    wanted = small | changes
    unknown = wanted.keys() - {key for one in catalogue.FAMILIES.values() for key in one.keys}
    assert not unknown, f"no family has {unknown}"
    smallest = next(iter(kind.presets.values()))
    return replace(smallest, backbone=backbone, **{key: wanted[key] for key in kind.keys if key in wanted})


def tiny_student(family: str, *, seed: int = 0, classes: Sequence[str] = CLASSES, **changes: Any) -> Detector:
    return build_detector(tiny_settings(family, **changes), classes, seed=seed)


def tiny_teacher(family: str, *, seed: int = 7, classes: Sequence[str] = CLASSES, **changes: Any) -> FrozenTeacher:
    """Another backbone and other channels than the student's; frozen."""
    other: dict[str, Any] = {"backbone": "test_efficientnet", "fpn_channels": TEACHER_CHANNELS}
    return FrozenTeacher(build_detector(tiny_settings(family, **(other | changes)), classes, seed=seed))


def targets_of(boxes: Sequence[Sequence[float]], *, classes: int = len(CLASSES)) -> Targets:
    return Targets(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.arange(len(boxes)) % classes,
        ignored=torch.zeros(len(boxes), dtype=torch.bool),
    )


def scene_batch(
    boxes: Sequence[Sequence[Sequence[float]]] = BOXES,
    *,
    sizes: Sequence[tuple[int, int]] = SIZES,
    grid: tuple[int, int] = GRID,
    seed: int = 0,
) -> Batch:
    """One image of noise per entry of `boxes`; its first image id is `10 * seed`."""
    generator = torch.Generator().manual_seed(seed)
    count = len(boxes)
    return Batch(
        images=torch.rand((count, 3, *grid), generator=generator),
        sizes=tuple(sizes[:count]),
        stored_sizes=tuple(sizes[:count]),
        targets=tuple(targets_of(one) for one in boxes),
        image_ids=tuple(range(10 * seed, 10 * seed + count)),
        seeds=tuple(range(100 + seed, 100 + seed + count)),
    )


def map_levels(seen: Observation, change: Any) -> Observation:
    """The observation with `change(level, stride)` in place of every level of all its maps."""
    pyramid = seen.pyramid
    levels = tuple(change(level, stride) for level, stride in zip(pyramid.levels, pyramid.strides, strict=True))
    changed = replace(seen, pyramid=Pyramid(levels, pyramid.strides))
    for name in ("class_logits", "box_distributions", "boxes"):
        maps = getattr(seen, name)
        if maps is not None:
            levels = tuple(change(level, stride) for level, stride in zip(maps.levels, maps.strides, strict=True))
            changed = replace(changed, **{name: replace(maps, levels=levels)})
    return changed


def leaves_of(seen: Observation) -> list[torch.Tensor]:
    """The maps of an observation, pyramid first."""
    maps = (seen.pyramid, seen.class_logits, seen.box_distributions)
    return [level for one in maps if one is not None for level in one.levels]
