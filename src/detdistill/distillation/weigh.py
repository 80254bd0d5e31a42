"""HOW MUCH each image and level counts; a weight sits outside every term, so it wraps any recipe."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from jaxtyping import Float
from torch import Tensor

from detdistill.types import Knowledge, Need, Observation


class Features(Enum):
    """Whose features the teacher's heads read for the observation that a weight is taken from."""

    TEACHER = "teacher"
    STUDENT = "student"


class Weigh(ABC):
    """A weight ≥ 0 per image and stride, from what the teacher showed on the clean view.

    Attributes:
        needs: what it reads of that observation.
        features: whose features the teacher's heads read for it.
    """

    needs: frozenset[Need]
    features: Features = Features.TEACHER

    @abstractmethod
    def __call__(
        self, teacher: Observation, strides: Sequence[int | None], *, knowledge: Knowledge
    ) -> Float[Tensor, "b l"]:
        """The weight of every image and stride. No gradient flows.

        Args:
            teacher: clean observation of the teacher's heads.
            strides: the columns of the cost; None is a column that belongs to no level.
            knowledge: what the cost carries.
        """


class Choice(ABC):
    """Which of several teachers is followed, per image and stride, from what they showed on the clean view.

    Attributes:
        needs: what it reads of each observation.
    """

    needs: frozenset[Need]

    @abstractmethod
    def __call__(
        self, teachers: Sequence[Observation], strides: Sequence[Sequence[int | None]], *, knowledge: Knowledge
    ) -> tuple[Float[Tensor, "b _l"], ...]:
        """The share of every teacher, in [0, 1]; on a stride those of all that have it add up to 1. No gradient.

        Args:
            teachers: clean observations of each.
            strides: the columns of each one's cost.
            knowledge: what the costs carry.
        """


@dataclass(frozen=True, slots=True)
class MeanOf:
    """The plan of a weight: the mean of another one over the training images, once it has been measured.

    It weighs nothing itself; `with_constant_weights` puts what it stands for in its place.

    Attributes:
        weigh: the weight whose mean is wanted; it must read the teacher's own features.
    """

    weigh: Weigh


@dataclass(frozen=True, slots=True)
class SpreadTo:
    """The plan of a weight that falls with a loss, so fast that the weights of the training images differ.

    It weighs nothing itself; `with_spread_weights` puts what it stands for in its place.

    Attributes:
        at: the weight whose number alpha is this.
        spread: the standard deviation over the training images that is wanted.
        mean: whether its mean over them is wanted then, as of `MeanOf`.
    """

    at: Callable[[float], Weigh]
    spread: float
    mean: bool = False
