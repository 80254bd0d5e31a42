"""WHERE it counts: masks (b, 1, h, w) ≥ 0 from what the teacher showed, one per level. No gradient flows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from detdistill.errors import CapabilityError
from detdistill.types import Batch, Observation, Pyramid


def inside_cells(
    sizes: Sequence[tuple[int, int]], stride: int, *, grid: tuple[int, int], device: torch.device
) -> Bool[Tensor, "b 1 h w"]:
    """Which cells of a level lie inside their image rather than in the padding.

    A cell is inside iff ``y · stride < height`` and ``x · stride < width``.

    Args:
        sizes: height and width in pixels of each image inside the padded grid.
        stride: the level's nominal stride in pixels.
        grid: cells of the level, (h, w).
        device: where the mask is made.

    Returns:
        True inside, False in the padding.
    """
    extent = torch.tensor(sizes, device=device).reshape(-1, 2)
    rows = torch.arange(grid[0], device=device) * stride < extent[:, :1]
    columns = torch.arange(grid[1], device=device) * stride < extent[:, 1:]
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def inside_image(teacher: Observation, batch: Batch) -> Pyramid:
    """1 at every cell inside the image, 0 in the padding: the default focus.

    Args:
        teacher: gives the grid of every level.
        batch: gives the image sizes.

    Returns:
        Masks (b, 1, h, w) of 0 and 1 on the teacher's levels.
    """
    levels = tuple(
        inside_cells(batch.sizes, stride, grid=_grid(level), device=level.device).float()
        for level, stride in zip(teacher.pyramid.levels, teacher.pyramid.strides, strict=True)
    )
    return Pyramid(levels=levels, strides=teacher.pyramid.strides)


def richness(teacher: Observation, batch: Batch) -> Pyramid:
    """The teacher's highest class score at every cell: where it sees something rich in content.

    M = max over anchors and classes of sigmoid(teacher logits), and 0 in the padding.

    Args:
        teacher: must hold class logits (sigmoid classes or RPN objectness).
        batch: gives the image sizes.

    Returns:
        Masks (b, 1, h, w) in [0, 1) on the levels of the class logits, detached.

    Raises:
        CapabilityError: the teacher showed no class logits.

    Source:
        Du et al., Distilling Object Detectors with Feature Richness, NeurIPS 2021 (FRS), section 3.

    Differs from the source:
        Cells in the padding are 0; the source counts them.
    """
    logits = teacher.class_logits
    if logits is None:
        raise CapabilityError(
            "The teacher's observation must hold class logits for the feature richness, got none. "
            "Use a teacher with dense class scores, or a method without a score mask such as 'ssim'."
        )
    levels = []
    for level, stride in zip(logits.levels, logits.strides, strict=True):
        inside = inside_cells(batch.sizes, stride, grid=_grid(level), device=level.device)
        highest = level.detach().float().amax(dim=(1, 2)).sigmoid()[:, None]
        levels.append(highest * inside)
    return Pyramid(levels=tuple(levels), strides=logits.strides)


def _grid(level: Tensor) -> tuple[int, int]:
    return level.shape[-2], level.shape[-1]
