"""Tells what a detector costs: parameters, multiply-adds, time an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detdistill.bench.machine import machine
from detdistill.detectors.base import Detector
from detdistill.detectors.catalogue import FAMILIES, build_detector, naming_of, parse_detector
from detdistill.detectors.complexity import SECOND_STAGE, Complexity, complexity, seconds_per_image
from detdistill.detectors.families.hf import is_name
from detdistill.detectors.own_code import taken_apart
from detdistill.errors import CapabilityError, ConfigError
from detdistill.jobs.doors import HUB, OWN, RUN, door_of, kinds_of_source
from detdistill.jobs.opening import available_device, open_detector
from detdistill.progress import Progress, Silence

_COCO_CLASSES = 80


@dataclass(frozen=True, slots=True)
class ProfileOutcome:
    """What a detector costs on an image of `height` x `width` pixels; `seconds` is the median time of one image."""

    model: str
    classes: int
    height: int
    width: int
    complexity: Complexity
    seconds: float
    machine: Mapping[str, str | int]

    def table(self) -> list[str]:
        """One line a figure."""
        found, threads = self.complexity, self.machine["threads"]
        second = "" if found.proposals is None else f" ({found.proposals} proposals)"
        taken_on = f"{self.machine['device']}, {threads} thread{'' if threads == 1 else 's'}"
        rows = [
            ("parameters", f"{found.parameters / 1e6:.2f} M"),
            ("  trainable", f"{found.trainable / 1e6:.2f} M"),
            ("multiply-adds", f"{found.total_macs / 1e9:.2f} G (papers often print these as GFLOPs)"),
            *((f"  {p}", f"{macs / 1e9:.2f} G{second if p == SECOND_STAGE else ''}") for p, macs in found.macs.items()),
            ("time per image", f"{1000 * self.seconds:.1f} ms ({taken_on})"),
        ]
        width = max(len(name) for name, _ in rows)
        title = f"{self.model}: {self.classes} classes, {self.height} x {self.width} pixels"
        return [title, *(f"  {name:<{width}}  {value}" for name, value in rows)]

    def as_dict(self) -> Mapping[str, Any]:
        """All figures."""
        found, macs = asdict(self), self.complexity.total_macs
        costs, seconds = found.pop("complexity"), found.pop("seconds")
        return {**found, **costs, "total_macs": macs, "flops": 2 * macs, "seconds_per_image": seconds}


def profile_job(
    model: str,
    *,
    size: tuple[int, int] | None = None,
    classes: int | None = None,
    rounds: int = 10,
    progress: Progress | None = None,
) -> ProfileOutcome:
    """Counts and times one detector; weights that are not there are drawn, never downloaded.

    The words are those of `detdistill.profile`; `rounds` is how many times detection is timed.
    """
    watcher = progress or Silence()
    detector = _open(model, classes, watcher).to(available_device())
    height, width = size or (224, 224)
    return profiled(model, detector, height=height, width=width, rounds=rounds)


def profiled(model: str, detector: Detector, *, height: int, width: int, rounds: int) -> ProfileOutcome:
    """Counts and times a detector where it is.

    Raises:
        CapabilityError: it says boxes alone.
    """
    if detector.spec.pyramid is None:
        raise CapabilityError(
            f"A detector to count and time must be a model whose layers are known, got {model}, which says boxes "
            "alone. Name a model, or a run."
        )
    return ProfileOutcome(
        model,
        classes=len(detector.spec.class_names),
        height=height,
        width=width,
        complexity=complexity(detector, height=height, width=width),
        seconds=seconds_per_image(detector, height=height, width=width, rounds=rounds),
        machine=machine(next(detector.parameters()).device),
    )


def open_model(model: str, class_names: Sequence[str], progress: Progress) -> Detector:
    """A detector by its name, for these classes, or from where it lies; weights are drawn where there are none.

    Raises:
        ConfigError: there is no such detector.
    """
    door, fresh = door_of(model), naming_of(model)
    if _lies(model):
        return door.untrained(model) if door.untrained else open_detector(model, progress=progress).detector
    if fresh is None and model.partition("/")[0] not in FAMILIES:
        raise ConfigError(
            f"The model must be FAMILY/BACKBONE with a family of {', '.join(FAMILIES)}, {kinds_of_source()}, "
            f"got '{model}'. Write for example faster_rcnn/resnet50."
        )
    return build_detector(parse_detector(model), class_names, seed=0)


def _lies(model: str) -> bool:
    """Whether a detector lies somewhere, with classes of its own, and is not built by its name."""
    door = door_of(model)
    if door is HUB:
        return not is_name(model)
    fresh = naming_of(model) is not None and not (door is OWN and taken_apart(model).weights)
    return not fresh and (door is not RUN or Path(model).exists())


def _open(model: str, classes: int | None, progress: Progress) -> Detector:
    if classes is not None and _lies(model):
        raise ConfigError(f"The number of classes must be left out for {model}, got {classes}. It has its own.")
    count = _COCO_CLASSES if classes is None else classes
    if count < 1:
        raise ConfigError(f"The number of classes must be 1 or more, got {count}. Leave it out for COCO's 80.")
    return open_model(model, tuple(f"class {k}" for k in range(count)), progress)
