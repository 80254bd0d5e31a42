"""Makers of twins whose work can be kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from detdistill.detectors.frozen import FrozenTeacher
from detdistill.types import Batch


class RepeatableMaker(ABC):
    """A maker of twins that can be kept: an image's twin depends on image, teacher and `identity` alone."""

    @abstractmethod
    def __call__(self, teacher: FrozenTeacher, batch: Batch) -> Float[Tensor, "b 3 h w"]:
        """The twins of a batch, on its own grid, in [0, 1]."""

    @abstractmethod
    def identity(self) -> Mapping[str, str | int | float]:
        """Everything that a twin depends on beside image and teacher."""
