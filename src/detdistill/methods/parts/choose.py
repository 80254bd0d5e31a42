"""WHICH of several teachers is followed on each image and level: the one that errs least there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from detdistill.detectors.base import DetectorSpec
from detdistill.distillation.term import shared_strides
from detdistill.distillation.weigh import Choice
from detdistill.errors import CapabilityError
from detdistill.methods.parts.weigh import difficulty
from detdistill.types import Knowledge, Need, Observation

Choose = Literal["mean", "lowest", "softmax"]
_REMEDY = "Set teacher.choose=mean."


@final
class ByLoss(Choice):
    """Shares by the teachers' own losses D against the labels, per image and stride: softmax(−D), or 1 for the lowest.

    D is as in `by_teacher_loss`, in the units of each teacher's own training loss.

    Args:
        soft: whether shares are softmax(−D); else the teacher with the lowest D has all, the first one of equals.

    Source:
        Lan and Tian, Instance, Scale, and Teacher Adaptive Knowledge Distillation, the journal version of AID.

    Differs from the source:
        Every image is shared out by itself, where the source takes a level's loss over the batch.
    """

    def __init__(self, *, soft: bool) -> None:
        self.needs = frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES})
        self.soft = soft

    def __call__(
        self, teachers: Sequence[Observation], strides: Sequence[Sequence[int | None]], *, knowledge: Knowledge
    ) -> tuple[Float[Tensor, "b _l"], ...]:
        """See `Choice`.

        Raises:
            CapabilityError: a teacher's loss of each image is missing.
        """
        every = tuple(dict.fromkeys(stride for own in strides for stride in own))
        found = [self._losses(teacher, own, every, knowledge) for teacher, own in zip(teachers, strides, strict=True)]
        losses = torch.stack(found)
        if self.soft:
            shares = torch.softmax(-losses, dim=0)
        else:
            numbers = torch.arange(len(found), device=losses.device)[:, None, None]
            shares = (losses.argmin(dim=0) == numbers).to(losses)
        return tuple(
            torch.stack([one[:, every.index(stride)] for stride in own], dim=1)
            for one, own in zip(shares, strides, strict=True)
        )

    def _losses(
        self, teacher: Observation, own: Sequence[int | None], every: Sequence[int | None], knowledge: Knowledge
    ) -> Float[Tensor, "b l"]:
        """Infinite on strides that the teacher does not have."""
        if teacher.task_loss is None:
            raise CapabilityError(
                "A teacher's observation must hold its task loss to be chosen by it, got none. "
                "Answer Need.TASK_LOSS in observe()."
            )
        known = difficulty(teacher.task_loss, own, knowledge=knowledge).float().clamp(min=0.0, max=1e30)
        none = torch.full_like(known[:, 0], torch.inf)
        return torch.stack([known[:, list(own).index(one)] if one in own else none for one in every], dim=1)


def build_choice(choose: Choose, student: DetectorSpec, teachers: Sequence[DetectorSpec]) -> Choice | None:
    """The choice of that name; None takes all teachers alike.

    Raises:
        CapabilityError: the teachers know different classes, so that one errs least where it knows nothing, or one has
            no loss on a level.
    """
    if choose == "mean" or len(teachers) == 1:
        return None
    for one in teachers:
        if one.unknown != teachers[0].unknown:
            other = next(name for name in (*one.unknown, *teachers[0].unknown))
            raise CapabilityError(
                f"teacher.choose must be mean where teachers know different classes, got {choose}: not all know "
                f"{other}, and one errs least where there is nothing that it knows. {_REMEDY}"
            )
        levels = () if one.class_logits is None else one.class_logits.strides
        missing = [stride for stride in shared_strides(student, one) if stride not in levels]
        if missing:
            raise CapabilityError(
                f"teacher.choose must be mean with {one.name}, which has no loss of its own on the strides {missing}, "
                f"got {choose}. {_REMEDY}"
            )
    return ByLoss(soft=choose == "softmax")
