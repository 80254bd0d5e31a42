"""Gradient clipping is counted, resumed exactly, and told where the terms of a method make it shrink the task."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detdistill.store.layout import COUNTERS, RunFolder
from detdistill.training.clipping import Clipped, Clipping
from detdistill.training.logs import read_rows
from detdistill.training.loop import TrainResult, train
from detdistill.training.settings import TrainSettings
from detdistill.types import Batch, Clock, StepReport
from tiny_training import TinyStep, save_tiny, tiny_loader, tiny_settings
from watched_jobs import Watcher


class TaughtStep(TinyStep):
    """The task and a term of a given gain, which shows its task where it `tells`."""

    def __init__(self, gain: float, *, tells: bool = True) -> None:
        super().__init__(drop=0.3)
        self.gain, self.tells = gain, tells

    def forward(self, batch: Batch, clock: Clock) -> StepReport:
        seen = self.student(batch.images)
        task = (seen.mean((1, 2, 3)) - batch.images.mean((1, 2, 3))).square().mean()
        term = self.gain * (self.terms["hint"](torch.nn.functional.dropout(seen, self.drop)) - 5.0).square().mean()
        parts = {"task": task.detach(), "hint": term.detach()}
        return StepReport(total=task + term, parts=parts, diagnostics={}, task=task if self.tells else None)


class Written(Watcher):
    """Keeps what was said in a file, which processes share."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        path.write_text("")

    def say(self, line: str) -> None:
        with self.path.open("a") as file:
            file.write(f"{line}\n")

    def read(self) -> list[str]:
        return self.path.read_text().splitlines()


def long_settings(**changes: Any) -> TrainSettings:
    return tiny_settings(**{"steps": 90, "lr": 1e-4, "log_every": 90, "checkpoint_every": 45, **changes})


def run(
    folder: Path, settings: TrainSettings, gain: float, *, tells: bool = True, resume: bool = False
) -> tuple[TrainResult, list[str]]:
    watcher = Written(folder.with_suffix(".said"))
    result = train(
        TaughtStep(gain, tells=tells),
        settings,
        loader=tiny_loader(settings),
        save_student=save_tiny,
        folder=folder,
        resume=resume,
        progress=watcher,
    )
    return result, [line for line in watcher.read() if line.startswith("clipping: ")]


