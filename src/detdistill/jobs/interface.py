"""What every job's result can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Outcome(Protocol):
    """What a job found out."""

    def table(self) -> Sequence[str]:
        """Lines of text for people."""

    def as_dict(self) -> Mapping[str, Any]:
        """The same for JSON: numbers, text, lists and dictionaries; what is unknown is None."""
