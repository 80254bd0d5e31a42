"""Pascal VOC's average precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detdistill.data.annotations import Annotations
from detdistill.errors import ConfigError
from detdistill.evaluation.coco import ImageDetections, check_detections
from detdistill.evaluation.shared import best_from_here, figures_text, mean_of, overlap

Points = Literal["area", 11]


@dataclass(frozen=True, slots=True)
class VocMetrics:
    """VOC's figures in percent; None where there is no object to find.

    Attributes:
        map: mean over the classes that have objects.
        per_class: average precision of every class by name, in label order.
        iou: the least overlap of a hit.
    """

    map: float | None
    per_class: Mapping[str, float | None]
    iou: float
    points: Points

    def as_dict(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return {"mAP": self.map, "per_class": dict(self.per_class), "iou": self.iou, "points": self.points}

    def text(self) -> str:
        """A row per class and one for the mean; a dash where there is no object."""
        title = f"AP@{self.iou:g} ({'area' if self.points == 'area' else '11 points'})"
        rows = {name: [value] for name, value in {**self.per_class, "mean": self.map}.items()}
        return figures_text("class", [title], rows, decimals=1)


def evaluate_voc(
    annotations: Annotations, detections: Sequence[ImageDetections], *, iou: float = 0.5, points: Points = "area"
) -> VocMetrics:
    """Pascal VOC's average precision of `detections` against `annotations`.

    Going down the scores of a class, a detection belongs to the object that it overlaps most. Below `iou` it is
    wrong; on an ignored (difficult) object it does not count; on an object that is found already it is wrong. Equal
    scores keep the order of the images in `annotations`, then that of the detections.

    Differs from the source: boxes are taken as continuous, so that a box from 3 to 4 is one pixel wide, not two.

    Args:
        annotations: the ground truth; every image of it counts. VOC's difficult objects are its ignored ones.
        detections: as in `evaluate_coco`.
        iou: the least intersection over union of a hit, above 0, at most 1.
        points: ``"area"`` for the area under the precision curve made monotone (VOC 2010 and later), 11 for the
            mean precision at the recalls 0, 0.1, ..., 1 (VOC 2007).

    Raises:
        DataError: a detection is unusable, as in `evaluate_coco`.
    """
    if not 0 < iou <= 1:
        raise ConfigError(f"VOC's overlap must be above 0 and at most 1, got {iou}. 0.5 is usual.")
    if points not in ("area", 11):
        raise ConfigError(f"VOC's points must be 'area' or 11, got {points!r}. 'area' is what VOC uses since 2010.")
    names = annotations.class_names
    found = list(check_detections(detections, annotations.image_ids.tolist(), classes=len(names)).values())
    per_class = {name: _average_precision(annotations, found, label, iou, points) for label, name in enumerate(names)}
    return VocMetrics(mean_of(list(per_class.values())), per_class, iou, points)


def _average_precision(
    annotations: Annotations, found: Sequence[ImageDetections], label: int, iou: float, points: Points
) -> float | None:
    of_class = annotations.labels == label
    objects = int((of_class & ~annotations.ignored).sum())
    if objects == 0:
        return None
    scores: list[NDArray[np.float32]] = []
    verdicts: list[NDArray[np.int8]] = []
    for index, entry in enumerate(found):
        rows, own = annotations.objects(index), entry.labels == label
        truth = of_class[rows]
        boxes, ignored = annotations.boxes[rows][truth], annotations.ignored[rows][truth]
        scores.append(entry.scores[own])
        verdicts.append(_verdicts(boxes, ignored, entry.boxes[own], scores[-1], iou=iou))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    verdict = np.concatenate(verdicts)[order]
    counting = verdict != 0
    right, wrong = (np.cumsum(verdict == one)[counting] for one in (1, -1))
    precision = right / np.maximum(right + wrong, 1)
    if points == "area":
        return 100.0 * float((np.diff(right, prepend=0) * best_from_here(precision)).sum() / objects)
    # Whole numbers: recall 3/10 reaches 0.3.
    at = [precision[10 * right >= tenth * objects] for tenth in range(11)]
    return 100.0 * (sum(float(values.max()) if len(values) else 0.0 for values in at) / 11)


def _verdicts(
    boxes: NDArray[np.float32],
    ignored: NDArray[np.bool_],
    guesses: NDArray[np.float32],
    scores: NDArray[np.float32],
    *,
    iou: float,
) -> NDArray[np.int8]:
    """For every detection of an image and class: 1 right, -1 wrong, 0 on an ignored object."""
    if len(boxes) == 0 or len(guesses) == 0:
        return np.full(len(guesses), -1, dtype=np.int8)
    overlaps = overlap(guesses.astype(np.float64), boxes.astype(np.float64))
    nearest = overlaps.argmax(axis=1)
    hits = overlaps[np.arange(len(guesses)), nearest] >= iou
    verdicts = np.where(hits & ignored[nearest], 0, -1).astype(np.int8)
    by_score = np.argsort(-scores, kind="stable")
    candidates = by_score[hits[by_score] & ~ignored[nearest[by_score]]]
    _, first = np.unique(nearest[candidates], return_index=True)
    verdicts[candidates[first]] = 1
    return verdicts
