"""What every key of a settings dataclass, or word of a function, means, read from its documentation."""

from __future__ import annotations

import inspect
import re
from typing import Any

OPTION_NAMES = {"itself": "self"}
"""How the command line calls a function's word, where it is not the option of the same name."""

PYTHON_ALONE = frozenset({"progress", "on_step", "on_evaluation"})
"""Words of a function that are no options of its command."""

_STARTED = re.compile(r"(\w+): (.*)")


def meanings_of(kind: type[Any]) -> dict[str, str]:
    """Each attribute's documentation in one line, those of a dataclass's bases included; see `meanings_in`."""
    meanings: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        meanings |= meanings_in(one.__dict__.get("__doc__") or "", "Attributes")
    return meanings


def meanings_in(documentation: str, section: str) -> dict[str, str]:
    """The entries of a section such as ``Args``, a line each, in the command line's words: null for None, no marks."""
    found = re.search(rf"^{section}:\n((?: .*\n|\n)*)", f"{inspect.cleandoc(documentation)}\n", flags=re.MULTILINE)
    meanings: dict[str, str] = {}
    key = ""
    for line in inspect.cleandoc(found[1]).splitlines() if found else ():
        started = _STARTED.match(line)
        if started is not None:
            key, meanings[started[1]] = started[1], started[2]
        elif key and line:
            meanings[key] += f" {line.strip()}"
    return {key: re.sub(r"\bNone\b", "null", text).replace("`", "") for key, text in meanings.items()}
