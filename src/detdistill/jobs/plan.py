"""What a run is going to do, said before its first step: where, on what, for how long, and how much disk it takes."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from detdistill.data.transforms import ImageSettings
from detdistill.distillation.step import SupervisedStep
from detdistill.jobs import samples, stages
from detdistill.jobs.settings import RunConfig
from detdistill.progress import Progress, counted, duration
from detdistill.store.layout import RunFolder
from detdistill.store.students import save_detector
from detdistill.training.launch import device_kind, forks, own_device, processes
from detdistill.training.logs import read_rows
from detdistill.training.loop import train
from detdistill.training.signals import Interrupted
from detdistill.training.world import launched_by_torchrun, watched_by_leader

_MEASURED = 4
_MOMENTS = {"adamw": 2, "sgd": 1}
_LARGEST_SHOWN_IN_MB = 10_000_000_000


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run before its first step.

    Attributes:
        label: what is done, such as ``"distil fcos/resnet18 by aid(frs)"``.
        out: the run folder.
        where: the device of each process.
        threads: of each process on the CPU.
        workers: loader processes of each.
        images: to train on, and to validate on.
        image: the size to which they are brought, the teacher's beside it where that is another.
        steps: of the whole run.
        start: steps that are done already.
        batch: images of a step, of all processes together.
        epochs: how often the run sees each training image.
        evaluations: on the way.
        measured: how the student is measured.
        checkpoint_bytes: of one checkpoint.
        checkpoints: how many lie on the disk at a time, the one that is being written included.
        free_bytes: on the disk of the run folder.
        step_seconds: that one step takes, where it was measured.
        generations: how many such runs there are, one after the other.
        then: what else is trained, which `seconds` does not count.
    """

    label: str
    out: Path
    where: str
    processes: int
    threads: int
    workers: int
    precision: str
    images: tuple[int, int]
    image: tuple[ImageSettings, ...]
    steps: int
    start: int
    batch: int
    epochs: float
    evaluations: int
    measured: str
    checkpoint_bytes: int
    checkpoints: int
    free_bytes: int
    step_seconds: float | None = None
    generations: int = 1
    then: tuple[str, ...] = ()

    @property
    def seconds(self) -> float | None:
        """About how long the steps that are left take, of all generations; None where no step was measured."""
        left = self.steps - self.start + (self.generations - 1) * self.steps
        return None if self.step_seconds is None else self.step_seconds * left

    def table(self) -> list[str]:
        """A line for each of where, images, steps, disk and time."""
        train, val = self.images
        seen = " and the teacher's at ".join(f"{one.short_side} x {one.long_side}" for one in self.image)
        steps = f"{self.steps:,} of {counted(self.batch, 'image')}, {counted(self.epochs, 'epoch')}"
        steps += f", going on after {self.start:,}" if self.start else ""
        steps += f"; evaluated {counted(self.evaluations, 'time')} on the way" if self.evaluations else ""
        kept = self.checkpoints * self.checkpoint_bytes
        lines = [
            f"plan: {self.label}, into {self.out}",
            f"  where: {self.where}, {counted(self.processes, 'process')} with {counted(self.threads, 'thread')}"
            f"{f' and {self.workers} to load images' if self.workers else ''}{' each' if self.processes > 1 else ''}, "
            f"precision {self.precision}",
            f"  images: {train:,} to train on, {val:,} to validate on, at most {seen} pixels",
            f"  steps: {steps}",
            f"  evaluation: {self.measured}",
            f"  disk: at most {counted(self.checkpoints, 'checkpoint')} of {_size(self.checkpoint_bytes)} at a time, "
            f"{_size(kept)} in all; {_size(self.free_bytes)} are free",
        ]
        if self.generations > 1:
            lines.append(f"  generations: {self.generations} such runs, each taught by the one before")
        lines += [f"  then: {one}" for one in self.then]
        if self.seconds is not None:
            said = f"  time: about {duration(self.seconds)}, at {self.step_seconds:.3g} s a step"
            lines.append(f"{said}; evaluations not counted" if self.evaluations else said)
        return lines

    def as_dict(self) -> Mapping[str, Any]:
        """Every figure by its name."""
        return {**asdict(self), "out": str(self.out), "seconds": self.seconds}


def _then(config: RunConfig) -> tuple[str, ...]:
    equal = ("the student alone for the time that this took",) if config.equal_time else ()
    longer = () if config.longer is None else (f"the student alone for {config.longer:g} times the steps",)
    return (*equal, *longer)


