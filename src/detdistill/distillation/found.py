"""What a teacher found as objects that a student learns: which of its boxes count, how much, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import box_iou

from detdistill.detectors.base import Detector
from detdistill.distillation.pair import Pair
from detdistill.distillation.term import Term
from detdistill.errors import CapabilityError
from detdistill.types import Batch, Clock, Cost, Detections, Knowledge, Need, Pyramid, Targets, TaskLoss

# Probabilities are told apart up to here.
_SURE = 1 - 1e-6
# In pixels; thinner boxes are none.
_THINNEST = 1.0


@dataclass(frozen=True, slots=True)
class Learnable:
    """Which of a teacher's boxes a student learns as objects, and how much each counts.

    Attributes:
        score: boxes of at least this score are objects.
        doubtful: those below with at least this score are neither objects nor background; the rest is left out.
        duplicate: a box that overlaps a label by at least this IoU is that label.
        weighed: whether an object counts as much as its score says, else fully.
        soft: whether its class is the teacher's distribution, else the label.
        partial: whether the student has classes that the teacher does not know: images that nobody labelled then have
            no background, which may be of these.
    """

    score: float = 0.3
    doubtful: float = 0.1
    duplicate: float = 0.5
    weighed: bool = True
    soft: bool = True
    partial: bool = False

    def objects(
        self, found: Detections, labels: Targets, *, classes: int, unlabelled: tuple[int, int] | None = None
    ) -> Targets:
        """What is learned of one image: its labels, and what the teacher found beside them.

        A label stays where and what it is and counts fully; a duplicate of its class says what else it might be taken
        for.

        Args:
            found: on the labels' grid.
            labels: what is flagged as ignored is left out, with the boxes that lie in it.
            classes: how many there are.
            unlabelled: height and width of an image that nobody labelled.
        """
        if self.partial and unlabelled is not None:
            whole = found.boxes.new_tensor([[0, 0, *unlabelled[::-1]]])
            learned = replace(self, partial=False).objects(found, labels, classes=classes)
            return Targets(
                boxes=torch.cat([learned.boxes, whole]),
                labels=F.pad(learned.labels, (0, 1)),
                ignored=F.pad(learned.ignored, (0, 1), value=True),
                scores=None if learned.scores is None else F.pad(learned.scores, (0, 1)),
                probabilities=None if learned.probabilities is None else F.pad(learned.probabilities, (0, 0, 0, 1)),
            )
        taught = labels.only(~labels.ignored)
        distributions, said = self._distributions(found, classes), F.one_hot(taught.labels, classes).float()
        # A box without an extent, as clipping leaves at an edge, has no logarithm that a head could learn.
        new = (found.scores >= self.doubtful) & ((found.boxes[:, 2:] - found.boxes[:, :2]).amin(dim=1) >= _THINNEST)
        if len(found.scores) and len(taught.labels):
            overlaps = box_iou(taught.boxes, found.boxes.to(taught.boxes))
            alike = new & (taught.labels[:, None] == found.labels)
            best, at = overlaps.masked_fill(~alike, 0.0).max(dim=1)
            said = torch.where((best >= self.duplicate)[:, None], distributions[at], said)
            new = new & (overlaps.amax(dim=0) < self.duplicate)
        if bool(labels.ignored.any()):
            new = new & (_covered(found.boxes, labels.boxes[labels.ignored]) < self.duplicate)
        scores, certain = found.scores[new].to(taught.boxes), taught.boxes.new_ones(len(taught.labels))
        return Targets(
            boxes=torch.cat([taught.boxes, found.boxes[new].to(taught.boxes)]),
            labels=torch.cat([taught.labels, found.labels[new]]),
            ignored=torch.cat([torch.zeros_like(taught.ignored), scores < self.score]),
            scores=torch.cat([certain, scores if self.weighed else torch.ones_like(scores)]),
            probabilities=torch.cat([said, distributions[new]]),
        )

    def _distributions(self, found: Detections, classes: int) -> Float[Tensor, "n k"]:
        """Of what class each box is: in proportion to the odds p / (1 − p) of its classes, else its label for certain.

        For independent scores that is exact: the distribution of the class where it is known to be one of them alone.
        """
        own = F.one_hot(found.labels, classes).float()
        if found.probabilities is None or not self.soft:
            return own
        said = found.probabilities.float().clamp(0, _SURE)
        odds = said / (1 - said)
        total = odds.sum(dim=1, keepdim=True)
        return torch.where(total > 0, odds / total.clamp(min=torch.finfo(torch.float32).tiny), own)


def _covered(boxes: Float[Tensor, "n 4"], regions: Float[Tensor, "m 4"]) -> Float[Tensor, " n"]:
    """How much of each box lies in the region that covers most of it, as a share."""
    first = torch.maximum(boxes[:, None, :2], regions[None, :, :2])
    last = torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    shared = (last - first).clamp(min=0).prod(dim=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    return shared.amax(dim=1) / areas


@final
class FoundTerm(Term):
    """The student's own loss against what the teacher found, instead of the labels; it reads nothing of its maps.

    Args:
        learnable: which of the boxes count, and how much.
        strides: the levels that have a column of their own, where the student's loss has them; None is all it has.
            What else there is, a second stage's loss among it, is a column of no level.
    """

    knowledge = Knowledge.FEATURE
    student_needs = frozenset({Need.FOUND_LOSS})
    teacher_needs = frozenset[Need]()

    def __init__(self, learnable: Learnable, *, strides: Sequence[int] | None = None) -> None:
        super().__init__()
        self.learnable = learnable
        self.strides = None if strides is None else tuple(strides)

    def forward(self, pair: Pair, clock: Clock) -> Cost:
        """The loss of each image alone, by level; see `Term.forward`.

        Raises:
            CapabilityError: the student's observation lacks it.
        """
        del clock
        if pair.student.found_loss is None:
            raise CapabilityError(
                "The student's observation must hold its loss on what the teacher found, got none. Let a "
                "DistillationStep make it."
            )
        return cost_of(pair.student.found_loss, strides=self.strides)


def cost_of(loss: TaskLoss, *, strides: Sequence[int] | None = None) -> Cost:
    """A detector's own loss of each image as a cost per level.

    Args:
        loss: with its parts, which gradients flow through.
        strides: the levels that are columns of their own; None for all.
    """
    columns = dict[int | None, Tensor]()
    for part in (loss.classification, loss.box):
        for stride, column in () if part is None else zip(loss.strides, part.unbind(dim=1), strict=True):
            place = stride if strides is None or stride in strides else None
            columns[place] = columns[place] + column if place in columns else column
    for part in (loss.roi_classification, loss.roi_box, *loss.other.values()):
        if part is not None:
            columns[None] = columns[None] + part if None in columns else part
    order = sorted(columns, key=lambda stride: (stride is None, stride or 0))
    return Cost(torch.stack([columns[stride].float() for stride in order], dim=1), tuple(order))


def each_alone(student: Detector, pyramid: Pyramid, batch: Batch) -> TaskLoss:
    """The student's own loss on a batch's targets, each image's part with it; gradients flow to the pyramid.

    A detector that says its total alone is asked image by image.
    """
    needs = frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES})
    loss = student.observe(pyramid, batch, needs).task_loss
    if loss is None:
        raise CapabilityError(
            f"A student that learns what a teacher found must say its own loss, got none from {student.spec.name}. "
            "Answer Need.TASK_LOSS in observe()."
        )
    if any(part is not None for part in (loss.classification, loss.box, loss.roi_classification, *loss.other.values())):
        return loss
    totals = []
    for index in range(len(batch)):
        alone = Pyramid(tuple(level[index : index + 1] for level in pyramid.levels), pyramid.strides)
        told = student.observe(alone, batch.image(index), needs).task_loss
        assert told is not None
        totals.append(told.total)
    return TaskLoss(loss.total, other={"total": torch.stack(totals)})


def as_found(
    detections: Sequence[Detections], batch: Batch, learnable: Learnable, *, classes: int, seen: Batch
) -> Batch:
    """The batch with what a teacher found in its images just now, as they are.

    Args:
        detections: one an image, in pixels of the batch that was `seen`.
        batch: the student's.
        classes: how many there are.
        seen: the same images as the teacher saw them.
    """
    found = []
    for one, target, ours, theirs in zip(detections, batch.targets, batch.sizes, seen.sizes, strict=True):
        factor = one.boxes.new_tensor([ours[1] / theirs[1], ours[0] / theirs[0]]).repeat(2)
        there = replace(one, boxes=one.boxes * factor)
        found.append(learnable.objects(there, target, classes=classes).to(batch.images.device))
    return replace(batch, found=tuple(found))
