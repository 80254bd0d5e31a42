"""Formats with a label file an image: what such a file says, and how a split of them becomes `Annotations`.

Every problem is told by file and line.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from os.path import normpath, splitext
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from detdistill.data.annotations import Annotations, Reading, Split
from detdistill.data.builder import Box, Boxes, Classes, Images, lay_out, match_classes
from detdistill.data.image_files import settled_size, unsafe_name
from detdistill.data.label_text import FileFlaw
from detdistill.data.listing import (
    CLASS_LIST,
    IMAGE_SUFFIXES,
    Choice,
    ListFile,
    Share,
    by_stem,
    files_below,
    read_list,
    shown,
    without_suffix,
)
from detdistill.data.problems import Action, Lost, Problems

UNKNOWN_CLASS = "box of an unknown class"
_LARGEST_ID = 2**62
_ENDINGS = IMAGE_SUFFIXES | {".txt", ".xml", ".json", ""}
_KNOWN = f"known endings are {', '.join(sorted(IMAGE_SUFFIXES))}"


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
        flaws: lines that cannot be used.
        shares: whether boxes are shares of the image's sides.
        image: how it calls its image; empty where it does not.
        size: the image's height and width; None where it tells none.
        lacks_size: whether it should have told the size.
        part: what the numbers called lines count, for problems.
    """

    boxes: tuple[LabelledBox, ...]
    flaws: tuple[Flaw, ...] = ()
    shares: bool = False
    image: str = ""
    size: tuple[int, int] | None = None
    lacks_size: bool = False
    part: str = "line"


