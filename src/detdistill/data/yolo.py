"""Reads YOLO: a ``data.yaml``, images in folders or in lists, and one text file of boxes an image.

The label file of ``images/a.jpg`` is ``labels/a.txt`` (the last folder ``images`` of the path becomes ``labels``), or
``a.txt`` beside the image. An image without one has no boxes. A line is a class number and the box's centre, width
and height as shares of the image; or a class number and a polygon of three points or more, of which the box around
it is taken. With ``kpt_shape`` in ``data.yaml`` the box's four numbers are followed by key points, which are passed
over.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from detdistill.data.annotations import Annotations
from detdistill.data.coco import label_order
from detdistill.data.image_files import unsafe_name
from detdistill.data.label_columns import Box, LabelColumns, usable_size
from detdistill.data.label_text import FileFlaw, number, numbered_lines, read_text
from detdistill.data.listing import IMAGE_SUFFIXES, Entry, files_below, read_list, report_shared, shown, without_suffix
from detdistill.data.problems import Problems
from detdistill.data.yolo_yaml import YoloData, lists_classes, read_data_yaml
from detdistill.errors import ConfigError, DataError

DATA_YAML = ("data.yaml", "data.yml")
_LIKELY_YAML = "dataset.yaml"
_POLYGON = 7


@final
@dataclass(frozen=True, slots=True)
class YoloSplit:
    """One split of a YOLO data set: what ``data.yaml`` says, and the split's folders and lists.

    `train` has those of the train split, for the val split alone: images of both are told.
    """

    data: YoloData
    places: tuple[Path, ...]
    train: tuple[Path, ...] = ()

    @property
    def source(self) -> Path:
        """What messages call the split's data."""
        return self.data.file

    def text(self) -> str:
        """What is read, in a line."""
        folder = self.data.file.parent
        return f"YOLO: {self.data.file.name}, images of {', '.join(shown(place, folder) for place in self.places)}"

    def read(
        self,
        *,
        class_names: Sequence[str] | None = None,
        check_images: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Annotations, Problems]:
        """Reads the split; see `read_coco` for the arguments.

        Raises:
            DataError: a list cannot be read, no image has a label file, or the classes are not those demanded.
        """
        problems = Problems()
        images_dir = self.data.file.parent
        columns = LabelColumns(
            str(self.data.file), problems, class_names=list(self.data.names.values()), class_ids=list(self.data.names)
        )
        order = label_order(self.data.file, columns.class_names, class_names)
        images = self._images(self.places, images_dir, problems)
        report_shared(images, {entry.stem for entry in self._images(self.train, images_dir, Problems())}, problems)
        used, labelled = [], 0
        for done, entry in enumerate(images, start=1):
            labels = _label_file(images_dir, entry.stem)
            labelled += labels is not None
            size = usable_size(
                images_dir / entry.stem, None, where=entry.where, check_images=check_images, problems=problems
            )
            if size is not None and self._add(columns, entry.stem, labels, size):
                used.append(without_suffix(entry.stem))
            if progress is not None:
                progress(done, len(images))
        if images and not labelled:
            raise DataError(
                f"the images of {self.data.file} must have label files, got none for all {len(images)} "
                f"(such as {images[0].stem}). Put a.txt for images/a.jpg into labels/, or beside the image."
            )
        return columns.finish(order, images_dir=images_dir, stems=used), problems

    def _images(self, places: Sequence[Path], images_dir: Path, problems: Problems) -> list[Entry]:
        """A split's images, named relative to the folder of ``data.yaml``."""
        found: dict[str, Entry] = {}
        for place in places:
            entries = _folder if place.is_dir() else self._listed
            for entry in entries(place, images_dir, problems):
                if entry.stem in found:
                    what = f"{entry.stem!r} is the second"
                    problems.add("image listed twice", entry.where, what=what, action="skipped")
                else:
                    found[entry.stem] = entry
        return list(found.values())

    def _listed(self, path: Path, images_dir: Path, problems: Problems) -> list[Entry]:
        entries = []
        for where, line in read_list(path):
            name = _listed_name(line.replace("\\", "/"), (path.parent, self.data.root, images_dir), images_dir)
            flaw = unsafe_name(name)
            if flaw is None:
                entries.append(Entry(name, where))
            else:
                problems.add("unusable file name", where, what=f"{line!r} {flaw}", action="skipped")
        return entries

    def _add(self, columns: LabelColumns, name: str, labels: Path | None, size: tuple[int, int]) -> bool:
        """Adds an image and its boxes; False where its label file cannot be read."""
        place = labels or Path(name)
        try:
            lines = list(numbered_lines(read_text(labels))) if labels is not None else []
        except FileFlaw as flaw:
            columns.problems.add(flaw.kind, flaw.where(place), what=flaw.what, action="skipped")
            return False
        row = columns.add_file(name, size=size, labels=str(place))
        for line, text in lines:
            words = text.split()
            flaw_of_line = self._flaw(words)
            if flaw_of_line is not None:
                kind, what = flaw_of_line
                columns.problems.add(kind, f"{place}, line {line}", what=what, action="skipped")
            else:
                box = _box([number(word) for word in words[1:]], size, polygon=self._is_polygon(words))
                columns.add_box(row, box, category=int(float(words[0])), line=line)
        return True

    def _is_polygon(self, words: list[str]) -> bool:
        return len(words) >= _POLYGON and not self.data.keypoints

    def _flaw(self, words: list[str]) -> tuple[str, str] | None:
        """What is wrong with a line: kind and facts."""
        count = len(words)
        polygon = count >= _POLYGON and count % 2 == 1
        if count != 5 and not polygon and not (self.data.keypoints and count > 5):
            return "wrong number of columns", f"{count} instead of 5, or of a class and at least 3 points"
        own = number(words[0])
        if not math.isfinite(own) or own != int(own) or int(own) not in self.data.names:
            return "box of an unknown class", f"class {words[0][:40]!r} is none of the {len(self.data.names)} classes"
        return None


