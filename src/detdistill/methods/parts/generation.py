"""Masked generation: cells of a map are dropped, and a small network must paint the teacher's map from the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from detdistill.distillation.pair import inside_cells
from detdistill.types import sent


def kept_cells(
    seeds: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    stride: int,
    *,
    grid: tuple[int, int],
    drop: float,
    device: torch.device,
) -> Bool[Tensor, "b 1 h w"]:
    """Which cells a random mask keeps: each inside cell is dropped on its own, for all channels together.

    An image's mask depends on its seed, its size, the stride and `drop` alone: it is the same in any batch, on any
    padded grid and on any device.

    Args:
        seeds: one per image, in [0, 2**63), already different from level to level.
        sizes: height and width in pixels of each image inside the padded grid.
        stride: the level's nominal stride in pixels.
        grid: cells of the level, (h, w).
        drop: probability in [0, 1] that a cell is dropped.
        device: where the mask is returned.

    Returns:
        True where a cell is inside the image and kept.

    Source:
        Yang et al., Masked Generative Distillation (MGD), ECCV 2022.

    Differs from the source:
        Drawn from a seed per image instead of the global random state.
    """
    kept = inside_cells(sizes, stride, grid=grid, device=torch.device("cpu"))
    for image, size, seed in zip(kept[:, 0], sizes, seeds, strict=True):
        rows, columns = (min(cells, math.ceil(side / stride)) for cells, side in zip(grid, size, strict=True))
        generator = torch.Generator().manual_seed(seed)
        image[:rows, :columns] = torch.rand(rows, columns, generator=generator) >= drop
    return sent(kept, device)


class Generation(nn.Module):
    """Paints a whole map from a masked one: Conv3×3, ReLU, Conv3×3, PyTorch's default initialisation.

    Args:
        channels: channels of the maps, unchanged.

    Source:
        Yang et al., Masked Generative Distillation (MGD), ECCV 2022.

    Differs from the source:
        Between the convolutions the padding is zeroed, as if the image's border were the map's.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(
        self, maps: Float[Tensor, "b c h w"], kept: Bool[Tensor, "b 1 h w"], inside: Bool[Tensor, "b 1 h w"]
    ) -> Float[Tensor, "b c h w"]:
        """The painted maps.

        Args:
            maps: feature maps; gradients flow at the kept cells.
            kept: cells that are seen, all of them inside; the others enter as zeros.
            inside: cells inside the image.

        Returns:
            Maps of the same shape; meaningless in the padding.
        """
        hidden = self.first(maps.masked_fill(~kept, 0.0)).relu()
        painted: Tensor = self.second(hidden.masked_fill(~inside, 0.0))
        return painted
