"""Ctrl-C, SIGTERM and SIGHUP: the step in hand is finished and a checkpoint saved before a run ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import final


@final
class Interrupted(Exception):
    """A run was asked to stop, and stopped with its checkpoint saved.

    Attributes:
        step: how many steps were done.
        checkpoint: the folder to resume from.
    """

    def __init__(self, step: int, checkpoint: Path) -> None:
        super().__init__(step, checkpoint)
        self.step, self.checkpoint = step, checkpoint

    def __str__(self) -> str:
        return f"interrupted after step {self.step}; the checkpoint is {self.checkpoint}. Resume to go on."


@final
class StopFlag:
    """Whether the run is to stop.

    Args:
        orphans_stop: whether it also is where the process that started this one is gone: torchrun, or the parent of
            forked ranks. Nobody could stop the rest any more, and a resumed run would write into the same folder.
    """

    def __init__(self, *, orphans_stop: bool) -> None:
        self.asked = False
        self._parent = os.getppid() if orphans_stop else None

    @property
    def requested(self) -> bool:
        """Whether it is so now."""
        return self.asked or self._parent not in (None, os.getppid())


@contextmanager
def watch_signals(*, orphans_stop: bool = False) -> Iterator[StopFlag]:
    """Yields a flag that Ctrl-C, SIGTERM and SIGHUP (the terminal is gone) raise.

    A second Ctrl-C ends the run at once (KeyboardInterrupt). Outside the main thread, where Python delivers no signals,
    they do not raise it.
    """
    flag = StopFlag(orphans_stop=orphans_stop)
    interrupts = 0

    def stop(number: int) -> None:
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        if interrupts > 1:
            raise KeyboardInterrupt
        flag.asked = True

    with _handling(stop):
        yield flag


def forward_signals() -> AbstractContextManager[None]:
    """Hands Ctrl-C, SIGTERM and SIGHUP to the processes that this one started, as SIGTERM, and waits on."""

    def forward(number: int) -> None:
        for child in multiprocessing.active_children():
            if child.pid is not None:
                os.kill(child.pid, signal.SIGTERM)

    return _handling(forward)


@contextmanager
def _handling(handler: Callable[[int], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:  # not in a loader's worker, which the main process ends
            handler(number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