def _box(values: list[float], size: tuple[int, int], *, polygon: bool) -> Box:
    """x1, y1, x2, y2 in pixels; NaN where a number is none."""
    height, width = size
    if polygon:
        across, down = values[::2], values[1::2]
        if not all(math.isfinite(value) for value in values):
            return math.nan, math.nan, math.nan, math.nan
        return min(across) * width, min(down) * height, max(across) * width, max(down) * height
    x, y, w, h = values[:4]
    return (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height


def _folder(place: Path, images_dir: Path, problems: Problems) -> list[Entry]:
    base = place.relative_to(images_dir)
    names = files_below(place, IMAGE_SUFFIXES, problems)
    return [Entry((base / name).as_posix(), str(place / name)) for name in names]


def _listed_name(line: str, places: Sequence[Path], images_dir: Path) -> str:
    """A line of a list as a name relative to the data set; still unsafe where it leads out of it."""
    base = os.path.abspath(images_dir)
    names = []
    for place in places:
        target = os.path.normpath(os.path.join(os.path.abspath(place), line))
        names.append(os.path.relpath(target, base))
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


def yaml_of(folder: Path) -> Path | None:
    """The ``data.yaml`` of a folder; else its ``dataset.yaml`` or only YAML file, where that lists classes."""
    for name in DATA_YAML:
        if (folder / name).is_file():
            return folder / name
    others = [path for path in (*folder.glob("*.yaml"), *folder.glob("*.yml")) if path.is_file()]
    likely = [path for path in others if path.name == _LIKELY_YAML] or others
    return likely[0] if len(likely) == 1 and lists_classes(likely[0]) else None


def find_yolo(data_yaml: Path, split: str) -> YoloSplit:
    """Finds one split of a YOLO data set.

    Raises:
        ConfigError: the file cannot be read, or does not say where the split is.
        DataError: it names no classes, or places outside its folder.
    """
    data = read_data_yaml(data_yaml)
    return YoloSplit(data, data.places(split), _train_places(data) if split == "val" else ())


def _train_places(data: YoloData) -> tuple[Path, ...]:
    """Where the train split is; nowhere if that cannot be told, as the val split alone may be there."""
    try:
        return data.places("train")
    except (ConfigError, DataError):
        return ()


def yolo_splits(data_yaml: Path) -> tuple[str, ...]:
    """The splits that a ``data.yaml`` names.

    Raises:
        ConfigError: the file cannot be read.
        DataError: it names no classes.
    """
    return tuple(split for split, places in read_data_yaml(data_yaml).splits.items() if places)
