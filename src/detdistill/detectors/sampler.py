"""Which anchors and regions a two-stage detector learns from: drawn per image, from the image's own seed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from jaxtyping import Num, UInt8
from torch import Tensor

_BITS = (1 << 64) - 1


class Stream(IntEnum):
    """What a draw is for, so that two draws from one seed are independent."""

    ANCHORS = 1
    REGIONS = 2


def mixed_seed(seed: int, stream: Stream) -> int:
    """A seed whose every bit depends on every bit of `seed` and on the stream, in 0 .. 2⁶⁴ - 1.

    The CPU's generator reads the low 32 bits only, so that raw seeds that differ above would draw the same.
    The mixing is splitmix64's (Steele, Lea and Flood, 2014).
    """
    value = (seed * 0x9E3779B97F4A7C15 + int(stream) * 0xD1B54A32D192ED03) & _BITS
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _BITS
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _BITS
    return value ^ (value >> 31)


@dataclass(frozen=True, slots=True)
class SeededSampler:
    """Draws positives and negatives in a fixed proportion, as torchvision's sampler does, but from given seeds.

    An image draws the same in any batch, on any device and whatever the global generator did before.

    Attributes:
        seeds: one per image.
        stream: what the draw is for.
        count: how many to draw per image at most.
        positive_fraction: at most this share of them is positive.
    """

    seeds: tuple[int, ...]
    stream: Stream
    count: int
    positive_fraction: float

    def __call__(self, labels: list[Num[Tensor, " n"]]) -> tuple[list[UInt8[Tensor, " n"]], list[UInt8[Tensor, " n"]]]:
        """Masks of the positives and of the negatives that were drawn, one of each per image.

        Args:
            labels: per image: above 0 positive, 0 negative, below 0 neither.
        """
        positives, negatives = [], []
        for of_image, seed in zip(labels, self.seeds, strict=True):
            generator = torch.Generator().manual_seed(mixed_seed(seed, self.stream))
            wanted = int(self.count * self.positive_fraction)
            positive = _drawn(of_image >= 1, wanted, generator)
            positives.append(positive)
            negatives.append(_drawn(of_image == 0, self.count - int(positive.sum()), generator))
        return positives, negatives


def _drawn(candidates: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """A mask of `count` of the candidates, or of all where there are fewer."""
    indices = torch.where(candidates)[0]
    order = torch.randperm(len(indices), generator=generator)[:count]
    mask = torch.zeros_like(candidates, dtype=torch.uint8)
    mask[indices[order.to(indices.device)]] = 1
    return mask
