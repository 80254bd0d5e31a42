"""A split prepared for writing in another format: new file names, boxes apart from regions, images that exist."""

from __future__ import annotations

import os
import posixpath
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from detdistill.data.annotations import Annotations
from detdistill.data.builder import Box
from detdistill.data.ignored import IgnoreRegions, find_regions
from detdistill.data.image_files import header_size
from detdistill.data.listing import IMAGE_SUFFIXES, SPLITS, without_suffix
from detdistill.data.problems import Problems
from detdistill.data.split import Split
from detdistill.errors import DataError

_THIN_PX = 0.05


@dataclass(frozen=True, slots=True)
class WrittenBox:
    """A box to write: x1, y1, x2, y2 in pixels, rounded as far as its size allows; label, flag and area."""

    box: Box
    label: int
    ignored: bool
    area: float


@dataclass(frozen=True, slots=True)
class WrittenImage:
    """An image to write: its row in the split, its new name, its boxes and ignore regions."""

    row: int
    name: str
    boxes: tuple[WrittenBox, ...]
    regions: tuple[Box, ...]

    @property
    def stem(self) -> str:
        """The new name without its ending."""
        return without_suffix(self.name)


@dataclass(frozen=True, slots=True)
class WritableSplit:
    """A split, the images of it that can be written with their new names, and what gets lost on the way.

    `origin` is the split as it was found: a writer of its own format may know what its files say beyond annotations.
    """

    annotations: Annotations
    names: Mapping[int, str]
    regions: IgnoreRegions
    problems: Problems
    origin: Split | None = None

    def images(self) -> list[int]:
        """The rows of the images that are written, in order."""
        return list(self.names)

    def image(self, row: int) -> WrittenImage:
        """Everything about one image."""
        split = self.annotations
        boxes = tuple(
            WrittenBox(
                rounded(split.boxes[at].tolist()),
                label=int(split.labels[at]),
                ignored=bool(split.ignored[at]),
                area=_rounded_area(float(split.areas[at])),
            )
            for at in range(*split.objects(row).indices(len(split.boxes)))
            if not self.regions.members[at]
        )
        begin, end = self.regions.images.searchsorted([row, row + 1])
        regions = tuple(rounded(box.tolist()) for box in self.regions.boxes[begin:end])
        return WrittenImage(row, self.names[row], boxes, regions)

    def size(self, row: int) -> tuple[int, int]:
        """Height and width of an image."""
        height, width = self.annotations.sizes[row].tolist()
        return height, width

    def place(self, row: int) -> str:
        """An image's old path, for problems."""
        return str(self.annotations.path(row))


Place = Callable[[WritableSplit, WrittenImage, Path], None]
"""Puts an image of a split at a path."""


def _rounded_area(area: float) -> float:
    return round(area, 4) if area >= 1 else area


def rounded(box: list[float]) -> Box:
    """A box to a hundredth of a pixel, or to a millionth where it is so thin that it would vanish."""
    digits = 2 if min(box[2] - box[0], box[3] - box[1]) >= _THIN_PX else 6
    x1, y1, x2, y2 = (round(value, digits) for value in box)
    return x1, y1, x2, y2


def decimal(value: float) -> str:
    """A number without exponent and without needless zeros."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def prepare(
    splits: Mapping[str, Annotations], *, origins: Mapping[str, Split], advance: Callable[[int], None]
) -> dict[str, WritableSplit]:
    """Checks that the images are there, and names them anew, so that no two have one name but for the ending.

    Folders that all images of a split share are left out; characters that some format cannot hold become ``_``.
    `advance` is called with the number of images looked at, over all splits.
    """
    taken: set[str] = set()
    prepared, done = {}, 0
    for split, own in splits.items():
        problems = Problems()
        names = [own.file_name(row).replace("\\", "/") for row in range(len(own))]
        shared = posixpath.commonpath([posixpath.dirname(posixpath.normpath(name)) for name in names] or [""])
        written: dict[int, str] = {}
        for row, name in enumerate(names):
            if _is_usable(own, row, problems):
                written[row] = _new_name(posixpath.relpath(posixpath.normpath(name), shared or "."), taken)
            done += 1
            advance(done)
        prepared[split] = WritableSplit(own, written, find_regions(own), problems, origins.get(split))
    return prepared


def _is_usable(annotations: Annotations, row: int, problems: Problems) -> bool:
    path, (height, width) = annotations.path(row), annotations.sizes[row].tolist()
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        what = f"known endings are {', '.join(sorted(IMAGE_SUFFIXES))}"
        problems.add("image of unknown ending", str(path), what=what, action="skipped")
        return False
    size = header_size(path)
    if size == (height, width):
        return True
    if size is None:
        problems.add("image file missing or unreadable", str(path), what="no image", action="skipped")
    else:
        what = f"it is {size[1]}x{size[0]}, the annotations say {width}x{height}"
        problems.add("image of another size", str(path), what=what, action="skipped")
    return False


def _new_name(name: str, taken: set[str]) -> str:
    plain = without_suffix(name)
    stem = "/".join(plain_word(part) for part in plain.split("/"))
    suffix, number, free = name.removeprefix(plain), 2, stem
    while free.casefold() in taken:
        free, number = f"{stem}-{number}", number + 1
    taken.add(free.casefold())
    return free + suffix


def plain_word(text: str) -> str:
    """Text without characters that lists, XML or YAML cannot hold, white space tidied."""
    return " ".join("".join(letter if letter.isprintable() else "_" for letter in text).split()) or "_"


def plain_classes(names: tuple[str, ...], *, space: str = " ") -> tuple[str, ...]:
    """Class names that the target format can hold, with `space` for a space.

    Raises:
        DataError: two become the same.
    """
    plain = tuple(plain_word(name).replace(" ", space) for name in names)
    for index, name in enumerate(plain):
        if name in plain[:index]:
            first = names[plain.index(name)]
            raise DataError(
                f"Class names must stay different when written, got {first!r} and {names[index]!r}, which both become "
                f"{name!r}. Rename one of them."
            )
    return plain


def write_plain(path: Path, lines: Iterable[str]) -> None:
    """Writes lines of text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_lists(folder: Path, splits: Mapping[str, WritableSplit]) -> None:
    """Writes lists of both splits, so that a reader finds a pair; an empty one says that there is no such split."""
    for name in SPLITS:
        split = splits.get(name)
        write_plain(folder / f"{name}.txt", [split.image(row).stem for row in split.images()] if split else [])


def place_image(source: Path, target: Path) -> None:
    """Puts an image at its new place by a hard link, or by a copy where the disk allows none.

    Raises:
        DataError: the image cannot be read.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk, or a file system without hard links
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise DataError(f"{source} must be a readable image, got: {error.strerror}. Check it.") from error
