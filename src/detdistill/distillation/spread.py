"""How fast a weight falls, found on the training images: weights that tell them apart, without an alpha to guess."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.recipe import Recipe
from detdistill.distillation.weigh import MeanOf, SpreadTo
from detdistill.errors import CapabilityError
from detdistill.types import Batch, Knowledge, Need

# Small, so that no loss makes a weight of 0, from which it could not be read back.
_PROBE = 2.0**-10
_LEAST, _MOST, _STEPS = 1e-4, 1e4, 801


def with_spread_weights(
    recipe: Recipe, teacher: FrozenTeacher, batches: Iterable[Batch]
) -> tuple[Recipe, Mapping[str, tuple[float, float]]]:
    """Replaces every `SpreadTo` of a recipe by the weight that it stands for.

    The spread at an alpha is the standard deviation of exp(−alpha · D) over all images, the mean over the pyramid's
    levels and over what the weighed terms carry. Of a fine grid of alphas the least is taken whose spread reaches what
    is wanted, or the one of the largest spread where none does.

    Args:
        recipe: returned as it is where it holds none; the teacher then looks at nothing.
        teacher: observes every batch once.
        batches: the training images without augmentation, on the teacher's device.

    Returns:
        The recipe, and by the name of each weighed term its alpha and the spread there.

    Raises:
        CapabilityError: there are fewer than two images.
    """
    plans = {one.weigh for one in recipe.terms if isinstance(one.weigh, SpreadTo)}
    if not plans:
        return recipe, {}
    kinds = {plan: {one.term.knowledge for one in recipe.terms if one.weigh is plan} for plan in plans}
    probes = {plan: plan.at(_PROBE) for plan in plans}
    needs = frozenset[Need]().union(*(probe.needs for probe in probes.values()))
    seen: dict[tuple[SpreadTo, Knowledge], list[Tensor]] = {(p, kind): [] for p in plans for kind in kinds[p]}
    for batch in batches:
        observed = teacher.observe(batch, needs)
        for (plan, kind), rows in seen.items():
            rows.append(probes[plan](observed, teacher.spec.maps.strides, knowledge=kind).double().cpu())
    if sum(map(len, next(iter(seen.values())))) < 2:
        raise CapabilityError(
            "The images that an alpha is found on must be at least two, got fewer. Write a number for alpha."
        )
    alphas = torch.logspace(math.log10(_LEAST), math.log10(_MOST), _STEPS, dtype=torch.float64)
    found = {}
    for plan in plans:
        losses = torch.cat([-torch.cat(seen[plan, kind]).log() / _PROBE for kind in kinds[plan]], dim=1)
        spreads = torch.stack([(-alpha * losses).exp().std(dim=0, correction=0).mean() for alpha in alphas])
        enough = (spreads >= plan.spread).nonzero()
        best = int(enough[0, 0]) if len(enough) else int(spreads.argmax())
        found[plan] = float(alphas[best]), float(spreads[best])
    weighs = {plan: plan.at(alpha) for plan, (alpha, _) in found.items()}
    made = {plan: MeanOf(weigh) if plan.mean else weigh for plan, weigh in weighs.items()}
    told = {one.name: found[one.weigh] for one in recipe.terms if isinstance(one.weigh, SpreadTo)}
    terms = (replace(one, weigh=made[one.weigh]) if isinstance(one.weigh, SpreadTo) else one for one in recipe.terms)
    return replace(recipe, terms=tuple(terms)), told
