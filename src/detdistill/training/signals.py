"""Ctrl-C, SIGTERM and SIGHUP, and a parent that is gone: a run finishes the step in hand and saves before it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import TypeVar, final

Outcome = TypeVar("Outcome")
_SECONDS_BETWEEN_LOOKS, _SECONDS_BETWEEN_SIGNALS = 0.1, 1.0


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
    """Whether the run is to stop: `requested`."""

    def __init__(self) -> None:
        self.requested = self._breaks = False

    def request(self) -> None:
        """Asks it to.

        Raises:
            KeyboardInterrupt: to break off what it is at.
        """
        self.requested = True
        if self._breaks:
            raise KeyboardInterrupt

    def breaking(self, work: Callable[[], Outcome]) -> Outcome | None:
        """What `work` returns; None where a stop ended it, which it does at once, or had been asked for before."""
        if self.requested:
            return None
        self._breaks = True
        try:
            try:
                return work()
            finally:
                self._breaks = False
        except KeyboardInterrupt:
            if not self.requested:
                raise
            return None


@contextmanager
def watch_signals() -> Iterator[StopFlag]:
    """Yields a flag that Ctrl-C, SIGTERM and SIGHUP (the terminal is gone) raise.

    A second Ctrl-C ends the run at once (KeyboardInterrupt). Outside the main thread, where Python delivers no signals,
    they do not raise it.
    """
    flag = StopFlag()
    interrupts = 0

    def stop(number: int) -> None:
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        if interrupts > 1:
            raise KeyboardInterrupt
        flag.request()

    with _handling(stop):
        yield flag


def end_with(parent: int) -> None:
    """Ends this process, once its training has saved a checkpoint, where its `parent` is gone.

    Nobody could stop it any more, and a resumed run would write into the same folder.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        while True:  # again, until no training takes it any more
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(_SECONDS_BETWEEN_SIGNALS)

    threading.Thread(target=watch, daemon=True).start()


def forward_signals() -> AbstractContextManager[None]:
    """Hands Ctrl-C, SIGTERM and SIGHUP to the processes that this one started, as SIGTERM, and waits on."""

    def forward(number: int) -> None:
        for child in multiprocessing.active_children():
            if child.pid is not None:
                os.kill(child.pid, signal.SIGTERM)

    return _handling(forward)


@contextmanager
def _sent_again() -> Iterator[None]:
    """A signal whose KeyboardInterrupt Python drops, as in a destructor, comes again instead of being printed."""
    before, owner, soon = sys.unraisablehook, os.getpid(), list[threading.Timer]()

    def hear(dropped: sys.UnraisableHookArgs) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt) or os.getpid() != owner:
            before(dropped)
            return
        soon.append(threading.Timer(_SECONDS_BETWEEN_LOOKS, os.kill, (owner, signal.SIGTERM)))
        soon[-1].daemon = True
        soon[-1].start()

    sys.unraisablehook = hear
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in soon:
            timer.cancel()


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
        with _sent_again():
            yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
