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
_BLOCK: Final = 2048


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
            self._block = self.generator.random(_BLOCK).tolist()
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

    def sign(self) -> float:
        """1 or -1."""
        return 1.0 if self.chance(0.5) else -1.0

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

    def tint(self, colours: Sequence[Colour], spread: float) -> Colour:
        """A colour close to one of the given ones."""
        return self.near(self.pick(colours), spread)

    def any_colour(self, low: float = 20.0, high: float = 235.0) -> Colour:
        """Any colour whose channels lie in [low, high)."""
        return self.uniform(low, high), self.uniform(low, high), self.uniform(low, high)


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


def whole(colour: Colour) -> tuple[int, int, int]:
    """The colour as a picture holds it."""
    return int(colour[0]), int(colour[1]), int(colour[2])


@cache
def _tiles() -> tuple[Image.Image, ...]:
    """Large textures that every scene cuts its own piece from: grain, blotches, both."""
    generator = np.random.default_rng(20240607)

    def noise(cells: int) -> NDArray[np.float32]:
        coarse = Image.fromarray(generator.random((cells, cells), dtype=np.float32))
        return np.asarray(coarse.resize((_TILE, _TILE), Image.Resampling.BICUBIC), dtype=np.float32)

    fine, middle, broad = noise(_TILE // 2), noise(_TILE // 10), noise(_TILE // 48)
    mixes = (
        232 + 23 * fine,
        212 + 16 * fine + 29 * middle,
        203 + 18 * fine + 16 * middle + 20 * broad,
        210 + 15 * middle + 32 * broad,
    )
    return tuple(Image.fromarray(np.clip(m, 0, 255).astype(np.uint8)).convert("RGB") for m in mixes)


def textured(dice: Dice, picture: Image.Image) -> Image.Image:
    """The picture, darkened by a piece of texture."""
    width, height = picture.size
    tile = dice.pick(_tiles())
    if width > _TILE or height > _TILE:
        tile = tile.resize((max(width, _TILE), max(height, _TILE)), Image.Resampling.BILINEAR)
    left, top = dice.integer(0, tile.width - width), dice.integer(0, tile.height - height)
    return ImageChops.multiply(picture, tile.crop((left, top, left + width, top + height)))


def sky(dice: Dice, width: int, height: int, *, colours: tuple[Colour, Colour], clouds: float) -> Image.Image:
    """A sky of width x height canvas pixels from the upper colour to the lower, a share of `clouds` overcast."""
    small = (max(2, width // 4), max(2, height // 4))
    ramp = np.linspace(0.0, 1.0, small[1], dtype=np.float32)[:, None]
    top, bottom = (np.asarray(colour, dtype=np.float32) for colour in colours)
    column = top * (1 - ramp) + bottom * ramp
    picture = Image.fromarray(np.clip(column, 0, 255).astype(np.uint8)[:, None, :])
    picture = picture.resize(small, Image.Resampling.NEAREST)
    if clouds > 0:
        cover = dice.generator.random((5, 7), dtype=np.float32)
        mask = np.clip((cover - 1 + clouds) * 400, 0, 190).astype(np.uint8)
        shape = Image.fromarray(mask).resize(small, Image.Resampling.BICUBIC)
        picture.paste(whole(mix(colours[1], (255.0, 255.0, 255.0), 0.45)), (0, 0), shape)
    return picture.resize((width, height), Image.Resampling.BILINEAR)


def skyline(dice: Dice, picture: Image.Image, horizon: float, colour: Colour) -> None:
    """Draws distant roofs or hills just above the horizon."""
    pen = ImageDraw.Draw(picture)
    x, unit = 0.0, picture.width / 20
    hills = dice.chance(0.4)
    while x < picture.width:
        step, rise = dice.uniform(0.5, 2.5) * unit, dice.uniform(0.2, 1.6) * unit
        if hills:
            pen.ellipse([(x - step, horizon - rise), (x + 2 * step, horizon + rise)], fill=whole(colour))
        else:
            pen.rectangle([(x, horizon - rise), (x + step, horizon + 2)], fill=whole(colour))
        x += step


@cache
def _normal() -> NDArray[np.float32]:
    return np.random.default_rng(20240608).standard_normal(_TILE * _TILE, dtype=np.float32)


def _noise(dice: Dice, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Normal noise; a piece of a stored field where that is large enough, as drawing it anew takes long."""
    count, field = math.prod(shape), _normal()
    if count > field.size // 2:
        return dice.generator.standard_normal(shape, dtype=np.float32)
    start = dice.integer(0, field.size - count)
    return field[start : start + count].reshape(shape)


def develop(dice: Dice, picture: Image.Image, *, grain: float, blur: float, exposure: float) -> Image.Image:
    """Turns the finished drawing into a photograph: defocus, exposure, contrast, sensor noise.

    Args:
        dice: chance.
        picture: at its final size.
        grain: standard deviation of the noise, in 8-bit steps.
        blur: radius in pixels; 0 for a sharp picture.
        exposure: factor on brightness.
    """
    if blur > 0:
        picture = picture.filter(ImageFilter.GaussianBlur(blur))
    values = np.asarray(picture, dtype=np.float32)
    noise = _noise(dice, values.shape)
    contrast = dice.uniform(0.85, 1.15)
    offset = 110.0 * exposure * (1 - contrast) + dice.uniform(-6, 6)
    values = values * np.float32(exposure * contrast) + np.float32(offset) + noise * np.float32(grain)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
