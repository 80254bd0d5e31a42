"""Grey images and their boxes, each of a class of its own, for tests of what augmentation does to both."""

from __future__ import annotations

import torch

from detdistill.types import Targets


def targets_of(*boxes: tuple[float, float, float, float]) -> Targets:
    return Targets(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.arange(len(boxes)),
        ignored=torch.zeros(len(boxes), dtype=torch.bool),
    )


def grey_image(height: int, width: int) -> torch.Tensor:
    return torch.full((3, height, width), 40, dtype=torch.uint8)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
