"""Ctrl-C and SIGTERM: the step in hand is finished and a checkpoint saved before a run ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import final

_Handler = Callable[[int, FrameType | None], None]


@final
class Interrupted(Exception):
    """A run was asked to stop, and stopped with its checkpoint saved.

    Attributes:
        step: how many steps were done.
        checkpoint: the folder to resume from.
    """

    def __init__(self, step: int, checkpoint: Path) -> None:
        super().__init__(step, checkpoint)
        self.step = step
        self.checkpoint = checkpoint

    def __str__(self) -> str:
        return f"interrupted after step {self.step}; the checkpoint is {self.checkpoint}. Resume to go on."


@final
class StopFlag:
    """Whether somebody asked the run to stop."""

    def __init__(self) -> None:
        self.requested = False


@contextmanager
def watch_signals() -> Iterator[StopFlag]:
    """Yields a flag that Ctrl-C and SIGTERM raise; a second Ctrl-C ends the run at once (KeyboardInterrupt).

    Outside the main thread, where Python delivers no signals, the flag never rises.
    """
    flag = StopFlag()
    owner = os.getpid()
    interrupts = 0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        if os.getpid() != owner:
            return  # a loader worker: the main process ends it
        interrupts += number == signal.SIGINT
        if interrupts > 1:
            raise KeyboardInterrupt
        flag.requested = True

    with _handling(stop):
        yield flag


@contextmanager
def forward_signals() -> Iterator[None]:
    """Hands Ctrl-C and SIGTERM to the processes that this one started, as SIGTERM, and waits on for their end."""
    owner = os.getpid()

    def forward(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            return
        for child in multiprocessing.active_children():
            if child.pid is not None:
                os.kill(child.pid, signal.SIGTERM)

    with _handling(forward):
        yield


@contextmanager
def _handling(handler: _Handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, old in zip(numbers, before, strict=True):
            signal.signal(number, old)
