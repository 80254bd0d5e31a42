"""Which detections are right by COCO's rules, found once, so that any choice of a split's images can be measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detdistill.data.annotations import Annotations
from detdistill.evaluation.coco import ImageDetections, check_detections

IOUS: NDArray[np.float64] = np.linspace(0.5, 0.95, 10)
"""COCO's overlaps."""
AREAS = np.array([[0.0, 1e10], [0.0, 32.0**2], [32.0**2, 96.0**2], [96.0**2, 1e10]])
"""COCO's ranges of areas in square pixels: all, small, medium, large; (4, 2)."""
_MOST = 100


@dataclass(frozen=True, slots=True)
class Matches:
    """The detections of one split, best first in each class, and how each counts at every area range and overlap.

    Attributes:
        class_names: in label order.
        starts: where the detections of each class begin; (K + 1,).
        images: the row of each one's image in the split; (n,).
        right: whether it takes an object; (4, 10, n).
        counted: whether it is right or wrong rather than ignored; (4, 10, n).
        objects: how many objects of each class every image has; (4, K, images).
    """

    class_names: tuple[str, ...]
    starts: NDArray[np.int64]
    images: NDArray[np.int64]
    right: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    objects: NDArray[np.int32]


def match(annotations: Annotations, detections: Sequence[ImageDetections]) -> Matches:
    """Matches detections to objects as COCO's evaluation does.

    Going down the scores of an image and a class, at most 100 detections, each takes the free object that it overlaps
    most from the given overlap on, the later of equal ones; an ignored object only where no other is left, and a crowd
    as often as it is overlapped. What takes an ignored object is ignored, and so is what takes none and lies outside
    the range of areas.

    Raises:
        DataError: as `evaluate_coco`.
    """
    names = annotations.class_names
    found = check_detections(detections, annotations.image_ids.tolist(), classes=len(names))
    images = np.repeat(np.arange(len(found)), [len(one.scores) for one in found.values()])
    boxes = _joined([one.boxes for one in found.values()], (0, 4)).astype(np.float64)
    scores = _joined([one.scores for one in found.values()], (0,)).astype(np.float64)
    labels = _joined([one.labels for one in found.values()], (0,)).astype(np.int64)
    pairs = images * len(names) + labels
    order = np.lexsort((-scores, pairs))
    order = order[_rank(pairs[order]) < _MOST]
    images, boxes, scores, labels, pairs = images[order], boxes[order], scores[order], labels[order], pairs[order]
    owners = annotations.owners()
    keys = owners * len(names) + annotations.labels
    areas = annotations.areas.astype(np.float64)
    outside = (areas < AREAS[:, :1]) | (areas > AREAS[:, 1:]) | annotations.ignored
    right, taken = _taken(pairs, boxes, keys, annotations, outside)
    sizes = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    foreign = (sizes < AREAS[:, :1]) | (sizes > AREAS[:, 1:])
    counted = np.where(taken, right, ~foreign[:, None])
    objects = np.zeros((len(AREAS), len(names), len(annotations)), dtype=np.int32)
    for area, ignored in enumerate(outside):
        np.add.at(objects[area], (annotations.labels[~ignored], owners[~ignored]), 1)
    # Of equal scores the image of the smaller id comes first, as in COCO's own order.
    first = np.argsort(np.argsort(annotations.image_ids, kind="stable"), kind="stable")
    best = np.lexsort((_rank(pairs), first[images], -scores, labels))
    starts = np.searchsorted(labels[best], np.arange(len(names) + 1))
    return Matches(names, starts, images[best], right[..., best], counted[..., best], objects)


def _joined(parts: Sequence[NDArray[np.generic]], empty: tuple[int, ...]) -> NDArray[np.generic]:
    return np.concatenate([np.zeros(empty), *parts])


def _rank(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of every entry among those of the same key; equal keys stand together."""
    begins = np.flatnonzero(np.diff(keys, prepend=-1))
    lengths = np.diff(begins, append=len(keys))
    return np.arange(len(keys)) - np.repeat(begins, lengths)


def _taken(
    pairs: NDArray[np.int64],
    boxes: NDArray[np.float64],
    keys: NDArray[np.int64],
    annotations: Annotations,
    outside: NDArray[np.bool_],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each detection takes an object that counts, and whether it takes any; both (4, 10, n).

    Args:
        pairs: image and class of each detection as one number, ascending; within, best first.
        keys: the same of each object; ignored ones are crowds.
        outside: objects that are ignored, by range of areas; (4, m).
    """
    objects, crowds = annotations.boxes.astype(np.float64), annotations.ignored
    shape = len(AREAS), len(IOUS), len(pairs)
    right, taken = np.zeros(shape, dtype=np.bool_), np.zeros(shape, dtype=np.bool_)
    sorted_objects = np.argsort(keys, kind="stable")
    own, firsts, counts = np.unique(keys[sorted_objects], return_index=True, return_counts=True)
    begins, ends = np.searchsorted(pairs, own), np.searchsorted(pairs, own, side="right")
    sizes = np.frexp(counts)[1]
    for size in np.unique(sizes[ends > begins]):
        group = np.flatnonzero((sizes == size) & (ends > begins))
        width = counts[group].max()
        columns = np.arange(width)
        present = columns < counts[group, None]
        which = sorted_objects[np.where(present, firsts[group, None] + columns, 0)]
        free = np.broadcast_to(present[:, None, None], (len(group), *shape[:2], width)).copy()
        ignored = outside[:, which].transpose(1, 0, 2)[:, :, None]
        for place in range(int((ends - begins)[group].max())):
            rows = np.flatnonzero(begins[group] + place < ends[group])
            at = begins[group[rows]] + place
            overlaps = _overlaps(boxes[at], objects[which[rows]], crowds[which[rows]])
            possible = free[rows] & (overlaps[:, None, None] >= np.minimum(IOUS, 1 - 1e-10)[:, None])
            proper = possible & ~ignored[rows]
            pool = np.where(proper.any(-1, keepdims=True), proper, possible)
            values = np.where(pool, overlaps[:, None, None], -1.0)
            chosen = width - 1 - values[..., ::-1].argmax(-1)
            hit = np.asarray(pool.any(axis=-1))
            good = np.take_along_axis(proper, chosen[..., None], -1)[..., 0]
            taken[..., at], right[..., at] = hit.transpose(1, 2, 0), good.transpose(1, 2, 0)
            used = (columns == chosen[..., None]) & hit[..., None] & ~crowds[which[rows]][:, None, None]
            free[rows] &= ~used
    return right, taken


def _overlaps(
    boxes: NDArray[np.float64], objects: NDArray[np.float64], crowds: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """IoU of boxes (p, 4) with their own objects (p, g, 4); with a crowd, the share of the box that lies in it."""
    corners = np.maximum(boxes[:, None, :2], objects[..., :2]), np.minimum(boxes[:, None, 2:], objects[..., 2:])
    shared = (corners[1] - corners[0]).clip(min=0).prod(-1)
    size, others = (boxes[:, 2:] - boxes[:, :2]).prod(-1)[:, None], (objects[..., 2:] - objects[..., :2]).prod(-1)
    union = np.where(crowds, size, size + others - shared)
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))
