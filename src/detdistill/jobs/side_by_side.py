"""Pieces of work in processes of their own, several at a time, each begun once what it needs is done."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import MappingProxyType
from typing import TypeVar

from detdistill.detectors.own_code import trust_keys, trusted
from detdistill.errors import DistillError, OutsideError
from detdistill.outside import telling
from detdistill.training.signals import end_with, watch_signals

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")
_NOTHING: Mapping[object, object] = MappingProxyType({})
_SECONDS_BETWEEN_LOOKS = 1.0


def side_by_side(
    work: Mapping[Key, Callable[[], Result]],
    jobs: int,
    *,
    after: Mapping[Key, Key] | Mapping[object, object] = _NOTHING,
    look: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Key, Result]]:
    """What every piece returns, by its key, as they come.

    Whatever ends the whole, an error of one piece, Ctrl-C or a kill, stops the other pieces as SIGTERM does: a training
    saves its checkpoint first.

    Args:
        work: in the order in which it is begun; fit for pickle where `jobs` is above 1.
        jobs: pieces at a time; 1 does them here, one by one.
        after: the piece that another one needs first, by the key of that one.
        look: called now and then while processes work.

    Raises:
        DistillError: of a piece, or one that got its process killed.
        KeyboardInterrupt: the whole was asked to stop.
    """
    if jobs == 1 or len(work) < 2:
        for key, one in work.items():
            yield key, one()
        return
    waiting, running = dict(work), dict[Future[Result], Key]()
    processes = ProcessPoolExecutor(
        min(jobs, len(work)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(os.getpid(), trusted()),
    )
    with watch_signals() as stop, processes as pool:
        try:
            while waiting or running:
                undone = {*waiting, *running.values()}
                ready = [key for key in waiting if after.get(key) not in undone]
                for key in ready[: jobs - len(running)]:
                    running[pool.submit(_done, waiting.pop(key))] = key
                finished, _ = wait(running, _SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
                look()
                if stop.requested:
                    raise KeyboardInterrupt("interrupted; every run has its checkpoint. Resume to go on.")
                for future in finished:
                    yield running.pop(future), future.result()
        except BrokenProcessPool as error:
            raise DistillError(
                "A training must end by itself, got its process killed, as a system does that runs out of memory. Go "
                "on with --resume and fewer --jobs."
            ) from error
        finally:
            if running:
                _stop()
            pool.shutdown(cancel_futures=True)


def _done(work: Callable[[], Result]) -> Result:
    """What a piece returns, in a process of its own: what code from outside raised there is told here."""
    with telling(OutsideError.during):
        return work()


def _stop() -> None:
    for child in multiprocessing.active_children():
        child.terminate()


def _begin(parent: int, known: frozenset[str]) -> None:
    """What a process begins with: the word for code of others that its parent has."""
    trust_keys(known)
    end_with(parent)
