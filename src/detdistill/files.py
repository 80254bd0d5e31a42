"""The one place that writes files: whole or not at all, and what the disk refuses is said by one sentence.

Every write goes to a temporary name in the same folder, is flushed to the disk, and is then renamed, so that a
reader, or a run that was killed, sees the old content or the new and nothing in between. Every byte goes through
`_write`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detdistill.errors import ConfigError, DiskError
from detdistill.json_text import json_object
from detdistill.progress import in_bytes

PARTIAL = ".partial"
_LEFTOVER = re.compile(rf".+\.[0-9a-f]{{12}}\{PARTIAL}")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REMEDIES = {
    **dict.fromkeys(_FULL, "Make room there"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Give write access, or name another place"),
    **dict.fromkeys((errno.ENOTEMPTY, errno.EBUSY), "Name a new folder"),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG), "Check the path"),
}
_AT_ONCE, _PIECES = 1 << 20, 1 << 12
# By these it is known what this package made, and may make anew.
PACKAGE, SOFTWARE = "detdistill", "Software"
_WRITTEN_BY, _BEGINNING = "written_by", 4096
DRAWING, SHEET, CONFUSION, CURVES = "drawing", "comparison sheet", "confusion matrix", "curves of precision"


def _write(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def refused(path: Path, error: OSError, *, size: int = 0) -> DiskError:
    """The sentence about a file that could not be written, with its `size` in bytes, 0 where that is not known."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        reason += f", {in_bytes(shutil.disk_usage(existing(path)).free)} free"
    elif error.filename not in (None, str(path)) and PARTIAL not in str(error.filename):
        reason += f" ({error.filename})"
    takes = f", which takes at least {in_bytes(size)}" if size else ""
    said = f"{path} must be written{takes}, got: {reason}."
    return DiskError(str(path), said, _REMEDIES.get(error.errno or 0, "Check the disk"), size)


@contextmanager
def _telling(path: Path, size: int = 0) -> Iterator[None]:
    """Whatever the disk refuses in the block is said of `path`."""
    try:
        yield
    except OSError as error:
        raise refused(path, error, size=size) from error


def existing(path: Path) -> Path:
    """The path, or what is there of the way to it."""
    whole = path.absolute()
    return next(place for place in (whole, *whole.parents) if place.exists())


def _passing(path: Path) -> Path:
    """A temporary name beside `path`. It holds no process's number: two machines with one disk may both have it."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}{PARTIAL}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _opened(path: Path, *, append: bool = False) -> Iterator[int]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC), 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; what still has it at the end is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _passing(path)
    try:
        yield partial
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def _renamed(error: DiskError, partial: Path, path: Path, *, held: int = 0) -> DiskError:
    """An error about a file in a temporary folder by the name that the file was to have; any other as it is."""
    place, cause = Path(error.path), error.__cause__
    if partial not in place.parents or not isinstance(cause, OSError):
        return error
    return refused(path / place.relative_to(partial), cause, size=held + error.size)


@contextmanager
def scratch_folder(path: Path, *, named: Path) -> Iterator[Path]:
    """Yields a new folder beside `path`, on its disk, that is removed at the end; in errors it is called `named`."""
    with _telling(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _beside(path) as folder:
        with _telling(path):
            folder.mkdir()
        try:
            yield folder
        except DiskError as error:
            raise _renamed(error, folder, named) from error.__cause__


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields a temporary folder beside `path` that takes its name, and its place, when the block ends well.

    Args:
        path: there may be an empty folder, or, with `replace`, any.

    Raises:
        DiskError: the disk refuses; what was written in the block is said by the name that it was to have.
    """
    target, partial, held = Path(os.path.realpath(path)), path, 0
    try:
        with _beside(target) as partial:
            try:
                with _telling(path):
                    partial.mkdir()
                yield partial
                with _telling(path):
                    for written in partial.rglob("*"):
                        _sync(written)
                    _sync(partial)
                    if replace and target.exists():
                        shutil.rmtree(target)
                    os.replace(partial, target)
            except (DiskError, OSError):
                found = (one.lstat() for one in partial.rglob("*"))
                held = sum(max(512 * one.st_blocks, one.st_size) for one in found if one.st_nlink == 1)
                raise
        with _telling(path):
            _sync(target.parent)
    except DiskError as error:
        raise _renamed(error, partial, path, held=held) from error.__cause__
    except OSError as error:
        # A reader's error in the block is another matter; no reader is told that a disk is full.
        names = (Path(str(name)) for name in (error.filename, error.filename2) if name is not None)
        ours = any(partial in (name, *name.parents) or name in (target, target.parent) for name in names)
        if not ours and not (error.filename is None and error.errno in _FULL):
            raise
        raise refused(path, error, size=held) from error


def discard_folder(path: Path) -> None:
    """Removes a folder so that a kill in between leaves a name that is cleaned up, not half a folder."""
    with _telling(path):
        doomed = _passing(path)
        path.rename(doomed)
        shutil.rmtree(doomed)


def is_partial(name: str) -> bool:
    """Whether a write that was cut off left something under that name."""
    return _LEFTOVER.fullmatch(name) is not None


