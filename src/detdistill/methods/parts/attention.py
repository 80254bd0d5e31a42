"""Attention maps of a feature map: which cells and which channels are strong, relative to the rest of the image."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    cells, channels = _Attentions.apply(maps, inside if padded else None, temperature)
    return cells, channels


class _Attentions(torch.autograd.Function):
    """With a = N softmax(z), z means of |x| / t over n values, the gradient is sign(x) a (g − Σ g a / N) / (t n)."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, inside: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
        absolute = maps.abs()
        strength = absolute.mean(dim=1, keepdim=True) / temperature
        number: Tensor | int = strength[0].numel()
        if inside is None:
            means = absolute.mean(dim=(2, 3))
            share = strength.flatten(2).softmax(dim=2)
        else:
            number = inside.sum(dim=(2, 3), keepdim=True)
            means = inside_mean(absolute, inside)
            share = strength.masked_fill_(~inside, -torch.inf).flatten(2).softmax(dim=2).nan_to_num_(0.0)
        cells = number * share.view_as(strength)
        channels = maps.shape[1] * (means / temperature).softmax(dim=1)[:, :, None, None]
        ctx.number, ctx.temperature = number, temperature
        ctx.save_for_backward(maps, inside, cells, channels)
        return cells, channels

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_cells: Tensor, of_channels: Tensor) -> tuple[Tensor, None, None]:
        maps, inside, cells, channels = ctx.saved_tensors
        number, width = ctx.number, maps.shape[1]
        if isinstance(number, Tensor):
            number = number.clamp(min=1)
        mean = (of_cells * cells).sum(dim=(2, 3), keepdim=True) / number
        strengths = (of_cells - mean) * cells / (ctx.temperature * width)
        mean = (of_channels * channels).sum(dim=1, keepdim=True) / width
        means = (of_channels - mean) * channels / (ctx.temperature * number)
        slopes = strengths + means
        if inside is not None:
            slopes.masked_fill_(~inside, 0.0)
        return slopes.mul_(maps.sign()), None, None


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
