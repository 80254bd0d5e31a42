"""Weights that are the same for every image, measured once before training: the control of an adaptive weight."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.recipe import Recipe
from detdistill.distillation.weigh import MeanOf, Weigh
from detdistill.errors import CapabilityError
from detdistill.types import Batch, Knowledge, Need, Observation, sent


@final
class ConstantWeigh(Weigh):
    """One weight per stride and knowledge, the same for every image.

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
        level = teacher.maps.levels[0]
        row = sent(torch.tensor([self.weights[knowledge, stride] for stride in strides]), level.device)
        return row.expand(level.shape[0], -1)


def with_constant_weights(recipe: Recipe, teacher: FrozenTeacher, batches: Iterable[Batch]) -> Recipe:
    """Replaces every `MeanOf` of a recipe by the constants that it stands for.

    Args:
        recipe: returned as it is where it holds none; the teacher then looks at nothing.
        teacher: observes every batch once.
        batches: the training images without augmentation, on the teacher's device.

    Returns:
        The recipe with `ConstantWeigh` in their place: per stride and knowledge the mean over all images.

    Raises:
        CapabilityError: there are no images.
    """
    plans = {weighted.weigh for weighted in recipe.terms if isinstance(weighted.weigh, MeanOf)}
    if not plans:
        return recipe
    columns: tuple[int | None, ...] = (*teacher.spec.maps.strides, None)
    needs = frozenset[Need]().union(*(plan.weigh.needs for plan in plans))
    none = torch.zeros(len(columns), dtype=torch.float64)
    sums = {(plan, knowledge): none.clone() for plan in plans for knowledge in Knowledge}
    images = 0
    for batch in batches:
        seen = teacher.observe(batch, needs)
        images += len(batch)
        for (plan, knowledge), total in sums.items():
            total.add_(plan.weigh(seen, columns, knowledge=knowledge).double().sum(0).cpu())
    if images == 0:
        raise CapabilityError(
            "The images that a constant weight is measured on must be at least one, got none. Give the training images."
        )
    constants = {
        plan: ConstantWeigh(
            {
                (knowledge, stride): mean
                for knowledge in Knowledge
                for stride, mean in zip(columns, (sums[plan, knowledge] / images).tolist(), strict=True)
            }
        )
        for plan in plans
    }
    return replace(
        recipe,
        terms=tuple(
            replace(weighted, weigh=constants[weighted.weigh]) if isinstance(weighted.weigh, MeanOf) else weighted
            for weighted in recipe.terms
        ),
    )
