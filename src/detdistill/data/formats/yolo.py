"""YOLO: a ``data.yaml``, images in folders or in lists, and one text file of boxes an image.

The label file of ``images/a.jpg`` is ``labels/a.txt`` (the last folder ``images`` of the path becomes ``labels``), or
``a.txt`` beside the image. An image without one has no boxes. A line is a class number and the box's centre, width
and height as shares of the image; or a class number and a polygon of three points or more, of which the box around
it is taken. With ``kpt_shape`` in ``data.yaml`` the box's four numbers are followed by key points, which are passed
over.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from detdistill.data.annotations import Annotations, Reading, Split
from detdistill.data.builder import Box, match_classes
from detdistill.data.formats import Format
from detdistill.data.image_files import is_text, unsafe_name
from detdistill.data.label_files import UNKNOWN_CLASS, Flaw, LabelFile, LabelledBox, LabelledImages
from detdistill.data.label_text import FileFlaw, number, read_lines
from detdistill.data.listing import (
    IMAGE_SUFFIXES,
    Entry,
    add_once,
    files_below,
    read_list,
    report_shared,
    shown,
    without_suffix,
)
from detdistill.data.problems import Problems
from detdistill.data.writable import Place, WritableSplit, plain_classes, write_plain
from detdistill.errors import ConfigError, DataError
from detdistill.settings.strict_yaml import dump_yaml, load_yaml

_SPLIT_KEYS = {"train": ("train",), "val": ("val", "valid", "validation")}
DATA_YAML = ("data.yaml", "data.yml")
_LIKELY_YAML = "dataset.yaml"
_POLYGON = 7
_NO_BOX = (math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class YoloData:
    """What a ``data.yaml`` says.

    Attributes:
        root: the folder that its splits are relative to; the file's own or one in it.
        names: class names by class id.
        splits: the places of every split, as written.
        keypoints: whether label lines carry key points behind the box.
    """

    file: Path
    root: Path
    names: Mapping[int, str]
    splits: Mapping[str, tuple[str, ...]]
    keypoints: bool

    def places(self, split: str) -> tuple[Path, ...]:
        """The folders and lists of a split."""
        if not self.splits.get(split):
            raise ConfigError(
                f"{self.file} must say where the {split} images are, got no {split!r}. "
                f"Add a line such as {split}: images/{split}."
            )
        return tuple(map(self._place, self.splits[split]))

    def _place(self, written: str) -> Path:
        for root in dict.fromkeys((self.root, self.file.parent)):
            # Many files lead out of their own folder by mistake: ../train/images stands for train/images.
            for text in dict.fromkeys((_within(written, root), re.sub(r"^(?:\.\./)+", "", written))):
                itself = os.path.normpath(text) == "."
                if itself or (unsafe_name(text) is None and (root / text).exists()):
                    return root / os.path.normpath(text)
        flaw = unsafe_name(_within(written, self.root))
        if flaw is not None:
            raise DataError(
                f"{self.file} must name places inside {self.file.parent}, got {written!r}, which {flaw}. "
                f"Put data.yaml at the top of the data set and write places relative to it."
            )
        raise ConfigError(
            f"{self.file} must name a folder of images or a list of them, got {written!r}, and {self.root / written} "
            f"does not exist. Correct the line."
        )


def _within(written: str, root: Path) -> str:
    """An absolute place inside the data set as a relative one; anything else as it is."""
    normal, base = Path(os.path.normpath(written)), Path(os.path.abspath(root))
    inside = normal.is_absolute() and normal.is_relative_to(base)
    return normal.relative_to(base).as_posix() if inside else written


def read_data_yaml(path: Path) -> YoloData:
    """Reads a ``data.yaml``; ``download`` and other keys are passed over."""
    content = load_yaml(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold the keys train, val and names, got no keys. Write it as YOLO does.")
    names = _names(path, content.get("names"), content.get("nc"))
    splits = {}
    for split, keys in _SPLIT_KEYS.items():
        written = next((content[key] for key in keys if content.get(key) is not None), None)
        places = written if isinstance(written, list) else [] if written is None else [written]
        if not all(isinstance(place, str) and place.strip() for place in places):
            raise DataError(f"{split!r} of {path} must be a place or places, got {_brief(written)}. Correct it.")
        splits[split] = tuple(places)
    # The folder named by ``path`` counts where it lies in the file's own.
    root, within = path.parent, content.get("path")
    if isinstance(within, str) and unsafe_name(within) is None and (root / within).is_dir():
        root /= os.path.normpath(within)
    return YoloData(path, root, names, splits, keypoints=content.get("kpt_shape") is not None)


def _lists_classes(path: Path) -> bool:
    """Whether a file is YAML with the key ``names``, as files that have nothing to do with YOLO are not."""
    try:
        content = load_yaml(path)
    except ConfigError:
        return False
    return isinstance(content, dict) and "names" in content


def _brief(value: Any) -> str:
    """A value for a message; a list or mapping by its kind alone, as few lines of YAML make endless ones."""
    return repr(value)[:60] if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


def _names(path: Path, written: Any, count: Any) -> dict[int, str]:
    given = dict(enumerate(written)) if isinstance(written, list) else written if isinstance(written, dict) else {}
    names: dict[int, str] = {}
    for own, name in given.items():
        usable = isinstance(own, int) and not isinstance(own, bool) and 0 <= own < 2**31
        if not usable or not isinstance(name, str | int | float) or not str(name).strip() or not is_text(str(name)):
            raise DataError(
                f"'names' of {path} must give a text for every class number, got {_brief(name)} for {_brief(own)}. "
                f"Correct it."
            )
        names[own] = " ".join(str(name).split())
    if not names:
        raise DataError(f"'names' of {path} must list the classes, got {_brief(written)}. Add names: [first, second].")
    if isinstance(count, int) and not isinstance(count, bool) and count != len(names):
        raise DataError(f"'names' of {path} must list the nc = {count} classes, got {len(names)}. Correct one of them.")
    return names


@final
@dataclass(frozen=True, slots=True)
class YoloSplit(Split):
    """One split of a YOLO data set: what ``data.yaml`` says, and the split's folders and lists.

    `train` has those of the train split, for the val split alone: images of both are told.
    """

    data: YoloData
    places: tuple[Path, ...]
    train: tuple[Path, ...] = ()

    @property
    def source(self) -> Path:
        """The ``data.yaml``."""
        return self.data.file

    def text(self) -> str:
        """Name of the ``data.yaml``, and where the images are."""
        folder = self.data.file.parent
        return f"YOLO: {self.data.file.name}, images of {', '.join(shown(place, folder) for place in self.places)}"

    def read(self, reading: Reading) -> tuple[Annotations, Problems]:
        """Reads the split."""
        problems, own, images_dir = Problems(), self.data.names, self.data.file.parent
        classes = match_classes(self.data.file, list(own.values()), reading.class_names, ids=list(own))
        images = self._images(self.places, problems)
        report_shared(images, {entry.stem for entry in self._images(self.train, Problems())}, problems)
        collected = LabelledImages(
            classes, images_dir, problems=problems, check_images=reading.check_images, kinds=list(own)
        )
        labelled = 0
        for done, entry in enumerate(images, start=1):
            path = _label_file(images_dir, entry.stem)
            labelled += path is not None
            file = path or Path(entry.stem)
            try:
                labels = _parse(path, self.data) if path is not None else LabelFile(())
            except FileFlaw as flaw:
                problems.add(flaw.kind, flaw.where(file), what=flaw.what, loses="images")
            else:
                collected.add(entry.stem, labels, file=file, stem=without_suffix(entry.stem), where=entry.where)
            reading.progress(done, len(images))
        if images and not labelled:
            raise DataError(
                f"the images of {self.data.file} must have label files, got none for all {len(images)} "
                f"(such as {images[0].stem}). Put a.txt for images/a.jpg into labels/, or beside the image."
            )
        return collected.finish(), problems

    def _images(self, places: Sequence[Path], problems: Problems) -> list[Entry]:
        """A split's images, named relative to the folder of ``data.yaml``."""
        found: dict[str, Entry] = {}
        for place in places:
            for entry in self._inside(place, problems) if place.is_dir() else self._listed(place, problems):
                add_once(found, entry, problems)
        return list(found.values())

    def _inside(self, place: Path, problems: Problems) -> Iterator[Entry]:
        base = place.relative_to(self.data.file.parent)
        for name in files_below(place, IMAGE_SUFFIXES, problems):
            yield Entry((base / name).as_posix(), str(place / name))

    def _listed(self, path: Path, problems: Problems) -> Iterator[Entry]:
        images_dir = self.data.file.parent
        for where, line in read_list(path):
            name = _listed_name(line.replace("\\", "/"), (path.parent, self.data.root, images_dir), images_dir)
            if flaw := unsafe_name(name):
                problems.add("unusable file name", where, what=f"{line!r} {flaw}", loses="images")
            else:
                yield Entry(name, where)


