"""What processes of torchrun know of each other, told by its environment; two of them forked here, on one store."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from detdistill.errors import ConfigError, DataError, DistillError
from detdistill.progress import ScreenProgress, Silence
from detdistill.training import launch, lifelines, world
from detdistill.training.launch import forks, local_devices, make_fabric, own_device, processes
from detdistill.training.signals import watch_signals
from tiny_training import tiny_settings


def environment(rank: int, *, ranks: int = 2, local_ranks: int = 1, port: int = 29500) -> dict[str, str]:
    place = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank % local_ranks, "LOCAL_WORLD_SIZE": local_ranks}
    place |= {"GROUP_RANK": rank // local_ranks, "MASTER_PORT": port}
    told = {name: str(value) for name, value in place.items()}
    return told | {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "none"}


def together(work: Callable[[int], object], *, local_ranks: int = 1) -> list[int]:
    """Runs `work` in two processes that torchrun might have started; returns their exit codes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]

    context = multiprocessing.get_context("fork")
    last = context.Barrier(2)

    def run(rank: int) -> None:
        os.environ.update(environment(rank, local_ranks=local_ranks, port=port))
        try:
            work(rank)
            last.wait(30)  # the store is gone with rank 0
        except BaseException:  # noqa: BLE001  this process has no caller that could report it
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    started = [context.Process(target=run, args=(rank,)) for rank in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    return [process.exitcode if process.exitcode is not None else -1 for process in started]


def test_without_torchrun_a_process_is_alone() -> None:
    assert world.world() == world.World(rank=0, ranks=1, local_rank=0, local_ranks=1, machine=0)
    assert world.leads()
    assert world.says("twice")
    assert world.says("twice")
    assert world.says("half a character: \ud800")
    assert world.by_leader(lambda: 3) == 3
    assert world.first_on_machine(lambda: 4) == 4
    progress = ScreenProgress()
    assert world.watched_by_leader(progress) is progress
    assert isinstance(world.watched_by_leader(None), Silence)


@pytest.fixture
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is nobody's worker."""
    monkeypatch.setattr(world, "end_with", lambda parent: None)


@pytest.mark.usefixtures("unwatched")
def test_what_torchrun_says_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(5, ranks=8, local_ranks=4).items():
        monkeypatch.setenv(name, value)
    assert world.world() == world.World(rank=5, ranks=8, local_rank=1, local_ranks=4, machine=1)
    assert isinstance(world.watched_by_leader(ScreenProgress()), Silence)
    for devices in (1, 4):
        settings = tiny_settings(processes=devices)
        assert (local_devices(settings), processes(settings), forks(settings)) == (4, 8, False)
    assert own_device(tiny_settings()).type == "cpu"
    fabric = make_fabric(tiny_settings())
    assert (fabric.world_size, fabric.global_rank) == (8, 5)


@pytest.mark.usefixtures("unwatched")
@pytest.mark.parametrize(("devices", "ranks"), [(3, 8), (1, 6)])
def test_a_contradiction_is_refused(monkeypatch: pytest.MonkeyPatch, devices: int, ranks: int) -> None:
    for name, value in environment(0, ranks=ranks, local_ranks=4).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=rf"or be what torchrun started .*, 4 of {ranks} processes .*, got {devices}"):
        make_fabric(tiny_settings(processes=devices))


def test_the_leader_works_and_all_learn_it(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        found = world.by_leader(lambda: (tmp_path / f"{rank}").write_text("here"))
        assert found == 4
        with pytest.raises(DataError, match="no such image"):
            world.by_leader(lambda: refuse("no such image"))

    assert together(work) == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def refuse(message: str) -> None:
    raise DataError(message)


@pytest.mark.parametrize(("local_ranks", "lines"), [(2, [True, False]), (1, [True, True])])
def test_a_machines_first_process_goes_ahead_and_errors_are_said_once(
    tmp_path: Path, local_ranks: int, lines: list[bool]
) -> None:
    def work(rank: int) -> None:
        there = world.first_on_machine(lambda: make(tmp_path, str(rank)))
        assert there == (["0", "1"] if rank and local_ranks == 2 else there)
        (tmp_path / f"said{int(world.says('a sentence'))}_{rank}").touch()

    assert together(work, local_ranks=local_ranks) == [0, 0]
    said = sorted(path.name.removeprefix("said")[0] == "1" for path in tmp_path.glob("said*"))
    assert said == sorted(lines)


def make(folder: Path, name: str) -> list[str]:
    (folder / name).touch()
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("said"))


def test_a_lost_leader_is_said() -> None:
    learned = multiprocessing.get_context("fork").Event()

    def work(rank: int) -> None:
        world.by_leader(lambda: None)
        if rank == 0:
            learned.wait(30)
            os._exit(9)
        learned.set()
        with pytest.raises(DistillError, match=r"must reach each other until its end, got: .* again with --resume\."):
            world.by_leader(lambda: None)
        os._exit(7)

    assert together(work) == [9, 7]


