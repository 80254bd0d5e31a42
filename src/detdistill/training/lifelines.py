"""Connections by which torchrun's processes see at once that one of them is gone, whatever it died of.

A system closes the connections of a process that ends, so nothing has to be sent, and a process that is merely slow is
never taken for a lost one.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

LATE_AFTER_S = 60.0
"""How much later than another a process may come for the first time: torchrun starts them together."""
_RANK_BYTES = 4


@final
class Lifelines:
    """A connection between the process that leads and each of the others, open as long as both live.

    Where firewalls keep them from connecting, only a process that never came is found.

    Args:
        store: what the processes share.
        rank: this process's number; 0 leads.
    """

    def __init__(self, store: Store, *, rank: int) -> None:
        self._store, self._rank, self._began = store, rank, time.monotonic()
        self._lines: dict[int, socket.socket] = {}
        self._listener: socket.socket | None = None
        self._tried = False
        if rank == 0:
            try:
                self._listener = socket.create_server(
                    ("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
                )
            except (OSError, ValueError):  # there is no IPv6
                self._listener = socket.create_server(("", 0), backlog=1024)
            self._listener.setblocking(False)
            store.set("came_0", str(self._listener.getsockname()[1]))

    def lost(self, ranks: Iterable[int]) -> int | None:
        """The number of one of these processes that is gone or never came; None where none is found to be."""
        self.connect()
        late = time.monotonic() - self._began > LATE_AFTER_S
        for rank in ranks:
            line = self._lines.get(rank)
            if _closed(line) if line is not None else late and not self._store.check([f"came_{rank}"]):
                return rank
        return None

    def connect(self) -> None:
        """Takes the connections that have come since; in the others makes the one, once the leader has come."""
        if self._listener is not None:
            with suppress(BlockingIOError):
                while True:
                    self._take(self._listener.accept()[0])
        elif not self._tried and self._store.check(["came_0"]):
            self._tried = True
            with suppress(OSError):
                port = int(self._store.get("came_0"))
                line = socket.create_connection((os.environ["MASTER_ADDR"], port), timeout=10)
                line.sendall(self._rank.to_bytes(_RANK_BYTES))
                line.setblocking(False)
                self._lines[0] = line
            self._store.set(f"came_{self._rank}", "")

    def _take(self, line: socket.socket) -> None:
        line.settimeout(1)  # a stranger may say nothing
        with suppress(OSError):
            rank = int.from_bytes(line.recv(_RANK_BYTES, socket.MSG_WAITALL))
            line.setblocking(False)
            self._lines.setdefault(rank, line)


def _closed(line: socket.socket) -> bool:
    """Whether the process at the other end is gone."""
    try:
        return line.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