def _parse(path: Path, data: YoloData) -> LabelFile:
    boxes, flaws = [], []
    for line, text in read_lines(path):
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


def _listed_name(line: str, places: Sequence[Path], images_dir: Path) -> str:
    """A line of a list as a name relative to the data set; still unsafe where it leads out of it."""
    targets = (os.path.normpath(os.path.join(os.path.abspath(place), line)) for place in places)
    names = [os.path.relpath(target, os.path.abspath(images_dir)) for target in targets]
    inside = [name for name in names if unsafe_name(name) is None]
    present = [name for name in inside if (images_dir / name).is_file()]
    return Path((present or inside or [line])[0]).as_posix()


def _label_file(images_dir: Path, name: str) -> Path | None:
    """The label file of an image; None where there is none."""
    parts = without_suffix(name).split("/")
    candidates = ["/".join(parts)]
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        candidates.insert(0, "/".join((*parts[:last], "labels", *parts[last + 1 :])))
    return next((path for one in candidates if (path := images_dir / f"{one}.txt").is_file()), None)


def yaml_of(data: Path) -> Path | None:
    """A YAML file itself; the ``data.yaml`` of a folder, else its ``dataset.yaml`` or only YAML that lists classes."""
    if data.is_file():
        return data if data.suffix.lower() in (".yaml", ".yml") else None
    for name in DATA_YAML:
        if (data / name).is_file():
            return data / name
    others = [path for path in (*data.glob("*.yaml"), *data.glob("*.yml")) if path.is_file()]
    likely = [path for path in others if path.name == _LIKELY_YAML] or others
    return likely[0] if len(likely) == 1 and _lists_classes(likely[0]) else None


