"""A few steps of a run as it would take them, in a folder that nobody keeps: what they cost, and what they teach."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detdistill.detectors.base import Detector
from detdistill.distillation.step import SupervisedStep
from detdistill.jobs import samples, stages, unlabelled
from detdistill.jobs.finds import labels_alone
from detdistill.progress import Progress, Silence
from detdistill.store.layout import RunFolder
from detdistill.store.students import save_detector
from detdistill.training.launch import forks, own_device
from detdistill.training.logs import read_rows
from detdistill.training.loop import train
from detdistill.training.memory import forget_peak, peak_memory
from detdistill.training.settings import TrainSettings
from detdistill.training.signals import Interrupted

# What of a run has no place in a short one.
_PLAIN: Mapping[str, Any] = {
    "checkpoint_every": 0,
    "evaluate_every": 0,
    "keep": "last",
    "best_metric": "AP",
    "patience": 0,
    "tensorboard": False,
    "loggers": (),
}


@dataclass(frozen=True, slots=True)
class Trial:
    """Steps that were tried.

    Attributes:
        rows: of their metrics, a row a step.
        peak: bytes that they took at most; None where other processes took them.
        memory: bytes that there are.
    """

    rows: tuple[Mapping[str, float | None], ...]
    peak: int | None
    memory: int | None

    @property
    def step_seconds(self) -> float:
        """That a step takes once it is warm: memory and kernels are found in the first."""
        ends = [row["seconds"] or 0.0 for row in self.rows]
        return (ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else ends[0]

    @property
    def skipped(self) -> int:
        """Steps that were left out as not finite."""
        return sum(row["total"] is None for row in self.rows)


def short(settings: TrainSettings, steps: int) -> TrainSettings:
    """The settings of a training that is as the run's, but for its length and for what it writes."""
    return replace(settings, steps=min(steps, settings.steps), log_every=1, **_PLAIN)


def tried(proved: stages.Proved, count: int) -> Trial:
    """A run of `count` steps of a copy, the loading of images included.

    The copy shares the frozen teacher, which training never changes.

    Raises:
        DistillError: as the run itself would.
    """
    built = proved.built
    opened, step = built.opened, built.step
    few = short(opened.config.train, count)
    teachers = () if isinstance(step, SupervisedStep) else step.teachers
    trial = copy.deepcopy(step, {id(one): one for one in teachers})
    changes, beside, others = built.changes, None, opened.unlabelled
    if not isinstance(step, SupervisedStep):
        twins, learnable = samples.standing_in(step.recipe, opened, opened.data.train), step.recipe.learnable
        changes = replace(changes, twins=twins, found=labels_alone(opened.data.train, learnable))
        if others is not None:
            seen = samples.standing_in(step.recipe, opened, others)
            found, size = labels_alone(others, learnable), few.batch_size
            beside = unlabelled.beside(opened, others, changes, twins=seen, found=found, batch_size=size)
    forget_peak()
    with tempfile.TemporaryDirectory() as folder:
        try:
            train(
                trial,
                few,
                loader=samples.batches_for(opened, changes, few, beside=beside),
                save_student=lambda student, place: save_detector(student, place, image={}),
                folder=Path(folder),
            )
        except Interrupted as stopped:
            raise KeyboardInterrupt from stopped
        rows = tuple(read_rows(RunFolder(Path(folder)).metrics))
    peak, memory = (None, None) if forks(few) else peak_memory(own_device(few))
    return Trial(rows, peak, memory)


class Bars:
    """Shows how far work is, and says nothing.

    Args:
        progress: where it is shown; None for nowhere.
        training: what a training is called; None for its own name.
    """

    def __init__(self, progress: Progress | None, *, training: str | None = None) -> None:
        watcher = progress or Silence()
        self._start, self._training = watcher.start, training
        self.advance, self.finish = watcher.advance, watcher.finish

    def start(self, what: str, total: int, *, unit: str = "step", done: int = 0) -> None:
        """Begins a stage; the steps are those of a training."""
        self._start(self._training or what if unit == "step" else what, total, unit=unit, done=done)

    def say(self, line: str) -> None:
        """Drops the line."""


def probed(
    opened: samples.Opened, steps: int, *, label: str, progress: Progress | None = None
) -> tuple[Detector, float]:
    """The student after a run of so many steps, with a schedule of that length, and the seconds that they took."""
    config = opened.config
    with tempfile.TemporaryDirectory() as folder:
        few = replace(config, train=short(config.train, steps), out=Path(folder) / "run")
        proved = stages.prove(stages.build(replace(opened, config=few, resume=False)))
        try:
            fitted = stages.fit(proved, progress=Bars(progress, training=label))
        except Interrupted as stopped:
            raise KeyboardInterrupt from stopped
        return fitted.student, fitted.training.seconds
