"""From the columns of a COCO file to `Annotations`: what entries show only together, and against their image."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detdistill.data.annotations import Annotations
from detdistill.data.coco_columns import NO_ID, Columns

MOST_CLASSES_FOR_REGIONS = 32
UNREPORTED_OVERHANG_PX = 0.5
_LARGEST_AREA = 1e30

Mask = NDArray[np.bool_]


def _positions(keys: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each wanted number stands among distinct keys, -1 where it does not."""
    if len(keys) == 0:
        return np.full(len(wanted), -1, dtype=np.int64)
    order = np.argsort(keys)
    found = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
    return np.where(keys[found] == wanted, found, -1)


def _repeats(ids: NDArray[np.int64]) -> Mask:
    """Which ids stood earlier in the array already; those missing never repeat."""
    again = np.ones(len(ids), dtype=np.bool_)
    again[np.unique(ids, return_index=True)[1]] = False
    again[ids == NO_ID] = False
    return again


def _any(mask: Mask) -> Mask:
    """Which rows have any True."""
    rows: Mask = np.logical_or.reduce(mask, axis=1)
    return rows


class _Boxes:
    """Boxes being clipped to their images; `good` says which are left."""

    def __init__(self, boxes: array[float], rows: NDArray[np.int64], *, good: Mask, columns: Columns) -> None:
        self.given = np.frombuffer(boxes, dtype=np.float64).reshape(-1, 4)
        self.rows = rows
        self.good = good
        self.columns = columns

    def report(
        self,
        kind: str,
        at: Mask,
        *,
        where: Callable[[int], str],
        what: Callable[[int], str],
        repaired: bool = False,
    ) -> None:
        """Reports the good boxes of the mask, which stay good only where they are repaired."""
        hit = self.good & at
        for row in np.flatnonzero(hit).tolist():
            action: Any = "repaired" if repaired else "skipped"
            self.columns.problems.add(kind, where(row), what=what(row), action=action)
        if not repaired:
            self.good &= ~hit

    def clip(self, word: str, where: Callable[[int], str]) -> NDArray[np.float32]:
        """The boxes as x1, y1, x2, y2 inside their images; (m, 4) float32, meaningless where not good."""
        widths = np.frombuffer(self.columns.widths, dtype=np.int32)
        heights = np.frombuffer(self.columns.heights, dtype=np.int32)
        far = np.zeros((len(self.given), 2))
        owned = self.rows >= 0
        far[owned, 0] = widths[self.rows[owned]]
        far[owned, 1] = heights[self.rows[owned]]

        def what(row: int) -> str:
            image = int(self.rows[row])
            box = [round(value, 2) for value in self.given[row].tolist()]
            return f"bbox {box} in image {self.columns.image_ids[image]} ({int(far[row, 0])}x{int(far[row, 1])})"

        given = self.given
        finite = ~_any(~np.isfinite(given))
        self.report(f"{word} not four finite numbers", ~finite, where=where, what=what)
        given = np.where(finite[:, None], given, 0.0).clip(-1e300, 1e300)
        flat = _any(given[:, 2:] <= 0)
        self.report(f"{word} without extent", flat, where=where, what=what)
        low, high = given[:, :2], given[:, :2] + given[:, 2:]
        outside = _any((high <= 0) | (low >= far))
        self.report(f"{word} outside its image", outside, where=where, what=what)
        overhang: NDArray[np.float64] = np.maximum(-low, high - far).max(axis=1, initial=0.0)
        clipped = np.concatenate([np.clip(low, 0, far), np.clip(high, 0, far)], axis=1).astype(np.float32)
        # What is left may be thinner than float32 can tell.
        thin = _any(clipped[:, 2:] <= clipped[:, :2])
        self.report(f"{word} without extent", thin, where=where, what=what)
        over = overhang > UNREPORTED_OVERHANG_PX
        self.report(f"{word} partly outside its image", over, where=where, what=what, repaired=True)
        return clipped


def _areas(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)
    return sides[:, 0] * sides[:, 1]


