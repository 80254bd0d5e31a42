"""Which detection finds which object in one image, by the rules of KITTI's 2D benchmark, at many scores at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detdistill.evaluation.shared import best_from_here

SAMPLES = 41
"""Recall positions of the precision curve: 0, 1/40, ..., 1."""


@dataclass(frozen=True, slots=True)
class MatchedImage:
    """One image, as one class at one difficulty sees it; what does not concern the class is left out.

    Attributes:
        overlaps: intersection over union of object g and detection d; (g, d).
        iou: what the overlap of a hit must exceed.
        counted: objects that must be found; the others are ignored: neither hit nor miss; (g,).
        scores: of the detections; (d,).
        small: detections below the difficulty's height, neither right nor wrong; (d,).
        excused: detections that lie in a DontCare region, not wrong where they find nothing; (d,).
    """

    overlaps: NDArray[np.floating]
    iou: float
    counted: NDArray[np.bool_]
    scores: NDArray[np.float64]
    small: NDArray[np.bool_]
    excused: NDArray[np.bool_]


def precision_curve(images: Sequence[MatchedImage]) -> NDArray[np.float64] | None:
    """Precision at the 41 recall positions, each the best at that recall or a higher one.

    Returns:
        Values in [0, 1], 0 at positions that are not reached; None where no object counts.
    """
    objects = sum(int(image.counted.sum()) for image in images)
    if objects == 0:
        return None
    thresholds = recall_thresholds([score for image in images for score in _found_scores(image)], objects)
    right, wrong = np.zeros((2, len(thresholds)), dtype=np.int64)
    for image in images:
        if len(image.scores):
            more_right, more_wrong = _right_and_wrong(image, thresholds)
            right += more_right
            wrong += more_wrong
    curve = np.zeros(SAMPLES, dtype=np.float64)
    curve[: len(thresholds)] = right / np.maximum(right + wrong, 1)
    return best_from_here(curve)


def _found_scores(image: MatchedImage) -> list[float]:
    """The scores at which the counted objects of an image are found: the recall of the whole split grows at these.

    Every object in turn takes the free detection of the highest score that overlaps it enough. One that takes a
    small detection is not found, and not missed either.
    """
    free = np.ones(len(image.scores), dtype=np.bool_)
    scores: list[float] = []
    for row, counted in zip(image.overlaps > image.iou, image.counted, strict=True):
        candidates = np.flatnonzero(row & free)
        if len(candidates):
            taken = candidates[image.scores[candidates].argmax()]
            free[taken] = False
            if counted and not image.small[taken]:
                scores.append(float(image.scores[taken]))
    return scores


def _right_and_wrong(
    image: MatchedImage, thresholds: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many detections of an image are right and how many wrong, if those below a score (t,) are dropped; (t,).

    Every object in turn takes, of the free detections that overlap it enough, the one of the greatest overlap that
    is not small; where all are small, the first. What is left over, not small and not excused, is wrong.
    """
    free = image.scores[None, :] >= thresholds[:, None]
    right = np.zeros(len(thresholds), dtype=np.int64)
    for overlaps, counted in zip(image.overlaps, image.counted, strict=True):
        candidates = free & (overlaps > image.iou)
        firm = candidates & ~image.small
        has_firm = firm.any(axis=1)
        greatest = np.where(firm, overlaps, -1.0).argmax(axis=1)
        taken = np.where(has_firm, greatest, candidates.argmax(axis=1))
        rows = np.flatnonzero(candidates.any(axis=1))
        free[rows, taken[rows]] = False
        if counted:
            right += has_firm
    return right, (free & ~(image.small | image.excused)).sum(axis=1)


def recall_thresholds(scores: Sequence[float], objects: int) -> NDArray[np.float64]:
    """The scores at which precision is measured, one for every recall position that is reached; at most 41.

    With 41 objects or more this is the benchmark's sampling: going down the scores of what was found, a position
    takes the score whose recall is nearest to it, each score serves once, and the last is always taken. With fewer
    objects there are fewer scores than positions, and that sampling leaves positions empty (perfect detections of
    one object would get 0): there a position takes the first score whose recall reaches it.
    """
    ordered = sorted(scores, reverse=True)
    if objects < SAMPLES:
        # ceil(k / 40 * objects) objects are needed for recall k / 40.
        needed = [max(1, -(-k * objects // (SAMPLES - 1))) for k in range(SAMPLES)]
        return np.array([ordered[n - 1] for n in needed if n <= len(ordered)], dtype=np.float64)
    taken: list[float] = []
    position = 0.0
    for index, score in enumerate(ordered, start=1):
        here, following = index / objects, (index + 1) / objects
        if index == len(ordered) or following - position >= position - here:
            taken.append(score)
            # Added up as the benchmark does, so that equal distances fall on the same side.
            position += 1 / (SAMPLES - 1)
    return np.array(taken[:SAMPLES], dtype=np.float64)
