"""Gradients of a part of a step by parameters, beside the one that is trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn


def added_gradients(loss: Tensor, parameters: Sequence[Tensor], before: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradients of a loss by parameters, added to those before; the graph stays."""
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return [new if old is None else old if new is None else old + new for old, new in zip(before, found, strict=True)]


def mean_norm(gradients: Sequence[Tensor | None], *, ranks: int) -> float | None:
    """Norm of a gradient by parameters, the mean over all ranks; None where it was not computed."""
    found = [one for one in gradients if one is not None]
    if not found:
        return None
    return float(nn.utils.get_total_norm(found if ranks == 1 else means(found, ranks=ranks)))


def means(tensors: Sequence[Tensor], *, ranks: int) -> list[Tensor]:
    """The means over all ranks of tensors that each of them has, in one message, which all must take part in."""
    message = torch.cat([one.flatten() for one in tensors]).mul_(1 / ranks)
    distributed.all_reduce(message)
    found = torch.split(message, [one.numel() for one in tensors])
    return [mean.view(one.shape) for mean, one in zip(found, tensors, strict=True)]
