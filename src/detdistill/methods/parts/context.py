"""Global context: one vector that sums an image's map up, transformed and added to every cell."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class ContextBlock(nn.Module):
    """Adds what the whole image says to every cell: maps + transform(Σ over cells of softmax(score) · maps).

    The transform is Linear(c → c/2), LayerNorm, ReLU, Linear(c/2 → c); its last layer starts at zero, so at first
    the block changes nothing, and in the first step only that layer gets a gradient.

    Args:
        channels: channels of the maps.

    Source:
        Cao et al., GCNet, ICCV workshops 2019, as used by Yang et al., Focal and Global Knowledge Distillation for
        Detectors (FGD), CVPR 2022, section 3.2.

    Differs from the source:
        The softmax leaves padding out. The score has no bias, which the softmax would cancel. PyTorch's default
        initialisation where the source's is Kaiming's, the last layer aside.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(1, channels // 2)
        self.score = nn.Conv2d(channels, 1, 1, bias=False)
        self.reduce = nn.Linear(channels, narrow)
        self.norm = nn.LayerNorm(narrow)
        self.expand = nn.Linear(narrow, channels)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)

    def forward(
        self, maps: Float[Tensor, "b c h w"], inside: Bool[Tensor, "b 1 h w"], *, padded: bool = True
    ) -> Float[Tensor, "b c h w"]:
        """The maps with their own context added.

        Args:
            maps: feature maps; gradients flow.
            inside: cells inside the image; at least one each.
            padded: whether there are other cells.

        Returns:
            Maps of the same shape, 0 in the padding.
        """
        maps = maps.masked_fill(~inside, 0.0) if padded else maps
        score = self.score(maps)
        score = score.masked_fill(~inside, -torch.inf) if padded else score
        share = score.flatten(2).softmax(dim=2)
        context = (maps.flatten(2) @ share.mT).squeeze(2)
        added: Tensor = self.expand(self.norm(self.reduce(context)).relu())
        whole = maps + added[:, :, None, None]
        return whole.masked_fill(~inside, 0.0) if padded else whole
