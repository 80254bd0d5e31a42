"""The entries of a COCO file as growing columns of numbers: what stands in each entry, judged by itself."""

from __future__ import annotations

import math
from array import array
from typing import Any

from detdistill.data.image_files import is_text, unsafe_name
from detdistill.data.problems import Problems

NO_ID = -(2**63)
_LARGEST_SIDE = 2**31 - 1


def whole(value: object) -> int | None:
    """A JSON number as an id; None where it is none that fits 64 bits."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and -(2**63) < value < 2**63 and not isinstance(value, bool):
        return value
    return None


def number(value: object) -> float:
    """A JSON number as a float; NaN where it is none."""
    if type(value) is float:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def xywh(value: object) -> tuple[float, float, float, float]:
    """A JSON box; four NaN where it is no list of four."""
    if not isinstance(value, list) or len(value) != 4:
        return (math.nan, math.nan, math.nan, math.nan)
    return (number(value[0]), number(value[1]), number(value[2]), number(value[3]))


class Columns:
    """Collects the entries of one file; a few dozen bytes each, whatever else an entry holds.

    Args:
        source: the file's name, for problems.
        problems: takes what an entry alone shows to be wrong.
    """

    def __init__(self, source: str, problems: Problems) -> None:
        self.source = source
        self.problems = problems
        self.class_names: list[str] = []
        self.class_ids: list[int] = []
        self.label_of_id: dict[int, int] = {}
        self.image_ids = array("q")
        self.heights = array("i")
        self.widths = array("i")
        self.names = bytearray()
        self.name_ends = array("q")
        self.kept = bytearray()
        self.lacks_sizes = False
        self._known_images: set[int] = set()
        self.region_rows = array("q")
        self.region_boxes = array("d")
        self.ids = array("q")
        self.box_images = array("q")
        self.box_categories = array("q")
        self.boxes = array("d")
        self.areas = array("d")
        self.crowds = bytearray()
        self._seen = {"images": 0, "annotations": 0, "categories": 0}

    @property
    def image_count(self) -> int:
        """Images with an id of their own, those skipped for another reason included."""
        return len(self.image_ids)

    def file_name(self, row: int) -> str:
        """The file name of image `row`."""
        begin = self.name_ends[row - 1] if row else 0
        return self.names[begin : self.name_ends[row]].decode()

    def size(self, row: int) -> tuple[int, int]:
        """Height and width of image `row`, 0 where the file gives none."""
        return self.heights[row], self.widths[row]

    def keeps_image(self, row: int) -> bool:
        """Whether image `row` has not been skipped."""
        return bool(self.kept[row])

    def first_names(self, count: int) -> list[str]:
        """The file names of the first few images that are kept."""
        rows = range(min(self.image_count, 10 * count))
        return [self.file_name(row) for row in rows if self.kept[row]][:count]

    def image_place(self, row: int) -> str:
        """Where image `row` stands, for problems."""
        return f"{self.source}, image {self.image_ids[row]}"

    def box_place(self, row: int) -> str:
        """Where annotation `row` stands, for problems."""
        own = self.ids[row]
        return f"{self.source}, annotation {own}" if own != NO_ID else f"{self.source}, annotation without id"

    def region_place(self, row: int) -> str:
        """Where ignore region `row` stands, for problems."""
        return self.image_place(self.region_rows[row])

    def skip_image(self, row: int, kind: str, what: str) -> None:
        """Leaves image `row` out."""
        self.kept[row] = 0
        self.problems.add(kind, self.image_place(row), what=what, action="skipped")

    def repair_size(self, row: int, size: tuple[int, int]) -> None:
        """Gives image `row` the height and width of its file."""
        self.heights[row], self.widths[row] = size
        what = f"no width and height; the file is {size[1]}x{size[0]}"
        self.problems.add("image without size", self.image_place(row), what=what, action="repaired")

    def _bad_entry(self, section: str, what: str) -> None:
        where = f"{self.source}, {section} entry {self._seen[section]}"
        self.problems.add(f"bad entry in {section}", where, what=what, action="skipped")

    def add_category(self, entry: Any) -> None:
        """Takes one entry of ``categories``."""
        self._seen["categories"] += 1
        own = whole(entry.get("id")) if isinstance(entry, dict) else None
        name = entry.get("name") if isinstance(entry, dict) else None
        if own is None or not isinstance(name, str) or not name.strip() or not is_text(name):
            self._bad_entry("categories", "id must be a whole number and name a text")
            return
        where = f"{self.source}, category {own}"
        if own in self.label_of_id:
            self.problems.add("category id twice", where, what=f"{name!r} is the second", action="skipped")
        elif name in self.class_names:
            self.label_of_id[own] = self.class_names.index(name)
            first = self.class_ids[self.label_of_id[own]]
            what = f"{name!r} is category {first} too; both count as one class"
            self.problems.add("category name twice", where, what=what, action="repaired")
        else:
            self.label_of_id[own] = len(self.class_names)
            self.class_names.append(name)
            self.class_ids.append(own)

    def add_image(self, entry: Any) -> None:
        """Takes one entry of ``images``."""
        self._seen["images"] += 1
        own = whole(entry.get("id")) if isinstance(entry, dict) else None
        if own is None:
            self._bad_entry("images", "id must be a whole number")
            return
        name = entry.get("file_name")
        if own in self._known_images:
            where = f"{self.source}, image {own}"
            self.problems.add("image id twice", where, what=f"{name!r} is the second", action="skipped")
            return
        self._known_images.add(own)
        height, width = whole(entry.get("height")), whole(entry.get("width"))
        if height is None or width is None or not (0 < height <= _LARGEST_SIDE and 0 < width <= _LARGEST_SIDE):
            height, width = 0, 0
        flaw = unsafe_name(name)
        self.lacks_sizes |= height == 0 and flaw is None
        self.image_ids.append(own)
        self.heights.append(height)
        self.widths.append(width)
        self.kept.append(1)
        if flaw is None:
            self.names += name.encode()
        self.name_ends.append(len(self.names))
        row = self.image_count - 1
        if flaw is not None:
            self.skip_image(row, "unusable file name", f"file_name {name!r} {flaw}")
        regions = entry.get("ignore_regions")
        for region in regions if isinstance(regions, list) else ():
            self.region_rows.append(row)
            self.region_boxes.extend(xywh(region))

    def add_annotation(self, entry: Any) -> None:
        """Takes one entry of ``annotations``."""
        self._seen["annotations"] += 1
        image = whole(entry.get("image_id")) if isinstance(entry, dict) else None
        category = whole(entry.get("category_id")) if isinstance(entry, dict) else None
        if image is None or category is None:
            self._bad_entry("annotations", "image_id and category_id must be whole numbers")
            return
        own = whole(entry.get("id"))
        self.ids.append(NO_ID if own is None else own)
        self.box_images.append(image)
        self.box_categories.append(category)
        self.boxes.extend(xywh(entry.get("bbox")))
        self.areas.append(number(entry.get("area")))
        self.crowds.append(entry.get("iscrowd") in (1, "1"))
