"""KITTI's label files: one object a line, 15 columns, or 16 with the score of a detection."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detdistill.data.label_text import FileFlaw, number, numbered_lines, read_text
from detdistill.data.problems import Problems
from detdistill.errors import DataError

DONT_CARE = "DontCare"
COLUMNS, COLUMNS_WITH_SCORE = 15, 16


def is_dont_care(kind: str) -> bool:
    """Whether a type means a region in which nothing counts, in any case of letters."""
    return kind.lower() == DONT_CARE.lower()


@dataclass(frozen=True, slots=True)
class KittiLabels:
    """The objects of one label file, in its order.

    Attributes:
        types: the class of each object as written, ``DontCare`` included; n of them.
        truncated: share of the object outside the image, 0 to 1; -1 where unknown; (n,) float64.
        occluded: 0 fully visible, 1 partly, 2 largely occluded, 3 unknown; -1 where not given; (n,) int64.
        boxes: left, top, right, bottom in pixels of the stored image, not clipped to it; (n, 4) float64.
        scores: of detections; NaN where the line has no 16th column; (n,) float64.
        lines: line number of each object, from 1; (n,) int64.
    """

    types: tuple[str, ...]
    truncated: NDArray[np.float64]
    occluded: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    lines: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.types)


@dataclass(frozen=True, slots=True)
class _Row:
    type: str
    truncated: float
    occluded: int
    box: tuple[float, float, float, float]
    score: float
    line: int


@dataclass(frozen=True, slots=True)
class _Flaw:
    kind: str
    expected: str
    actual: str


def _row(words: list[str], line: int) -> _Row | _Flaw:
    """A line as an object, or what is wrong with it."""
    if len(words) not in (COLUMNS, COLUMNS_WITH_SCORE):
        return _Flaw("wrong number of columns", "15 columns (16 with a score)", str(len(words)))
    truncated, occluded = number(words[1]), number(words[2])
    if not (math.isfinite(truncated) and math.isfinite(occluded)):
        return _Flaw("truncated or occluded no number", "numbers in columns 2 and 3", " ".join(words[1:3]))
    left, top, right, bottom = (number(word) for word in words[4:8])
    if not all(math.isfinite(side) for side in (left, top, right, bottom)):
        return _Flaw("box not four finite numbers", "finite numbers in columns 5 to 8", " ".join(words[4:8]))
    if right < left or bottom < top:
        return _Flaw("box without extent", "left, top, right, bottom in columns 5 to 8", " ".join(words[4:8]))
    score = number(words[15]) if len(words) == COLUMNS_WITH_SCORE else math.nan
    if len(words) == COLUMNS_WITH_SCORE and not math.isfinite(score):
        return _Flaw("score no number", "a finite score in column 16", words[15])
    return _Row(words[0], truncated, int(max(-1.0, min(occluded, 3.0))), (left, top, right, bottom), score, line)


def parse_kitti_labels(path: Path, problems: Problems | None) -> KittiLabels:
    """As `read_kitti_labels`.

    Raises:
        FileFlaw: the file cannot be read as text.
        DataError: a line is flawed and `problems` is None.
    """
    rows: list[_Row] = []
    for line, text in numbered_lines(read_text(path)):
        row = _row(text.split(), line)
        if isinstance(row, _Row):
            rows.append(row)
        elif problems is None:
            raise DataError(f"{path}, line {line} must have {row.expected}, got {row.actual}. Correct the line.")
        else:
            what = f"{row.actual} instead of {row.expected}"
            problems.add(row.kind, f"{path}, line {line}", what=what, action="skipped")
    return KittiLabels(
        types=tuple(row.type for row in rows),
        truncated=np.array([row.truncated for row in rows], dtype=np.float64),
        occluded=np.array([row.occluded for row in rows], dtype=np.int64),
        boxes=np.array([row.box for row in rows], dtype=np.float64).reshape(-1, 4),
        scores=np.array([row.score for row in rows], dtype=np.float64),
        lines=np.array([row.line for row in rows], dtype=np.int64),
    )


def read_kitti_labels(path: Path, *, problems: Problems | None = None) -> KittiLabels:
    """Reads one label file of KITTI's object benchmark: ground truth, or detections with a score each.

    An empty file is an image without objects. The columns for 3D (alpha, dimensions, location, rotation) are only
    counted, not read.

    Args:
        path: a file such as ``training/label_2/000008.txt``.
        problems: takes flawed lines, which are then skipped; None refuses the file instead.

    Raises:
        DataError: the file cannot be read as text, or a line is flawed and `problems` is None.
    """
    try:
        return parse_kitti_labels(path, problems)
    except FileFlaw as flaw:
        raise flaw.refusal(path) from None
