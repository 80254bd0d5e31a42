"""Anchors on the nominal strides of a pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList


class NominalAnchors(AnchorGenerator):  # type: ignore[misc]
    """torchvision's anchors, spaced by the pyramid's nominal strides and always in float32.

    torchvision's own generator spaces them by image size // grid size, which is 53 instead of 64 where an image
    of 160 pixels has three cells, and computes them in the feature maps' dtype, which is too coarse in bfloat16.

    Args:
        sizes: anchor sizes in pixels, one tuple per level.
        aspect_ratios: heights / widths, one tuple per level.
        strides: pixels per cell of every level.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[Sequence[float]],
        *,
        strides: Sequence[int],
    ) -> None:
        super().__init__(tuple(map(tuple, sizes)), tuple(map(tuple, aspect_ratios)))
        self.strides = tuple(strides)

    def anchors(self, grids: Sequence[tuple[int, int]], *, device: torch.device) -> tuple[Float[Tensor, "_n 4"], ...]:
        """The anchors of every level in pixels, in the order row, column, anchor.

        Args:
            grids: rows and columns of every level.
            device: where to make them.
        """
        levels = []
        for (rows, columns), stride, cell in zip(grids, self.strides, self.cell_anchors, strict=True):
            y, x = torch.meshgrid(
                torch.arange(rows, device=device) * stride,
                torch.arange(columns, device=device) * stride,
                indexing="ij",
            )
            corner = torch.stack((x, y, x, y), dim=-1).reshape(-1, 1, 4)
            levels.append((corner + cell.to(device)).reshape(-1, 4))
        return tuple(levels)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Float[Tensor, "_n 4"]]:
        """torchvision's interface: the anchors of all levels in one row, once per image."""
        grids = [(level.shape[-2], level.shape[-1]) for level in feature_maps]
        together = torch.cat(self.anchors(grids, device=feature_maps[0].device))
        return [together] * len(image_list.image_sizes)
