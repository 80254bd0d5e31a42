"""Whether a data set's image files may be opened, and can be read."""

from __future__ import annotations

import os
import re
import struct
import zlib
from pathlib import Path

from PIL import Image

UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
LONGEST_NAME = 2048


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


def image_flaw(path: Path, *, height: int, width: int) -> tuple[str, str] | None:
    """Decodes an image fully and compares its size with the annotations: kind of problem and facts, None if good."""
    if not path.is_file():
        return "image file missing", f"{path} does not exist"
    try:
        with Image.open(path) as image:
            image.load()
            size = image.height, image.width
    except UNREADABLE as error:
        return "image file unreadable", f"{path} cannot be decoded: {error}"
    if size != (height, width):
        return "image of another size", f"{path} is {size[1]}x{size[0]}, the annotations say {width}x{height}"
    return None
