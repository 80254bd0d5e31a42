"""Trains one module in several processes on CPUs, where what a message costs is mostly that it is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, distributed, nn, optim
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def set_up(fabric: Fabric, module: nn.Module, optimizer: optim.Optimizer) -> tuple[Any, Any, Callable[[], None]]:
    """Module and optimiser as Fabric has them, and what joins all ranks' gradients once a step's backward is done.

    On GPUs torch's DDP joins them in the backward pass itself, behind what is computed meanwhile.
    """
    if fabric.world_size == 1 or fabric.device.type != "cpu":
        return *fabric.setup(module, optimizer), lambda: None
    joined = Joined(module)
    return *fabric.setup(joined, optimizer), joined.join


@final
class Joined(nn.Module):
    """A module of which every rank has the same parameters, and the mean of all gradients, by one message a step.

    As torch's DDP with ``find_unused_parameters``, which sends six messages for a small detector and walks the graph of
    every step: a gradient is the mean over the ranks, in which one that has none counts as 0; where no rank has one,
    there is none. Buffers are those of rank 0 at the start of a step, except for the running statistics of batch norms
    that train, which no step reads: they stay each rank's own.

    Args:
        module: the same on every rank, but for the values of its parameters and buffers, which become those of rank 0.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        _send([*module.parameters(), *module.buffers()])
        self._sent = _versions(self._shared())
        self._changed = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module returns."""
        if self._changed:
            _send(shared := self._shared())
            self._sent, self._changed = _versions(shared), False
        return self.module(*args, **kwargs)

    @torch.no_grad()
    def join(self) -> None:
        """Makes every gradient the mean over all ranks, which must all call this."""
        trained, ranks = self._trained, distributed.get_world_size()
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in trained]
        signs = [_versions(self._shared()) != self._sent, *(one.grad is not None for one in trained)]
        message = torch.cat([gradients[0].new_tensor(signs), *(one.flatten() for one in gradients)])
        distributed.all_reduce(message.mul_(1 / ranks))
        found, *means = torch.split(message, [len(signs), *(one.numel() for one in gradients)])
        torch._foreach_copy_(gradients, [mean.view_as(one) for mean, one in zip(means, gradients, strict=True)])
        self._changed, *known = (found > 0).tolist()
        for parameter, gradient, is_known in zip(trained, gradients, known, strict=True):
            parameter.grad = gradient if is_known else None

    def _shared(self) -> list[Tensor]:
        """The buffers that are to be rank 0's."""
        own = (one for one in self.module.modules() if not (isinstance(one, _BatchNorm) and one.training))
        return [buffer for one in own for buffer in one.buffers(recurse=False)]


def _versions(buffers: Sequence[Tensor]) -> list[tuple[int, int]]:
    """What another buffer, or one that was changed in place, has another of."""
    return [(id(one), one._version) for one in buffers]


@torch.no_grad()
def _send(tensors: Sequence[Tensor]) -> None:
    """Gives all ranks the values of rank 0, in one message."""
    if not tensors:
        return
    raw = [one.flatten().view(torch.uint8) for one in tensors]
    message = torch.cat(raw)
    distributed.broadcast(message, src=0)
    if distributed.get_rank():
        for one, sent in zip(tensors, torch.split(message, [len(each) for each in raw]), strict=True):
            one.copy_(sent.clone().view(one.dtype).view_as(one))
