"""Twins on disk: made once per image, teacher and maker, found again by content, checked by checksum."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeVar, final

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from detdistill.data.annotations import Annotations
from detdistill.data.dataset import DetectionDataset, Draw, TwinReader, read_image
from detdistill.data.loader import collate
from detdistill.data.transforms import ImageSettings
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.sizes import resized
from detdistill.distillation.twins import RepeatableMaker
from detdistill.errors import ConfigError, DataError, DiskError
from detdistill.files import read_json, remove_partials, require_regular, write_json, write_once
from detdistill.progress import Progress, duration
from detdistill.store.lock import hold

INDEX = "index.json"
# Raise it when what a twin is made of changes in a way that its settings do not show.
_FORMAT = 1
_SECONDS_BETWEEN_INDEXES = 20.0

Item = TypeVar("Item")


@final
@dataclass(frozen=True, slots=True, eq=False)
class CachedTwins:
    """Reads the twins of a data set; can be sent to loader workers.

    Attributes:
        folder: where the files are.
        names: SHA-256 that every image's twin is filed under; (n, 32) bytes.
        checksums: SHA-256 of every file; (n, 32) bytes.
    """

    folder: Path
    names: NDArray[np.uint8]
    checksums: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        """The file of the twin of image `index`."""
        return _file(self.folder, self.names[index].tobytes().hex())

    def __call__(self, index: int) -> UInt8[Tensor, "3 h w"]:
        """The twin of image `index`, of the stored image's size.

        Raises:
            DataError: the file is gone, or is not what was written.
        """
        path = self.path(index)
        require_regular(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(
                f"The twin {path} must be a readable file, got: {error.strerror}. Start again: it is then made anew."
            ) from error
        if hashlib.sha256(content).digest() != self.checksums[index].tobytes():
            raise DataError(
                f"The twin {path} must be as it was written, got other content. Start again: it is then made anew."
            )
        with Image.open(io.BytesIO(content)) as image:
            return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def open_twin_cache(
    folder: Path,
    *,
    maker: RepeatableMaker,
    teacher: FrozenTeacher,
    annotations: Annotations,
    image: ImageSettings,
    batch_size: int,
    device: torch.device,
    progress: Progress,
    resize: Literal["perturbation", "twin"] = "perturbation",
) -> TwinReader:
    """The twins of all images of a data set, from disk; those that are not there, or not intact, are made.

    A twin is made at the size that the teacher sees and brought back to the stored size. Its address is the content of
    the image file, its id and boxes, the teacher's digest, the maker's identity and the image size; so any run of the
    same teacher on the same data finds it. Every file is checked here and again when it is read. An interrupted build
    goes on where it was: it makes the same batches, so the twins come out the same. A second process waits for the one
    that is building; where the disk knows no locks both do the same work, and keep the twins of the one that was first.

    Args:
        folder: of the cache; each teacher, maker and image size get a folder of their own in it.
        maker: makes the missing ones.
        teacher: what it works on; moved to `device` where something is to be made.
        annotations: the images and their boxes.
        image: the size at which the teacher sees them.
        batch_size: images made at a time.
        device: where they are made.
        progress: told size and time before the bulk is made, and what was damaged.
        resize: what is brought back to the stored size: the change alone, added to the stored image, so that the
            twin is as sharp as its image and no further from it than the maker went; or the twin itself.

    Returns:
        A reader by the index of the image.

    Raises:
        ConfigError: `batch_size` is less than 1.
        DataError: an image cannot be read, or the disk has too little room.
    """
    if batch_size < 1:
        raise ConfigError(f"The twins' batch_size must be at least 1, got {batch_size}. Give a larger number.")
    made_of = {"teacher": teacher.digest(), "maker": dict(maker.identity()), "image": asdict(image)}
    identity = {"format": _FORMAT, **made_of, "resize": resize}
    home = folder / _hex(json.dumps(identity, sort_keys=True).encode())[:20]
    images = range(len(annotations))
    names = [_name(annotations, index) for index in _watched(images, "look for twins", progress)]
    readable_alone = home.exists() and not os.access(home, os.W_OK)
    with nullcontext() if readable_alone else hold(home, waiting=progress.say):
        if not readable_alone:
            remove_partials(home)
        known = _intact(home, names, progress)
        missing = [index for index, name in enumerate(names) if name not in known]
        if missing:
            dataset, teacher = DetectionDataset(annotations, image=image), teacher.to(device)
            _Build(home, identity, names, known, dataset, maker, teacher, resize, progress).run(missing, batch_size)
    return CachedTwins(folder=home, names=_bytes(names), checksums=_bytes([known[name] for name in names]))


@dataclass(frozen=True, slots=True)
class _Build:
    """Makes twins and enters them into `known`, by name with their checksum."""

    home: Path
    identity: Mapping[str, object]
    names: Sequence[str]
    known: dict[str, str]
    dataset: DetectionDataset
    maker: RepeatableMaker
    teacher: FrozenTeacher
    resize: str
    progress: Progress

    def run(self, missing: Sequence[int], batch_size: int) -> None:
        """Makes the missing twins, with the index on disk every now and then and at the end, however it ends."""
        # Whole batches of the data set's order, whatever is missing of them: what an image's neighbours are may
        # show in the last bit of its gradient, and must not depend on where an earlier build was interrupted.
        wanted = set(missing)
        batches = sorted({index // batch_size for index in missing})
        began = written = time.monotonic()
        done = 0
        try:
            for number, first in enumerate(batch * batch_size for batch in batches):
                indices = range(first, min(first + batch_size, len(self.names)))
                made = self._made(indices, wanted)
                done += len(made)
                now = time.monotonic()
                if number == 0:
                    size = sum(map(len, made.values()))
                    self._estimate(done, len(missing), size, now - began, batches=len(batches))
                    self.progress.start("make twins", len(missing), unit="image", done=done)
                for name, content in made.items():
                    self.known[name] = _hex(write_once(_file(self.home, name), content))
                if now - written > _SECONDS_BETWEEN_INDEXES:
                    self._write_index()
                    written = now
                self.progress.advance(done)
        except BaseException:
            if not wanted.isdisjoint(index for index, name in enumerate(self.names) if name in self.known):
                with suppress(DiskError):  # what stopped the build is what counts
                    self._write_index()
            raise
        else:
            self._write_index()
        finally:
            self.progress.finish()

    def _made(self, indices: range, wanted: Set[int]) -> dict[str, bytes]:
        """Makes one batch; returns the files that are wanted of it, by name."""
        samples = [self.dataset[Draw(epoch=0, index=index)] for index in indices]
        batch = collate(samples, pad_multiple=self.dataset.image.pad_multiple)
        twins = self.maker(self.teacher, batch.to(self.teacher.device)).detach().float().cpu()
        made = {}
        for row, index in enumerate(indices):
            if index in wanted:
                height, width = batch.sizes[row]
                inside = (row, slice(None), slice(height), slice(width))
                made[self.names[index]] = _encoded(self._stored(index, twins[inside], batch.images[inside]))
        return made

    def _stored(self, index: int, twin: Tensor, seen: Tensor) -> UInt8[Tensor, "3 h w"]:
        """The twin at the stored size, in whole pixel values."""
        annotations = self.dataset.annotations
        stored_size = (int(annotations.sizes[index, 0]), int(annotations.sizes[index, 1]))
        if self.resize == "twin":
            pixels = resized(twin, stored_size)
        else:
            image_id = int(annotations.image_ids[index])
            image = read_image(annotations.path(index), image_id=image_id, size=stored_size)
            pixels = image.float().div(255) + resized(twin - seen, stored_size)
        return pixels.clamp(0, 1).mul(255).round().to(torch.uint8)

    def _write_index(self) -> None:
        write_json(self.home / INDEX, {"identity": self.identity, "twins": dict(sorted(self.known.items()))})

    def _estimate(self, done: int, total: int, size: int, seconds: float, *, batches: int) -> None:
        bulk = size * total // max(done, 1)
        self.progress.say(
            f"{total} twins to make: about {bulk / 1e6:.1f} MB in {self.home} and {duration(seconds * batches)} "
            f"at {done / max(seconds, 1e-9):.1f} images/s, by the first batch"
        )
        free = shutil.disk_usage(self.home).free
        if free < bulk:
            raise DataError(
                f"The disk of {self.home} must have about {bulk / 1e6:.1f} MB free for the twins, got "
                f"{free / 1e6:.1f} MB. Make room, or choose another folder."
            )


def _watched(items: Sequence[Item], what: str, progress: Progress) -> Iterator[Item]:
    progress.start(what, len(items), unit="image")
    for number, item in enumerate(items, start=1):
        yield item
        progress.advance(number)
    progress.finish()


def _name(annotations: Annotations, index: int) -> str:
    """SHA-256 over the image file and what the annotations say about it, as hex."""
    path = annotations.path(index)
    require_regular(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"Image {annotations.image_ids[index]} ({path}) must be a readable file, got: {error.strerror}. "
            "Run `detdistill data check DATA` to list all such images."
        ) from error
    digest = hashlib.sha256(hashlib.sha256(content).digest())
    objects = annotations.objects(index)
    digest.update(f"{int(annotations.image_ids[index])} {objects.stop - objects.start}".encode())
    for column in (annotations.boxes, annotations.labels, annotations.ignored):
        digest.update(np.ascontiguousarray(column[objects]).tobytes())
    return digest.hexdigest()


def _intact(home: Path, names: Sequence[str], progress: Progress) -> dict[str, str]:
    """Name and checksum of the twins whose files are as they were written; says which are not."""
    known = _index(home, progress)
    there = [name for name in names if name in known]
    for name in set(names).difference(there):
        # Left by a build that was killed, or being read by one that runs: what it was to be is known by its own sums.
        if not _is_png(_file(home, name)):
            _file(home, name).unlink(missing_ok=True)
    if not there:
        return known
    damaged = []
    for name in _watched(there, "check twins", progress):
        path = _file(home, name)
        if not path.is_file() or _hex(path.read_bytes()) != known[name]:
            path.unlink(missing_ok=True)
            known.pop(name, None)
            damaged.append(name)
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        progress.say(f"damaged or missing in the cache of twins: {_file(home, damaged[0])}{more}; made anew")
    return known


def _index(home: Path, progress: Progress) -> dict[str, str]:
    path = home / INDEX
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
        return {str(name): str(checksum) for name, checksum in content["twins"].items()}
    except (ConfigError, LookupError, TypeError, AttributeError) as error:
        progress.say(f"the index of the cache of twins cannot be read, so they are made anew: {error}")
        return {}


def _hex(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _file(home: Path, name: str) -> Path:
    return home / f"{name[:32]}.png"


def _is_png(path: Path) -> bool:
    """Whether a file is there and agrees with the checksums that a PNG holds."""
    try:
        if not path.is_file():
            return False
        with Image.open(path) as image:
            image.verify()
    except (OSError, SyntaxError):
        return False
    return True


def _bytes(digests: Sequence[str]) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex("".join(digests)), dtype=np.uint8).reshape(-1, 32)


def _encoded(image: UInt8[Tensor, "3 h w"]) -> bytes:
    buffer = io.BytesIO()
    # The perturbation is noise: more effort finds nothing to compress.
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