def plan_of(proved: stages.Proved) -> RunPlan:
    """What a run that was proved is going to do; nothing is computed or written."""
    built = proved.built
    opened, step = built.opened, built.step
    config, settings, evaluate = opened.config, opened.config.train, opened.config.evaluate
    together = processes(settings)
    start = (RunFolder(config.out).latest() or 0) if opened.resume else 0
    batch, own = settings.batch_size * together, opened.data.image
    kind, alone = device_kind(settings), together == 1
    verb = "train" if isinstance(step, SupervisedStep) else "distil"
    return RunPlan(
        label=f"{verb} {config.student.detector}{f' by {built.method}' if built.method else ''}",
        out=config.out,
        where=_device(own_device(settings)) if alone or kind == "cpu" else "a GPU each",
        processes=together,
        workers=settings.workers,
        threads=1 if forks(settings) and kind == "cpu" else settings.threads or torch.get_num_threads(),
        precision=settings.precision,
        images=(len(opened.data.train), len(opened.data.val)),
        image=(own,) if isinstance(step, SupervisedStep) or opened.taught_at == own else (own, opened.taught_at),
        steps=settings.steps,
        start=start,
        batch=batch,
        epochs=settings.steps * batch / len(opened.data.train),
        evaluations=settings.steps // settings.evaluate_every if settings.evaluate_every else 0,
        measured=f"{evaluate.backend}, {counted(evaluate.batch_size, 'image')} at a time, boxes suppressed "
        f"{'across classes' if evaluate.agnostic else 'class by class'}",
        checkpoint_bytes=_checkpoint_bytes(built),
        checkpoints=min(settings.keep_checkpoints + 1, _saves(config)),
        free_bytes=shutil.disk_usage(next(place for place in _above(config.out) if place.exists())).free,
        then=_then(config),
    )


def plan_job(
    config: RunConfig, *, resume: bool = False, generations: int = 1, progress: Progress | None = None
) -> RunPlan:
    """Opens, builds and proves a run as it would begin, measures a few steps of a copy, and leaves no trace of it.

    Raises:
        DistillError: whatever the run itself would be refused for before its first step.
    """
    opened = stages.open_inputs(config, resume=resume, progress=progress)
    proved = stages.prove(stages.build(opened, progress=progress), progress=progress)
    plan = replace(plan_of(proved), generations=generations)
    if launched_by_torchrun() or plan.start >= plan.steps:
        return plan
    watched_by_leader(progress).say(f"measuring {counted(min(_MEASURED, plan.steps), 'step')}")
    return replace(plan, step_seconds=step_seconds(proved, _MEASURED))


def step_seconds(proved: stages.Proved, count: int) -> float:
    """Seconds a step takes once it is warm: a run of `count` steps of a copy, the loading of images included.

    The copy shares the frozen teacher, which training never changes.
    """
    built = proved.built
    opened, step = built.opened, built.step
    settings = opened.config.train
    few = replace(
        settings,
        steps=min(count, settings.steps),
        log_every=1,
        checkpoint_every=0,
        evaluate_every=0,
        keep="last",
        best_metric="AP",
        patience=0,
        tensorboard=False,
    )
    teacher = () if isinstance(step, SupervisedStep) else (step.teacher,)
    trial = copy.deepcopy(step, {id(one): one for one in teacher})
    twins = {} if isinstance(step, SupervisedStep) else samples.standing_in(step.recipe, opened)
    with tempfile.TemporaryDirectory() as folder:
        try:
            train(
                trial,
                few,
                loader=samples.batches_for(opened, replace(built.changes, twins=twins), few),
                save_student=lambda student, place: save_detector(student, place, image={}),
                folder=Path(folder),
            )
        except Interrupted as stopped:
            raise KeyboardInterrupt from stopped
        ends = [row["seconds"] or 0.0 for row in read_rows(RunFolder(Path(folder)).metrics)]
    # The first step is not warm: memory and kernels are found in it.
    return (ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else ends[0]


def _checkpoint_bytes(built: stages.Built) -> int:
    """What the student that counts, the raw one, what terms train and the optimiser's figures take."""
    step, settings = built.step, built.opened.config.train

    def size(tensors: Any) -> int:
        return sum(tensor.nbytes for tensor in tensors)

    trained = size(one for one in step.parameters() if one.requires_grad)
    moments = _MOMENTS[settings.optimizer] if settings.optimizer == "adamw" or settings.momentum else 0
    average = size(step.student.state_dict().values()) if settings.ema_decay else 0
    return size(step.state_dict().values()) + average + moments * trained


def _saves(config: RunConfig) -> int:
    every, steps = config.train.checkpoint_every, config.train.steps
    return -(-steps // every) if every else 1


def _device(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "the CPU"


def _above(path: Path) -> tuple[Path, ...]:
    whole = path.absolute()
    return (whole, *whole.parents)


def _size(count: int) -> str:
    return f"{count / 1e6:.3g} MB" if count < _LARGEST_SHOWN_IN_MB else f"{count / 1e9:.3g} GB"
