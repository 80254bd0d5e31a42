"""What goes wrong while a run trains: a step that is not finite, no memory, a process that is gone."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from detdistill.data.dataset import Stored
from detdistill.data.transforms import ImageSettings
from detdistill.errors import DistillError, OutsideError
from detdistill.jobs import opening
from detdistill.progress import Silence
from detdistill.store.layout import RunFolder
from detdistill.training.clipping import Clipping
from detdistill.training.logs import read_rows
from detdistill.training.settings import TrainSettings
from detdistill.training.signals import watch_signals
from detdistill.types import Batch, Clock, StepReport
from scenes_in_memory import tiny_student
from tiny_training import (
    KILLED,
    TinyStep,
    checkpoint_tensors,
    differing,
    disk_loader,
    fork,
    images_on_disk,
    run_tiny,
    tiny_loader,
    tiny_settings,
)


class Spoilt(TinyStep):
    """Sees images of NaN at some steps, which reach the running statistics too; ends its process before another."""

    def __init__(self, *steps: int, dies: int = -1) -> None:
        super().__init__()
        self.steps, self.dies = steps, dies

    def forward(self, batch: Batch, clock: Clock) -> StepReport:
        if clock.step == self.dies:
            os._exit(KILLED)
        if clock.step in self.steps:
            batch = replace(batch, images=batch.images * float("nan"))
        return super().forward(batch, clock)


def skipping(**changes: Any) -> TrainSettings:
    return tiny_settings(**{"nan": "skip", "checkpoint_every": 1, "keep_checkpoints": 99, "log_every": 1} | changes)


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.0, "clip_norm": 0.0}, {"optimizer": "adamw", "accumulate": 2}])
def test_a_step_that_is_not_finite_changes_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    result = run_tiny(tmp_path, skipping(**changes), step=Spoilt(7, 9))
    assert (result.steps, result.left_out) == (12, (8, 10))
    for step in (8, 10):
        before, after = (checkpoint_tensors(tmp_path, number) for number in (step - 1, step))
        assert not differing(before, after)
        assert all(tensor.isfinite().all() for tensor in after.values())
    assert differing(checkpoint_tensors(tmp_path, 8), checkpoint_tensors(tmp_path, 9))
    assert [row["step"] for row in read_rows(tmp_path / "metrics.csv") if row["total"] is None] == [8, 10]


def test_the_run_goes_on_exactly_with_the_steps_that_it_left_out(tmp_path: Path) -> None:
    """Killed between two of them; and stopped by the first, then resumed to skip."""
    settings = skipping(checkpoint_every=5, keep_checkpoints=2)
    run_tiny(tmp_path / "whole", settings, step=Spoilt(3, 9))
    process = fork(lambda: run_tiny(tmp_path / "cut", settings, step=Spoilt(3, 9, dies=8)))
    process.join(30)
    assert process.exitcode == KILLED
    with pytest.raises(DistillError, match=r"step 4 of 12: the loss must be finite, got nan in task, hint\. Lower"):
        run_tiny(tmp_path / "stopped", replace(settings, nan="stop", checkpoint_every=2), step=Spoilt(3, 9))
    for name, start in (("cut", 5), ("stopped", 2)):
        result = run_tiny(tmp_path / name, settings, step=Spoilt(3, 9), resume=True)
        assert (result.resumed_from, result.left_out) == (start, (4, 10))
        assert not differing(checkpoint_tensors(tmp_path / "whole", 12), checkpoint_tensors(tmp_path / name, 12))
    with pytest.raises(DistillError, match=r"step 10 of 12: .*, after 1 such steps that were skipped \(train\.nan"):
        run_tiny(tmp_path / "two", replace(settings, nan_skips=1), step=Spoilt(3, 9))


def test_all_ranks_leave_out_the_step_of_one(tmp_path: Path) -> None:
    settings = skipping(processes=2, batch_size=2, steps=4)

    def second_rank_is_spoilt(start: int, rank: int, ranks: int) -> Iterator[Batch]:
        for step, batch in enumerate(tiny_loader(settings)(start, rank, ranks), start):
            yield replace(batch, images=batch.images * float("nan")) if (rank, step) == (1, 2) else batch

    assert run_tiny(tmp_path, settings, loader=second_rank_is_spoilt).left_out == (3,)
    assert not differing(checkpoint_tensors(tmp_path, 2), checkpoint_tensors(tmp_path, 3))


class Greedy(TinyStep):
    """Has no memory for its fourth step."""

    def __init__(self, error: BaseException | None) -> None:
        super().__init__()
        self.error = error

    def forward(self, batch: Batch, clock: Clock) -> StepReport:
        if clock.step == 3:
            if self.error is not None:
                raise self.error
            torch.empty(10**15)
        return super().forward(batch, clock)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError(), None])
def test_no_memory_for_a_batch_names_batch_size_and_accumulation(tmp_path: Path, error: Exception | None) -> None:
    message = (
        r"step 4 of 12: 4 of 4 images \(train\.batch_size=4, train\.accumulate=1\) must fit into memory at a time, got "
        r"too little of it\. Set train\.accumulate=2 in a new run, or free memory and go on by --resume; the last "
        r"checkpoint is .*step_0000002\."
    )
    with pytest.raises(DistillError, match=message):
        run_tiny(tmp_path, tiny_settings(checkpoint_every=2), step=Greedy(error))
    with pytest.raises(DistillError, match=r": 1 of 4 images .* Choose smaller images, .* is no checkpoint yet\."):
        run_tiny(tmp_path / "parts", tiny_settings(accumulate=4), step=Greedy(error))


def test_no_memory_for_an_evaluation_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(opening, "detect_split", full)
    annotations = images_on_disk(tmp_path / "images").annotations
    with pytest.raises(DistillError, match="look: 8 images must fit into memory at a time, got too little of it"):
        opening.detect(tiny_student("fcos"), annotations, ImageSettings(12, 16, 4), label="look", progress=Silence())


def test_an_error_of_code_from_outside_is_told_with_its_place_and_one_of_ours_stays_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = (
        r"^step 4 of 12: code from outside detdistill must run without an error, got LookupError: something else "
        r"\(.*test_failures\.py, line \d+\)\. Repair it and go on by --resume; the last checkpoint is .*_0000002\.$"
    )
    error = LookupError("something else.")
    for number in (1, 2):
        settings, folder = tiny_settings(checkpoint_every=2, processes=number), tmp_path / str(number)
        with pytest.raises(OutsideError, match=said) as told:
            run_tiny(folder, settings, step=Greedy(error))
        assert "raise self.error" in told.value.trace
    assert RunFolder(folder).steps() == [2]
    for ends in (SystemExit(0), KeyError("name")):
        with pytest.raises(OutsideError, match=r"there is no checkpoint yet\.$"):
            run_tiny(tmp_path / type(ends).__name__, tiny_settings(), step=Greedy(ends))
    monkeypatch.setattr(Clipping, "add", Mock(side_effect=RuntimeError("a mistake of ours")))
    with pytest.raises(RuntimeError, match=r"^a mistake of ours$"):
        run_tiny(tmp_path / "ours", tiny_settings())


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_what_changes_a_sample_is_told_with_its_place(tmp_path: Path, workers: int) -> None:
    """Whichever process reads the images."""

    def change(stored: Stored, generator: torch.Generator) -> Stored:
        raise ValueError("no such change")

    images = images_on_disk(tmp_path / "images")
    images.sample_transform = change
    settings = tiny_settings(workers=workers)
    with pytest.raises(
        OutsideError, match=r"^step 1 of 12: .* got ValueError: no such change \(.*test_failures\.py, l"
    ):
        run_tiny(tmp_path / "run", settings, loader=disk_loader(images, settings))


def test_a_lost_terminal_is_heard_but_where_the_user_asked_not_to() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever started the tests
    try:
        with watch_signals() as flag:
            os.kill(os.getpid(), signal.SIGHUP)
            assert flag.requested
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with watch_signals() as flag:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not flag.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_stop_that_comes_in_a_destructor_is_neither_lost_nor_printed(capfd: pytest.CaptureFixture[str]) -> None:
    class Stopped:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    def work() -> None:
        Stopped()
        time.sleep(60)

    began, before = time.monotonic(), sys.unraisablehook
    with watch_signals() as flag:
        assert flag.breaking(work) is None
    assert time.monotonic() - began < 30
    assert capfd.readouterr() == ("", "")
    assert sys.unraisablehook is before


def test_a_run_in_another_thread_leaves_the_process_its_own_ways() -> None:
    seen: list[object] = []

    def train() -> None:
        with watch_signals():
            seen.extend((sys.unraisablehook, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == [sys.unraisablehook, signal.getsignal(signal.SIGTERM)]
