"""What a paper's rows cost at full size, before the first of them is trained: time and disk."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import torch

from detdistill.bench.rounds import noise_batch
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
_Key = tuple[DetectorSettings, int]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one detector costs: parameters, and seconds an image in training and as a teacher; None: no memory."""

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
    """
    device = available_device()
    keys = {run.name: _key(run.config, data[run.name]) for run in runs}
    todo = [run for run in runs if run.name not in finished]
    wanted = dict.fromkeys(keys[name] for name in [run.name for run in todo] + [run.needs for run in todo] if name)
    costs: dict[_Key, Cost] = {}
    progress.start("measure costs", len(wanted), unit="detector")
    for number, key in enumerate(wanted, start=1):
        costs[key] = (measure or measure_cost)(*key)
        progress.advance(number)
    progress.finish()
    # What cannot be measured is not a number, and makes the sum none.
    seconds, space = 0.0, 0.0
    twins: set[str] = set()
    for run in todo:
        cost, train = costs[keys[run.name]], run.config.train
        space += train.keep_checkpoints * _TENSORS_A_CHECKPOINT * 4 * cost.parameters * _ROOM
        each = _known(cost.step)
        looks_at_twins = run.config.method is not None and "ikd(" in structure(run.config.method)
        made = 0.0
        if run.needs is not None:
            teacher, prepared = costs[keys[run.needs]], data[run.name]
            each += _known(teacher.observe) * (2 if looks_at_twins else 1)
            if looks_at_twins:
                each += _known(cost.step) / 2
                if run.needs not in twins:
                    twins.add(run.needs)
                    space += prepared.train_images * math.prod(prepared.size) * _TWIN_BYTES_A_PIXEL
                    made = 0.0 if teacher.step is None else _TWIN_PASSES * prepared.train_images * teacher.step
        seconds += train.steps * train.batch_size * each + made
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
    return Plan(todo, None if math.isnan(seconds) else seconds, space, name)


def _known(seconds: float | None) -> float:
    return math.nan if seconds is None else seconds


def _key(config: RunConfig, data: PreparedData) -> _Key:
    """The detector, and the side of a square as large as the images that it sees."""
    height, width = data.size if config.data.image is None else config.data.image.resized(*data.size)
    return config.student.settings, max(_PAD_PX, round((height * width) ** 0.5 / _PAD_PX) * _PAD_PX)


def require_room(plan: Plan, out: Path) -> None:
    """Refuses a plan that the disk has no room for."""
    place = next(path for path in (out, *out.resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < plan.bytes:
        raise ConfigError(
            f"The disk of {out} must have {plan.bytes / 2**30:.1f} GiB free, got {free / 2**30:.1f} GiB. "
            "Free some, give --out on another disk, or run rows one by one with --row."
        )


def measure_cost(settings: DetectorSettings, side_px: int) -> Cost:
    """Builds a detector, without downloading anything, and times a few steps with one square image."""
    device = available_device()
    detector = build_detector(settings.at_home(), tuple(f"class {k}" for k in range(80)), seed=0)
    parameters = sum(parameter.numel() for parameter in detector.parameters())
    try:
        detector.to(device)
        batch = noise_batch(1, side_px, boxes=_BOXES, classes=80).to(device)
        step = SupervisedStep(detector).train()

        def train() -> None:
            step.zero_grad()
            step(batch, Clock(step=1, total_steps=2)).total.backward()

        in_training = _seconds_of(train, device)
        teacher = FrozenTeacher(detector)
        observe = _seconds_of(lambda: teacher.observe(batch, frozenset({Need.CLASS_LOGITS})), device)
    except torch.OutOfMemoryError:
        return Cost(parameters, step=None, observe=None)
    return Cost(parameters, in_training, observe)


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


def _long(seconds: float) -> str:
    if seconds < 5400:
        return f"{max(1, round(seconds / 60))} minutes"
    return f"{seconds / 3600:.0f} hours" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
