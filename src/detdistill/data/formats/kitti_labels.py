"""KITTI's label files: one object a line, 15 columns, or 16 with the score of a detection."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detdistill.data.builder import Box
from detdistill.data.label_files import Flaw, LabelFile, LabelledBox
from detdistill.data.label_text import FileFlaw, number, read_lines
from detdistill.data.problems import Problems
from detdistill.data.writable import decimal
from detdistill.errors import DataError

DONT_CARE = "DontCare"
COLUMNS, COLUMNS_WITH_SCORE = 15, 16
_UNKNOWN_3D = "-1 -1 -1 -1000 -1000 -1000 -10"
# Kind, what should stand there, what does.
_Flaw = tuple[str, str, str]


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


def _flaw(words: list[str]) -> _Flaw | None:
    """What is wrong with a line; None for an object."""
    if len(words) not in (COLUMNS, COLUMNS_WITH_SCORE):
        return "wrong number of columns", "15 columns (16 with a score)", str(len(words))
    if not all(math.isfinite(number(word)) for word in words[1:3]):
        return "truncated or occluded no number", "numbers in columns 2 and 3", " ".join(words[1:3])
    left, top, right, bottom = box = [number(word) for word in words[4:8]]
    if not all(math.isfinite(side) for side in box):
        return "box not four finite numbers", "finite numbers in columns 5 to 8", " ".join(words[4:8])
    if right < left or bottom < top:
        return "box without extent", "left, top, right, bottom in columns 5 to 8", " ".join(words[4:8])
    if len(words) == COLUMNS_WITH_SCORE and not math.isfinite(number(words[15])):
        return "score no number", "a finite score in column 16", words[15]
    return None


def _parse(path: Path) -> tuple[KittiLabels, dict[int, _Flaw]]:
    """The objects of a file, and the lines that are none."""
    rows: dict[int, list[str]] = {}
    bad: dict[int, _Flaw] = {}
    for line, text in read_lines(path):
        words = text.split()
        if flaw := _flaw(words):
            bad[line] = flaw
        else:
            rows[line] = words
    objects = rows.values()
    scores = [number(words[15]) if len(words) == COLUMNS_WITH_SCORE else math.nan for words in objects]
    labels = KittiLabels(
        types=tuple(words[0] for words in objects),
        truncated=np.array([number(words[1]) for words in objects], dtype=np.float64),
        occluded=np.array([int(max(-1.0, min(number(words[2]), 3.0))) for words in objects], dtype=np.int64),
        boxes=np.array([[number(word) for word in words[4:8]] for words in objects], dtype=np.float64).reshape(-1, 4),
        scores=np.array(scores, dtype=np.float64),
        lines=np.array(list(rows), dtype=np.int64),
    )
    return labels, bad


def parse_kitti(path: Path) -> LabelFile:
    """What a label file says of boxes; ``DontCare`` is a region. Raises `FileFlaw` where it is no text."""
    labels, bad = _parse(path)
    objects = zip(labels.types, labels.boxes.tolist(), labels.lines.tolist(), strict=True)
    return LabelFile(
        tuple(LabelledBox(None if is_dont_care(kind) else kind, tuple(box), line) for kind, box, line in objects),
        flaws=tuple(Flaw(kind, line, f"{got} instead of {expected}") for line, (kind, expected, got) in bad.items()),
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
        labels, bad = _parse(path)
    except FileFlaw as flaw:
        raise flaw.refusal(path) from None
    for line, (kind, expected, got) in bad.items():
        if problems is None:
            raise DataError(f"{path}, line {line} must have {expected}, got {got}. Correct the line.")
        problems.add(kind, f"{path}, line {line}", what=f"{got} instead of {expected}", action="skipped")
    return labels


def kitti_line(kind: str, box: Box) -> str:
    """A line to write: a class or ``DontCare``, and x1, y1, x2, y2 in pixels; the rest is unknown."""
    corners = " ".join(f"{value:.2f}" if round(value, 2) == value else decimal(value) for value in box)
    return f"{kind} -1 -1 -10 {corners} {_UNKNOWN_3D}"
