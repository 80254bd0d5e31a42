"""How ranks begin, and train one module; imported by those that do, as its base takes a second or more to import."""

from __future__ import annotations

import os
import signal
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, final

from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.strategy import _BackwardSyncControl
from torch import nn

from detdistill.training.joined import Joined
from detdistill.training.signals import end_with


@final
class Ranks(DDPStrategy):
    """Processes of a training: torch's DDP joins their gradients, except where the module is one that does so itself.

    Those that were forked from this one end with it, once their training has saved what there is to save.
    """

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

    def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
        """The module as all ranks train it."""
        if not isinstance(module, Joined):
            return super().setup_module(module)
        self._backward_sync_control = _Unasked()
        return module


class _Unasked(_BackwardSyncControl):
    """Of a module whose gradients are joined once it is told to."""

    def no_backward_sync(self, module: nn.Module, enabled: bool) -> AbstractContextManager[None]:
        del module, enabled
        return nullcontext()
