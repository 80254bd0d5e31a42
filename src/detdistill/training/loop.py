"""Trains a step: exact on resume, silent unless asked, and never on from a loss that is not finite."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from detdistill.errors import ConfigError
from detdistill.progress import Progress, Silence
from detdistill.store.checkpoints import recorded_identity, require_same
from detdistill.store.layout import RunFolder
from detdistill.store.lock import writing
from detdistill.training.callbacks import Callbacks
from detdistill.training.launch import launch, processes, require_precision
from detdistill.training.pages import kept_pages
from detdistill.training.result import BringUp, Evaluate, Loader, SaveStudent, TrainResult
from detdistill.training.run import _Run
from detdistill.training.settings import FREE_ON_RESUME, TrainSettings, as_recorded
from detdistill.training.signals import Interrupted, watch_signals
from detdistill.training.trackers.base import Ending
from detdistill.training.world import by_leader

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Evaluate", "TrainResult", "fixed_settings", "require_resumable", "train"]


def train(
    step: nn.Module,
    settings: TrainSettings,
    *,
    loader: Loader,
    save_student: SaveStudent,
    folder: Path,
    resume: bool = False,
    evaluate: Evaluate | None = None,
    begin: Callable[[], None] = lambda: None,
    progress: Progress | None = None,
    label: str = "training",
    identity: Mapping[str, Any] | None = None,
    brought_up: BringUp = dict,
    until: int | None = None,
    config: Mapping[str, Any] | None = None,
    callbacks: Callbacks | None = None,
) -> TrainResult:
    """Trains a step's parameters and leaves checkpoints from which the run can go on exactly.

    On a CPU, a run that was killed and resumed ends with the same bits as one that was not. On one device the step is
    trained in place and moved to that device; on several it is trained in forked processes, and the trained student is
    in the checkpoint alone. Where an average is kept, it too is in the checkpoint alone.

    Args:
        step: a module with a submodule `student` that turns a `Batch` and a `Clock` into a `StepReport`.
        settings: of the run.
        loader: (start step, rank, ranks) → one batch of `settings.batch_size` images per step from there on, the same
            ones whenever it is asked.
        save_student: writes ``student.safetensors``, whose tensors are named as in the student's own state, and what
            else describes it, into the folder it is given.
        folder: the run's; takes ``checkpoints/``, ``metrics.csv``, ``evaluations.csv`` and ``best/``.
        resume: go on from the latest checkpoint; without one, begin.
        evaluate: called with the student (the average where one is kept) in eval mode, on rank 0, whenever the settings
            say so; what it returns is in percent, by name, and by class under ``"per_class"``. Its time is no training
            time.
        begin: called on rank 0 before the first step, when a run that is resumed was found to be this one.
        progress: None is silent.
        label: what progress calls the run.
        identity: what else must be the same on resume (data, recipe, teacher's digest), as JSON.
        brought_up: the identity that an earlier version stored → what this version would have stored for that run.
        until: end with a checkpoint after so many steps, as a run that goes on later; None for all of the settings'.
        config: what the run is, as JSON, for those who are told its figures.
        callbacks: functions that are told them on rank 0, behind all others; None for none.

    Raises:
        ConfigError: the folder holds a run that was not to be resumed, or one with other settings; or evaluations are
            asked for and there is no `evaluate`.
        DataError: the loader ended early, or every checkpoint is damaged.
        DistillError: a loss or gradient is not finite.
        Interrupted: Ctrl-C, SIGTERM or a callback that asked for it; the checkpoint was saved.
        OutsideError: code from outside failed; where it was a callback, the checkpoint was saved.
    """
    if "student" not in dict(step.named_children()):
        raise ConfigError("a step must have a submodule named student, got none. Use DistillationStep.")
    if settings.evaluate_every and evaluate is None:
        raise ConfigError(
            f"train.evaluate_every must be 0 where no function evaluates, got {settings.evaluate_every}. Pass evaluate."
        )
    if not resume and by_leader(lambda: bool(RunFolder(folder).steps())):
        raise ConfigError(
            f"{folder} must not hold checkpoints of another run, got some. "
            "Go on with it (--resume), or choose another folder."
        )
    resumable = _resumable(settings, identity or {})

    def rank(fabric: Fabric) -> TrainResult:
        require_precision(settings.precision, fabric.device.type)
        devices = [fabric.device.index or 0] if fabric.device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices),
            _threads(settings.threads),
            kept_pages(where=fabric.device.type == "cpu"),
            watch_signals() as stop,
            writing(folder) if fabric.is_global_zero else nullcontext(),
        ):
            watcher = progress or Silence()
            run = _Run(
                fabric,
                step,
                settings,
                loader,
                save_student,
                folder,
                resume,
                evaluate,
                begin,
                watcher,
                label,
                resumable,
                lambda stored: brought_up(as_recorded(stored, resumable)),
                min(until or settings.steps, settings.steps),
                config or {},
                callbacks or Callbacks(),
            )
            ending: Ending = "failed"
            try:
                found = run.execute(stop)
                ending = "finished"
                return found
            except (Interrupted, KeyboardInterrupt):
                ending = "interrupted"
                raise
            finally:
                run.close(ending)

    return launch(rank, settings)


def require_resumable(
    folder: Path, settings: TrainSettings, *, identity: Mapping[str, Any], brought_up: BringUp
) -> None:
    """Refuses what `train` would refuse to resume because it is another run; nothing is changed.

    Raises:
        ConfigError: the run in the folder has other settings, or another `identity`.
    """
    current = _resumable(settings, identity)
    if (found := recorded_identity(folder)) is not None:
        where, stored = found
        require_same(brought_up(as_recorded(stored, current)), current, where=where)


def _resumable(settings: TrainSettings, identity: Mapping[str, Any]) -> dict[str, Any]:
    """All that must be the same on resume, as a checkpoint has it."""
    found: dict[str, Any] = json.loads(json.dumps({"train": fixed_settings(settings), **identity}))
    return found


def fixed_settings(settings: TrainSettings) -> dict[str, Any]:
    """What of a run's settings must stay as it is."""
    free = FREE_ON_RESUME - ({"evaluate_every"} if settings.selects else set())
    fixed = {k: v for k, v in dataclasses.asdict(settings).items() if k not in free}
    # Whoever started them: so many processes make the batch of a step.
    return fixed | {"processes": processes(settings), "device": settings.device.partition(":")[0]}


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Torch's CPU threads within: `count`, or as they are where it is 0."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
