"""What the terms of a step look at in a batch: asked for on request, and kept by nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from detdistill.distillation.step import DistillationStep, Seen, running_statistics_kept
from detdistill.distillation.weigh import Weigh
from detdistill.types import Batch, Clock, Knowledge

PULL = "where it pulls the student"


@dataclass(frozen=True, slots=True)
class Look:
    """One map of a term.

    Attributes:
        term: its name.
        what: the map is: the mask by its name, or `PULL`: the size of the gradient of the term's cost at each cell of
            the student's map.
        stride: of the level.
        values: >= 0, as a batch has them, padding too.
    """

    term: str
    what: str
    stride: int
    values: Float[Tensor, "b _h _w"]


@dataclass(frozen=True, slots=True)
class Weighed:
    """How much each level of a term weighs in each image; a stride None is of no level."""

    term: str
    strides: tuple[int | None, ...]
    values: Float[Tensor, "b _l"]


def looks(step: DistillationStep, batch: Batch) -> tuple[list[Look], list[Weighed]]:
    """The masks of all terms that have one, where every term pulls, and the weights of those that are weighed.

    Args:
        step: in train mode; its running statistics stay, and no gradient is accumulated.
        batch: on its device, with labels.
    """
    with running_statistics_kept(step.student):
        sights = step.see(batch, step.recipe, task=False).by_teacher()
    found, weights = list[Look](), list[Weighed]()
    for one in step.recipe.terms:
        seen, pairs = sights[one.teacher]
        pair = pairs[one.view]
        pair.looked = {}
        cost = one.term(pair, Clock(step=0, total_steps=1))
        found += [Look(one.name, what, stride, mask) for (what, stride), mask in pair.looked.items()]
        pair.looked = None
        maps = seen.students[one.view].maps
        gradients = torch.autograd.grad(cost.values.sum(), maps.levels, retain_graph=True, allow_unused=True)
        for stride, gradient in zip(maps.strides, gradients, strict=True):
            if gradient is not None and bool(gradient.any()):
                found.append(Look(one.name, PULL, stride, gradient.float().norm(dim=1)))
        if isinstance(one.weigh, Weigh):
            weights.append(_weighed(one.name, one.weigh, seen, cost.strides, one.term.knowledge))
    return found, weights


def _weighed(name: str, weigh: Weigh, seen: Seen, strides: Sequence[int | None], knowledge: Knowledge) -> Weighed:
    return Weighed(name, tuple(strides), seen.weight(weigh, strides, knowledge))
