"""A split prepared for writing in another format: new file names, boxes apart from regions, images that exist."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from detdistill.data.annotations import Annotations, IgnoreRegions, find_regions
from detdistill.data.builder import Box
from detdistill.data.image_files import read_header
from detdistill.data.listing import IMAGE_SUFFIXES, SPLITS, without_suffix
from detdistill.data.problems import Problems
from detdistill.errors import DataError
from detdistill.files import append_bytes, copy_file, make_folder

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
    """An image to write: its row in the split and path, new name, height and width, boxes and ignore regions."""

    row: int
    path: Path
    name: str
    size: tuple[int, int]
    boxes: tuple[WrittenBox, ...]
    regions: tuple[Box, ...]

    @property
    def stem(self) -> str:
        """The new name without its ending."""
        return without_suffix(self.name)


@dataclass(frozen=True, slots=True)
class WritableSplit:
    """A split, the new names of the images of it that can be written by row, and what gets lost on the way.

    `origin` names the format that it was read from: a writer of the same may know what its files say beyond
    annotations.
    """

    annotations: Annotations
    names: Mapping[int, str]
    regions: IgnoreRegions
    problems: Problems
    origin: str

    def images(self) -> Iterator[WrittenImage]:
        """Everything about the images that are written, in order."""
        split = self.annotations
        for row, name in self.names.items():
            boxes = tuple(
                WrittenBox(
                    _rounded(split.boxes[at].tolist()),
                    label=int(split.labels[at]),
                    ignored=bool(split.ignored[at]),
                    area=_rounded_area(float(split.areas[at])),
                )
                for at in range(*split.objects(row).indices(len(split.boxes)))
                if not self.regions.members[at]
            )
            begin, end = self.regions.images.searchsorted([row, row + 1])
            regions = tuple(_rounded(box.tolist()) for box in self.regions.boxes[begin:end])
            height, width = split.sizes[row].tolist()
            yield WrittenImage(row, split.path(row), name, (height, width), boxes, regions)


Place = Callable[[WrittenImage, Path], None]
"""Puts an image at a path."""


def _rounded_area(area: float) -> float:
    return round(area, 4) if area >= 1 else area


def _rounded(box: list[float]) -> Box:
    """A box to a hundredth of a pixel, or to a millionth where it is so thin that it would vanish."""
    digits = 2 if min(box[2] - box[0], box[3] - box[1]) >= _THIN_PX else 6
    x1, y1, x2, y2 = (round(value, digits) for value in box)
    return x1, y1, x2, y2


def decimal(value: float) -> str:
    """A number without exponent and without needless zeros."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def prepare(
    splits: Mapping[str, Annotations], *, origin: str, tells_size: bool, advance: Callable[[], None]
) -> dict[str, WritableSplit]:
    """Checks that the images are there, and names them anew, so that no two have one name but for the ending.

    Folders that all images of a split share are left out; characters that some format cannot hold become ``_``.
    `advance` is called for every image looked at.
    """
    taken: set[str] = set()
    prepared = {}
    for split, own in splits.items():
        problems, written = Problems(), dict[int, str]()
        names = [own.file_name(row).replace("\\", "/") for row in range(len(own))]
        shared = posixpath.commonpath([posixpath.dirname(posixpath.normpath(name)) for name in names] or [""])
        for row, name in enumerate(names):
            height, width = own.sizes[row].tolist()
            flaw = _flaw(own.path(row), (height, width), tells_size=tells_size)
            if flaw is None:
                written[row] = _new_name(posixpath.relpath(posixpath.normpath(name), shared or "."), taken)
            else:
                problems.add(flaw[0], str(own.path(row)), what=flaw[1])
            advance()
        prepared[split] = WritableSplit(own, written, find_regions(own), problems, origin)
    return prepared


def _flaw(path: Path, stated: tuple[int, int], *, tells_size: bool) -> tuple[str, str] | None:
    """Why an image cannot be written: kind and facts."""
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return "image of unknown ending", f"known endings are {', '.join(sorted(IMAGE_SUFFIXES))}"
    header = read_header(path)
    if header is None:
        return "image file missing or unreadable", "no image"
    if header.size(stated) != stated:
        what = f"it is {header.difference(stated)}, the annotations say {stated[1]}x{stated[0]}"
        return "image of another size", what
    if not tells_size and header.size() != stated:
        return "photo annotated as stored", f"without its size, its EXIF orientation flag {header.flag} would turn it"
    return None


def _new_name(name: str, taken: set[str]) -> str:
    plain = without_suffix(name)
    stem = "/".join(_plain_word(part) for part in plain.split("/"))
    suffix, number, free = name.removeprefix(plain), 2, stem
    while free.casefold() in taken:
        free, number = f"{stem}-{number}", number + 1
    taken.add(free.casefold())
    return free + suffix


def _plain_word(text: str) -> str:
    """Text without characters that lists, XML or YAML cannot hold, white space tidied."""
    return " ".join("".join(letter if letter.isprintable() else "_" for letter in text).split()) or "_"


def plain_classes(names: tuple[str, ...], *, space: str = " ") -> tuple[str, ...]:
    """Class names that the target format can hold, with `space` for a space; two that become the same are refused."""
    plain = tuple(_plain_word(name).replace(" ", space) for name in names)
    for index, name in enumerate(plain):
        if name in plain[:index]:
            first = names[plain.index(name)]
            raise DataError(
                f"Class names must stay different when written, got {first!r} and {names[index]!r}, which both become "
                f"{name!r}. Rename one of them."
            )
    return plain


def write_plain(path: Path, lines: Iterable[str]) -> None:
    """Writes lines of text to a new file in a folder that nobody sees yet."""
    append_bytes(path, "".join(f"{line}\n" for line in lines).encode())


def write_lists(folder: Path, splits: Mapping[str, WritableSplit]) -> None:
    """Writes lists of all splits, so that a reader finds a pair; an empty one says that there is no such split."""
    for name in dict.fromkeys((*SPLITS, *splits)):
        names = splits[name].names.values() if name in splits else ()
        write_plain(folder / f"{name}.txt", map(without_suffix, names))


def place_image(source: Path, target: Path) -> None:
    """Puts an image at its new place by a hard link, or by a copy where the disk allows none."""
    make_folder(target.parent)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk, or a file system without hard links
        try:
            copy_file(source, target)
        except OSError as error:
            raise DataError(f"{source} must be a readable image, got: {error.strerror}. Check it.") from error
