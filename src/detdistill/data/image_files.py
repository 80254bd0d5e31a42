"""Where a data set's image files are, and whether they can be read."""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Sequence
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


def candidate_folders(json_path: Path) -> list[Path]:
    """The folders where the images of an annotation file may be, likeliest first; not all of them exist."""
    parent = json_path.parent
    near = [parent / "images", parent]
    if parent.name != "annotations":
        return near
    base = parent.parent
    tail = json_path.stem.removeprefix("instances_")
    named = [base / tail, base / "images" / tail]
    for split in ("train", "val", "test"):
        if tail.startswith(split):
            named += sorted(base.glob(f"{split}*")) + sorted(base.glob(f"images/{split}*"))
    return list(dict.fromkeys([*named, base / "images", base, *near]))


def images_folder(json_path: Path, names: Sequence[str]) -> tuple[Path, int]:
    """The folder that holds most of some named images.

    Args:
        json_path: the annotation file they are listed in.
        names: a few file names; with none, the first folder that exists is taken.

    Returns:
        The folder, and how many of the images are in it.
    """
    folders = [folder for folder in candidate_folders(json_path) if folder.is_dir()] or [json_path.parent]
    found = [sum((folder / name).is_file() for name in names) for folder in folders]
    best = max(range(len(folders)), key=lambda index: (found[index], -index))
    return folders[best], found[best]


def header_size(path: Path) -> tuple[int, int] | None:
    """Height and width in pixels from an image's header; None where there is no readable image."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except UNREADABLE:
        return None


def image_flaw(path: Path, *, height: int, width: int) -> tuple[str, str] | None:
    """Decodes an image fully and compares its size with the annotations.

    Returns:
        None for a good image, else the kind of problem and the facts.
    """
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