def _objects(columns: Columns) -> tuple[_Boxes, NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]:
    """The annotations: which are good, boxes, the file's own label of each, areas."""
    image_of = np.frombuffer(columns.box_images, dtype=np.int64)
    rows = _positions(np.frombuffer(columns.image_ids, dtype=np.int64), image_of)
    category_of = np.frombuffer(columns.box_categories, dtype=np.int64)
    known = _positions(np.array(list(columns.label_of_id), dtype=np.int64), category_of)
    label_at = np.array([*columns.label_of_id.values(), -1], dtype=np.int64)
    labels = label_at[known]

    objects = _Boxes(columns.boxes, rows, good=np.ones(len(rows), dtype=np.bool_), columns=columns)
    where = columns.box_place

    def image(row: int) -> str:
        return f"image_id {columns.box_images[row]}"

    again = _repeats(np.frombuffer(columns.ids, dtype=np.int64))
    objects.report("annotation id twice", again, where=where, what=lambda row: f"the second, of {image(row)}")
    objects.report("box of an unknown image", rows < 0, where=where, what=image)
    kept = np.append(np.frombuffer(columns.kept, dtype=np.bool_), True)
    objects.report("box of a skipped image", ~kept[rows], where=where, what=image)
    objects.report(
        "box of an unknown category",
        labels < 0,
        where=where,
        what=lambda row: f"category_id {columns.box_categories[row]}, {image(row)}",
    )
    boxes = objects.clip("box", where)
    areas = np.frombuffer(columns.areas, dtype=np.float64)
    bad = ~((areas > 0) & (areas < _LARGEST_AREA))
    objects.report(
        "area missing or not positive",
        bad,
        where=where,
        what=lambda row: f"area {columns.areas[row]:g}, {image(row)}; width times height taken",
        repaired=True,
    )
    return objects, boxes, labels, np.where(bad, _areas(boxes), areas)


def _regions(columns: Columns) -> tuple[_Boxes, NDArray[np.float32]]:
    """The ignore regions: which are good, and their boxes."""
    rows = np.frombuffer(columns.region_rows, dtype=np.int64)
    kept = np.append(np.frombuffer(columns.kept, dtype=np.bool_), True)
    regions = _Boxes(columns.region_boxes, rows, good=kept[rows], columns=columns)
    where = columns.region_place
    boxes = regions.clip("ignore region", where)
    if len(columns.class_names) > MOST_CLASSES_FOR_REGIONS:
        regions.report(
            "ignore region with many classes",
            np.ones(len(rows), dtype=np.bool_),
            where=where,
            what=lambda row: f"{boxes[row].tolist()}: only up to {MOST_CLASSES_FOR_REGIONS} classes can be ignored",
        )
    return regions, boxes


def assemble(columns: Columns, order: Sequence[int], *, images_dir: Path) -> Annotations:
    """Checks boxes against images and categories, and lays everything out image by image.

    Args:
        columns: a whole file; its `problems` take what is found.
        order: for every label, which of the file's classes it is.
        images_dir: folder that file names are relative to.
    """
    classes = len(columns.class_names)
    label_of_class = np.empty(classes, dtype=np.int32)
    label_of_class[list(order)] = np.arange(classes, dtype=np.int32)
    objects, boxes, labels, areas = _objects(columns)
    regions, region_boxes = _regions(columns)
    good, good_regions = np.flatnonzero(objects.good), np.repeat(np.flatnonzero(regions.good), classes)

    kept = np.frombuffer(columns.kept, dtype=np.bool_)
    new_row = np.cumsum(kept) - 1
    rows = np.concatenate([new_row[objects.rows[good]], new_row[regions.rows[good_regions]]])
    by_image = np.argsort(rows, kind="stable")
    region_labels = np.tile(np.arange(classes, dtype=np.int32), len(good_regions) // classes)
    all_labels = np.concatenate([label_of_class[labels[good]], region_labels])
    crowds = np.frombuffer(columns.crowds, dtype=np.bool_)[good]
    ignored = np.concatenate([crowds, np.ones(len(good_regions), dtype=np.bool_)])
    all_boxes = np.concatenate([boxes[good], region_boxes[good_regions]])
    all_areas = np.concatenate([areas[good], _areas(region_boxes[good_regions])]).astype(np.float32)

    images = int(kept.sum())
    ends = np.frombuffer(columns.name_ends, dtype=np.int64)
    begins = np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1]])[: len(ends)]
    name_lengths = ends - begins
    sizes = np.stack(
        [np.frombuffer(columns.heights, dtype=np.int32), np.frombuffer(columns.widths, dtype=np.int32)], axis=1
    )
    return Annotations(
        images_dir=images_dir,
        class_names=tuple(columns.class_names[index] for index in order),
        category_ids=np.array([columns.class_ids[index] for index in order], dtype=np.int64),
        image_ids=np.frombuffer(columns.image_ids, dtype=np.int64)[kept],
        sizes=sizes[kept],
        name_bytes=np.frombuffer(columns.names, dtype=np.uint8)[np.repeat(kept, name_lengths)],
        name_offsets=np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(name_lengths[kept])]),
        offsets=np.concatenate(
            [np.zeros(1, dtype=np.int64), np.cumsum(np.bincount(rows, minlength=images), dtype=np.int64)]
        ),
        boxes=all_boxes[by_image],
        labels=all_labels[by_image],
        ignored=ignored[by_image],
        areas=all_areas[by_image],
    )
