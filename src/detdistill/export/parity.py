"""Whether two programs found the same in the same images, as sets: equal scores may come in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detdistill.evaluation.coco import ImageDetections

MOST_LOST, MOST_LOST_INT8 = 0.1, 0.5
"""By so many points of AP a file may be below PyTorch."""
COMMAND, STUDENT = "export", "student_sha256"
_SAME_OVERLAP = 0.5


def proof_of(out: Path) -> Path:
    """Where the figures of an exported file are."""
    return out.with_suffix(".parity.json")


@dataclass(frozen=True, slots=True)
class Agreement:
    """How what one program found agrees with what another found.

    Attributes:
        matched: boxes that both have: of one class, one to one, the nearest first, overlapping by half at least.
        one_alone: boxes that the first alone has.
        other_alone: boxes that the second alone has.
        box: largest difference of an edge of matched boxes, in pixels of the image as stored.
        box_99: 99 % of the matched boxes differ by no more.
        score: largest difference of their scores.
    """

    matched: int
    one_alone: int
    other_alone: int
    box: float
    box_99: float
    score: float

    def text(self) -> str:
        """The agreement in a sentence."""
        alone = self.one_alone + self.other_alone
        told = (
            f"{self.matched} boxes matched, {alone} without a match" if alone else f"all {self.matched} boxes matched"
        )
        box = f"{self.box:.2g} px (99 % of them: {self.box_99:.2g} px at most)"
        return f"{told}; largest difference of a box {box}, of a score {self.score:.2g}"

    def as_dict(self) -> dict[str, Any]:
        """All figures."""
        return asdict(self)


def agreement(one: Sequence[ImageDetections], other: Sequence[ImageDetections]) -> Agreement:
    """Compares what was found in the same images, in the same order."""
    edges, scores, alone = list[float](), list[float](), [0, 0]
    for first, second in zip(one, other, strict=True):
        pairs = _pairs(first, second)
        edges += [float(np.abs(first.boxes[i] - second.boxes[j]).max()) for i, j in pairs]
        scores += [abs(float(first.scores[i] - second.scores[j])) for i, j in pairs]
        alone = [alone[0] + len(first.scores) - len(pairs), alone[1] + len(second.scores) - len(pairs)]
    worst, most = max(edges, default=0.0), float(np.quantile(edges, 0.99)) if edges else 0.0
    return Agreement(len(edges), alone[0], alone[1], box=worst, box_99=most, score=max(scores, default=0.0))


def _pairs(first: ImageDetections, second: ImageDetections) -> list[tuple[int, int]]:
    """The boxes of one class that are nearest to each other, each taken once."""
    away = np.abs(first.boxes[:, None] - second.boxes).max(axis=2, initial=0.0)
    inner = np.minimum(first.boxes[:, None, 2:], second.boxes[:, 2:]) - np.maximum(
        first.boxes[:, None, :2], second.boxes[:, :2]
    )
    shared = inner.clip(0).prod(axis=2)
    areas = [(one.boxes[:, 2:] - one.boxes[:, :2]).prod(axis=1) for one in (first, second)]
    near = shared >= _SAME_OVERLAP * (areas[0][:, None] + areas[1] - shared)
    rows, columns = np.nonzero(near & (first.labels[:, None] == second.labels))
    # Of boxes in one place the scores tell which is which.
    order = np.argsort(away[rows, columns] + np.abs(first.scores[rows] - second.scores[columns]), kind="stable")
    pairs, taken = list[tuple[int, int]](), (set[int](), set[int]())
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in taken[0] and column not in taken[1]:
            pairs.append((row, column))
            taken[0].add(row)
            taken[1].add(column)
    return pairs
