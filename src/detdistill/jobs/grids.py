"""Before the first step: whether the student takes the grids that a run's images are padded to."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from detdistill.data.annotations import Annotations
from detdistill.data.transforms import ImageSettings
from detdistill.detectors.backbones import PyramidBackbone
from detdistill.detectors.base import Detector
from detdistill.errors import ConfigError
from detdistill.jobs.samples import Opened, SampleChanges
from detdistill.types import Batch, Need, Targets

Grid = tuple[int, int]


def require_grids(student: Detector, opened: Opened, changes: SampleChanges) -> list[str]:
    """Refuses a run whose images a backbone does not take, or on whose parts the student's batch-norm cannot learn.

    Weights, statistics and random states are as before afterwards.

    Returns:
        What there is to say of images that are padded further inside student or teacher.

    Raises:
        ConfigError: names the setting to change.
    """
    train, image, augment = opened.config.train, opened.data.image, opened.config.data.augment
    low, high = augment.short_sides or (image.short_side, image.short_side)
    cut = changes.transform is not None or augment.crop > 0  # to windows of another ratio than the image's
    notes = _padded(student, opened, image, side=high, cut=cut, setting="data.image")
    if opened.teacher is not None:
        seen = opened.taught_at
        setting = "data.image" if opened.teacher_image is None else "teacher.image"
        side = high if opened.teacher_image is None else seen.short_side
        notes += _padded(opened.teacher.detector, opened, seen, side=side, cut=cut, setting=setting)
    beside = opened.config.data.unlabelled if opened.unlabelled is not None else None
    others = None if beside is None else beside.count(train.batch_size)
    if train.batch_size > train.accumulate and (others is None or others > train.accumulate):
        return notes
    factor = min(augment.scale_jitter[0], 1.0)
    trained_on = _trained_on(opened)
    smallest = min((one for split in trained_on for one in _grids(image, split, side=low, factor=factor)), key=max)
    if cut:
        smallest = (min(smallest), min(smallest))
    if _starves(student, smallest):
        what = f"for {student.spec.name}, whose batch-norm learns nothing from one image of {_shown(smallest)} pixels"
        if train.batch_size > train.accumulate:
            raise ConfigError(
                f"data.unlabelled.share must give 2 images or more to a part of a batch {what}, got {others} for a "
                f"batch. Set data.unlabelled.share=1."
            )
        if train.batch_size == 1:
            raise ConfigError(f"train.batch_size must be 2 or more {what}, got 1. Set train.batch_size=2.")
        parts = max(parts for parts in range(1, train.batch_size) if train.batch_size % parts == 0)
        raise ConfigError(
            f"train.accumulate must leave 2 images or more in a part of a batch {what}, got {train.accumulate} parts "
            f"of train.batch_size={train.batch_size}. Set train.accumulate={parts}."
        )
    return notes


def _padded(
    detector: Detector, opened: Opened, image: ImageSettings, *, side: int, cut: bool, setting: str
) -> list[str]:
    splits = (*_trained_on(opened), opened.data.val)
    grids = [one for split in splits for one in _grids(image, split, side=side)]
    if cut:
        grids.append((-(-image.long_side // image.pad_multiple) * image.pad_multiple,) * 2)
    largest, notes = (max(height for height, _ in grids), max(width for _, width in grids)), []
    for module in detector.modules():
        if isinstance(module, PyramidBackbone):
            padded = module.sides.padded(*largest, name=module.name, setting=setting)
            if padded != largest:
                notes.append(
                    f"the backbone {module.name} takes no images of {_shown(largest)} pixels: they are padded to "
                    f"{_shown(padded)} inside it, which costs time"
                )
    return notes


def _trained_on(opened: Opened) -> list[Annotations]:
    return [opened.data.train, *([] if opened.unlabelled is None else [opened.unlabelled])]


def _grids(image: ImageSettings, split: Annotations, *, side: int, factor: float = 1.0) -> Iterator[Grid]:
    """Height and width in pixels to which each image of a split is padded when it is alone in a batch."""
    stored: NDArray[np.int32] = np.unique(split.sizes[:], axis=0)
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
