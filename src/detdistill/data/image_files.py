"""Whether a data set's image files may be opened, and can be read."""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
LONGEST_NAME = 2048
# How many bits a camera's or a scanner's grey values may have.
_DEPTHS = (8, 10, 12, 14, 16, 32)


def is_text(word: str) -> bool:
    """Whether a word can be written to a file: no zero byte, no half of a character."""
    return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in word)


def unsafe_name(name: object) -> str | None:
    """Why a file name from an annotation file must not be opened; None where it may be.

    Names are relative to the images' folder and stay inside it; sub-folders are fine.
    """
    if not isinstance(name, str) or not name.strip():
        return "is not a text"
    if not is_text(name):
        return "holds characters that no file name has"
    if name[0] in "/\\" or re.match(r"[A-Za-z]:", name):
        return "is absolute"
    if len(name.encode()) > LONGEST_NAME or any(len(part.encode()) > 255 for part in name.split("/")):
        return "is longer than a file name can be"
    normal = os.path.normpath(name.replace("\\", "/"))
    if normal in {".", ".."} or normal.startswith("../"):
        return "leads out of the images' folder"
    return None


def header_size(path: Path) -> tuple[int, int] | None:
    """Height and width in pixels from an image's header; None where there is no readable image."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except UNREADABLE:
        return None


def absent(folder: Path, names: Iterable[str]) -> Iterator[bool]:
    """For each name whether a folder lacks it as a file; every sub-folder is listed once, and no file is opened."""
    listed: dict[str, frozenset[str]] = {}
    for name in names:
        parent, _, last = name.rpartition("/")
        if parent not in listed:
            try:
                with os.scandir(folder / parent) as entries:
                    listed[parent] = frozenset(entry.name for entry in entries)
            except OSError:
                listed[parent] = frozenset()
        # A name may be written otherwise than it is listed, such as with another case on some disks.
        yield last not in listed[parent] and not (folder / name).is_file()


def as_rgb(image: Image.Image) -> Image.Image:
    """An opened image as RGB of 8 bits, whatever it is stored as; transparency is left out.

    Grey values of more bits are scaled by the smallest of 8, 10, 12, 14, 16 and 32 bits that holds the image's largest
    one, so that 12 bits in a file of 16 do not come out black; floating-point ones likewise, or by 255 where none is
    above 1. What is below 0 or no number counts as 0.
    """
    image.load()
    if image.mode != "F" and not image.mode.startswith("I"):
        return image if image.mode == "RGB" else image.convert("RGB")
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0).clip(min=0)
    largest = values.max(initial=0.0)
    if image.mode == "F" and largest <= 1:
        grey = values * 255
    else:
        grey = values / 2.0 ** (next((bits for bits in _DEPTHS if largest < 2**bits), 128) - 8)
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def image_flaw(path: Path, *, height: int, width: int) -> tuple[str, str] | None:
    """Decodes an image fully and compares its size with the annotations: kind of problem and facts, None if good."""
    if not path.is_file():
        return "image file missing", f"{path} does not exist"
    try:
        with Image.open(path) as image:
            size = image.height, image.width
            as_rgb(image)
    except UNREADABLE as error:
        return "image file unreadable", f"{path} cannot be decoded: {error}"
    if size != (height, width):
        return "image of another size", f"{path} is {size[1]}x{size[0]}, the annotations say {width}x{height}"
    return None
