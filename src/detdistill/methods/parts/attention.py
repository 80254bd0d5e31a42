"""Attention maps of a feature map: which cells and which channels are strong, relative to the rest of the image."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from detdistill.distillation.pair import Level, Pair

Cells = Float[Tensor, "b 1 h w"]
Channels = Float[Tensor, "b c 1 1"]


def attentions(
    maps: Float[Tensor, "b c h w"], inside: Bool[Tensor, "b 1 h w"], *, temperature: float, padded: bool = True
) -> tuple[Cells, Channels]:
    """How strong each cell and each channel is.

    N · softmax over inside cells of (mean over channels of |maps|) / temperature, and
    C · softmax over channels of (mean over inside cells of |maps|) / temperature.

    Args:
        maps: feature maps; gradients flow, detach where a mask is wanted.
        inside: cells inside the image.
        temperature: the smaller, the sharper.
        padded: whether there are other cells.

    Returns:
        Attentions ≥ 0. Over an image they sum to the number of its inside cells and of its channels, so their mean is
        1; cells in the padding are 0.

    Source:
        Zhang and Ma, Improve Object Detection with Feature-based Knowledge Distillation, ICLR 2021.

    Differs from the source:
        Softmax, mean and cell count leave padding out.
    """
    absolute = maps.abs()
    strength = absolute.mean(dim=1, keepdim=True) / temperature
    means = inside_mean(absolute, inside) if padded else absolute.mean(dim=(2, 3))
    strength = strength.masked_fill(~inside, -torch.inf) if padded else strength
    share = strength.flatten(2).softmax(dim=2).nan_to_num(0.0).view_as(strength)
    cells = inside.sum(dim=(2, 3), keepdim=True) * share
    channels = maps.shape[1] * (means / temperature).softmax(dim=1)
    return cells, channels[:, :, None, None]


def teachers_attentions(level: Level, pair: Pair, *, temperature: float) -> tuple[Cells, Channels]:
    """The `attentions` of the teacher's feature maps, computed once a step."""
    return pair.once(
        (teachers_attentions, level.stride, level.standardized, temperature),
        lambda: attentions(level.teacher, level.inside, temperature=temperature, padded=level.padded),
    )


def inside_mean(maps: Float[Tensor, "b c h w"], inside: Bool[Tensor, "b 1 h w"]) -> Float[Tensor, "b c"]:
    """The mean over the cells inside the image; 0 where there is none. Gradients flow."""
    cells = inside.sum(dim=(2, 3)).clamp(min=1)
    return maps.masked_fill(~inside, 0.0).sum(dim=(2, 3)) / cells
