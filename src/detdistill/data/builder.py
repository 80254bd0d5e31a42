"""Lays out a split as `Annotations`, whatever format it was read from.

A format's reader collects images, boxes and ignore regions as columns of numbers, a few dozen bytes each, with boxes
as x1, y1, x2, y2 in pixels of the stored image. Here they are held against each other: boxes without extent or
outside their image are skipped, those partly outside clipped, missing areas taken from the clipped box, and
everything is put in order image by image. Each problem is told at the place that the reader gives.

A region is neither hit nor miss for any class. COCO's evaluation ignores per class, so each region becomes one
ignored box for every class. With more than `MOST_CLASSES_FOR_REGIONS` classes they would outnumber the objects: they
are skipped, and reported.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from detdistill.data.annotations import Annotations
from detdistill.data.problems import Action, Lost, Problems
from detdistill.errors import DataError

MOST_CLASSES = 100_000
MOST_CLASSES_FOR_REGIONS = 32
UNREPORTED_OVERHANG_PX = 0.5
_LARGEST_AREA = 1e30

Box = tuple[float, float, float, float]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of a source: names, the source's own ids, and for every label which of them it is."""

    names: tuple[str, ...]
    ids: tuple[int, ...]
    order: tuple[int, ...]


def match_classes(
    source: Path, names: Sequence[str], demanded: Sequence[str] | None, *, ids: Sequence[int] | None = None
) -> Classes:
    """Brings a source's classes, whose ids are 1, 2, 3 and so on by default, into the order demanded.

    Raises:
        DataError: the source has other classes than those demanded; None demands none.
    """
    own = tuple(names)
    numbers = tuple(ids) if ids is not None else tuple(range(1, len(own) + 1))
    if len(own) > MOST_CLASSES:
        raise DataError(
            f"{source} must have at most {MOST_CLASSES} classes, got {len(own)}. Leave some out, or unite them."
        )
    if demanded is None or tuple(demanded) == own:
        return Classes(own, numbers, tuple(range(len(own))))
    if sorted(demanded) != sorted(own):
        theirs, wanted = set(own), set(demanded)
        missing = [name for name in demanded if name not in theirs]
        unknown = [name for name in own if name not in wanted]
        difference = [f"{word} {names}" for word, names in (("missing", missing), ("unknown", unknown)) if names]
        raise DataError(
            f"the classes of {source} must be {list(demanded)}, got {list(own)} ({'; '.join(difference)}). "
            f"Make the names of its classes the same, or use the data that these classes come from."
        )
    place = {name: at for at, name in enumerate(own)}
    return Classes(own, numbers, tuple(place[name] for name in demanded))


