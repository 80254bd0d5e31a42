"""How a recipe's methods pull beside the task, measured on batches by a step as it is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping

from detdistill.distillation.recipe import WeightedTerm
from detdistill.distillation.step import DistillationStep, products, running_statistics_kept, task_loss
from detdistill.distillation.view import CLEAN
from detdistill.types import Batch, Clock


def measured_pulls(step: DistillationStep, batches: Iterable[Batch]) -> Mapping[str, tuple[float, float]]:
    """How many times the task's gradient at the student's pyramids a method's is, and the cosine between the two.

    A method counts with its gains as they are calibrated, before warm-up, fades and weights. Where nothing calibrates
    it, every term stands for itself. No gradient is accumulated.

    Args:
        step: in train mode, with what it learned.
        batches: on its device; what only a loader makes of them, as twins, is made anew.

    Returns:
        Geometric mean of the ratio, and mean of the cosine, over the batches in which both gradients are finite and
        not zero; a method without such is left out.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for batch in batches:
        with running_statistics_kept(step.student):
            seen = step.see(batch, step.recipe)
        pairs, groups = [of_one for _, of_one in seen.by_teacher()], _groups(step.recipe.terms)
        clock = Clock(step=0, total_steps=1)
        sums = {
            name: [
                (one.gain * step.calibration.scale(one), one.term(pairs[one.teacher][one.view], clock)) for one in terms
            ]
            for name, terms in groups.items()
        }
        rows = products(task_loss(seen.students[CLEAN]), sums, [seen]).tolist()
        task = rows[0][0]
        for at, name in enumerate(sums, start=1):
            own = rows[at][at]
            if math.isfinite(task + own) and min(task, own) > 0:
                found.setdefault(name, []).append((0.5 * math.log(own / task), rows[0][at] / math.sqrt(task * own)))
    return {
        name: (math.exp(statistics.fmean(ratio for ratio, _ in rows)), statistics.fmean(cosine for _, cosine in rows))
        for name, rows in found.items()
    }


def _groups(terms: Iterable[WeightedTerm]) -> dict[str, list[WeightedTerm]]:
    """Terms by the method that a strength is asked of, others by their own names."""
    found: dict[str, list[WeightedTerm]] = {}
    for one in terms:
        found.setdefault(one.member if one.strength is not None and one.member else one.name, []).append(one)
    return found
