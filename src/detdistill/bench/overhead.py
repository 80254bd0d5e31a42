"""What weights, attention and a second view cost: each step against the same computations without them.

All parts take turns in one run. A ratio is taken in every round, between times of the same round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch

from detdistill.bench.machine import machine
from detdistill.bench.rounds import Part, distillation_step, figures, interleaved, noise_batch, plain_step, table
from detdistill.detectors.base import Detector
from detdistill.detectors.catalogue import build_detector, parse_detector
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.recipe import Recipe, WeightedTerm, views
from detdistill.distillation.step import DistillationStep
from detdistill.distillation.view import CLEAN, View
from detdistill.errors import ConfigError
from detdistill.methods.catalogue import build_recipe
from detdistill.progress import Progress, Silence
from detdistill.types import Batch, Need

WEIGHED = ("frs", "attention")
"""Methods that are measured with and without aid."""

_STUDENT = "student step (plain)"
_IKD = "ikd(fgd)"


@dataclass(frozen=True, slots=True)
class OverheadSettings:
    """What is measured.

    Attributes:
        teacher: detector of the teacher, RetinaNet or FCOS.
        student: detector of the student, RetinaNet or FCOS.
        batch_size: images a step.
        image_px: height and width of the images.
        classes: number of classes.
        boxes: objects an image.
        rounds: interleaved rounds, at least 2.
    """

    teacher: str = "retinanet/resnet50"
    student: str = "retinanet/resnet18"
    batch_size: int = 8
    image_px: int = 256
    classes: int = 5
    boxes: int = 6
    rounds: int = 20

    def __post_init__(self) -> None:
        if self.rounds < 2:
            raise ConfigError(f"--rounds must be at least 2, got {self.rounds}. Leave it out.")


@dataclass(frozen=True, slots=True)
class Ratio:
    """One step against what it is measured by.

    Attributes:
        step: the part on top.
        floor: the parts below, added up.
        meaning: for people.
    """

    step: str
    floor: tuple[str, ...]
    meaning: str


@dataclass(frozen=True, slots=True)
class OverheadOutcome:
    """What was measured.

    Attributes:
        settings: of the measurement.
        milliseconds: every part's time in every round, by the part's name.
        compared: which parts make up each ratio.
        machine: hardware and versions.
    """

    settings: OverheadSettings
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
        """Every part's median with its spread, then the ratios."""
        return table(self.milliseconds, self.ratios(), what="step ÷ what it is measured by")

    def as_dict(self) -> Mapping[str, Any]:
        """Ratios, spreads, all times, versions and hardware."""
        return {
            **figures(self.milliseconds, self.ratios()),
            "compared": {name: asdict(ratio) for name, ratio in self.compared.items()},
            "settings": asdict(self.settings),
            "machine": dict(self.machine),
        }


