"""What a paper's rows cost at full size, before the first of them is trained: time and disk."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from detdistill.bench.rounds import noise_batch
from detdistill.detectors.base import Detector
from detdistill.detectors.catalogue import build_detector
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.detectors.settings import DetectorSettings
from detdistill.distillation.step import SupervisedStep
from detdistill.errors import ConfigError
from detdistill.jobs.opening import available_device
from detdistill.jobs.settings import RunConfig
from detdistill.methods.composition import structure
from detdistill.papers.data import PreparedData
from detdistill.papers.runs import PaperRun
from detdistill.progress import Progress
from detdistill.types import Clock, Need

_ROUNDS, _ENOUGH_SECONDS = 3, 5.0
_BOXES = 7
_PAD_PX = 32
# A twin is a PNG of a photograph with noise: two and a half bytes a pixel, generously.
_TWIN_BYTES_A_PIXEL = 2.5
# Student, trained weights and momentum, with some room for logs and pictures.
_TENSORS_A_CHECKPOINT, _ROOM = 3.0, 1.2
_TWIN_PASSES = 6


@dataclass(frozen=True, slots=True)
class Cost:
    """What one detector costs, for an image.

    Attributes:
        parameters: how many it has.
        step: seconds of a training step; None where it could not be measured.
        observe: seconds of being a teacher.
    """

    parameters: int
    step: float | None
    observe: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be trained, and what that takes.

    Attributes:
        runs: trainings to make, those that are done already left out.
        seconds: of all of them; None where it could not be measured.
        bytes: on the disk.
        device: what the time was measured on.
    """

    runs: Sequence[PaperRun]
    seconds: float | None
    bytes: float
    device: str

    def lines(self) -> list[str]:
        """The plan in words."""
        if self.seconds is None:
            time_needed = f"time cannot be estimated: the memory of {self.device} is too small for one image a step"
        else:
            time_needed = (
                f"about {_long(self.seconds)} on {self.device} (measured by a few steps of each detector; reading "
                "images, evaluation and the methods' own work come on top)"
            )
        return [
            f"plan: {len(self.runs)} trainings",
            f"plan: {time_needed}",
            f"plan: about {self.bytes / 2**30:.1f} GiB on the disk",
        ]


def make_plan(
    runs: Sequence[PaperRun],
    data: Mapping[str, PreparedData],
    *,
    finished: Set[str] = frozenset(),
    measure: Callable[[DetectorSettings, int], Cost] | None = None,
    progress: Progress,
) -> Plan:
    """Measures a few steps of every detector, and counts.

    Args:
        runs: all that the rows need.
        data: prepared for every run, by the run's name.
        finished: names of those that are made already.
        measure: the cost of a detector on square images of a side in pixels; None for `measure_cost`.
        progress: told how far it is.
    """
    look = measure or measure_cost
    device = available_device()
    costs: dict[tuple[DetectorSettings, int], Cost] = {}
    by_name = {run.name: run for run in runs}
    todo = [run for run in runs if run.name not in finished]
    teachers = [by_name[run.needs] for run in todo if run.needs is not None]
    keys = list(dict.fromkeys(_key(run.config, data[run.name]) for run in [*todo, *teachers]))
    progress.start("measure detectors", len(keys))
    for number, key in enumerate(keys, start=1):
        costs[key] = look(*key)
        progress.advance(number)
    progress.finish()
    seconds: float | None = 0.0
    space = 0.0
    twins: set[str] = set()
    for run in todo:
        cost = costs[_key(run.config, data[run.name])]
        teacher = None if run.needs is None else costs[_key(by_name[run.needs].config, data[run.needs])]
        images = run.config.train.steps * run.config.train.batch_size
        space += run.config.train.keep_checkpoints * _TENSORS_A_CHECKPOINT * 4 * cost.parameters * _ROOM
        took = _seconds(run, cost, teacher, images)
        if _looks_at_twins(run.config) and run.needs is not None and run.needs not in twins:
            twins.add(run.needs)
            prepared = data[run.name]
            space += prepared.train_images * prepared.size[0] * prepared.size[1] * _TWIN_BYTES_A_PIXEL
            if took is not None and teacher is not None and teacher.step is not None:
                took += _TWIN_PASSES * prepared.train_images * teacher.step
        seconds = None if seconds is None or took is None else seconds + took
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
    return Plan(runs=todo, seconds=seconds, bytes=space, device=name)


def require_room(plan: Plan, out: Path) -> None:
    """Refuses a plan that the disk has no room for.

    Raises:
        ConfigError: there is too little.
    """
    place = next(path for path in (out, *out.resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < plan.bytes:
        raise ConfigError(
            f"The disk of {out} must have {plan.bytes / 2**30:.1f} GiB free, got {free / 2**30:.1f} GiB. "
            "Free some, give --out on another disk, or run rows one by one with --row."
        )


def measure_cost(settings: DetectorSettings, side_px: int) -> Cost:
    """Builds a detector, without downloading anything, and times a few steps with one image.

    Args:
        settings: of the detector.
        side_px: height and width of the image.
    """
    device = available_device()
    detector = build_detector(replace(settings, pretrained=None), tuple(f"class {k}" for k in range(80)), seed=0)
    parameters = sum(parameter.numel() for parameter in detector.parameters())
    try:
        step, observe = _timed(detector.to(device), side_px, device)
    except torch.OutOfMemoryError:
        return Cost(parameters, step=None, observe=None)
    return Cost(parameters, step=step, observe=observe)


def _timed(detector: Detector, side_px: int, device: torch.device) -> tuple[float, float]:
    batch = noise_batch(1, side_px, boxes=_BOXES, classes=80).to(device)
    step = SupervisedStep(detector).train()

    def train() -> None:
        step.zero_grad()
        step(batch, Clock(step=1, total_steps=2)).total.backward()

    in_training = _seconds_of(train, device)
    teacher = FrozenTeacher(detector)
    return in_training, _seconds_of(lambda: teacher.observe(batch, frozenset({Need.CLASS_LOGITS})), device)


def _seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """The fastest of a few rounds, as the first ones allocate and choose algorithms; fewer where one takes long."""
    found: list[float] = []
    while len(found) < _ROUNDS and sum(found) < _ENOUGH_SECONDS:
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - began)
    return min(found)


def _key(config: RunConfig, data: PreparedData) -> tuple[DetectorSettings, int]:
    """The detector, and the side of a square as large as the images that it sees."""
    height, width = data.size if config.data.image is None else config.data.image.resized(*data.size)
    return config.student.settings, max(_PAD_PX, round((height * width) ** 0.5 / _PAD_PX) * _PAD_PX)


def _seconds(run: PaperRun, cost: Cost, teacher: Cost | None, images: int) -> float | None:
    if cost.step is None or (teacher is not None and teacher.observe is None):
        return None
    each = cost.step
    if teacher is not None and teacher.observe is not None:
        each += teacher.observe * (2 if _looks_at_twins(run.config) else 1)
        each += cost.step / 2 if _looks_at_twins(run.config) else 0.0
    return images * each


def _looks_at_twins(config: RunConfig) -> bool:
    return config.method is not None and "ikd(" in structure(config.method)


def _long(seconds: float) -> str:
    if seconds < 5400:
        return f"{max(1, round(seconds / 60))} minutes"
    return f"{seconds / 3600:.0f} hours" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
