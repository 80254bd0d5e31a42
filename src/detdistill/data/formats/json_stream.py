"""Reads the lists of a large JSON object one entry at a time, in constant memory.

The file is read in chunks, polygons are cut out of each chunk by one regular expression, and the interpreter's own
decoder, written in C, turns one entry at a time into a dict. A streaming library (ijson, yajl2_c) takes two to ten
times as long, as it makes a Python object of every polygon corner, and refuses the NaN and Infinity that Python's own
`json.dump` writes, where a reader must report the one bad box and go on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

from detdistill.errors import ConfigError, DataError, astray
from detdistill.files import require_regular
from detdistill.json_text import json_object

CHUNK = 1 << 20
LONGEST_ENTRY = 1 << 26
_SPACE = re.compile(r"[ \t\r\n]*")
_COMMA = re.compile(r"[ \t\r\n]*,")
# Only lists of numbers, and only those followed by the next key or the entry's end: never one cut by the window.
_POLYGONS = re.compile(r'"segmentation"\s*:\s*\[[^"{}]*\](?=\s*(?:,\s*"|\}))')
_decoder = json.JSONDecoder(object_pairs_hook=json_object)

BEGIN: Final = object()
"""Marks that a key of the top-level object was met, before any of its entries."""


class _Invalid(Exception):
    """The text is no JSON; carries what and about where."""


class _Reader:
    """A window that moves over the text; what lies before `at` has been read."""

    def __init__(self, file: TextIO, progress: Callable[[int], None]) -> None:
        self.file, self.progress = file, progress
        self.text, self.at, self.ended = "", 0, False

    def more(self) -> bool:
        """Makes the window longer (at least twice, so that a long entry costs linear time); False at the end."""
        if self.ended:
            return False
        rest = self.text[self.at :]
        if len(rest) > LONGEST_ENTRY:
            raise _Invalid(f"one entry is longer than {LONGEST_ENTRY >> 20} million characters")
        chunk = self.file.read(max(CHUNK, len(rest)))
        self.ended = not chunk
        self.text = _POLYGONS.sub('"segmentation":0', rest + chunk)
        self.at = 0
        self.progress(self.file.buffer.tell())
        return True

    def peek(self) -> str:
        """The next character that is no white space; empty at the end of the file."""
        while True:
            match = _SPACE.match(self.text, self.at)
            self.at = match.end() if match else self.at
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def expect(self, allowed: str) -> str:
        """Reads one character that must be among those allowed."""
        found = self.peek()
        if not found or found not in allowed:
            names = " or ".join(f"'{character}'" for character in allowed)
            raise _Invalid(f"{names} is missing before {self._next()}")
        self.at += 1
        return found

    def value(self) -> Any:
        """Reads one whole value."""
        self.peek()
        while True:
            try:
                value, end = _decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if not self.more():
                    self.at = min(error.pos, len(self.text))
                    raise _Invalid(f"{error.msg} before {self._next()}") from None
            except ValueError as error:
                raise _Invalid(f"a value cannot be read ({error}) before {self._next()}") from None
            except RecursionError:
                raise _Invalid("it is nested too deeply") from None
            else:
                # A number that touches the window's end may go on behind it.
                if end < len(self.text) or not self.more():
                    self.at = end
                    return value

    def _next(self) -> str:
        following = self.text[self.at : self.at + 30]
        return repr(following) if following else "the end of the file"


def _entries(reader: _Reader) -> Iterator[Any]:
    reader.expect("[")
    if reader.peek() == "]":
        reader.at += 1
        return
    while True:
        yield reader.value()
        if comma := _COMMA.match(reader.text, reader.at):
            reader.at = comma.end()
        elif reader.expect(",]") == "]":
            return


def _walk(reader: _Reader, path: Path, wanted: Collection[str]) -> Iterator[tuple[str, Any]]:
    first = reader.peek()
    if not first:
        raise DataError(f"{path} must be a COCO JSON file, got an empty file. Write or download it anew.")
    if first != "{":
        reader.value()
        raise DataError(
            f'{path} must be a JSON object with the lists "images", "annotations" and "categories", got '
            f"{'a list' if first == '[' else 'a single value'}. Give the annotations in COCO's format, not results."
        )
    reader.expect("{")
    seen: set[str] = set()
    if reader.peek() == "}":
        reader.at += 1
        return
    while True:
        if reader.peek() != '"':
            reader.expect('"')
        key = str(reader.value())
        if key in wanted and key in seen:
            raise DataError(f'"{key}" of {path} must stand once, got it twice. Write one list of all its entries.')
        seen.add(key)
        reader.expect(":")
        yield key, BEGIN
        if reader.peek() == "[":
            yield from ((key, entry) for entry in _entries(reader) if key in wanted)
        else:
            kind = type(reader.value()).__name__
            if key in wanted:
                raise DataError(f'"{key}" of {path} must be a list, got {kind}. Write the file in COCO\'s format.')
        if reader.expect(",}") == "}":
            return


def walk(
    path: Path, wanted: Collection[str], *, progress: Callable[[int], None] = lambda read: None
) -> Iterator[tuple[str, Any]]:
    """Yields the entries of the wanted top-level lists, one at a time, in the order of the file.

    Polygons (a ``"segmentation"`` that is a list of numbers) are not decoded: they read as 0. `progress` is called
    now and then with how many bytes of the file are read.

    Yields:
        (key, `BEGIN`) for every top-level key, then (key, entry) for each entry of a wanted list.

    Raises:
        ConfigError: the file cannot be read.
        DataError: the file is empty, no JSON, no object, a wanted value is no list, or a key stands twice.
    """
    with _reading(path, progress) as reader:
        yield from _walk(reader, path, wanted)
        if reader.peek():
            raise _Invalid("there is more text behind the end of the object")


def walk_list(path: Path, *, what: str) -> Iterator[Any]:
    """Yields the entries of a file that is one list, one at a time, with polygons as in `walk`.

    Args:
        what: the file must be.

    Raises:
        ConfigError: the file cannot be read.
        DataError: it is no JSON, or no list.
    """
    with _reading(path, lambda read: None) as reader:
        if reader.peek() != "[":
            kind = type(reader.value()).__name__ if reader.peek() else "an empty file"
            raise DataError(f"{path} must be {what}, got {kind}. Write the file in that form.")
        yield from _entries(reader)
        if reader.peek():
            raise _Invalid("there is more text behind the end of the list")


@contextmanager
def _reading(path: Path, progress: Callable[[int], None]) -> Iterator[_Reader]:
    """A reader of a file, whose faults are told as the file's."""
    require_regular(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield _Reader(file, progress)
    except OSError as error:
        raise ConfigError(f"{path} must be a readable file, got: {error.strerror}. {astray(path)}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} must be JSON text in UTF-8, got a byte that is not ({error.reason}). Save it as UTF-8."
        ) from error
    except _Invalid as error:
        raise DataError(f"{path} must be JSON, got text that is none: {error}. Write or download it anew.") from error
