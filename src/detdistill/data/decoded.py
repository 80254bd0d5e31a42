"""Images that were decoded once and are kept: in memory that forked workers share, or on a disk; the same to the bit.

What is kept of an image is what no random step has touched: its pixels as stored, or at the size to which every sample
of it is resized. It counts only while the image's file is what it was, and as it was written by its checksum.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from detdistill.data.annotations import Annotations
from detdistill.data.transforms import ImageSettings
from detdistill.errors import DataError, DiskError
from detdistill.files import write_once

Make = Callable[[], UInt8[Tensor, "3 h w"]]

# What is written before the pixels, as 64-bit numbers: height, width, checksum.
_HEAD = 3
_BYTES = 8 * _HEAD
# What is remembered of an image in memory: the same, and of which file it is.
_ROW = _HEAD + 3


class Decoded(ABC):
    """The kept images of a data set in one form; can be used by processes that were forked from this one.

    Args:
        annotations: the images.
        image: the size at which they are kept; None for that of the files, whose pixels then lie as they were decoded,
            the channels of each together.
    """

    def __init__(self, annotations: Annotations, image: ImageSettings | None) -> None:
        self.annotations, self.image = annotations, image
        self._seen: dict[int, tuple[int, ...]] = {}

    def __call__(self, index: int, make: Make) -> UInt8[Tensor, "3 h w"]:
        """Image `index`, kept or made now, and then kept. It must not be written to.

        A file that cannot be looked at, or whose pixels cannot be kept, is what it is without a cache.
        """
        stamp = self._stamp(index)
        if stamp is None:
            return make()
        kept = self._read(index, stamp)
        if kept is not None:
            head, pixels = kept
            known = (*head, *stamp)
            if self._seen.get(index) == known or zlib.crc32(pixels.data) == head[2]:
                self._seen[index] = known
                return self._shaped(pixels, head[0], head[1])
        made = make()
        pixels = np.ascontiguousarray((made.permute(1, 2, 0) if self.image is None else made).numpy()).reshape(-1)
        head = (made.shape[1], made.shape[2], zlib.crc32(pixels.data))
        self._write(index, stamp, head, pixels)
        return made

    def _stamp(self, index: int) -> tuple[int, int, int] | None:
        """What tells that an image's file was changed; None where it cannot be looked at."""
        try:
            found = os.stat(self.annotations.path(index))
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size

    def _shaped(self, pixels: NDArray[np.uint8], height: int, width: int) -> UInt8[Tensor, "3 h w"]:
        flat = torch.from_numpy(pixels)
        return flat.view(3, height, width) if self.image is not None else flat.view(height, width, 3).permute(2, 0, 1)

    @abstractmethod
    def _read(self, index: int, stamp: tuple[int, int, int]) -> tuple[tuple[int, int, int], NDArray[np.uint8]] | None:
        """Height, width, checksum and pixels of what is kept of a file with this stamp; None where nothing is."""

    @abstractmethod
    def _write(
        self, index: int, stamp: tuple[int, int, int], head: tuple[int, int, int], pixels: NDArray[np.uint8]
    ) -> None:
        """Keeps an image."""


def kept_bytes(annotations: Annotations, image: ImageSettings | None) -> NDArray[np.int64]:
    """Bytes of every image in this form, (n,); at most those where images are decoded at a reduced scale."""
    sizes, inverse = np.unique(annotations.sizes, axis=0, return_inverse=True)
    seen = [(height, width) if image is None else image.resized(height, width) for height, width in sizes.tolist()]
    pixels: NDArray[np.int64] = np.array(seen, dtype=np.int64).reshape(-1, 2).prod(1)
    return np.asarray(3 * pixels[inverse.reshape(-1)])


