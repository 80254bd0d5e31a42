"""HOW MUCH each image and level counts; a weight sits outside every term, so it wraps any recipe."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Float
from torch import Tensor

from detdistill.detectors.frozen import FrozenTeacher
from detdistill.errors import CapabilityError
from detdistill.types import Batch, Knowledge, Need, Observation

if TYPE_CHECKING:
    from detdistill.distillation.recipe import Recipe


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


@final
class ConstantWeigh(Weigh):
    """One weight per stride and knowledge, the same for every image: the control of an adaptive weight.

    Args:
        weights: by knowledge and stride.
    """

    def __init__(self, weights: Mapping[tuple[Knowledge, int | None], float]) -> None:
        self.needs = frozenset[Need]()
        self.weights = dict(weights)

    def __call__(
        self, teacher: Observation, strides: Sequence[int | None], *, knowledge: Knowledge
    ) -> Float[Tensor, "b l"]:
        """The same row for every image."""
        level = teacher.pyramid.levels[0]
        row = torch.tensor([self.weights[knowledge, stride] for stride in strides], device=level.device)
        return row.expand(level.shape[0], -1)


@final
class MeanOf(Weigh):
    """Stands for the mean of another weight over the training images until `with_constant_weights` has measured it.

    Args:
        weigh: the weight whose mean is wanted; it must read the teacher's own features.
    """

    def __init__(self, weigh: Weigh) -> None:
        self.needs = frozenset[Need]()
        self.weigh = weigh

    def __call__(
        self, teacher: Observation, strides: Sequence[int | None], *, knowledge: Knowledge
    ) -> Float[Tensor, "b l"]:
        """Cannot weigh yet.

        Raises:
            CapabilityError: always.
        """
        del teacher, strides, knowledge
        raise CapabilityError(
            "A constant weight must be measured before it is used, got one that was not. "
            "Pass the recipe through with_constant_weights(recipe, teacher, batches) first."
        )


@dataclass(slots=True)
class _Sums:
    total: Float[Tensor, " l"] | None = None
    images: int = 0


def with_constant_weights(recipe: Recipe, teacher: FrozenTeacher, batches: Iterable[Batch]) -> Recipe:
    """Replaces every `MeanOf` of a recipe by the constants that it stands for.

    Args:
        recipe: returned as it is where it holds none; the teacher then looks at nothing.
        teacher: observes every batch once.
        batches: the training images without augmentation, on the teacher's device.

    Returns:
        The recipe with `ConstantWeigh` in their place: per stride and knowledge the mean over all images.
    """
    waiting = {weighted.weigh: weighted.weigh.weigh for weighted in recipe.terms if isinstance(weighted.weigh, MeanOf)}
    if not waiting:
        return recipe
    needs = frozenset[Need]().union(*(weigh.needs for weigh in waiting.values()))
    columns: tuple[int | None, ...] = (*teacher.spec.pyramid.strides, None)
    sums = {(weigh, knowledge): _Sums() for weigh in waiting for knowledge in Knowledge}
    for batch in batches:
        seen = teacher.observe(batch, needs)
        for (weigh, knowledge), so_far in sums.items():
            row = waiting[weigh](seen, columns, knowledge=knowledge).double().sum(0)
            so_far.total = row if so_far.total is None else so_far.total + row
            so_far.images += len(batch)
    constants = {
        weigh: ConstantWeigh(
            {
                (knowledge, stride): value
                for knowledge in Knowledge
                for stride, value in zip(columns, _mean(sums[weigh, knowledge]), strict=True)
            }
        )
        for weigh in waiting
    }
    terms = tuple(
        replace(weighted, weigh=constants[weighted.weigh]) if isinstance(weighted.weigh, MeanOf) else weighted
        for weighted in recipe.terms
    )
    return replace(recipe, terms=terms)


def _mean(sums: _Sums) -> list[float]:
    if sums.total is None:
        raise CapabilityError(
            "The images that a constant weight is measured on must be at least one, got none. Give the training images."
        )
    means: list[float] = (sums.total / sums.images).tolist()
    return means
