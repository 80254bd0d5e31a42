"""KITTI's official 2D average precision: easy, moderate and hard cars, pedestrians and cyclists.

The rules, written from the benchmark's description:

- A difficulty counts the objects that are tall, visible and inside the image enough; the others of the class are
  ignored: who finds one is neither right nor wrong. So are objects of the neighbouring class (Van for Car,
  Person_sitting for Pedestrian).
- A detection finds an object at an intersection over union above 0.7 for cars, 0.5 for the others. A second one on
  the same object is wrong.
- Detections lower than the difficulty's height are neither right nor wrong. As in the benchmark they may be of any
  class: one of another class that lies on an object takes it out of the counting too.
- A detection of which a greater share than that threshold lies in a DontCare region is not wrong.
- An object exactly as tall as the limit is ignored, a detection so tall is not.
- Precision is sampled at 41 recall positions. AP40 is the mean over 1/40, ..., 1; AP11 over 0, 0.1, ..., 1.

Differs from the benchmark: where fewer than 41 objects count, see `recall_thresholds`; and a position where no
detection is right or wrong has precision 0, which the benchmark leaves undefined.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detdistill.data.formats.kitti import DONT_CARE, KittiLabels
from detdistill.errors import ConfigError, DataError
from detdistill.evaluation.coco import ImageDetections, check_detections
from detdistill.evaluation.shared import areas, best_from_here, figures_text, intersections, mean_of, overlap

Points = Literal[40, 11]
# Recall positions of the precision curve: 0, 1/40, ..., 1.
_SAMPLES = 41
Figures = Mapping[str, Mapping[str, float | None]]


class _Rules(NamedTuple):
    """How a class is measured: the least overlap of a hit, and the class whose objects are ignored."""

    iou: float
    neighbour: str


class _Limits(NamedTuple):
    """Which objects count: box height in pixels above `height`, at most so much hidden and outside the image."""

    height: float
    occluded: int
    truncated: float


KITTI_CLASSES = MappingProxyType(
    {"Car": _Rules(0.7, "Van"), "Pedestrian": _Rules(0.5, "Person_sitting"), "Cyclist": _Rules(0.5, "Cyclist")}
)
DIFFICULTIES = MappingProxyType(
    {"easy": _Limits(40, 0, 0.15), "moderate": _Limits(25, 1, 0.3), "hard": _Limits(25, 2, 0.5)}
)


@dataclass(frozen=True, slots=True)
class KittiMetrics:
    """KITTI's figures in percent; None where no object counts.

    Attributes:
        points: recall positions of the mean, 40 or 11.
        ap: by class, then by difficulty.
        objects: how many objects count, by class, then by difficulty.
    """

    points: int
    ap: Figures
    objects: Mapping[str, Mapping[str, int]]

    def mean(self, difficulty: str) -> float | None:
        """Mean over the classes that have objects at a difficulty; None where none has."""
        return mean_of([by_level[difficulty] for by_level in self.ap.values()])

    def as_dict(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        return {
            "points": self.points,
            "AP": {name: dict(by_level) for name, by_level in self.ap.items()},
            "mean": {level: self.mean(level) for level in DIFFICULTIES},
            "objects": {name: dict(by_level) for name, by_level in self.objects.items()},
        }

    def text(self) -> str:
        """A row per class and one for the mean, a column per difficulty; a dash where no object counts."""
        rows = {name: [by_level[level] for level in DIFFICULTIES] for name, by_level in self.ap.items()}
        rows["mean"] = [self.mean(level) for level in DIFFICULTIES]
        return figures_text(f"2D AP{self.points}", tuple(DIFFICULTIES), rows, decimals=2)


def evaluate_kitti(
    truths: Mapping[int, KittiLabels],
    detections: Sequence[ImageDetections],
    *,
    class_names: Sequence[str],
    points: Points = 40,
) -> KittiMetrics:
    """KITTI's 2D average precision of `detections` against label files.

    Args:
        truths: the label files by image id, as `read_kitti_labels` reads them; every image counts.
        detections: as in `evaluate_coco`; the order within an image decides between equal scores and equal overlaps.
        class_names: what the detections' labels mean, in any case of letters, other classes among them.
        points: recall positions, 40 as the benchmark counts since 2019, or 11 as before.

    Returns:
        Figures in [0, 100] of Car, Pedestrian and Cyclist.

    Raises:
        ConfigError: `points` is neither, or `class_names` holds none of the three classes.
        DataError: a label file's arrays differ in length or are not finite, or a detection is unusable, as in
            `evaluate_coco`.
    """
    if points not in (40, 11):
        raise ConfigError(f"KITTI's recall points must be 40 or 11, got {points}. 40 is what the benchmark uses today.")
    if not any(_named(class_names, name).any() for name in KITTI_CLASSES):
        raise ConfigError(
            f"The detector's classes must include one of {', '.join(KITTI_CLASSES)}, got {list(class_names)}. "
            "Evaluate a detector that was trained on KITTI's classes."
        )
    for image_id, truth in truths.items():
        _check_truth(image_id, truth)
    found = check_detections(detections, truths, classes=len(class_names))
    ap: dict[str, dict[str, float | None]] = {}
    objects: dict[str, dict[str, int]] = {}
    for name in KITTI_CLASSES:
        seen = [_seen(truth, found[image_id], class_names, name) for image_id, truth in truths.items()]
        images = {level: [by_level[level] for by_level in seen] for level in DIFFICULTIES}
        objects[name] = {level: sum(int(one.counted.sum()) for one in images[level]) for level in DIFFICULTIES}
        curves = {level: _precision_curve(images[level]) for level in DIFFICULTIES}
        chosen = slice(1, None) if points == 40 else slice(None, None, 4)
        ap[name] = {k: None if curve is None else 100.0 * float(curve[chosen].mean()) for k, curve in curves.items()}
    return KittiMetrics(points, ap, objects)


@dataclass(frozen=True, slots=True)
class _Matched:
    """One image, as one class at one difficulty sees it: g objects and d detections.

    Attributes:
        overlaps: intersection over union; (g, d).
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


