"""Tells the ignore regions of a split (ignored for every class) from boxes that one class alone ignores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detdistill.data.annotations import Annotations


@dataclass(frozen=True, slots=True)
class IgnoreRegions:
    """The regions in which nothing counts, such as KITTI's DontCare.

    Attributes:
        images: the image of each region; (r,).
        boxes: x1, y1, x2, y2 in pixels; (r, 4) float32.
        members: which boxes of the split stand for a region, one for every class; (m,) bool.
    """

    images: NDArray[np.int64]
    boxes: NDArray[np.float32]
    members: NDArray[np.bool_]


def find_regions(annotations: Annotations) -> IgnoreRegions:
    """Finds the places that are ignored for every class; with a single class there is nothing to tell apart."""
    classes = len(annotations.class_names)
    members = np.zeros(len(annotations.boxes), dtype=np.bool_)
    rows = np.flatnonzero(annotations.ignored)
    image_of = np.repeat(np.arange(len(annotations)), np.diff(annotations.offsets))[rows]
    if classes < 2 or len(rows) == 0:
        return IgnoreRegions(np.zeros(0, dtype=np.int64), np.zeros((0, 4), dtype=np.float32), members)
    boxes = annotations.boxes[rows]
    keys = np.concatenate([image_of[:, None].astype(np.float64), boxes.astype(np.float64)], axis=1)
    _, first, place = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    place = place.reshape(-1)
    pairs = np.unique(place * classes + annotations.labels[rows])
    whole = np.bincount(pairs // classes, minlength=len(first)) == classes
    members[rows[whole[place]]] = True
    chosen = np.sort(first[whole])
    return IgnoreRegions(image_of[chosen], boxes[chosen], members)
