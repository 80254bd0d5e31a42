"""WHICH query learns from which: two sets of boxes matched one to one, and what matched queries cost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_convert, generalized_box_iou

from detdistill.errors import MissingDependencyError, installing
from detdistill.types import ClassKind, sent

_SURE = 1 - 1e-6


@dataclass(frozen=True, slots=True)
class Matched:
    """Which queries of one image belong together, and how much each pair counts."""

    student: Int64[Tensor, " m"]
    teacher: Int64[Tensor, " m"]
    weight: Float[Tensor, " m"]

    def mean(self, costs: Float[Tensor, " m"]) -> Float[Tensor, ""]:
        """The weighted sum, divided by all weight, and by 1 at least: few sure boxes are no strong lesson."""
        return (self.weight * costs).sum() / self.weight.sum().clamp(min=1.0)


def box_shares(boxes: Float[Tensor, "q 4"], size: tuple[int, int]) -> Float[Tensor, "q 4"]:
    """Boxes in pixels as centre, width and height in shares of an image of this height and width."""
    height, width = size
    scale = sent(torch.tensor([width, height, width, height], dtype=boxes.dtype), boxes.device)
    shares: Tensor = box_convert(boxes / scale, "xyxy", "cxcywh")
    return shares


def giou(ours: Float[Tensor, "q 4"], theirs: Float[Tensor, "m 4"]) -> Float[Tensor, "q m"]:
    """Generalised IoU of every pair of boxes given as centre, width and height."""
    corners = (box_convert(one, "cxcywh", "xyxy") for one in (ours, theirs))
    found: Tensor = generalized_box_iou(*corners)
    return found


@torch.no_grad()
def matched(
    ours: tuple[Float[Tensor, "q k"], Float[Tensor, "q 4"]],
    theirs: tuple[Float[Tensor, "r k"], Float[Tensor, "r 4"]],
    *,
    class_cost: float,
    l1_cost: float,
    giou_cost: float,
    power: float,
) -> Matched:
    """One student query for each of the teacher's, so that what the pairs cost together, each by its weight, is least.

    Where the teacher has more, its surest ones are taken. The weight is the teacher's highest class share to a power.

    Args:
        ours: class shares and boxes (`box_shares`) of the student's queries of one image.
        theirs: of the teacher's.
        class_cost: how much the difference of all class shares (the sum of |p − q|) counts.
        l1_cost: likewise of the boxes.
        giou_cost: likewise of 1 − GIoU.
        power: of the weight.

    Raises:
        MissingDependencyError: SciPy is not installed.

    Source:
        Carion et al., End-to-End Object Detection with Transformers, ECCV 2020 (the match); Chang et al., DETRDistill,
        ICCV 2023 (of the teacher's queries).

    Differs from the source:
        Whole class distributions are compared, not the label's probability, so that equal sets match at no cost; each
        pair's cost counts by its weight.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise MissingDependencyError(
            f"The matching of queries must have scipy, got none. {installing('detdistill[detr]')}"
        ) from error
    (classes, boxes), (their_classes, their_boxes) = (tuple(part.float() for part in one) for one in (ours, theirs))
    scores = their_classes.amax(dim=1)
    best = scores.sort(descending=True, stable=True).indices[: len(boxes)]
    weight = scores[best] ** power
    cost = class_cost * torch.cdist(classes, their_classes[best], p=1)
    cost = cost + l1_cost * torch.cdist(boxes, their_boxes[best], p=1)
    cost = cost + giou_cost * (1 - giou(boxes, their_boxes[best]))
    rows, columns = linear_sum_assignment(torch.nan_to_num(cost * weight, nan=1e9, posinf=1e9).cpu().numpy())
    own, other = (sent(torch.from_numpy(one), boxes.device) for one in (rows, columns))
    return Matched(own, best[other], weight[other])


def class_divergence(
    ours: Float[Tensor, "m s"],
    theirs: Float[Tensor, "m t"],
    *,
    ours_are: ClassKind,
    theirs_are: ClassKind,
) -> Float[Tensor, " m"]:
    """How far the student's classes are from the teacher's at each pair: ≥ 0, and 0 where they say the same.

    Both softmax: KL(teacher ‖ student) over the classes and no object. Else the sum over classes of the KL of whether
    an object is of that class, each a yes or no with the side's probability. Gradients flow to the student's logits.

    Source:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015.

    Differs from the source:
        Without a temperature; of sigmoid scores the divergence of each class is added up.
    """
    ours, theirs = ours.float(), theirs.detach().float()
    if ours_are is theirs_are is ClassKind.SOFTMAX:
        said = theirs.softmax(dim=1)
        return (torch.xlogy(said, said) - said * ours.log_softmax(dim=1)).sum(dim=1)
    said = theirs.softmax(dim=1)[:, :-1] if theirs_are is ClassKind.SOFTMAX else theirs.sigmoid()
    known = torch.xlogy(said, said) + torch.xlogy(1 - said, 1 - said)
    yes, no = _log_odds(ours, ours_are)
    return (known - said * yes - (1 - said) * no).sum(dim=1).clamp(min=0.0)


def _log_odds(logits: Float[Tensor, "m s"], kind: ClassKind) -> tuple[Float[Tensor, "m k"], Float[Tensor, "m k"]]:
    """Logarithms of each class's probability, and of what is left of 1."""
    if kind is not ClassKind.SOFTMAX:
        return functional.logsigmoid(logits), functional.logsigmoid(-logits)
    yes = logits.log_softmax(dim=1)[:, :-1]
    return yes, torch.log1p(-yes.exp().clamp(max=_SURE))


def box_distance(
    ours: Float[Tensor, "m 4"], theirs: Float[Tensor, "m 4"], *, l1_cost: float, giou_cost: float
) -> Float[Tensor, " m"]:
    """L1 and 1 − GIoU of each pair of boxes (`box_shares`), weighed. Gradients flow to the student's.

    Source:
        Carion et al., End-to-End Object Detection with Transformers, ECCV 2020.

    Differs from the source:
        Against the teacher's boxes instead of the labels.
    """
    theirs = theirs.detach()
    return l1_cost * (ours - theirs).abs().sum(dim=1) + giou_cost * (1 - giou(ours, theirs).diagonal())
