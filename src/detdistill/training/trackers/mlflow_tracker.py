"""MLflow: the server of MLFLOW_TRACKING_URI, else files in the run's own folder, which need no further package."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, final

from detdistill.files import make_folder
from detdistill.training.trackers.base import PROJECT, Ending, Opening, flat

_STATUS: Mapping[Ending, str] = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_SERVER, _EXPERIMENT, _FILES = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_ALLOW_FILE_STORE"
_AT_ONCE, _LONGEST = 100, 6000
_ENVIRONMENT = threading.Lock()


def require() -> None:
    """Imports what is needed (ImportError)."""
    import_module("mlflow.tracking")


def where() -> str:
    """Which store a run is told to: a resumed one goes on in the same alone."""
    return os.environ.get(_SERVER, "")


@contextmanager
def _allowing_files() -> Iterator[None]:
    """MLflow opens its file store only to those who ask for it, by a variable that is set no longer than needed."""
    with _ENVIRONMENT:
        before = os.environ.get(_FILES)
        os.environ[_FILES] = "true"
        try:
            yield
        finally:
            if before is None:
                del os.environ[_FILES]
            else:
                os.environ[_FILES] = before


@final
class MlflowTracker:
    """A run of MLflow."""

    def __init__(self, opening: Opening) -> None:
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric: Any = Metric
        store = opening.folder / "mlflow"
        uri = where() or store.absolute().as_uri()
        experiment = os.environ.get(_EXPERIMENT, PROJECT)
        with _allowing_files():
            self._client: Any = MlflowClient(tracking_uri=uri)
            if not where():
                # A store that this process has seen before is not laid out anew.
                make_folder(store / ".trash")
            found = self._client.get_experiment_by_name(experiment)
        if opening.identity is not None:
            self.identity = opening.identity
            self._client.update_run(self.identity, status="RUNNING")
        else:
            number = self._client.create_experiment(experiment) if found is None else found.experiment_id
            self.identity = self._client.create_run(number, run_name=opening.name).info.run_id
            told = [Param(name, str(value)[:_LONGEST]) for name, value in flat(opening.config, between=".")]
            for first in range(0, len(told), _AT_ONCE):
                self._client.log_batch(self.identity, params=told[first : first + _AT_ONCE])
        self.place = f"run {self.identity} in {uri}"

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """One batch a step."""
        now, names = int(time.time() * 1000), list(figures)
        for first in range(0, len(names), _AT_ONCE):
            some = names[first : first + _AT_ONCE]
            self._client.log_batch(
                self.identity, metrics=[self._metric(name, figures[name], now, step) for name in some]
            )

    def summary(self, step: int, figures: Mapping[str, float], words: Mapping[str, str]) -> None:
        """Figures at the last step, the verdict as the run's description, other words as tags."""
        self.log(step, figures)
        for name, text in words.items():
            self._client.set_tag(self.identity, "mlflow.note.content" if name == "verdict" else name, text[:_LONGEST])

    def picture(self, step: int, name: str, path: Path) -> None:
        """An artifact."""
        self._client.log_artifact(self.identity, str(path))

    def close(self, ending: Ending) -> None:
        """Says how it ended."""
        self._client.set_terminated(self.identity, _STATUS[ending])


open_tracker = MlflowTracker
