"""What a JSON file must be beside JSON, and what is said where its content is of another kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detdistill.errors import ConfigError, DistillError


def json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, for the decoder's `object_pairs_hook`.

    Raises:
        ValueError: a key stands twice, of which the decoder would take the last.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)[:40]!r} stands twice in an object")
    return found


@contextmanager
def used_as(path: Path, what: str) -> Iterator[None]:
    """Around what uses the content of a file of ours: where that is of another kind, the file is said not to be `what`.

    Raises:
        ConfigError: a key is missing, or a value is of another kind.
    """
    try:
        yield
    except DistillError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
        raise ConfigError(
            f"{path} must be {what} as it was written, got other content ({type(error).__name__}: {str(error)[:80]}). "
            "Restore the file, or make it anew."
        ) from error
