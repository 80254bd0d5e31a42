"""The annotations of one data set split, as a few flat arrays that loader workers share without copying."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Annotations:
    """All images and boxes of one split, in the order of the source file.

    Image i owns the boxes ``offsets[i] : offsets[i + 1]``.

    Attributes:
        images_dir: folder that every file name is relative to.
        class_names: names in label order.
        category_ids: the source's own id of every class, for results in the source's terms; (k,).
        image_ids: the source's own image ids; (n,).
        sizes: height and width in pixels of every image as stored; (n, 2).
        name_bytes: all file names in UTF-8, one after the other.
        name_offsets: where each file name begins in `name_bytes`; (n + 1,).
        offsets: where each image's boxes begin; (n + 1,).
        boxes: x1, y1, x2, y2 in pixels of the stored image; (m, 4) float32.
        labels: 0..K-1; (m,).
        ignored: crowd and ignore regions: left out of training, treated as crowds by evaluation; (m,) bool.
        areas: the source's own area of every object in square pixels (COCO's small / medium / large); (m,).
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
