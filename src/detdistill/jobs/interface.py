"""What every job has in common: how it tells its progress, and how its result is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Progress(Protocol):
    """Somebody who watches a job."""

    def say(self, line: str) -> None:
        """One line of text, such as a load report or a warning."""

    def start(self, what: str, total: int) -> None:
        """A stage of `total` steps begins, and the one before it is over; `what` names it."""

    def advance(self, done: int, note: str = "") -> None:
        """`done` steps of the stage are over; `note` shows a figure beside the bar, such as the loss."""

    def finish(self) -> None:
        """The stage is over, however far it got."""


class Silence:
    """The watcher that looks away."""

    def say(self, line: str) -> None:
        """Drops the line."""

    def start(self, what: str, total: int) -> None:
        """Ignores the stage."""

    def advance(self, done: int, note: str = "") -> None:
        """Ignores the steps."""

    def finish(self) -> None:
        """Ignores the end."""


class Outcome(Protocol):
    """What a job found out."""

    def table(self) -> Sequence[str]:
        """Lines of text for people."""

    def as_dict(self) -> Mapping[str, Any]:
        """The same for JSON: numbers, text, lists and dictionaries; what is unknown is None."""
