"""From a batch's pixels to what a backbone reads: normalised, with nothing in the padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import timm
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from detdistill.detectors.settings import DetectorSettings, PyramidSettings, check_backbone
from detdistill.errors import CapabilityError, typed
from detdistill.types import Batch, sent

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_OURS = "bilinear"

Settings = TypeVar("Settings", bound=DetectorSettings)
Channels = tuple[float, float, float]

USUAL_PIXELS: Mapping[str, tuple[Channels, Channels]] = {
    "ImageNet's mean and std": (IMAGENET_MEAN, IMAGENET_STD),
    "mean and std 0.5": ((0.5,) * 3, (0.5,) * 3),
    "pixels as they are, from 0 to 1": ((0.0,) * 3, (1.0,) * 3),
    "pixels from 0 to 255 without ImageNet's mean": (IMAGENET_MEAN, (1 / 255,) * 3),
    "pixels from 0 to 255 as they are": ((0.0,) * 3, (1 / 255,) * 3),
}
"""Mean and std, of pixels in [0, 1], that detectors elsewhere are trained with."""


def pixel_statistics(settings: DetectorSettings) -> tuple[Channels, Channels]:
    """Mean and std of a detector's pixels: as set, else timm's for its pretrained weights, else ImageNet's.

    Raises:
        ConfigError: timm does not know the backbone of the pretrained weights.
    """
    own = (IMAGENET_MEAN, IMAGENET_STD)
    if isinstance(settings, PyramidSettings) and settings.pretrained:
        check_backbone(settings.backbone)
        weights = _weights(settings.backbone)
        own = (tuple(weights.mean), tuple(weights.std))
    return settings.mean or own[0], settings.std or own[1]


def with_pixel_statistics(settings: Settings) -> Settings:
    """The settings with mean and std written out, so that they stand alone, unless those are their own code's."""
    if not settings.says_pixels:
        return settings
    mean, std = pixel_statistics(settings)
    return replace(settings, mean=mean, std=std)


def pixel_notes(settings: DetectorSettings) -> list[str]:
    """What a run says of its pixels: mean and std and where they are from, and how the weights' images were resized.

    Nothing for random weights whose mean and std nobody set.
    """
    weighted = isinstance(settings, PyramidSettings) and bool(settings.pretrained)
    if not weighted and settings.mean is None and settings.std is None:
        return []
    mean, std = pixel_statistics(settings)
    set_here = [key for key in ("mean", "std") if getattr(settings, key) is not None]
    said = f"{settings.name}: pixels normalised by {shown_pixels(mean, std)}"
    if not isinstance(settings, PyramidSettings) or not settings.pretrained:
        return [f"{said} ({' and '.join(set_here)} as set)"]
    weights = _weights(settings.backbone)
    named = f"{weights.architecture}.{weights.tag}" if weights.tag else str(weights.architecture)
    origin = f"timm's for the weights {named}"
    if set_here:
        origin = f"{' and '.join(set_here)} as set; {origin}: {_shown(weights.mean)} and {_shown(weights.std)}"
    notes = [f"{said} ({origin})"]
    untagged = isinstance(settings.pretrained, str) and "." not in settings.backbone
    if untagged and not set_here and (others := _others(named)):
        notes.append(
            f"other weights of {weights.architecture} want other numbers: if {settings.pretrained} holds one of "
            f"{', '.join(others)}, write that as the backbone, or set student.mean and student.std"
        )
    if weights.interpolation != _OURS:
        notes.append(
            f"timm's weights {named} were trained on images resized by {weights.interpolation} interpolation; "
            f"here it is {_OURS}"
        )
    return notes


def _weights(name: str) -> Any:
    """What timm says of published weights, or of a model's default ones; it says so of every model."""
    return timm.get_pretrained_cfg(name)


def _others(named: str) -> list[str]:
    """The weights of the same model that want another mean or std."""
    own = _weights(named)
    tags = (one for one in timm.list_pretrained(f"{own.architecture}.*") if one != named)
    return [tag for tag in tags if (one := _weights(tag)).mean != own.mean or one.std != own.std]


def shown_pixels(mean: Sequence[float], std: Sequence[float]) -> str:
    """Both in words."""
    return f"mean {_shown(mean)} and std {_shown(std)}"


def _shown(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def outside_image(batch: Batch) -> Bool[Tensor, "b 1 h w"] | None:
    """True at the padding pixels of each image; None where no image is padded."""
    height, width = batch.images.shape[-2:]
    if all(size == (height, width) for size in batch.sizes):
        return None
    return beyond(sent(torch.tensor(batch.sizes), batch.images.device), height, width)


def beyond(sizes: Int64[Tensor, "b 2"], height: int, width: int) -> Bool[Tensor, "b 1 h w"]:
    """True at the pixels of a grid outside images of such height and width in pixels."""
    edges = sizes.view(-1, 2, 1, 1)
    below = torch.arange(height, device=sizes.device).view(1, height, 1) >= edges[:, 0]
    right = torch.arange(width, device=sizes.device).view(1, 1, width) >= edges[:, 1]
    return (below | right).unsqueeze(1)


class Normaliser(nn.Module):
    """A batch's pixels as a model reads them: (images − mean) / std per channel, then zero in the padding.

    Holds no weights.

    Attributes:
        given: whether somebody gave it other numbers than the model came with.
        passes: whether images are taken as they are, as somebody normalised them.
    """

    mean: Tensor
    std: Tensor
    given: bool = False
    passes: bool = False

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(tuple(values)).view(3, 1, 1), persistent=False)

    @classmethod
    def of(cls, settings: DetectorSettings) -> Normaliser:
        """The one that a detector's settings ask for."""
        return cls(*pixel_statistics(settings))

    def numbers(self) -> tuple[Channels, Channels]:
        """Mean and std, of pixels in [0, 1]."""
        mean, std = (tuple(float(value) for value in one.flatten().tolist()) for one in (self.mean, self.std))
        return mean, std  # type: ignore[return-value]

    def take(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Changes both."""
        for kept, values in ((self.mean, mean), (self.std, std)):
            kept.copy_(torch.tensor(tuple(values)).view(3, 1, 1))

    def forward(self, batch: Batch) -> Float[Tensor, "b 3 h w"]:
        """Normalised images, channels last in memory: convolutions are faster so, on CPUs and on GPUs.

        Gradients flow to the pixels inside.
        """
        if self.passes:
            return batch.images
        images = ((batch.images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        outside = outside_image(batch)
        return images if outside is None else images.masked_fill(outside, 0.0)


def normaliser_of(detector: nn.Module) -> Normaliser | None:
    """The part of a detector that normalises its pixels; None where it does so in another way."""
    return next((part for part in detector.modules() if isinstance(part, Normaliser)), None)


def set_pixels(detector: nn.Module, *, mean: Channels | None, std: Channels | None, source: str) -> None:
    """Gives a detector other numbers to normalise pixels by; None leaves one as it is.

    Raises:
        CapabilityError: it normalises them in a way of its own.
    """
    if mean is None and std is None:
        return
    part = normaliser_of(detector)
    if part is None:
        raise CapabilityError(
            f"teacher.mean and teacher.std must be left out for {source}, which normalises pixels in a way of its own, "
            f"got {typed(mean or std or ())}. Set both to null."
        )
    own = part.numbers()
    part.take(mean or own[0], std or own[1])
    part.given = True


@contextmanager
def normalised_by(part: Normaliser, mean: Channels, std: Channels) -> Iterator[None]:
    """Other numbers within."""
    own = part.numbers()
    part.take(mean, std)
    try:
        yield
    finally:
        part.take(*own)
