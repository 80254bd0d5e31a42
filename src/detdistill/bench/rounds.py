"""What every benchmark of a step shares: its bench, training steps that change nothing, interleaved rounds, ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn, optim

from detdistill.bench.machine import machine
from detdistill.bench.rows import ROWS, Row, row
from detdistill.detectors.base import Detector
from detdistill.detectors.catalogue import build_detector, parse_detector
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.detectors.torchvision_dense import DenseDetector, torchvision_loss
from detdistill.distillation.recipe import Recipe
from detdistill.distillation.step import DistillationStep, SupervisedStep
from detdistill.distillation.view import CLEAN
from detdistill.errors import ConfigError
from detdistill.methods.catalogue import build_recipe
from detdistill.methods.parts.align import ConvAlign
from detdistill.progress import Progress
from detdistill.types import Batch, Clock, Need, Targets

Part = Callable[[], object]
STUDENT = "student step (plain)"
_WARM_UP_ROUNDS = 2
_FEWEST_ROUNDS = 2
_CLOCK = Clock(step=1000, total_steps=2000)


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """What is measured.

    Attributes:
        teacher: detector of the teacher.
        student: detector of the student. The plain step of a RetinaNet or an FCOS is torchvision's own.
        batch_size: images a step.
        image_px: height and width of the images.
        classes: number of classes.
        boxes: objects an image.
        rounds: interleaved rounds, at least 2; quartiles need about 20.
        threads: of the CPU.
    """

    teacher: str = "retinanet/resnet50"
    student: str = "retinanet/resnet18"
    batch_size: int = 2
    image_px: int = 256
    classes: int = 5
    boxes: int = 6
    rounds: int = 20
    threads: int = 1

    def __post_init__(self) -> None:
        if self.rounds < _FEWEST_ROUNDS:
            raise ConfigError(f"--rounds must be at least {_FEWEST_ROUNDS}, got {self.rounds}. Leave it out.")


@dataclass(frozen=True, slots=True)
class Ratio:
    """One step against what it is measured by.

    Attributes:
        step: the part on top.
        floor: the parts below, added up.
        meaning: for people.
        at_most: what it should not exceed; None where nothing is asked of it.
    """

    step: str
    floor: tuple[str, ...]
    meaning: str
    at_most: float | None = None


@dataclass(frozen=True, slots=True)
class BenchOutcome:
    """What was measured.

    Attributes:
        settings: of the measurement.
        milliseconds: every part's time in every round, by the part's name.
        compared: which parts make up each ratio.
        machine: hardware and versions.
    """

    settings: BenchSettings
    milliseconds: Mapping[str, Sequence[float]]
    compared: Mapping[str, Ratio]
    machine: Mapping[str, str | int]

    def ratios(self) -> dict[str, list[float]]:
        """Every ratio in every round."""
        found = {}
        for name, ratio in self.compared.items():
            floors = zip(*(self.milliseconds[part] for part in ratio.floor), strict=True)
            steps = self.milliseconds[ratio.step]
            found[name] = [step / sum(floor) for step, floor in zip(steps, floors, strict=True)]
        return found

    def table(self) -> list[str]:
        """Every part's median with its quartiles, then every ratio's."""
        ratios, what = self.ratios(), "step ÷ what it is measured by"
        width = max(len(name) for name in (*self.milliseconds, *ratios, what)) + 2
        lines = []
        for title, unit, digits, rows in (("part", "median ms", 1, self.milliseconds), (what, "median", 3, ratios)):
            lines += [f"{title:<{width}}{unit:>10}  {'quartiles':>17}"]
            for name, values in rows.items():
                low, middle, high = (f"{value:.{digits}f}" for value in statistics.quantiles(values, n=4))
                lines.append(f"{name:<{width}}{middle:>10}  {low:>8}-{high:<8}")
            lines.append("")
        return lines[:-1]

    def as_dict(self) -> Mapping[str, Any]:
        """Ratios, spreads, all times, versions and hardware, as JSON can hold them."""
        return {
            "ratios": {name: round(statistics.median(values), 4) for name, values in self.ratios().items()},
            "ratio_quartiles": {
                name: [round(value, 4) for value in statistics.quantiles(values, n=4)]
                for name, values in self.ratios().items()
            },
            "milliseconds": {
                name: {
                    "median": round(statistics.median(times), 2),
                    "quartiles": [round(value, 2) for value in statistics.quantiles(times, n=4)],
                    "all": [round(value, 2) for value in times],
                }
                for name, times in self.milliseconds.items()
            },
            "compared": {name: asdict(ratio) for name, ratio in self.compared.items()},
            ROWS: [self._row(self.compared[name], values) for name, values in self.ratios().items()],
            "settings": asdict(self.settings),
            "machine": dict(self.machine),
        }

    def _row(self, ratio: Ratio, values: Sequence[float]) -> Row:
        asked = self.settings
        where = f"{asked.teacher} → {asked.student}, {asked.batch_size} × {asked.image_px} px"
        return row(f"{ratio.meaning}; {where}", values, hardware=self.machine, at_most=ratio.at_most)


@final
class Bench:
    """A teacher, a student and a batch of noise on this machine, and what is to be measured with them.

    Args:
        settings: of the measurement.

    Raises:
        ConfigError: unknown detector.
    """

    def __init__(self, settings: BenchSettings) -> None:
        self.settings = settings
        torch.set_num_threads(settings.threads)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        names = tuple(f"class {index}" for index in range(settings.classes))
        batch = noise_batch(settings.batch_size, settings.image_px, boxes=settings.boxes, classes=settings.classes)
        self.batch = batch.to(self.device)
        detector = build_detector(parse_detector(settings.teacher), names, seed=0)
        self.teacher = FrozenTeacher(detector).to(self.device)
        self.student: Detector = build_detector(parse_detector(settings.student), names, seed=1).to(self.device)
        # As a training lays it out.
        self.student.to(memory_format=torch.channels_last)
        alone = SupervisedStep(self.student)
        torchvisions = isinstance(self.student, DenseDetector)
        self.parts: dict[str, Part] = {
            STUDENT: _training_step(
                self.student,
                lambda: torchvision_loss(self.student, self.batch) if torchvisions else alone(self.batch, _CLOCK).total,
            )
        }
        self.compared: dict[str, Ratio] = {}

    def recipe(self, method: str) -> Recipe:
        """The recipe of a method's text, for the two detectors."""
        return build_recipe(method, self.student.spec, self.teacher.spec)

    def step(self, recipe: Recipe) -> Part:
        """A training step past every warm-up, with everything on and its twins at hand."""
        step = DistillationStep(self.student, self.teacher, recipe).to(self.device)
        step.to(memory_format=torch.channels_last)
        batch = self.ready(recipe)
        return _training_step(step, lambda: step(batch, _CLOCK).total)

    def ready(self, recipe: Recipe) -> Batch:
        """The batch with the twins that a recipe looks at."""
        twins = {str(view.twin): 1 - self.batch.images for view in recipe.views() if view != CLEAN}
        return replace(self.batch, twins=twins)

    def add(self, method: str, *, at_most: float) -> None:
        """A method's step, and what it is measured by: what must be computed for it whatever the method does.

        That is the student's plain step, the teacher's observation of exactly what is read (or its detections, where
        boxes alone are learned), and both on the twins.
        """
        recipe = self.recipe(method)
        batch, floor = self.ready(recipe), [STUDENT]
        for view in (CLEAN, *(view for view in recipe.views() if view != CLEAN)):
            seen, where = view(batch), "" if view == CLEAN else " on the twins"
            if view != CLEAN:
                floor.append(f"student forward-backward for {method}{where}")
                self.parts[floor[-1]] = forward_backward(self.student, seen, needs=recipe.student_needs(view))
            if recipe.looks(view):
                floor.append(f"teacher.observe for {method}{where}")
                self.parts[floor[-1]] = partial(self.teacher.observe, seen, recipe.teacher_needs(view))
        if recipe.learnable is not None:
            floor.append(f"teacher.detect for {method}")
            self.parts[floor[-1]] = partial(self.teacher.detect, batch)
        self.parts.setdefault(f"step {method}", self.step(recipe))
        added = " + ".join(sorted({part.partition(" for ")[0] for part in floor[1:]}, reverse=True))
        self.compared[method] = Ratio(
            f"step {method}", tuple(floor), f"{method} ÷ (plain student step + {added})", at_most=at_most
        )
        aligners = {one for each in recipe.terms for one in each.term.modules() if isinstance(one, ConvAlign)}
        if aligners:
            floor.append(f"aligners of {method}")
            self.parts[floor[-1]] = self._aligning(aligners)
            meaning = f"{method} ÷ (plain student step + {added} + its aligners)"
            self.compared[f"{method}, with its aligners"] = Ratio(f"step {method}", tuple(floor), meaning)

    def _aligning(self, aligners: Collection[ConvAlign]) -> Part:
        """Forward and backward of what takes the student's maps to the teacher's channels, and of nothing else."""
        with torch.no_grad():
            maps = self.student(self.batch, frozenset({Need.PYRAMID})).maps
        levels = {stride: level.requires_grad_() for stride, level in zip(maps.strides, maps.levels, strict=True)}

        def run() -> None:
            for align in aligners:
                for stride, level in levels.items():
                    if align.has(stride):
                        align.zero_grad()
                        said = align(level, stride)
                        said.backward(torch.ones_like(said))

        return run

    def measured(self, progress: Progress) -> BenchOutcome:
        """Every part's times, and what they are compared with."""
        milliseconds = interleaved(self.parts, self.settings.rounds, device=self.device, progress=progress)
        return BenchOutcome(self.settings, milliseconds, self.compared, machine(self.device))


