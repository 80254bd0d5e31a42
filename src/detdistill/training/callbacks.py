"""A user's functions that hear the figures of a run as its loggers do, and may stop it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from detdistill.errors import ConfigError, OutsideError
from detdistill.outside import STOPPED, as_outside
from detdistill.training.launch import forks
from detdistill.training.logs import Row, as_read
from detdistill.training.settings import TrainSettings
from detdistill.training.signals import Interrupted

_NORM = "gradient_norm"


@dataclass(frozen=True, slots=True)
class StepFigures:
    """A row of ``metrics.csv``, with the digits that it has there.

    Attributes:
        run: folder of the run.
        step: how many steps are done, of `steps`.
        seconds: training time so far.
        lr: learning rate of the step.
        total: the loss that was minimised; None for a step that was left out as it was not finite (``train.nan=skip``).
        losses: its parts by name: ``"task"``, and each term's at its gain, such as ``"frs.features"``.
        figures: the row's others by name, such as ``"gradient_norm"`` and ``"frs.features/cost_stride_8"``.
    """

    run: Path
    step: int
    steps: int
    seconds: float
    lr: float
    total: float | None
    losses: Mapping[str, float]
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class EvaluationFigures:
    """A row of ``evaluations.csv``, with the digits that it has there.

    Attributes:
        run: folder of the run.
        step: how many steps are done, of `steps`.
        seconds: training time so far.
        figures: COCO's, in percent, by name: ``"AP"``, ``"AP50"`` ...; None for one that the images cannot tell.
        by_class: AP of each class, in percent, likewise; ``evaluations.csv`` has none.
        is_best: whether it is the best of the run so far by ``train.best_metric``.
    """

    run: Path
    step: int
    steps: int
    seconds: float
    figures: Mapping[str, float | None]
    by_class: Mapping[str, float | None]
    is_best: bool


OnStep = Callable[[StepFigures], object]
OnEvaluation = Callable[[EvaluationFigures], object]


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What hears of a run; None for nothing. One that returns True stops it."""

    on_step: OnStep | None = None
    on_evaluation: OnEvaluation | None = None

    def require(self, settings: TrainSettings) -> None:
        """Refuses functions that are none, or that a run with these settings would not call where they can be heard.

        Raises:
            ConfigError: it is so.
        """
        given = {"on_step": self.on_step, "on_evaluation": self.on_evaluation}
        for name, one in given.items():
            if one is not None and not callable(one):
                raise ConfigError(f"{name} must be a function, got {type(one).__name__}. Pass the function itself.")
        if any(given.values()) and forks(settings):
            raise ConfigError(
                "train.processes must be 1 where on_step or on_evaluation is given, as what these note in a process "
                f"that was forked is lost, got {settings.processes}. Start the script by torchrun, or set "
                "train.processes=1."
            )
        if self.on_evaluation is not None and not settings.evaluate_every:
            raise ConfigError(
                "on_evaluation must be left out where train.evaluate_every is 0, so that nothing is evaluated during "
                f"the training, got a function. Set train.evaluate_every, such as {max(1, settings.steps // 10)}."
            )


@final
class Listening:
    """Callbacks during one run, on the rank that writes.

    Args:
        callbacks: whom to tell.
        folder: of the run.
        settings: of the run.

    Attributes:
        stops: whether one of them asked the run to stop, or failed.
    """

    def __init__(self, callbacks: Callbacks, folder: Path, settings: TrainSettings) -> None:
        self._callbacks, self._run, self._steps = callbacks, folder, settings.steps
        self._failed: OutsideError | None = None
        self.stops = False

    def stepped(self, row: Row) -> None:
        """Tells a row that ``metrics.csv`` has."""
        if (call := self._callbacks.on_step) is None:
            return
        read = {name: value for name, value in as_read(row).items() if value is not None}
        step, seconds, lr = int(read.pop("step")), read.pop("seconds"), read.pop("lr")
        total = read.pop("total", None)
        losses = {name: value for name, value in read.items() if "/" not in name and name != _NORM}
        figures = {name: value for name, value in read.items() if name not in losses}
        told = StepFigures(self._run, step, self._steps, seconds, lr, total, losses, figures)
        self._hear("on_step", step, lambda: call(told))

    def evaluated(self, row: Row, by_class: Mapping[str, float | None], *, is_best: bool) -> None:
        """Tells a row that ``evaluations.csv`` has, AP by class, and whether it is the best so far."""
        if (call := self._callbacks.on_evaluation) is None:
            return
        read = as_read(row)
        step, seconds = int(read.pop("step") or 0), read.pop("seconds") or 0.0
        told = EvaluationFigures(self._run, step, self._steps, seconds, read, by_class, is_best)
        self._hear("on_evaluation", step, lambda: call(told))

    def _hear(self, name: str, step: int, call: Callable[[], object]) -> None:
        try:
            answer = call()
        except STOPPED as error:
            found = as_outside(error, name)
            self._failed, self.stops = found and found.during(f"step {step} of {self._steps}"), True
            return
        self.stops = self.stops or (isinstance(answer, (bool, np.bool_)) and bool(answer))

    def ending(self, step: int, checkpoint: Path) -> Interrupted | OutsideError:
        """What a run ends with that was asked to stop, and has saved."""
        stopped = Interrupted(step, checkpoint)
        return stopped if self._failed is None else self._failed.during(kept=f"the last checkpoint is {checkpoint}")
