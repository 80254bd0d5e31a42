"""From an image as stored to the image that both models see: one resize, and augmentation as drawn.

Nothing here reads a global random state: `draw_augmentation` turns a generator into plain numbers, and
`transform_sample` applies them to pixels and boxes alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from detdistill.errors import ConfigError
from detdistill.types import Targets

# What `colour` = 1 means: factors within 1 ± 0.4, hue within ± 0.05 of the colour circle.
COLOUR_RANGE = 0.4
HUE_RANGE = 0.05

# RGB to luma and chroma; the chroma rows add up to zero, so that grey has none.
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], dtype=torch.float64)

# Boxes that end up narrower or lower than this are no objects any more.
SMALLEST_BOX_PX = 1.0


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """How large the models see an image: one resize and one padding.

    Attributes:
        short_side: the short side is resized to this many pixels (up or down), keeping the ratio ...
        long_side: ... unless that made the long side longer than this: then the long side gets this length.
        pad_multiple: a batch is padded at the bottom and right to a multiple of this many pixels.
    """

    short_side: int
    long_side: int
    pad_multiple: int = 32

    def __post_init__(self) -> None:
        for name in ("short_side", "pad_multiple"):
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"image.{name} must be at least 1 pixel, got {value}. Give a larger number.")
        if self.long_side < self.short_side:
            raise ConfigError(
                f"image.long_side must be at least image.short_side ({self.short_side}),"
                f" got {self.long_side}. Give a larger number."
            )

    def text(self) -> str:
        """The size in words."""
        return f"short side {self.short_side}, long side at most {self.long_side}"

    def resized(self, height: int, width: int, *, short_side: int | None = None) -> tuple[int, int]:
        """Height and width in pixels of a stored image after the resize, rounded to the nearest pixel and at least 1.

        `short_side` stands in the place of the settings' own; `long_side` bounds it all the same.
        """
        short, long = min(height, width), max(height, width)
        wanted = self.short_side if short_side is None else short_side
        # Exact fractions: in floats, 480 * (320 / 480) can fall below 320.
        new, old = (wanted, short) if long * wanted <= self.long_side * short else (self.long_side, long)
        return max((2 * height * new + old) // (2 * old), 1), max((2 * width * new + old) // (2 * old), 1)


@dataclass(frozen=True, slots=True)
class AugmentSettings:
    """What training may change about an image.

    Attributes:
        flip: probability of a horizontal flip.
        colour: strength of brightness, contrast, saturation and hue changes, 0 (none) to 1.
        scale_jitter: range that a factor on the image's size is drawn from. An image that gets larger than
            its nominal size is cropped at random to it, one that gets smaller stays smaller, so the padded grid
            never grows beyond what the resize alone would need.
        short_sides: lowest and highest whole number of pixels that the nominal short side is drawn from, in the place
            of `ImageSettings.short_side`, whose ratio and `long_side` stay: training at several scales as detectors'
            papers have it. None for the one nominal size.
    """

    flip: float = 0.5
    colour: float = 0.0
    scale_jitter: tuple[float, float] = (1.0, 1.0)
    short_sides: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("flip", "colour"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"augment.{name} must be between 0 and 1, got {value}. Give such a number.")
        low, high = self.scale_jitter
        if not 0 < low <= high < math.inf:
            raise ConfigError(
                f"augment.scale_jitter must be two factors with 0 < low <= high, got {low}, {high}."
                " Give for example [0.8,1.25]."
            )
        if self.short_sides is not None and not 1 <= self.short_sides[0] <= self.short_sides[1]:
            raise ConfigError(
                f"augment.short_sides must be two whole numbers of pixels with 1 <= low <= high, got"
                f" {self.short_sides[0]}, {self.short_sides[1]}. Give for example [480,800]."
            )


@dataclass(frozen=True, slots=True)
class Augmentation:
    """The drawn parameters of one sample's augmentation; the defaults change nothing.

    Attributes:
        scale: factor on the nominal size.
        crop_y: where the crop lies between the top (0) and the bottom (1), where there is one; crop_x alike.
        brightness: factor on the pixel values.
        contrast: factor on the distance to the image's mean grey.
        saturation: factor on the distance to each pixel's grey.
        hue: turn of the colours around grey (luma stays), in full turns.
        short_side: the short side of the nominal size in pixels; None for that of `ImageSettings`.
    """

    scale: float = 1.0
    crop_y: float = 0.0
    crop_x: float = 0.0
    flip: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    short_side: int | None = None

    def at(self, image: ImageSettings, *, drawn_for: ImageSettings) -> Augmentation:
        """The same at another size: all but the short side in pixels is in shares of the image."""
        if self.short_side is None:
            return self
        return replace(self, short_side=max(round(self.short_side * image.short_side / drawn_for.short_side), 1))


def draw_augmentation(settings: AugmentSettings, generator: torch.Generator) -> Augmentation:
    """Draws the parameters of one sample's augmentation.

    Always takes nine numbers from `generator`, the only source of randomness, so that switching one kind of change on
    or off leaves the draws of all others as they were.
    """
    scale, crop_y, crop_x, flip, brightness, contrast, saturation, hue, side = torch.rand(
        9, generator=generator, dtype=torch.float64
    ).tolist()
    (low, high), sides, reach = settings.scale_jitter, settings.short_sides, settings.colour * COLOUR_RANGE
    return Augmentation(
        scale=low + (high - low) * scale,
        crop_y=crop_y,
        crop_x=crop_x,
        flip=flip < settings.flip,
        brightness=1 + reach * (2 * brightness - 1),
        contrast=1 + reach * (2 * contrast - 1),
        saturation=1 + reach * (2 * saturation - 1),
        hue=settings.colour * HUE_RANGE * (2 * hue - 1),
        short_side=None if sides is None else sides[0] + int(side * (sides[1] - sides[0] + 1)),
    )


def _recolour(image: UInt8[Tensor, "3 h w"], drawn: Augmentation) -> UInt8[Tensor, "3 h w"]:
    if (drawn.brightness, drawn.contrast, drawn.saturation, drawn.hue) == (1, 1, 1, 0):
        return image
    # All four changes are linear in a pixel's colour, the hue as a turn in the chroma plane, so they are one
    # matrix and one offset: several times as fast as one after the other, and nothing is cut off in between.
    angle = 2 * math.pi * drawn.hue
    cosine, sine = drawn.saturation * math.cos(angle), drawn.saturation * math.sin(angle)
    turn = torch.tensor([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]], dtype=torch.float64)
    matrix = drawn.brightness * drawn.contrast * (_TO_YIQ.inverse() @ turn @ _TO_YIQ)
    mean = image.sum(dim=(1, 2), dtype=torch.int64) / image[0].numel()
    offset = drawn.brightness * (1 - drawn.contrast) * float(_TO_YIQ[0] @ mean.to(torch.float64))
    pixels = matrix.to(torch.float32) @ image.flatten(1).to(torch.float32)
    return pixels.add_(offset).round_().clamp_(0, 255).to(torch.uint8).reshape(image.shape)


def transform_sample(
    image: UInt8[Tensor, "3 h w"], targets: Targets, *, settings: ImageSettings, drawn: Augmentation | None = None
) -> tuple[UInt8[Tensor, "3 _h _w"], Targets]:
    """Resizes and augments an image and its boxes: resize (with jitter), crop, flip, colour, in this order.

    Boxes are clipped to the image; those that end up narrower or lower than one pixel are dropped, flagged
    or not. Without parameters `drawn` by `draw_augmentation` this is the evaluation view, which only resizes.

    Returns:
        The image (not padded) and its targets, in pixels of that image. Resizing alone scales each axis by
        new size / stored size exactly, so detections map back by the inverse.
    """
    drawn = drawn or Augmentation()
    height, width = image.shape[-2:]
    boxes = tv_tensors.BoundingBoxes(targets.boxes, format="XYXY", canvas_size=(height, width))
    nominal = settings.resized(height, width, short_side=drawn.short_side)
    size = [max(round(side * drawn.scale), 1) for side in nominal]
    image = F.resize(image, size, interpolation=v2.InterpolationMode.BILINEAR, antialias=True)
    boxes = F.resize(boxes, size)
    crop = [min(side, limit) for side, limit in zip(size, nominal, strict=True)]
    if crop != size:
        top = int(drawn.crop_y * (size[0] - crop[0] + 1))
        left = int(drawn.crop_x * (size[1] - crop[1] + 1))
        image, boxes = F.crop(image, top, left, *crop), F.crop(boxes, top, left, *crop)
    if drawn.flip:
        image, boxes = F.horizontal_flip(image), F.horizontal_flip(boxes)
    image = _recolour(image.contiguous(), drawn)
    clipped: Tensor = F.clamp_bounding_boxes(boxes).as_subclass(Tensor)
    keep = (clipped[:, 2:] - clipped[:, :2] >= SMALLEST_BOX_PX).all(dim=1)
    return image, Targets(boxes=clipped[keep], labels=targets.labels[keep], ignored=targets.ignored[keep])