def interleaved(
    parts: Mapping[str, Part], rounds: int, *, device: torch.device, progress: Progress
) -> dict[str, list[float]]:
    """Every part's milliseconds in every round; all parts take turns, so that a machine's drift meets all alike.

    Args:
        parts: what to measure, by name.
        rounds: how many are kept, after two that are not.
        device: is waited for after every part.
        progress: told how many rounds are done.
    """
    milliseconds: dict[str, list[float]] = {name: [] for name in parts}
    progress.start("measure", rounds, unit="round")
    for round_number in range(-_WARM_UP_ROUNDS, rounds):
        for name, run in parts.items():
            elapsed = _time(run, device)
            if round_number >= 0:
                milliseconds[name].append(elapsed)
        progress.advance(max(0, round_number + 1))
    progress.finish()
    return milliseconds


def _time(run: Part, device: torch.device) -> float:
    """On a CPU the process's own time, in which others that use the machine do not count."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    began = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (clock() - began)


def forward_backward(student: Detector, batch: Batch, *, needs: Set[Need]) -> Part:
    """The student on a batch, and back from everything that is read of it."""

    def run() -> None:
        student.train().zero_grad()
        seen = student(batch, needs)
        shown = [*seen.maps.levels, *(() if seen.class_logits is None else seen.class_logits.levels)]
        torch.autograd.backward(shown, [torch.ones_like(level) for level in shown])

    return run


def _training_step(module: nn.Module, loss: Callable[[], Tensor]) -> Part:
    module.train()
    # A rate of 0 keeps the weights: every round then computes the same, at the same cost.
    optimizer = optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.0, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return run


def noise_batch(count: int, side: int, *, boxes: int, classes: int) -> Batch:
    """Square images of noise with boxes.

    Args:
        count: images.
        side: height and width in pixels.
        boxes: objects an image.
        classes: number of classes.
    """
    generator = torch.Generator().manual_seed(0)
    targets = []
    for _ in range(count):
        corner = torch.rand(boxes, 2, generator=generator) * side * 0.7
        extent = (0.1 + 0.2 * torch.rand(boxes, 2, generator=generator)) * side
        labels = torch.randint(classes, (boxes,), generator=generator)
        targets.append(
            Targets(
                boxes=torch.cat((corner, corner + extent), dim=1),
                labels=labels,
                ignored=torch.zeros(boxes, dtype=torch.bool),
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
