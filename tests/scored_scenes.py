"""Small splits with detections in them, and the same splits with other numbers of copies of each image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detdistill.data.annotations import Annotations
from detdistill.evaluation.coco import ImageDetections


def split(
    counts: NDArray[np.int64], ids: NDArray[np.int64], boxes: NDArray[np.float32], **given: object
) -> Annotations:
    count = len(counts)
    return Annotations(
        images_dir=Path("images"),
        image_ids=ids,
        sizes=np.tile(np.array([[400, 400]], dtype=np.int32), (count, 1)),
        name_bytes=np.full(count, 97, dtype=np.uint8),
        name_offsets=np.arange(count + 1),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        boxes=boxes,
        **given,  # type: ignore[arg-type]
    )


def scene(seed: int) -> tuple[Annotations, list[ImageDetections]]:
    """Objects of all sizes, crowds among them, and detections near them and elsewhere; images share their scores."""
    random = np.random.default_rng(seed)
    count, classes = int(random.integers(2, 25)), int(random.integers(1, 5))
    counts = random.integers(0, 4, count)
    total = int(counts.sum())

    boxes = anywhere(total, random).astype(np.float32)
    labels = random.integers(0, classes, total).astype(np.int32)
    truth = split(
        counts,
        random.permutation(count) + 1,
        boxes,
        class_names=tuple("abcd"[:classes]),
        category_ids=np.arange(classes) + 1,
        labels=labels,
        ignored=random.random(total) < 0.1,
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
    )
    return truth, detected(truth, random)


def detected(truth: Annotations, random: np.random.Generator) -> list[ImageDetections]:
    """What a detector finds: each object twice, and eight boxes anywhere."""
    boxes, labels, classes, found = truth.boxes, truth.labels, len(truth.class_names), []
    for index in range(len(truth)):
        own = truth.objects(index)
        near = [boxes[own] + random.normal(0, spread, (len(boxes[own]), 4)) for spread in (4, 12)]
        drawn = np.concatenate([*near, anywhere(8, random)]).astype(np.float32)
        drawn[:, 2:] = np.maximum(drawn[:, 2:], drawn[:, :2])
        kinds = np.concatenate([labels[own], labels[own], random.integers(0, classes, 8)])
        scores = (random.permutation(100)[: len(drawn)] / 100).astype(np.float32)
        found.append(ImageDetections(int(truth.image_ids[index]), drawn, scores, kinds.astype(np.int64)))
    return found


def anywhere(number: int, random: np.random.Generator) -> NDArray[np.float64]:
    corner = random.uniform(0, 200, (number, 2))
    return np.concatenate([corner, corner + random.uniform(5, 150, (number, 2))], axis=1)


def copied(
    truth: Annotations, found: list[ImageDetections], times: NDArray[np.int64]
) -> tuple[Annotations, list[ImageDetections]]:
    """The data set with so many copies of each image, beside each other."""
    order = np.argsort(truth.image_ids)
    rows = np.repeat(order, times[order])
    members = [np.arange(truth.offsets[row], truth.offsets[row + 1]) for row in rows]
    boxes = np.concatenate([np.zeros(0, dtype=np.int64), *members])
    again = split(
        np.diff(truth.offsets)[rows],
        np.arange(len(rows)) + 1,
        truth.boxes[boxes],
        class_names=truth.class_names,
        category_ids=truth.category_ids,
        labels=truth.labels[boxes],
        ignored=truth.ignored[boxes],
        areas=truth.areas[boxes],
    )
    return again, [replace(found[row], image_id=number) for number, row in enumerate(rows, start=1)]
