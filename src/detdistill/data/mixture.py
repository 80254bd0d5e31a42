"""In which order the images of several sets are drawn, where the sets have weights of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch

from detdistill.random import draw_seed

# Apart from the seeds of plain epochs, (seed, epoch), and of samples, (seed, epoch, index, ...).
_PASS_STREAM = 7


@final
@dataclass(frozen=True)
class Mixture:
    """An endless order of images of several sets, a function of the seed and the place in it alone.

    An image is drawn in proportion to its set's weight, whatever the set's size: twice the weight, twice as often.
    Every set is gone through in whole passes, each shuffled, so that after each epoch its images were drawn equally
    often, or some once more. An epoch is about as many draws as there are images, those of all sets shuffled.

    Attributes:
        sizes: images of every set; they follow each other in the data.
        weights: of every set; only their ratios count.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    seed: int

    @cached_property
    def _rates(self) -> tuple[float, ...]:
        """Passes over each set in an epoch."""
        mean = sum(size * weight for size, weight in zip(self.sizes, self.weights, strict=True)) / sum(self.sizes)
        return tuple(weight / mean for weight in self.weights)

    def _before(self, epoch: int) -> list[int]:
        """How many draws of every set lie before an epoch."""
        return [math.floor(size * rate * epoch) for size, rate in zip(self.sizes, self._rates, strict=True)]

    def epoch_of(self, position: int) -> tuple[int, list[tuple[int, int]]]:
        """The epoch that a draw belongs to: the position of its first draw, and its draws.

        Each draw says which pass over its set it belongs to, and which image it is.
        """
        epoch = position // sum(self.sizes)
        # Rounded down, the epochs are a little shorter than that.
        while sum(self._before(epoch + 1)) <= position:
            epoch += 1
        return sum(self._before(epoch)), self._draws(epoch)

    def _draws(self, epoch: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        start = 0
        for number, (size, first, last) in enumerate(
            zip(self.sizes, self._before(epoch), self._before(epoch + 1), strict=True)
        ):
            for whole in range(first // size, -(-last // size)):
                order = self._shuffled(size, number, whole)
                taken = order[max(first - whole * size, 0) : last - whole * size]
                found += [(whole, start + index) for index in taken]
            start += size
        places = self._shuffled(len(found), epoch)
        return [found[place] for place in places]

    def _shuffled(self, size: int, *numbers: int) -> Sequence[int]:
        generator = torch.Generator().manual_seed(draw_seed(self.seed, *numbers, len(numbers), _PASS_STREAM, 0))
        order: list[int] = torch.randperm(size, generator=generator).tolist()
        return order
