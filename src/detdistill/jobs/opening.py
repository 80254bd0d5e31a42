"""Opens what a job works with, data and detectors from anywhere, and looks at images with a detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from detdistill.data.annotations import Annotations
from detdistill.data.dataset import DetectionDataset
from detdistill.data.loader import BatchLoader, evaluation_loader, training_loader
from detdistill.data.sources import open_split
from detdistill.data.transforms import AugmentSettings, ImageSettings
from detdistill.detectors.base import Detector
from detdistill.detectors.load_report import ClassComparison, LoadedDetector
from detdistill.detectors.torchvision_teachers import PREFIX, load_torchvision
from detdistill.errors import ConfigError
from detdistill.evaluation.coco import ImageDetections
from detdistill.evaluation.detect import detect_split
from detdistill.jobs.settings import DataSettings, RunConfig
from detdistill.progress import Progress, Silence
from detdistill.store.students import load_detector
from detdistill.training.launch import own_device

LARGEST_SHORT_SIDE, LARGEST_LONG_SIDE = 800, 1333
CLASSES = "classes"


@dataclass(frozen=True, slots=True)
class OpenedSplit:
    """One split of a data set, to look at and to learn from.

    Attributes:
        annotations: boxes and labels of every image.
        image: to what size `batches` brings the images.
    """

    annotations: Annotations
    image: ImageSettings

    def __len__(self) -> int:
        """How many images."""
        return len(self.annotations)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in label order."""
        return self.annotations.class_names

    def batches(
        self,
        batch_size: int = 8,
        *,
        steps: int | None = None,
        seed: int = 0,
        augment: AugmentSettings | None = None,
        workers: int = 0,
    ) -> BatchLoader:
        """Batches to train on, or every image once.

        Args:
            batch_size: images at a time.
            steps: so many batches of shuffled and augmented images; None for every image once, in order, as it is.
            seed: decides order and augmentation of those `steps` batches.
            augment: how their images are varied; None for flips alone.
            workers: processes that read ahead, to the same result.

        Raises:
            ConfigError: a number is out of its range.
            DataError: there are no images, or, while iterating, one cannot be read.
        """
        if steps is None:
            plain = DetectionDataset(self.annotations, image=self.image)
            return evaluation_loader(plain, batch_size=batch_size, workers=workers)
        varied = DetectionDataset(self.annotations, image=self.image, augment=augment or AugmentSettings(), seed=seed)
        return training_loader(varied, batch_size=batch_size, steps=steps, workers=workers)


@dataclass(frozen=True, slots=True)
class OpenedData:
    """Both splits of a run's data, with the same classes, and the size the models see."""

    train: Annotations
    val: Annotations
    image: ImageSettings


def open_data(settings: DataSettings, *, image: Mapping[str, Any] | None, progress: Progress) -> OpenedData:
    """Reads both splits; a run that names no image size takes `image`, its teacher's, where there is one.

    Raises:
        ConfigError: a path or file is missing.
        DataError: a split cannot be used.
    """
    train = read_split(settings.source("train"), "train", progress=progress)
    val = read_split(settings.source("val"), "val", class_names=train.class_names, progress=progress)
    return OpenedData(train=train, val=val, image=settings.image or image_settings(image, train))


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


def image_settings(image: Mapping[str, Any] | None, annotations: Annotations) -> ImageSettings:
    """The image size a checkpoint describes; where there is none the images' own median size, at most 800 x 1333."""
    if image:
        return ImageSettings(**image)
    short, long = (int(np.median(annotations.sizes[:].min(1))), int(np.median(annotations.sizes[:].max(1))))
    scale = min(1.0, LARGEST_SHORT_SIDE / short, LARGEST_LONG_SIDE / long)
    return ImageSettings(short_side=max(1, round(short * scale)), long_side=max(1, round(long * scale)))


def open_detector(source: str, *, allow: Sequence[str] = (), progress: Progress | None = None) -> LoadedDetector:
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
    (progress or Silence()).say(f"{source}: {loaded.report.text()}")
    return loaded


def require_same_classes(
    teacher: LoadedDetector, annotations: Annotations, *, source: str, allow: tuple[str, ...] = ()
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


def detect(
    detector: Detector,
    annotations: Annotations,
    image: ImageSettings,
    *,
    label: str,
    batch_size: int = 8,
    device: torch.device | None = None,
    progress: Progress,
) -> list[ImageDetections]:
    """What a detector finds in the images of a split, at the size that it is to see; it is left on the device.

    Args:
        label: names the stage for `progress`.
        device: where to run; None for CUDA where there is one, else the CPU.

    Raises:
        DataError: an image cannot be read.
        DistillError: the detector's output is not finite.
    """
    where = device or available_device()
    loader = evaluation_loader(DetectionDataset(annotations, image=image), batch_size=batch_size)
    progress.start(label, len(annotations))
    found = detect_split(detector.to(where), loader, device=where, progress=progress.advance)
    progress.finish()
    return found


def available_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(config: RunConfig) -> torch.device:
    """Where this process of the run computes."""
    return own_device(config.train)
