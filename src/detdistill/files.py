"""The one place that writes files: whole or not at all.

Every write goes to a temporary name in the same folder, is flushed to the disk, and is then renamed, so that a
reader, or a run that was killed, sees the old content or the new and nothing in between.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detdistill.errors import ConfigError

PARTIAL = ".partial"
_LEFTOVER = re.compile(rf".+\.[0-9a-f]{{12}}\{PARTIAL}")


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


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; what was written there takes its place when the block ends well.

    The folder of `path` is created where needed.
    """
    with _beside(path) as partial:
        partial.touch(0o666)
        readable = stat.S_IMODE(partial.stat().st_mode)
        yield partial
        # Whoever writes it may have made a file of its own, for its owner alone.
        partial.chmod(readable)
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path` that takes its name, and its place, when the block ends well."""
    with _beside(path) as partial:
        partial.mkdir()
        yield partial
        readable = stat.S_IMODE(partial.stat().st_mode) & 0o666
        for written in partial.rglob("*"):
            if written.is_file():
                written.chmod(readable)
            _sync(written)
        _sync(partial)
        if path.exists():
            shutil.rmtree(path)
        os.replace(partial, path)
        _sync(path.parent)


def discard_folder(path: Path) -> None:
    """Removes a folder so that a kill in between leaves a name that is cleaned up, not half a folder."""
    doomed = _passing(path)
    path.rename(doomed)
    shutil.rmtree(doomed)


def remove_partials(folder: Path) -> None:
    """Removes what writes into `folder` that were cut off left under temporary names, and nothing of another name."""
    for leftover in folder.iterdir() if folder.is_dir() else ():
        if not _LEFTOVER.fullmatch(leftover.name):
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


def write_once(path: Path, content: bytes) -> bytes:
    """Writes a file unless there is one, and returns what is there: of two writers at once, the first one's.

    Where the disk knows no hard links, two writers that both found nothing may leave the later one's.
    """
    with _beside(path) as partial:
        partial.write_bytes(content)
        _sync(partial)
        try:
            os.link(partial, path)
        except OSError:  # there is one, or the disk knows no links
            if path.exists():
                return path.read_bytes()
            os.replace(partial, path)
        _sync(path.parent)
    return content


def write_text(path: Path, text: str) -> None:
    """Writes `text` in UTF-8, whole or not at all."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def append_text(path: Path, text: str) -> None:
    """Adds `text` in UTF-8 at the end of a file by one write; a reader may see its last line unfinished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON, whole or not at all; NaN and infinity are refused (ValueError)."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ConfigError: the file is missing, unreadable, or no JSON.
    """
    require_regular(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} must be a readable file, got: {error.strerror}. Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} must be JSON, got text that is none ({error}). Write the file anew.") from error


def require_png(path: Path, *, option: str) -> None:
    """Refuses the name of a picture that is not a PNG's.

    Raises:
        ConfigError: it has another ending; `option` is where it was given.
    """
    if path.suffix.lower() != ".png":
        name = path.with_suffix(".png").name if path.stem else "picture.png"
        raise ConfigError(f"{option} must be a file name that ends in .png, got {path}. Write for example {name}.")