def test_a_lost_process_is_said_to_the_leader_that_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost while nobody looks; before it came at all; and when the leader begins to connect to it for the training."""

    def lost_later(rank: int) -> None:
        world.by_leader(lambda: None)
        if rank == 1:
            os._exit(9)
        with pytest.raises(DistillError, match=r"got: process 2 of 2 is gone\. .* again with --resume\."):
            world.meet()
        os._exit(7)

    def never_there(rank: int) -> None:
        if rank == 1:
            world.store()
            os._exit(9)
        monkeypatch.setattr(lifelines, "LATE_AFTER_S", 0.5)
        lost_later(rank)

    def lost_in_training(rank: int) -> None:
        monkeypatch.setattr(launch, "LATE_AFTER_S", 1)
        if rank == 1:
            world.meet()
            os._exit(9)
        with pytest.raises(DistillError, match=r"must reach each other until its end, got: .*timeout after 1000ms"):
            launch.launch(lambda fabric: None, tiny_settings())
        os._exit(7)

    for work in (lost_later, never_there, lost_in_training):
        assert together(work) == [7, 9], work


def test_forked_ranks_end_with_their_parent_before_they_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests in this process may have asked for GPUs; these ranks use none.
    monkeypatch.setattr("lightning_fabric.strategies.launchers.multiprocessing._check_bad_cuda_fork", lambda: None)

    def rank(fabric: object) -> None:
        (tmp_path / str(os.getpid())).touch()
        time.sleep(60)

    end_with_their_parent(tmp_path, lambda: launch.launch(rank, tiny_settings(processes=2)), processes=2)


def test_what_torchrun_started_ends_with_its_agent_wherever_it_is(tmp_path: Path) -> None:
    """At its start; in an evaluation, which it breaks off; after its end, where torch waits for the agent."""

    def worker(work: Callable[[], object]) -> None:
        os.environ.update(environment(0))
        assert world.leads()
        (tmp_path / str(os.getpid())).touch()
        work()

    def train() -> None:
        with watch_signals() as stop:
            assert stop.breaking(lambda: time.sleep(60)) is None
            (tmp_path / "saved").mkdir()

    context = multiprocessing.get_context("fork")
    phases = (lambda: time.sleep(60), train, lambda: context.Event().wait(60))

    def agent() -> None:
        for phase in phases:
            context.Process(target=worker, args=(phase,)).start()

    end_with_their_parent(tmp_path, agent, processes=len(phases))
    assert (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    ("first", "agent"),
    [
        (b"bin/tini\0--\0python\0-m\0torch.distributed.run", world._NOBODY),
        (None, world._NOBODY),
        (b"bin/python3\0bin/torchrun\0", 1),
    ],
)
def test_an_agent_that_was_gone_before_its_worker_asked_is_not_the_systems_first_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bytes | None, agent: int
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(world, "_FIRST", tmp_path / "cmdline")
    if first is not None:
        world._FIRST.write_bytes(first)
    monkeypatch.setattr(os, "getppid", lambda: 1)
    with monkeypatch.context() as patch:
        patch.setattr(world, "end_with", asked.append)
        assert world._agent.__wrapped__(os.getpid()) == agent
        assert asked == [agent]

    def worker() -> None:
        os.environ.update(environment(0))
        assert world.leads()
        time.sleep(60)

    if agent == world._NOBODY:
        process = multiprocessing.get_context("fork").Process(target=worker)
        process.start()
        process.join(30)
        assert process.exitcode == -signal.SIGTERM


def end_with_their_parent(folder: Path, work: Callable[[], object], *, processes: int) -> None:
    """Kills what does the work once so many processes of it have a file of their number, and waits for their end."""

    def numbers() -> list[int]:
        return [int(path.name) for path in folder.iterdir() if path.is_file()]

    parent = multiprocessing.get_context("fork").Process(target=work)
    parent.start()
    wait_for(lambda: len(numbers()) == processes)
    parent.kill()
    parent.join()
    wait_for(lambda: not any(Path(f"/proc/{one}").exists() for one in numbers()))


def wait_for(what: Callable[[], bool]) -> None:
    for _ in range(2000):
        if what():
            return
        time.sleep(0.01)
    pytest.fail("it never came")


def test_who_waits_ends_when_torchrun_is_gone() -> None:
    def work(rank: int) -> None:
        assert world.world().rank == rank
        world.store()
        if rank == 1:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which a training takes
            os.getppid = lambda: 1
            with pytest.raises(DistillError, match=r"got: torchrun, which started this process, is gone\. Another one"):
                world.meet()

    assert together(work) == [0, 0]
