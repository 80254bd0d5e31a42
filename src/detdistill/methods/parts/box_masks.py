"""WHERE the objects are: masks (b, 1, h, w) ≥ 0 from the ground-truth boxes, one per level. No gradient flows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from detdistill.methods.parts.focus import inside_cells
from detdistill.types import Batch, Observation, Pyramid, Targets


def box_mask(targets: Targets, stride: int, *, grid: tuple[int, int]) -> Float[Tensor, "h w"]:
    """1 / (number of cells of the box) at every cell of a box; where boxes overlap the smallest one wins.

    A box covers the cells floor(x1 / stride) to ceil(x2 / stride) and floor(y1 / stride) to ceil(y2 / stride), both
    ends included, so every object weighs about 1 whatever its size. Cells beyond the grid count in the number.

    Args:
        targets: ground truth of one image, boxes in pixels of the padded batch image.
        stride: the level's nominal stride in pixels.
        grid: cells of the level, (h, w).

    Returns:
        Values in [0, 1]; 0 outside the boxes. Ignored boxes are as if they were not there.

    Source:
        Yang et al., Focal and Global Knowledge Distillation for Detectors (FGD), CVPR 2022, section 3.1.

    Differs from the source:
        Boxes are divided by the nominal stride; the source stretches them by the ratio of the padded map to the
        unpadded image, which shifts them on padded images.
    """
    first = (targets.boxes[:, :2] / stride).floor()
    last = (targets.boxes[:, 2:] / stride).ceil()
    worth = (1 / (last + 1 - first).prod(dim=1)).masked_fill(targets.ignored, 0.0)
    rows = torch.arange(grid[0], device=worth.device)
    columns = torch.arange(grid[1], device=worth.device)
    high = (rows >= first[:, 1:]) & (rows <= last[:, 1:])
    wide = (columns >= first[:, :1]) & (columns <= last[:, :1])
    covered = high[:, :, None] & wide[:, None, :]
    # One empty layer in front: an image without boxes has a maximum too.
    return F.pad(covered * worth[:, None, None], (0, 0, 0, 0, 1, 0)).amax(dim=0)


def foreground(teacher: Observation, batch: Batch) -> Pyramid:
    """What each cell's object shares out: see `box_mask`; 0 in the padding.

    Args:
        teacher: gives the grid of every level.
        batch: gives the image sizes and the boxes.

    Returns:
        Masks (b, 1, h, w) in [0, 1] on the teacher's levels; all 0 for an image without boxes.

    Source:
        Yang et al., Focal and Global Knowledge Distillation for Detectors (FGD), CVPR 2022, section 3.1.

    Differs from the source:
        Cells in the padding are 0; see also `box_mask`.
    """
    levels = []
    for level, stride in zip(teacher.pyramid.levels, teacher.pyramid.strides, strict=True):
        grid = (level.shape[-2], level.shape[-1])
        boxes = torch.stack([box_mask(targets, stride, grid=grid) for targets in batch.targets])[:, None]
        levels.append(boxes * inside_cells(batch.sizes, stride, grid=grid, device=level.device))
    return Pyramid(levels=tuple(levels), strides=teacher.pyramid.strides)


def background(teacher: Observation, batch: Batch) -> Pyramid:
    """1 / (number of such cells) at every cell of the image that no box covers; 0 elsewhere and in the padding.

    Args:
        teacher: gives the grid of every level.
        batch: gives the image sizes and the boxes.

    Returns:
        Masks (b, 1, h, w) on the teacher's levels that sum to 1 per image, or to 0 where boxes cover all of it.

    Source:
        Yang et al., Focal and Global Knowledge Distillation for Detectors (FGD), CVPR 2022, section 3.1.

    Differs from the source:
        Cells in the padding are 0 and not counted. As in the source, what an ignored box covers is background
        unless another box covers it.
    """
    levels = []
    boxes = foreground(teacher, batch)
    for mask, stride in zip(boxes.levels, boxes.strides, strict=True):
        inside = inside_cells(batch.sizes, stride, grid=(mask.shape[-2], mask.shape[-1]), device=mask.device)
        free = inside & (mask == 0)
        levels.append(free / free.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1))
    return Pyramid(levels=tuple(levels), strides=boxes.strides)
