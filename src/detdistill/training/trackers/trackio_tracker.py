"""trackio: its own folder (TRACKIO_DIR), or a Space that TRACKIO_SPACE_ID names."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any, final

from detdistill.training.trackers.base import PROJECT, Ending, Opening


def require() -> None:
    """Imports what is needed (ImportError)."""
    import_module("trackio")


def where() -> str:
    """A run is found by its project and its own name there."""
    return os.environ.get("TRACKIO_PROJECT", PROJECT)


@final
class TrackioTracker:
    """A run of trackio, whose names are those by which it is resumed."""

    def __init__(self, opening: Opening) -> None:
        trackio: Any = import_module("trackio")
        self._image = trackio.Image
        self.identity = opening.identity or f"{opening.name}-{uuid.uuid4().hex[:6]}"
        with redirect_stdout(StringIO()):  # results have standard output to themselves
            self._run = trackio.init(
                project=where(),
                name=self.identity,
                config=dict(opening.config),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
            )
        self.place = f"run {self.identity} of {where()}"

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """One row a step."""
        self._run.log(dict(figures), step=step)

    def summary(self, step: int, figures: Mapping[str, float], words: Mapping[str, str]) -> None:
        """A row of the last step: it keeps no summary."""
        self._run.log({**figures, **words}, step=step)

    def picture(self, step: int, name: str, path: Path) -> None:
        """An image of the last step."""
        self._run.log({name: self._image(str(path))}, step=step)

    def close(self, ending: Ending) -> None:
        """Sends the rest."""
        with redirect_stdout(StringIO()):
            self._run.finish()


open_tracker = TrackioTracker
