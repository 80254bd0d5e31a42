"""Reads the entries of a COCO file as columns of numbers, in one streamed pass.

The file may be larger than memory: entries are read one at a time and kept as numbers; polygons are passed over.
The lists ``images``, ``annotations`` and ``categories`` may come in any order. Labels 0..K-1 follow the order of
the file's ``categories``, whatever their ids and the gaps between them; images keep the file's order too.
``ignore_regions`` of an image (lists of x, y, width, height: KITTI's DontCare) are an addition to COCO.

Fine, and never reported: category ids with gaps, images without boxes, file names with sub-folders, crowd boxes
(``iscrowd`` 1: kept, marked ignored), missing annotation ids, ``iscrowd`` missing (0). What is repaired, skipped or
refused is listed in ``docs/data.md``.
"""

from __future__ import annotations

import json
import math
import re
from array import array
from itertools import islice
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from detdistill.data.annotations import Reading
from detdistill.data.builder import Boxes, Images
from detdistill.data.formats.coco_places import Naming
from detdistill.data.formats.json_stream import BEGIN, walk
from detdistill.data.image_files import LONGEST_NAME, absent, is_text, settled_size, unsafe_name
from detdistill.data.listing import Share
from detdistill.data.problems import Lost, Problems
from detdistill.errors import DataError

LISTS = ("images", "annotations", "categories")
_LOSES: dict[str, Lost] = {"images": "images", "annotations": "boxes"}
_NO_ID = -(2**63)
_LARGEST_SIDE = 2**31 - 1
_LARGEST = 1e300
_DIGITS = re.compile(r"[0-9]{1,18}")


def first_file_names(json_path: Path, *, count: int = 20) -> list[str]:
    """The first few file names of a COCO file, as written; reads no further than needed."""
    names = (_fields(entry).get("file_name") for _, entry in walk(json_path, ("images",)))
    texts = (name for name in names if isinstance(name, str) and is_text(name) and 0 < len(name) <= LONGEST_NAME)
    return list(islice(texts, count))


def whole(value: object) -> int | None:
    """A JSON number as an id; None where it is none that fits 64 bits."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and -(2**63) < value < 2**63 and not isinstance(value, bool):
        return value
    return None


def _fields(entry: Any) -> dict[str, Any]:
    """An entry's fields; none where it is no JSON object."""
    return entry if isinstance(entry, dict) else {}


def _number(value: object) -> float:
    """A JSON number as a float; NaN where it is none."""
    if type(value) is float:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _xywh(value: object) -> list[float] | None:
    """A JSON box; None where it is no list of four numbers."""
    if not isinstance(value, list) or len(value) != 4 or any(type(side) not in (int, float) for side in value):
        return None
    return [_number(side) for side in value]


def _shown(value: object) -> str:
    """A JSON value as it was written, shortened."""
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value[:6]))}{', ...' if len(value) > 6 else ''}]" if value else "[]"
    return "{...}" if isinstance(value, dict) else json.dumps(value)[:60]


