"""Attention maps of a feature map: which cells and which channels are strong, relative to the rest of the image."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from detdistill.distillation.pair import Level, Pair


def spatial_attention(
    maps: Float[Tensor, "b c h w"], inside: Bool[Tensor, "b 1 h w"], *, temperature: float
) -> Float[Tensor, "b 1 h w"]:
    """How strong each cell is: N · softmax over inside cells of (mean over channels of |maps|) / temperature.

    Args:
        maps: feature maps; gradients flow, detach where a mask is wanted.
        inside: cells inside the image.
        temperature: the smaller, the sharper.

    Returns:
        Attention ≥ 0; over an image it sums to its number of inside cells, so its mean is 1; 0 in the padding.

    Source:
        Zhang and Ma, Improve Object Detection with Feature-based Knowledge Distillation, ICLR 2021.

    Differs from the source:
        Softmax and cell count leave padding out.
    """
    return _over_cells(maps.abs(), inside, temperature)


def channel_attention(
    maps: Float[Tensor, "b c h w"], inside: Bool[Tensor, "b 1 h w"], *, temperature: float
) -> Float[Tensor, "b c 1 1"]:
    """How strong each channel is: C · softmax over channels of (mean over inside cells of |maps|) / temperature.

    Args:
        maps: feature maps; gradients flow, detach where a mask is wanted.
        inside: cells inside the image.
        temperature: the smaller, the sharper.

    Returns:
        Attention ≥ 0; over an image's channels it sums to their number, so its mean is 1.

    Source:
        Zhang and Ma, Improve Object Detection with Feature-based Knowledge Distillation, ICLR 2021.

    Differs from the source:
        The mean leaves padding out.
    """
    return _over_channels(maps.abs(), inside, temperature)


def both_attentions(
    maps: Float[Tensor, "b c h w"], inside: Bool[Tensor, "b 1 h w"], *, temperature: float
) -> tuple[Float[Tensor, "b 1 h w"], Float[Tensor, "b c 1 1"]]:
    """`spatial_attention` and `channel_attention` of the same maps, whose absolute values are taken once.

    Source:
        Zhang and Ma, Improve Object Detection with Feature-based Knowledge Distillation, ICLR 2021.

    Differs from the source:
        As the two do.
    """
    absolute = maps.abs()
    return _over_cells(absolute, inside, temperature), _over_channels(absolute, inside, temperature)


def teachers_attentions(
    level: Level, pair: Pair, *, temperature: float
) -> tuple[Float[Tensor, "b 1 h w"], Float[Tensor, "b c 1 1"]]:
    """`both_attentions` of the teacher's feature maps, computed once a step.

    Source:
        Zhang and Ma, Improve Object Detection with Feature-based Knowledge Distillation, ICLR 2021.

    Differs from the source:
        As the two do.
    """
    return pair.once(
        (teachers_attentions, level.stride, temperature),
        lambda: both_attentions(level.teacher, level.inside, temperature=temperature),
    )


def _over_cells(
    absolute: Float[Tensor, "b c h w"], inside: Bool[Tensor, "b 1 h w"], temperature: float
) -> Float[Tensor, "b 1 h w"]:
    strength = absolute.mean(dim=1, keepdim=True) / temperature
    share = strength.masked_fill(~inside, -torch.inf).flatten(2).softmax(dim=2).nan_to_num(0.0).view_as(strength)
    return inside.sum(dim=(2, 3), keepdim=True) * share


def _over_channels(
    absolute: Float[Tensor, "b c h w"], inside: Bool[Tensor, "b 1 h w"], temperature: float
) -> Float[Tensor, "b c 1 1"]:
    return absolute.shape[1] * (inside_mean(absolute, inside) / temperature).softmax(dim=1)[:, :, None, None]


def inside_mean(maps: Float[Tensor, "b c h w"], inside: Bool[Tensor, "b 1 h w"]) -> Float[Tensor, "b c"]:
    """The mean over the cells inside the image; 0 where there is none.

    Args:
        maps: feature maps; gradients flow.
        inside: cells inside the image.

    Returns:
        One value per image and channel.

    Source:
        None: average pooling.

    Differs from the source:
        Padding is left out.
    """
    cells = inside.sum(dim=(2, 3)).clamp(min=1)
    return maps.masked_fill(~inside, 0.0).sum(dim=(2, 3)) / cells
