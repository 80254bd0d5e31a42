"""Every error a user can cause.

One sentence form: "<what and where> must be <expected>, got <actual>. <One remedy>."
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


class MissingDependencyError(DistillError, ImportError):
    """An optional package is needed and not installed."""


def suggestion(word: str, known: Iterable[str], *, listed: bool = False) -> str:
    """The remedy sentence for a misspelt name: ``"Did you mean 'x'?"`` where one is close, else all known names.

    `listed`: the sentence before has named them all already, so that the remedy is ``"Choose one of them."``.
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{close[0]}'?"
    return "Choose one of them." if listed else f"Known: {', '.join(names)}."


def typed(values: Iterable[object]) -> str:
    """A list as `key=value` takes it, without the blanks that would end a word of the shell."""
    return f"[{','.join(map(str, values))}]"
