"""Opens what a job works with: data splits, detectors from anywhere, the image size they agree on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from detdistill.data.annotations import Annotations
from detdistill.data.dataset import DetectionDataset
from detdistill.data.loader import evaluation_loader
from detdistill.data.sources import open_split
from detdistill.data.transforms import ImageSettings
from detdistill.detectors.base import Detector
from detdistill.detectors.load_report import ClassComparison
from detdistill.detectors.saved import LoadedDetector, load_detector
from detdistill.detectors.torchvision_teachers import PREFIX, load_torchvision
from detdistill.errors import ConfigError
from detdistill.evaluation.coco import Backend, CocoMetrics, ImageDetections, evaluate_coco
from detdistill.evaluation.detect import detect_split
from detdistill.jobs.settings import DataSettings
from detdistill.progress import Progress

LARGEST_SHORT_SIDE, LARGEST_LONG_SIDE = 800, 1333
CLASSES = "classes"


@dataclass(frozen=True, slots=True)
class OpenedData:
    """Both splits of a run's data, with the same classes, and the size the models see."""

    train: Annotations
    val: Annotations
    image: ImageSettings


@dataclass(frozen=True, slots=True)
class Measured:
    """What a detector found in a split, and how good that is."""

    metrics: CocoMetrics
    found: list[ImageDetections]


def open_data(settings: DataSettings, *, image: Mapping[str, Any] | None, progress: Progress) -> OpenedData:
    """Reads both splits and tells what was repaired or skipped in them.

    Args:
        settings: where the splits are.
        image: the teacher's image settings, taken where the run names none; None without a teacher.
        progress: told about problems.

    Raises:
        ConfigError: a path or file is missing.
        DataError: a split cannot be used.
    """
    train = read_split(settings.source("train"), "train", progress=progress)
    val = read_split(settings.source("val"), "val", class_names=train.class_names, progress=progress)
    chosen = settings.image
    if chosen is None:
        chosen = ImageSettings(**image) if image else default_image(train)
    return OpenedData(train=train, val=val, image=chosen)


def read_split(
    data: Path,
    split: Literal["train", "val"],
    *,
    class_names: tuple[str, ...] | None = None,
    exact: bool = False,
    progress: Progress,
) -> Annotations:
    """Reads one split and tells what was repaired or skipped in it; see `open_split` for the arguments."""
    annotations, problems = open_split(data, split, class_names=class_names, exact=exact, say=progress.say)
    for line in problems.summary():
        progress.say(f"{split} data: {line}")
    return annotations


def default_image(annotations: Annotations) -> ImageSettings:
    """The images' own median size, at most 800 x 1333 pixels."""
    short, long = (int(np.median(annotations.sizes[:].min(1))), int(np.median(annotations.sizes[:].max(1))))
    scale = min(1.0, LARGEST_SHORT_SIDE / short, LARGEST_LONG_SIDE / long)
    return ImageSettings(short_side=max(1, round(short * scale)), long_side=max(1, round(long * scale)))


def image_of(loaded: LoadedDetector, annotations: Annotations) -> ImageSettings:
    """The image size a detector was trained on, or the data's own where it does not say."""
    return ImageSettings(**loaded.image) if loaded.image else default_image(annotations)


def open_detector(source: str, *, allow: tuple[str, ...] = (), progress: Progress) -> LoadedDetector:
    """A detector from a run, a checkpoint or torchvision, with its load report told.

    Args:
        source: a path, or ``"torchvision:NAME[=FILE]"``.
        allow: beginnings of tensor names that may be missing or left over.
        progress: told the load report.

    Raises:
        ConfigError: there is no such detector, or not every tensor matched and that was not allowed.
    """
    names = frozenset(allow) - {CLASSES}
    loaded = load_torchvision(source) if source.startswith(PREFIX) else load_detector(Path(source), allow=names)
    progress.say(f"{source}: {loaded.report.text()}")
    return loaded


def require_same_classes(
    teacher: LoadedDetector, annotations: Annotations, *, source: str, allow: tuple[str, ...]
) -> bool:
    """Checks that the teacher knows the data's classes by the same numbers.

    Returns:
        Whether they are equal; False where they differ and ``classes`` is allowed by name.

    Raises:
        ConfigError: they differ.
    """
    comparison = ClassComparison(student=annotations.class_names, teacher=teacher.class_names)
    if comparison.equal:
        return True
    if CLASSES in allow:
        return False
    raise ConfigError(
        f"The teacher {source} must have the data's classes in the same order, got others ({comparison.text()}). "
        "Train a teacher on this data, or set teacher.allow=[classes] for a method that compares features alone."
    )


def measure(
    detector: Detector,
    annotations: Annotations,
    image: ImageSettings,
    *,
    what: str,
    backend: Backend,
    batch_size: int,
    device: torch.device,
    progress: Progress,
) -> Measured:
    """Runs a detector over a split and computes COCO's figures.

    Args:
        detector: left on `device`.
        annotations: the split; its classes are the detector's.
        image: the size the detector sees.
        what: names the stage for `progress`.
        backend: computes the figures.
        batch_size: images at a time.
        device: where to run.
        progress: told how far it is.

    Raises:
        DataError: an image cannot be read.
        DistillError: the detector's output is not finite.
    """
    found = detect(detector, annotations, image, what=what, batch_size=batch_size, device=device, progress=progress)
    return Measured(metrics=evaluate_coco(annotations, found, backend=backend), found=found)


def detect(
    detector: Detector,
    annotations: Annotations,
    image: ImageSettings,
    *,
    what: str,
    batch_size: int,
    device: torch.device,
    progress: Progress,
) -> list[ImageDetections]:
    """What a detector finds in the images of a split; the arguments and errors are those of `measure`."""
    loader = evaluation_loader(DetectionDataset(annotations, image=image), batch_size=batch_size)
    progress.start(f"evaluate {what}", len(annotations))
    found = detect_split(detector.to(device), loader, device=device, progress=progress.advance)
    progress.finish()
    return found


def available_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def image_dict(image: ImageSettings) -> dict[str, Any]:
    """Image settings as a checkpoint describes them."""
    return asdict(image)
