"""Teachers that need no training: they find the bright rectangles of `coco_by_hand` by their colour."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detdistill.data.dataset import DetectionDataset
from detdistill.data.loader import evaluation_loader
from detdistill.data.transforms import ImageSettings
from detdistill.detectors.base import Detector
from detdistill.detectors.load_report import LoadedDetector
from detdistill.detectors.preprocess import IMAGENET_MEAN, IMAGENET_STD, normaliser_of
from detdistill.jobs.opening import read_split
from detdistill.progress import Silence
from detdistill.store.students import load_detector
from detdistill.types import Batch, Detections

SIZE = {"short_side": 64, "long_side": 96}


@dataclass(frozen=True)
class Eyes:
    """How a teacher sees that needs no training: bright rectangles by their colour.

    Attributes:
        scale: of the pixels, red to blue from 0 to `scale`, that it was "trained" on.
        height: of the images that it finds anything in; None for any.
        swapped: whether it calls squares bars.
        every: it finds something in one image of so many.
    """

    scale: float = 1.0
    height: int | None = None
    swapped: bool = False
    every: int = 1

    def detect(self, detector: Detector, batch: Batch) -> tuple[Detections, ...]:
        part = normaliser_of(detector)
        assert part is not None
        mean, std = (torch.tensor(one).view(3, 1, 1) for one in (IMAGENET_MEAN, IMAGENET_STD))
        plain = self.scale == 1.0
        pixels = part(batch) * std + mean if plain else part(batch) / self.scale + mean
        return tuple(
            self._found(image[:, :height, :width], number)
            for image, number, (height, width) in zip(pixels, batch.image_ids, batch.sizes, strict=True)
        )

    def _found(self, image: torch.Tensor, number: int) -> Detections:
        boxes, labels = [], []
        for label, channel in enumerate((0, 1)):
            rows, columns = torch.nonzero(image[channel] > 0.6, as_tuple=True)
            blind = self.height not in (None, image.shape[1]) or number % self.every
            if len(rows) and not blind:
                ends = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                boxes.append([float(end) for end in ends])
                labels.append(1 - label if self.swapped else label)
        return Detections(
            torch.tensor(boxes).reshape(-1, 4), torch.full((len(boxes),), 0.9), torch.tensor(labels).long()
        )


SEEING = Eyes()


def seeing(
    source: str, *, eyes: Eyes = SEEING, image: Mapping[str, int] = SIZE, allow: Any = (), progress: Any = None
) -> LoadedDetector:
    """In place of `open_detector`: whatever is opened sees so, and was trained at a size."""
    del progress
    loaded = load_detector(Path(source), allow=frozenset(allow) - {"classes"})
    loaded.detector.detect = types.MethodType(eyes.detect, loaded.detector)  # type: ignore[method-assign]
    return replace(loaded, image=dict(image))


def settled(detector: Detector, data: Path) -> Detector:
    """The detector with the running statistics that a training on these images would leave."""
    split = read_split(data, "train", progress=Silence())
    norms = [part for part in detector.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
    detector.train()
    with torch.no_grad():
        for batch in evaluation_loader(DetectionDataset(split, image=ImageSettings(**SIZE)), batch_size=8):
            detector.extract(batch)
    for norm in norms:
        norm.momentum = 0.1
    return detector
