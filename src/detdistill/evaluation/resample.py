"""Average precision of many choices of a split's images at once, without evaluating any of them anew."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detdistill.evaluation.matches import AREAS, IOUS, Matches

# Numbers in an array, about as many as a core's cache holds; and how many make a thread worth while.
_CHUNK, _A_THREAD, _MOST_THREADS = 400_000, 4_000_000, 8


def average_precisions(
    matches: Matches, times: NDArray[np.int64], *, told: Callable[[int], None] = lambda _: None
) -> NDArray[np.float64]:
    """COCO's average precision of every class where image i counts `times[r, i]` times.

    It is what evaluating the data set with that many copies of each image gives: copies stand side by side in the
    order of scores, and of their precisions only the last can be the best from a recall on. Classes are computed side
    by side, on the cores there are.

    Args:
        times: of every choice r and image; (r, images), at least 0.
        told: is called with the number of classes that are done.

    Returns:
        In [0, 1], NaN where a choice has no object of the class; (r, K, 4, 10), areas and overlaps as in `Matches`.
    """
    choices, classes = len(times), len(matches.class_names)
    found = np.full((choices, classes, len(AREAS), len(IOUS)), np.nan)
    copies = times.astype(np.int32)
    # Products of floats are fast, and exact for such numbers.
    there = times.astype(np.float64) @ matches.objects.reshape(-1, matches.objects.shape[-1]).T.astype(np.float64)
    objects = there.astype(np.int32).reshape(choices, len(AREAS), classes)

    def measure(label: int) -> None:
        here = slice(int(matches.starts[label]), int(matches.starts[label + 1]))
        images = matches.images[here]
        plans = [_plan(matches.right[area, :, here], matches.counted[area, :, here]) for area in range(len(AREAS))]
        for rows in _chunks(choices, len(images)):
            drawn = copies[rows].take(images, axis=1)
            for area, plan in enumerate(plans):
                wanted = objects[rows, area, label, None]
                if wanted.any():
                    values = _of_overlaps(drawn, plan, wanted)
                    found[rows, label, area] = np.where(wanted > 0, values, np.nan)

    work = choices * len(matches.images)
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS, 1 + work // _A_THREAD))
    try:
        for done, _ in enumerate(pool.map(measure, range(classes)), start=1):
            told(done)
    finally:
        pool.shutdown(cancel_futures=True)
    return found


class _Overlap(NamedTuple):
    """Which detections of a class matter at an overlap, and where: places are rows of the class, best first.

    Attributes:
        right: places of the right ones.
        last: those of them, as indices, that a wrong one follows before the next right one: precision rises up to
            them, so that no other can be the best.
        always: how many of those that count at every overlap there are up to each `last`.
        further: places of the others that count at this one.
        beyond: how many of them there are up to each `last`.
    """

    right: NDArray[np.int64]
    last: NDArray[np.int64]
    always: NDArray[np.int64]
    further: NDArray[np.int64]
    beyond: NDArray[np.int64]


def _plan(right: NDArray[np.bool_], counted: NDArray[np.bool_]) -> tuple[NDArray[np.int64], list[_Overlap]]:
    """Places of what counts at all overlaps, which is most, and the rest by overlap.

    Args:
        right: by overlap, in a range of areas; (10, n).
        counted: likewise.
    """
    always = counted.all(axis=0)
    before, overlaps = np.cumsum(always, dtype=np.int64), []
    for taken, counts in zip(right, counted, strict=True):
        places, further = np.flatnonzero(taken), np.flatnonzero(counts & ~always)
        last = np.flatnonzero(np.diff(np.cumsum(counts & ~taken)[places], append=-1))
        beyond = np.searchsorted(further, places[last], side="right")
        overlaps.append(_Overlap(places, last, before[places[last]], further, beyond))
    return np.flatnonzero(always), overlaps


def _of_overlaps(
    drawn: NDArray[np.int32], plan: tuple[NDArray[np.int64], list[_Overlap]], objects: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Average precision of a class in a range of areas at every overlap; (r, 10).

    Args:
        drawn: copies of every detection, best first; (r, n).
        plan: what `_plan` says of the range of areas.
        objects: that there are to find; (r, 1).
    """
    always, overlaps = plan
    base, values = _sums(drawn.take(always, axis=1)), []
    for one in overlaps:
        totals = base.take(one.always, axis=1)
        if len(one.further):
            totals += _sums(drawn.take(one.further, axis=1)).take(one.beyond, axis=1)
        hits = np.cumsum(drawn.take(one.right, axis=1), axis=1, dtype=np.int32).take(one.last, axis=1)
        values.append(interpolated_precision(hits, totals, np.maximum(objects, 1)))
    return np.stack(values, axis=1)


def _sums(copies: NDArray[np.int32]) -> NDArray[np.int32]:
    """Running sums of (r, n), with those of nothing first; (r, n + 1)."""
    found = np.zeros((len(copies), copies.shape[1] + 1), dtype=np.int32)
    np.cumsum(copies, axis=1, dtype=np.int32, out=found[:, 1:])
    return found


def interpolated_precision(
    hits: NDArray[np.int32], totals: NDArray[np.int32], objects: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Precision averaged over COCO's 101 recalls.

    Args:
        hits: right detections up to each place, best first, in every row; (r, n).
        totals: all detections up to it that count; (r, n).
        objects: that there are to find; (r, 1).
    """
    if hits.shape[1] == 0:
        return np.zeros(len(hits))
    best = hits / np.maximum(totals, 1)
    np.maximum.accumulate(best[:, ::-1], axis=1, out=best[:, ::-1])
    best[:, :-1] -= best[:, 1:]  # how far it falls behind each place
    recall = hits / objects
    reached = recall * 100
    np.rint(reached, out=reached)
    reached += reached * 0.01 <= recall  # of recalls 0, 0.01, ... 1 those that are at most this one
    return np.asarray(np.einsum("rn,rn->r", best, reached) / 101)


def _chunks(rows: int, columns: int) -> Iterator[slice]:
    """Rows in pieces that keep an array of them small."""
    size = max(1, _CHUNK // max(columns, 1))
    return (slice(first, first + size) for first in range(0, rows, size))
