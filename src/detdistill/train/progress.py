"""What somebody who waits for a run gets to see; a library call shows nothing unless it is given one of these."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bars


@dataclass(frozen=True, slots=True)
class Pace:
    """How a run is doing.

    Attributes:
        step: steps done.
        loss: total loss of the last step.
        images_per_second: over this process's steps so far, all devices together.
        seconds_left: estimate for the remaining steps.
    """

    step: int
    loss: float
    images_per_second: float
    seconds_left: float

    def text(self) -> str:
        """Rate, time left and loss in one line."""
        left = duration(self.seconds_left)
        return f"{self.images_per_second:.1f} images/s, {left} left, loss {self.loss:.4f}"


class Progress(Protocol):
    """Told how a run is doing."""

    def begin(self, label: str, *, steps: int, done: int) -> None:
        """A run of `steps` steps begins, or goes on after `done` of them."""

    def advance(self, pace: Pace) -> None:
        """A step was done."""

    def note(self, text: str) -> None:
        """Something worth a line happened."""

    def end(self) -> None:
        """The run is over, well or not."""


def duration(seconds: float) -> str:
    """Seconds as ``0:07``, ``12:34`` or ``1:02:03``."""
    whole = max(0, round(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@final
class SilentProgress:
    """Shows nothing."""

    def begin(self, label: str, *, steps: int, done: int) -> None:
        """Shows nothing."""

    def advance(self, pace: Pace) -> None:
        """Shows nothing."""

    def note(self, text: str) -> None:
        """Shows nothing."""

    def end(self) -> None:
        """Shows nothing."""


@final
class BarProgress:
    """A live bar on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Bars | None = None
        self._task = TaskID(0)

    def begin(self, label: str, *, steps: int, done: int) -> None:
        """Shows the bar."""
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
            console=self._console,
            refresh_per_second=4,
        )
        self._task = self._bars.add_task(label, total=steps, completed=done, pace="")
        self._bars.start()

    def advance(self, pace: Pace) -> None:
        """Moves the bar."""
        if self._bars is not None:
            self._bars.update(self._task, completed=pace.step, pace=pace.text())

    def note(self, text: str) -> None:
        """Writes a line above the bar."""
        self._console.print(text, markup=False, highlight=False)

    def end(self) -> None:
        """Leaves the bar as it stands."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


@final
class LineProgress:
    """A plain line now and then, for files and pipes."""

    def __init__(
        self,
        write: Callable[[str], object],
        *,
        every_seconds: float = 15.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write = write
        self._every_seconds = every_seconds
        self._now = now
        self._label = ""
        self._steps = 0
        self._last = 0.0

    def begin(self, label: str, *, steps: int, done: int) -> None:
        """Writes what begins, and from where."""
        self._label, self._steps, self._last = label, steps, self._now()
        self._write(f"{label}: {steps} steps" + (f", going on after {done}" if done else ""))

    def advance(self, pace: Pace) -> None:
        """Writes a line where the last one is long ago, and at the last step."""
        if pace.step == self._steps or self._now() - self._last >= self._every_seconds:
            self._last = self._now()
            self._write(f"{self._label}: step {pace.step}/{self._steps}, {pace.text()}")

    def note(self, text: str) -> None:
        """Writes the line."""
        self._write(text)

    def end(self) -> None:
        """Writes nothing more."""


def visible_progress(console: Console) -> Progress:
    """A bar where `console` is a terminal, plain lines where it is not."""
    if console.is_terminal:
        return BarProgress(console)
    return LineProgress(lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True))
