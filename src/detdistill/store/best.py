"""Which student of a run was the best in an evaluation, and that student's files.

``best/step_0000600/`` holds the student and ``best/latest.json`` names it and says by what it was chosen. One stays for
every checkpoint that training may go on from: the best until then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from detdistill.errors import ConfigError, DataError
from detdistill.files import atomic_folder, discard_folder, read_json, write_json
from detdistill.settings import build
from detdistill.store.layout import LATEST, SUMS, RunFolder
from detdistill.store.students import find_weights
from detdistill.store.sums import SHA256, digests, is_whole, sealed


@dataclass(frozen=True, slots=True)
class Best:
    """The best of several evaluations.

    Attributes:
        step: after which its student stood.
        metric: by which it is the best.
        value: of the metric, in percent; None where no evaluation had one.
        evaluations: how many there were.
    """

    step: int
    metric: str
    value: float | None
    evaluations: int

    def text(self) -> str:
        """How the student was chosen, in words."""
        count = f"{self.evaluations} evaluation{'' if self.evaluations == 1 else 's'}"
        return f"best of {count} on the validation images, by {self.metric}, step {self.step}"

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON, with the words."""
        return {**asdict(self), "text": self.text()}


def best_of(rows: Iterable[Mapping[str, float | None]], metric: str) -> Best | None:
    """The best of evaluations in the order of their steps, the first of equals; None without any."""
    found: Best | None = None
    for count, row in enumerate(rows, 1):
        value = row.get(metric)
        better = value is not None and (found is None or found.value is None or value > found.value)
        if found is None or better:
            found = Best(int(row["step"] or 0), metric, value, count)
        else:
            found = Best(found.step, metric, found.value, count)
    return found


def write_candidate(folder: Path, step: int, save_student: Callable[[Path], None]) -> None:
    """Writes the student that is the best so far beside those before it; nothing names it yet."""
    with atomic_folder(RunFolder(folder).candidate(step), replace=True) as partial:
        save_student(partial)
        write_json(partial / SUMS, sealed({SHA256: digests(partial)}))


def require_candidate(folder: Path, best: Best) -> None:
    """Refuses a run whose best student is not there (DataError)."""
    place = RunFolder(folder).candidate(best.step)
    if not place.is_dir():
        raise DataError(
            f"{place} must hold the student of the best evaluation, got nothing there. "
            "Start the run anew in another folder."
        )


def name_best(folder: Path, best: Best | None, *, needed: Iterable[int]) -> None:
    """Writes that `best` is the run's student, and then removes all students but it and those of the steps `needed`.

    Raises:
        DataError: its student is not there.
    """
    run = RunFolder(folder)
    if best is None:
        if run.best.is_dir():
            discard_folder(run.best)
        return
    require_candidate(folder, best)
    keep = {best.step, *needed}
    write_json(run.best / LATEST, sealed({"checkpoint": run.candidate(best.step).name, **asdict(best)}))
    for step in run.candidates():
        if step not in keep:
            discard_folder(run.candidate(step))


def chosen_as(source: Path) -> Best | None:
    """What the detector that `load_detector` reads from `source` is the best of; None where it was not so chosen."""
    try:
        content = read_json(find_weights(source).parents[1] / LATEST)
        if not is_whole(content):
            return None
        best: Best = build(Best, {one.name: content[one.name] for one in fields(Best)}, where=LATEST)
        return best
    except (ConfigError, KeyError, TypeError, AttributeError):
        return None
