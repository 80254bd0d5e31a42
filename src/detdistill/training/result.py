"""What a training is given to call, and how it went."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detdistill.store.best import Best
from detdistill.training.clipping import Clipped
from detdistill.types import Batch

Loader = Callable[[int, int, int], Iterable[Batch]]
SaveStudent = Callable[[Any, Path], None]
# Figures in percent by name, and under "per_class", which need not be there, AP by class; None for what nobody knows.
Evaluate = Callable[[Any], Mapping[str, Any]]
BringUp = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run went.

    Attributes:
        steps: done, those before a resume included.
        seconds: spent on them, data loading included; evaluation and checkpoints excluded.
        images_per_second: of all devices together.
        checkpoint: folder of the last checkpoint.
        student: folder of the student that counts: the last checkpoint's, or the best evaluation's where the settings
            keep that one.
        best: how that student was chosen; None where it is the last.
        stopped_early: whether the settings' patience ended the run before all its steps were done.
        resumed_from: the step that this call went on from; 0 for a new run.
        metrics: figures of the last evaluation that this call made; empty where there was none.
        warnings: what was passed over on resume.
        clipping: how often the gradient was clipped; None where that is off.
        left_out: the steps that were skipped, as their loss or gradient was not finite; counted from 1.
        strength: what the terms' scales were found to be, by method; empty where nothing calibrates them.
    """

    steps: int
    seconds: float
    images_per_second: float
    checkpoint: Path
    student: Path
    best: Best | None = None
    stopped_early: bool = False
    resumed_from: int = 0
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    clipping: Clipped | None = None
    left_out: tuple[int, ...] = ()
    strength: Mapping[str, Mapping[str, float | str]] = field(default_factory=dict)