@final
class InMemory(Decoded):
    """Kept in one stretch of memory, which every process forked from this one shares, as each image is first read.

    Nobody waits for anybody: pixels are written before the row that says what they are, and a process that sees an
    image for the first time checks its sum.

    Raises:
        DataError: there is too little memory.
    """

    def __init__(self, annotations: Annotations, image: ImageSettings | None) -> None:
        super().__init__(annotations, image)
        sizes = kept_bytes(annotations, image)
        self._places = np.concatenate([[0], np.cumsum(sizes)])
        total, rows = int(self._places[-1]), len(annotations) * _ROW * 8
        try:
            held = mmap.mmap(-1, max(rows + total, 1))
        except (OSError, OverflowError) as error:
            raise DataError(
                f"The memory must have {total / 1e6:.1f} MB for the decoded images, got: {error}. Set data.cache=none."
            ) from error
        self._rows = np.frombuffer(held, dtype=np.int64, count=len(annotations) * _ROW).reshape(-1, _ROW)
        self._pixels = np.frombuffer(held, dtype=np.uint8, offset=rows, count=total)

    def _read(self, index: int, stamp: tuple[int, int, int]) -> tuple[tuple[int, int, int], NDArray[np.uint8]] | None:
        height, width, checksum, *of = self._rows[index].tolist()
        if (*of,) != stamp:
            return None
        first = self._places[index]
        return (height, width, checksum), self._pixels[first : first + 3 * height * width]

    def _write(
        self, index: int, stamp: tuple[int, int, int], head: tuple[int, int, int], pixels: NDArray[np.uint8]
    ) -> None:
        first = self._places[index]
        self._pixels[first : first + len(pixels)] = pixels
        self._rows[index] = (*head, *stamp)


@final
class OnDisk(Decoded):
    """Kept in a file an image, named by its path and by what tells that it was changed: times and length.

    Other runs of the same images find them, and may write them at the same time: a file gets its name when it is whole.
    Where nothing can be written any more, images are decoded as they are without a cache.

    Args:
        home: the folder for what is decoded and resized alike, by the same libraries.
    """

    def __init__(self, annotations: Annotations, image: ImageSettings | None, home: Path) -> None:
        super().__init__(annotations, image)
        self._home, self._place, self._full = home, os.path.realpath(annotations.images_dir), False

    def missing_bytes(self) -> int:
        """Bytes that the images take which are not kept yet, at most."""
        there = {entry.name for entry in os.scandir(self._home)} if self._home.is_dir() else set[str]()
        sizes = kept_bytes(self.annotations, self.image).tolist()
        return sum(
            size + _BYTES
            for index, size in enumerate(sizes)
            if (stamp := self._stamp(index)) is not None and self._path(index, stamp).name not in there
        )

    def _path(self, index: int, stamp: tuple[int, int, int]) -> Path:
        height, width = self.annotations.sizes[index].tolist()
        what = f"{self._place}/{self.annotations.file_name(index)}\0{height}x{width}\0{stamp}"
        return self._home / f"{hashlib.sha256(what.encode()).hexdigest()[:32]}.pixels"

    def _read(self, index: int, stamp: tuple[int, int, int]) -> tuple[tuple[int, int, int], NDArray[np.uint8]] | None:
        try:
            content = np.fromfile(self._path(index, stamp), dtype=np.uint8)
        except OSError:
            return None
        if len(content) < _BYTES:
            return None
        height, width, checksum = content[:_BYTES].view(np.int64).tolist()
        return ((height, width, checksum), content[_BYTES:]) if len(content) == _BYTES + 3 * height * width else None

    def _write(
        self, index: int, stamp: tuple[int, int, int], head: tuple[int, int, int], pixels: NDArray[np.uint8]
    ) -> None:
        if self._full:
            return
        path = self._path(index, stamp)
        try:
            with suppress(FileNotFoundError):  # what is there is not what was written
                path.unlink()
            write_once(path, np.array(head, dtype=np.int64).tobytes() + pixels.tobytes(), flush=False)
        except (DiskError, OSError):
            self._full = True


Kept = Mapping[ImageSettings | None, Decoded]
"""The kept images of a data set by their size; under None as stored, where samples are not all resized alike."""
