from __future__ import annotations

from pathlib import Path

import pytest

from detdistill import files
from detdistill.errors import DataError
from detdistill.training.logs import MetricsLog, Spared, TensorboardLog, read_rows
from full_disk import DiskFull


def test_no_file_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "metrics.csv") == []
    log = MetricsLog(tmp_path / "metrics.csv", step=0)
    assert log.steps == set()
    assert not log.path.exists()


def test_rows_come_back(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "run" / "metrics.csv", step=0)
    log.append({"step": 1, "total": 0.1, "lr": None})
    log.append({"step": 2, "total": float("nan"), "lr": 3e-05})
    assert log.path.read_text() == "step,total,lr\n1,0.1,\n2,nan,3e-05\n"
    rows = read_rows(log.path)
    assert rows[0] == {"step": 1.0, "total": 0.1, "lr": None}
    assert rows[1]["lr"] == 3e-05


def test_a_late_column_leaves_earlier_rows_empty(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "m.csv", step=0)
    log.append({"step": 1, "total": 1.0})
    log.append({"step": 2, "total": 2.0, "hint, L2": 3.0})
    log.append({"step": 3, "total": 4.0})
    assert log.path.read_text() == 'step,total,"hint, L2"\n1,1,\n2,2,3\n3,4,\n'


def test_resume_drops_later_rows_and_an_unfinished_line(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("step,total\n5,1\n10,2\n15,3\n20,")
    log = MetricsLog(path, step=10)
    assert log.steps == {5, 10}
    log.append({"step": 15, "total": 9.0})
    assert path.read_text() == "step,total\n5,1\n10,2\n15,9\n"


def test_an_unfinished_line_of_an_earlier_step_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("step,total\n5,1\n6,1")
    MetricsLog(path, step=100)
    assert path.read_text() == "step,total\n5,1\n"


def test_an_unfinished_header_counts_as_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("step,tot")
    MetricsLog(path, step=10).append({"step": 11, "total": 1.0})
    assert path.read_text() == "step,total\n11,1\n"


def test_a_new_run_starts_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("step,total\n5,1\n")
    MetricsLog(path, step=0).append({"step": 1, "loss": 2.0})
    assert path.read_text() == "step,loss\n1,2\n"


@pytest.mark.parametrize("text", ["time,total\n5,1\n", "step,total\n5,0/1\n", "step,total\n5.5,1\n"])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"m\.csv must be a metrics file .* Move it away\."):
        MetricsLog(path, step=10)


def test_tensorboard_writes_events(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    TensorboardLog(tmp_path, step=0).append({"step": 5, "total": 1.0, "lr": None})
    TensorboardLog(tmp_path, step=0).append({"step": 6, "total": 3.0})
    TensorboardLog(tmp_path, step=4).append({"step": 5, "total": 2.0})
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["scalars"] == ["total"]
    assert [(one.step, one.value) for one in events.Scalars("total")] == [(5, 2.0)]


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, said = tmp_path / "m.csv", list[str]()
    log = Spared(MetricsLog(path, step=0), said.append)
    log.append({"step": 1, "total": 1.0})
    whole = path.read_bytes()
    write, full = files._write, DiskFull(at=0, stays=True)
    for row in ({"step": 2, "total": 2.0}, {"step": 3, "total": 3.0, "more": 1.0}):
        monkeypatch.setattr(files, "_write", full)
        log.append(row)
        assert path.read_bytes() == whole
        monkeypatch.setattr(files, "_write", write)
    log.append({"step": 4, "total": 4.0, "more": 1.0})
    assert path.read_text() == "step,total,more\n1,1,\n4,4,1\n"
    assert len(said) == 1
    assert said[0].startswith(f"{path} must be written, which takes at least 4 bytes, got: No space left on device, ")
    assert said[0].endswith("The run goes on; rows that cannot be written are left out of this file.")
