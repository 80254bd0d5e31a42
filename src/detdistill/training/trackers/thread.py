"""A tracker in a thread of its own: however slow it is and however it fails, the training goes on at its pace."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Full, Queue
from typing import final

from detdistill.training.trackers.base import Ending, Tracker

_MOST_WAITING, _PATIENCE_S = 10_000, 60.0
Work = Callable[[Tracker], None]


@final
class Threaded:
    """Hands work to a tracker, in order.

    Args:
        name: what people call it.
        begin: opens the tracker; called in the thread.
        ended: told in the thread, when nothing more reaches the tracker, of what was done last (see `do`).
        say: hears where the tracker is, and once why it was lost.
    """

    def __init__(
        self,
        name: str,
        begin: Callable[[], Tracker],
        ended: Callable[[dict[str, int]], None],
        say: Callable[[str], None],
    ) -> None:
        self._name, self._begin, self._ended, self._say = name, begin, ended, say
        self._waiting: Queue[tuple[Work, tuple[str, int] | None] | Ending] = Queue(_MOST_WAITING)
        self._news: list[str] = []
        self._done: dict[str, int] = {}
        self._lost = False
        self._thread = threading.Thread(target=self._work, name=f"detdistill-{name}", daemon=True)
        self._thread.start()

    def do(self, work: Work, *, mark: tuple[str, int] | None = None) -> None:
        """Has it done as soon as the tracker gets to it; `mark` is of which kind and step it is."""
        self._tell()
        if self._lost:
            return
        try:
            self._waiting.put_nowait((work, mark))
        except Full:
            self._give_up(f"it is too slow: {_MOST_WAITING} rows wait")

    def close(self, ending: Ending) -> None:
        """Waits for what is left to be done, for a minute at most."""
        if not self._lost:
            try:
                self._waiting.put_nowait(ending)
            except Full:
                self._give_up(f"it is too slow: {_MOST_WAITING} rows wait")
        self._thread.join(0 if self._lost else _PATIENCE_S)
        if self._thread.is_alive() and not self._lost:
            self._give_up(f"it did not end within {_PATIENCE_S:.0f} s")
        self._tell()

    def _give_up(self, why: str) -> None:
        self._lost = True
        self._news.append(f"{self._name}: {why}. The run goes on without it; its figures are in its folder.")
        self._tell()

    def _tell(self) -> None:
        while self._news:
            self._say(self._news.pop(0))

    def _work(self) -> None:
        try:
            tracker = self._begin()
            self._news.append(f"{self._name}: {tracker.place}")
            while not self._lost:
                item = self._waiting.get()
                if isinstance(item, str):
                    tracker.close(item)
                    break
                work, mark = item
                work(tracker)
                if mark is not None:
                    self._done[mark[0]] = mark[1]
        except BaseException as error:  # noqa: BLE001 - whatever a tracker raises
            if not self._lost:
                self._lost = True
                said = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
                self._news.append(
                    f"{self._name} failed: {said}. The run goes on without it; its figures are in its folder."
                )
        self._ended(self._done)
