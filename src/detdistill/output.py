"""Standard output and standard error as streams whose errors end nothing."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, final

OUTPUT, ERROR = "standard output", "standard error"
GONE = os.strerror(errno.EPIPE)

LOST: dict[str, str] = {}
"""Which of both could not be written any more, and why, since `unfailing` began."""


@final
class Unfailing:
    """A standard stream that falls silent where it cannot be written: a reader that has gone, a full disk.

    A character that its encoding has not is written as an escape.

    Args:
        stream: None where the process has none.
        name: what `LOST` calls it.
    """

    def __init__(self, stream: TextIO | None, name: str) -> None:
        self._stream, self._name = stream, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes what can be written, and returns as if it were all."""
        if self._stream is not None and self._name not in LOST:
            with self._losing():
                try:
                    self._stream.write(text)
                except UnicodeEncodeError:
                    encoding = self._stream.encoding
                    self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Hands on what the stream kept back."""
        if self._stream is not None and self._name not in LOST:
            with self._losing():
                self._stream.flush()

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """The stream's; OSError where it has none."""
        if self._stream is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._stream.fileno()

    @contextmanager
    def _losing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: it is closed
            LOST[self._name] = getattr(error, "strerror", None) or str(error)
            with suppress(OSError, ValueError):  # what it still holds must not fail at the end of the process
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.fileno())
                os.close(nowhere)


@contextmanager
def unfailing() -> Iterator[None]:
    """Makes the process's standard streams such ones for a while; none is left whose number a file could take."""
    LOST.clear()
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    with redirect_stdout(Unfailing(sys.stdout, OUTPUT)), redirect_stderr(Unfailing(sys.stderr, ERROR)):
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
