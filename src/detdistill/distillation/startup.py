"""Before the first step a run proves that it distils: every term is finite and reaches the student."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from detdistill.distillation.recipe import WeightedTerm
from detdistill.distillation.step import DistillationStep, Seen, products, task_loss
from detdistill.distillation.view import CLEAN
from detdistill.errors import DistillError
from detdistill.types import Batch, Clock, Cost, Observation

_NOISE = 0.01
_ROUNDING = 0.02


@dataclass(frozen=True, slots=True)
class TermProof:
    """What one term showed on one batch, before gain, warm-up and weight.

    Attributes:
        name: the term.
        loss: its loss.
        gradient_norm: norm of its gradient to the student's parameters.
        perturbed: student and teacher showed the same maps, so noise was added to the student's for the proof.
        ratio: at its gain, the norm of its gradient at the student's pyramids divided by the task's; None where that
            says nothing.
        cosine: of both gradients there, likewise.
    """

    name: str
    loss: float
    gradient_norm: float
    perturbed: bool
    ratio: float | None = None
    cosine: float | None = None

    def __str__(self) -> str:
        note = " (student equals teacher here: proved on a perturbed observation)" if self.perturbed else ""
        times = "" if self.ratio is None else f", at its gain {self.ratio:.3g} times the task"
        return f"{self.name}: loss {self.loss:.4g}, gradient to the student {self.gradient_norm:.4g}{times}{note}"


def prove(step: DistillationStep, batch: Batch) -> tuple[TermProof, ...]:
    """Shows on one batch that every term of the step teaches the student, and begins its calibration there.

    The student's buffers (batch-norm statistics) are as before afterwards, no gradient is left behind, and no
    global random state is used.

    Args:
        step: the step that will be trained.
        batch: a batch with at least one box, on the step's device.

    Returns:
        One proof per term.

    Raises:
        DistillError: a term is not finite, or its gradient to the student is zero or not finite.
    """
    buffers = {name: buffer.clone() for name, buffer in step.student.named_buffers()}
    try:
        seen = step.see(batch, step.recipe)
        pairs = {
            (number, view): pair
            for number, (_, of_one) in enumerate(seen.by_teacher())
            for view, pair in of_one.items()
        }
        # At equality the gradient is zero, or rounding's: it would prove nothing.
        alike = {key for key, pair in pairs.items() if _same(pair.student, pair.teacher)}
        shown = {key: pair.with_student(_shaken(pair.whole)) if key in alike else pair for key, pair in pairs.items()}
        terms = step.recipe.terms
        costs = {one.name: one.term(shown[one.teacher, one.view], Clock(step=0, total_steps=1)) for one in terms}
        beside = _beside_task(step, seen, costs) if terms and not alike else {}
        perturbed = {one.name: (one.teacher, one.view) in alike for one in terms}
        return tuple(
            _prove_term(one, costs[one.name], step.student, perturbed[one.name], beside.get(one.name)) for one in terms
        )
    finally:
        for name, buffer in step.student.named_buffers():
            buffer.copy_(buffers[name])


def _beside_task(
    step: DistillationStep, seen: Seen, costs: Mapping[str, Cost]
) -> dict[str, tuple[float, float | None]]:
    """Length of each term's gradient beside the task's, and the cosine of both; the step's calibration begins here."""
    terms = step.recipe.terms
    task = task_loss(seen.students[CLEAN])
    found = products(task, {one.name: [(one.gain, costs[one.name])] for one in terms}, [seen])
    if members := step.calibration.members:
        rows = [[True, *(False for _ in terms)], *([False, *(one.member == name for one in terms)] for name in members)]
        sums = found.new_tensor(rows)
        step.calibration.begin(sums @ found @ sums.T)
    task_square, *squares = found.diagonal().tolist()
    if not 0 < task_square < float("inf"):
        return {}
    figures = zip(costs, squares, found[0, 1:].tolist(), strict=True)
    return {
        name: (math.sqrt(own / task_square), along / math.sqrt(own * task_square) if own > 0 else None)
        for name, own, along in figures
    }


def _prove_term(
    weighted: WeightedTerm, cost: Cost, student: nn.Module, perturbed: bool, beside: tuple[float, float | None] | None
) -> TermProof:
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    loss = cost.values.sum(1).mean()
    norm = _gradient_norm(loss, parameters)
    value = float(loss.detach())
    if not torch.isfinite(loss.detach()):
        raise DistillError(
            f"The loss of the term '{weighted.name}' must be finite on the first batch, got {value}. "
            "Check the teacher's weights and the image normalisation with `detdistill evaluate TEACHER --data DATA`."
        )
    if not 0.0 < norm < float("inf"):
        raise DistillError(
            f"The gradient of the term '{weighted.name}' to the student must be finite and not zero, got {norm}. "
            "Check that the student is not frozen, that both detectors share levels, and that the data have boxes."
        )
    return TermProof(weighted.name, value, norm, perturbed, *(beside or (None, None)))


def _gradient_norm(loss: Tensor, inputs: Sequence[Tensor]) -> float:
    if not (inputs and loss.requires_grad):
        return 0.0
    gradients = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
    squares = [gradient.double().square().sum() for gradient in gradients if gradient is not None]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def _same(student: Observation, teacher: Observation) -> bool:
    if teacher.pyramid is None:
        return False
    pairs = zip(student.maps.levels, teacher.pyramid.levels, strict=False)
    return all(ours.shape == theirs.shape and _close(ours, theirs) for ours, theirs in pairs)


def _close(ours: Tensor, theirs: Tensor) -> bool:
    """Equal but for rounding: another precision or memory layout computes the same map a little differently."""
    ours, theirs = ours.detach().float(), theirs.float()
    return bool((ours - theirs).norm() <= _ROUNDING * theirs.norm())


def _shaken(student: Observation) -> Observation:
    """The observation with a little noise on every map; gradients flow as before."""
    generator = torch.Generator().manual_seed(0)

    def noisy(levels: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(
            level + _NOISE * torch.randn(level.shape, generator=generator).to(level.device, level.dtype)
            for level in levels
        )

    shaken = replace(student, pyramid=replace(student.maps, levels=noisy(student.maps.levels)))
    if student.class_logits is not None:
        logits = replace(student.class_logits, levels=noisy(student.class_logits.levels))
        shaken = replace(shaken, class_logits=logits)
    if student.box_distributions is not None:
        boxes = replace(student.box_distributions, levels=noisy(student.box_distributions.levels))
        shaken = replace(shaken, box_distributions=boxes)
    if student.queries is not None:
        said, places = noisy((student.queries.logits, student.queries.boxes))
        shaken = replace(shaken, queries=replace(student.queries, logits=said, boxes=places))
    if student.towers is not None:
        parts = {
            name: tuple(replace(one, levels=noisy(one.levels)) for one in getattr(student.towers, name))
            for name in ("classes", "boxes")
        }
        shaken = replace(shaken, towers=replace(student.towers, **parts))
    return shaken