@final
class LabelledImages:
    """Collects the images of a split with what their label files say.

    Names are relative to `images_dir`, and must be safe. `kinds` is how label files write the classes; their names by
    default.
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
        self._check_images, self._images = check_images, Images()
        self._label_of = {kind: label for label, kind in enumerate(classes.names if kinds is None else kinds)}
        self._stems: list[str] = []
        self._places: list[str] = []
        # One entry a box or region, whose label is -1.
        self._rows, self._lines, self._labels = array("q"), array("q"), array("q")
        self._corners, self._ignored = array("d"), bytearray()

    def add(self, name: str, labels: LabelFile, *, file: Path, stem: str, where: str = "") -> None:
        """Takes an image, unless it cannot be used; its id is made from `stem`.

        A flawed image is told at `where`, the label file by default.
        """
        size = self._size(self._images_dir / name, labels.size, where or str(file))
        if size is None:
            return
        height, width = size
        if labels.lacks_size:
            what = f"no width and height; the file is {width}x{height}"
            self._problems.add("image without size", str(file), what=what, action="repaired")
        row = self._images.add(name, size)
        self._stems.append(stem)
        place = f"{file}, {labels.part}"
        self._places.append(place)
        for flaw in labels.flaws:
            self._tell(flaw, place, lost=True)
        for item in labels.boxes:
            if item.kind is not None and item.kind not in self._label_of:
                self._tell(Flaw(UNKNOWN_CLASS, item.line, f"{item.kind!r} is none of the classes"), place, lost=True)
                continue
            if item.flaw is not None:
                self._tell(item.flaw, place)
            x1, y1, x2, y2 = item.box
            self._corners.extend((x1 * width, y1 * height, x2 * width, y2 * height) if labels.shares else item.box)
            self._rows.append(row)
            self._lines.append(item.line)
            self._labels.append(-1 if item.kind is None else self._label_of[item.kind])
            self._ignored.append(item.ignored)

    def _tell(self, flaw: Flaw, place: str, *, lost: bool = False) -> None:
        loses: Lost | None = "boxes" if lost and flaw.action == "skipped" else None
        self._problems.add(flaw.kind, f"{place} {flaw.line}", what=flaw.what, action=flaw.action, loses=loses)

    def _size(self, path: Path, stated: tuple[int, int] | None, where: str) -> tuple[int, int] | None:
        """Height and width of an image as stated, or from its header; None where it cannot be used, which is told."""
        if stated is not None and not self._check_images and path.is_file():
            return stated
        return settled_size(path, stated, decode=self._check_images, problems=self._problems, where=where)

    def finish(self) -> Annotations:
        """Numbers the images, checks the boxes against them and lays everything out."""
        self._images.ids = array("q", _image_numbers(self._stems))
        labels = np.frombuffer(self._labels, dtype=np.int64)
        objects = self._boxes(np.flatnonzero(labels >= 0), loses="boxes")
        regions = self._boxes(np.flatnonzero(labels < 0))
        return lay_out(objects, regions, classes=self._classes, images_dir=self._images_dir)

    def _boxes(self, at: NDArray[np.int64], *, loses: Lost | None = None) -> Boxes:
        return Boxes(
            np.frombuffer(self._corners, dtype=np.float64).reshape(-1, 4)[at],
            np.frombuffer(self._rows, dtype=np.int64)[at],
            self._images,
            self._problems,
            where=lambda row: f"{self._places[self._rows[at[row]]]} {self._lines[at[row]]}",
            labels=np.frombuffer(self._labels, dtype=np.int64)[at],
            ignored=np.frombuffer(self._ignored, dtype=np.bool_)[at],
            loses=loses,
        )


def _image_numbers(stems: Sequence[str]) -> list[int]:
    """Ids for images that have names alone: the numbers they are named by, where all are, else 1, 2, 3 and so on."""
    last = [stem.rsplit("/", 1)[-1] for stem in stems]
    if all(name.isascii() and name.isdigit() and len(name) < 19 for name in last):
        numbers = [int(name) for name in last]
        if len(set(numbers)) == len(numbers) and max(numbers, default=0) < _LARGEST_ID:
            return numbers
    return list(range(1, len(stems) + 1))


@final
@dataclass(frozen=True, slots=True)
class LabelFolder(Split):
    """One split of a data set whose label files, one an image, lie in a folder: Pascal VOC and KITTI.

    The classes are those of the data set's ``classes.txt``, else those that `classes` makes of what is shown.

    Attributes:
        images_dir: where the images are, called as their label files or as those say.
        choice: which of the label files are the split's.
        elsewhere: folder and choice of the label files whose classes count too; None for none.
        ending: of the label files, such as ``".xml"``.
        parse: reads one; raises `FileFlaw`.
        classes: from the split, the kinds its label files show, and the classes demanded.
    """

    title: str
    folder: Path
    labels_dir: Path
    images_dir: Path
    choice: Choice
    elsewhere: tuple[Path, Choice] | None
    ending: str
    parse: Callable[[Path], LabelFile]
    classes: Callable[[LabelFolder, set[str], Sequence[str] | None], Sequence[str]]

    @property
    def source(self) -> Path:
        """The data set's folder."""
        return self.folder

    @property
    def drawn(self) -> bool:
        """Whether there are no lists."""
        return isinstance(self.choice, Share)

    def text(self) -> str:
        """The choice, and where the images are."""
        return f"{self.title}: {self.choice.text()}, images in {shown(self.images_dir, self.folder)}"

    def read(self, reading: Reading) -> tuple[Annotations, Problems]:
        """Reads the split; a list that cannot be read is a `DataError` too."""
        problems = Problems()
        files = self._files(self.labels_dir, self.choice, problems)
        names = self._listed_classes() or self.classes(self, _kinds(file for *_, file in files), reading.class_names)
        found = match_classes(self.folder, names, reading.class_names)
        collected = LabelledImages(found, self.images_dir, problems=problems, check_images=reading.check_images)
        names_of_images = files_below(self.images_dir, IMAGE_SUFFIXES, problems)
        images = by_stem(names_of_images)
        self._tell_several(names_of_images, images, {stem for stem, *_ in files}, problems)
        others = other_endings(self.images_dir) if any(stem not in images for stem, *_ in files) else {}
        for done, (stem, path, file) in enumerate(files, start=1):
            name = images.get(stem) or _named_image(
                file, self.images_dir, path=path, other=others.get(stem), problems=problems
            )
            if name is not None:
                collected.add(name, file, file=path, stem=stem)
            reading.progress(done, len(files))
        if not isinstance(self.choice, ListFile):
            # Where no list says which images are meant, those without a label file may be missing it.
            labelled = self._names(self.labels_dir)
            for stem, name in images.items():
                if stem not in labelled:
                    where = str(self.images_dir / name)
                    problems.add("image without label file", where, what=f"no {stem}{self.ending}", loses="images")
        return collected.finish(), problems

    def _tell_several(
        self, names: Sequence[str], images: Mapping[str, str], labelled: Set[str], problems: Problems
    ) -> None:
        """Tells images that are passed over, as another of their name is taken for the label file."""
        for name in names:
            stem = without_suffix(name)
            if images[stem] != name and stem in labelled:
                kind, what = "several images of one label file", f"{images[stem]} is taken for {stem}{self.ending}"
                problems.add(kind, str(self.images_dir / name), what=what, loses="images")

    def kinds_elsewhere(self) -> set[str]:
        """The classes shown `elsewhere`."""
        return _kinds(file for *_, file in self._files(*self.elsewhere, Problems())) if self.elsewhere else set()

    def _listed_classes(self) -> list[str]:
        path = self.folder / CLASS_LIST
        return list(dict.fromkeys(" ".join(line.split()) for _, line in read_list(path))) if path.is_file() else []

    def _names(self, folder: Path, problems: Problems | None = None) -> dict[str, str]:
        """All label files in a folder, by name without the ending."""
        return by_stem(files_below(folder, {self.ending}, problems))

    def _files(self, folder: Path, choice: Choice, problems: Problems) -> list[tuple[str, Path, LabelFile]]:
        """Name, path and content of every label file chosen that can be read."""
        found, parsed = self._names(folder, problems), []
        for entry in choice.choose(list(found), problems):
            if entry.stem not in found:
                what = f"no {entry.stem}{self.ending} in {folder}"
                problems.add("label file missing", entry.where, what=what, loses="images")
                continue
            path = folder / found[entry.stem]
            try:
                parsed.append((entry.stem, path, self.parse(path)))
            except FileFlaw as flaw:
                problems.add(flaw.kind, flaw.where(path), what=flaw.what, loses="images")
        return parsed


