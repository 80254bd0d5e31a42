"""Average precision of many choices of a split's images at once, without evaluating any of them anew."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from detdistill.evaluation.matches import AREAS, IOUS, Matches

_CHUNK = 4_000_000


def average_precisions(matches: Matches, times: NDArray[np.int64]) -> NDArray[np.float64]:
    """COCO's average precision of every class where image i counts `times[r, i]` times.

    It is what evaluating the data set with that many copies of each image gives: copies stand side by side in the
    order of scores, and of their precisions only the last can be the best from a recall on.

    Args:
        times: of every choice r and image; (r, images), at least 0.

    Returns:
        In [0, 1], NaN where a choice has no object of the class; (r, K, 4, 10), areas and overlaps as in `Matches`.
    """
    choices, classes = len(times), len(matches.class_names)
    found = np.full((choices, classes, len(AREAS), len(IOUS)), np.nan)
    copies = times.astype(np.int32)
    for label in range(classes):
        here = slice(int(matches.starts[label]), int(matches.starts[label + 1]))
        images = matches.images[here]
        for rows in _chunks(choices, len(images)):
            drawn = copies[rows][:, images]
            for area in range(len(AREAS)):
                objects = (copies[rows] @ matches.objects[area, label])[:, None]
                if objects.any():
                    values = _of_overlaps(drawn, matches.right[area, :, here], matches.counted[area, :, here], objects)
                    found[rows, label, area] = np.where(objects > 0, values, np.nan)
    return found


def _of_overlaps(
    drawn: NDArray[np.int32], right: NDArray[np.bool_], counted: NDArray[np.bool_], objects: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Average precision of a class in a range of areas at every overlap; (r, 10).

    Args:
        drawn: copies of every detection, best first; (r, n).
        right: by overlap; (10, n).
        counted: likewise.
        objects: that there are to find; (r, 1).
    """
    # Most detections count at all overlaps: those are summed up once, the others for each overlap.
    always = counted.all(axis=0)
    base = _sums(drawn[:, always])
    base_before = np.cumsum(always)
    values = []
    for taken, counts in zip(right, counted, strict=True):
        further = np.flatnonzero(counts & ~always)
        places = np.flatnonzero(taken)
        totals = base[:, base_before[places]]
        if len(further):
            totals += _sums(drawn[:, further])[:, np.searchsorted(further, places, side="right")]
        values.append(interpolated_precision(drawn[:, places], totals, np.maximum(objects, 1)))
    return np.stack(values, axis=1)


def _sums(copies: NDArray[np.int32]) -> NDArray[np.int32]:
    """Running sums of (r, n), with those of nothing first; (r, n + 1)."""
    found = np.zeros((len(copies), copies.shape[1] + 1), dtype=np.int32)
    np.cumsum(copies, axis=1, dtype=np.int32, out=found[:, 1:])
    return found


def interpolated_precision(
    copies: NDArray[np.int32], totals: NDArray[np.int32], objects: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Precision averaged over COCO's 101 recalls.

    Args:
        copies: of every right detection, best first; (r, n).
        totals: of all detections up to it that count; (r, n).
        objects: that there are to find; (r, 1).
    """
    if copies.shape[1] == 0:
        return np.zeros(len(copies))
    hits = np.cumsum(copies, axis=1, dtype=np.int32)
    precision = hits / np.maximum(totals, 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = hits / objects
    nearest = np.rint(recall * 100)
    nearest += nearest * 0.01 <= recall  # of recalls 0, 0.01, ... 1 those that are at most this one
    reached = np.concatenate([np.zeros((len(copies), 1)), nearest], axis=1)
    return np.asarray(np.einsum("rn,rn->r", best, np.diff(reached, axis=1)) / 101)


def _chunks(rows: int, columns: int) -> Iterator[slice]:
    """Rows in pieces that keep an array of them within memory."""
    size = max(1, _CHUNK // max(columns, 1))
    return (slice(first, first + size) for first in range(0, rows, size))
