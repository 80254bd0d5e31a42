"""A process of a run that is gone, a rank or one that reads images, ends it in a sentence, and it goes on."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from detdistill.errors import DistillError
from detdistill.types import Batch, Clock, StepReport
from tiny_training import (
    TinyStep,
    checkpoint_tensors,
    differing,
    disk_loader,
    images_on_disk,
    run_tiny,
    tiny_loader,
    tiny_settings,
)


def test_a_killed_rank_ends_the_run_in_a_sentence(tmp_path: Path) -> None:
    settings = tiny_settings(batch_size=2, processes=2)
    run_tiny(tmp_path / "whole", settings)

    def second_rank_is_killed(start: int, rank: int, ranks: int) -> Iterator[Batch]:
        yield from itertools.islice(tiny_loader(settings)(start, rank, ranks), 7 if rank == 1 else None)
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(
        DistillError, match=r"must all live until its end, got: process 2 was ended by SIGKILL\. Go on by"
    ):
        run_tiny(tmp_path / "cut", settings, loader=second_rank_is_killed)
    assert run_tiny(tmp_path / "cut", settings, resume=True).resumed_from == 5
    assert not differing(checkpoint_tensors(tmp_path / "whole", 12), checkpoint_tensors(tmp_path / "cut", 12))


def test_a_killed_worker_ends_the_run_in_a_sentence(tmp_path: Path) -> None:
    settings, dataset = tiny_settings(workers=1), images_on_disk(tmp_path / "images")
    run_tiny(tmp_path / "whole", settings, loader=disk_loader(dataset, settings))

    class Killing(TinyStep):
        def forward(self, batch: Batch, clock: Clock) -> StepReport:
            if clock.step == 7:
                for worker in multiprocessing.active_children():
                    worker.kill()
                    worker.join()
            return super().forward(batch, clock)

    with pytest.raises(DistillError, match=r"got: DataLoader worker \(pid.*with fewer train\.workers\.$"):
        run_tiny(tmp_path / "cut", settings, step=Killing(), loader=disk_loader(dataset, settings))
    run_tiny(tmp_path / "cut", settings, loader=disk_loader(dataset, settings), resume=True)
    assert not differing(checkpoint_tensors(tmp_path / "whole", 12), checkpoint_tensors(tmp_path / "cut", 12))


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_worker_lost_while_its_memory_is_taken_ends_the_run_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Its end of the connection closes before the system tells that it died."""
    settings, dataset = tiny_settings(workers=1), images_on_disk(tmp_path / "images")

    def lost(*_: object) -> None:
        raise error

    class Losing(TinyStep):
        def forward(self, batch: Batch, clock: Clock) -> StepReport:
            if clock.step == 2:
                monkeypatch.setattr("torch.multiprocessing.reductions.rebuild_storage_fd", lost)
            return super().forward(batch, clock)

    with pytest.raises(DistillError, match=r"got: DataLoader worker is gone \(.*with fewer train\.workers\.$"):
        run_tiny(tmp_path / "cut", settings, step=Losing(), loader=disk_loader(dataset, settings))
