"""Loggers hold what the tables hold, go on with a resumed run, and end or slow no training."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from detdistill.errors import ConfigError, DataError, MissingDependencyError
from detdistill.store.layout import RunFolder
from detdistill.training.loggers import Loggers, require_loggers
from detdistill.training.logs import read_rows
from detdistill.training.settings import TrainSettings
from detdistill.training.trackers import mlflow_tracker, thread
from detdistill.training.trackers.base import Opening, tracked
from detdistill.types import Batch
from tiny_training import NamedStep, checkpoint_tensors, differing, run_tiny, tiny_evaluate, tiny_loader, tiny_settings
from watched_jobs import Watcher

COLUMNS = (
    *("step", "seconds", "lr", "total", "task", "gradient_norm", "AP", "AP50", "APs"),
    *("frs.features", "frs.features/cost_stride_8", "frs.features@2", "frs.features@2/cost_stride_8"),
    *("frs/scale", "frs/ratio", "frs@2/cosine", "boxes.objects/cost_stride_None", "hint.features/weight_sd"),
)


def dying(settings: TrainSettings, at: int) -> Callable[[int, int, int], Iterator[Batch]]:
    def batches(start: int, rank: int, ranks: int) -> Iterator[Batch]:
        for step, batch in enumerate(tiny_loader(settings)(start, rank, ranks), start):
            if step == at:
                raise DataError("an image must be there, got none. Look for it.")
            yield batch

    return batches


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def expected(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every figure of both tables by its name in trackers."""
    run, found = RunFolder(folder), dict[str, list[tuple[int, float]]]()
    for path, left_out in ((run.metrics, {"step"}), (run.evaluations, {"step", "seconds"})):
        for row in read_rows(path):
            for name, value in row.items():
                if name not in left_out and value is not None:
                    found.setdefault(tracked(name), []).append((int(row["step"] or 0), value))
    return found


def test_no_name_is_the_folder_of_another() -> None:
    from mlflow.utils.validation import _validate_metric_name

    names = [tracked(column) for column in COLUMNS]
    assert len(set(names)) == len(COLUMNS)
    assert not [one for one in names for other in names if other.startswith(f"{one}/")]
    for name in names:
        _validate_metric_name(name)


