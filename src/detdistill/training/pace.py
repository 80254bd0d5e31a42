"""How long a run takes, by its own first steps."""

from __future__ import annotations

from typing import final

from detdistill.progress import duration

_STEPS, _SECONDS = 10, 30.0
_WORTH_TELLING = 60.0


@final
class Pace:
    """Tells once how long the rest of a run takes, as soon as some steps after the first, which is cold, are done."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._warm: tuple[int, float] | None = None
        self._told = False

    def sentence(self, done: int, seconds: float) -> str | None:
        """What to say after `done` steps of `seconds` in all; None where there is nothing, or too little, to tell."""
        if self._warm is None:
            self._warm = (done, seconds)
            return None
        steps, took = done - self._warm[0], seconds - self._warm[1]
        if self._told or (steps < _STEPS and took < _SECONDS):
            return None
        self._told = True
        left = self._steps - done
        rest = left * took / steps
        return f"{left:,} steps to go: about {duration(rest)}" if rest >= _WORTH_TELLING else None
