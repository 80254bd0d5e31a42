"""How long work shows itself: one protocol for all of it, silence for libraries, bars and lines for people."""

from __future__ import annotations

import sys
import time
from typing import IO, Protocol, cast, final, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from detdistill.output import ERROR, Unfailing

SECONDS_BETWEEN_LINES = 15.0
_NO_STAGE = TaskID(-1)


@runtime_checkable
class Progress(Protocol):
    """Somebody who watches long work."""

    def say(self, line: str) -> None:
        """One line of text, such as a load report or a warning."""

    def start(self, what: str, total: int, *, unit: str = "step", done: int = 0) -> None:
        """A stage of `total` units begins, or goes on after `done` of them; the stage before it is over.

        `unit` is what is counted: a step, an image, ...
        """

    def advance(self, done: int, note: str = "") -> None:
        """`done` units of the stage are over; `note` shows a figure beside the bar, such as the loss."""

    def finish(self) -> None:
        """The stage is over, however far it got."""


@final
class Silence:
    """The watcher that looks away."""

    def say(self, line: str) -> None:
        """Drops the line."""

    def start(self, what: str, total: int, *, unit: str = "step", done: int = 0) -> None:
        """Ignores the stage."""

    def advance(self, done: int, note: str = "") -> None:
        """Ignores the steps."""

    def finish(self) -> None:
        """Ignores the end."""


@final
class _Rate(ProgressColumn):
    """Units per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "-/s", style="progress.data.speed")


@final
class ScreenProgress:
    """Shows work on standard error: a live bar on a terminal, a plain line now and then elsewhere.

    Args:
        console: where to show; standard error by default, whose errors end nothing.
    """

    def __init__(self, console: Console | None = None) -> None:
        error = Unfailing(sys.stderr, ERROR)
        self._console = console or Console(file=cast(IO[str], error), highlight=False, markup=False, soft_wrap=True)
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}", markup=False),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
        )
        self._live = self._console.is_terminal
        self._stage = _NO_STAGE
        self._what, self._unit, self._total, self._done, self._first = "", "", 0, 0, 0
        self._began = self._last_line = time.monotonic()

    def say(self, line: str) -> None:
        """Prints the line, above the bar where there is one."""
        self._console.print(line)

    def start(self, what: str, total: int, *, unit: str = "step", done: int = 0) -> None:
        """Opens a bar, or says what begins."""
        self.finish()
        self._what, self._unit, self._total, self._done, self._first = what, unit, total, done, done
        self._began = self._last_line = time.monotonic()
        if self._live:
            self._bars.start()
            self._stage = self._bars.add_task(
                what, total=total, completed=done, unit=counted(total, unit).split()[1], note=""
            )
        else:
            self._console.print(f"{what}: {counted(total, unit)}" + (f", going on after {done}" if done else ""))

    def advance(self, done: int, note: str = "") -> None:
        """Moves the bar; off a terminal it prints a line every quarter of a minute."""
        self._done = done
        if self._stage != _NO_STAGE:
            self._bars.update(self._stage, completed=done, note=note)
            return
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            rate = (done - self._first) / (now - self._began)
            left = duration((self._total - done) / rate) if rate > 0 else "?"
            said = f"{self._what}: {self._so_far()}, {rate:.1f}/s, {left} left"
            self._console.print(f"{said}, {note}" if note else said)

    def finish(self) -> None:
        """Closes the bar, or says how long the stage took."""
        if self._what and not self._live:
            took = duration(time.monotonic() - self._began)
            self._console.print(f"{self._what}: {self._so_far()} in {took}")
        if self._stage != _NO_STAGE:
            self._bars.stop()
        self._what, self._stage = "", _NO_STAGE

    def _so_far(self) -> str:
        all_of_it = counted(self._total, self._unit)
        return all_of_it if self._done == self._total else f"{self._done} of {all_of_it}"


def counted(number: float, what: str) -> str:
    """A number of things, such as ``"2,000 steps"``, ``"1 process"`` or ``"0.5 epochs"``; capitals have no plural."""
    figure = f"{number:,}" if isinstance(number, int) else f"{number:.3g}"
    many = "" if figure == "1" or what.isupper() else "es" if what.endswith(("s", "x", "tch")) else "s"
    return f"{figure} {what}{many}"


def in_bytes(count: float) -> str:
    """A size such as ``"812 bytes"``, ``"1.5 MB"`` or ``"12 GB"``."""
    for unit, size, least in (("GB", 1e9, 1e10), ("MB", 1e6, 1e5), ("kB", 1e3, 1e4)):
        if count >= least:
            figure = count / size
            return f"{figure:.3g} {unit}" if figure < 999.5 else f"{figure:,.0f} {unit}"
    return f"{count:.0f} bytes"


def duration(seconds: float) -> str:
    """Seconds as ``0:07``, ``12:34`` or ``1:02:03``."""
    whole = max(0, round(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
