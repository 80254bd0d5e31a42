"""From a batch's pixels to what a backbone reads: normalised, with nothing in the padding."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, arange, channels_last, tensor

from detdistill.types import Batch


def outside_image(batch: Batch) -> Bool[Tensor, "b 1 h w"] | None:
    """True at the padding pixels of each image; None where no image is padded."""
    height, width = batch.images.shape[-2:]
    if all(size == (height, width) for size in batch.sizes):
        return None
    device = batch.images.device
    sizes = tensor(batch.sizes, device=device).view(-1, 2, 1, 1)
    below = arange(height, device=device).view(1, height, 1) >= sizes[:, 0]
    right = arange(width, device=device).view(1, 1, width) >= sizes[:, 1]
    return (below | right).unsqueeze(1)


def normalise(batch: Batch, *, mean: Float[Tensor, "3 1 1"], std: Float[Tensor, "3 1 1"]) -> Float[Tensor, "b 3 h w"]:
    """(images − mean) / std, then zero outside each image's own size, as torchvision pads.

    Args:
        batch: images in [0, 1]; gradients flow to the pixels inside, the padding's values never matter.
        mean: per channel.
        std: per channel.

    Returns:
        Normalised images, channels last in memory: convolutions are faster so, on CPUs and on GPUs.
    """
    images = ((batch.images - mean) / std).contiguous(memory_format=channels_last)
    outside = outside_image(batch)
    return images if outside is None else images.masked_fill(outside, 0.0)
