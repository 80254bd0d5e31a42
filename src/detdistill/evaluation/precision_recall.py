"""How precise a detector is up to each recall, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detdistill.data.annotations import Annotations
from detdistill.evaluation.coco import ImageDetections
from detdistill.evaluation.matches import match
from detdistill.evaluation.shared import best_from_here

RECALLS: NDArray[np.float64] = np.linspace(0, 1, 101)
"""COCO's."""


@dataclass(frozen=True, slots=True)
class PrecisionRecall:
    """Precision at `RECALLS`, the greatest at that recall or beyond, at IoU 0.5 by COCO's rules.

    Attributes:
        precisions: in [0, 1], NaN in all of a class without objects; the mean of a row is the class's AP50;
            (K, 101).
        class_names: in label order.
        objects: of every class; (K,).
    """

    precisions: NDArray[np.float64]
    class_names: tuple[str, ...]
    objects: NDArray[np.int64]

    def average(self) -> NDArray[np.float64]:
        """AP50 in percent of every class, NaN where there is none; (K,)."""
        return np.asarray(100 * self.precisions.mean(axis=1))


def precision_recall(annotations: Annotations, detections: Sequence[ImageDetections]) -> PrecisionRecall:
    """The curve of every class.

    Args:
        annotations: the ground truth.
        detections: as for `evaluate_coco`.

    Raises:
        DataError: as `evaluate_coco`.
    """
    matches = match(annotations, detections)
    objects = matches.objects[0].sum(axis=1, dtype=np.int64)
    precisions = np.full((len(objects), len(RECALLS)), np.nan)
    for label in np.flatnonzero(objects).tolist():
        own = slice(*matches.starts[label : label + 2])
        right, counted = matches.right[0, 0, own], matches.counted[0, 0, own]
        hits = np.cumsum(right[counted])
        best = np.append(best_from_here(hits / np.arange(1, len(hits) + 1)), 0.0)
        precisions[label] = best[np.searchsorted(hits / objects[label], RECALLS)]
    return PrecisionRecall(precisions, matches.class_names, objects)
