"""Where a teacher and the labels disagree, ranked by how likely it is that a label is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detdistill.data.annotations import Annotations
from detdistill.evaluation.coco import ImageDetections, check_detections
from detdistill.evaluation.shared import half_inside, overlap, taken

MISSING, WRONG_CLASS, BOX_OFF, NOTHING_THERE = KINDS = ("missing box", "wrong class", "box off", "nothing there")
SAME_PLACE, NEAR = 0.5, 0.1
"""From these IoUs on a box is on a label, or near it."""
_LOOSE = 0.7
# Ranked as if so many labels were wrong.
_PRIOR = 0.1
_LEAST = 0.01
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LabelError:
    """A label that is likely to be wrong, or missing.

    Attributes:
        kind: of `KINDS`.
        score: how likely, in [0, 1]; it ranks, over the kinds, and is no probability of this data's.
        image: the row of its image.
        row: of the label, in the split's `boxes`; None for a missing one.
        box: x1, y1, x2, y2 in pixels of the stored image, as it should be; where nothing is there, the label's.
        label: the class as it should be; where nothing is there, the label's.
    """

    kind: str
    score: float
    image: int
    row: int | None
    box: tuple[float, float, float, float]
    label: int


def find_label_errors(annotations: Annotations, detections: Sequence[ImageDetections]) -> list[LabelError]:
    """Compares labels with what a teacher found, and ranks what differs, most likely errors first.

    How sure the teacher is, s, is its score calibrated on this very data: of each class the share of boxes with such a
    score that are on a label of it (a logistic curve), which holds up to a common factor where labels are wrong at
    random, or the teacher learned from them. Each box takes the label of its class that it overlaps most from IoU 0.5
    on, surest first. A label that is taken by none is open. With o(g) how sure the surest box of g's class on it is:

    - *missing box*: a box on no label: s × (1 − its largest IoU with any).
    - *wrong class*: a box on a label of another class, that takes none of its own: s − o.
    - *box off*: a box near (IoU 0.1 to 0.5) an open label of its class: s × (1 − IoU) × (1 − o); or with a loose hold
      (below 0.7) on one, times p / (p + the share of this teacher's holds that are as loose).
    - *nothing there*: an open label: (1 − s of the surest box near it) × p / (p + (1 − p) × the share of its class's
      labels that are open).

    p = 0.1 stands for the share of wrong labels. Of findings at one place, or for one label, only the first is kept.
    Ignored regions are no labels, and excuse what half lies in them.

    Args:
        annotations: the labels.
        detections: of the teacher, with the labels' class numbers; at most one entry per image.

    Returns:
        Findings with scores from 0.01 on.

    Raises:
        DataError: as in `evaluate_coco`.

    Source: confident learning (C. Northcutt, L. Jiang, I. Chuang: Confident Learning: Estimating Uncertainty in Dataset
    Labels, JAIR 2021) weighs labels by a model's confidence calibrated on the same labels; the formulas are ours.
    """
    classes = len(annotations.class_names)
    by_image = check_detections(detections, annotations.image_ids.tolist(), classes=classes)

    def images() -> Iterator[_Compared]:
        return (_compared(annotations, index, found) for index, found in enumerate(by_image.values()))

    # Compared twice: what is kept of all images would take more memory than that takes time.
    usual = _usual(images(), classes)
    found = [error for one in images() for error in one.errors(usual)]
    return sorted(found, key=lambda error: (-error.score, error.image))


@dataclass(frozen=True, slots=True)
class _Usual:
    """What is usual between the teacher and these labels.

    Attributes:
        curves: slope and offset of each class's calibration, on log odds of scores; (K, 2).
        holds: IoUs of all boxes with the labels that they take, ascending.
        open_share: of every class's labels; (K,).
    """

    curves: Floats
    holds: Floats
    open_share: Floats


@dataclass(frozen=True, slots=True)
class _Compared:
    """An image's boxes, best first, beside its labels.

    Attributes:
        index: the image's row.
        boxes: (n, 4), with `logits`, the log odds of their scores, and `labels`.
        given: the labels' boxes (m, 4), with their classes `truth`, and `rows` in the split.
        overlaps: (n, m).
        took: the label that each box takes, -1 for none; (n,).
    """

    index: int
    boxes: Floats
    logits: Floats
    labels: NDArray[np.int64]
    given: Floats
    truth: NDArray[np.int64]
    rows: NDArray[np.int64]
    overlaps: Floats
    took: NDArray[np.int64]

    @property
    def open(self) -> NDArray[np.bool_]:
        """Which labels no box takes; (m,)."""
        return ~np.isin(np.arange(len(self.truth)), self.took)

    @property
    def holds(self) -> Floats:
        """IoUs of boxes with the labels that they take."""
        some = np.flatnonzero(self.took >= 0)
        return self.overlaps[some, self.took[some]]

    def errors(self, usual: _Usual) -> list[LabelError]:
        """What is likely to be wrong, each place and label once."""
        sure = _logistic(self.logits * usual.curves[self.labels, 0] + usual.curves[self.labels, 1])
        own = self.labels[:, None] == self.truth
        here, near = self.overlaps >= SAME_PLACE, self.overlaps >= NEAR
        supported = _greatest(sure, here & own)
        some = sure >= _LEAST
        loose = some[:, None] & own & (self.took >= 0)[:, None] & (self.overlaps < _LOOSE)
        loose &= self.took[:, None] == np.arange(len(self.truth))
        beside = some[:, None] & own & near & ~here & (self.took < 0)[:, None] & self.open
        other = some[:, None] & ~own & here & (self.took < 0)[:, None]
        alone = np.flatnonzero(some & (self.took < 0) & ~here.any(axis=1))
        off = sure[:, None] * (1 - self.overlaps)
        slack = _PRIOR / (_PRIOR + np.searchsorted(usual.holds, self.overlaps) / max(len(usual.holds), 1))
        gone = np.flatnonzero(self.open)
        reach = _greatest(sure, near)[gone]
        found: list[tuple[float, str, int, int]] = []
        for kind, which, scores in (
            (WRONG_CLASS, other, sure[:, None] - supported),
            (BOX_OFF, beside, off * (1 - supported)),
            (BOX_OFF, loose, off * slack),
        ):
            found += [(float(scores[d, g]), kind, d, g) for d, g in np.argwhere(which).tolist()]
        apart = 1 - self.overlaps.max(axis=1, initial=0.0)
        found += [(float(sure[d] * apart[d]), MISSING, d, -1) for d in alone.tolist()]
        empty = (1 - reach) * _PRIOR / (_PRIOR + (1 - _PRIOR) * usual.open_share[self.truth[gone]])
        found += [(score, NOTHING_THERE, -1, g) for score, g in zip(empty.tolist(), gone.tolist(), strict=True)]
        return self._once(found)

    def _once(self, found: list[tuple[float, str, int, int]]) -> list[LabelError]:
        kept: list[LabelError] = []
        places, seen = np.zeros((0, 4)), set[int]()
        for score, kind, box, given in sorted(found, key=lambda one: -one[0]):
            place = self.boxes[box] if box >= 0 else self.given[given]
            if score < _LEAST or given in seen or (overlap(place[None], places) >= SAME_PLACE).any():
                continue
            places = np.concatenate([places, place[None]])
            if given >= 0:
                seen.add(given)
            label = int(self.labels[box] if box >= 0 else self.truth[given])
            row = int(self.rows[given]) if given >= 0 else None
            # A wrong class says nothing against the box.
            x1, y1, x2, y2 = (self.given[given] if kind == WRONG_CLASS else place).tolist()
            kept.append(LabelError(kind, score, self.index, row, (x1, y1, x2, y2), label))
        return kept


def _compared(annotations: Annotations, index: int, found: ImageDetections) -> _Compared:
    rows = np.arange(annotations.offsets[index], annotations.offsets[index + 1])
    ignored = annotations.ignored[rows]
    regions = annotations.boxes[rows[ignored]].astype(np.float64)
    rows = rows[~ignored]
    given, truth = annotations.boxes[rows].astype(np.float64), annotations.labels[rows].astype(np.int64)
    order = np.argsort(-found.scores, kind="stable")
    boxes = found.boxes[order].astype(np.float64)
    overlaps: Floats = overlap(boxes, given).astype(np.float64)
    took = taken(np.where(found.labels[order][:, None] == truth, overlaps, 0.0), SAME_PLACE)
    counts = (took >= 0) | ~half_inside(boxes, regions)
    scores = found.scores[order].astype(np.float64).clip(1e-4, 1 - 1e-4)
    logits = np.log(scores / (1 - scores))
    return _Compared(
        index,
        boxes[counts],
        logits[counts],
        found.labels[order][counts],
        given,
        truth,
        rows,
        overlaps[counts],
        took[counts],
    )


def _greatest(sure: Floats, which: NDArray[np.bool_]) -> Floats:
    """How sure the surest of the boxes is that each label has, 0 for none; (m,)."""
    return np.asarray(np.where(which, sure[:, None], 0.0).max(axis=0, initial=0.0))


def _logistic(logits: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-logits.clip(-50, 50))))


def _usual(images: Iterable[_Compared], classes: int) -> _Usual:
    """Measures what is usual.

    A class's curve is drawn towards that of all classes, and that one to the scores themselves, by one observation.
    """
    parts = [(one.logits, one.took >= 0, one.labels, one.holds, one.truth, one.open) for one in images]
    empty = [np.zeros(0)] * 6
    columns = (np.concatenate(column) for column in zip(empty, *parts, strict=True))
    logits, right, labels, holds, truth, is_open = columns
    common = _curve(logits, right, np.array([1.0, 0.0]))
    own = [_curve(logits[labels == label], right[labels == label], common) for label in range(classes)]
    counts = np.bincount(truth.astype(np.int64), minlength=classes)
    missed = np.bincount(truth[is_open > 0].astype(np.int64), minlength=classes)
    return _Usual(np.array(own).reshape(classes, 2), np.sort(holds), (missed + 1) / (counts + 2))


def _curve(logits: Floats, right: Floats, prior: Floats) -> Floats:
    """The logistic regression of `right` on `logits`, with a quadratic pull to a prior; by Newton's method, (2,)."""
    columns, curve = np.stack([logits, np.ones_like(logits)], axis=1), prior
    for _ in range(50):
        found = _logistic(columns @ curve)
        slope = columns.T @ (found - right) + curve - prior
        bend = (columns * (found * (1 - found))[:, None]).T @ columns + np.eye(2)
        step = np.linalg.solve(bend, slope)
        curve = curve - step
        if np.abs(step).max() < 1e-9:
            break
    return curve