def _positions(keys: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each wanted number stands among distinct keys, -1 where it does not."""
    if len(keys) == 0:
        return np.full(len(wanted), -1, dtype=np.int64)
    order = np.argsort(keys)
    found = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
    return np.where(keys[found] == wanted, found, -1)


def _repeats(ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which ids stood earlier in the array already; those missing never repeat."""
    again = np.ones(len(ids), dtype=np.bool_)
    again[np.unique(ids, return_index=True)[1]] = False
    again[ids == _NO_ID] = False
    return again


def _corners(given: NDArray[np.float64]) -> NDArray[np.float64]:
    """x, y, width, height as x1, y1, x2, y2; what is not finite stays so, and what is finite does."""
    bounded = np.where(np.isfinite(given), given.clip(-_LARGEST, _LARGEST), given)
    return np.concatenate([bounded[:, :2], bounded[:, :2] + bounded[:, 2:]], axis=1)


@final
class CocoFile:
    """The entries of one file; a few dozen bytes each, whatever else an entry holds."""

    def __init__(self, path: Path, problems: Problems, *, naming: Naming) -> None:
        self.path, self.problems, self._naming = path, problems, naming
        self.class_names: list[str] = []
        self.class_ids: list[int] = []
        self.images = Images()
        self._label_of_id: dict[int, int] = {}
        self._label_of_name: dict[str, int] = {}
        self._known_images: set[int] = set()
        self._known_names: set[int] = set()
        self._elsewhere = np.zeros(0, dtype=np.bool_)
        self._text_ids: set[str] = set()
        self._region_rows, self._region_boxes = array("q"), array("d")
        self._ids, self._box_images, self._box_categories = array("q"), array("q"), array("q")
        self._boxes, self._areas, self._crowds = array("d"), array("d"), bytearray()
        self._read()

    def _read(self) -> None:
        add = {"images": self._add_image, "annotations": self._add_annotation, "categories": self._add_category}
        counts = dict.fromkeys(LISTS, 0)
        seen: list[str] = []
        for key, entry in walk(self.path, LISTS):
            if entry is BEGIN:
                seen.append(key)
                continue
            counts[key] += 1
            if flaw := add[key](_fields(entry)):
                where, loses = f"{self.path}, {key} entry {counts[key]}", _LOSES.get(key)
                self.problems.add(f"bad entry in {key}", where, what=flaw, loses=loses)
        require_lists(self.path, seen)
        if not self.class_names:
            raise DataError(
                f'"categories" of {self.path} must name at least one class, got none that can be read. '
                f"Add entries with id and name."
            )

    def _add_category(self, entry: dict[str, Any]) -> str | None:
        """Takes a category, or says why it is none."""
        own, name = self._number("categories", entry, "id"), entry.get("name")
        if own is None or not isinstance(name, str) or not name.strip() or not is_text(name):
            got = f"{_shown(entry.get('id'))} and {_shown(name)}"
            return f"id must be a whole number and name a text, got {got}"
        where = f"{self.path}, category {own}"
        if own in self._label_of_id:
            self.problems.add("category id twice", where, what=f"{name!r} is the second")
        elif name in self._label_of_name:
            self._label_of_id[own] = self._label_of_name[name]
            first = self.class_ids[self._label_of_id[own]]
            what = f"{name!r} is category {first} too; both count as one class"
            self.problems.add("category name twice", where, what=what, action="repaired")
        else:
            self._label_of_id[own] = self._label_of_name[name] = len(self.class_names)
            self.class_names.append(name)
            self.class_ids.append(own)
        return None

    def _add_image(self, entry: dict[str, Any]) -> str | None:
        """Takes an image, or says why it is none."""
        own, name = self._number("images", entry, "id"), entry.get("file_name")
        if own is None:
            return f"id must be a whole number, got {_shown(entry.get('id'))}"
        if own in self._known_images:
            self.problems.add("image id twice", f"{self.path}, image {own}", what=f"{name!r} is the second")
            return None
        self._known_images.add(own)
        height, width = whole(entry.get("height")), whole(entry.get("width"))
        if height is None or width is None or not (0 < height <= _LARGEST_SIDE and 0 < width <= _LARGEST_SIDE):
            height, width = 0, 0
        if isinstance(name, str) and (read := self._naming(name)) != name:
            what, name = f"file_name {name!r} read as {read!r}", read
            self.problems.add("file name of another machine", f"{self.path}, image {own}", what=what, action="repaired")
        flaw = unsafe_name(name)
        row = self.images.add(str(name) if flaw is None else "", (height, width), own=own)
        if flaw is not None:
            self._skip_image(row, "unusable file name", f"file_name {name!r} {flaw}")
        elif hash(name) in self._known_names:
            what = f"{name!r} is an image of another id too"
            self.problems.add("image file of two ids", self._image_place(row), what=what, action="kept")
        self._known_names.add(hash(name))
        regions = entry.get("ignore_regions")
        for region in regions if isinstance(regions, list) else ():
            self._region_rows.append(row)
            self._region_boxes.extend(_xywh(region) or [math.nan] * 4)
        return None

    def _add_annotation(self, entry: dict[str, Any]) -> str | None:
        """Takes a box, or says why it is none."""
        image, category = (self._number("annotations", entry, key) for key in ("image_id", "category_id"))
        if image is None or category is None:
            got = " and ".join(_shown(entry.get(key)) for key in ("image_id", "category_id"))
            return f"image_id and category_id must be whole numbers, got {got}"
        own, box = whole(entry.get("id")), _xywh(entry.get("bbox"))
        if box is None:
            where = f"{self.path}, annotation {_shown(entry.get('id'))}"
            what = f'"bbox": {_shown(entry.get("bbox"))} of image_id {image}'
            self.problems.add("box not four finite numbers", where, what=what, loses="boxes")
            return None
        self._ids.append(_NO_ID if own is None else own)
        self._box_images.append(image)
        self._box_categories.append(category)
        self._boxes.extend(box)
        self._areas.append(_number(entry.get("area")))
        self._crowds.append(entry.get("iscrowd") in (1, "1"))
        return None

    def _number(self, section: str, entry: dict[str, Any], key: str) -> int | None:
        """An id of an entry; one written as text is taken as the number it names, which is told once."""
        value = entry.get(key)
        own = whole(value)
        if own is None and isinstance(value, str) and _DIGITS.fullmatch(value):
            own, place = int(value), f"{key} in {section}"
            if place not in self._text_ids:
                self._text_ids.add(place)
                what = f"{_shown(value)} and the like are taken as numbers"
                self.problems.add("id written as text", f"{self.path}, {place}", what=what, action="repaired")
        return own

    def _image_place(self, row: int) -> str:
        return f"{self.path}, image {self.images.ids[row]}"

    def _box_place(self, row: int) -> str:
        own = self._ids[row]
        return f"{self.path}, annotation {own}" if own != _NO_ID else f"{self.path}, annotation without id"

    def _skip_image(self, row: int, kind: str, what: str) -> None:
        self.images.kept[row] = 0
        self.problems.add(kind, self._image_place(row), what=what, loses="images")

    def keep(self, share: Share) -> None:
        """Keeps the images of one split alone; the file's others, with all that is in them, are passed over."""
        images = self.images
        names = [images.name(row) for row in range(len(images))]
        chosen = {entry.stem for entry in share.choose(list(dict.fromkeys(names)), self.problems)}
        self._elsewhere = np.array([name not in chosen for name in names], dtype=np.bool_)
        for row in np.flatnonzero(self._elsewhere).tolist():
            images.kept[row] = 0

    def settle_images(self, folder: Path, reading: Reading) -> None:
        """Fills in missing sizes from the files, and skips what cannot be used; opens no image without need.

        A folder that holds none of the images is not theirs, and says nothing about which are missing.
        """
        images = self.images
        gone = bytearray(absent(folder, map(images.name, range(len(images)))))
        elsewhere = all(gone)
        for row in range(len(images)):
            lacks = images.heights[row] == 0
            if images.kept[row] and gone[row] and not elsewhere:
                self._skip_image(row, "image file missing", f"{folder / images.name(row)} does not exist")
            elif images.kept[row] and (lacks or reading.check_images):
                self._settle(row, folder / images.name(row), lacks=lacks, decode=reading.check_images)
            if reading.check_images:
                reading.progress(row + 1, len(images))

    def _settle(self, row: int, path: Path, *, lacks: bool, decode: bool) -> None:
        images, where = self.images, self._image_place(row)
        stated = None if lacks else (images.heights[row], images.widths[row])
        size = settled_size(path, stated, decode=decode, problems=self.problems, where=where)
        if size is None:
            images.kept[row] = 0
            return
        images.heights[row], images.widths[row] = size
        if lacks:
            what = f"no width and height; the file is {size[1]}x{size[0]}"
            self.problems.add("image without size", where, what=what, action="repaired")

    def objects(self) -> Boxes:
        """The annotations, those of an image and a category of the file."""
        image_of = np.frombuffer(self._box_images, dtype=np.int64)
        rows = _positions(np.frombuffer(self.images.ids, dtype=np.int64), image_of)
        category_of = np.frombuffer(self._box_categories, dtype=np.int64)
        known = _positions(np.array(list(self._label_of_id), dtype=np.int64), category_of)
        labels = np.array([*self._label_of_id.values(), -1], dtype=np.int64)[known]
        given = np.frombuffer(self._boxes, dtype=np.float64).reshape(-1, 4)
        boxes = Boxes(
            _corners(given),
            rows,
            self.images,
            self.problems,
            self._box_place,
            given=given,
            labels=labels,
            ignored=np.frombuffer(self._crowds, dtype=np.bool_),
            areas=np.frombuffer(self._areas, dtype=np.float64),
            loses="boxes",
        )

        def image(row: int) -> str:
            return f"image_id {image_of[row]}"

        if len(self._elsewhere):
            boxes.good &= ~np.append(self._elsewhere, False)[rows]
        for row in np.flatnonzero(boxes.good & _repeats(np.frombuffer(self._ids, dtype=np.int64))).tolist():
            what = f"another of {image(row)}"
            self.problems.add("annotation id twice", self._box_place(row), what=what, action="kept")
        boxes.report("box of an unknown image", rows < 0, image)
        boxes.report("box of a skipped image", ~np.append(self.images.kept_rows(), True)[rows], image)
        unknown = "category_id {}, {}".format
        boxes.report("box of an unknown category", labels < 0, lambda row: unknown(category_of[row], image(row)))
        return boxes

    def regions(self) -> Boxes:
        """The ignore regions of images that are kept."""
        rows = np.frombuffer(self._region_rows, dtype=np.int64)
        given = np.frombuffer(self._region_boxes, dtype=np.float64).reshape(-1, 4)
        regions = Boxes(
            _corners(given), rows, self.images, self.problems, lambda row: self._image_place(rows[row]), given=given
        )
        regions.good &= self.images.kept_rows()[rows]
        return regions


def require_lists(path: Path, seen: list[str]) -> None:
    """Refuses, with a `DataError`, a file that lacks one of COCO's lists among the keys seen."""
    if missing := [key for key in LISTS if key not in seen]:
        if any(key.startswith("_via_") for key in seen):
            raise DataError(
                f"{path} must be a COCO file, got a project of the VGG Image Annotator (VIA). Export it there by "
                f"Annotation, Export Annotations (COCO format), and give that file."
            )
        if "shapes" in seen:
            raise DataError(
                f"{path} must be a COCO file, got labelme's file of one image. Give its folder, {path.parent}."
            )
        raise DataError(
            f"{path} must be a COCO file with the lists {', '.join(LISTS)}, "
            f"got no {' and no '.join(missing)} (its keys: {', '.join(seen[:12]) or 'none'}). "
            f"Give an annotation file of COCO's object detection format."
        )
