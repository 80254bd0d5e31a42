"""Who may work in a folder: one process at a time, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from detdistill.errors import ConfigError, DistillError
from detdistill.store.layout import LOCK
from detdistill.store.lock import displaced, hold, require_idle, require_in_place, saved_beside, writing
from tiny_training import fork

HERE = socket.gethostname()


def started(work: Callable[[Callable[[], None]], object]) -> multiprocessing.process.BaseProcess:
    """A forked process that does `work`, once that has called what it is given."""
    ready = multiprocessing.get_context("fork").Event()
    process = fork(lambda: work(ready.set))
    assert ready.wait(20)
    return process


def holding(folder: Path) -> multiprocessing.process.BaseProcess:
    """A process that holds a folder until it is killed."""

    def work(ready: Callable[[], None]) -> None:
        with hold(folder):
            ready()
            time.sleep(60)

    return started(work)


def killed(process: multiprocessing.process.BaseProcess) -> None:
    process.kill()
    process.join()


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    other = holding(folder)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    sentence = (
        f"{folder} must be worked in by one process at a time, got process {other.pid} on {HERE} at work there. "
        "Wait for its end, or choose another folder."
    )
    for attempt in (lambda: hold(folder).__enter__(), lambda: require_idle(folder)):
        with pytest.raises(ConfigError) as refused:
            attempt()
        assert str(refused.value) == sentence
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    killed(other)
    require_idle(folder)
    assert (folder / LOCK).exists()
    with hold(folder):
        assert (folder / LOCK).read_text() == f"{os.getpid()} {HERE}\n"
    assert list(folder.iterdir()) == []


def test_nothing_is_left_of_a_folder_that_was_not_used(tmp_path: Path) -> None:
    with hold(tmp_path / "new/run"):
        assert (tmp_path / "new/run").is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_process_keeps_itself_out_and_its_lock(tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(tmp_path / "run")
    with hold(tmp_path / "run"):
        for name in ("run", "alias"):
            with pytest.raises(ConfigError, match=f"got process {os.getpid()} on {HERE} at work there"):
                hold(tmp_path / name).__enter__()
        with writing(tmp_path / "run"):
            pass
        other = fork(lambda: require_idle(tmp_path / "run"))
        other.join()
        assert other.exitcode == 1


def test_a_loaders_worker_that_is_left_behind_holds_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    worker = context.Value("i", 0)

    def work(ready: Callable[[], None]) -> None:
        with hold(tmp_path), writing(tmp_path):
            worker.value = fork(lambda: time.sleep(60)).pid
            ready()
            time.sleep(60)

    killed(started(work))
    began = time.monotonic()
    with hold(tmp_path):
        os.kill(worker.value, 0)
    assert time.monotonic() - began < 2
    os.kill(worker.value, signal.SIGKILL)


def test_a_rank_that_still_writes_is_waited_for(tmp_path: Path) -> None:
    """As where the parent of forked ranks was killed: they save, and end by themselves."""

    def rank(ready: Callable[[], None]) -> None:
        with writing(tmp_path):
            ready()
            time.sleep(0.7)
            (tmp_path / "saved").touch()

    def work(ready: Callable[[], None]) -> None:
        with hold(tmp_path):
            fork(lambda: rank(ready))
            time.sleep(60)

    killed(started(work))
    assert not (tmp_path / "saved").exists()
    with hold(tmp_path):
        assert (tmp_path / "saved").exists()


def test_where_it_may_it_waits_and_says_for_whom(tmp_path: Path) -> None:
    def work(ready: Callable[[], None]) -> None:
        with hold(tmp_path):
            ready()
            time.sleep(0.5)

    other, said = started(work), list[str]()
    with hold(tmp_path, waiting=said.append):
        assert said == [f"{tmp_path} is in use by process {other.pid} on {HERE}: waiting for its end"]
    other.join()


@pytest.mark.parametrize("what", ["moved", "removed", "emptied", "another"])
def test_a_folder_that_is_gone_is_noticed_and_its_successor_left_alone(tmp_path: Path, what: str) -> None:
    run = tmp_path / "run"
    with hold(run):
        assert not displaced(run)
        require_in_place(run)
        if what == "emptied":
            (run / LOCK).unlink()
        else:
            run.rename(tmp_path / "elsewhere") if what == "moved" else shutil.rmtree(run)
        if what == "another":
            run.mkdir()
            (run / LOCK).write_text("1 other\n")
        assert displaced(run)
        with pytest.raises(DistillError, match="must stay as it is until its run ends, got it moved, removed or empt"):
            require_in_place(run)
        (tmp_path / "run_saved").mkdir()
        error = saved_beside(run, Path.mkdir, what="step 7")
        assert (tmp_path / "run_saved2").is_dir()
        assert f"; step 7 is saved in {tmp_path}/run_saved2. Go on from there by --resume --out" in str(error)
    assert (what == "another") == (run / LOCK).exists()
