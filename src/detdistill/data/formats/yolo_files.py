"""What YOLO's data sets share, whatever file tells their classes and places: images, label files, splits.

The label file of ``images/a.jpg`` is ``labels/a.txt`` (the last folder ``images`` of the path becomes ``labels``), or
``a.txt`` beside the image. An image without one has no boxes. A line is a class number and the box's centre, width
and height as shares of the image; or a class number and a polygon of three points or more, of which the box around
it is taken. With key points the box's four numbers are followed by some, which are passed over.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from detdistill.data.annotations import Annotations, Reading, Split
from detdistill.data.builder import Box, match_classes
from detdistill.data.image_files import unsafe_name
from detdistill.data.label_files import UNKNOWN_CLASS, Flaw, LabelFile, LabelledBox, LabelledImages, report_imageless
from detdistill.data.label_text import FileFlaw, number, read_lines, require_few
from detdistill.data.listing import (
    CLASS_LIST,
    IMAGE_SUFFIXES,
    Entry,
    Share,
    add_once,
    files_below,
    read_list,
    report_shared,
    shown,
    tails,
    without_suffix,
)
from detdistill.data.problems import Problems
from detdistill.errors import ConfigError, DataError

_POLYGON = 7
_NO_BOX = (math.nan, math.nan, math.nan, math.nan)
# Text files that people keep beside label files.
_NO_LABELS = frozenset({CLASS_LIST, "train.txt", "val.txt", "valid.txt", "test.txt", "labels.txt", "notes.txt"})


@dataclass(frozen=True, slots=True)
class YoloData:
    """What a ``data.yaml``, or a file that stands for one, says.

    Attributes:
        root: the folder that its splits are relative to.
        names: class names by class id.
        splits: the places of every split, as written.
        keypoints: whether label lines carry key points behind the box.
        note: what is to be said about the file; empty for nothing.
    """

    file: Path
    root: Path
    names: Mapping[int, str]
    splits: Mapping[str, tuple[str, ...]]
    keypoints: bool = False
    note: str = ""

    def places(self, split: str) -> tuple[Path, ...]:
        """The folders and lists of a split."""
        if not self.splits.get(split):
            raise ConfigError(
                f"{self.file} must say where the {split} images are, got no {split!r}. "
                f"Add a line such as {split}: images/{split}."
            )
        return tuple(map(self._place, self.splits[split]))

    def has(self, split: str) -> bool:
        """Whether all places of a split are there."""
        try:
            return bool(self.places(split))
        except (ConfigError, DataError):
            return False

    def _place(self, written: str) -> Path:
        root = self.root
        # Many files lead out of their own folder by mistake: ../train/images stands for train/images.
        for text in dict.fromkeys((_within(written, root), re.sub(r"^(?:\.\./)+", "", written))):
            itself = os.path.normpath(text) == "."
            if itself or (unsafe_name(text) is None and (root / text).exists()):
                return root / os.path.normpath(text)
        flaw = unsafe_name(_within(written, root))
        if flaw is not None:
            raise DataError(
                f"{self.file} must name places inside {root}, got {written!r}, which {flaw}. "
                f"Write path: with the data set's folder, and places relative to that."
            )
        raise ConfigError(
            f"{self.file} must name a folder of images or a list of them, got {written!r}, and {root / written} "
            f"does not exist. Correct the line."
        )


def _within(written: str, root: Path) -> str:
    """An absolute place inside the data set as a relative one; anything else as it is."""
    normal, base = Path(os.path.normpath(written)), Path(os.path.abspath(root))
    inside = normal.is_absolute() and normal.is_relative_to(base)
    return normal.relative_to(base).as_posix() if inside else written


@final
@dataclass(frozen=True, slots=True)
class YoloSplit(Split):
    """One split of a YOLO data set: what ``data.yaml`` says, and the split's folders and lists.

    `train` has those of the train split, for the val split alone: images of both are told. `share` is the split's part
    of images that are of both; None for all of them.
    """

    data: YoloData
    places: tuple[Path, ...]
    train: tuple[Path, ...] = ()
    share: Share | None = None

    @property
    def source(self) -> Path:
        """The ``data.yaml``."""
        return self.data.file

    @property
    def drawn(self) -> bool:
        """Whether a seed divides the images."""
        return self.share is not None

    def text(self) -> str:
        """Name of the ``data.yaml``, and where the images are."""
        folder = self.data.file.parent
        part = "" if self.share is None else f"{self.share.text()}, "
        places = ", ".join(shown(place, folder) for place in self.places)
        return f"YOLO: {self.data.file.name}{self.data.note}, {part}images of {places}"

    def read(self, reading: Reading) -> tuple[Annotations, Problems]:
        """Reads the split."""
        problems, own, root = Problems(), self.data.names, self.data.root
        classes = match_classes(self.data.file, list(own.values()), reading.class_names, ids=list(own))
        images = self._images(self.places, problems)
        labels = {entry.stem: _label_file(root, entry.stem) for entry in images}
        self._tell_unused(labels, problems)
        if self.share is not None:
            chosen = {entry.stem for entry in self.share.choose(list(labels), problems)}
            images = [entry for entry in images if entry.stem in chosen]
        report_shared(images, {entry.stem for entry in self._images(self.train, Problems())}, problems)
        collected = LabelledImages(classes, root, problems=problems, check_images=reading.check_images, kinds=list(own))
        for done, entry in enumerate(images, start=1):
            path = labels[entry.stem]
            file = path or Path(entry.stem)
            try:
                said = _parse(path, self.data) if path is not None else LabelFile(())
            except FileFlaw as flaw:
                problems.add(flaw.kind, flaw.where(file), what=flaw.what, loses="images")
            else:
                collected.add(entry.stem, said, file=file, stem=without_suffix(entry.stem), where=entry.where)
            reading.progress(done, len(images))
        if images and not any(labels[entry.stem] for entry in images):
            raise DataError(
                f"the images of {self.data.file} must have label files, got none for all {len(images)} "
                f"(such as {images[0].stem}). Put a.txt for images/a.jpg into labels/, or beside the image."
            )
        return collected.finish(), problems

    def _tell_unused(self, labels: Mapping[str, Path | None], problems: Problems) -> None:
        """Tells label files of several images, and those in the split's folders that are no image's."""
        first: dict[Path, str] = {}
        for name, path in labels.items():
            if path is not None and (other := first.setdefault(path, name)) != name:
                what = f"{name} and {other} have the same boxes"
                problems.add("several images of one label file", str(path), what=what, action="kept")
        for folder in dict.fromkeys(Path(name).parent for name in labels) if self.share is not None else ():
            # One list for both splits: what lies beside its images and is not in it is in neither.
            for name in files_below(self.data.root / folder, IMAGE_SUFFIXES):
                if (named := (folder / name).as_posix()) not in labels:
                    what = f"{', '.join(place.name for place in self.places)} does not name it"
                    problems.add("image in no split", str(self.data.root / named), what=what, action="kept")
        for place in filter(Path.is_dir, self.places):
            beside = _label_name(place.relative_to(self.data.root).as_posix())
            for folder in dict.fromkeys((self.data.root / beside, place)):
                if folder.is_dir():
                    spare = [name for name in files_below(folder, {".txt"}) if _is_label(folder / name, first)]
                    report_imageless(spare, folder, place, problems)

    def _images(self, places: Sequence[Path], problems: Problems) -> list[Entry]:
        """A split's images, named relative to the folder of ``data.yaml``."""
        found: dict[str, Entry] = {}
        for place in places:
            for entry in self._inside(place, problems) if place.is_dir() else self._listed(place, problems):
                add_once(found, entry, problems)
        return list(found.values())

    def _inside(self, place: Path, problems: Problems) -> Iterator[Entry]:
        base = place.relative_to(self.data.root)
        for name in files_below(place, IMAGE_SUFFIXES, problems):
            yield Entry((base / name).as_posix(), str(place / name))

    def _listed(self, path: Path, problems: Problems) -> Iterator[Entry]:
        places = (path.parent, self.data.root, self.data.file.parent)
        for where, line in read_list(path):
            written = line.replace("\\", "/")
            name = next(_present([written], places, self.data.root), None)
            if name is None:
                name = next(_present(tails(written), places, self.data.root), None)
                if name is not None:
                    what = f"{line!r} read as {name!r}"
                    problems.add("file name of another machine", where, what=what, action="repaired")
            name = name or next(_inside(written, places, self.data.root), written)
            if flaw := unsafe_name(name):
                problems.add("unusable file name", where, what=f"{line!r} {flaw}", loses="images")
            else:
                yield Entry(name, where)


