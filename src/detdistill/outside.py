"""Errors of code from outside detdistill: a detector of one's own, a package that adds something, a user's function."""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from detdistill.errors import DistillError, OutsideError

STOPPED = (Exception, SystemExit)
"""What somebody's code can end in: a script that calls ``sys.exit`` must not end the command as if all were well."""

_HERE = f"{Path(__file__).parent}{os.sep}"
_INSTALLED = ("site-packages", "dist-packages")
# What torch raises, in whatever line is being run, where a process is gone.
_OF_PROCESSES = ("DataLoader worker", "gloo")
_packages: set[str] = set()


def count_as_outside(module: str) -> None:
    """Takes the package of an installed module for code from outside: it holds what was named, or adds something."""
    package = module.partition(".")[0]
    if package not in ("builtins", "detdistill", "torch"):
        _packages.add(package)


def place_of(error: BaseException) -> str:
    """What went wrong in somebody's code, and where: ``ValueError: no such width (file.py, line 12)``."""
    files, where = _frames(error), ""
    if files:  # a syntax error says itself where it is
        path, here = Path(files[-1].filename), Path.cwd()
        where = f" ({path.relative_to(here) if path.is_relative_to(here) else path.name}, line {files[-1].lineno})"
    said = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}{': ' if said else ''}{said}{where}"


def as_outside(error: BaseException, code: str | None = None) -> OutsideError | None:
    """The sentence about an error that code from outside raised; None where it did not go through such code.

    Args:
        code: whose it is, where that is known: then it is always from outside.
    """
    ours = isinstance(error, DistillError) or type(error).__module__.startswith("detdistill.")
    known = ours or any(text in str(error) for text in _OF_PROCESSES)
    if code is None and (known or not _frames(error)):
        return None
    trace = "".join(traceback.format_exception(error))
    found = OutsideError(place_of(error), trace, *(() if code is None else (code,)))
    found.__cause__ = error
    return found


@contextmanager
def telling(more: Callable[[OutsideError], OutsideError]) -> Iterator[None]:
    """Says in a sentence where code from outside fails within.

    Args:
        more: says more of it.

    Raises:
        OutsideError: it failed.
    """
    try:
        yield
    except STOPPED as error:
        found = error if isinstance(error, OutsideError) else as_outside(error)
        if found is None:
            raise
        raise more(found) from found.__cause__


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    return [one for one in traceback.extract_tb(error.__traceback__) if _is_outside(one.filename)]


def _is_outside(file: str) -> bool:
    """Whether a file is neither of this package, nor of Python, nor of what is installed and counts not as outside."""
    parts = Path(file).parts
    for folder in _INSTALLED:
        if folder in parts:
            return parts[parts.index(folder) + 1].removesuffix(".py") in _packages
    return not file.startswith(("<", _HERE, sysconfig.get_path("stdlib")))
