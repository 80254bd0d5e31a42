"""How the command line shows a job: a bar with rate and time left, warnings, tables, JSON files."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from detdistill.files import write_json
from detdistill.jobs.interface import Outcome

SECONDS_BETWEEN_LINES = 15.0
_NO_STAGE = TaskID(-1)


class _Rate(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        """The rate of the last while."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "-/s", style="progress.data.speed")


class ScreenProgress:
    """Shows a job on standard error: live bars on a terminal, a plain line now and then elsewhere.

    Args:
        console: where to show; standard error by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
        )
        self._live = self._console.is_terminal
        self._stage = _NO_STAGE
        self._what, self._total, self._done = "", 0, 0
        self._first: int | None = None
        self._began = self._last_line = time.monotonic()

    def say(self, line: str) -> None:
        """Prints the line above the bars."""
        self._console.print(line)

    def start(self, what: str, total: int) -> None:
        """Opens a bar."""
        self.finish()
        self._what, self._total, self._done, self._first = what, total, 0, None
        self._began = self._last_line = time.monotonic()
        if self._live:
            self._bars.start()
            self._stage = self._bars.add_task(what, total=total, note="")
        else:
            self._console.print(f"{what} ...")

    def advance(self, done: int, note: str = "") -> None:
        """Moves the bar; off a terminal it prints a line every quarter of a minute."""
        self._done = done
        if self._first is None:
            self._first = done - 1  # a resumed stage begins in the middle
        if self._live:
            if self._stage != _NO_STAGE:
                self._bars.update(self._stage, completed=done, note=note)
            return
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            rate = (done - self._first) / (now - self._began)
            left = (self._total - done) / rate if rate > 0 else 0.0
            minutes, seconds = divmod(round(left), 60)
            said = f"{self._what}: {done}/{self._total}, {rate:.1f}/s, {minutes}:{seconds:02d} left"
            self._console.print(f"{said}, {note}" if note else said)

    def finish(self) -> None:
        """Closes the bar, or says how long the stage took."""
        if self._what and not self._live:
            self._console.print(f"{self._what}: {self._done}/{self._total} in {time.monotonic() - self._began:.0f} s")
        self._what = ""
        if self._live:
            self._bars.stop()
            self._stage = _NO_STAGE


def show(outcome: Outcome, *, json: Path | None) -> None:
    """Prints a result's table, and writes it as JSON where a file is asked for.

    Args:
        outcome: what a job found out.
        json: the file to write; None for none.
    """
    for line in outcome.table():
        print(line)
    if json is not None:
        write_json(json, outcome.as_dict())
