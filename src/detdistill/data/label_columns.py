"""Columns for formats with one label file an image: every problem is told by file and line."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import final

from detdistill.data.annotations import Annotations
from detdistill.data.coco_arrays import assemble
from detdistill.data.coco_columns import NO_ID, Columns
from detdistill.data.image_files import header_size, image_flaw
from detdistill.data.problems import Problems

Box = tuple[float, float, float, float]
_LARGEST_ID = 2**62


def image_numbers(stems: Sequence[str]) -> list[int]:
    """Ids for images that have names alone: the numbers they are named by, where all are, else 1, 2, 3 and so on."""
    last = [stem.rsplit("/", 1)[-1] for stem in stems]
    if all(name.isascii() and name.isdigit() and len(name) < 19 for name in last):
        numbers = [int(name) for name in last]
        if len(set(numbers)) == len(numbers) and max(numbers, default=0) < _LARGEST_ID:
            return numbers
    return list(range(1, len(stems) + 1))


def usable_size(
    path: Path,
    stated: tuple[int, int] | None,
    *,
    where: str,
    check_images: bool,
    problems: Problems,
) -> tuple[int, int] | None:
    """Height and width of an image as annotated, or from its header; None where the image cannot be used.

    Args:
        path: the image.
        stated: what its label file says; None where it says nothing.
        where: the label file, for problems.
        check_images: decode the image fully.
        problems: takes what is wrong with the image.
    """
    present = path.is_file()
    size = (stated or header_size(path)) if present else None
    flaw: tuple[str, str] | None = None
    if size is None:
        kind = "image file unreadable" if present else "image file missing"
        flaw = kind, f"{path} {'cannot be decoded' if present else 'does not exist'}"
    elif check_images:
        flaw = image_flaw(path, height=size[0], width=size[1])
    if flaw is not None:
        problems.add(flaw[0], where, what=flaw[1], action="skipped")
        return None
    return size


@final
class LabelColumns(Columns):
    """Collects images and boxes of one split.

    Args:
        source: the data set, for problems.
        problems: takes what is wrong.
        class_names: in label order.
        class_ids: the source's id of each class; 1, 2, 3 and so on by default.
    """

    def __init__(
        self, source: str, problems: Problems, *, class_names: Sequence[str], class_ids: Sequence[int] | None = None
    ) -> None:
        super().__init__(source, problems)
        for own, name in zip(class_ids or range(1, len(class_names) + 1), class_names, strict=True):
            self.add_category({"id": own, "name": name})
        self._files: list[str] = []
        self._sizes: list[tuple[int, int]] = []
        self._box_rows = array("q")
        self._box_lines = array("q")
        self._region_lines = array("q")

    def image_place(self, row: int) -> str:
        """The label file of image `row`."""
        return self._files[row]

    def box_place(self, row: int) -> str:
        """File and line of box `row`."""
        return f"{self._files[self._box_rows[row]]}, line {self._box_lines[row]}"

    def region_place(self, row: int) -> str:
        """File and line of ignore region `row`."""
        return f"{self._files[self.region_rows[row]]}, line {self._region_lines[row]}"

    def add_file(self, name: str, *, size: tuple[int, int], labels: str) -> int:
        """Takes an image.

        Args:
            name: relative to the images' folder; safe.
            size: height and width.
            labels: its label file, for problems.

        Returns:
            Its row.
        """
        self._files.append(labels)
        self._sizes.append(size)
        self.image_ids.append(len(self._files))
        self.heights.append(size[0])
        self.widths.append(size[1])
        self.kept.append(1)
        self.names += name.encode()
        self.name_ends.append(len(self.names))
        return len(self._files) - 1

    def add_box(self, row: int, box: Box, *, category: int, line: int, ignored: bool = False) -> None:
        """Takes a box of image `row`: x1, y1, x2, y2 in pixels, whatever they are."""
        x1, y1, x2, y2 = box
        height, width = self._sizes[row]
        sides = min(x2, width) - max(x1, 0.0), min(y2, height) - max(y1, 0.0)
        self.ids.append(NO_ID)
        self.box_images.append(row + 1)
        self.box_categories.append(category)
        self.boxes.extend((x1, y1, x2 - x1, y2 - y1))
        # Where this is no area, the box itself is skipped.
        self.areas.append(sides[0] * sides[1] if min(sides) > 0 else 1.0)
        self.crowds.append(ignored)
        self._box_rows.append(row)
        self._box_lines.append(line)

    def add_region(self, row: int, box: Box, *, line: int) -> None:
        """Takes a region of image `row` in which nothing counts."""
        x1, y1, x2, y2 = box
        self.region_rows.append(row)
        self.region_boxes.extend((x1, y1, x2 - x1, y2 - y1))
        self._region_lines.append(line)

    def finish(self, order: Sequence[int], *, images_dir: Path, stems: Sequence[str]) -> Annotations:
        """Checks the boxes against their images and lays everything out.

        Args:
            order: for every label, which of `class_names` it is.
            images_dir: folder that the images' names are relative to.
            stems: the images' names without endings, which ids are made from.
        """
        numbers = image_numbers(stems)
        self.image_ids = array("q", numbers)
        self.box_images = array("q", (numbers[row] for row in self._box_rows))
        return assemble(self, order, images_dir=images_dir)