def other_endings(images_dir: Path) -> dict[str, str]:
    """The files of a folder whose endings are of no image that is read and no label file, by their names without."""
    parts = ((name, splitext(name)) for name in files_below(images_dir, None))
    return {stem: name for name, (stem, ending) in parts if ending.lower() not in _ENDINGS}


def report_imageless(names: Sequence[str], labels_dir: Path, images_dir: Path, problems: Problems) -> None:
    """Tells the label files, named in their folder, that have no image, or one of an ending that is not read."""
    others = other_endings(images_dir) if names else {}
    for name in names:
        stem = splitext(name)[0]
        if stem in others:
            kind, where = "image of unknown ending", images_dir / others[stem]
            what = f"has the label file {labels_dir / name}; {_KNOWN}"
        else:
            kind, where, what = "label file without image", labels_dir / name, f"{images_dir} has no image {stem}.*"
        problems.add(kind, str(where), what=what, loses="images")


def _kinds(files: Iterable[LabelFile]) -> set[str]:
    return {item.kind for file in files for item in file.boxes if isinstance(item.kind, str)}


def _named_image(file: LabelFile, images_dir: Path, *, path: Path, other: str | None, problems: Problems) -> str | None:
    """The image that a label file names, where none bears the file's own name but with an ending that is not read.

    None is told.
    """
    kind, what = "image file missing", f"{images_dir} has no image {path.stem}.*"
    if not file.image:
        what += ", and the label file names none"
    elif flaw := unsafe_name(file.image):
        kind, what = "unusable file name", f"filename {file.image!r} {flaw}"
    elif (images_dir / (name := normpath(file.image))).is_file():
        return name
    else:
        what += f" and no {file.image}"
    if other is not None:
        kind, what = "image of unknown ending", f"{images_dir / other} is its image; {_KNOWN}"
    problems.add(kind, str(path), what=what, loses="images")
    return None
