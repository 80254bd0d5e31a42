"""Reads the small text files of other formats: label files and lists; what is wrong with one has kind and line."""

from __future__ import annotations

import math
from pathlib import Path

from detdistill.errors import DataError

MOST_BYTES = 64 * 2**20
MOST_BOXES = 100_000


class FileFlaw(Exception):
    """What makes a whole label file unusable, before it is decided what that means for the data set."""

    def __init__(self, kind: str, what: str, *, line: int | None = None) -> None:
        super().__init__(kind, what, line)
        self.kind, self.what, self.line = kind, what, line

    def where(self, path: Path) -> str:
        """The file, and the line where there is one."""
        return f"{path}, line {self.line}" if self.line is not None else str(path)

    def refusal(self, path: Path) -> DataError:
        """The flaw as an error, for files that nothing can do without."""
        return DataError(f"{self.where(path)} must be a readable text file in UTF-8, got: {self.what}. Mend the file.")


def head_of(path: Path, count: int) -> bytes:
    """The first bytes of a regular file; none of what is no such file, or cannot be read."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(count)
    except OSError:
        return b""


def read_bytes(path: Path) -> bytes:
    """The bytes of a label file; raises `FileFlaw` where it cannot be read, or is so large that it is none."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise FileFlaw("label file unreadable", "it is no regular file")
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise FileFlaw("label file too large", f"{size} bytes, at most {MOST_BYTES} are read")
        return path.read_bytes()
    except FileNotFoundError:
        raise FileFlaw("label file missing", "no such file") from None
    except OSError as error:
        raise FileFlaw("label file unreadable", error.strerror or "it cannot be opened") from error


def read_text(path: Path) -> str:
    """The text of a label file without a byte order mark; raises `FileFlaw` where it is no text in UTF-8."""
    content = read_bytes(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise FileFlaw("label file not UTF-8", f"byte {content[error.start]:#04x} is no text", line=line) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise FileFlaw("label file not UTF-8", "a zero byte is no text", line=line)
    return text


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Number, from 1, and text of every line that is not blank, without the space around it; flaws as `read_text`."""
    lines = enumerate(read_text(path).replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1)
    return [(number, stripped) for number, line in lines if (stripped := line.strip())]


def require_few(count: int, what: str = "lines") -> None:
    """Refuses an image's label file of more than `MOST_BOXES` boxes, which holds something else; raises `FileFlaw`."""
    if count > MOST_BOXES:
        raise FileFlaw("label file of too many boxes", f"{count} {what}, at most {MOST_BOXES} are read")


def number(text: str) -> float:
    """A word as a number; NaN where it is none. Python's own ``1_0`` and digits of other scripts are none."""
    if "_" in text or not text.isascii():
        return math.nan
    try:
        return float(text)
    except ValueError:
        return math.nan
