"""Sample-specific augmentation: noise for images of small objects alone, a crop for all others."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from detdistill.data.annotations import Annotations
from detdistill.data.dataset import Stored
from detdistill.data.transforms import SMALLEST_BOX_PX, draw_crop
from detdistill.errors import ConfigError
from detdistill.settings.bounds import Factor, Pixels, Share
from detdistill.types import Targets

# How often a crop that leaves no box is drawn anew before the image stays whole.
MOST_CROPS = 50


@dataclass(frozen=True, slots=True)
class SampleSpecificSettings:
    """What is done to which image.

    Attributes:
        noise_probability: of noise on an image whose boxes are all small.
        noise_sd: standard deviation of that noise, on pixel values in [0, 1].
        smallest_crop: height and width of a crop are at least this share of the image's.
        small_px: a box is small if its area is less than the square of this length, in pixels of the stored image.
    """

    noise_probability: Share = 0.3
    noise_sd: Factor = 0.08
    smallest_crop: Share = 0.8
    small_px: Pixels = 32.0

    def __post_init__(self) -> None:
        for name, value, fits, expected in (
            ("noise_probability", self.noise_probability, 0 <= self.noise_probability <= 1, "between 0 and 1"),
            ("noise_sd", self.noise_sd, 0 <= self.noise_sd < math.inf, "a finite number of at least 0"),
            ("smallest_crop", self.smallest_crop, 0 < self.smallest_crop <= 1, "more than 0 and at most 1"),
            ("small_px", self.small_px, 0 <= self.small_px < math.inf, "a finite number of at least 0"),
        ):
            if not fits:
                raise ConfigError(
                    f"The sample-specific augmentation's {name} must be {expected}, got {value}. Give such a number."
                )


@final
@dataclass(frozen=True, slots=True)
class SampleSpecific:
    """The augmentation of one sample as stored; a recipe's `sample_transform`.

    All boxes small: with a probability the image gets Gaussian noise, its twins do not. At least one box that is
    not small: image, boxes and twins are always cropped. An image without boxes is left alone. Boxes flagged as
    ignored do not decide anything; a crop clips them like the others.

    Source:
        Liang et al., Inconsistent Knowledge Distillation, ACM MM 2023: sample-specific data augmentation.

    Differs from the source:
        It acts before the resize, where the source's one-stage pipelines crop after resize and flip; the twins are
        cropped with the image, where the source crops them at a place of their own.
    """

    settings: SampleSpecificSettings = SampleSpecificSettings()

    def __call__(self, stored: Stored, generator: torch.Generator) -> Stored:
        """The changed sample; the generator is the only source of randomness."""
        boxes, settings = stored.targets.taught().boxes, self.settings
        if not len(boxes):
            return stored
        if not bool((_areas(boxes) < settings.small_px**2).all()):
            return self._cropped(stored, generator)
        if float(torch.rand((), generator=generator, dtype=torch.float64)) >= settings.noise_probability:
            return stored
        return replace(stored, image=noised(stored.image, sd=settings.noise_sd, generator=generator))

    def _cropped(self, stored: Stored, generator: torch.Generator) -> Stored:
        height, width = stored.image.shape[-2:]
        for _ in range(MOST_CROPS):
            crop = draw_crop(height, width, smallest=self.settings.smallest_crop, generator=generator)
            targets = _clipped(stored.targets, crop)
            if len(targets.taught().labels):
                top, left, rows, columns = crop
                window = (slice(None), slice(top, top + rows), slice(left, left + columns))
                twins = {name: twin[window].contiguous() for name, twin in stored.twins.items()}
                found = None if stored.found is None else _clipped(stored.found, crop)
                return Stored(stored.image[window].contiguous(), targets, twins, found)
        return stored


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of a data set's images, each in [0, 1]; images without boxes count among all images.

    Attributes:
        noise_eligible: images whose boxes are all small.
        noised_expected: of these, those that get noise in one epoch, on average.
        cropped: images with a box that is not small.
    """

    noise_eligible: float
    noised_expected: float
    cropped: float


def shares(annotations: Annotations, settings: SampleSpecificSettings) -> Shares:
    """How many images of a data set the augmentation reaches, by the boxes as stored that are not ignored."""
    images = len(annotations)
    image_of = np.repeat(np.arange(images), np.diff(annotations.offsets))
    taught, boxes = ~annotations.ignored, annotations.boxes
    small = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) < settings.small_px**2
    every = np.bincount(image_of[taught], minlength=images)
    large = np.bincount(image_of[taught & ~small], minlength=images)
    whole = max(images, 1)
    eligible = float(((every > 0) & (large == 0)).sum()) / whole
    return Shares(eligible, eligible * settings.noise_probability, cropped=float((large > 0).sum()) / whole)


def noised(image: UInt8[Tensor, "3 h w"], *, sd: float, generator: torch.Generator) -> UInt8[Tensor, "3 h w"]:
    """Gaussian noise on every pixel and channel, clipped to the range and truncated to whole values.

    `sd` is the standard deviation on values in [0, 1].
    """
    noise = torch.randn(image.shape, generator=generator) * sd
    return (image.float().div_(255) + noise).clamp_(0, 1).mul_(255).to(torch.uint8)


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _clipped(targets: Targets, crop: tuple[int, int, int, int]) -> Targets:
    """The objects that are left in a crop, in its pixels."""
    top, left, rows, columns = crop
    boxes = targets.boxes - targets.boxes.new_tensor([left, top, left, top])
    boxes = torch.stack((boxes[:, 0::2].clamp(0, columns), boxes[:, 1::2].clamp(0, rows)), dim=2).flatten(1)
    keep = (boxes[:, 2:] - boxes[:, :2] >= SMALLEST_BOX_PX).all(dim=1)
    return targets.only(keep, boxes=boxes)
