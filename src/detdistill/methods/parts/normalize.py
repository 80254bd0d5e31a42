"""What a cost is divided by. Each returns one number ≥ 0 per image, so that an image means the same in any batch.

`cost` is the cost times the mask, and gradients flow through it; `mask` is 0 outside; `inside` are the cells inside the
image. Padding costs nothing.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Costs = Float[Tensor, "b c h w"]
Mask = Float[Tensor, "b 1 h w"]
Inside = Bool[Tensor, "b 1 h w"]
Whole = Float[Tensor, " b"]
_TINY = torch.finfo(torch.float32).tiny


def plain_sum(cost: Costs, mask: Mask, inside: Inside) -> Whole:
    """The sum over channels and cells, divided by nothing."""
    del mask, inside
    return cost.sum(dim=(1, 2, 3))


def by_cells(cost: Costs, mask: Mask, inside: Inside) -> Whole:
    """The mean over channels and inside cells, Σ cost / (c · number of inside cells); 0 where there are none."""
    cells = inside.flatten(1).sum(1).clamp(min=1)
    return plain_sum(cost, mask, inside) / (cost.shape[1] * cells)


def by_mask_sum(cost: Costs, mask: Mask, inside: Inside) -> Whole:
    """The sum over channels, averaged over cells with the mask as weight: Σ cost / Σ mask; 0 without a mask."""
    return plain_sum(cost, mask, inside) / mask.flatten(1).sum(1).clamp(min=_TINY)


def by_batch_mask_sum(cost: Costs, mask: Mask, inside: Inside) -> Whole:
    """Like `by_mask_sum`, with the mask's mass over the whole batch: the images are coupled, as in FRS's source.

    The mean over the batch is Σ cost / Σ mask.
    """
    return plain_sum(cost, mask, inside) * (cost.shape[0] / mask.sum().clamp(min=_TINY))
