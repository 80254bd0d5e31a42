"""A part of a split's images kept apart, to judge by without touching the validation images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detdistill.data.annotations import Annotations
from detdistill.errors import DataError

_DRAWS = 100


def held_images(count: int, share: float) -> int:
    """How many of `count` images are held out: at least one, and one less than all at most."""
    return min(max(round(share * count), 1), count - 1)


def hold_out(
    annotations: Annotations, share: float, *, seed: int, fold: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of the images to learn from and of those held out, each in the split's order.

    Of a hundred draws that the seed decides, the first is taken whose held-out part has the most classes among its
    boxes, so that a rare class is judged where there are images enough.

    Args:
        share: of the images that is held out, above 0 and below 1; at least one image stays on each side.
        fold: holds out none of the images that the folds before it do.

    Raises:
        DataError: there are fewer than two images, too few for so many folds, or none of the draws has a box on both
            sides.
    """
    free = np.ones(len(annotations), dtype=np.bool_)
    for _ in range(fold):
        free &= ~_drawn(annotations, share, free, seed=seed)
    apart = _drawn(annotations, share, free, seed=seed)
    return np.flatnonzero(~apart), np.flatnonzero(apart)


def _drawn(annotations: Annotations, share: float, free: NDArray[np.bool_], *, seed: int) -> NDArray[np.bool_]:
    """Which images are held out, of those that are free."""
    count = len(annotations)
    held = held_images(count, share)
    random = np.random.default_rng(seed)
    owners = annotations.owners()
    labels = np.where(annotations.ignored, -1, annotations.labels)
    best, found = 0, None
    for _ in range(_DRAWS if count > 1 and free.sum() >= held else 0):
        order = random.permutation(count)
        order = order[free[order]]
        apart = np.zeros(count, dtype=np.bool_)
        apart[order[:held]] = True
        inside = apart[owners]
        classes = len(np.setdiff1d(labels[inside], [-1]))
        if classes > best and (labels[~inside] >= 0).any():
            best, found = classes, apart
    if found is None:
        raise DataError(
            f"The training images must be enough to hold some out, with a box on both sides, got {count} images with "
            f"{int((labels >= 0).sum())} boxes. Label more images."
        )
    return found
