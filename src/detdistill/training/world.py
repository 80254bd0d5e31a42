"""Which of torchrun's processes this one is, and how they wait for each other; a run without torchrun notices nothing.

torchrun starts one process per device on every machine. The first of all leads: it alone writes and prints. What it
finds out reaches the others through the store that torchrun keeps on the first machine.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from detdistill.errors import DistillError
from detdistill.progress import Progress, Silence
from detdistill.training.lifelines import LATE_AFTER_S, Lifelines
from detdistill.training.signals import end_with

if TYPE_CHECKING:  # torch is imported where it is needed: the command line asks who leads
    from torch.distributed.distributed_c10d import Store

Outcome = TypeVar("Outcome")
_MEETINGS = itertools.count()  # every process comes to the same meetings in the same order
_SECONDS_BETWEEN_LOOKS = 0.05
# What the system's first process was started by, which takes over those whose parent is gone.
_FIRST = Path("/proc/1/cmdline")
_NOBODY = 0


@dataclass(frozen=True, slots=True)
class World:
    """This process among all that torchrun started, alone without torchrun; numbers are counted from 0.

    Attributes:
        rank: its number among the `ranks` on all machines.
        local_rank: its number among the `local_ranks` on its `machine`.
    """

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    local_ranks: int = 1
    machine: int = 0


def launched_by_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def world() -> World:
    """Who this process is, as torchrun's environment says. From the first time on it ends with torchrun's agent."""
    if launched_by_torchrun():
        _agent(os.getpid())
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
    return World(*(int(os.environ[name]) for name in names)) if launched_by_torchrun() else World()


@functools.cache
def _agent(process: int) -> int:
    """Number of the process that started this one, which is `process`; nobody's where that was gone when first asked.

    The system's first process is torchrun's agent in a container that runs nothing else: as a program of Python's.
    """
    del process
    agent = os.getppid()
    if agent == 1 and not _begun_by_python():
        agent = _NOBODY
    end_with(agent)
    return agent


def _begun_by_python() -> bool:
    try:
        return b"python" in _FIRST.read_bytes().partition(b"\0")[0].rpartition(b"/")[2]
    except OSError:  # another user's
        return False


def leads() -> bool:
    """Whether this process may write and print: the only one, or the first of all that torchrun started."""
    return world().rank == 0


def watched_by_leader(progress: Progress | None) -> Progress:
    """`progress` in the process that leads, silence elsewhere and where there is none."""
    return progress if progress is not None and leads() else Silence()


def attempted(work: Callable[[], Outcome]) -> Outcome | DistillError:
    """What `work` returns, or the error that it raises, to be sent to other processes; see `settled`."""
    try:
        return work()
    except DistillError as error:
        return error


def settled(outcome: Outcome | DistillError) -> Outcome:
    """What `attempted` found: returned, or raised where it is an error."""
    if isinstance(outcome, DistillError):
        raise outcome
    return outcome


def by_leader(work: Callable[[], Outcome]) -> Outcome:
    """Does `work` in the process that leads, while the others wait, and returns there and everywhere what it returned.

    Args:
        work: what it returns must be small, a few MB, and fit for pickle.

    Raises:
        DistillError: what `work` raised, in every process; or the leader is lost.
    """
    if not launched_by_torchrun():
        return work()
    key = f"by_leader_{next(_MEETINGS)}"
    if leads():
        outcome = attempted(work)
        _tell(key, pickle.dumps(outcome).hex())
        return settled(outcome)
    _wait_for({key: 0})
    found: Outcome | DistillError = pickle.loads(bytes.fromhex(_heard(key)))
    return settled(found)


def first_on_machine(work: Callable[[], Outcome]) -> Outcome:
    """Does `work` in every process, but first in the first of each machine: the others find on its disk what it made.

    Raises:
        DistillError: what `work` raises, or the leader is lost.
    """
    if not launched_by_torchrun():
        return work()
    here = world()
    key = f"machine_{here.machine}_{next(_MEETINGS)}"
    if here.local_rank > 0:
        _wait_for({key: here.rank - here.local_rank})
    outcome = work()
    if here.local_rank == 0:
        _tell(key)
    return outcome


def meet() -> int:
    """Waits until every process is here, however long that takes; returns a number that this meeting alone has."""
    number, here = next(_MEETINGS), world()
    if launched_by_torchrun():
        _tell(f"met_{number}_{here.rank}")
        _wait_for({f"met_{number}_{rank}": rank for rank in range(here.ranks)})
    return number


def says(line: str) -> bool:
    """Whether this process is to print an error: the first of its machine that came upon it."""
    here = world()
    digest = hashlib.sha256(line.encode(errors="backslashreplace")).hexdigest()
    try:
        return here.local_ranks == 1 or store().add(f"said_{here.machine}_{digest}", 1) == 1
    except RuntimeError:  # the leader is gone, and its store with it
        return True


@functools.cache
def store() -> Store:
    """What the processes share: small values by name, kept on the first machine."""
    from torch.distributed.constants import default_pg_timeout
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    shared, _, _ = next(iter(rendezvous("env://", timeout=timedelta(seconds=LATE_AFTER_S))))
    shared.set_timeout(default_pg_timeout)
    return PrefixStore("detdistill", shared)


@functools.cache
def _lifelines() -> Lifelines:
    return Lifelines(store(), rank=world().rank)


def _tell(key: str, value: str = "") -> None:
    try:
        _lifelines().connect()
        store().set(key, value)
    except RuntimeError as error:
        raise lost(error) from error


def _heard(key: str) -> str:
    try:
        return store().get(key).decode()
    except RuntimeError as error:
        raise lost(error) from error


def _wait_for(keys: Mapping[str, int]) -> None:
    """Waits for what other processes tell: keys of the store, each with the number of the process that sets it."""
    needed = {*keys.values(), 0}
    try:
        while not store().check(list(keys)):
            if (gone := _lifelines().lost(needed)) is not None:
                told = [key for key, rank in keys.items() if rank == gone]
                if not told or not store().check(told):
                    raise RuntimeError(f"process {gone + 1} of {world().ranks} is gone")
                needed.remove(gone)
            if os.getppid() != _agent(os.getpid()):
                # Nobody could stop this process any more.
                raise RuntimeError("torchrun, which started this process, is gone")
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        _lifelines().connect()
    except RuntimeError as error:
        raise lost(error) from error


def lost(error: Exception) -> DistillError:
    """The error of a process that cannot reach the others any more."""
    return DistillError(
        f"The run's processes must reach each other until its end, got: {str(error).splitlines()[0]}. "
        "Another one failed or was stopped: see what it said, and start all of them again with --resume."
    )
