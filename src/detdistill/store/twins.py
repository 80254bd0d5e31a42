"""Twins on disk: made once per image, teacher and maker, found again by content, checked by checksum."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, final

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
from detdistill.errors import ConfigError, DataError
from detdistill.files import read_json, require_regular, write_json, write_once
from detdistill.progress import Progress
from detdistill.store.cache import INDEX, Kind, Shelf, hexed, image_digest, watched

# Raise it when what a twin is made of changes in a way that its settings do not show.
_FORMAT = 1


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
    same teacher on the same data finds it. Every file is checked here and again when it is read. How it is built, see
    `Shelf.filled`; of two builds at once the twins of the first stay.

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
    shelf = Shelf.of(folder, {"format": _FORMAT, **made_of, "resize": resize})
    names = [_name(annotations, index) for index in watched(range(len(annotations)), "look for twins", progress)]
    twins = _Twins(names, DetectionDataset(annotations, image=image), maker, teacher, device, resize)
    known = shelf.filled(twins, names, batch_size=batch_size, progress=progress)
    return CachedTwins(folder=shelf.home, names=_bytes(names), checksums=_bytes([known[name] for name in names]))


@final
@dataclass(frozen=True)
class _Twins(Kind[bytes, str]):
    """Twins as PNG files, one an image; what is known of each is its checksum."""

    what: ClassVar = "twins"
    names: Sequence[str]
    dataset: DetectionDataset
    maker: RepeatableMaker
    teacher: FrozenTeacher
    device: torch.device
    resize: str

    def make(self, indices: range, wanted: Set[int]) -> dict[str, bytes]:
        """See `Kind.make`."""
        samples = [self.dataset[Draw(epoch=0, index=index)] for index in indices]
        batch = collate(samples, pad_multiple=self.dataset.image.pad_multiple)
        twins = self.maker(self.teacher.to(self.device), batch.to(self.device)).detach().float().cpu()
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

    def size(self, made: bytes) -> int:
        """See `Kind.size`."""
        return len(made)

    def keep(self, home: Path, made: Mapping[str, bytes]) -> dict[str, str]:
        """See `Kind.keep`."""
        return {name: hexed(write_once(_file(home, name), content)) for name, content in made.items()}

    def write(self, home: Path, identity: Mapping[str, Any], known: Mapping[str, str]) -> None:
        """See `Kind.write`: the checksums."""
        write_json(home / INDEX, {"identity": identity, "twins": dict(sorted(known.items()))})

    def intact(self, home: Path, names: Sequence[str], progress: Progress) -> dict[str, str]:
        """See `Kind.intact`."""
        known = _index(home, progress)
        there = [name for name in names if name in known]
        for name in set(names).difference(there):
            # Left by a build that was killed, or being read by one that runs: its own sums say what it was to be.
            if not _is_png(_file(home, name)):
                _file(home, name).unlink(missing_ok=True)
        if not there:
            return known
        damaged = []
        for name in watched(there, "check twins", progress):
            path = _file(home, name)
            if not path.is_file() or hexed(path.read_bytes()) != known[name]:
                path.unlink(missing_ok=True)
                known.pop(name, None)
                damaged.append(name)
        if damaged:
            more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
            progress.say(f"damaged or missing in the cache of twins: {_file(home, damaged[0])}{more}; made anew")
        return known


def _name(annotations: Annotations, index: int) -> str:
    """SHA-256 over the image file and what the annotations say about it, as hex."""
    digest = hashlib.sha256(image_digest(annotations, index))
    objects = annotations.objects(index)
    digest.update(f"{int(annotations.image_ids[index])} {objects.stop - objects.start}".encode())
    for column in (annotations.boxes, annotations.labels, annotations.ignored):
        digest.update(np.ascontiguousarray(column[objects]).tobytes())
    return digest.hexdigest()


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
