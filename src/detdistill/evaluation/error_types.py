"""What kinds of errors a detector makes, and the average precision that each kind costs, as TIDE tells them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detdistill.data.annotations import Annotations
from detdistill.evaluation.coco import ImageDetections, check_detections
from detdistill.evaluation.resample import interpolated_precision
from detdistill.evaluation.shared import areas, intersections, mean_of, overlap, taken

MISSED, BACKGROUND, CONFUSED, BADLY_LOCALISED, BOTH, DOUBLE = KINDS = (
    "missed",
    "background",
    "confused",
    "badly localised",
    "both",
    "double",
)
LEAST_RIGHT, LEAST_NEAR = 0.5, 0.1
"""TIDE's overlaps: from the first on a box is right, below the second it shows nothing but background."""
_MOST = 100
_RIGHT, _NONE = len(KINDS), -1
_TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True, slots=True)
class ErrorTypes:
    """A detector's errors by kind; all mappings have the keys `KINDS`.

    Attributes:
        ap50: COCO's AP at IoU 0.5 in percent; None where there is no object.
        counts: how many errors of each kind: of missed objects, else of detections, however unsure.
        costs: by how many points `ap50` would rise if errors of this kind alone were mended; None as `ap50`.
    """

    ap50: float | None
    counts: Mapping[str, int]
    costs: Mapping[str, float | None]

    def as_dict(self) -> dict[str, Any]:
        """``AP50``, and ``count`` and ``dAP`` by kind, ready for JSON."""
        kinds = {kind: {"count": self.counts[kind], "dAP": self.costs[kind]} for kind in KINDS}
        return {"AP50": self.ap50, **kinds}


def mean_errors(errors: Sequence[ErrorTypes]) -> ErrorTypes:
    """The mean over detectors that looked at the same images, counts rounded."""
    return ErrorTypes(
        mean_of([one.ap50 for one in errors]),
        {kind: round(sum(one.counts[kind] for one in errors) / len(errors)) for kind in KINDS},
        {kind: mean_of([one.costs[kind] for one in errors]) for kind in KINDS},
    )


def error_types(annotations: Annotations, detections: Sequence[ImageDetections]) -> ErrorTypes:
    """Tells why detections are wrong and objects are not found, and what each kind of error costs.

    Detections are matched to objects as COCO does it at IoU 0.5. A wrong one is, where the first of these holds:
    **badly localised**, where it overlaps an object of its class from IoU 0.1 on, but below 0.5; **confused**, where
    it overlaps one of another class from 0.5 on; **double**, where it overlaps one of its class from 0.5 on, which a
    surer one took; **background**, where it overlaps none from 0.1 on; else **both** (class and place). **Missed** is
    an object that is not found, and that no badly localised or confused detection is meant for.

    The cost of a kind is the AP50 with it mended minus the AP50: a confused or badly localised detection becomes right,
    the surest one for each object, and the others vanish; both, double and background vanish; missed objects are not
    counted, and a class of which nothing is left then, not in the mean. Ignored objects are crowds, which excuse the
    detections of their class and are no objects else. Of a class without objects errors are counted and cost nothing.

    Args:
        annotations: the ground truth.
        detections: as in `evaluate_coco`; at most 100 of an image and class count.

    Raises:
        DataError: as in `evaluate_coco`.

    Source: D. Bolya, S. Foley, J. Hays, J. Hoffman: TIDE: A General Toolbox for Identifying Object Detection Errors,
    ECCV 2020, sections 2.2 and 2.3. Where several definitions hold, and where a badly localised and a confused
    detection are meant for one object, it is decided as in its authors' program.
    """
    names = annotations.class_names
    by_image = check_detections(detections, annotations.image_ids.tolist(), classes=len(names))
    images = [_judged(annotations, index, found) for index, found in enumerate(by_image.values())]
    rows = np.concatenate([np.zeros((0, 4)), *(judged for judged, _ in images)])
    # Of equal scores the image of the smaller id comes first, as in COCO's own order.
    first = np.argsort(np.argsort(annotations.image_ids, kind="stable"), kind="stable")
    rows = rows[np.lexsort((np.repeat(first, [len(judged) for judged, _ in images]), -rows[:, 0]))]
    told = _Told(*rows[:, 1:].astype(np.int64).T)
    objects = np.bincount(annotations.labels[~annotations.ignored], minlength=len(names))
    missed = np.bincount(np.concatenate([np.zeros(0, np.int64), *(one for _, one in images)]), minlength=len(names))
    counts = [int(missed.sum()), *np.bincount(told.kinds, minlength=_RIGHT)[1:_RIGHT].tolist()]
    mended = [told.precision(objects - missed, known=objects > 0)]
    mended += [told.mended(kind).precision(objects, known=objects > 0) for kind in range(1, _RIGHT)]
    base = told.precision(objects, known=objects > 0)
    # Where nothing is left to be found, nothing is wrong any more.
    costs = [None if base is None else 100 * ((1.0 if value is None else value) - base) for value in mended]
    ap50 = None if base is None else 100 * base
    return ErrorTypes(ap50, dict(zip(KINDS, counts, strict=True)), dict(zip(KINDS, costs, strict=True)))


