"""From a batch's pixels to what a backbone reads: normalised, with nothing in the padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from detdistill.types import Batch


def outside_image(batch: Batch) -> Bool[Tensor, "b 1 h w"] | None:
    """True at the padding pixels of each image; None where no image is padded."""
    height, width = batch.images.shape[-2:]
    if all(size == (height, width) for size in batch.sizes):
        return None
    device = batch.images.device
    sizes = torch.tensor(batch.sizes, device=device).view(-1, 2, 1, 1)
    below = torch.arange(height, device=device).view(1, height, 1) >= sizes[:, 0]
    right = torch.arange(width, device=device).view(1, 1, width) >= sizes[:, 1]
    return (below | right).unsqueeze(1)


class Normaliser(nn.Module):
    """A batch's pixels as a model reads them: (images − mean) / std per channel, then zero in the padding.

    Holds no weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(tuple(values)).view(3, 1, 1), persistent=False)

    def forward(self, batch: Batch) -> Float[Tensor, "b 3 h w"]:
        """Normalised images, channels last in memory: convolutions are faster so, on CPUs and on GPUs.

        Gradients flow to the pixels inside.
        """
        images = ((batch.images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        outside = outside_image(batch)
        return images if outside is None else images.masked_fill(outside, 0.0)