def weights(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(RunFolder(folder).checkpoint(90) / "training.safetensors")


def test_steps_are_counted_and_their_median_is_known_to_2_percent() -> None:
    clipping = Clipping(10.0, start=0, adaptive=False)
    for norm in (1.0, 9.99, 10.0, 10.5, 400.0, 0.0, math.inf):
        assert clipping.add(norm) is None
    found = clipping.result()
    assert found is not None
    # What is not finite, and was not taken as a step, is not counted.
    assert (found.steps, found.clipped, found.limit) == (6, 2, 10.0)
    assert found.median_norm == pytest.approx(9.99, rel=0.02)
    text = Clipped(steps=2000, clipped=812, median_norm=7.4567, limit=10.0).text()
    assert text == "the gradient was clipped in 812 of 2,000 steps (median norm 7.46, limit 10)"
    off = Clipping(0.0, start=0, adaptive=False)
    off.add(3.0)
    assert off.result() is None


def test_it_asks_only_where_most_steps_are_clipped_after_the_warm_up() -> None:
    clipping = Clipping(1.0, start=15, adaptive=False)
    asked = []
    for step in range(40):
        if clipping.asks(step):
            asked.append(step)
        clipping.add(2.0 if step < 25 else 0.5)
    assert asked == [20, 30]


def test_the_verdict_needs_the_terms_to_be_the_cause() -> None:
    """Five times asked: a gradient of 100 whose task is 2 long, and one whose task is as long itself."""
    alike = Clipping(1.0, start=0, adaptive=False)
    assert not any(alike.add(100.0, task=90.0) for _ in range(30))
    shrunk = Clipping(1.0, start=0, adaptive=False)
    said = [line for line in (shrunk.add(100.0, task=2.0) for _ in range(30)) if line]
    assert said == [
        "clipping: the gradient is 100 long, the task's own part of it 2, and train.clip_norm is 1: the terms of the "
        "method leave the task 2% of the gradient that it would have alone. Lower the method's gains about 50 times, "
        "or raise train.clip_norm to 100."
    ]
    adaptive = Clipping(1.0, start=0, adaptive=True)
    (line,) = [line for line in (adaptive.add(100.0, task=2.0) for _ in range(30)) if line]
    assert line.endswith("Lower the method's gains about 50 times.")
    calibrated = Clipping(1.0, start=0, adaptive=True, calibrated=True)
    (line,) = [line for line in (calibrated.add(100.0, task=2.0) for _ in range(30)) if line]
    assert line.endswith("Lower method.strength about 50 times.")


def test_a_run_says_it_once_and_its_remedies_work(tmp_path: Path) -> None:
    settings = long_settings(clip_norm=1.0, log_every=1)
    result, said = run(tmp_path / "strong", settings, 50.0)
    assert len(said) == 1
    assert "Lower the method's gains about" in said[0]
    rows = read_rows(tmp_path / "strong" / "metrics.csv")
    norms = sorted(float(row["gradient_norm"] or 0) for row in rows)
    assert result.clipping is not None
    assert (result.clipping.steps, result.clipping.clipped) == (90, sum(norm > 1.0 for norm in norms))
    assert result.clipping.median_norm == pytest.approx(norms[44], rel=0.02)
    words = said[0].split()
    times, limit = float(words[words.index("times,") - 1]), float(words[-1].rstrip("."))
    assert run(tmp_path / "lower", settings, 50.0 / times)[1] == []
    assert run(tmp_path / "longer", long_settings(clip_norm=limit), 50.0)[1] == []


@pytest.mark.slow
def test_asking_changes_no_weight(tmp_path: Path) -> None:
    for more in ({}, {"accumulate": 2}):
        settings = long_settings(clip_norm=1.0, **more)
        _, said = run(tmp_path / f"told{len(more)}", settings, 50.0)
        _, silent = run(tmp_path / f"silent{len(more)}", settings, 50.0, tells=False)
        assert (len(said), silent) == (1, [])
        told, mute = (weights(tmp_path / f"{name}{len(more)}") for name in ("told", "silent"))
        assert told.keys() == mute.keys()
        assert all(torch.equal(told[name], mute[name]) for name in told)


@pytest.mark.slow
def test_several_processes_ask_together(tmp_path: Path) -> None:
    settings = long_settings(clip_norm=1.0, processes=2, batch_size=2)
    result, said = run(tmp_path / "joint", settings, 50.0)
    alone, lonely = run(tmp_path / "alone", long_settings(clip_norm=1.0), 50.0)
    assert result.clipping is not None
    assert alone.clipping is not None
    assert (len(said), len(lonely)) == (1, 1)
    assert result.clipping.steps == 90


def test_a_resumed_run_counts_as_one_that_was_not_stopped(tmp_path: Path) -> None:
    settings = long_settings(clip_norm=2.0)
    whole, said = run(tmp_path / "whole", settings, 1.0)
    run(tmp_path / "cut", settings, 1.0)
    folder = RunFolder(tmp_path / "cut")
    for step in (90,):
        for path in folder.checkpoint(step).iterdir():
            path.unlink()
        folder.checkpoint(step).rmdir()
    folder.name_latest(45)
    again, said_again = run(tmp_path / "cut", settings, 1.0, resume=True)
    assert again.resumed_from == 45
    assert again.clipping == whole.clipping
    assert len(said) + len(said_again) <= 2


def test_a_checkpoint_of_before_counts_from_there(tmp_path: Path) -> None:
    clipping = Clipping(1.0, start=0, adaptive=False)
    clipping.restore(None)
    clipping.add(3.0)
    assert clipping.result() == Clipped(1, 1, pytest.approx(3.0, rel=0.02), 1.0)
    stored = json.loads(json.dumps(clipping.counters()))
    other = Clipping(1.0, start=0, adaptive=False)
    other.restore(stored)
    assert other.counters() == clipping.counters()
    run(tmp_path, long_settings(steps=2, checkpoint_every=1), 1.0)
    written = json.loads((RunFolder(tmp_path).checkpoint(2) / COUNTERS).read_text())
    assert written["counters"]["clipping"]["steps"] == 2
