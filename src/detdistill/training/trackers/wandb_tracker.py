"""Weights & Biases; offline, with what it keeps in the run's own folder, where WANDB_MODE says so."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, final

from detdistill.errors import ConfigError
from detdistill.files import make_folder
from detdistill.training.trackers.base import PROJECT, Ending, Opening

_MODE, _OFFLINE = "WANDB_MODE", ("offline", "dryrun", "disabled")
_KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
_UNKNOWN = (
    "train.loggers must name wandb only where it is logged in or offline, got no key in WANDB_API_KEY or ~/.netrc. "
    "Log in by `wandb login`, or set WANDB_MODE=offline in the environment."
)


def require() -> None:
    """Imports what is needed (ImportError), and refuses to ask for a key in the middle of a run (ConfigError)."""
    import_module("wandb")
    files = (os.environ.get("NETRC"), "~/.netrc", "~/_netrc")
    known = any(map(os.environ.get, _KEYS)) or any(Path(one).expanduser().is_file() for one in files if one)
    if os.environ.get(_MODE, "online") not in _OFFLINE and not known:
        raise ConfigError(_UNKNOWN)


def where() -> str:
    """A run is found by its project and its own name there."""
    return os.environ.get("WANDB_PROJECT", PROJECT)


@final
class WandbTracker:
    """A run of Weights & Biases, beside any other of this process."""

    def __init__(self, opening: Opening) -> None:
        import wandb

        self._image: Any = wandb.Image
        if os.environ.get(_MODE, "online") not in _OFFLINE and not wandb.login(prompt=False):
            raise ConfigError(_UNKNOWN)
        self.identity = opening.identity or uuid.uuid4().hex[:12]
        make_folder(opening.folder)
        quiet = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True)
        self._run: Any = wandb.init(
            project=where(),
            dir=str(opening.folder),
            id=self.identity,
            name=opening.name,
            config=dict(opening.config),
            resume="allow",
            reinit="create_new",
            settings=quiet,
        )
        sent = f"run {self.identity}; send it by `wandb sync {self._run.settings.sync_dir}`"
        self.place = sent if self._run.offline else str(self._run.url)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """One row of its history a step."""
        self._run.log(dict(figures), step=step)

    def summary(self, step: int, figures: Mapping[str, float], words: Mapping[str, str]) -> None:
        """Figures and words in the run's summary."""
        self._run.summary.update({**figures, **words})

    def picture(self, step: int, name: str, path: Path) -> None:
        """An image of the last step."""
        self._run.log({name: self._image(str(path))}, step=step)

    def close(self, ending: Ending) -> None:
        """Sends the rest."""
        self._run.finish(exit_code=0 if ending == "finished" else 1)


open_tracker = WandbTracker
