"""Writes splits in any format that can be written; what a format cannot say is counted and reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from detdistill.data.annotations import Annotations, ignore_progress
from detdistill.data.formats import FORMATS, Write
from detdistill.data.problems import Problems
from detdistill.data.writable import WrittenImage, place_image, prepare
from detdistill.errors import ConfigError, DataError, suggestion
from detdistill.files import atomic_folder, require_writable


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written of a split: how many images and boxes; and what could not be."""

    images: int
    boxes: int
    problems: Problems


def write_data_set(
    splits: Mapping[str, Annotations],
    out: Path,
    *,
    to: str,
    origin: str = "",
    progress: Callable[[int, int], None] = ignore_progress,
) -> Mapping[str, Converted]:
    """Writes a data set in one of the formats; the folder appears whole or not at all.

    Args:
        splits: annotations by split, with the same classes.
        out: a new or empty folder.
        to: the name of the format.
        origin: the name of the format that the splits were read from, for a writer of the same.
        progress: called with (images settled, all images); every image is settled twice, on looking and on placing.

    Raises:
        ConfigError: there is no such format, it cannot be written, or the folder is in use.
        DataError: an image cannot be read, the splits have other classes, or the format cannot tell two apart.
    """
    write = writer(to)
    require_empty(out)
    classes = {annotations.class_names for annotations in splits.values()}
    if len(classes) != 1:
        raise DataError(f"The splits to write must have the same classes, got {len(classes)} lists. Read them alike.")
    total = 2 * sum(len(annotations) for annotations in splits.values())
    looked, placed = count(1), count(total // 2 + 1)
    tells_size = FORMATS[to].tells_size
    prepared = prepare(splits, origin=origin, tells_size=tells_size, advance=lambda: progress(next(looked), total))

    def place(image: WrittenImage, target: Path) -> None:
        place_image(image.path, target)
        progress(next(placed), total)

    with atomic_folder(out) as folder:
        write(folder, prepared, next(iter(classes)), place)
    written = {}
    for name, split in prepared.items():
        boxes = sum(int((~split.annotations.ignored[split.annotations.objects(row)]).sum()) for row in split.names)
        written[name] = Converted(len(split.names), boxes, split.problems)
    return written


def writer(name: str) -> Write:
    """What writes a format; there being none, or one that is only read, is a `ConfigError`."""
    found = FORMATS[name].write if name in FORMATS else None
    if found is None:
        known = [own for own, item in FORMATS.items() if item.write is not None]
        got = f"'{name}', which is only read" if name in FORMATS else f"'{name}'"
        raise ConfigError(
            f"The format to write must be one of {', '.join(known)}, got {got}. {suggestion(name, known, listed=True)}"
        )
    return found


def require_empty(out: Path) -> None:
    """Refuses, with a `ConfigError`, a folder that something is in, or what is none."""
    require_writable(out.parent, "The folder to write into")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"The folder to write, {out}, must be new or empty, got one in use. Give another folder.")
