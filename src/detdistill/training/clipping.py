"""How often a run's gradient was clipped, and whether the terms of a distillation are why."""

from __future__ import annotations

import math
import statistics
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

_RECENT, _EVERY, _EVIDENCE, _MOST = 20, 10, 5, 50
_SHRUNK = 0.5
# Norms are counted in bins of 2 %, so that a run of any length fits into a checkpoint's counters.
_BIN = math.log(1.02)
_LEAST = 1e-12


@dataclass(frozen=True, slots=True)
class Clipped:
    """How often the gradient of a run was longer than allowed.

    Attributes:
        steps: whose gradient was measured.
        clipped: those that were shortened to `limit`.
        median_norm: of the gradients before, to 2 %.
        limit: `train.clip_norm`.
    """

    steps: int
    clipped: int
    median_norm: float
    limit: float

    def text(self) -> str:
        """One sentence."""
        return (
            f"the gradient was clipped in {self.clipped:,} of {self.steps:,} steps "
            f"(median norm {self.median_norm:.3g}, limit {self.limit:g})"
        )

    def as_dict(self) -> Mapping[str, float]:
        """The figures by name."""
        return {**asdict(self), "median_norm": float(f"{self.median_norm:.3g}")}


@final
class Clipping:
    """Counts a run's clipped steps, and asks now and then how long the task's own gradient is.

    It asks where most of the latest steps were clipped. Where clipping leaves the task less than half of the
    gradient that it would have alone, it says so, once.

    Args:
        limit: `train.clip_norm`; with 0 nothing is counted.
        start: the first step after the learning rate's warm-up.
        adaptive: the optimiser divides by the gradient's own size, so that another limit alone would change little.
        calibrated: the method's gains follow its strength, so that other gains would change little.
    """

    def __init__(self, limit: float, *, start: int, adaptive: bool, calibrated: bool = False) -> None:
        self._lowered = "method.strength" if calibrated else "the method's gains"
        self._limit, self._start, self._adaptive = limit, start, adaptive
        self._steps, self._clipped, self._asked, self._told = 0, 0, 0, False
        self._norms: Counter[int] = Counter()
        self._evidence: list[tuple[float, float]] = []
        self._recent: deque[bool] = deque(maxlen=_RECENT)

    def asks(self, step: int) -> bool:
        """Whether the norm of the task's own gradient is wanted at this step."""
        often = 2 * sum(self._recent) > _RECENT
        return often and not self._told and self._asked < _MOST and step >= self._start and step % _EVERY == 0

    def add(self, norm: float, *, task: float | None = None) -> str | None:
        """Takes a step in.

        Args:
            norm: of the whole gradient, before clipping.
            task: norm of the task's own gradient, where it was asked for.

        Returns:
            What is to be said now; None for nothing.
        """
        if self._limit <= 0 or not math.isfinite(norm):
            return None
        acted = norm > self._limit
        self._steps, self._clipped = self._steps + 1, self._clipped + acted
        self._norms[round(math.log(max(norm, _LEAST)) / _BIN)] += 1
        self._recent.append(acted)
        if task is None or self._told:
            return None
        self._asked += 1
        if acted and math.isfinite(task):
            self._evidence.append((norm, max(task, _LEAST)))
        return self._verdict() if len(self._evidence) == _EVIDENCE else None

    def _verdict(self) -> str | None:
        norm, task = (statistics.median(column) for column in zip(*self._evidence, strict=True))
        left = statistics.fmean(max(self._limit, alone) / whole for whole, alone in self._evidence)
        self._evidence.clear()
        if left >= _SHRUNK:
            return None
        self._told = True
        times = max(2, round(norm / max(task, self._limit)))
        other = "" if self._adaptive else f", or raise train.clip_norm to {float(f'{norm:.2g}'):g}"
        return (
            f"clipping: the gradient is {norm:.3g} long, the task's own part of it {task:.3g}, and train.clip_norm is "
            f"{self._limit:g}: the terms of the method leave the task {left:.0%} of the gradient that it would have "
            f"alone. Lower {self._lowered} about {times} times{other}."
        )

    def result(self) -> Clipped | None:
        """What came of it; None where nothing was counted."""
        if not self._steps:
            return None
        half, passed = (self._steps + 1) // 2, 0
        for number in sorted(self._norms):
            passed += self._norms[number]
            if passed >= half:
                break
        return Clipped(self._steps, self._clipped, math.exp(number * _BIN), self._limit)

    def counters(self) -> dict[str, Any]:
        """Everything that a resumed run must know, as JSON."""
        return {
            "steps": self._steps,
            "clipped": self._clipped,
            "asked": self._asked,
            "told": self._told,
            "norms": sorted(self._norms.items()),
            "evidence": self._evidence,
            "recent": list(self._recent),
        }

    def restore(self, counters: Mapping[str, Any] | None) -> None:
        """Goes on from `counters`; None, as in checkpoints of before, counts from here on."""
        if counters is None:
            return
        self._steps, self._clipped = counters["steps"], counters["clipped"]
        self._asked, self._told = counters["asked"], counters["told"]
        self._norms = Counter(dict(counters["norms"]))
        self._evidence = [(norm, task) for norm, task in counters["evidence"]]
        self._recent = deque(counters["recent"], maxlen=_RECENT)
