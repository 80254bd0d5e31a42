"""What evaluations during a run found: a table that a kill cannot spoil, the best student, and when to stop.

The table alone says which evaluation is the best, so that a resumed run, whose table loses the rows after its
checkpoint, stands where the run stood.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import final

from detdistill.store.best import Best, best_of, name_best, require_candidate, write_candidate
from detdistill.store.layout import RunFolder
from detdistill.training.logs import MetricsLog, Row, as_read, read_rows
from detdistill.training.settings import TrainSettings


def require_readable(folder: Path, settings: TrainSettings, *, step: int) -> None:
    """Refuses a run whose tables cannot be gone on with after `step` steps, and changes nothing.

    Raises:
        DataError: one is no table, or the best student until then is not there.
    """
    run = RunFolder(folder)
    read_rows(run.metrics)
    rows = [row for row in read_rows(run.evaluations) if (row["step"] or 0) <= step]
    best = best_of(rows, settings.best_metric) if settings.keep == "best" else None
    if best is not None:
        require_candidate(folder, best)


@final
class Evaluations:
    """The evaluations of the run in `folder`, on the disk of the rank that writes.

    Args:
        folder: the run's.
        settings: of the run.
        step: where the run stands; evaluations after it, left by a run that was killed, are dropped.

    Raises:
        DataError: the best student until `step` is not there.
    """

    def __init__(self, folder: Path, settings: TrainSettings, *, step: int) -> None:
        self._run, self._settings = RunFolder(folder), settings
        self._log = MetricsLog(self._run.evaluations, step=step)
        self._name()

    def has(self, step: int) -> bool:
        """Whether the student was evaluated after `step` steps."""
        return step in self._log.steps

    def add(self, row: Row, save_student: Callable[[Path], None]) -> None:
        """Takes an evaluation in, and writes its student where it is the best so far and that one is kept."""
        best = best_of([*self._rows(), as_read(row)], self._settings.best_metric)
        if self._settings.keep == "best" and best is not None and best.step == row["step"]:
            write_candidate(self._run.path, best.step, save_student)
        self._log.append(row)
        self._name()

    @property
    def best(self) -> Best | None:
        """The best so far by the settings' metric; None before the first."""
        return best_of(self._rows(), self._settings.best_metric)

    @property
    def exhausted(self) -> bool:
        """Whether as many evaluations as the settings have patience for came after the best without being better."""
        best, patience = self.best, self._settings.patience
        if best is None or not patience:
            return False
        return sum(int(row["step"] or 0) > best.step for row in self._rows()) >= patience

    def _rows(self) -> list[dict[str, float | None]]:
        return read_rows(self._run.evaluations)

    def _name(self) -> None:
        if self._settings.keep != "best":
            return
        rows, metric = self._rows(), self._settings.best_metric
        until = (best_of((row for row in rows if (row["step"] or 0) <= step), metric) for step in self._run.steps())
        name_best(self._run.path, best_of(rows, metric), needed=[one.step for one in until if one is not None])
