"""How forked ranks begin; imported by those that train alone, as its base takes a second or more to import."""

from __future__ import annotations

import os
import signal
from typing import Literal, final

from lightning_fabric.strategies.ddp import DDPStrategy

from detdistill.training.signals import end_with


@final
class Ranks(DDPStrategy):
    """Processes that are forked from this one, and end with it, once their training has saved what there is to save."""

    def __init__(self, *, start_method: Literal["fork", "popen"], backend: str) -> None:
        super().__init__(start_method=start_method, process_group_backend=backend, find_unused_parameters=True)
        self._parent = os.getpid()

    def setup_environment(self) -> None:
        """Joins the others; in a forked process with the signals' own effects, not with this one's handlers."""
        if os.getpid() != self._parent:
            for number in (signal.SIGINT, signal.SIGTERM):  # torch sends the first where the parent is gone
                signal.signal(number, signal.SIG_DFL)
            end_with(self._parent)
        super().setup_environment()
