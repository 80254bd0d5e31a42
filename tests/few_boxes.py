"""Images with a few boxes, and what a detector found in them, in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from detdistill.data.annotations import Annotations
from detdistill.evaluation.coco import ImageDetections

NAMES = ("car", "truck")
LEFT, RIGHT, FAR = (0, 0, 10, 10), (20, 0, 30, 10), (50, 50, 60, 60)


def split(*images: list[tuple[tuple[float, ...], int, bool]]) -> Annotations:
    """Annotations of images given as lists of (box, label, ignored)."""
    objects = [one for image in images for one in image]
    names = [f"{index}.png".encode() for index in range(len(images))]
    boxes = np.array([one[0] for one in objects], dtype=np.float32).reshape(-1, 4)
    return Annotations(
        images_dir=Path("images"),
        class_names=NAMES,
        category_ids=np.arange(len(NAMES)),
        image_ids=np.arange(len(images)),
        sizes=np.full((len(images), 2), 100, dtype=np.int32),
        name_bytes=np.frombuffer(b"".join(names), dtype=np.uint8),
        name_offsets=np.cumsum([0, *map(len, names)]),
        offsets=np.cumsum([0, *map(len, images)]).astype(np.int64),
        boxes=boxes,
        labels=np.array([one[1] for one in objects], dtype=np.int32),
        ignored=np.array([one[2] for one in objects], dtype=bool),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
    )


def found(image: int, *objects: tuple[tuple[float, ...], int, float]) -> ImageDetections:
    boxes = np.array([one[0] for one in objects], dtype=np.float32).reshape(-1, 4)
    scores = np.array([one[2] for one in objects], dtype=np.float32)
    return ImageDetections(image, boxes, scores, np.array([one[1] for one in objects], dtype=np.int64))
