"""What a cost is divided by. Each returns one number per image, so that an image means the same in any batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Normalize = Callable[[Tensor, Tensor, Tensor], Tensor]
_TINY = torch.finfo(torch.float32).tiny


def plain_sum(
    cost: Float[Tensor, "b c h w"], mask: Float[Tensor, "b 1 h w"], inside: Bool[Tensor, "b 1 h w"]
) -> Float[Tensor, " b"]:
    """The sum over channels and cells, divided by nothing.

    Args:
        cost: cost times mask; gradients flow.
        mask: not used.
        inside: not used; the mask is 0 outside.

    Returns:
        One value ≥ 0 per image.
    """
    del mask, inside
    return cost.flatten(1).sum(1)


def by_cells(
    cost: Float[Tensor, "b c h w"], mask: Float[Tensor, "b 1 h w"], inside: Bool[Tensor, "b 1 h w"]
) -> Float[Tensor, " b"]:
    """The mean over channels and cells inside the image: Σ cost / (c · number of inside cells).

    Args:
        cost: cost times mask; gradients flow.
        mask: not used.
        inside: cells inside the image.

    Returns:
        One value ≥ 0 per image; 0 for an image without inside cells.
    """
    cells = inside.flatten(1).sum(1).clamp(min=1)
    return plain_sum(cost, mask, inside) / (cost.shape[1] * cells)


def by_mask_sum(
    cost: Float[Tensor, "b c h w"], mask: Float[Tensor, "b 1 h w"], inside: Bool[Tensor, "b 1 h w"]
) -> Float[Tensor, " b"]:
    """The sum over channels, averaged over cells with the mask as weight: Σ cost / Σ mask, each image alone.

    Args:
        cost: cost times mask; gradients flow.
        mask: the mask the cost was multiplied with.
        inside: not used; the mask is 0 outside.

    Returns:
        One value ≥ 0 per image; 0 where the mask vanishes.
    """
    return plain_sum(cost, mask, inside) / mask.flatten(1).sum(1).clamp(min=_TINY)


def by_batch_mask_sum(
    cost: Float[Tensor, "b c h w"], mask: Float[Tensor, "b 1 h w"], inside: Bool[Tensor, "b 1 h w"]
) -> Float[Tensor, " b"]:
    """Like `by_mask_sum`, with the mask's mass over the whole batch: the images are coupled, as in FRS's source.

    Args:
        cost: cost times mask; gradients flow.
        mask: the mask the cost was multiplied with.
        inside: not used; the mask is 0 outside.

    Returns:
        One value ≥ 0 per image whose mean over the batch is Σ cost / Σ mask.
    """
    return plain_sum(cost, mask, inside) * (cost.shape[0] / mask.sum().clamp(min=_TINY))
