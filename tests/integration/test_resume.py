"""A run that was killed at any moment and resumed ends with the bits of one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from detdistill.distillation.step import SupervisedStep
from detdistill.errors import ConfigError
from detdistill.store.layout import CHECKPOINTS, COUNTERS, LATEST, WEIGHTS
from detdistill.training.logs import read_rows
from detdistill.training.settings import TrainSettings
from scenes_in_memory import tiny_student
from tiny_training import (
    KILLED,
    TinyStep,
    checkpoint_tensors,
    die_before,
    differing,
    disk_loader,
    fork,
    images_on_disk,
    run_tiny,
    tiny_settings,
)

# Of the operations on files, so many are passed over between two at which a process dies.
EVERY = 10


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.0}, {"optimizer": "adamw"}, {"accumulate": 2}])
def test_resume_is_exact(tmp_path: Path, changes: dict[str, object]) -> None:
    settings = tiny_settings(**changes)
    run_tiny(tmp_path / "whole", settings)
    run_until(tmp_path / "cut", settings, stop=8)
    result = run_tiny(tmp_path / "cut", settings, resume=True)
    assert (result.resumed_from, result.steps) == (5, 12)
    assert not differing(checkpoint_tensors(tmp_path / "whole", 12), checkpoint_tensors(tmp_path / "cut", 12))
    whole, cut = (read_rows(tmp_path / name / "metrics.csv") for name in ("whole", "cut"))
    assert [drop_time(row) for row in whole] == [drop_time(row) for row in cut]
    assert [row["seconds"] for row in cut] == sorted(row["seconds"] for row in cut)


def drop_time(row: dict[str, float | None]) -> dict[str, float | None]:
    return {name: value for name, value in row.items() if name != "seconds"}


def run_until(folder: Path, settings: TrainSettings, *, stop: int) -> None:
    """Runs in another process that dies before step `stop`."""

    class Dying(TinyStep):
        def forward(self, batch, clock):
            if clock.step == stop:
                os._exit(KILLED)
            return super().forward(batch, clock)

    process = fork(lambda: run_tiny(folder, settings, step=Dying()))
    process.join(30)
    assert process.exitcode == KILLED


def test_the_comparison_can_fail(tmp_path: Path) -> None:
    """Another seed changes what the dropout draws, and is seen."""
    run_tiny(tmp_path / "one", tiny_settings())
    run_tiny(tmp_path / "other", tiny_settings(seed=1))
    found = differing(checkpoint_tensors(tmp_path / "one", 12), checkpoint_tensors(tmp_path / "other", 12))
    assert "second.weight" in found


def test_resume_without_a_checkpoint_begins(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,total\n2,1\n")
    assert run_tiny(tmp_path, tiny_settings(), resume=True).resumed_from == 0
    assert len(read_rows(tmp_path / "metrics.csv")) == 6


def test_a_finished_run_resumes_to_its_result(tmp_path: Path) -> None:
    first = run_tiny(tmp_path, tiny_settings())
    again = run_tiny(tmp_path, tiny_settings(), resume=True)
    assert (again.steps, again.seconds, again.checkpoint) == (12, first.seconds, first.checkpoint)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.02}, r"train\.lr must be 0\.05 to resume from .*, got 0\.02\."),
        ({"batch_size": 8}, r"train\.batch_size must be 4 to resume from .*, got 8\."),
        ({"steps": 24}, r"train\.steps must be 12 to resume from .*, got 24\."),
        ({"ema_decay": 0.0}, r"train\.ema_decay must be 0\.9 to resume from .*, got 0\.0\."),
    ],
)
def test_another_setting_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    run_tiny(tmp_path, tiny_settings())
    with pytest.raises(ConfigError, match=message):
        run_tiny(tmp_path, tiny_settings(**changes), resume=True)


def test_another_identity_is_refused_and_free_settings_are_not(tmp_path: Path) -> None:
    run_tiny(tmp_path, tiny_settings(), identity={"teacher": "abc", "image": (1, 2)})
    run_tiny(tmp_path, tiny_settings(log_every=3), identity={"teacher": "abc", "image": (1, 2)}, resume=True)
    with pytest.raises(ConfigError, match=r"teacher must be 'abc' to resume from .*, got 'xyz'\."):
        run_tiny(tmp_path, tiny_settings(), identity={"teacher": "xyz", "image": (1, 2)}, resume=True)


def test_a_run_of_before_a_setting_came_had_its_default(tmp_path: Path) -> None:
    written = run_tiny(tmp_path, tiny_settings()).checkpoint / COUNTERS
    content = json.loads(written.read_text())
    train = content["identity"]["train"]
    del train["backbone_lr_factor"], content["counters"]["clipping"], content["checksum"]
    train |= {"devices": train.pop("processes"), "accelerator": train.pop("device")}
    content["format"] = 1
    written.write_text(json.dumps(content))
    assert run_tiny(tmp_path, tiny_settings(), resume=True).resumed_from == 12
    with pytest.raises(ConfigError, match=r"train\.backbone_lr_factor must be 1\.0 to resume from .*, got 0\.5\."):
        run_tiny(
            tmp_path, tiny_settings(backbone_lr_factor=0.5), resume=True, step=SupervisedStep(tiny_student("fcos"))
        )


def test_another_student_is_refused(tmp_path: Path) -> None:
    run_tiny(tmp_path, tiny_settings())
    with pytest.raises(ConfigError, match=r"trained parameters must be those of .*, got others\."):
        run_tiny(tmp_path, tiny_settings(), step=TinyStep(norm=False), resume=True)


def test_a_damaged_checkpoint_costs_steps_and_not_the_run(tmp_path: Path) -> None:
    settings = tiny_settings()
    run_tiny(tmp_path / "whole", settings)
    run_until(tmp_path / "cut", settings, stop=11)
    path = tmp_path / "cut" / CHECKPOINTS / "step_0000010" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-8])
    result = run_tiny(tmp_path / "cut", settings, resume=True)
    assert result.resumed_from == 5
    assert "step_0000010 must be a whole checkpoint" in result.warnings[0]
    assert not differing(checkpoint_tensors(tmp_path / "whole", 12), checkpoint_tensors(tmp_path / "cut", 12))


def test_an_evaluation_that_a_kill_took_is_made_on_resume(tmp_path: Path) -> None:
    settings = tiny_settings(evaluate_every=5)
    process = fork(lambda: run_tiny(tmp_path, settings, evaluate=lambda student: os._exit(KILLED)))
    process.join(30)
    assert process.exitcode == KILLED
    assert run_tiny(tmp_path, settings, evaluate=lambda student: {"AP": 1.0}, resume=True).resumed_from == 5
    assert [row["step"] for row in read_rows(tmp_path / "evaluations.csv")] == [5, 10, 12]


@pytest.mark.parametrize("start", [0, *(pytest.param(start, marks=pytest.mark.slow) for start in range(1, EVERY))])
def test_a_death_before_any_file_operation_of_a_checkpoint(
    tmp_path: Path, start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends before the n-th operation on the run's files, and is resumed, for every tenth n from `start` on.

    Three steps with a checkpoint after each (two kept), so that the operations of a first, a second, and a
    third checkpoint with its removal of an older one, and of the log, are all among them.
    """
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a process that dies takes no page cache along
    settings = tiny_settings(steps=3, checkpoint_every=1, log_every=1, warmup_steps=1)
    run_tiny(tmp_path / "whole", settings)
    expected = checkpoint_tensors(tmp_path / "whole", 3)
    deaths, resumed_from = start, set()
    while True:
        folder = tmp_path / f"cut{deaths}"
        process = fork(
            lambda folder=folder, operation=deaths: die_before(lambda: run_tiny(folder, settings), folder, operation)
        )
        process.join(30)
        if process.exitcode == 0:
            break
        assert process.exitcode == KILLED
        result = run_tiny(folder, settings, resume=True)
        resumed_from.add(result.resumed_from)
        assert not differing(expected, checkpoint_tensors(folder, 3)), f"operation {deaths}"
        assert sorted(entry.name for entry in (folder / CHECKPOINTS).iterdir()) == [
            LATEST,
            "step_0000002",
            "step_0000003",
        ]
        assert [row["step"] for row in read_rows(folder / "metrics.csv")] == [1, 2, 3]
        deaths += EVERY
    sys.stdout.write(f"deaths before each tenth of {deaths} operations, resumed from {sorted(resumed_from)}\n")
    assert deaths > 80
    assert {0, 1, 2} <= resumed_from <= {0, 1, 2, 3}  # the last operations are met from some starts alone