@final
class Images:
    """The images of a split as growing columns; a height and width of 0 are unknown yet."""

    def __init__(self) -> None:
        self.ids, self.heights, self.widths = array("q"), array("i"), array("i")
        self.kept = bytearray()
        self._names, self._ends = bytearray(), array("q")

    def __len__(self) -> int:
        return len(self.kept)

    def add(self, name: str, size: tuple[int, int], *, own: int = 0) -> int:
        """Takes an image: its name in the images' folder, height and width, id; returns its row."""
        self.ids.append(own)
        self.heights.append(size[0])
        self.widths.append(size[1])
        self.kept.append(1)
        self._names += name.encode()
        self._ends.append(len(self._names))
        return len(self) - 1

    def name(self, row: int) -> str:
        """The file name of image `row`."""
        return self._names[self._ends[row - 1] if row else 0 : self._ends[row]].decode()

    def names(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The names of those kept, one after the other, and where each begins."""
        kept, ends = self.kept_rows(), np.frombuffer(self._ends, dtype=np.int64)
        lengths = np.diff(ends, prepend=0)
        text = np.frombuffer(self._names, dtype=np.uint8)[np.repeat(kept, lengths)]
        return text, _offsets(lengths[kept])

    def kept_rows(self) -> Mask:
        """Which images are kept."""
        return np.frombuffer(self.kept, dtype=np.bool_)

    def sizes(self) -> NDArray[np.int32]:
        """Height and width of every image; (n, 2)."""
        return np.stack([np.frombuffer(side, dtype=np.int32) for side in (self.heights, self.widths)], axis=1)


@final
@dataclass(slots=True)
class Boxes:
    """Boxes or regions that are held against their images; `good` says which are left.

    Attributes:
        corners: x1, y1, x2, y2 in pixels, whatever they are; (m, 4).
        rows: the image of each; below 0 for none; (m,).
        images: all of the split.
        problems: takes what is found.
        where: the place of a box, for problems.
        given: x, y, width, height as the source has them, for problems; None takes them from the corners.
        labels: of the source's classes; none for regions, as `ignored`.
        areas: as the source says; None where the format has none.
        loses: what is lost with one that is skipped; None for regions.
    """

    corners: NDArray[np.float64]
    rows: NDArray[np.int64]
    images: Images
    problems: Problems
    where: Callable[[int], str]
    given: NDArray[np.float64] | None = None
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    ignored: Mask = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    areas: NDArray[np.float64] | None = None
    loses: Lost | None = None
    good: Mask = field(init=False)

    def __post_init__(self) -> None:
        self.good = np.ones(len(self.rows), dtype=np.bool_)

    def report(self, kind: str, at: Mask, what: Callable[[int], str], *, repaired: bool = False) -> None:
        """Reports the good boxes of the mask, which stay good only where they are repaired."""
        hit = self.good & at
        for row in np.flatnonzero(hit).tolist():
            action: Action = "repaired" if repaired else "skipped"
            loses = None if repaired else self.loses
            self.problems.add(kind, self.where(row), what=what(row), action=action, loses=loses)
        if not repaired:
            self.good &= ~hit

    def clip(self, word: str) -> NDArray[np.float64]:
        """The boxes inside their images, meaningless where not good; problems call one `word`."""
        far = np.zeros((len(self.corners), 2))
        owned = self.rows >= 0
        far[owned] = self.images.sizes()[self.rows[owned], ::-1]

        def what(row: int) -> str:
            x1, y1, x2, y2 = self.corners[row].tolist()
            values = (x1, y1, x2 - x1, y2 - y1) if self.given is None else self.given[row].tolist()
            width, height = far[row].astype(int).tolist()
            box = [round(value, 2) for value in values]
            return f"bbox {box} in image {self.images.ids[self.rows[row]]} ({width}x{height})"

        finite = ~_any(~np.isfinite(self.corners))
        self.report(f"{word} not four finite numbers", ~finite, what)
        corners = np.where(finite[:, None], self.corners, 0.0)
        low, high = corners[:, :2], corners[:, 2:]
        self.report(f"{word} without extent", _any(high <= low), what)
        self.report(f"{word} outside its image", _any((high <= 0) | (low >= far)), what)
        over = _any(np.maximum(-low, high - far) > UNREPORTED_OVERHANG_PX)
        clipped = np.concatenate([np.clip(low, 0, far), np.clip(high, 0, far)], axis=1)
        # What is left may be thinner than float32 can tell.
        stored = clipped.astype(np.float32)
        self.report(f"{word} without extent", _any(stored[:, 2:] <= stored[:, :2]), what)
        self.report(f"{word} partly outside its image", over, what, repaired=True)
        return clipped

    def repaired_areas(self, clipped: NDArray[np.float64]) -> NDArray[np.float64]:
        """The source's areas, and where it has none width times height of the clipped box."""
        given = self.areas
        if given is None:
            return _areas(clipped)
        bad = ~((given > 0) & (given < _LARGEST_AREA))

        def what(row: int) -> str:
            wrong = f"area {given[row]:g}" if np.isfinite(given[row]) else "no area that is a number"
            return f"{wrong}, image_id {self.images.ids[self.rows[row]]}; width times height taken"

        self.report("area missing or not positive", bad, what, repaired=True)
        return np.where(bad, _areas(clipped.astype(np.float32)), given)


def _any(mask: Mask) -> Mask:
    rows: Mask = np.logical_or.reduce(mask, axis=1)
    return rows


def _areas(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)
    return sides[:, 0] * sides[:, 1]


def _offsets(counts: NDArray[np.integer]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)])


def lay_out(objects: Boxes, regions: Boxes, *, classes: Classes, images_dir: Path) -> Annotations:
    """Holds boxes and regions of the same images against them, and lays all that are good out image by image."""
    images, count = objects.images, len(classes.names)
    every_label = np.arange(count, dtype=np.int32)
    label_of_class = np.empty(count, dtype=np.int32)
    label_of_class[list(classes.order)] = every_label
    clipped = objects.clip("box")
    areas, boxes = objects.repaired_areas(clipped), clipped.astype(np.float32)
    region_boxes = regions.clip("ignore region").astype(np.float32)
    if count > MOST_CLASSES_FOR_REGIONS:
        regions.report(
            "ignore region with many classes",
            np.ones(len(region_boxes), dtype=np.bool_),
            lambda row: f"{region_boxes[row].tolist()}: only up to {MOST_CLASSES_FOR_REGIONS} classes can be ignored",
        )
    good, repeated = np.flatnonzero(objects.good), np.repeat(np.flatnonzero(regions.good), count)
    everywhere = region_boxes[repeated]

    kept = images.kept_rows()
    new_row = np.cumsum(kept) - 1
    rows = np.concatenate([new_row[objects.rows[good]], new_row[regions.rows[repeated]]])
    by_image = np.argsort(rows, kind="stable")
    region_labels = np.tile(every_label, len(repeated) // count)
    name_bytes, name_offsets = images.names()
    return Annotations(
        images_dir=images_dir,
        class_names=tuple(classes.names[index] for index in classes.order),
        category_ids=np.array([classes.ids[index] for index in classes.order], dtype=np.int64),
        image_ids=np.frombuffer(images.ids, dtype=np.int64)[kept],
        sizes=images.sizes()[kept],
        name_bytes=name_bytes,
        name_offsets=name_offsets,
        offsets=_offsets(np.bincount(rows, minlength=int(kept.sum()))),
        boxes=np.concatenate([boxes[good], everywhere])[by_image],
        labels=np.concatenate([label_of_class[objects.labels[good]], region_labels])[by_image],
        ignored=np.concatenate([objects.ignored[good], np.ones(len(repeated), dtype=np.bool_)])[by_image],
        areas=np.concatenate([areas[good], _areas(everywhere)]).astype(np.float32)[by_image],
    )
