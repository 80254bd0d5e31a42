"""Formats with a label file an image: what such a file says, and how a split of them becomes `Annotations`.

Every problem is told by file and line.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path
from typing import final

import numpy as np

from detdistill.data.annotations import Annotations
from detdistill.data.builder import Box, Boxes, Classes, Images, lay_out, match_classes
from detdistill.data.image_files import header_size, image_flaw, unsafe_name
from detdistill.data.label_text import FileFlaw
from detdistill.data.listing import (
    IMAGE_SUFFIXES,
    Choice,
    ListFile,
    by_stem,
    files_below,
    read_class_list,
    report_unlabelled,
)
from detdistill.data.problems import Action, Problems
from detdistill.data.split import Reading

UNKNOWN_CLASS = "box of an unknown class"
_LARGEST_ID = 2**62


@dataclass(frozen=True, slots=True)
class Flaw:
    """What is wrong with a line."""

    kind: str
    line: int
    what: str
    action: Action = "skipped"


@dataclass(frozen=True, slots=True)
class LabelledBox:
    """One object of a label file.

    Attributes:
        kind: its class as the file writes it; None for a region in which nothing counts.
        box: x1, y1, x2, y2 in pixels, or as shares of the image's sides where its `LabelFile` says so.
        line: where it stands.
        ignored: left out of training and evaluation.
        flaw: told where the box is used.
    """

    kind: str | int | None
    box: Box
    line: int
    ignored: bool = False
    flaw: Flaw | None = None


@dataclass(frozen=True, slots=True)
class LabelFile:
    """What a label file says.

    Attributes:
        boxes: its objects.
        flaws: lines that cannot be used.
        shares: whether boxes are shares of the image's sides.
        image: how it calls its image; empty where it does not.
        size: the image's height and width; None where it tells none.
        lacks_size: whether it should have told the size.
    """

    boxes: tuple[LabelledBox, ...]
    flaws: tuple[Flaw, ...] = ()
    shares: bool = False
    image: str = ""
    size: tuple[int, int] | None = None
    lacks_size: bool = False


@final
class LabelledImages:
    """Collects the images of a split with what their label files say.

    Args:
        classes: of the source.
        images_dir: folder that the images' names are relative to; they must be safe.
        problems: takes what is wrong.
        check_images: decode every image fully.
        kinds: how label files write the classes; their names by default.
    """

    def __init__(
        self,
        classes: Classes,
        images_dir: Path,
        *,
        problems: Problems,
        check_images: bool = False,
        kinds: Sequence[str | int] | None = None,
    ) -> None:
        self._classes, self._images_dir, self._problems = classes, images_dir, problems
        self._check_images = check_images
        self._label_of = {kind: label for label, kind in enumerate(classes.names if kinds is None else kinds)}
        self._images = Images()
        self._stems: list[str] = []
        self._files: list[str] = []
        self._objects, self._regions = _Columns(), _Columns()

    def add(self, name: str, labels: LabelFile, *, file: Path, stem: str, where: str = "") -> None:
        """Takes an image, unless it cannot be used.

        Args:
            name: of the image.
            labels: what its label file says.
            file: the label file, for problems.
            stem: what the image's id is made from.
            where: the place to tell of a flawed image; the label file by default.
        """
        size = self._size(self._images_dir / name, labels.size, where or str(file))
        if size is None:
            return
        if labels.lacks_size:
            what = f"no width and height; the file is {size[1]}x{size[0]}"
            self._problems.add("image without size", str(file), what=what, action="repaired")
        row = self._images.add(name, size)
        self._stems.append(stem)
        self._files.append(str(file))
        for flaw in labels.flaws:
            self._tell(flaw, file)
        for item in labels.boxes:
            x1, y1, x2, y2 = item.box
            height, width = size
            box = (x1 * width, y1 * height, x2 * width, y2 * height) if labels.shares else item.box
            if item.kind is None:
                self._regions.add(row, box, item, label=-1)
            elif item.kind not in self._label_of:
                flaw = Flaw(UNKNOWN_CLASS, item.line, f"{item.kind!r} is none of the classes")
                self._tell(flaw, file)
            else:
                if item.flaw is not None:
                    self._tell(item.flaw, file)
                self._objects.add(row, box, item, label=self._label_of[item.kind])

    def _tell(self, flaw: Flaw, file: Path) -> None:
        self._problems.add(flaw.kind, f"{file}, line {flaw.line}", what=flaw.what, action=flaw.action)

    def _size(self, path: Path, stated: tuple[int, int] | None, where: str) -> tuple[int, int] | None:
        """Height and width of an image as stated, or from its header; None where it cannot be used, which is told."""
        present = path.is_file()
        size = (stated or header_size(path)) if present else None
        flaw: tuple[str, str] | None = None
        if size is None:
            kind = "image file unreadable" if present else "image file missing"
            flaw = kind, f"{path} {'cannot be decoded' if present else 'does not exist'}"
        elif self._check_images:
            flaw = image_flaw(path, height=size[0], width=size[1])
        if flaw is not None:
            self._problems.add(flaw[0], where, what=flaw[1], action="skipped")
            return None
        return size

    def finish(self) -> Annotations:
        """Numbers the images, checks the boxes against them and lays everything out."""
        self._images.ids = array("q", image_numbers(self._stems))
        objects, regions = (
            columns.boxes(self._images, self._files, self._problems) for columns in (self._objects, self._regions)
        )
        return lay_out(objects, regions, classes=self._classes, images_dir=self._images_dir)


@final
class _Columns:
    """Boxes as growing columns."""

    def __init__(self) -> None:
        self.rows, self.lines, self.labels = array("q"), array("q"), array("q")
        self.corners = array("d")
        self.ignored = bytearray()

    def add(self, row: int, box: Box, item: LabelledBox, *, label: int) -> None:
        self.rows.append(row)
        self.corners.extend(box)
        self.labels.append(label)
        self.lines.append(item.line)
        self.ignored.append(item.ignored)

    def boxes(self, images: Images, files: Sequence[str], problems: Problems) -> Boxes:
        return Boxes(
            np.frombuffer(self.corners, dtype=np.float64).reshape(-1, 4),
            np.frombuffer(self.rows, dtype=np.int64),
            images,
            problems=problems,
            where=lambda at: f"{files[self.rows[at]]}, line {self.lines[at]}",
            labels=np.frombuffer(self.labels, dtype=np.int64),
            ignored=np.frombuffer(self.ignored, dtype=np.bool_),
        )


def image_numbers(stems: Sequence[str]) -> list[int]:
    """Ids for images that have names alone: the numbers they are named by, where all are, else 1, 2, 3 and so on."""
    last = [stem.rsplit("/", 1)[-1] for stem in stems]
    if all(name.isascii() and name.isdigit() and len(name) < 19 for name in last):
        numbers = [int(name) for name in last]
        if len(set(numbers)) == len(numbers) and max(numbers, default=0) < _LARGEST_ID:
            return numbers
    return list(range(1, len(stems) + 1))


@final
@dataclass(frozen=True, slots=True)
class LabelFolder:
    """A folder of label files, and which of them are a split's.

    Attributes:
        path: the folder.
        choice: which of them.
        ending: of the files, such as ``".xml"``.
        parse: reads one; raises `FileFlaw`.
    """

    path: Path
    choice: Choice
    ending: str
    parse: Callable[[Path], LabelFile]

    def names(self, problems: Problems | None = None) -> dict[str, str]:
        """All label files in it, by name without the ending."""
        return by_stem(files_below(self.path, frozenset({self.ending}), problems))

    def files(self, problems: Problems) -> list[tuple[str, Path, LabelFile]]:
        """Name, path and content of every label file of the split that can be read."""
        found, parsed = self.names(problems), []
        for entry in self.choice.choose(list(found), problems):
            if entry.stem not in found:
                what = f"no {entry.stem}{self.ending} in {self.path}"
                problems.add("label file missing", entry.where, what=what, action="skipped")
                continue
            path = self.path / found[entry.stem]
            try:
                parsed.append((entry.stem, path, self.parse(path)))
            except FileFlaw as flaw:
                problems.add(flaw.kind, flaw.where(path), what=flaw.what, action="skipped")
        return parsed

    def kinds(self) -> set[str]:
        """The classes that the split's label files show."""
        return kinds_of(file for _, _, file in self.files(Problems()))

    def read(
        self,
        folder: Path,
        images_dir: Path,
        reading: Reading,
        classes: Callable[[set[str]], Sequence[str]],
    ) -> tuple[Annotations, Problems]:
        """Reads the split, the images being called as their label files or as those say.

        The classes are those of the data set's ``classes.txt``, else `classes` of those that the split shows.

        Raises:
            DataError: its list cannot be read, or its classes are not those demanded.
        """
        problems = Problems()
        files = self.files(problems)
        names = read_class_list(folder) or classes(kinds_of(file for _, _, file in files))
        found = match_classes(folder, names, reading.class_names)
        collected = LabelledImages(found, images_dir, problems=problems, check_images=reading.check_images)
        images = by_stem(files_below(images_dir, IMAGE_SUFFIXES, problems))
        for done, (stem, path, file) in enumerate(files, start=1):
            name = images.get(stem) or _named_image(file, images_dir, path=path, problems=problems)
            if name is not None:
                collected.add(name, file, file=path, stem=stem)
            reading.tell(done, len(files))
        if not isinstance(self.choice, ListFile):
            report_unlabelled(images, self.names().keys(), problems, images_dir=images_dir, ending=self.ending)
        return collected.finish(), problems


def kinds_of(files: Iterable[LabelFile]) -> set[str]:
    """The classes that label files show by name."""
    return {item.kind for file in files for item in file.boxes if isinstance(item.kind, str)}


def _named_image(file: LabelFile, images_dir: Path, *, path: Path, problems: Problems) -> str | None:
    """The image that a label file names, where none bears the file's own name; None is told."""
    if not file.image:
        what = f"{images_dir} has no image {path.stem}.*, and the label file names none"
        problems.add("image file missing", str(path), what=what, action="skipped")
        return None
    flaw = unsafe_name(file.image)
    if flaw is not None:
        what = f"filename {file.image!r} {flaw}"
        problems.add("unusable file name", str(path), what=what, action="skipped")
        return None
    name = normpath(file.image)
    if (images_dir / name).is_file():
        return name
    what = f"{images_dir} has no image {path.stem}.* and no {file.image}"
    problems.add("image file missing", str(path), what=what, action="skipped")
    return None
