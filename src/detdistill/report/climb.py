"""Whether a student still got better when its training ended: then another length may turn a comparison around."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from detdistill.proof.quantile import t_quantile

LEAST_EVALUATIONS = 4
_LEVEL_AP = 1.0

Verdict = Literal["climbing", "level", "falling", "unclear", "unknown"]


@dataclass(frozen=True, slots=True)
class Climb:
    """What validation AP did over the last quarter of a training.

    Attributes:
        evaluations: how many there were in that quarter.
        rise: AP in points over the quarter, by the straight line through them; None where they are too few.
        noise: half the width of the rise's 95 % interval, from how far they lie off the line.
        every: steps between evaluations that would be enough.
    """

    evaluations: int
    rise: float | None = None
    noise: float | None = None
    every: int | None = None

    @property
    def verdict(self) -> Verdict:
        """Climbing or falling where the interval excludes 0, level where it excludes a rise of 1 AP, else unclear."""
        if self.rise is None or self.noise is None:
            return "unknown"
        if self.rise > self.noise:
            return "climbing"
        if self.rise < -self.noise:
            return "falling"
        return "level" if self.rise + self.noise < _LEVEL_AP else "unclear"

    def text(self) -> str:
        """In words, for a table."""
        if self.rise is None or self.noise is None:
            enough = "" if self.every is None else f" (train.evaluate_every={self.every} has enough)"
            return (
                "whether it was still climbing at the end cannot be told: fewer than "
                f"{LEAST_EVALUATIONS} evaluations in the last quarter of its steps{enough}"
            )
        said = {
            "climbing": "still climbing at the end, longer training may change the comparison",
            "falling": "falling at the end",
            "level": "level at the end",
            "unclear": "climbing or level at the end, the noise does not tell",
        }[self.verdict]
        low, high = self.rise - self.noise, self.rise + self.noise
        return (
            f"{said}: {self.rise:+.1f} AP over the last quarter of its steps (95 % interval {low:+.1f} to {high:+.1f}, "
            f"{self.evaluations} evaluations)"
        )

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON, with the verdict and the words."""
        return {**asdict(self), "verdict": self.verdict, "text": self.text()}


def climb_of(rows: Iterable[Mapping[str, float | None]], *, steps: int | None, metric: str = "AP") -> Climb:
    """What the evaluations of a run say about its last quarter.

    Args:
        rows: with ``step`` and the metric, in percent.
        steps: of the run; None where that is not known.
    """
    known = [(float(row["step"] or 0), value) for row in rows if (value := row.get(metric)) is not None]
    last = steps if steps is not None else int(max((step for step, _ in known), default=0))
    quarter = [(step, value) for step, value in known if 0.75 * last <= step <= last]
    count, every = len(quarter), max(last // (4 * LEAST_EVALUATIONS), 1) if last else None
    if count < LEAST_EVALUATIONS:
        return Climb(count, every=every)
    at, values = (np.array(column, dtype=np.float64) for column in zip(*quarter, strict=True))
    at, span = at - at.mean(), 0.25 * last
    spread = float((at**2).sum())
    slope = float((at * values).sum()) / spread
    left = values - values.mean() - slope * at
    error = math.sqrt(float((left**2).sum()) / (count - 2) / spread)
    return Climb(count, rise=slope * span, noise=t_quantile(count - 2) * error * span, every=every)


def climb_lines(climbs: Mapping[str, Climb]) -> list[str]:
    """A line for everything that is to be said of students by name: of several the same is said once."""
    told: dict[str, list[str]] = {}
    for name, one in climbs.items():
        told.setdefault(one.text(), []).append(name)
    return [f"length of training: {', '.join(names)}: {text}" for text, names in told.items()]
