"""HOW two maps differ: a cost ≥ 0 of the same shape, or of each cell, in float32. Student before teacher, always.

Gradients flow to the aligned student map; the teacher's is constant. Every comparison gets `inside`, the cells inside
the image, because statistics over cells must not see padding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

Maps = Float[Tensor, "b c h w"]
Cells = Float[Tensor, "b 1 h w"]
Inside = Bool[Tensor, "b 1 h w"]
# (student, teacher) → what each value costs, and how that grows with the student's.
Piece = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
VALUES_AT_ONCE = 1 << 16
"""Values that are worked on at a time: with all that is made of them they stay in a CPU core's own cache."""


def squared(student: Maps, teacher: Maps, inside: Inside) -> Maps:
    """(student − teacher)² at every channel and cell."""
    del inside
    return (student - teacher).square()


def absolute(student: Maps, teacher: Maps, inside: Inside) -> Maps:
    """|student − teacher| at every channel and cell; the gradient at equality is 0."""
    del inside
    return (student - teacher).abs()


def squared_sums(student: Maps, teacher: Maps, inside: Inside) -> Cells:
    """Σ over channels of (student − teacher)² at every cell."""
    del inside
    return _summed(student, teacher, _squared)


def bce_sums(student: Maps, teacher: Maps, inside: Inside) -> Cells:
    """Binary cross-entropy of the student's scores to the teacher's, from logits, summed over channels at every cell.

    −Σ (y log p + (1 − y) log(1 − p)) with p = sigmoid(student), y = sigmoid(teacher). Its minimum is the teacher's
    entropy, not 0: a declared exception to "a comparison is 0 at equality".
    """
    del inside
    return _summed(student, teacher, _bce)


def _squared(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    difference = student - teacher
    return difference.square(), 2 * difference


def _bce(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    wanted = teacher.sigmoid()
    return (1 - wanted) * student - F.logsigmoid(student), student.sigmoid() - wanted


def _summed(student: Tensor, teacher: Tensor, piece: Piece) -> Tensor:
    batch, channels, *grid = student.shape
    ours, theirs = (maps.movedim(1, -1).reshape(-1, channels) for maps in (student, teacher))
    found: Tensor = _Sums.apply(ours, theirs, piece)
    return found.view(batch, 1, *grid)


class _Sums(torch.autograd.Function):
    """The sum over each row of what two rows cost, in pieces that stay in a cache; the slopes alone are kept."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, piece: Piece) -> Tensor:
        rows, channels = student.shape
        # A GPU takes all at once.
        step = max(1, VALUES_AT_ONCE // max(1, channels)) if student.device.type == "cpu" else max(1, rows)
        sums = student.new_empty(rows)
        slopes = torch.empty_like(student) if ctx.needs_input_grad[0] else None
        for first in range(0, rows, step):
            some = slice(first, first + step)
            costs, slope = piece(student[some], teacher[some])
            torch.sum(costs, dim=1, out=sums[some])
            if slopes is not None:
                slopes[some] = slope
        ctx.save_for_backward(slopes)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return slopes * gradient[:, None], None, None


def distances(
    student: Maps,
    teacher: Maps,
    inside: Inside | None,
    *,
    cells: Cells | None = None,
    channels: Float[Tensor, "b c 1 1"] | None = None,
) -> Float[Tensor, " b"]:
    """√(Σ (student − teacher)² · cells · channels) of every image; its gradient is 0 where it is.

    Gradients flow to the teacher's side too, where it learns, and not to the weights.

    Args:
        inside: None for all cells.
        cells: how much each counts; None for 1.
        channels: likewise.
    """
    found: Tensor = _Distances.apply(student, teacher, inside, (cells, channels))
    return found


class _Distances(torch.autograd.Function):
    """One map is kept for the way back."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        inside: Tensor | None,
        weights: tuple[Tensor | None, Tensor | None],
    ) -> Tensor:
        cells, channels = weights
        difference = _difference(student, teacher, inside)
        weighed = difference if cells is None else difference * cells
        squares = (difference * weighed).sum(dim=(2, 3))
        found = (squares if channels is None else squares * channels[:, :, 0, 0]).sum(dim=1).sqrt()
        ctx.save_for_backward(weighed, channels, found)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grown: Tensor) -> tuple[Tensor | None, ...]:
        weighed, channels, found = ctx.saved_tensors
        share = torch.where(found > 0, grown / found, 0.0)[:, None, None, None]
        slopes = weighed * (share if channels is None else share * channels)
        return slopes, -slopes if ctx.needs_input_grad[1] else None, None, None


