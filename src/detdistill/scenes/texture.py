"""Chance, colours, noise, sky and the developing of the drawn scenes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[float, float, float]
T = TypeVar("T")

_TILE: Final = 1024


class Dice:
    """Cheap random scalars from one numpy generator, which is drawn from in blocks.

    The order of the draws is part of every picture: one more or less, or two exchanged, changes the rest of a scene.
    """

    def __init__(self, seed: Sequence[int]) -> None:
        self.generator = np.random.default_rng(list(seed))
        self._block: list[float] = []

    def random(self) -> float:
        """A number in [0, 1)."""
        if not self._block:
            self._block = self.generator.random(2048).tolist()
        return self._block.pop()

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self.random()

    def log_uniform(self, low: float, high: float) -> float:
        """A number in [low, high) whose logarithm is uniform."""
        return low * math.exp(math.log(high / low) * self.random())

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.random() < probability

    def integer(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int((high - low + 1) * self.random())

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[int(len(options) * self.random())]

    def weighted(self, options: Sequence[tuple[T, float]]) -> T:
        """One of the options, each given with its weight."""
        left = self.random() * sum(weight for _, weight in options)
        for option, weight in options:
            left -= weight
            if left < 0:
                return option
        return options[-1][0]

    def near(self, colour: Colour, spread: float) -> Colour:
        """A colour close to the given one."""
        shift = self.uniform(-spread, spread)
        red, green, blue = (min(255.0, max(0.0, c + shift + self.uniform(-spread, spread) / 2)) for c in colour)
        return red, green, blue

    def tint(self, codes: str, spread: float) -> Colour:
        """A colour close to one of a `palette`."""
        return self.near(self.pick(palette(codes)), spread)

    def any_colour(self, low: float = 20.0, high: float = 235.0) -> Colour:
        """Any colour whose channels lie in [low, high)."""
        return self.uniform(low, high), self.uniform(low, high), self.uniform(low, high)


@cache
def palette(codes: str) -> tuple[Colour, ...]:
    """Colours of six hexadecimal digits each, with spaces between."""
    return tuple((red, green, blue) for red, green, blue in map(bytes.fromhex, codes.split()))


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`share` of the second colour, the rest of the first."""
    red, green, blue = (a * (1.0 - share) + b * share for a, b in zip(first, second, strict=True))
    return red, green, blue


def shade(colour: Colour, factor: float) -> Colour:
    """The colour, darker (factor < 1) or brighter (factor > 1)."""
    return min(255.0, colour[0] * factor), min(255.0, colour[1] * factor), min(255.0, colour[2] * factor)


def _picture(values: NDArray[np.float32]) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


@cache
def _tiles() -> tuple[Image.Image, ...]:
    """Large textures that every scene cuts its own piece from: grain, blotches, both."""
    generator = np.random.default_rng(20240607)
    noises = (
        Image.fromarray(generator.random((n, n), dtype=np.float32)) for n in (_TILE // 2, _TILE // 10, _TILE // 48)
    )
    fine, middle, broad = (np.asarray(noise.resize((_TILE, _TILE), Image.Resampling.BICUBIC)) for noise in noises)
    mixes = ((232, 23, 0, 0), (212, 16, 29, 0), (203, 18, 16, 20), (210, 0, 15, 32))
    return tuple(_picture(base + a * fine + b * middle + c * broad).convert("RGB") for base, a, b, c in mixes)


def textured(dice: Dice, picture: Image.Image) -> Image.Image:
    """The picture, darkened by a piece of texture."""
    (width, height), tile = picture.size, dice.pick(_tiles())
    if max(width, height) > _TILE:
        tile = tile.resize((max(width, _TILE), max(height, _TILE)), Image.Resampling.BILINEAR)
    left, top = dice.integer(0, tile.width - width), dice.integer(0, tile.height - height)
    return ImageChops.multiply(picture, tile.crop((left, top, left + width, top + height)))


def sky(dice: Dice, width: int, height: int, *, colours: tuple[Colour, Colour], clouds: float) -> Image.Image:
    """A sky of width x height canvas pixels from the upper colour to the lower, a share of `clouds` overcast."""
    small = (max(2, width // 4), max(2, height // 4))
    ramp = np.linspace(0.0, 1.0, small[1], dtype=np.float32)[:, None]
    top, bottom = (np.asarray(colour, dtype=np.float32) for colour in colours)
    picture = _picture((top * (1 - ramp) + bottom * ramp)[:, None, :]).resize(small, Image.Resampling.NEAREST)
    if clouds > 0:
        cover = dice.generator.random((5, 7), dtype=np.float32)
        mask = np.clip((cover - 1 + clouds) * 400, 0, 190).astype(np.uint8)
        shape = Image.fromarray(mask).resize(small, Image.Resampling.BICUBIC)
        picture.paste(tuple(map(int, mix(colours[1], (255.0, 255.0, 255.0), 0.45))), (0, 0), shape)
    return picture.resize((width, height), Image.Resampling.BILINEAR)


def skyline(dice: Dice, picture: Image.Image, horizon: float, colour: Colour) -> None:
    """Draws distant roofs or hills just above the horizon."""
    pen, fill, hills = ImageDraw.Draw(picture), tuple(map(int, colour)), dice.chance(0.4)
    x, unit = 0.0, picture.width / 20
    while x < picture.width:
        step, rise = dice.uniform(0.5, 2.5) * unit, dice.uniform(0.2, 1.6) * unit
        if hills:
            pen.ellipse([(x - step, horizon - rise), (x + 2 * step, horizon + rise)], fill=fill)
        else:
            pen.rectangle([(x, horizon - rise), (x + step, horizon + 2)], fill=fill)
        x += step


@cache
def _noise() -> NDArray[np.float32]:
    return np.random.default_rng(20240608).standard_normal(_TILE * _TILE, dtype=np.float32)


def develop(dice: Dice, picture: Image.Image, *, grain: float, blur: float, exposure: float) -> Image.Image:
    """Turns the finished drawing into a photograph: defocus, exposure, contrast, sensor noise.

    `grain` is the standard deviation of the noise in 8-bit steps, `blur` a radius in pixels, 0 for a sharp picture.
    """
    values = np.asarray(picture.filter(ImageFilter.GaussianBlur(blur)) if blur > 0 else picture, dtype=np.float32)
    # A piece of a stored field where that is large enough, as drawing it anew takes long.
    if values.size > _TILE * _TILE // 2:
        noise = dice.generator.standard_normal(values.shape, dtype=np.float32)
    else:
        start = dice.integer(0, _TILE * _TILE - values.size)
        noise = _noise()[start : start + values.size].reshape(values.shape)
    contrast = dice.uniform(0.85, 1.15)
    offset = 110.0 * exposure * (1 - contrast) + dice.uniform(-6, 6)
    return _picture(values * np.float32(exposure * contrast) + np.float32(offset) + noise * np.float32(grain))
