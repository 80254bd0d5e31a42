"""What every key of a settings dataclass means, read from the `Attributes` of its documentation and its bases'."""

from __future__ import annotations

import inspect
import re
from typing import Any

_ATTRIBUTE = re.compile(r"(\w+): (.*)")


def meanings_of(kind: type[Any]) -> dict[str, str]:
    """Each attribute's documentation in one line, in the command line's words: null for None, no code marks."""
    meanings: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        _, _, attributes = inspect.cleandoc(one.__dict__.get("__doc__") or "").partition("Attributes:\n")
        key = ""
        for line in inspect.cleandoc(re.split(r"^\S", attributes, maxsplit=1, flags=re.MULTILINE)[0]).splitlines():
            started = _ATTRIBUTE.match(line)
            if started is not None:
                key, meanings[started[1]] = started[1], started[2]
            elif key and line:
                meanings[key] += f" {line.strip()}"
    return {key: re.sub(r"\bNone\b", "null", text).replace("`", "") for key, text in meanings.items()}
