"""Which class is taken for which: the confusion matrix of the detections of one split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detdistill.data.annotations import Annotations
from detdistill.evaluation.coco import ImageDetections, check_detections
from detdistill.evaluation.shared import half_inside, overlap, require_score

BACKGROUND, MISSED = "background", "missed"
LEAST_IOU = 0.5


@dataclass(frozen=True, slots=True)
class ConfusionMatrix:
    """How many objects of each class were taken for which.

    Attributes:
        counts: a row for every class and one for the background, a column for every class and one for what was missed;
            (K + 1, K + 1). Without the last row the matrix adds up to the objects, without the last column to the
            detections that count.
        class_names: in label order.
        score: the least score of a detection that counts.
    """

    counts: NDArray[np.int64]
    class_names: tuple[str, ...]
    score: float

    @property
    def rows(self) -> tuple[str, ...]:
        """What the rows are: the truth."""
        return (*self.class_names, BACKGROUND)

    @property
    def columns(self) -> tuple[str, ...]:
        """What the columns are: what was said."""
        return (*self.class_names, MISSED)

    def as_dict(self) -> dict[str, Any]:
        """The matrix, what its rows and columns are, and how it was counted, ready for JSON."""
        names = {"rows": list(self.rows), "columns": list(self.columns)}
        return {"iou": LEAST_IOU, "score": self.score, **names, "counts": self.counts.tolist()}


def confusion_matrix(
    annotations: Annotations, detections: Sequence[ImageDetections], *, score: float = 0.3
) -> ConfusionMatrix:
    """Counts what the objects of a split were taken for.

    Going down the scores of an image, a detection of whatever class takes the object that it overlaps most among those
    that are free, from IoU 0.5 on; of objects with the same overlap, one of its own class. What takes none is of the
    background, unless half of it lies in an ignored region: then it does not count, nor does the region.

    Args:
        annotations: the ground truth.
        detections: as in `evaluate_coco`.
        score: detections below are left out, in [0, 1].

    Raises:
        ConfigError: the score is none.
        DataError: as in `evaluate_coco`.
    """
    require_score(score)
    names = annotations.class_names
    nothing = len(names)
    counts = np.zeros((nothing + 1, nothing + 1), dtype=np.int64)
    by_image = check_detections(detections, annotations.image_ids.tolist(), classes=nothing)
    for index, found in enumerate(by_image.values()):
        seen, rows = found.above(score), annotations.objects(index)
        boxes, ignored = annotations.boxes[rows].astype(np.float64), annotations.ignored[rows]
        truth, guesses = annotations.labels[rows][~ignored], seen.boxes.astype(np.float64)
        overlaps = overlap(guesses, boxes[~ignored])
        excused = half_inside(guesses, boxes[ignored])
        free = np.ones(len(truth), dtype=bool)
        for guess in np.argsort(-seen.scores, kind="stable").tolist():
            label, own = seen.labels[guess], np.where(free, overlaps[guess], 0.0)
            if own.max(initial=0.0) >= LEAST_IOU:
                # Sorted by overlap, then by whether the class is the same.
                taken = np.lexsort((truth == label, own))[-1]
                free[taken] = False
                counts[truth[taken], label] += 1
            elif not excused[guess]:
                counts[nothing, label] += 1
        counts[:nothing, nothing] += np.bincount(truth[free], minlength=nothing)
    return ConfusionMatrix(counts, names, score)
