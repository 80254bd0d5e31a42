"""GFL's head: class scores that stand for the box's quality, and a distribution over distances for every edge."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class GFLHead(nn.Module):
    """Reads a pyramid; the same weights on every level but for one learnt scale a level.

    Args:
        class_tower: keeps a level's shape, as `box_tower` does.
        bins: distances that an edge's distribution is over: 0, 1, ..., bins − 1 strides.
        class_prior: first score of every class.
        first_distance: mean of every edge's first distribution, in strides.
    """

    def __init__(
        self,
        class_tower: nn.Module,
        box_tower: nn.Module,
        *,
        channels: int,
        classes: int,
        bins: int,
        levels: int,
        class_prior: float,
        first_distance: float,
    ) -> None:
        super().__init__()
        self.bins = bins
        self.class_tower = class_tower
        self.box_tower = box_tower
        self.classes = nn.Conv2d(channels, classes, 3, padding=1)
        self.boxes = nn.Conv2d(channels, 4 * bins, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(levels))
        for layer, bias in (
            (self.classes, torch.tensor(math.log(class_prior / (1 - class_prior)))),
            (self.boxes, first_logits(bins, mean=first_distance).repeat(4)),
        ):
            nn.init.normal_(layer.weight, std=0.01)
            with torch.no_grad():
                layer.bias.copy_(bias)  # type: ignore[union-attr]

    def class_logits(self, levels: Sequence[Float[Tensor, "b c _h _w"]]) -> tuple[Float[Tensor, "b k _h _w"], ...]:
        """The class logits of every level."""
        return tuple(self.classes(self.class_tower(level)) for level in levels)

    def box_logits(self, levels: Sequence[Float[Tensor, "b c _h _w"]]) -> tuple[Float[Tensor, "b 4 bins _h _w"], ...]:
        """The logits over the distances of the left, top, right and bottom edges, of every level."""
        maps = (scale * self.boxes(self.box_tower(level)) for level, scale in zip(levels, self.scales, strict=True))
        return tuple(level.unflatten(1, (4, self.bins)) for level in maps)


def first_logits(bins: int, *, mean: float) -> Float[Tensor, " bins"]:
    """Logits that fall or rise evenly from bin to bin, with this mean of their distribution, in 0 to bins − 1."""
    positions = torch.arange(bins, dtype=torch.float64)
    low, high = -20.0, 20.0
    for _ in range(60):
        slope = (low + high) / 2
        if float((positions * (slope * positions).softmax(dim=0)).sum()) < mean:
            low = slope
        else:
            high = slope
    return (slope * (positions - positions.mean())).float()