def test_mlflow_and_wandb_hold_the_tables_figures_over_an_interruption(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient
    from wandb.util import get_core_path

    folder, watcher = tmp_path / "a run", Watcher()
    settings = tiny_settings(evaluate_every=6, loggers=("mlflow", "wandb"))
    options = {"evaluate": tiny_evaluate, "config": {"seed": 3, "train": {"lr": 0.1}}, "progress": watcher}
    # It dies after step 9, and goes on after step 5: steps 6 and 8 are done again.
    with pytest.raises(DataError, match="an image must be there"):
        run_tiny(folder, settings, step=NamedStep(), loader=dying(settings, 9), **options)
    run_tiny(folder, settings, step=NamedStep(), resume=True, **options)
    # What a job tells at its end.
    picture = tmp_path / "curves.png"
    Image.new("RGB", (4, 3)).save(picture)
    loggers = Loggers(folder, settings, {}, step=12, resume=True, say=watcher.say)
    loggers.end(12, {"student": {"AP": 3.5}, "method": "frs"}, verdict="better", pictures=[picture])
    loggers.close("finished")
    wanted = {name: list(rows) for name, rows in expected(folder).items()}
    # What it took is the one figure of a step that is another when it is done again.
    del wanted["seconds"]
    assert {"AP", "frs/features/loss", "frs/features/cost_stride_8"} < wanted.keys()

    run = RunFolder(folder)
    known = json.loads((run.loggers / "mlflow.json").read_text())
    assert known["told"] == {"metrics": 12, "evaluations": 12}
    with mlflow_tracker._allowing_files():
        client = MlflowClient(tracking_uri=(run.loggers / "mlflow").as_uri())
        told = client.get_run(known["identity"])
    assert (told.info.status, told.info.run_name) == ("FINISHED", "a run")
    assert told.data.params == {"seed": "3", "train.lr": "0.1"}
    tags = told.data.tags
    assert (told.data.metrics["results/student/AP"], tags["results/method"]) == (3.5, "frs")
    assert tags["mlflow.note.content"] == "better"
    (kept,) = (run.loggers / "mlflow").rglob("artifacts/*")
    assert kept.read_bytes() == picture.read_bytes()
    assert len(client.search_runs(["0", told.info.experiment_id])) == 1
    for name, rows in wanted.items():
        assert [(one.step, one.value) for one in client.get_metric_history(known["identity"], name)] == rows

    rows = dict[str, list[tuple[int, float]]]()
    logs = sorted((run.loggers / "wandb").glob("offline-run-*/*.wandb"))
    assert len(logs) == 3
    (kept,) = (run.loggers / "wandb").rglob("media/images/curves*.png")
    assert kept.read_bytes() == picture.read_bytes()
    for log in logs:
        assert log.name == f"run-{json.loads((run.loggers / 'wandb.json').read_text())['identity']}.wandb"
        # As `wandb leet inspect --json` calls it, which imports all of wandb before.
        inspect = [get_core_path(), "leet", "inspect", "--no-observability", "--json", "--run-file", log, log.parent]
        for line in subprocess.run(inspect, capture_output=True, text=True, check=True).stdout.splitlines():
            if (record := json.loads(line))["type"] == "history":
                for name, value in record["history"]["item"].items():
                    rows.setdefault(name, []).append((record["history"]["item"]["_step"], value))
    for name, figures in wanted.items():
        assert [step for step, _ in rows[name]] == [step for step, _ in figures]
        assert [value for _, value in rows[name]] == pytest.approx([value for _, value in figures], rel=1e-12)
    assert sum(line.startswith(("mlflow: run ", "wandb: run ")) for line in watcher.lines) == 6
    run_tiny(tmp_path / "silent", tiny_settings(), step=NamedStep())
    assert not differing(checkpoint_tensors(folder, 12), checkpoint_tensors(tmp_path / "silent", 12))


class Stub:
    """A tracker that notes what it is told, and fails or hangs at a step."""

    place = "here"

    def __init__(self, *, fails: int = 0, hangs: int = 0) -> None:
        self.identity, self.fails, self.hangs, self.rows = "one", fails, hangs, list[int]()
        self.go_on = threading.Event()

    def log(self, step: int, figures: dict[str, float]) -> None:
        if step == self.fails:
            raise OSError("the server is gone")
        if step == self.hangs:
            self.go_on.wait(20)
        self.rows.append(step)

    def close(self, ending: str) -> None:
        self.rows.append(-1)


@pytest.mark.parametrize("flaw", ["fails", "hangs"])
def test_a_tracker_that_fails_or_hangs_is_told_once_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flaw: str
) -> None:
    stub, watcher = Stub(**{flaw: 4}), Watcher()
    monkeypatch.setattr(mlflow_tracker, "open_tracker", lambda opening: stub)
    monkeypatch.setattr(thread, "_PATIENCE_S", 0.2)
    began = time.perf_counter()
    run_tiny(tmp_path, tiny_settings(loggers=("mlflow",)), progress=watcher)
    assert time.perf_counter() - began < 10
    stub.go_on.set()
    assert stub.rows[0] == 2
    assert [row["step"] for row in read_rows(tmp_path / "metrics.csv")] == [2, 4, 6, 8, 10, 12]
    said = [line for line in watcher.lines if "The run goes on without it; its figures are in its folder." in line]
    reason = "mlflow failed: the server is gone." if flaw == "fails" else "mlflow: it did not end within 0 s."
    assert [line.partition(" The run")[0] for line in said] == [reason]


def test_a_tracker_that_was_lost_is_told_on_resume_what_it_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, first, second = tiny_settings(loggers=("mlflow",)), Stub(fails=4), Stub()
    monkeypatch.setattr(mlflow_tracker, "open_tracker", lambda opening: first)
    run_tiny(tmp_path, settings, until=10)
    monkeypatch.setattr(mlflow_tracker, "open_tracker", lambda opening: second)
    run_tiny(tmp_path, settings, resume=True)
    assert (first.rows, second.rows) == ([2], [4, 6, 8, 10, 12, -1])