def _difference(student: Maps, teacher: Maps, inside: Inside | None) -> Maps:
    found = student - teacher
    return found if inside is None else found.masked_fill_(~inside, 0.0)


def weighed_squares(student: Maps, teacher: Maps, inside: Inside | None, channels: Float[Tensor, "b c 1 1"]) -> Cells:
    """Σ over channels of channels · (student − teacher)² at every cell.

    Args:
        inside: None for all cells.
        channels: how much each counts; no gradient flows.
    """
    found: Tensor = _WeighedSquares.apply(student, teacher, inside, channels)
    return found


class _WeighedSquares(torch.autograd.Function):
    """One map is kept for the way back."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, inside: Tensor | None, channels: Tensor) -> Tensor:
        difference = _difference(student, teacher, inside)
        weighed = difference * channels
        ctx.save_for_backward(weighed)
        return difference.mul_(weighed).sum(dim=1, keepdim=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grown: Tensor) -> tuple[Tensor | None, ...]:
        (weighed,) = ctx.saved_tensors
        return weighed * (2 * grown), None, None, None


def quality_focal(student: Float[Tensor, "*p"], teacher: Float[Tensor, "*p"], *, beta: float) -> Float[Tensor, "*p"]:
    """|y − p|^β · BCE(p, y) with p = sigmoid(student), y = sigmoid(teacher): 0 at equality.

    Args:
        student: logits; gradients flow, through the factor too.
        teacher: logits, constant.
        beta: how much less what is nearly right counts, above 0.

    Source:
        Li et al., Generalized Focal Loss, NeurIPS 2020.

    Differs from the source:
        The wanted value is the teacher's score rather than an overlap.
    """
    wanted = teacher.sigmoid()
    costs = F.binary_cross_entropy_with_logits(student, wanted, reduction="none")
    return (wanted - student.sigmoid()).abs().pow(beta) * costs


def rescale(maps: Maps, inside: Inside, *, axes: tuple[int, ...], epsilon: float = 1e-8, padded: bool = True) -> Maps:
    """Min-max rescaling to [0, 1] over the inside cells, 0 in the padding.

    Args:
        maps: gradients flow, through the minimum and the maximum too.
        inside: cells inside the image.
        axes: axes that share one minimum and maximum: (1, 2, 3) per image, (2, 3) per image and channel,
            (0, 1, 2, 3) over the whole batch.
        epsilon: added to the range; makes constant maps 0.
        padded: whether there are other cells.

    Source:
        de Rijk et al., Structural Knowledge Distillation for Object Detection, NeurIPS 2022 (SSIM).

    Differs from the source:
        The source does not state the axes; padding is left out.
    """
    found: Tensor = _Rescaled.apply(maps, inside if padded else None, axes, epsilon)
    return found


class _Rescaled(torch.autograd.Function):
    """With y = (x − l) / r and r = h − l + ε the gradient is g / r, and of l −Σ g (1 − y) / r, of h −Σ g y / r.

    Those are shared out evenly among the cells where the minimum and the maximum are.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, inside: Tensor | None, axes: tuple[int, ...], epsilon: float) -> Tensor:
        if inside is None:
            lowest, highest = maps.amin(dim=axes, keepdim=True), maps.amax(dim=axes, keepdim=True)
        else:
            lowest = maps.masked_fill(~inside, torch.inf).amin(dim=axes, keepdim=True)
            highest = maps.masked_fill(~inside, -torch.inf).amax(dim=axes, keepdim=True)
        reach = highest - lowest + epsilon
        found = (maps - lowest).div_(reach)
        if inside is not None:
            found.masked_fill_(~inside, 0.0)
        ctx.axes = axes
        ctx.save_for_backward(maps, inside, lowest, highest, reach, found)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grown: Tensor) -> tuple[Tensor | None, ...]:
        maps, inside, lowest, highest, reach, found = ctx.saved_tensors
        gradient = grown / reach
        if inside is not None:
            gradient.masked_fill_(~inside, 0.0)
        upper = (gradient * found).sum(dim=ctx.axes, keepdim=True)
        lower = gradient.sum(dim=ctx.axes, keepdim=True) - upper
        for edge, share in ((lowest, lower), (highest, upper)):
            there = maps == edge if inside is None else (maps == edge) & inside
            gradient -= there * (share / there.sum(dim=ctx.axes, keepdim=True).clamp(min=1))
        return gradient, None, None, None
