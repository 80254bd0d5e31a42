"""Writes splits in any format that can be written; what a format cannot say is counted and reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from detdistill.data.annotations import Annotations
from detdistill.data.formats import FORMATS, Write
from detdistill.data.problems import Problems
from detdistill.data.split import Split
from detdistill.data.writable import WritableSplit, WrittenImage, place_image, prepare
from detdistill.errors import ConfigError, DataError, suggestion
from detdistill.files import atomic_folder


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written: images and boxes of every split, and what could not be."""

    images: Mapping[str, int]
    boxes: Mapping[str, int]
    problems: Mapping[str, Problems]


def write_data_set(
    splits: Mapping[str, Annotations],
    out: Path,
    *,
    to: str,
    origins: Mapping[str, Split] = MappingProxyType({}),
    progress: Callable[[int, int], None] | None = None,
) -> Converted:
    """Writes a data set in one of the formats; the folder appears whole or not at all.

    Args:
        splits: annotations by split, with the same classes.
        out: a new or empty folder.
        to: the name of the format.
        origins: the splits as they were found, for a writer of the same format.
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
    tell = progress or _nobody
    prepared = prepare(splits, origins=origins, advance=lambda done: tell(done, total))
    done = total // 2
    boxes = dict.fromkeys(splits, 0)

    def place(split: WritableSplit, image: WrittenImage, target: Path) -> None:
        nonlocal done
        place_image(split.annotations.path(image.row), target)
        done += 1
        tell(done, total)

    with atomic_folder(out) as folder:
        write(folder, prepared, next(iter(classes)), place)
    for name, split in prepared.items():
        kept = [split.annotations.objects(row) for row in split.images()]
        boxes[name] = sum(int((~split.annotations.ignored[at]).sum()) for at in kept)
    return Converted(
        images={name: len(split.names) for name, split in prepared.items()},
        boxes=boxes,
        problems={name: split.problems for name, split in prepared.items()},
    )


def writer(name: str) -> Write:
    """What writes a format.

    Raises:
        ConfigError: there is no such format, or it is only read.
    """
    found = FORMATS[name].write if name in FORMATS else None
    if found is None:
        known = [own for own, item in FORMATS.items() if item.write is not None]
        got = f"'{name}', which is only read" if name in FORMATS else f"'{name}'"
        raise ConfigError(
            f"The format to write must be one of {', '.join(known)}, got {got}. {suggestion(name, known, listed=True)}"
        )
    return found


def require_empty(out: Path) -> None:
    """Refuses a folder that something is in.

    Raises:
        ConfigError: it is in use, or no folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"The folder to write, {out}, must be new or empty, got one in use. Give another folder.")


def _nobody(done: int, total: int) -> None:
    del done, total