def _parse(path: Path, data: YoloData) -> LabelFile:
    boxes, flaws, lines = [], [], read_lines(path)
    require_few(len(lines))
    for line, text in lines:
        words = text.split()
        if flaw := _flaw(words, data):
            flaws.append(Flaw(flaw[0], line, flaw[1]))
        else:
            polygon = len(words) >= _POLYGON and not data.keypoints
            box = _box([number(word) for word in words[1:]], polygon=polygon)
            boxes.append(LabelledBox(int(float(words[0])), box, line))
    return LabelFile(tuple(boxes), tuple(flaws), shares=True)


def _flaw(words: list[str], data: YoloData) -> tuple[str, str] | None:
    """What is wrong with a line: kind and facts."""
    count = len(words)
    polygon = count >= _POLYGON and count % 2 == 1
    if count != 5 and not polygon and not (data.keypoints and count > 5):
        return "wrong number of columns", f"{count} instead of 5, or of a class and at least 3 points"
    own = number(words[0])
    if not math.isfinite(own) or own != int(own) or int(own) not in data.names:
        return UNKNOWN_CLASS, f"class {words[0][:40]!r} is none of the {len(data.names)} classes"
    return None


def _box(values: list[float], *, polygon: bool) -> Box:
    """x1, y1, x2, y2 as shares of the image's sides; NaN where a number is none."""
    if polygon:
        across, down = values[::2], values[1::2]
        return (min(across), min(down), max(across), max(down)) if all(map(math.isfinite, values)) else _NO_BOX
    x, y, w, h = values[:4]
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def _inside(line: str, places: Sequence[Path], root: Path) -> Iterator[str]:
    """A line of a list as names relative to the data set, by each of the places that it may be relative to."""
    for place in places:
        target = os.path.normpath(os.path.join(os.path.abspath(place), line))
        name = Path(os.path.relpath(target, os.path.abspath(root))).as_posix()
        if unsafe_name(name) is None:
            yield name


def _present(lines: Iterable[str], places: Sequence[Path], root: Path) -> Iterator[str]:
    """Those of them that are there."""
    return (name for line in lines for name in _inside(line, places, root) if (root / name).is_file())


def _label_name(name: str) -> str:
    """A name with its last folder ``images`` as ``labels``."""
    before, last, after = f"/{name}/".rpartition("/images/")
    return f"{before}/labels/{after}".strip("/") if last else name


def _label_file(root: Path, name: str) -> Path | None:
    """The label file of an image; None where there is none."""
    stem = without_suffix(name)
    folder, _, last = stem.rpartition("/")
    labelled = "/".join(filter(None, (_label_name(folder), last))) if folder else stem
    candidates = (root / f"{one}{ending}" for one in dict.fromkeys((labelled, stem)) for ending in (".txt", ".TXT"))
    return next((path for path in candidates if path.is_file()), None)


def _is_label(path: Path, used: Container[Path]) -> bool:
    """Whether a text file may be a label file that no image has used."""
    name = path.name.lower()
    return path not in used and name not in _NO_LABELS and not name.startswith(("readme", "license"))
