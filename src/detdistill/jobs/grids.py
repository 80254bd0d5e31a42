"""Before the first step: whether the student takes the grids that a run's images are padded to."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from detdistill.data.annotations import Annotations
from detdistill.detectors.backbones import PyramidBackbone
from detdistill.detectors.base import Detector
from detdistill.errors import ConfigError
from detdistill.jobs.samples import Opened, SampleChanges
from detdistill.types import Batch, Need, Targets

Grid = tuple[int, int]


def require_grids(student: Detector, opened: Opened, changes: SampleChanges) -> list[str]:
    """Refuses a run whose images the student's backbone does not take, or on whose parts a batch-norm cannot learn.

    Weights, statistics and random states are as before afterwards.

    Returns:
        What there is to say of images that are padded further inside the student.

    Raises:
        ConfigError: names the setting to change.
    """
    train, image = opened.config.train, opened.data.image
    low, high = opened.config.data.augment.short_sides or (image.short_side, image.short_side)
    every = [grid for split in (opened.data.train, opened.data.val) for grid in _grids(opened, split, side=high)]
    largest = max(height for height, _ in every), max(width for _, width in every)
    notes = []
    for module in student.modules():
        if isinstance(module, PyramidBackbone):
            padded = module.sides.padded(*largest, name=module.name)
            if padded != largest:
                notes.append(
                    f"the backbone {module.name} takes no images of {_shown(largest)} pixels: they are padded to "
                    f"{_shown(padded)} inside it, which costs time"
                )
    if train.batch_size > train.accumulate:
        return notes
    factor = opened.config.data.augment.scale_jitter[0]
    smallest = min(_grids(opened, opened.data.train, side=low, factor=min(factor, 1.0)), key=max)
    if changes.transform is not None:  # it may cut a square out of any image
        smallest = (min(smallest), min(smallest))
    if _starves(student, smallest):
        what = f"for {student.spec.name}, whose batch-norm learns nothing from one image of {_shown(smallest)} pixels"
        if train.batch_size == 1:
            raise ConfigError(f"train.batch_size must be 2 or more {what}, got 1. Set train.batch_size=2.")
        parts = max(parts for parts in range(1, train.batch_size) if train.batch_size % parts == 0)
        raise ConfigError(
            f"train.accumulate must leave 2 images or more in a part of a batch {what}, got {train.accumulate} parts "
            f"of train.batch_size={train.batch_size}. Set train.accumulate={parts}."
        )
    return notes


def _grids(opened: Opened, split: Annotations, *, side: int, factor: float = 1.0) -> Iterator[Grid]:
    """Height and width in pixels to which each image of a split is padded when it is alone in a batch."""
    image = opened.data.image
    stored: NDArray[np.int32] = np.unique(split.sizes, axis=0)
    for height, width in stored.tolist():
        sides = (max(round(one * factor), 1) for one in image.resized(height, width, short_side=side))
        high, wide = (-(-one // image.pad_multiple) * image.pad_multiple for one in sides)
        yield high, wide


def _starves(student: Detector, grid: Grid) -> bool:
    """Whether a batch-norm gets a single value per channel from one image."""
    device = next(student.parameters()).device
    none = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    batch = Batch(torch.zeros(1, 3, *grid), (grid,), (grid,), (none,), (0,), (0,)).to(device)
    buffers = {name: buffer.clone() for name, buffer in student.named_buffers()}
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
            student(batch, frozenset({Need.TASK_LOSS}))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        return True
    finally:
        for name, buffer in student.named_buffers():
            buffer.copy_(buffers[name])
    return False


def _shown(grid: Grid) -> str:
    return f"{grid[0]} x {grid[1]}"
