"""Whether a data set's image files may be opened, and can be read."""

from __future__ import annotations

import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from detdistill.data.problems import Action, Problems

UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
LONGEST_NAME = 2048
_TURN = Image.Transpose
# How EXIF's orientation flag is undone; the flags from 5 on swap width and height.
_TURNS = {
    2: _TURN.FLIP_LEFT_RIGHT,
    3: _TURN.ROTATE_180,
    4: _TURN.FLIP_TOP_BOTTOM,
    5: _TURN.TRANSPOSE,
    6: _TURN.ROTATE_270,
    7: _TURN.TRANSVERSE,
    8: _TURN.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
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


@dataclass(frozen=True, slots=True)
class Header:
    """What an image's header says: height and width in pixels as stored, and EXIF's orientation flag, 1 for upright.

    Whether the flag counts is decided by the size that the annotations state. Boxes drawn on the photo as viewers and
    browsers show it, upright, come with the upright size; those drawn on the stored pixels with the stored size.
    Where both are the same, or none is stated, the flag is applied as viewers do.
    """

    stored: tuple[int, int]
    flag: int

    @classmethod
    def of(cls, image: Image.Image) -> Header:
        """The header of an opened image, of which no pixel is decoded; Pillow turns TIFF files itself."""
        return cls((image.height, image.width), _flag(image))

    def turn(self, stated: tuple[int, int] | None) -> Image.Transpose | None:
        """What brings the stored pixels to what annotations that state this size mean; None for no turn."""
        if self.flag in _SIDEWAYS and stated == self.stored != self.stored[::-1]:
            return None
        return _TURNS.get(self.flag)

    def size(self, stated: tuple[int, int] | None = None) -> tuple[int, int]:
        """Height and width after that turn."""
        return self.stored[::-1] if self.turn(stated) is not None and self.flag in _SIDEWAYS else self.stored

    def difference(self, stated: tuple[int, int]) -> str:
        """The size, told beside another that the annotations state."""
        height, width = self.size(stated)
        flagged = "" if self.flag == 1 else f", its EXIF orientation flag being {self.flag}"
        swapped = " with width and height swapped, which no EXIF orientation flag explains"
        return f"{width}x{height}{swapped if (width, height) == stated else flagged}"

    def note(self, stated: tuple[int, int] | None) -> tuple[str, Action] | None:
        """What is done about the flag, for problems; None for a photo without one."""
        if self.flag == 1:
            return None
        if self.turn(stated) is None:
            return f"flag {self.flag} passed over, as the annotated size is that of the stored pixels", "kept"
        height, width = self.size(stated)
        return f"turned upright as flag {self.flag} says, to {width}x{height}", "repaired"


def _flag(image: Image.Image) -> int:
    content = image.info.get("exif")
    if not content or image.format == "TIFF":
        return 1
    exif = Image.Exif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken EXIF is no flag, and no news
            exif.load(content)
        flag = exif.get(ExifTags.Base.Orientation, 1)
    except (*UNREADABLE, LookupError, TypeError, ArithmeticError):
        return 1
    return flag if flag in _TURNS else 1


def read_header(path: Path) -> Header | None:
    """An image's header; None where there is no readable image."""
    try:
        if not path.is_file():
            return None
        with Image.open(path) as image:
            return Header.of(image)
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


def settled_size(
    path: Path, stated: tuple[int, int] | None, *, decode: bool, problems: Problems, where: str
) -> tuple[int, int] | None:
    """Height and width of an image whose header is read, or which is decoded fully, compared with the size stated.

    None where it cannot be used, which is told, as is what is done about an orientation flag.
    """
    if not path.is_file():
        problems.add("image file missing", where, what=f"{path} does not exist", loses="images")
        return None
    try:
        with Image.open(path) as image:
            header = Header.of(image)
            if decode:
                as_rgb(image)
    except UNREADABLE as error:
        problems.add("image file unreadable", where, what=f"{path} cannot be decoded: {error}", loses="images")
        return None
    if stated is not None and stated != header.size(stated):
        height, width = stated
        what = f"{path} is {header.difference(stated)}, the annotations say {width}x{height}"
        problems.add("image of another size", where, what=what, loses="images")
        return None
    if note := header.note(stated):
        problems.add("photo with an EXIF orientation flag", where, what=f"{path.name} {note[0]}", action=note[1])
    return header.size(stated)