def _seen(truth: KittiLabels, found: ImageDetections, class_names: Sequence[str], name: str) -> dict[str, _Matched]:
    """What one class sees of an image, by difficulty."""
    rules, own = KITTI_CLASSES[name], _named(truth.types, name)
    concerned = own | _named(truth.types, rules.neighbour)
    objects, own = truth.boxes[concerned], own[concerned]
    occluded, truncated = truth.occluded[concerned], truth.truncated[concerned]
    guesses, scores = found.boxes.astype(np.float64), found.scores.astype(np.float64)
    regions = truth.boxes[_named(truth.types, DONT_CARE)]
    excused = np.any(intersections(regions, guesses) > rules.iou * areas(guesses), axis=0)
    overlaps = overlap(objects, guesses)
    tall, guessed_tall = objects[:, 3] - objects[:, 1], guesses[:, 3] - guesses[:, 1]
    seen: dict[str, _Matched] = {}
    for level, limit in DIFFICULTIES.items():
        hard = (tall <= limit.height) | (occluded > limit.occluded) | (truncated > limit.truncated)
        small = guessed_tall < limit.height
        kept = _named(class_names, name)[found.labels] | small
        seen[level] = _Matched(overlaps[:, kept], rules.iou, own & ~hard, scores[kept], small[kept], excused[kept])
    return seen


def _precision_curve(images: Sequence[_Matched]) -> NDArray[np.float64] | None:
    """Precision at the 41 recall positions, each the best there or at a higher recall; None where no object counts."""
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
    reached = right / np.maximum(right + wrong, 1)
    return best_from_here(np.pad(reached, (0, _SAMPLES - len(reached))))


def _found_scores(image: _Matched) -> list[float]:
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


def _right_and_wrong(image: _Matched, thresholds: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
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
    if objects < _SAMPLES:
        # ceil(k / 40 * objects) objects are needed for recall k / 40.
        needed = [max(1, -(-k * objects // (_SAMPLES - 1))) for k in range(_SAMPLES)]
        return np.array([ordered[n - 1] for n in needed if n <= len(ordered)], dtype=np.float64)
    taken: list[float] = []
    position = 0.0
    for index, score in enumerate(ordered, start=1):
        here, following = index / objects, (index + 1) / objects
        if index == len(ordered) or following - position >= position - here:
            taken.append(score)
            # Added up as the benchmark does, so that equal distances fall on the same side.
            position += 1 / (_SAMPLES - 1)
    return np.array(taken[:_SAMPLES], dtype=np.float64)


def _named(types: Iterable[str], name: str) -> NDArray[np.bool_]:
    return np.array([one.lower() == name.lower() for one in types], dtype=np.bool_)


def _check_truth(image_id: int, truth: KittiLabels) -> None:
    n = len(truth.types)
    if truth.boxes.shape != (n, 4) or not truth.truncated.shape == truth.occluded.shape == (n,):
        raise DataError(
            f"The labels of image {image_id} must be types (n,), truncated (n,), occluded (n,) and boxes (n, 4), "
            f"got ({n},), {truth.truncated.shape}, {truth.occluded.shape} and {truth.boxes.shape}. "
            "Give one of each for every object."
        )
    if not np.isfinite(truth.boxes).all():
        raise DataError(f"The boxes of image {image_id} must be finite, got NaN or infinity. Correct its label file.")
