"""GFL's training losses, cell by cell, in their published strengths: class quality, box overlap, edge distributions."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

QUALITY_GAIN = 1.0
BOX_GAIN = 2.0
DISTRIBUTION_GAIN = 0.25
# The farthest distance that is learnt stays this short of the last bin, so that it always lies between two bins.
_MARGIN = 0.1


def expected_distances(logits: Float[Tensor, "*p bins"]) -> Float[Tensor, "*p"]:
    """The mean of each edge's distribution over 0, 1, ..., bins − 1, in strides. Gradients flow."""
    positions = torch.arange(logits.shape[-1], device=logits.device, dtype=logits.dtype)
    return (logits.softmax(dim=-1) * positions).sum(dim=-1)


def quality_focal_cells(
    logits: Float[Tensor, "b n k"],
    quality: Float[Tensor, " p"],
    *,
    own: tuple[Int64[Tensor, " p"], Int64[Tensor, " p"], Int64[Tensor, " p"]],
) -> Float[Tensor, "b n"]:
    """The quality focal loss of every cell, summed over classes.

    cost = (y − p)² · BCE(p, y), where p is the score and y the box's quality at a positive's own class, else 0.

    Args:
        logits: gradients flow, through the factor (y − p)² too.
        quality: overlap (IoU) of each positive's box with its object, in [0, 1]; constant.
        own: image, cell and class of each positive.
    """
    return quality_focal_costs(logits, torch.zeros_like(logits).index_put(own, quality.detach())).sum(dim=2)


def quality_focal_costs(logits: Float[Tensor, "*p k"], wanted: Float[Tensor, "*p k"]) -> Float[Tensor, "*p k"]:
    """The same of every class alone, of which the quality `wanted` is given. Gradients flow to the logits."""
    costs = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return QUALITY_GAIN * ((wanted - logits.sigmoid()).square() * costs)


def overlap_costs(generalised: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
    """The box loss of every positive, 1 − GIoU, in [0, 4] with its gain of 2."""
    return BOX_GAIN * (1 - generalised)


def distribution_focal_costs(logits: Float[Tensor, "p 4 bins"], distances: Float[Tensor, "p 4"]) -> Float[Tensor, " p"]:
    """The distribution focal loss of every positive, mean over its edges. Gradients flow to the logits.

    cost = −((j + 1 − d) · log q_j + (d − j) · log q_{j+1}), where the true distance d, in strides, lies between bins
    j and j + 1; one beyond the bins is taken as the last one's, less 0.1.
    """
    distances = distances.clamp(0, logits.shape[-1] - 1 - _MARGIN)
    lower = distances.floor()
    logs = logits.log_softmax(dim=-1)
    below = logs.gather(-1, lower.long()[..., None])[..., 0]
    above = logs.gather(-1, lower.long()[..., None] + 1)[..., 0]
    return -DISTRIBUTION_GAIN * ((lower + 1 - distances) * below + (distances - lower) * above).mean(dim=-1)
