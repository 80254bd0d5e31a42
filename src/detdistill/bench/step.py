"""A distillation step against its floor, interleaved in one run.

Floor = a plain training step of the student through torchvision's own loss functions, without any observation,
plus the teacher's observation of exactly what the recipe needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from detdistill.bench.machine import machine
from detdistill.bench.rounds import Part, distillation_step, figures, interleaved, noise_batch, plain_step, table
from detdistill.detectors.catalogue import build_detector, parse_detector
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.step import DistillationStep
from detdistill.distillation.view import CLEAN
from detdistill.errors import ConfigError
from detdistill.methods.catalogue import METHODS, build_recipe
from detdistill.progress import Progress, Silence

FEWEST_ROUNDS = 20


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
            METHODS.find(name)


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
        return table(self.milliseconds, self._ratios(), what="step ÷ floor")

    def as_dict(self) -> Mapping[str, Any]:
        """Ratios, spreads, all times, versions and hardware."""
        return {
            **figures(self.milliseconds, self._ratios()),
            "floor": "plain student step through torchvision's own losses + teacher.observe with the recipe's needs",
            "settings": asdict(self.settings),
            "machine": dict(self.machine),
        }

    def _ratios(self) -> dict[str, list[float]]:
        return {method: self.ratios(method) for method in self.settings.methods}


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
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = tuple(f"class {index}" for index in range(settings.classes))
    batch = noise_batch(settings.batch_size, settings.image_px, boxes=settings.boxes, classes=settings.classes)
    batch = batch.to(device)
    teacher = FrozenTeacher(build_detector(parse_detector(settings.teacher), names, seed=0)).to(device)
    student = build_detector(parse_detector(settings.student), names, seed=1).to(device)
    parts: dict[str, Part] = {_STUDENT: plain_step(student, batch)}
    for method in settings.methods:
        recipe = build_recipe(method, student.spec, teacher.spec)
        step = DistillationStep(student, teacher, recipe).to(device)
        needs = recipe.teacher_needs(CLEAN)
        parts[_teacher(method)] = partial(teacher.observe, batch, needs)
        parts[_step(method)] = distillation_step(step, batch)
    milliseconds = interleaved(parts, settings.rounds, device=device, progress=progress or Silence())
    return StepBenchOutcome(settings=settings, milliseconds=milliseconds, machine=machine(device))
