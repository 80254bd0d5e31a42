"""Images that stand in two splits of a data set, in whatever format and under whatever name."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from detdistill.data.annotations import Annotations
from detdistill.data.problems import Problems
from detdistill.errors import ConfigError
from detdistill.files import require_regular

IN_BOTH = "image in both splits"
_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class _File:
    """An image's file: its length in bytes, and what tells the same file behind another name."""

    path: Path
    length: int
    inode: tuple[int, int]


def tell_leaks(splits: Mapping[str, Annotations], problems: Mapping[str, Problems]) -> None:
    """Tells, with the later split, the images that an earlier one has too: figures would be of images learned.

    That is one file in both, the same content under two names, or the same name and length where no other file of the
    earlier split has that length. Only files of one length are read.
    """
    files = {split: _files(own) for split, own in splits.items()}
    digests: dict[Path, bytes] = {}
    names = tuple(splits)
    for at, later in enumerate(names):
        known = problems[later].counts.get(IN_BOTH, 0) > 0
        for earlier in names[:at]:
            _compare(files[later], files[earlier], problems[later], split=earlier, known=known, digests=digests)


def _files(annotations: Annotations) -> dict[int, list[_File]]:
    found: dict[int, list[_File]] = defaultdict(list)
    for index in range(len(annotations)):
        path = annotations.path(index)
        try:
            status = os.stat(path)
        except OSError:
            continue
        found[status.st_size].append(_File(path, status.st_size, (status.st_dev, status.st_ino)))
    return found


def _compare(
    later: Mapping[int, list[_File]],
    earlier: Mapping[int, list[_File]],
    problems: Problems,
    *,
    split: str,
    known: bool,
    digests: dict[Path, bytes],
) -> None:
    for length, own in later.items():
        others = earlier.get(length, [])
        inodes = {other.inode for other in others}
        by_content = {_digest(other.path, digests): other.path for other in others}
        for file in own if others else ():
            if file.inode in inodes:
                if not known:
                    problems.add(IN_BOTH, str(file.path), what=f"the file is in the {split} split too", action="kept")
            elif (same := by_content.get(_digest(file.path, digests))) is not None:
                what = f"the same content as {same} of the {split} split"
                problems.add(IN_BOTH, str(file.path), what=what, action="kept")
            elif len(others) == 1 and others[0].path.name == file.path.name:
                what = f"the name and length of {others[0].path} of the {split} split"
                problems.add("image of one name and length in both splits", str(file.path), what=what, action="kept")


def _digest(path: Path, known: dict[Path, bytes]) -> bytes:
    if path not in known:
        digest = hashlib.blake2b(digest_size=16)
        try:
            require_regular(path)
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
        except (OSError, ConfigError):
            digest.update(os.fsencode(path))
        known[path] = digest.digest()
    return known[path]
