"""The annotations of one data set split, as a few flat arrays that loader workers share without copying."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detdistill.data.problems import Problems


@dataclass(frozen=True, slots=True)
class Annotations:
    """All images and boxes of one split, in the order of the source file.

    Image i owns the boxes ``offsets[i] : offsets[i + 1]``.

    Attributes:
        images_dir: folder that every file name is relative to.
        class_names: names in label order.
        category_ids: the source's own id of every class, for results in the source's terms; (k,).
        image_ids: the source's own image ids; (n,).
        sizes: height and width in pixels of every image as stored, or upright where its EXIF flag counts; (n, 2).
        name_bytes: all file names in UTF-8, one after the other.
        name_offsets: where each file name begins in `name_bytes`; (n + 1,).
        offsets: where each image's boxes begin; (n + 1,).
        boxes: x1, y1, x2, y2 in pixels of the stored image; (m, 4) float32.
        labels: 0..K-1; (m,).
        ignored: crowd and ignore regions: left out of training, treated as crowds by evaluation; (m,) bool.
        areas: the source's own area of every object in square pixels (COCO's small / medium / large); (m,).
        scores: how sure a detector was of every object, where one made them up; (m,) float32. None for labels.
        labelled: whether a person labelled the images.
    """

    images_dir: Path
    class_names: tuple[str, ...]
    category_ids: NDArray[np.int64]
    image_ids: NDArray[np.int64]
    sizes: NDArray[np.int32]
    name_bytes: NDArray[np.uint8]
    name_offsets: NDArray[np.int64]
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int32]
    ignored: NDArray[np.bool_]
    areas: NDArray[np.float32]
    scores: NDArray[np.float32] | None = None
    labelled: bool = True

    @classmethod
    def without_boxes(
        cls, folder: Path, sizes: Mapping[str, tuple[int, int]], class_names: Sequence[str]
    ) -> Annotations:
        """Images that nobody labelled, by name relative to the folder with height and width; ids count from 0."""
        encoded = [name.encode() for name in sizes]
        return cls(
            images_dir=folder,
            class_names=tuple(class_names),
            category_ids=np.arange(len(class_names)),
            image_ids=np.arange(len(sizes)),
            sizes=np.array(list(sizes.values()), dtype=np.int32).reshape(-1, 2),
            name_bytes=np.frombuffer(b"".join(encoded), dtype=np.uint8),
            name_offsets=np.cumsum([0, *map(len, encoded)]),
            offsets=np.zeros(len(sizes) + 1, dtype=np.int64),
            boxes=np.zeros((0, 4), dtype=np.float32),
            labels=np.zeros(0, dtype=np.int32),
            ignored=np.zeros(0, dtype=bool),
            areas=np.zeros(0, dtype=np.float32),
            labelled=False,
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    def file_name(self, index: int) -> str:
        """File name of image `index`, relative to `images_dir`."""
        return self.name_bytes[self.name_offsets[index] : self.name_offsets[index + 1]].tobytes().decode()

    def path(self, index: int) -> Path:
        """Full path of image `index`."""
        return self.images_dir / self.file_name(index)

    def objects(self, index: int) -> slice:
        """Where the boxes of image `index` stand in `boxes`, `labels`, `ignored` and `areas`."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def owners(self) -> NDArray[np.int64]:
        """The image of every box; (m,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def of(self, rows: NDArray[np.int64]) -> Annotations:
        """Some of the images, in the order of `rows`."""
        pieces = (np.arange(self.offsets[row], self.offsets[row + 1]) for row in rows)
        objects = np.concatenate([np.zeros(0, dtype=np.int64), *pieces])
        names = [self.file_name(row).encode() for row in rows.tolist()]
        return replace(
            self,
            image_ids=self.image_ids[rows],
            sizes=self.sizes[rows],
            name_bytes=np.frombuffer(b"".join(names), dtype=np.uint8),
            name_offsets=np.cumsum([0, *map(len, names)]),
            offsets=np.cumsum([0, *np.diff(self.offsets)[rows].tolist()]),
            boxes=self.boxes[objects],
            labels=self.labels[objects],
            ignored=self.ignored[objects],
            areas=self.areas[objects],
            scores=None if self.scores is None else self.scores[objects],
        )

    def digest(self) -> str:
        """16 hexadecimal digits that the boxes and the images' sizes decide, in their order, whoever holds them."""
        found = hashlib.sha256("\n".join(self.class_names).encode())
        for array in (self.sizes, self.offsets, self.boxes, self.labels, self.ignored):
            found.update(array.tobytes())
        return found.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class IgnoreRegions:
    """The regions in which nothing counts, such as KITTI's DontCare: the image of each, and x1, y1, x2, y2 in pixels.

    `members` tells which boxes of the split stand for a region, one for every class; (m,).
    """

    images: NDArray[np.int64]
    boxes: NDArray[np.float32]
    members: NDArray[np.bool_]


def find_regions(annotations: Annotations) -> IgnoreRegions:
    """Finds the places that are ignored for every class; with a single class there is nothing to tell apart."""
    classes = len(annotations.class_names)
    members = np.zeros(len(annotations.boxes), dtype=np.bool_)
    rows = np.flatnonzero(annotations.ignored)
    image_of = annotations.owners()[rows]
    if classes < 2 or len(rows) == 0:
        return IgnoreRegions(np.zeros(0, dtype=np.int64), np.zeros((0, 4), dtype=np.float32), members)
    boxes = annotations.boxes[rows]
    keys = np.concatenate([image_of[:, None].astype(np.float64), boxes.astype(np.float64)], axis=1)
    _, first, place = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    place = place.reshape(-1)
    pairs = np.unique(place * classes + annotations.labels[rows])
    whole = np.bincount(pairs // classes, minlength=len(first)) == classes
    members[rows[whole[place]]] = True
    chosen = np.sort(first[whole])
    return IgnoreRegions(image_of[chosen], boxes[chosen], members)


def ignore_progress(done: int, total: int) -> None:
    """Tells nobody how many images of all are settled."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What is asked of a reader.

    Attributes:
        class_names: demand these classes; labels then follow this order, matched by name.
        check_images: decode every image fully and compare its size; slow.
        progress: called with (images settled, all images) where images are looked at.
    """

    class_names: Sequence[str] | None = None
    check_images: bool = False
    progress: Callable[[int, int], None] = ignore_progress


class Split(ABC):
    """One split of a data set, found and not yet read, in whatever format."""

    @property
    @abstractmethod
    def source(self) -> Path:
        """What messages call the split's data: a file or a folder."""

    @property
    def drawn(self) -> bool:
        """Whether a seed decides which images are the split's."""
        return False

    def named(self) -> Collection[Path] | None:
        """The images that the split's file names, usable or not; None where it is a folder's images that count."""
        return None

    @abstractmethod
    def text(self) -> str:
        """The format, the list or file, and the images' folder, in a line."""

    @abstractmethod
    def read(self, reading: Reading) -> tuple[Annotations, Problems]:
        """The annotations, possibly of no image, and what was repaired or skipped.

        Raises:
            DataError: a file is none of the format, or the classes are not those demanded.
        """
