"""A distillation step against its floor, interleaved in one run.

Floor = a plain training step of the student through torchvision's own loss functions, without any observation,
plus the teacher's observation of exactly what the recipe needs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn, optim

from detdistill.bench.machine import machine
from detdistill.detectors.base import Detector
from detdistill.detectors.catalogue import build_detector
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.detectors.plain import torchvision_loss
from detdistill.detectors.settings import parse_detector
from detdistill.distill.step import DistillationStep
from detdistill.distill.view import CLEAN
from detdistill.errors import ConfigError
from detdistill.progress import Progress, Silence
from detdistill.recipes.catalogue import build_recipe, recipe_entry
from detdistill.types import Batch, Clock, Targets

FEWEST_ROUNDS = 20
_WARM_UP_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class StepBenchSettings:
    """What is measured.

    Attributes:
        methods: recipes, each with its published numbers and default aligners.
        teacher: detector of the teacher.
        student: detector of the student.
        batch_size: images a step.
        image_px: height and width of the images.
        classes: number of classes.
        boxes: objects an image.
        rounds: interleaved rounds, at least 20.
    """

    methods: tuple[str, ...] = ("hint", "frs", "ssim")
    teacher: str = "retinanet/resnet50"
    student: str = "retinanet/resnet18"
    batch_size: int = 8
    image_px: int = 256
    classes: int = 5
    boxes: int = 6
    rounds: int = FEWEST_ROUNDS

    def __post_init__(self) -> None:
        if self.rounds < FEWEST_ROUNDS:
            raise ConfigError(f"--rounds must be at least {FEWEST_ROUNDS}, got {self.rounds}. Leave it out.")
        for name in self.methods:
            recipe_entry(name)


@dataclass(frozen=True, slots=True)
class StepBenchOutcome:
    """What was measured.

    Attributes:
        settings: of the measurement.
        milliseconds: every part's time in every round, by the part's name.
        machine: hardware and versions.
    """

    settings: StepBenchSettings
    milliseconds: Mapping[str, Sequence[float]]
    machine: Mapping[str, str | int]

    def ratios(self, method: str) -> list[float]:
        """The distillation step of every round ÷ its floor in the same round."""
        floors = zip(self.milliseconds[_STUDENT], self.milliseconds[_teacher(method)], strict=True)
        steps = self.milliseconds[_step(method)]
        return [step / (plain + teacher) for step, (plain, teacher) in zip(steps, floors, strict=True)]

    def table(self) -> list[str]:
        """Every part's median with its spread, then the ratios."""
        lines = [f"{'part':<28}{'median ms':>10}  {'quartiles':>17}"]
        for name, times in self.milliseconds.items():
            low, middle, high = statistics.quantiles(times, n=4)
            lines.append(f"{name:<28}{middle:>10.1f}  {low:>8.1f}-{high:<8.1f}")
        lines += ["", f"{'step ÷ floor':<28}{'median':>10}  {'quartiles':>17}"]
        for method in self.settings.methods:
            low, middle, high = statistics.quantiles(self.ratios(method), n=4)
            lines.append(f"{method:<28}{middle:>10.3f}  {low:>8.3f}-{high:<8.3f}")
        return lines

    def as_dict(self) -> Mapping[str, Any]:
        """Ratios, spreads, all times, versions and hardware."""
        methods = self.settings.methods
        return {
            "ratios": {name: round(statistics.median(self.ratios(name)), 4) for name in methods},
            "ratio_quartiles": {
                name: [round(value, 4) for value in statistics.quantiles(self.ratios(name), n=4)] for name in methods
            },
            "milliseconds": {
                name: {
                    "median": round(statistics.median(times), 2),
                    "quartiles": [round(value, 2) for value in statistics.quantiles(times, n=4)],
                    "all": [round(value, 2) for value in times],
                }
                for name, times in self.milliseconds.items()
            },
            "floor": "plain student step through torchvision's own losses + teacher.observe with the recipe's needs",
            "settings": asdict(self.settings),
            "machine": dict(self.machine),
        }


_STUDENT = "student step (plain)"


def _teacher(method: str) -> str:
    return f"teacher.observe for {method}"


def _step(method: str) -> str:
    return f"distillation step {method}"


def bench_step(settings: StepBenchSettings, *, progress: Progress | None = None) -> StepBenchOutcome:
    """Measures every part in turn, round after round, so that a machine's drift meets all alike.

    Args:
        settings: what to measure.
        progress: told how many rounds are done.

    Raises:
        ConfigError: unknown method or detector, or too few rounds.
        CapabilityError: a recipe does not fit the detectors.
    """
    watcher = progress or Silence()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = tuple(f"class {index}" for index in range(settings.classes))
    batch = _batch(settings).to(device)
    teacher = FrozenTeacher(build_detector(parse_detector(settings.teacher), names, seed=0)).to(device)
    student = build_detector(parse_detector(settings.student), names, seed=1).to(device)
    parts: dict[str, Callable[[], object]] = {_STUDENT: _plain_step(student, batch)}
    for method in settings.methods:
        recipe = build_recipe(method, student.spec, teacher.spec)
        step = DistillationStep(student, teacher, recipe).to(device)
        needs = recipe.teacher_needs(CLEAN)
        parts[_teacher(method)] = partial(teacher.observe, batch, needs)
        parts[_step(method)] = _distillation_step(step, batch)
    milliseconds: dict[str, list[float]] = {name: [] for name in parts}
    watcher.start("rounds", settings.rounds)
    for round_number in range(-_WARM_UP_ROUNDS, settings.rounds):
        for name, run in parts.items():
            elapsed = _time(run, device)
            if round_number >= 0:
                milliseconds[name].append(elapsed)
        watcher.advance(max(0, round_number + 1))
    watcher.finish()
    return StepBenchOutcome(settings=settings, milliseconds=milliseconds, machine=machine(device))


def _time(run: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - began)


def _optimizer(module: nn.Module) -> optim.Optimizer:
    # A rate of 0 keeps the weights: every round then computes the same, at the same cost.
    return optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.0, momentum=0.9)


def _plain_step(student: Detector, batch: Batch) -> Callable[[], object]:
    return _training_step(student, lambda: torchvision_loss(student, batch))


def _distillation_step(step: DistillationStep, batch: Batch) -> Callable[[], object]:
    clock = Clock(step=1000, total_steps=2000)
    return _training_step(step, lambda: step(batch, clock).total)


def _training_step(module: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], object]:
    optimizer = _optimizer(module.train())

    def run() -> None:
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return run


def _batch(settings: StepBenchSettings) -> Batch:
    generator = torch.Generator().manual_seed(0)
    count, side = settings.batch_size, settings.image_px
    targets = []
    for _ in range(count):
        corner = torch.rand(settings.boxes, 2, generator=generator) * side * 0.7
        extent = (0.1 + 0.2 * torch.rand(settings.boxes, 2, generator=generator)) * side
        labels = torch.randint(settings.classes, (settings.boxes,), generator=generator)
        targets.append(
            Targets(
                boxes=torch.cat((corner, corner + extent), dim=1),
                labels=labels,
                ignored=torch.zeros(settings.boxes, dtype=torch.bool),
            )
        )
    return Batch(
        images=torch.rand(count, 3, side, side, generator=generator),
        sizes=((side, side),) * count,
        stored_sizes=((side, side),) * count,
        targets=tuple(targets),
        image_ids=tuple(range(count)),
        seeds=tuple(range(count)),
    )
