"""HOW two maps differ: a cost ≥ 0 of the same shape, computed in float32. Student before teacher, always.

Gradients flow to the aligned student map; the teacher's is constant. Every comparison gets `inside`, the cells inside
the image, because statistics over cells must not see padding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

Maps = Float[Tensor, "b c h w"]
Inside = Bool[Tensor, "b 1 h w"]


def squared(student: Maps, teacher: Maps, inside: Inside) -> Maps:
    """(student − teacher)² at every channel and cell."""
    del inside
    return (student - teacher).square()


def absolute(student: Maps, teacher: Maps, inside: Inside) -> Maps:
    """|student − teacher| at every channel and cell; the gradient at equality is 0."""
    del inside
    return (student - teacher).abs()


def bce(student: Maps, teacher: Maps, inside: Inside) -> Maps:
    """Binary cross-entropy of the student's scores to the teacher's, from logits.

    −(y log p + (1 − y) log(1 − p)) with p = sigmoid(student), y = sigmoid(teacher). Its minimum is the teacher's
    entropy, not 0: a declared exception to "a comparison is 0 at equality".
    """
    del inside
    return F.binary_cross_entropy_with_logits(student, teacher.sigmoid(), reduction="none")


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


def rescale(maps: Maps, inside: Inside, *, axes: tuple[int, ...], epsilon: float = 1e-8) -> Maps:
    """Min-max rescaling to [0, 1] over the inside cells, 0 in the padding.

    Args:
        maps: gradients flow, through the minimum and the maximum too.
        inside: cells inside the image.
        axes: axes that share one minimum and maximum: (1, 2, 3) per image, (2, 3) per image and channel,
            (0, 1, 2, 3) over the whole batch.
        epsilon: added to the range; makes constant maps 0.

    Source:
        de Rijk et al., Structural Knowledge Distillation for Object Detection, NeurIPS 2022 (SSIM).

    Differs from the source:
        The source does not state the axes; padding is left out.
    """
    lowest = maps.masked_fill(~inside, torch.inf).amin(dim=axes, keepdim=True)
    highest = maps.masked_fill(~inside, -torch.inf).amax(dim=axes, keepdim=True)
    return ((maps - lowest) / (highest - lowest + epsilon)).masked_fill(~inside, 0.0)
