"""One job at a time in a folder: a lock that ends with the process that holds it, however that ends.

It is fcntl's, on two bytes of a file: the job holds the first, and the process that trains, which may be forked from
the job's, the second while it writes. Children inherit neither: a loader's worker that is left behind holds nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from detdistill.errors import ConfigError, DistillError
from detdistill.files import make_folder, require_regular
from detdistill.store.layout import LOCK

_JOB, _WRITER = 0, 1
_TAKEN = {errno.EACCES, errno.EAGAIN}
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_SECONDS_FOR_ORPHANS, _SECONDS_BETWEEN_TRIES = 60.0, 0.1


@dataclass(frozen=True, slots=True)
class _Held:
    """A lock's open file, and the process that holds it; one that was forked from it knows of it too."""

    process: int
    file: int


_HELD: dict[Path, _Held] = {}


@contextmanager
def hold(folder: Path, *, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Holds a folder, which is made where needed and removed again where nothing was written into it.

    A lock that a process left which is gone is no obstacle; what such a process started, and which still writes, is
    waited for. Where the disk knows no locks, nobody is kept out.

    Args:
        folder: not held by this process yet.
        waiting: hears whom it waits for; without it a folder that another process holds is refused.

    Raises:
        ConfigError: another process holds it.
        OSError: it cannot be written.
    """
    path = _lock_of(folder)
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    make_folder(folder)
    try:
        held = _HELD[path] = _Held(os.getpid(), _acquired(path, waiting))
        try:
            fcntl.lockf(held.file, fcntl.LOCK_UN, 1, _WRITER)
            os.ftruncate(held.file, 0)
            with suppress(OSError):  # a full disk: then nobody reads who it is
                os.pwrite(held.file, f"{held.process} {socket.gethostname()}\n".encode(), 0)
            yield
        finally:
            if not displaced(folder):
                path.unlink()
            del _HELD[path]
            os.close(held.file)
    finally:
        for place in made:
            with suppress(OSError):  # there is something in it, or it is gone
                place.rmdir()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Holds a folder for the process that trains into it, be it the job's own or one forked from that."""
    held = _HELD.get(_lock_of(folder))
    if held is None:
        with hold(folder):
            yield
        return
    if not _locked(held.file, _WRITER, 1):
        raise _busy(_lock_of(folder))
    try:
        yield
    finally:
        fcntl.lockf(held.file, fcntl.LOCK_UN, 1, _WRITER)


def require_idle(folder: Path) -> None:
    """Refuses a folder that another process holds; leaves it as it is.

    Raises:
        ConfigError: one does.
    """
    if (path := _lock_of(folder)).exists():
        os.close(_acquired(path, None))


def displaced(folder: Path) -> bool:
    """Whether a folder that this process holds was moved, removed or emptied, or another is in its place."""
    held = _HELD.get(_lock_of(folder))
    try:
        return held is not None and not os.path.samestat(os.fstat(held.file), os.stat(_lock_of(folder)))
    except OSError:
        return True


def require_in_place(folder: Path) -> None:
    """Refuses to write into a folder that is not the one which this process holds any more (DistillError)."""
    if displaced(folder):
        raise DistillError(
            f"{_moved(folder)}. Put it back and go on with it by --resume, or start a new run in another folder."
        )


def saved_beside(folder: Path, save: Callable[[Path], object], *, what: str) -> DistillError:
    """Saves beside a folder what cannot be written into it any more, and returns the error that says so."""
    names = (f"{folder.name}_saved{number}" for number in ("", *range(2, 1000)))
    place = next(path for path in map(folder.with_name, names) if not path.exists())
    save(place)
    return DistillError(f"{_moved(folder)}; {what} is saved in {place}. Go on from there by --resume --out {place}.")


def _moved(folder: Path) -> str:
    return f"The run folder {folder} must stay as it is until its run ends, got it moved, removed or emptied"


def _lock_of(folder: Path) -> Path:
    return folder.absolute() / LOCK


def _acquired(path: Path, waiting: Callable[[str], None] | None) -> int:
    """The open file of a lock, once both its bytes are this process's."""
    until, told = time.monotonic() + _SECONDS_FOR_ORPHANS, False
    while (file := _tried(path)) is None:
        process, host = _holder(path)
        if waiting is None and (_lives(process, host) or time.monotonic() > until):
            raise _busy(path)
        if waiting is not None and not told:
            waiting(f"{path.parent} is in use by process {process} on {host}: waiting for its end")
            told = True
        time.sleep(_SECONDS_BETWEEN_TRIES)
    return file


def _tried(path: Path) -> int | None:
    """The same where nobody else holds it; None where somebody does."""
    while True:
        require_regular(path)
        if _is_own(path):
            return None
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        taken = not _locked(file, _JOB, 2)
        with suppress(FileNotFoundError):
            # Its holder removes it at its end.
            if not taken and os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        os.close(file)
        if taken:
            return None


def _is_own(path: Path) -> bool:
    """Whether this process holds a lock, under whatever name: it would lose it by opening and closing the file."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    own = (one.file for one in _HELD.values() if one.process == os.getpid())
    return any(os.path.samestat(os.fstat(file), there) for file in own)


def _locked(file: int, first: int, count: int) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, count, first)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return True
        if error.errno not in _TAKEN:
            raise
        return False
    return True


def _holder(path: Path) -> tuple[str, str]:
    """Number and host of the process that holds a lock, as it wrote them."""
    if _is_own(path):
        return str(os.getpid()), socket.gethostname()
    try:
        process, host = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return "(unknown)", "some host"
    return process, host


def _lives(process: str, host: str) -> bool:
    """Whether a process runs, as far as that can be known from here."""
    if host != socket.gethostname() or not process.isdecimal():
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _busy(path: Path) -> ConfigError:
    process, host = _holder(path)
    return ConfigError(
        f"{path.parent} must be worked in by one process at a time, got process {process} on {host} at work there. "
        "Wait for its end, or choose another folder."
    )