def kill_and_resume(tmp_path: Path, *, workers: int, kills: int, seed: int) -> None:
    """Kills a run with SIGKILL after random times until it was killed `kills` times, then lets it end.

    Every other time counts from the next checkpoint on, so that a busy machine too gets past its first.
    """
    settings = tiny_settings(steps=40, checkpoint_every=5, workers=workers, log_every=1)
    dataset = images_on_disk(tmp_path / "images")
    wait = 0.01

    def run(folder: Path, *, resume: bool = False) -> None:
        run_tiny(folder, settings, loader=disk_loader(dataset, settings, wait=wait), resume=resume)

    began = time.monotonic()
    run(tmp_path / "whole")
    whole_seconds = time.monotonic() - began
    rng = random.Random(seed)
    killed = 0
    for _ in range(20 * kills):
        if killed == kills:
            break
        delay = rng.uniform(0.0, whole_seconds / 4)
        pointer = tmp_path / "cut" / CHECKPOINTS / LATEST
        before = pointer.read_text() if pointer.exists() else None
        process = fork(lambda: run(tmp_path / "cut", resume=True))
        while killed % 2 and process.is_alive() and (pointer.read_text() if pointer.exists() else None) == before:
            time.sleep(0.002)
        process.join(delay)
        if process.exitcode is None:
            os.kill(process.pid or 0, signal.SIGKILL)
            killed += 1
        process.join(30)
        latest = pointer.read_text() if pointer.exists() else "no checkpoint\n"
        sys.stdout.write(f"seed {seed}: killed after {delay:.3f} s with {latest}")
        assert process.exitcode in {0, -signal.SIGKILL}
        if process.exitcode == 0:
            (tmp_path / "cut").rename(tmp_path / f"ended{killed}")
    assert killed == kills
    run(tmp_path / "cut", resume=True)
    assert not differing(checkpoint_tensors(tmp_path / "whole", 40), checkpoint_tensors(tmp_path / "cut", 40))
    assert [row["step"] for row in read_rows(tmp_path / "cut" / "metrics.csv")] == list(range(1, 41))


def test_three_kills_at_random_moments(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, workers=0, kills=3, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_ten_kills_at_random_moments(tmp_path: Path, workers: int) -> None:
    kill_and_resume(tmp_path, workers=workers, kills=10, seed=10 + workers)
