"""What is to become of an image as stored: the size at which both models see it, and augmentation as drawn.

Nothing here reads a global random state: `draw_augmentation` turns a generator into plain numbers, and
`resizing.transform_sample` applies them to pixels and boxes alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchvision.ops import box_iou

from detdistill.errors import ConfigError
from detdistill.settings.bounds import Share, Side, Within
from detdistill.types import Targets

# What `colour` = 1 means: factors within 1 ± 0.4, hue within ± 0.05 of the colour circle.
COLOUR_RANGE = 0.4
HUE_RANGE = 0.05

# What a blur's standard deviation is drawn from, in shares of the short side of the image that is seen.
BLUR_RANGE = (0.001, 0.008)

# What the best overlap of a window and an object must be at least, drawn evenly, and how often a window is tried.
CROP_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
MOST_WINDOWS = 40

Scale = Annotated[float, Within(0.01, 100)]
Window = tuple[int, int, int, int]
"""Top, left, height and width in pixels."""

# Boxes that end up narrower or lower than this are no objects any more.
SMALLEST_BOX_PX = 1.0


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """How large the models see an image: one resize and one padding.

    Attributes:
        short_side: pixels to which the short side is resized (up or down), keeping the ratio.
        long_side: most pixels of the long side: where the resize made it longer, it gets this length instead.
        pad_multiple: a batch is padded at the bottom and right to a multiple of this many pixels.
    """

    short_side: Side
    long_side: Side
    pad_multiple: Annotated[int, Within(1, 1024)] = 32

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
        flip_vertical: probability of a flip upside down, for pictures without an up, as of cells or from the air.
        crop: probability that an image is cut to a window around some of its objects and enlarged to fit its nominal
            size. Objects whose centre lies outside are dropped; the others are clipped.
        crop_smallest: least height and width of that window, as shares of the image's.
        grey: probability that an image loses its colours.
        blur: probability of a Gaussian blur, its standard deviation drawn from 0.1 % to 0.8 % of the short side.
    """

    flip: Share = 0.5
    colour: Share = 0.0
    scale_jitter: tuple[Scale, Scale] = (1.0, 1.0)
    short_sides: tuple[Side, Side] | None = None
    flip_vertical: Share = 0.0
    crop: Share = 0.0
    crop_smallest: Share = 0.3
    grey: Share = 0.0
    blur: Share = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "colour", "flip_vertical", "crop", "grey", "blur"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"augment.{name} must be between 0 and 1, got {value}. Give such a number.")
        if not 0 < self.crop_smallest <= 1:
            raise ConfigError(
                f"augment.crop_smallest must be above 0 and at most 1, got {self.crop_smallest}. Give such a number."
            )
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

    @property
    def resizes_alike(self) -> bool:
        """Whether all samples of an image are of one size, and show all of it."""
        return self.scale_jitter == (1.0, 1.0) and self.short_sides is None and not self.crop


STRENGTHS: Mapping[str, AugmentSettings] = MappingProxyType(
    {
        "none": AugmentSettings(flip=0.0),
        "light": AugmentSettings(),
        "medium": AugmentSettings(colour=0.5, scale_jitter=(0.8, 1.25)),
        "strong": AugmentSettings(colour=1.0, scale_jitter=(0.5, 1.5), crop=0.5, grey=0.1, blur=0.1),
    }
)
"""What a word stands for in the place of an augmentation's numbers, weakest first."""


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
        flip_vertical: whether the image is turned upside down.
        blur: standard deviation as a share of the nominal short side.
        window: top, left, height and width of what is cut out, in pixels of the stored image; None for all of it.
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
    flip_vertical: bool = False
    blur: float = 0.0
    window: Window | None = None

    def at(self, image: ImageSettings, *, drawn_for: ImageSettings) -> Augmentation:
        """The same at another size: all but the short side in pixels is in shares of the image."""
        if self.short_side is None:
            return self
        return replace(self, short_side=max(round(self.short_side * image.short_side / drawn_for.short_side), 1))


