"""Metrics of a run as a CSV file that a kill cannot spoil, and as TensorBoard events on request."""

from __future__ import annotations

import csv
import io
import os
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from detdistill.errors import DataError, DiskError
from detdistill.files import append_bytes, require_regular, write_text
from detdistill.training.trackers.base import tracked

_EVENTS = "brain.Event:2"

Row = Mapping[str, float | int | None]


def read_rows(path: Path) -> list[dict[str, float | None]]:
    """The rows of a metrics file, without a last line that was never finished; an empty cell is None.

    Args:
        path: a CSV file with a column `step`; where it is missing there are no rows.

    Raises:
        DataError: the file is no such CSV.
    """
    return [_values(row) for row in _read_cells(path)]


def as_read(row: Row) -> dict[str, float | None]:
    """A row as `read_rows` gives it back: its figures as they are written."""
    return _values({name: _cell(value) for name, value in row.items()})


def _read_cells(path: Path) -> list[dict[str, str]]:
    require_regular(path)
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    whole = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    try:
        rows = [row for row in whole if None not in row and None not in row.values()]
        for row in rows:
            int(row["step"])
            _values(row)
    except (KeyError, ValueError, csv.Error) as error:
        raise DataError(
            f"{path} must be a metrics file of numbers, whole ones in the column step, got another content "
            f"({error!r}). Move it away."
        ) from error
    return rows


def _values(cells: Mapping[str, str]) -> dict[str, float | None]:
    return {name: float(cell) if cell else None for name, cell in cells.items()}


def _cell(value: float | int | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else format(value, ".9g")


@final
class MetricsLog:
    """A CSV file that grows by one row at a time.

    Every row is one write at the file's end. A column that appears later rewrites the file once, whole or not at all.

    Args:
        path: the file; it need not exist.
        step: where the run stands; rows of later steps, left by a run that was killed, are dropped; 0 drops all.
    """

    def __init__(self, path: Path, *, step: int) -> None:
        self.path = path
        rows = [row for row in _read_cells(path) if int(row["step"]) <= step] if step > 0 else []
        self._columns = list(rows[0]) if rows else []
        self.steps = {int(row["step"]) for row in rows}
        if path.exists():
            self._rewrite(rows, self._columns)

    def append(self, row: Row) -> None:
        """Adds a row; it needs a `step`. Missing columns stay empty."""
        cells = {name: _cell(value) for name, value in row.items()}
        unknown = [name for name in cells if name not in self._columns]
        if unknown:
            rows = _read_cells(self.path) if self._columns else []
            columns = [*self._columns, *unknown]
            self._rewrite([*rows, cells], columns)
            self._columns = columns
        else:
            append_bytes(self.path, _lines([cells], self._columns).encode())
        self.steps.add(int(cells["step"]))

    def _rewrite(self, rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> None:
        header = [dict(zip(columns, columns, strict=True))] if columns else []
        write_text(self.path, _lines([*header, *rows], columns))


def _lines(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.DictWriter(buffer, columns, restval="", lineterminator="\n").writerows(rows)
    return buffer.getvalue()


@final
class TensorboardLog:
    """The same figures as TensorBoard events, by their `tracked` names; needs the package tensorboard.

    Args:
        folder: for event files; a new one is opened in it.
        step: events of later steps, left by a run that was killed, are hidden.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary, self._records = Event, Summary, RecordWriter
        self._path = folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._write(Event(wall_time=time.time(), step=step and step + 1, file_version=_EVENTS))
        if step > 0:
            begun = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=time.time(), step=step + 1, session_log=begun))

    def append(self, row: Row) -> None:
        """Adds every figure of a row under its name, at the row's `step`."""
        figures = [
            self._summary.Value(tag=tracked(name), simple_value=value)
            for name, value in row.items()
            if name != "step" and value is not None
        ]
        self._write(self._event(wall_time=time.time(), step=row["step"], summary=self._summary(value=figures)))

    def picture(self, step: int, path: Path) -> None:
        """Adds a PNG under its file's name."""
        content = path.read_bytes()
        width, height = struct.unpack(">II", content[16:24])  # of its header
        shown = self._summary.Image(width=width, height=height, colorspace=3, encoded_image_string=content)
        summary = self._summary(value=[self._summary.Value(tag=path.stem, image=shown)])
        self._write(self._event(wall_time=time.time(), step=step, summary=summary))

    def _write(self, event: Any) -> None:
        """Adds an event to the file at once: TensorBoard's own writer does so in a thread, whose errors end nothing."""
        record = io.BytesIO()
        self._records(record).write(event.SerializeToString())
        append_bytes(self._path, record.getvalue())


@final
class Spared:
    """A log that does not end its run: a row that the disk refuses is left out, and the first such is told.

    Args:
        log: what writes the rows.
        say: told why, once.
    """

    def __init__(self, log: MetricsLog | TensorboardLog, say: Callable[[str], None]) -> None:
        self._log, self._say, self._told = log, say, False

    def append(self, row: Row) -> None:
        """Adds a row, or does without."""
        self.spared(lambda: self._log.append(row))

    def spared(self, write: Callable[[], None]) -> None:
        """Writes to the log, or does without."""
        try:
            write()
        except DiskError as error:
            if not self._told:
                self._say(f"{error.said} The run goes on; rows that cannot be written are left out of this file.")
            self._told = True