def bench_overhead(settings: OverheadSettings, *, progress: Progress | None = None) -> OverheadOutcome:
    """Measures every part in turn, round after round.

    Args:
        settings: what to measure.
        progress: told how many rounds are done.

    Raises:
        ConfigError: unknown detector, or too few rounds.
        CapabilityError: a recipe does not fit the detectors, or the student is no RetinaNet or FCOS.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = tuple(f"class {index}" for index in range(settings.classes))
    batch = noise_batch(settings.batch_size, settings.image_px, boxes=settings.boxes, classes=settings.classes)
    batch = batch.to(device)
    teacher = FrozenTeacher(build_detector(parse_detector(settings.teacher), names, seed=0)).to(device)
    student = build_detector(parse_detector(settings.student), names, seed=1).to(device)
    parts: dict[str, Part] = {_STUDENT: plain_step(student, batch)}
    compared: dict[str, Ratio] = {}
    for method in WEIGHED:
        _add_aid(method, student, teacher, batch=batch, parts=parts, compared=compared)
    _add_floor("attention", student, teacher, batch=batch, parts=parts, compared=compared)
    _add_ikd(student, teacher, batch=batch, parts=parts, compared=compared)
    milliseconds = interleaved(parts, settings.rounds, device=device, progress=progress or Silence())
    return OverheadOutcome(settings=settings, milliseconds=milliseconds, compared=compared, machine=machine(device))


def _step(recipe: Recipe, student: Detector, teacher: FrozenTeacher, batch: Batch) -> Part:
    return distillation_step(DistillationStep(student, teacher, recipe).to(teacher.device), batch)


def _add_aid(
    method: str,
    student: Detector,
    teacher: FrozenTeacher,
    *,
    batch: Batch,
    parts: dict[str, Part],
    compared: dict[str, Ratio],
) -> None:
    wrapped = build_recipe(f"aid({method})", student.spec, teacher.spec)
    needs = wrapped.teacher_needs(CLEAN)
    asked = _asking(build_recipe(method, student.spec, teacher.spec), needs)
    fuller = f"step {method}, the teacher asked for what aid needs"
    parts[f"step {method}"] = _step(build_recipe(method, student.spec, teacher.spec), student, teacher, batch)
    parts[fuller] = _step(asked, student, teacher, batch)
    parts[f"step aid({method})"] = _step(wrapped, student, teacher, batch)
    compared[f"aid_{method}"] = Ratio(
        f"step aid({method})", (fuller,), f"aid({method}) ÷ {method} with the teacher parts that aid needs"
    )
    compared[f"aid_{method}_plain"] = Ratio(
        f"step aid({method})", (f"step {method}",), f"aid({method}) ÷ {method} as it is"
    )


def _asking(recipe: Recipe, needs: Set[Need]) -> Recipe:
    """The recipe, its first term asking the teacher for more than it reads."""
    first: WeightedTerm = recipe.terms[0]
    first.term.teacher_needs = first.term.teacher_needs | needs
    return recipe


def _add_floor(
    method: str,
    student: Detector,
    teacher: FrozenTeacher,
    *,
    batch: Batch,
    parts: dict[str, Part],
    compared: dict[str, Ratio],
) -> None:
    needs = build_recipe(method, student.spec, teacher.spec).teacher_needs(CLEAN)
    observe = f"teacher.observe for {method}"
    parts[observe] = partial(teacher.observe, batch, needs)
    compared[method] = Ratio(
        f"step {method}", (_STUDENT, observe), f"{method} ÷ (plain student step + teacher.observe with its needs)"
    )


def _add_ikd(
    student: Detector, teacher: FrozenTeacher, *, batch: Batch, parts: dict[str, Part], compared: dict[str, Ratio]
) -> None:
    recipe = build_recipe(_IKD, student.spec, teacher.spec)
    (view,) = (view for view in views(recipe.terms) if view != CLEAN)
    ready = replace(batch, twins={str(view.twin): 1 - batch.images})
    observe = {CLEAN: f"teacher.observe for {_IKD}", view: "teacher.observe of the twins"}
    for seen, name in observe.items():
        parts[name] = partial(teacher.observe, seen(ready), recipe.teacher_needs(seen))
    twins = "student forward-backward on the twins"
    parts[twins] = _forward_backward(student, ready, view, needs=recipe.student_needs(view))
    parts[f"step {_IKD}"] = _step(recipe, student, teacher, ready)
    compared["ikd_fgd"] = Ratio(
        f"step {_IKD}",
        (_STUDENT, observe[CLEAN], twins, observe[view]),
        f"{_IKD} with its twins at hand ÷ (plain student step + teacher.observe + both on the twins)",
    )


def _forward_backward(student: Detector, batch: Batch, view: View, *, needs: Set[Need]) -> Part:
    """The student on a view, and back from everything that is read of it."""

    def run() -> None:
        student.train().zero_grad()
        seen = student(view(batch), needs)
        shown = [*seen.pyramid.levels, *(() if seen.class_logits is None else seen.class_logits.levels)]
        torch.autograd.backward(shown, [torch.ones_like(level) for level in shown])

    return run
