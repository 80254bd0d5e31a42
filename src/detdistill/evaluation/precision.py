"""From which score on so large a share of a detector's boxes is right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detdistill.data.annotations import Annotations
from detdistill.evaluation.coco import ImageDetections, check_detections
from detdistill.evaluation.shared import half_inside, overlap

_LEAST_IOU = 0.5


def score_at_precision(
    annotations: Annotations, detections: Sequence[ImageDetections], precision: float, *, by_class: bool = True
) -> float | None:
    """The least score from which on at least this share of all boxes is right; None where there is none.

    Going down the scores of an image, a box is right where it takes an object that is free still: of those that it
    overlaps from IoU 0.5 on the one that it overlaps most. What takes none is wrong, unless half of it lies in an
    ignored region: then it does not count.

    Args:
        annotations: the ground truth.
        detections: as in `evaluate_coco`.
        precision: in [0, 1].
        by_class: whether an object is taken by boxes of its own class alone.

    Raises:
        DataError: as in `evaluate_coco`.
    """
    by_image = check_detections(detections, annotations.image_ids.tolist(), classes=len(annotations.class_names))
    told = [_judged(annotations, index, found, by_class) for index, found in enumerate(by_image.values())]
    scores = np.concatenate([np.zeros(0, np.float32), *(one for one, _ in told)])
    right = np.concatenate([np.zeros(0, np.bool_), *(one for _, one in told)])
    order = np.argsort(-scores, kind="stable")
    ranked, share = scores[order], np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    # Of boxes with one score all count, or none.
    ends = np.append(ranked[1:] < ranked[:-1], True)[: len(ranked)]
    good = np.flatnonzero(ends & (share >= precision))
    return float(ranked[good[-1]]) if len(good) else None


def _judged(
    annotations: Annotations, index: int, found: ImageDetections, by_class: bool
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float32]], np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """The scores of an image's boxes that count, and whether each is right."""
    rows = annotations.objects(index)
    boxes, ignored = annotations.boxes[rows].astype(np.float64), annotations.ignored[rows]
    labels, guesses = annotations.labels[rows][~ignored], found.boxes.astype(np.float64)
    overlaps = overlap(guesses, boxes[~ignored])
    if by_class:
        overlaps *= found.labels[:, None] == labels[None, :]
    excused = half_inside(guesses, boxes[ignored])
    right = np.zeros(len(guesses), dtype=np.bool_)
    for guess in np.argsort(-found.scores, kind="stable").tolist():
        if overlaps[guess].max(initial=0.0) >= _LEAST_IOU:
            right[guess] = True
            overlaps[:, overlaps[guess].argmax()] = 0.0
    counts = right | ~excused
    return found.scores[counts], right[counts]
