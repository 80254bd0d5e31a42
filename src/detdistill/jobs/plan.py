"""What a run is going to do, said before its first step: where, on what, for how long, and how much disk it takes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from detdistill.data.transforms import ImageSettings
from detdistill.distillation.step import DistillationStep, SupervisedStep
from detdistill.errors import ConfigError
from detdistill.files import existing
from detdistill.jobs import samples, stages
from detdistill.jobs.decoded import needed_bytes
from detdistill.jobs.inputs import require_free
from detdistill.jobs.maps import kept_bytes, maps_folder, maps_identity
from detdistill.jobs.settings import RunConfig
from detdistill.jobs.trial import tried
from detdistill.progress import Progress, counted, duration, in_bytes
from detdistill.store.layout import GENERATION, RunFolder
from detdistill.training.launch import device_kind, forks, own_device, processes
from detdistill.training.world import by_leader, launched_by_torchrun, watched_by_leader

MEASURED = 4
"""Steps that are tried to know what one takes."""
_MOMENTS = {"adamw": 2, "sgd": 1}
# The figures that are the folder of a cache.
_CACHES = ("twins", "maps", "decoded_folder")


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
        saves: how often a checkpoint is still written.
        free_bytes: on the disk of the run folder.
        twin_bytes: that the twins still to be made take at least, on the disk of `twins`.
        twins: the folder of their cache; None without one.
        map_bytes: that the teacher's maps still to be made take, about, on the disk of `maps`.
        maps: the folder of their cache; None without one.
        decoded: in what training images are kept once they were decoded: `ram`, `disk` or `none`.
        decoded_bytes: that they take there at most, beside those that are on the disk already.
        decoded_folder: the folder on the disk; None without one.
        step_seconds: that one step takes, where it was measured.
        generations: how many such runs there are, one after the other.
        then: what else is trained, which `seconds` does not count.
        unlabelled: images without labels, and how many of them a step sees; None where there are none.
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
    saves: int
    free_bytes: int
    step_seconds: float | None = None
    generations: int = 1
    then: tuple[str, ...] = ()
    twin_bytes: int = 0
    twins: Path | None = None
    map_bytes: int = 0
    maps: Path | None = None
    decoded: str = "none"
    decoded_bytes: int = 0
    decoded_folder: Path | None = None
    unlabelled: tuple[int, int] | None = None

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
            *self._beside(),
            f"  steps: {steps}",
            f"  evaluation: {self.measured}",
            f"  disk: at most {counted(self.checkpoints, 'checkpoint')} of {in_bytes(self.checkpoint_bytes)} at a "
            f"time, {in_bytes(kept)} in all; {in_bytes(self.free_bytes)} are free",
        ]
        if self.twins is not None:
            lines.append(f"  twins: at least {in_bytes(self.twin_bytes)} to make in {self.twins}")
        if self.maps is not None:
            lines.append(f"  maps of the teacher: about {in_bytes(self.map_bytes)} to make in {self.maps}")
        if self.decoded != "none":
            folder = self.decoded_folder
            where = "of memory, shared by all that load them" if folder is None else f"to make in {folder}"
            lines.append(f"  decoded images: at most {in_bytes(self.decoded_bytes)} {where}")
        if self.generations > 1:
            lines.append(f"  generations: {self.generations} such runs, each taught by the one before")
        lines += [f"  then: {one}" for one in self.then]
        if self.seconds is not None:
            said = f"  time: about {duration(self.seconds)}, at {self.step_seconds:.3g} s a step"
            lines.append(f"{said}; evaluations not counted" if self.evaluations else said)
        return lines

    def _beside(self) -> list[str]:
        if self.unlabelled is None:
            return []
        images, count = self.unlabelled
        return [f"  unlabelled: {counted(images, 'image')}, {count:,} in a step beside the labelled ones"]

    def as_dict(self) -> Mapping[str, Any]:
        """Every figure by its name."""
        places = {name: None if (place := getattr(self, name)) is None else str(place) for name in _CACHES}
        return {**asdict(self), "out": str(self.out), **places, "seconds": self.seconds}

    def require_room(self, runs: int = 1) -> None:
        """Refuses a run that its disks have no room for, or so many such runs, of which this is the first.

        Raises:
            ConfigError: what is free is less than the checkpoints alone will take, and the twins at the least, and the
                teacher's maps.
        """
        require_room([self], runs=runs)

    def checkpoints_to_come(self, runs: int = 1) -> int:
        """How many checkpoints the run still takes room for, or so many such runs, of which this is the first."""
        # Those that a run to go on with has are on the disk already.
        count = min(self.checkpoints - len(RunFolder(self.out).steps()), self.saves)
        return max(0, count) + max(1, self.checkpoints - 1) * (runs - 1)


@dataclass(slots=True)
class _Room:
    """What is to be written to one disk, by a place there."""

    place: Path
    needed: int = 0
    checkpoints: int = 0
    cached: tuple[str, ...] = ()


def require_room(plans: Sequence[RunPlan], *, runs: int = 1) -> None:
    """Refuses runs that their disks have no room for together, each as often as `runs`; see `RunPlan.require_room`."""
    rooms: dict[int, _Room] = {}

    def on_disk_of(path: Path) -> _Room:
        place = existing(path)
        return rooms.setdefault(place.stat().st_dev, _Room(place))

    for plan in plans:
        room, count = on_disk_of(plan.out), plan.checkpoints_to_come(runs)
        room.checkpoints += count
        room.needed += count * plan.checkpoint_bytes
    caches = {(plan.twins, "twins"): plan.twin_bytes for plan in plans}
    caches |= {(plan.maps, "maps of the teacher"): plan.map_bytes for plan in plans}
    caches |= {(plan.decoded_folder, "decoded images"): plan.decoded_bytes for plan in plans}
    for (folder, what), bytes_there in caches.items():
        if folder is not None and bytes_there:
            room = on_disk_of(folder)
            room.needed, room.cached = room.needed + bytes_there, (*room.cached, what)
    for room in rooms.values():
        if room.needed > (free := shutil.disk_usage(room.place).free):
            share = [counted(room.checkpoints, "checkpoint")] if room.checkpoints else []
            share += room.cached
            raise ConfigError(
                f"The disk of {room.place} must have at least {in_bytes(room.needed)} free for {' and '.join(share)}, "
                f"got {in_bytes(free)}. Make room there, or name a folder on another disk."
            )


def announce(proved: stages.Proved, *, runs: int = 1, progress: Progress | None) -> None:
    """Says what a run is going to do, and refuses it where the disk has no room for it, or for so many such runs."""
    plan = plan_of(proved)
    watched_by_leader(progress).say("\n".join(plan.table()))
    by_leader(lambda: plan.require_room(runs))


def _beside(opened: samples.Opened, *, batch: int) -> tuple[int, int] | None:
    settings = opened.config.data.unlabelled
    return None if opened.unlabelled is None or settings is None else (len(opened.unlabelled), settings.count(batch))


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
    recipe = None if isinstance(step, SupervisedStep) else step.recipe
    maps = isinstance(step, DistillationStep) and bool(maps_identity(opened, step))
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
        checkpoints=min(settings.keep_checkpoints + 1, saves_of(config, settings.steps)),
        saves=saves_of(config, settings.steps - start),
        free_bytes=shutil.disk_usage(existing(config.out)).free,
        then=_then(config),
        twin_bytes=0 if recipe is None else samples.least_of_twins(recipe, opened),
        twins=None if recipe is None else samples.twins_folder(recipe, opened),
        map_bytes=kept_bytes(opened, step) if maps and isinstance(step, DistillationStep) else 0,
        maps=maps_folder(opened) if maps else None,
        decoded=config.data.cache,
        decoded_bytes=needed_bytes(opened, built.changes),
        decoded_folder=config.data.cache_folder,
        unlabelled=_beside(opened, batch=batch),
    )


def plan_job(
    config: RunConfig, *, resume: bool = False, generations: int = 1, progress: Progress | None = None
) -> RunPlan:
    """Opens, builds and proves a run as it would begin, measures a few steps of a copy, and leaves no trace of it.

    Raises:
        DistillError: whatever the run itself would be refused for before its first step.
    """
    first = config
    if generations > 1:
        first = replace(config, out=config.out / GENERATION.format(1))
        require_free(config.out, resume=resume, first=first.out.name)
    opened = stages.open_inputs(first, resume=resume, progress=progress)
    proved = stages.prove(stages.build(opened, progress=progress), progress=progress)
    stages.require_same_run(proved)
    plan = replace(plan_of(proved), out=config.out, generations=generations)
    by_leader(lambda: plan.require_room(generations))
    if launched_by_torchrun() or plan.start >= plan.steps:
        return plan
    watched_by_leader(progress).say(f"measuring {counted(min(MEASURED, plan.steps), 'step')}")
    return replace(plan, step_seconds=tried(proved, MEASURED).step_seconds)


def _checkpoint_bytes(built: stages.Built) -> int:
    """What the student that counts, the raw one, what terms train and the optimiser's figures take."""
    step, settings = built.step, built.opened.config.train

    def size(tensors: Any) -> int:
        return sum(tensor.nbytes for tensor in tensors)

    trained = size(one for one in step.parameters() if one.requires_grad)
    moments = _MOMENTS[settings.optimizer] if settings.optimizer == "adamw" or settings.momentum else 0
    average = size(step.student.state_dict().values()) if settings.ema_decay else 0
    return size(step.state_dict().values()) + average + moments * trained


def saves_of(config: RunConfig, steps: int) -> int:
    """How often a run writes a checkpoint in so many steps."""
    every = config.train.checkpoint_every or config.train.steps
    return -(-steps // every)


def _device(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "the CPU"
