"""What lies where in the folder of a search for a method and its strength."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detdistill.errors import ConfigError
from detdistill.files import read_json, write_json
from detdistill.store.layout import RunFolder

_ASKED = "search.json"


@dataclass(frozen=True, slots=True)
class SearchFolder:
    """The folder of one search."""

    path: Path

    @property
    def study(self) -> Path:
        """What every trial measured: Optuna's SQLite file."""
        return self.path / "study.db"

    @property
    def tuned(self) -> Path:
        """The settings of the final training."""
        return self.path / "tuned.yaml"

    @property
    def picture(self) -> Path:
        """The trials, drawn."""
        return self.path / "trials.png"

    @property
    def results(self) -> Path:
        """What was found."""
        return RunFolder(self.path).results

    @property
    def final(self) -> Path:
        """The run folder of the final training, unless it is told another."""
        return self.path / "final"

    def trial(self, number: int, fold: int = 0) -> Path:
        """The run folder of a trial, in each fold another."""
        return self.path / "trials" / (f"{number:03d}" if fold == 0 else f"{number:03d}_fold_{fold}")

    def require(self, asked: Mapping[str, Any], *, resume: bool) -> None:
        """Refuses a folder that holds something else, or a search for something else.

        Raises:
            ConfigError: so it is.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"{self.path} must be a folder, got a file of that name. Choose another --out.")
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return
        begun = (self.path / _ASKED).is_file()
        if not resume or not begun:
            remedy = (
                "Choose another --out, or go on with that search by --resume." if begun else "Choose another --out."
            )
            raise ConfigError(f"The folder {self.path} must be new or empty, got one with files in it. {remedy}")
        before = read_json(self.path / _ASKED)
        changed = sorted(key for key in asked if not isinstance(before, dict) or before.get(key) != asked[key])
        if changed:
            raise ConfigError(
                f"The search in {self.path} must go on with the settings that it began with, got other "
                f"{', '.join(changed)}. Give those, or choose another --out."
            )

    def begin(self, asked: Mapping[str, Any]) -> None:
        """Writes down what is searched for."""
        if not (self.path / _ASKED).is_file():
            write_json(self.path / _ASKED, asked)
