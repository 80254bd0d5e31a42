"""What a timm model is, looked at on the meta device, where nothing is computed: strides, and images that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import timm
import torch

from detdistill.errors import ConfigError

_UNIT = 32
# Models with windows or position embeddings accept other image sizes than their own only when told so.
_FREEING: tuple[dict[str, Any], ...] = ({"strict_img_size": False}, {"dynamic_img_size": True})


@dataclass(frozen=True, slots=True)
class Sides:
    """Which images a backbone takes: height and width are multiples of `multiple` pixels, and at most `longest`."""

    multiple: int = 1
    longest: int | None = None

    def padded(self, height: int, width: int, *, name: str, setting: str | None = None) -> tuple[int, int]:
        """Height and width in pixels to which images are padded for the backbone called `name`.

        Raises:
            ConfigError: it takes no images as large; names what to write below `setting`, where images get their size.
        """
        if self.longest is not None and max(height, width) > self.longest:
            remedy = f"Give it images of at most {self.longest} x {self.longest} pixels."
            if setting is not None:
                long = self.longest // _UNIT * _UNIT
                short = max(1, min(height, width) * long // max(height, width))
                sizes = {"short_side": short, "long_side": long, "pad_multiple": _UNIT}
                remedy = f"Set {' '.join(f'{setting}.{key}={value}' for key, value in sizes.items())}."
            raise ConfigError(
                f"The images of the backbone '{name}' must be at most {self.longest} x {self.longest} pixels, as it "
                f"has a position for each cell, got {height} x {width} with their padding. {remedy}"
            )
        return -(-height // self.multiple) * self.multiple, -(-width // self.multiple) * self.multiple


@dataclass(frozen=True, slots=True)
class Anatomy:
    """A timm model as a feature extractor.

    Attributes:
        arguments: what `timm.create_model` must be told for images of other sizes than the model's own.
        strides: pixels per cell of each of the maps that it gives unless told otherwise, in its order.
        indices: where each of them stands among all of its maps, counted from the last, -1.
        sides: which images it takes; None where its maps fit its strides for none, or no stride is a power of two.
    """

    arguments: Mapping[str, Any]
    strides: tuple[int, ...]
    indices: tuple[int, ...]
    sides: Sides | None


@cache
def anatomy(name: str) -> Anatomy:
    """The anatomy of a model that timm knows; costs some tenths of a second once a process, and no random number."""
    weights: Any = timm.get_pretrained_cfg(name)
    native = int(weights.input_size[-1])
    probe, arguments = _probe(name, fixed=weights.fixed_input_size)
    strides = tuple(probe.feature_info.reduction())
    usable = any(stride.bit_count() == 1 for stride in strides)  # no detector has others
    every = len(probe.feature_info.info)
    indices = tuple(index if index < 0 else index - every for index in probe.feature_info.out_indices)
    return Anatomy(arguments, strides, indices, _sides(probe.eval(), strides, native) if usable else None)


def _probe(name: str, *, fixed: bool) -> tuple[Any, dict[str, Any]]:
    for arguments in _FREEING if fixed else ():
        try:
            with torch.device("meta"):
                return timm.create_model(name, features_only=True, **arguments), arguments
        except TypeError:  # an argument that this model does not have
            continue
    with torch.device("meta"):
        return timm.create_model(name, features_only=True), {}


def _sides(probe: Any, strides: tuple[int, ...], native: int) -> Sides | None:
    """See `Anatomy.sides`."""

    def covers(*sizes: tuple[int, int]) -> bool | None:
        """Whether maps of images of these sizes have the cells that the strides say; None where it takes no such."""
        try:
            return all(_fit(_cells(probe, *size), strides, size) for size in sizes)
        except (AssertionError, RuntimeError, ValueError) as error:
            # It may ask for values of pixels, which only real images have.
            return True if "meta" in str(error) else None

    whole = covers((3 * _UNIT, 5 * _UNIT), (5 * _UNIT, 3 * _UNIT))
    if whole is not None:
        return Sides() if whole else None
    steps = [side for side in range(_UNIT, native + 1, _UNIT) if native % side == 0] or [native]
    for side in steps:
        if covers((side, 2 * side), (2 * side, 3 * side)):
            return Sides(multiple=side)
    return Sides(multiple=native, longest=native) if covers((native, native)) else None


def _cells(probe: Any, height: int, width: int) -> list[tuple[int, ...]]:
    with torch.no_grad():
        maps = probe(torch.empty(2, 3, height, width, device="meta"))
    last = "NHWC" in str(getattr(probe, "output_fmt", ""))
    return [tuple(one.shape[1:3] if last else one.shape[2:]) for one in maps]


def _fit(maps: list[tuple[int, ...]], strides: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether maps have the cells that the strides say, but for one, or for 8 pixels, that rounding takes or adds."""
    sides = zip(maps, strides, strict=True)
    return all(
        abs(cells + (-side // stride)) <= max(1, 8 // stride)
        for found, stride in sides
        for cells, side in zip(found, size, strict=True)
    )