def recognises(data: Path) -> bool:
    """Whether it is a YAML file, or a folder with a ``data.yaml``; see `yaml_of`."""
    return yaml_of(data) is not None


def find(data: Path, split: str, *, exact: bool = False, split_seed: int = 0) -> YoloSplit:
    """Finds one split by a ``data.yaml``, which says where all are; there is nothing to draw by a seed."""
    del exact, split_seed
    content = read_data_yaml(yaml_of(data) or data)
    places, train = content.places(split), tuple[Path, ...]()
    if split == "val":
        # Where the train split is cannot always be told, as the val split alone may be there.
        with suppress(ConfigError, DataError):
            train = content.places("train")
    return YoloSplit(content, places, train)


def splits(data: Path) -> tuple[str, ...]:
    """The splits that a ``data.yaml`` names."""
    return tuple(split for split, places in read_data_yaml(yaml_of(data) or data).splits.items() if places)


def write(folder: Path, splits: Mapping[str, WritableSplit], class_names: tuple[str, ...], place: Place) -> None:
    """Writes ``data.yaml``, and ``images`` and ``labels`` with a folder for every split; ignored boxes are left out."""
    places = {name: f"images/{name}" for name in splits}
    content = {"path": ".", **places, "names": dict(enumerate(plain_classes(class_names)))}
    (folder / "data.yaml").write_text(dump_yaml(content), encoding="utf-8")
    for name, split in splits.items():
        for image in split.images():
            # The last folder named images is the one that labels stand beside.
            before, _, after = f"images/{name}/{image.stem}".rpartition("images/")
            left_out = len(image.regions) + sum(item.ignored for item in image.boxes)
            if left_out:
                what = f"{left_out} ignored boxes or regions, which YOLO has no word for"
                split.problems.add("ignored boxes left out", str(image.path), what=what)
            lines = [_line(item.label, item.box, image.size) for item in image.boxes if not item.ignored]
            write_plain(folder / f"{before}labels/{after}.txt", lines)
            place(image, folder / places[name] / image.name)


def _line(label: int, box: Box, size: tuple[int, int]) -> str:
    height, width = size
    x1, y1, x2, y2 = box[0] / width, box[1] / height, box[2] / width, box[3] / height
    digits = 6 if min(x2 - x1, y2 - y1) >= 1e-4 else 10
    values = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
    return " ".join([str(label), *(f"{value:.{digits}f}" for value in values)])


FORMAT = Format(
    name="yolo",
    title="YOLO",
    precedence=20,
    holds="data.yaml with train or val",
    file="a data.yaml with train or val",
    recognises=recognises,
    splits=splits,
    find=find,
    write=write,
)
