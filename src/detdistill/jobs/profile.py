"""Tells what a detector costs: parameters, multiply-adds, time an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detdistill.bench.machine import machine
from detdistill.detectors.base import Detector
from detdistill.detectors.catalogue import FAMILIES, build_detector, parse_detector
from detdistill.detectors.complexity import Complexity, complexity, seconds_per_image
from detdistill.detectors.torchvision_teachers import PREFIX, untrained_torchvision
from detdistill.errors import ConfigError
from detdistill.jobs.opening import available_device, open_detector
from detdistill.progress import Progress, Silence

DEFAULT_SIZE = (224, 224)
_COCO_CLASSES = 80


@dataclass(frozen=True, slots=True)
class ProfileOutcome:
    """What a detector costs.

    Attributes:
        model: what was asked for.
        classes: how many it knows.
        height: of the image in pixels.
        width: of the image in pixels.
        complexity: parameters and multiply-adds.
        seconds: median time of one image.
        machine: what the time was taken on.
    """

    model: str
    classes: int
    height: int
    width: int
    complexity: Complexity
    seconds: float
    machine: Mapping[str, str | int]

    def table(self) -> list[str]:
        """One line a figure."""
        found = self.complexity
        second = "" if found.proposals is None else f" ({found.proposals} proposals)"
        rows = [
            ("parameters", f"{found.parameters / 1e6:.2f} M"),
            ("  trainable", f"{found.trainable / 1e6:.2f} M"),
            ("multiply-adds", f"{found.total_macs / 1e9:.2f} G (papers often print these as GFLOPs)"),
            *((f"  {part}", f"{macs / 1e9:.2f} G") for part, macs in found.macs.items()),
            ("time per image", f"{1000 * self.seconds:.1f} ms ({self.machine['device']}, {self._threads()})"),
        ]
        rows = [(name, f"{value}{second}" if name == "  second stage" else value) for name, value in rows]
        width = max(len(name) for name, _ in rows)
        title = f"{self.model}: {self.classes} classes, {self.height} x {self.width} pixels"
        return [title, *(f"  {name:<{width}}  {value}" for name, value in rows)]

    def _threads(self) -> str:
        count = self.machine["threads"]
        return f"{count} thread{'' if count == 1 else 's'}"

    def as_dict(self) -> Mapping[str, Any]:
        """All figures."""
        found = asdict(self.complexity)
        return {
            "model": self.model,
            "classes": self.classes,
            "height": self.height,
            "width": self.width,
            **found,
            "total_macs": self.complexity.total_macs,
            "flops": 2 * self.complexity.total_macs,
            "seconds_per_image": self.seconds,
            "machine": dict(self.machine),
        }


def profile_job(
    model: str,
    *,
    size: tuple[int, int] | None = None,
    classes: int | None = None,
    rounds: int = 10,
    progress: Progress | None = None,
) -> ProfileOutcome:
    """Counts and times one detector; weights that are not there are drawn, never downloaded.

    Args:
        model: as in `detdistill.profile`, like `size` and `classes`.
        size: None for 224 x 224.
        classes: None for COCO's 80.
        rounds: how many times detection is timed.
        progress: told the load report.

    Raises:
        ConfigError: there is no such detector, or a number cannot be used.
    """
    watcher = progress or Silence()
    detector = _open(model, classes, watcher).to(available_device())
    height, width = DEFAULT_SIZE if size is None else size
    found = complexity(detector, height=height, width=width)
    seconds = seconds_per_image(detector, height=height, width=width, rounds=rounds)
    device = next(detector.parameters()).device
    return ProfileOutcome(
        model=model,
        classes=len(detector.spec.class_names),
        height=height,
        width=width,
        complexity=found,
        seconds=seconds,
        machine=machine(device),
    )


def _open(model: str, classes: int | None, progress: Progress) -> Detector:
    there = Path(model).exists()
    if classes is not None and (there or model.startswith(PREFIX)):
        raise ConfigError(f"The number of classes must be left out for {model}, got {classes}. It has its own.")
    if model.startswith(PREFIX):
        return untrained_torchvision(model)
    if there:
        return open_detector(model, progress=progress).detector
    if model.partition("/")[0] not in FAMILIES:
        raise ConfigError(
            f"The model must be FAMILY/BACKBONE with a family of {', '.join(FAMILIES)}, a run folder, or "
            f"{PREFIX}NAME, got '{model}'. Write for example faster_rcnn/resnet50."
        )
    count = _COCO_CLASSES if classes is None else classes
    if count < 1:
        raise ConfigError(f"The number of classes must be 1 or more, got {count}. Leave it out for COCO's 80.")
    return build_detector(parse_detector(model), tuple(f"class {k}" for k in range(count)), seed=0)
