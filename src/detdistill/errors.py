"""Every error a user can cause.

One sentence form: "<what and where> must be <expected>, got <actual>. <One remedy>."
"""

from __future__ import annotations

import difflib
import shlex
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

UNKNOWN = "Check the path."
"""The remedy where nothing lies at a path, and nothing close to it."""


class DistillError(Exception):
    """Base of everything detdistill raises on purpose; the command line prints it and exits with 2."""


class ShapeError(DistillError, ValueError):
    """A tensor, level or grid does not have the expected shape."""


class ConfigError(DistillError, ValueError):
    """A setting, file name or command-line argument cannot be used."""


class CapabilityError(DistillError, TypeError):
    """Two parts do not fit: a recipe needs what a detector does not offer, in the layout it needs."""


class DataError(DistillError, ValueError):
    """Images or annotations cannot be used as they are."""


class DiskError(DistillError):
    """A file cannot be written: the disk is full, fails, or refuses. What was there before is there still.

    Attributes:
        path: of the file.
        said: what and why, a sentence.
        remedy: what is to be done before the command is given again.
        size: bytes that it takes at least; 0 where that is not known.
        resumes: whether the command goes on by --resume.
    """

    def __init__(self, path: str, said: str, remedy: str, size: int = 0, resumes: bool = False) -> None:
        super().__init__(path, said, remedy, size, resumes)
        self.path, self.said, self.remedy, self.size, self.resumes = path, said, remedy, size, resumes

    def __str__(self) -> str:
        again = " with --resume" if self.resumes else ""
        return f"{self.said} {self.remedy}, then give the same command again{again}; nothing that was there is lost."

    def of_run(self) -> DiskError:
        """The same, said of a run, which goes on by --resume."""
        return DiskError(self.path, self.said, self.remedy, self.size, resumes=True)


class OutsideError(DistillError):
    """Code from outside detdistill raised an error: a detector of one's own, another package's, a function of a user.

    Attributes:
        raised: the error's type and message, and the file and line of that code.
        trace: the calls that led there, as Python shows them.
        code: what raised it.
        where: during what of a run, such as ``"step 3 of 100"``; empty outside a training.
        kept: what of the run there is to go on from; empty outside a training.
        resumes: whether the command goes on by --resume.
    """

    def __init__(  # noqa: PLR0917 - an error is made anew of its arguments in another process
        self,
        raised: str,
        trace: str,
        code: str = "code from outside detdistill",
        where: str = "",
        kept: str = "",
        resumes: bool = False,
    ) -> None:
        super().__init__(raised, trace, code, where, kept, resumes)
        self.raised, self.trace, self.code, self.where, self.kept, self.resumes = self.args

    def __str__(self) -> str:
        who = f"{self.where}: {self.code}" if self.where else f"{self.code[0].upper()}{self.code[1:]}"
        then = f"go on by --resume; {self.kept}" if self.kept else "give the same command again"
        again = " with --resume" if self.resumes and not self.kept else ""
        return f"{who} must run without an error, got {self.raised}. Repair it and {then}{again}."

    def during(self, where: str = "", kept: str = "") -> OutsideError:
        """The same, said of a run, and of what in it where that was not said before."""
        where, kept = self.where or where, self.kept or kept
        found = OutsideError(self.raised, self.trace, self.code, where, kept, resumes=True)
        found.__cause__ = self.__cause__
        return found


class MissingDependencyError(DistillError, ImportError):
    """An optional package is needed and not installed."""


def reason(error: BaseException) -> str:
    """What went wrong first, in a line without its full stop: ``"ValueError: no such width"``."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Where the first line is a place in somebody's C++, the last says why.
    said = next((line for line in lines[:1] if not line.endswith(":")), lines[-1] if lines else "")
    return f"{type(error).__name__}: {said}"[:300].rstrip(".: ")


def installing(package: str) -> str:
    """The remedy where a package, or an extra of ours, is missing: what installs it beside this very Python."""
    python = shlex.quote(sys.executable)
    # Environments that uv makes have no pip of their own.
    how = f"{python} -m pip install" if find_spec("pip") else f"uv pip install --python {python}"
    return f"Install it: {how} {shlex.quote(package)}."


def suggestion(word: str, known: Iterable[str], *, listed: bool = False) -> str:
    """The remedy sentence for a misspelt name: ``"Did you mean 'x'?"`` where one is close, else all known names.

    `listed`: the sentence before has named them all already, so that the remedy is ``"Choose one of them."``.
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{close[0]}'?"
    return "Choose one of them." if listed else f"Known: {', '.join(names)}."


def astray(path: Path | str) -> str:
    """The remedy where nothing lies at a path: ``"Did you mean DATA?"`` where a name that is there is close to it."""
    try:
        return _nearest(Path(str(path).replace("\\", "/")))
    except (OSError, ValueError):
        return UNKNOWN


def _nearest(path: Path) -> str:
    for missing in (*reversed(path.parents), path):
        if not missing.exists():
            known = (one.name for one in islice(missing.parent.iterdir(), 10_000) if one.name.isprintable())
            close = difflib.get_close_matches(missing.name, list(known), n=1, cutoff=0.75)
            path = missing.with_name(close[0]) / path.relative_to(missing) if close else path
            break
    return f"Did you mean {path}?" if path.exists() else UNKNOWN


def either(words: Iterable[str]) -> str:
    """Alternatives in a sentence: ``"a, b or c"``."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def typed(values: Iterable[object]) -> str:
    """A list as `key=value` takes it, without the blanks that would end a word of the shell."""
    return f"[{','.join(map(str, values))}]"
