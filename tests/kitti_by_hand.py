"""KITTI labels and detections written down by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detdistill.data.formats.kitti import KittiLabels
from detdistill.evaluation.coco import ImageDetections

NAMES = ("Car", "Pedestrian", "Cyclist")
Box = tuple[float, float, float, float]


def labels(*objects: tuple[str, float, int, Box]) -> KittiLabels:
    """A label file of (type, truncated, occluded, box) each."""
    count = len(objects)
    return KittiLabels(
        types=tuple(one[0] for one in objects),
        truncated=np.array([one[1] for one in objects], dtype=np.float64),
        occluded=np.array([one[2] for one in objects], dtype=np.int64),
        boxes=np.array([one[3] for one in objects], dtype=np.float64).reshape(-1, 4),
        scores=np.full(count, np.nan),
        lines=np.arange(1, count + 1),
    )


def visible(kind: str, box: Box) -> tuple[str, float, int, Box]:
    """An object that nothing hides, wholly inside the image."""
    return (kind, 0.0, 0, box)


def guesses(
    image_id: int, *found: tuple[str, Box | np.ndarray, float], names: Sequence[str] = NAMES
) -> ImageDetections:
    """Detections of one image, (class, box, score) each."""
    return ImageDetections(
        image_id=image_id,
        boxes=np.array([one[1] for one in found], dtype=np.float32).reshape(-1, 4),
        scores=np.array([one[2] for one in found], dtype=np.float32),
        labels=np.array([names.index(one[0]) for one in found], dtype=np.int64),
    )
