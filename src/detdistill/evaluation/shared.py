"""What the rules of KITTI and Pascal VOC share: overlaps of boxes, the best precision from a recall on, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from detdistill.errors import ConfigError

Boxes = NDArray[np.floating]


def intersections(boxes: Boxes, others: Boxes) -> Boxes:
    """Areas that boxes (n, 4) and other boxes (m, 4) share, (n, m); 0 where they do not meet."""
    sides = np.minimum(boxes[:, None, 2:], others[None, :, 2:]) - np.maximum(boxes[:, None, :2], others[None, :, :2])
    return np.asarray(sides.clip(min=0).prod(axis=2))


def areas(boxes: Boxes) -> Boxes:
    """Areas of boxes (n, 4)."""
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))


def overlap(boxes: Boxes, others: Boxes) -> Boxes:
    """Intersection over union of boxes (n, 4) with other boxes (m, 4), (n, m); 0 where a box has no area."""
    shared = intersections(boxes, others)
    union = areas(boxes)[:, None] + areas(others)[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def half_inside(boxes: Boxes, regions: Boxes) -> NDArray[np.bool_]:
    """Which of the boxes (n, 4) have half of their area, or more, in one of the regions (m, 4); (n,)."""
    inside = intersections(boxes, regions).max(axis=1, initial=0)
    return np.asarray(inside >= 0.5 * np.maximum(areas(boxes), np.finfo(np.float64).tiny))


def taken(overlaps: NDArray[np.float64], least: float) -> NDArray[np.int64]:
    """Which object every box takes, -1 for none; (n,).

    In turn, each takes the free object that it overlaps most, from `least` on; of equal ones the later, as COCO has it.

    Args:
        overlaps: of boxes, best first, with the objects that each may take; (n, m).
    """
    found, free = np.full(len(overlaps), -1), np.ones(overlaps.shape[1], dtype=np.bool_)
    for row in np.flatnonzero(overlaps.max(axis=1, initial=0.0) >= least).tolist():
        left = np.where(free, overlaps[row], 0.0)
        best = len(left) - 1 - int(left[::-1].argmax())
        if left[best] >= least:
            found[row], free[best] = best, False
    return found


def require_score(score: float) -> None:
    """Refuses a least score of detections that is none.

    Raises:
        ConfigError: it is not between 0 and 1.
    """
    if not 0 <= score <= 1:
        raise ConfigError(f"--score must be between 0 and 1, got {score}. Leave it out.")


def best_from_here(precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """At every place of a precision curve (n,), in the order of rising recall, the greatest there or later."""
    return np.asarray(np.maximum.accumulate(precision[::-1])[::-1])


def mean_of(values: Sequence[float | None]) -> float | None:
    """Mean of the values that there are; None where there is none."""
    measured = [value for value in values if value is not None]
    return sum(measured) / len(measured) if measured else None


def figures_text(
    corner: str, columns: Sequence[str], rows: Mapping[str, Sequence[float | None]], *, decimals: int
) -> str:
    """Figures as aligned plain text, a row per name with a figure per column, and a dash for None."""
    first, width = max(map(len, (corner, *rows))), max(map(len, columns)) + 2
    lines = [corner.ljust(first) + "".join(title.rjust(width) for title in columns)]
    for name, values in rows.items():
        cells = ("–" if value is None else f"{value:.{decimals}f}" for value in values)
        lines.append(name.ljust(first) + "".join(cell.rjust(width) for cell in cells))
    return "\n".join(lines)
