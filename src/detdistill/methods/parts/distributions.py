"""HOW two distributions over bins or classes differ, one number per distribution."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def softened_divergence(
    student: Float[Tensor, "*p bins"], teacher: Float[Tensor, "*p bins"], *, temperature: float
) -> Float[Tensor, "*p"]:
    """KL(softmax(teacher / T) ‖ softmax(student / T)) · T², as a mean over the bins.

    Args:
        student: logits; gradients flow.
        teacher: logits, constant.
        temperature: T > 0; the higher, the more the small probabilities count.

    Returns:
        Cost ≥ 0 of every distribution, 0 at equality.

    Source:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015; the mean over bins as in Zheng et al.,
        Localization Distillation for Dense Object Detection, CVPR 2022.

    Differs from the source:
        Hinton et al. sum over the bins.
    """
    ours = (student / temperature).log_softmax(dim=-1)
    theirs = (teacher / temperature).log_softmax(dim=-1)
    divergence = (theirs.exp() * (theirs - ours)).sum(dim=-1)
    # Rounding can leave a divergence of equals a little below 0.
    return divergence.clamp(min=0) * (temperature**2 / student.shape[-1])
