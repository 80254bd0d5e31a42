"""All that a run's figures go to beside its tables, by the names in `train.loggers`; rank 0 alone has them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast, final

from detdistill.errors import ConfigError, DiskError, MissingDependencyError, installing
from detdistill.files import read_json, write_json
from detdistill.store.layout import RunFolder
from detdistill.store.lock import displaced
from detdistill.training.callbacks import Listening
from detdistill.training.logs import MetricsLog, Row, Spared, TensorboardLog, as_read, read_rows
from detdistill.training.settings import TrainSettings
from detdistill.training.trackers.base import Ending, Opening, Tracker, flat, tracked
from detdistill.training.trackers.thread import Threaded

_METRICS, _EVALUATIONS = "metrics", "evaluations"
_TENSORBOARD = "tensorboard"
_PLACES = "step", "seconds"


class _Kind(Protocol):
    """What a module of `trackers` has."""

    def require(self) -> None:
        """Imports the package (ImportError)."""

    def where(self) -> str:
        """To which store a run is told."""

    def open_tracker(self, opening: Opening) -> Tracker:
        """Begins."""


def _kind(name: str) -> _Kind:
    return cast(_Kind, import_module(f"detdistill.training.trackers.{name}_tracker"))


def require_loggers(settings: TrainSettings) -> None:
    """Refuses, before anything is written, to log to what is not installed.

    Raises:
        MissingDependencyError: a package is missing.
        ConfigError: one of them cannot begin without being asked for a key.
    """
    for name in settings.told:
        try:
            if name == _TENSORBOARD:
                import_module("tensorboard.summary.writer.record_writer")
            else:
                _kind(name).require()
        except ImportError as error:
            raise MissingDependencyError(
                f"train.loggers must name what is installed, got {name}, which is not ({error}). "
                f"{installing(f'detdistill[{name}]')}"
            ) from error


@final
class Loggers:
    """The table ``metrics.csv`` of a run, and its loggers; the folder keeps by what name each is gone on with.

    Args:
        folder: the run's.
        settings: of the run.
        config: what the run is, as JSON; told to new trackers.
        step: where the run stands. A tracker that knows the run goes on after what it was told last: steps that are
            done again are not told again. A new one is told of the tables' rows until `step`.
        resume: whether to go on with those that know the run.
        say: hears where each is, and why one was lost.
        anew: whether trackers that do not know the run begin it; else they are left out.
        heard: a user's functions, which are told last; None for none.
    """

    def __init__(
        self,
        folder: Path,
        settings: TrainSettings,
        config: Mapping[str, Any],
        *,
        step: int,
        resume: bool,
        say: Callable[[str], None],
        anew: bool = True,
        heard: Listening | None = None,
    ) -> None:
        self._run, self._trackers, self._heard = RunFolder(folder), dict[str, Threaded](), heard
        self._known: dict[str, dict[str, int]] = {}
        events = _TENSORBOARD in settings.told
        self._events = TensorboardLog(self._run.tensorboard, step=step) if events else None
        self._sparing = None if self._events is None else Spared(self._events, say)
        if not resume and self._run.loggers.is_dir():
            shutil.rmtree(self._run.loggers, ignore_errors=True)
        for name in settings.told:
            if name != _TENSORBOARD and (anew or (self._run.loggers / f"{name}.json").is_file()):
                self._open(name, config, step, say)
        self._metrics = Spared(MetricsLog(self._run.metrics, step=step), say)

    def _open(self, name: str, config: Mapping[str, Any], step: int, say: Callable[[str], None]) -> None:
        kind, record = _kind(name), self._run.loggers / f"{name}.json"
        found, tables = _recorded(record), {_METRICS: self._run.metrics, _EVALUATIONS: self._run.evaluations}
        rows = {what: read_rows(path) for what, path in tables.items()}
        if found is None or found["where"] != kind.where():
            found = {"identity": None, "where": kind.where(), "open": False, "told": {}}
        known = {what: int(found["told"].get(what, 0)) for what in rows}
        if found["open"]:  # the process was killed, with all rows handed over but for the last ones at most
            known = {what: max([known[what], *(int(row["step"] or 0) for row in rows[what])]) for what in rows}
        self._known[name] = known
        opening = Opening(self._run.loggers, self._run.path.absolute().name, config, identity=found["identity"])

        def write(state: Mapping[str, Any]) -> None:
            if not displaced(self._run.path):
                with suppress(DiskError):
                    write_json(record, {**found, **state})

        def begin() -> Tracker:
            tracker = kind.open_tracker(opening)
            found["identity"] = tracker.identity
            write({"open": True, "told": known})
            return tracker

        def ended(told: Mapping[str, int]) -> None:
            if found["identity"] is not None:
                write({"open": False, "told": {**known, **told}})

        self._trackers[name] = Threaded(name, begin, ended, say)
        missed = [(row, what) for what in rows for row in rows[what] if (row["step"] or 0) <= step]
        for row, what in sorted(missed, key=lambda one: (one[0]["step"] or 0, one[1] == _EVALUATIONS)):
            self._hand(name, row, what)

    def log(self, row: Row) -> None:
        """Writes a row of ``metrics.csv``, and tells it."""
        self._metrics.append(row)
        self._row(row, _METRICS)
        if self._heard is not None:
            self._heard.stepped(row)

    def evaluated(self, row: Row, by_class: Mapping[str, float | None], *, is_best: bool) -> None:
        """Tells a row that ``evaluations.csv`` has; a user's function also AP by class and whether it is the best."""
        self._row(row, _EVALUATIONS)
        if self._heard is not None:
            self._heard.evaluated(row, by_class, is_best=is_best)

    def _row(self, row: Row, what: str) -> None:
        if self._sparing is not None:
            self._sparing.append(row)
        for name in self._trackers:
            self._hand(name, as_read(row), what)

    def _hand(self, name: str, row: Row, what: str) -> None:
        step, left_out = int(row["step"] or 0), _PLACES if what == _EVALUATIONS else _PLACES[:1]
        if step <= self._known[name][what]:
            return
        figures = {tracked(one): value for one, value in row.items() if one not in left_out and value is not None}
        self._trackers[name].do(lambda tracker: tracker.log(step, figures), mark=(what, step))

    def end(self, step: int, results: Mapping[str, Any], *, verdict: str, pictures: Sequence[Path]) -> None:
        """What the run ended with: what is in ``results.json``, its table in words, and its pictures."""
        leaves = dict(flat({"results": results}, between="/"))
        figures = {
            name: float(one) for name, one in leaves.items() if isinstance(one, (int, float)) and one is not True
        }
        words = {name: one for name, one in leaves.items() if isinstance(one, str)} | {"verdict": verdict}
        for tracker in self._trackers.values():
            tracker.do(lambda one: one.summary(step, figures, words))
            for path in pictures:
                tracker.do(partial(_show, step=step, path=path))
        if self._events is not None and self._sparing is not None:
            for path in pictures:
                self._sparing.spared(partial(self._events.picture, step, path))

    def close(self, ending: Ending) -> None:
        """Waits until all have been told."""
        for tracker in self._trackers.values():
            tracker.close(ending)


def _show(tracker: Tracker, *, step: int, path: Path) -> None:
    tracker.picture(step, path.stem, path)


def _recorded(record: Path) -> dict[str, Any] | None:
    try:
        found = read_json(record)
    except ConfigError:
        return None
    whole = isinstance(found, dict) and {"identity", "where", "open", "told"} <= found.keys()
    return found if whole else None