def test_a_tracker_that_never_knew_the_run_is_not_told_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(opening: Opening) -> Stub:
        raise OSError("the server is gone")

    monkeypatch.setattr(mlflow_tracker, "open_tracker", gone)
    settings, said = tiny_settings(loggers=("mlflow",)), Watcher()
    run_tiny(tmp_path, settings, progress=said)
    loggers = Loggers(tmp_path, settings, {}, step=12, resume=True, say=said.say, anew=False)
    loggers.end(12, {"student": {"AP": 3.5}}, verdict="better", pictures=[])
    loggers.close("finished")
    assert sum("mlflow failed: the server is gone." in line for line in said.lines) == 1


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("mlflow", "mlflow.tracking"),
        ("wandb", "wandb"),
        ("trackio", "trackio"),
        ("tensorboard", "tensorboard.summary.writer.record_writer"),
    ],
)
def test_what_is_not_installed_is_refused(name: Any, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingDependencyError,
        match=rf"^train\.loggers must name what is installed, got {name}, which is not \(.*\)\. "
        rf"Install it: .* -m pip install 'detdistill\[{name}\]'\.$",
    ):
        require_loggers(tiny_settings(loggers=(name,)))


def test_wandb_is_refused_where_it_would_ask_for_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"^train\.loggers must name wandb only where .* set WANDB_MODE=offline"):
        require_loggers(tiny_settings(loggers=("wandb",)))
    monkeypatch.setenv("WANDB_MODE", "offline")
    require_loggers(tiny_settings(loggers=("wandb",)))


def test_trackio_is_told_by_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stand-in with trackio's signatures: the package itself does not install beside ours."""
    told: list[Any] = []

    class Run:
        def log(self, metrics: dict[str, Any], step: int | None = None) -> None:
            told.append((step, metrics))

        def finish(self) -> None:
            told.append("finished")

    class Image:
        def __init__(self, value: Any, caption: str | None = None) -> None:
            self.value = value

    def init(  # noqa: PLR0917 - its own
        project: str,
        name: str | None = None,
        group: str | None = None,
        config: dict[str, Any] | None = None,
        resume: str = "never",
        embed: bool = True,
        auto_log_gpu: bool | None = None,
    ) -> Run:
        sys.stdout.write("* Trackio project initialized")
        told.append((project, str(name).rpartition("-")[0], config, resume))
        return Run()

    standing_in = ModuleType("trackio")
    standing_in.__dict__.update(init=init, Image=Image)
    monkeypatch.setitem(sys.modules, "trackio", standing_in)
    said = capsys.readouterr
    settings = tiny_settings(log_every=12, loggers=("trackio",))
    run_tiny(tmp_path / "mine", settings, config={"seed": 3})
    assert told[0] == ("detdistill", "mine", {"seed": 3}, "allow")
    assert (told[1][0], told[2]) == (12, "finished")
    loggers = Loggers(tmp_path / "mine", settings, {}, step=12, resume=True, say=lambda line: None)
    loggers.end(12, {"student": {"AP": 3.5}, "method": "frs"}, verdict="better", pictures=[tmp_path / "curves.png"])
    loggers.close("finished")
    assert said().out == ""
    assert told[4] == (12, {"results/student/AP": 3.5, "results/method": "frs", "verdict": "better"})
    assert (told[5][0], told[5][1]["curves"].value) == (12, str(tmp_path / "curves.png"))


def test_an_opening_says_what_the_run_is() -> None:
    with pytest.raises(ConfigError, match=r"^train\.loggers must be among tensorboard, .* got comet\. "):
        tiny_settings(loggers=("comet",))
    assert tiny_settings(loggers=("mlflow",), tensorboard=True).told == ("tensorboard", "mlflow")
    assert Opening(Path(), "a", {}).identity is None