@dataclass(frozen=True, slots=True)
class _Told:
    """Detections that are right or wrong, surest first.

    Attributes:
        labels: (n,).
        kinds: the place of each one's error in `KINDS`, or `_RIGHT`; (n,).
        meant: the class under which it is right once it is mended, `_NONE` where it vanishes; (n,).
    """

    labels: NDArray[np.int64]
    kinds: NDArray[np.int64]
    meant: NDArray[np.int64]

    def mended(self, kind: int) -> _Told:
        """The same without errors of one kind."""
        here = self.kinds == kind
        kept = ~here | (self.meant != _NONE)
        labels, kinds = np.where(here, self.meant, self.labels), np.where(here, _RIGHT, self.kinds)
        return _Told(labels[kept], kinds[kept], self.meant[kept])

    def precision(self, objects: NDArray[np.int64], *, known: NDArray[np.bool_]) -> float | None:
        """AP50 in [0, 1]: the mean over the known classes that have anything, objects or detections; None for none.

        Args:
            objects: how many of each class there are to be found; (K,).
            known: the classes that count; (K,).
        """
        order = np.argsort(self.labels, kind="stable")
        starts = np.searchsorted(self.labels[order], np.arange(len(objects) + 1))
        right = (self.kinds == _RIGHT)[order]
        values = []
        for label in np.flatnonzero(known & ((objects > 0) | (np.diff(starts) > 0))):
            places = np.flatnonzero(right[starts[label] : starts[label + 1]])
            hits, totals = np.arange(1, len(places) + 1, dtype=np.int32)[None], (places + 1).astype(np.int32)[None]
            total = np.array([[max(int(objects[label]), 1)]], np.int32)
            values.append(float(interpolated_precision(hits, totals, total)[0]))
        return sum(values) / len(values) if values else None


def _judged(
    annotations: Annotations, index: int, found: ImageDetections
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """An image's detections as rows of score and what `_Told` has, excused ones left out, and its missed classes."""
    rows = annotations.objects(index)
    crowd = annotations.ignored[rows]
    areas_of, classes = annotations.boxes[rows].astype(np.float64), annotations.labels[rows].astype(np.int64)
    objects, truth = areas_of[~crowd], classes[~crowd]
    order = np.argsort(-found.scores, kind="stable")
    order = order[_places(found.labels[order]) < _MOST]
    boxes, labels = found.boxes[order].astype(np.float64), found.labels[order]
    overlaps, own = overlap(boxes, objects), labels[:, None] == truth
    same, other = np.where(own, overlaps, 0.0), np.where(own, 0.0, overlaps)
    near, across = same.max(axis=1, initial=0.0), other.max(axis=1, initial=0.0)
    kinds = np.full(len(order), KINDS.index(BOTH))
    kinds[(near < LEAST_NEAR) & (across < LEAST_NEAR)] = KINDS.index(BACKGROUND)
    kinds[near >= LEAST_RIGHT] = KINDS.index(DOUBLE)
    kinds[across >= LEAST_RIGHT] = KINDS.index(CONFUSED)
    kinds[(near >= LEAST_NEAR) & (near < LEAST_RIGHT)] = KINDS.index(BADLY_LOCALISED)
    took = taken(same, LEAST_RIGHT)
    kinds[took >= 0] = _RIGHT
    free = ~np.isin(np.arange(len(truth)), took)
    if crowd.any():
        inside = intersections(boxes, areas_of[crowd]) * (labels[:, None] == classes[crowd])
        excused = (inside.max(axis=1) >= LEAST_RIGHT * np.maximum(areas(boxes), _TINY)) & (kinds != _RIGHT)
        order, labels, kinds, same, other = (part[~excused] for part in (order, labels, kinds, same, other))
    meant = np.full(len(order), _NONE)
    wrong = np.flatnonzero((kinds == KINDS.index(BADLY_LOCALISED)) | (kinds == KINDS.index(CONFUSED)))
    if len(wrong):
        confused = kinds[wrong] == KINDS.index(CONFUSED)
        aims, surest = np.unique(
            np.where(confused, other[wrong].argmax(axis=1), same[wrong].argmax(axis=1)), return_index=True
        )
        meant[wrong[surest[free[aims]]]] = truth[aims[free[aims]]]
        free[aims] = False
    return np.column_stack([found.scores[order], labels, kinds, meant]), truth[free]


def _places(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of the same label stand before each; (n,)."""
    order = np.argsort(labels, kind="stable")
    begins = np.searchsorted(labels[order], labels[order])
    places = np.empty(len(labels), dtype=np.int64)
    places[order] = np.arange(len(labels)) - begins
    return places
