"""Trains one module in several processes on CPUs, where what a message costs is mostly that it is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, final

import torch
from torch import Tensor, distributed, nn, optim
from torch.nn.modules.batchnorm import _BatchNorm

from detdistill.errors import ConfigError
from detdistill.training.gradients import means

if TYPE_CHECKING:
    from lightning_fabric import Fabric


Join: TypeAlias = Callable[[Tensor], Tensor]


def set_up(fabric: Fabric, module: nn.Module, optimizer: optim.Optimizer) -> tuple[Any, Any, Join]:
    """Module and optimiser as Fabric has them, and what joins the ranks once a step's backward is done.

    That takes signs of this rank, true or false, and returns which are raised on any rank; afterwards every rank has
    the mean of all gradients. On GPUs torch's DDP joins those in the backward pass, behind what is computed meanwhile.
    """
    if fabric.world_size == 1:
        return *fabric.setup(module, optimizer), lambda signs: signs
    if fabric.device.type != "cpu":
        return *fabric.setup(module, optimizer), raised_on_any
    joined = Joined(module)
    return *fabric.setup(joined, optimizer), joined.join


def raised_on_any(signs: Tensor) -> Tensor:
    """Which signs are raised on any rank; all ranks must ask."""
    distributed.all_reduce(counts := signs.float())
    return counts > 0


@final
class Joined(nn.Module):
    """A module of which every rank has the same parameters, and the mean of all gradients, by one message a step.

    As torch's DDP with ``find_unused_parameters``, which sends six messages for a small detector and walks the graph of
    every step: a gradient is the mean over the ranks, in which one that has none counts as 0; where no rank has one,
    there is none. Buffers are those of rank 0 at the start of a step, except for the running statistics of batch norms
    that train, which no step reads: they stay each rank's own.

    Args:
        module: the same on every rank, but for the values of its parameters and buffers, which become those of rank 0.

    Raises:
        ConfigError: another rank's module has others.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._owners = [one for one in module.modules() if next(one.buffers(recurse=False), None) is not None]
        _require_alike(module)
        _send([*module.parameters(), *module.buffers()])
        self._sent, self._changed = self._shared(), False

    def forward(self, *inputs: Any) -> Any:
        """What the module returns."""
        if self._changed:
            _send([buffer for buffer, _ in self._shared()])
            self._sent, self._changed = self._shared(), False
        return self.module(*inputs)

    @torch.no_grad()
    def join(self, signs: Tensor) -> Tensor:
        """Makes every gradient the mean over all ranks, which must all call this.

        Args:
            signs: of this rank, true or false, one axis.

        Returns:
            Which of them are raised on any rank.
        """
        trained, ranks = self._trained, distributed.get_world_size()
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in trained]
        own = [not _same(self._shared(), self._sent), *(one.grad is not None for one in trained)]
        flags = torch.cat([signs, torch.tensor(own)]).to(gradients[0].dtype)
        shares, *joined = means([flags, *gradients], ranks=ranks)
        torch._foreach_copy_(gradients, joined)
        raised = shares > 0
        self._changed, *known = raised[len(signs) :].tolist()
        for parameter, gradient, is_known in zip(trained, gradients, known, strict=True):
            parameter.grad = gradient if is_known else None
        return raised[: len(signs)]

    def _shared(self) -> list[tuple[Tensor, int]]:
        """The buffers that are to be rank 0's, and how often each was changed."""
        own = (one for one in self._owners if not (isinstance(one, _BatchNorm) and one.training))
        return [(buffer, buffer._version) for one in own for buffer in one.buffers(recurse=False)]


def _same(buffers: Sequence[tuple[Tensor, int]], before: Sequence[tuple[Tensor, int]]) -> bool:
    """Whether none was changed in place, and none took another's place."""
    return len(buffers) == len(before) and all(
        one is other and version == earlier for (one, version), (other, earlier) in zip(buffers, before, strict=True)
    )


def _require_alike(module: nn.Module) -> None:
    own = [(name, tuple(one.shape), one.dtype) for name, one in (*module.named_parameters(), *module.named_buffers())]
    found = [own] * distributed.get_world_size()
    distributed.all_gather_object(found, own)
    if (other := next((rank for rank, one in enumerate(found) if one != found[0]), 0)) > 0:
        raise ConfigError(
            f"All processes must train the same parameters, got others in process {other + 1} than in process 1. "
            "Give the same command on every machine, with the same version and files."
        )


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
