"""A cache on disk of what is made once per image: found again by content, built in whole batches, gone on with."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from detdistill.data.annotations import Annotations
from detdistill.errors import DataError, DiskError
from detdistill.files import remove_partials, require_regular
from detdistill.progress import Progress, duration
from detdistill.store.lock import hold

INDEX = "index.json"
_SECONDS_BETWEEN_WRITES = 20.0

Item = TypeVar("Item")
Made = TypeVar("Made")
Known = TypeVar("Known")


class Kind(ABC, Generic[Made, Known]):
    """What is made of images and kept: `Made` is what is written, `Known` what is remembered of it.

    Attributes:
        what: what messages call several of it.
    """

    what: ClassVar[str]

    @abstractmethod
    def intact(self, home: Path, names: Sequence[str], progress: Progress) -> dict[str, Known]:
        """What is there as it was written, by name; says what is not, and removes it."""

    @abstractmethod
    def make(self, indices: range, wanted: Set[int]) -> dict[str, Made]:
        """Makes one batch of images; what is wanted of it, by name."""

    @abstractmethod
    def size(self, made: Made) -> int:
        """Bytes that it takes on the disk."""

    @abstractmethod
    def keep(self, home: Path, made: Mapping[str, Made]) -> dict[str, Known]:
        """Takes what a batch made, to write it now or in `write`."""

    @abstractmethod
    def write(self, home: Path, identity: Mapping[str, Any], known: Mapping[str, Known]) -> None:
        """Writes what a later build goes on from."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """The folder of a cache that holds what has one identity: of a maker, a teacher and an image size.

    Attributes:
        identity: everything beside the image that its content depends on.
        home: the folder.
    """

    identity: Mapping[str, Any]
    home: Path

    @classmethod
    def of(cls, folder: Path, identity: Mapping[str, Any]) -> Shelf:
        """The one in a cache's folder."""
        return cls(identity, folder / hexed(json.dumps(identity, sort_keys=True).encode())[:20])

    def filled(
        self, kind: Kind[Made, Known], names: Sequence[str], *, batch_size: int, progress: Progress
    ) -> dict[str, Known]:
        """All that the names stand for; what is not there, or not intact, is made.

        An interrupted build goes on where it was: it makes the same batches, so that the same comes out. A second
        process waits for the one that is building; where the disk knows no locks, both do the same work.

        Args:
            names: hexadecimal digests of what each image's is made of.
            batch_size: images made at a time.
            progress: told size and time before the bulk is made, and what was damaged.

        Raises:
            DataError: the disk has too little room.
        """
        home = self.home
        readable_alone = home.exists() and not os.access(home, os.W_OK)
        with nullcontext() if readable_alone else hold(home, waiting=progress.say):
            if not readable_alone:
                remove_partials(home)
            known = kind.intact(home, names, progress)
            missing = [index for index, name in enumerate(names) if name not in known]
            if missing:
                self._build(kind, names, known, missing, batch_size=batch_size, progress=progress)
        return known

    def _build(
        self,
        kind: Kind[Made, Known],
        names: Sequence[str],
        known: dict[str, Known],
        missing: Sequence[int],
        *,
        batch_size: int,
        progress: Progress,
    ) -> None:
        """Makes the missing ones; what is there is on disk every now and then and at the end, however it ends."""
        # Whole batches of the data set's order, whatever is missing of them: what an image's neighbours are may
        # show in the last bit, and must not depend on where an earlier build was interrupted.
        wanted = set(missing)
        batches = sorted({index // batch_size for index in missing})
        began = written = time.monotonic()
        done = 0
        try:
            for number, first in enumerate(batch * batch_size for batch in batches):
                made = kind.make(range(first, min(first + batch_size, len(names))), wanted)
                done += len(made)
                now = time.monotonic()
                if number == 0:
                    size, rate = sum(map(kind.size, made.values())), done / max(now - began, 1e-9)
                    size = size * len(missing) // max(done, 1)
                    told = f"{duration((now - began) * len(batches))} at {rate:.1f} images/s, by the first batch"
                    progress.say(
                        f"{len(missing)} {kind.what} to make: about {size / 1e6:.1f} MB in {self.home} and {told}"
                    )
                    self._require_room(kind.what, size)
                    progress.start(f"make {kind.what}", len(missing), unit="image", done=done)
                known.update(kind.keep(self.home, made))
                if now - written > _SECONDS_BETWEEN_WRITES:
                    kind.write(self.home, self.identity, known)
                    written = now
                progress.advance(done)
        except BaseException:
            if not wanted.isdisjoint(index for index, name in enumerate(names) if name in known):
                with suppress(DiskError):  # what stopped the build is what counts
                    kind.write(self.home, self.identity, known)
            raise
        else:
            kind.write(self.home, self.identity, known)
        finally:
            progress.finish()

    def _require_room(self, what: str, size: int) -> None:
        free = shutil.disk_usage(self.home).free
        if free < size:
            raise DataError(
                f"The disk of {self.home} must have about {size / 1e6:.1f} MB free for the {what}, got "
                f"{free / 1e6:.1f} MB. Make room, or choose another folder."
            )


def watched(items: Sequence[Item], what: str, progress: Progress) -> Iterator[Item]:
    """The items, with a bar that shows how many of them were taken."""
    progress.start(what, len(items), unit="image")
    for number, item in enumerate(items, start=1):
        yield item
        progress.advance(number)
    progress.finish()


def image_digest(annotations: Annotations, index: int) -> bytes:
    """SHA-256 of an image's file.

    Raises:
        DataError: it cannot be read.
    """
    path = annotations.path(index)
    require_regular(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"Image {annotations.image_ids[index]} ({path}) must be a readable file, got: {error.strerror}. "
            "Run `detdistill data check DATA` to list all such images."
        ) from error
    return hashlib.sha256(content).digest()


def image_name(annotations: Annotations, index: int) -> str:
    """SHA-256 over an image's file and the size that it is taken to have, as hex."""
    height, width = annotations.sizes[index].tolist()
    return hexed(image_digest(annotations, index) + f"{height}x{width}".encode())


def say_others(folder: Path, shelf: Shelf, did: str, progress: Progress) -> None:
    """Says that a cache's folder holds what other teachers did, where it holds nothing of this one."""
    count = len(list(folder.glob(f"*/{INDEX}"))) if folder.is_dir() else 0
    if count and not shelf.home.exists():
        others = f"{count} other{'s' if count > 1 else ''}"
        progress.say(
            f"the cache {folder} holds what {others} {did}, and nothing of this teacher as it sees images now: it "
            "looks at them anew"
        )


def say_damaged(damaged: Sequence[Path], what: str, progress: Progress) -> None:
    """Says which files of a teacher's cache were not as they were written, where there are any."""
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        progress.say(f"damaged in the cache of the teacher's {what}: {damaged[0]}{more}; it looks at those images anew")


def hexed(content: bytes) -> str:
    """SHA-256 as hex."""
    return hashlib.sha256(content).hexdigest()