def remove_partials(folder: Path) -> None:
    """Removes what writes into `folder` that were cut off left under temporary names, and nothing of another name."""
    for leftover in folder.iterdir() if folder.is_dir() else ():
        if not is_partial(leftover.name):
            continue
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def require_regular(path: Path) -> None:
    """Refuses what is there and is no regular file: a pipe, device or socket could be waited for without end.

    Raises:
        ConfigError: it is none.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # whoever opens it says why it cannot be
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, device or socket"
        raise ConfigError(f"{path} must be a regular file, got {kind}. Check the path.")


def write_once(path: Path, content: bytes, *, flush: bool = True) -> bytes:
    """Writes a file unless there is one, and returns what is there: of two writers at once, the first one's.

    Where the disk knows no hard links, two writers that both found nothing may leave the later one's. Without `flush`
    a power cut may leave part of it.
    """
    sync: Callable[[Path], None] = _sync if flush else lambda _: None
    with _telling(path, len(content)), _beside(path) as partial:
        with _opened(partial) as descriptor:
            _write(descriptor, content)
        sync(partial)
        try:
            os.link(partial, path)
        except OSError:  # there is one, or the disk knows no links
            if path.exists():
                return path.read_bytes()
            os.replace(partial, path)
        sync(path.parent)
    return content


@contextmanager
def byte_stream(path: Path, size: int = 0) -> Iterator[Callable[[bytes], None]]:
    """Yields what adds to a new file, `size` bytes or more, that gets its name and place when the block ends well."""
    added = 0

    def add(content: bytes) -> None:
        nonlocal added
        added += len(content)
        _write(descriptor, content)

    try:
        with _beside(path) as partial:
            with _opened(partial) as descriptor:
                yield add
            _sync(partial)
            os.replace(partial, path)
            _sync(path.parent)
    except OSError as error:
        raise refused(path, error, size=max(size, added)) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all; its folder is made where needed.

    Raises:
        DiskError: the disk refuses; what was there before is there still.
    """
    with byte_stream(path, len(content)) as add:
        add(content)


def write_text(path: Path, text: str) -> None:
    """Writes `text` in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def _unlink(path: Path) -> None:
    with _telling(path):
        path.unlink(missing_ok=True)


@contextmanager
def text_stream(path: Path) -> Iterator[Callable[[str], None]]:
    """Yields what adds text to a file in a folder that nobody sees yet; for what is too large to hold."""
    held: list[str] = []

    def flush() -> None:
        append_bytes(path, "".join(held).encode())
        held.clear()

    def add(text: str) -> None:
        held.append(text)
        if len(held) >= _PIECES:
            flush()

    _unlink(path)
    yield add
    flush()


def copy_file(source: Path, target: Path) -> None:
    """Copies to a file in a folder that nobody sees yet; what the source refuses is an `OSError`."""
    _unlink(target)
    with source.open("rb") as file:
        append_bytes(target, file.read(_AT_ONCE))
        while content := file.read(_AT_ONCE):
            append_bytes(target, content)


def make_folder(path: Path) -> None:
    """Makes a folder, and those above it, where it is not there."""
    with _telling(path):
        path.mkdir(parents=True, exist_ok=True)


def link_folder(path: Path, target: Path) -> None:
    """Makes a symbolic link to a folder."""
    with _telling(path):
        path.symlink_to(target, target_is_directory=True)


def append_bytes(path: Path, content: bytes) -> None:
    """Adds to the end of a file, all or nothing; a reader may see the last of it unfinished."""
    with _telling(path, len(content)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _opened(path, append=True) as descriptor:
            before = os.fstat(descriptor).st_size
            try:
                _write(descriptor, content)
            except OSError:
                os.ftruncate(descriptor, before)
                raise


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON, whole or not at all; NaN and infinity are refused (ValueError)."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ConfigError: the file is missing, unreadable, no JSON, or has a key twice in one object.
    """
    require_regular(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=json_object)
    except OSError as error:
        raise ConfigError(f"{path} must be a readable file, got: {error.strerror}. Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} must be JSON, got text that is none ({error}). Write the file anew.") from error


def require_writable(path: Path, option: str) -> None:
    """Refuses a place that could not be written to, before the work that is to go there.

    Raises:
        DiskError: the folder that it would be made in is read-only, or is none.
    """
    place = existing(path)
    if place == path.absolute() and not place.is_dir():
        place = place.parent
    if not place.is_dir():
        raise DiskError(
            str(path), f"{option} {path} must be in a folder, got the file {place} above it.", "Check the path"
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise DiskError(str(path), f"{option} {path} must be writable, got no write access to {place}.", "Give it")


def require_own(path: Path, option: str, begins: bytes) -> None:
    """Refuses a file to be written over that was not made by this package, and a place that cannot be written to.

    Args:
        option: where it was given.
        begins: what the beginning of a file holds that may be written over.

    Raises:
        ConfigError: it is another one, or no file. An empty one may be written over.
        DiskError: the place cannot be written to.
    """
    require_regular(path)
    require_writable(path, option)
    if path.exists() and path.stat().st_size:
        with path.open("rb") as file:
            if begins not in file.read(_BEGINNING):
                raise ConfigError(
                    f"{option} must be a new file, or one that this command wrote, got {path}, which is another. "
                    "Give another name, or move that file away."
                )


def figures_of(command: str) -> bytes:
    """How a file begins that `write_figures` wrote for a command."""
    return json.dumps({_WRITTEN_BY: f"{PACKAGE} {command}"}, indent=2)[:-2].encode()


def write_figures(path: Path, content: Mapping[str, Any], *, command: str, option: str) -> None:
    """Writes a command's figures as JSON that says whose they are; no other file is written over.

    Raises:
        ConfigError: there is another file.
        DiskError: the disk refuses.
    """
    require_own(path, option, figures_of(command))
    write_json(path, {_WRITTEN_BY: f"{PACKAGE} {command}", **content})