def draw_augmentation(
    settings: AugmentSettings,
    generator: torch.Generator,
    *,
    targets: Targets | None = None,
    size: tuple[int, int] = (0, 0),
) -> Augmentation:
    """Draws the parameters of one sample's augmentation.

    Takes thirteen numbers from `generator`, the only source of randomness, and those of a crop after them, so that
    switching one kind of change on or off leaves the draws of all others as they were.

    Args:
        targets: the objects of the stored image, which a crop is drawn around; without any there is none.
        size: height and width in pixels of the stored image.
    """
    scale, crop_y, crop_x, flip, brightness, contrast, saturation, hue, side = torch.rand(
        9, generator=generator, dtype=torch.float64
    ).tolist()
    upside_down, grey, blur, deviation = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    (low, high), sides, reach = settings.scale_jitter, settings.short_sides, settings.colour * COLOUR_RANGE
    least, most = BLUR_RANGE
    window = None
    if settings.crop > 0 and targets is not None:
        window = _draw_window(settings, targets.taught().boxes, size, generator)
    return Augmentation(
        scale=low + (high - low) * scale,
        crop_y=crop_y,
        crop_x=crop_x,
        flip=flip < settings.flip,
        brightness=1 + reach * (2 * brightness - 1),
        contrast=1 + reach * (2 * contrast - 1),
        saturation=0.0 if grey < settings.grey else 1 + reach * (2 * saturation - 1),
        hue=settings.colour * HUE_RANGE * (2 * hue - 1),
        short_side=None if sides is None else sides[0] + int(side * (sides[1] - sides[0] + 1)),
        flip_vertical=upside_down < settings.flip_vertical,
        blur=least + (most - least) * deviation if blur < settings.blur else 0.0,
        window=window,
    )


def draw_crop(height: int, width: int, *, smallest: float, generator: torch.Generator) -> Window:
    """Top, left, height and width in pixels of a crop; both ratios and the position uniform and independent.

    `smallest` is the least share of each side; four numbers are taken from the generator.
    """
    tall, wide, down, right = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    rows = math.ceil(height * (smallest + (1 - smallest) * tall))
    columns = math.ceil(width * (smallest + (1 - smallest) * wide))
    return int(down * (height - rows + 1)), int(right * (width - columns + 1)), rows, columns


def _draw_window(
    settings: AugmentSettings, boxes: Float[Tensor, "n 4"], size: tuple[int, int], generator: torch.Generator
) -> Window | None:
    """A window in which at least one of the boxes has its centre; None for the whole image.

    Source:
        Liu et al., SSD: Single Shot MultiBox Detector, ECCV 2016, section 2.2, as torchvision's `RandomIoUCrop`.

    Differs from the source:
        A window's ratio is held against the image's own, and how often there is none is a setting.
    """
    chance, which = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    if not len(boxes) or chance >= settings.crop:
        return None
    lowest = CROP_OVERLAPS[int(which * len(CROP_OVERLAPS))]
    for _ in range(MOST_WINDOWS):
        window = draw_crop(*size, smallest=settings.crop_smallest, generator=generator)
        top, left, rows, columns = window
        corners = boxes.new_tensor([[left, top, left + columns, top + rows]])
        ratio = (rows * size[1]) / (columns * size[0])
        if not 0.5 <= ratio <= 2 or not bool(centred(boxes, window).any()):
            continue
        if float(box_iou(boxes, corners).max()) >= lowest:
            return window
    return None


def centred(boxes: Float[Tensor, "n 4"], window: Window) -> Bool[Tensor, " n"]:
    """Which boxes have their centre in a window."""
    top, left, rows, columns = window
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).unbind(dim=1)
    return (x > left) & (x < left + columns) & (y > top) & (y < top + rows)
