"""Faster R-CNN's proposals and its four losses, per image and level, on outputs that were computed once.

Equal to what torchvision's modules compute in training, without their switches on `module.training` and without
the global generator: what is sampled is drawn from the image's own seed. Sums over the sampled anchors are kept per
image and level, so that the batch's total and each image alone come from the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64, Num, UInt8
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from detdistill.detectors.dense import centres
from detdistill.detectors.nms import best_apart
from detdistill.detectors.torchvision_parts import clipped, encoded, matched
from detdistill.gfl.assign import within_any
from detdistill.types import Targets, sent

# torchvision's smooth L1 turns from quadratic to linear here.
_BETA = 1 / 9
_BITS = (1 << 64) - 1


class Stream(IntEnum):
    """What a draw is for, so that two draws from one seed are independent."""

    ANCHORS = 1
    REGIONS = 2
    MAPS = 3
    QUERIES = 4


def mixed_seed(seed: int, stream: Stream) -> int:
    """A seed whose every bit depends on every bit of `seed` and on the stream, in 0 .. 2⁶⁴ - 1.

    The CPU's generator reads the low 32 bits only, so that raw seeds that differ above would draw the same.
    The mixing is splitmix64's (Steele, Lea and Flood, 2014).
    """
    value = (seed * 0x9E3779B97F4A7C15 + int(stream) * 0xD1B54A32D192ED03) & _BITS
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _BITS
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _BITS
    return value ^ (value >> 31)


@dataclass(frozen=True, slots=True)
class SeededSampler:
    """Draws positives and negatives in a fixed proportion, as torchvision's sampler does, but from given seeds.

    An image draws the same in any batch, on any device and whatever the global generator did before: at most `count`
    of which at most `positive_fraction` are positive.
    """

    seeds: tuple[int, ...]
    stream: Stream
    count: int
    positive_fraction: float

    @classmethod
    def like(cls, torchvisions: Any, seeds: tuple[int, ...], stream: Stream) -> SeededSampler:
        """The seeded twin of a sampler of torchvision's."""
        return cls(seeds, stream, torchvisions.batch_size_per_image, torchvisions.positive_fraction)

    def __call__(self, labels: list[Num[Tensor, " n"]]) -> tuple[list[UInt8[Tensor, " n"]], list[UInt8[Tensor, " n"]]]:
        """Masks of the positives and of the negatives that were drawn, one of each per image.

        Labels are above 0 positive, 0 negative, below 0 neither.
        """
        positives, negatives = [], []
        for of_image, seed in zip(labels, self.seeds, strict=True):
            generator = torch.Generator().manual_seed(mixed_seed(seed, self.stream))
            positive = _drawn(of_image >= 1, int(self.count * self.positive_fraction), generator)
            positives.append(positive)
            negatives.append(_drawn(of_image == 0, self.count - int(positive.sum()), generator))
        return positives, negatives


def _drawn(candidates: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """A mask of `count` of the candidates, or of all where there are fewer."""
    indices = torch.where(candidates)[0]
    order = torch.randperm(len(indices), generator=generator)[:count]
    mask = torch.zeros_like(candidates, dtype=torch.uint8)
    mask[indices[order.to(indices.device)]] = 1
    return mask


@dataclass(frozen=True, slots=True)
class RpnOutput:
    """What the RPN's head said, logits and encoded boxes in float32, with all levels' anchors in one row per image.

    `anchors` are in pixels of the padded image, the same for every image; `cells` says how many are on every level.
    """

    objectness: Float[Tensor, "b n"]
    deltas: Float[Tensor, "b n 4"]
    anchors: Float[Tensor, "n 4"]
    cells: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SampledSums:
    """Two losses summed over what was sampled per image (and level, for the RPN); divide by the count to get a loss."""

    classification: Float[Tensor, "b ..."]
    box: Float[Tensor, "b ..."]
    count: Int64[Tensor, " b"]

    def total(self) -> Float[Tensor, ""]:
        """Both losses of the whole batch, over all that was sampled in it, as torchvision divides."""
        return (self.classification.sum() + self.box.sum()) / self.count.sum().clamp(min=1)

    def by_image(self) -> tuple[Float[Tensor, "b ..."], Float[Tensor, "b ..."]]:
        """Both losses of each image alone; zero where nothing was sampled."""
        count = self.count.clamp(min=1).reshape(-1, *(1,) * (self.classification.ndim - 1))
        return self.classification / count, self.box / count


@dataclass(frozen=True, slots=True)
class SampledRegions:
    """The regions that the second stage learns from: `boxes` per image, in pixels of the padded batch image.

    `labels` (the model's slots, 0 background) and `targets` (encoded boxes of the regions' objects) have all images
    in one row; so have `worth`, how much each region counts, and `classes`, how probable each slot is, where a teacher
    found the objects.
    """

    boxes: list[Float[Tensor, "_r 4"]]
    labels: Int64[Tensor, " r"]
    targets: Float[Tensor, "r 4"]
    worth: Float[Tensor, " r"] | None = None
    classes: Float[Tensor, "r s"] | None = None


def flat_output(
    rpn: RegionProposalNetwork,
    objectness: Sequence[Float[Tensor, "b a _h _w"]],
    deltas: Sequence[Float[Tensor, "b 4a _h _w"]],
) -> RpnOutput:
    """The maps of the RPN's head as rows in the order of its `NominalAnchors`: level, row, column, anchor."""
    logits = [level.permute(0, 2, 3, 1).flatten(1) for level in objectness]
    offsets = [level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, 4) for level in deltas]
    return RpnOutput(
        objectness=torch.cat(logits, dim=1).float(),
        deltas=torch.cat(offsets, dim=1).float(),
        anchors=torch.cat(rpn.anchor_generator.anchors(objectness)),
        cells=tuple(level.shape[1] for level in logits),
    )


def proposed(
    rpn: RegionProposalNetwork,
    output: RpnOutput,
    sizes: Sequence[tuple[int, int]],
    *,
    counts: Literal["training", "testing"],
) -> list[Float[Tensor, "_r 4"]]:
    """The best boxes of every image, clipped to its height and width, as torchvision filters; no gradient flows.

    `counts` says which of the RPN's numbers of boxes to keep, per level before non-maximum suppression and after it.
    """
    before, after = rpn._pre_nms_top_n[counts], rpn._post_nms_top_n[counts]
    logits, deltas = output.objectness.detach(), output.deltas.detach()
    chosen, levels, start = [], [], 0
    for level, cells in enumerate(output.cells):
        best = logits[:, start : start + cells].topk(min(before, cells), dim=1).indices
        chosen.append(best + start)
        levels.append(torch.full((best.shape[1],), level, device=best.device))
        start += cells
    kept, level_of = torch.cat(chosen, dim=1), torch.cat(levels)
    scores = logits.gather(1, kept).sigmoid()
    # Only what was chosen is decoded.
    said = deltas.gather(1, kept.unsqueeze(-1).expand(-1, -1, 4))
    decoded = rpn.box_coder.decode_single(said.reshape(-1, 4), output.anchors[kept.reshape(-1)])
    boxes = clipped(decoded.reshape(*kept.shape, 4), sent(torch.tensor(sizes), decoded.device))
    usable = (boxes[..., 2:] - boxes[..., :2] >= rpn.min_size).all(dim=2) & (scores >= rpn.score_thresh)
    proposals = []
    for own, score, fits in zip(boxes, scores, usable, strict=True):
        rows = fits.nonzero()[:, 0]
        best = best_apart(own[rows], score[rows], level_of[rows], rpn.nms_thresh, most=after)
        proposals.append(own[rows[best]])
    return proposals


def rpn_sums(
    rpn: RegionProposalNetwork, output: RpnOutput, targets: Sequence[Targets], seeds: tuple[int, ...]
) -> SampledSums:
    """The RPN's objectness and box losses, summed over the sampled anchors of every image and level.

    Gradients flow to `output`. The targets are without ignored objects.
    """
    images, levels = len(targets), len(output.cells)
    matches = [matched(rpn.proposal_matcher, target.boxes, output.anchors) for target in targets]
    labels = [
        _undoubted((own.clamp(max=0) + 1).float(), output.anchors, target)
        for own, target in zip(matches, targets, strict=True)
    ]
    positives, negatives = SeededSampler.like(rpn.fg_bg_sampler, seeds, Stream.ANCHORS)(labels)
    sampled = torch.where(torch.stack(positives).bool() | torch.stack(negatives).bool())
    wanted = torch.stack(labels)[sampled]
    classification = functional.binary_cross_entropy_with_logits(output.objectness[sampled], wanted, reduction="none")
    positive = wanted >= 1
    image, anchor = sampled
    boxed = image[positive], anchor[positive]
    firsts = sent(torch.tensor([0, *(len(target.boxes) for target in targets)]).cumsum(0), anchor.device)
    objects = torch.cat([target.boxes for target in targets])[torch.stack(matches)[boxed] + firsts[boxed[0]]]
    goal = encoded(rpn.box_coder, objects, output.anchors[boxed[1]])
    box = functional.smooth_l1_loss(output.deltas[boxed], goal, beta=_BETA, reduction="none").sum(dim=1)
    if any(target.scores is not None for target in targets):
        counts = [_anchors_worth(own, target) for own, target in zip(matches, targets, strict=True)]
        worth = torch.where(positive, torch.stack(counts)[sampled], 1.0)
        classification, box = classification * worth, box * worth[positive]
    ends = sent(torch.tensor(output.cells).cumsum(0), anchor.device)
    group = image * levels + torch.bucketize(anchor, ends, right=True)
    return SampledSums(
        _grouped(classification, group, images * levels).reshape(images, levels),
        _grouped(box, group[positive], images * levels).reshape(images, levels),
        torch.bincount(image, minlength=images),
    )


def _anchors_worth(matches: Int64[Tensor, " n"], target: Targets) -> Float[Tensor, " n"]:
    """How much the object counts that every anchor learns; of the others it says nothing."""
    if target.scores is None or not len(target.boxes):
        return torch.ones_like(matches, dtype=torch.float32)
    return target.scores[matches.clamp(min=0)]


def sampled_regions(
    heads: RoIHeads, proposals: list[Float[Tensor, "_r 4"]], targets: Sequence[Targets], seeds: tuple[int, ...]
) -> SampledRegions:
    """Each image's proposals and the true boxes themselves, matched to the objects and sampled.

    The targets are without ignored objects, labels in the model's slots.
    """
    boxes = [target.boxes.to(proposals[0].dtype) for target in targets]
    candidates = heads.add_gt_proposals(proposals, boxes)
    matched, labels = heads.assign_targets_to_proposals(candidates, boxes, [target.labels for target in targets])
    labels = [_undoubted(*one) for one in zip(labels, candidates, targets, strict=True)]
    drawn = SeededSampler.like(heads.fg_bg_sampler, seeds, Stream.REGIONS)(labels)
    kept_boxes, kept_labels, goals = [], [], []
    worth, classes = list[Tensor](), list[Tensor]()
    for i, (positive, negative) in enumerate(zip(*drawn, strict=True)):
        keep = torch.where(positive | negative)[0]
        kept_boxes.append(candidates[i][keep])
        kept_labels.append(labels[i][keep])
        # An image without objects has background alone, whose box is never compared.
        objects = boxes[i] if len(boxes[i]) else candidates[i].new_zeros((1, 4))
        goals.append(objects[matched[i][keep]])
        for said, column in ((targets[i].scores, worth), (targets[i].probabilities, classes)):
            if said is not None:
                of_objects = said if len(said) else said.new_ones((1, *said.shape[1:]))
                column.append(of_objects[matched[i][keep]])
    offsets = encoded(heads.box_coder, torch.cat(goals), torch.cat(kept_boxes))
    soft = (torch.cat(column) if column else None for column in (worth, classes))
    return SampledRegions(kept_boxes, torch.cat(kept_labels), offsets, *soft)


def roi_sums(logits: Float[Tensor, "r s"], deltas: Float[Tensor, "r 4s"], regions: SampledRegions) -> SampledSums:
    """The second stage's class and box losses, summed over the sampled regions of every image. Gradients flow.

    `logits` and `deltas` (encoded boxes) are per region and slot, 0 background. A region whose class is a distribution
    costs the mean over it; its box is that of its label's slot.
    """
    counts = sent(torch.tensor([len(boxes) for boxes in regions.boxes]), logits.device)
    image = torch.arange(len(counts), device=logits.device).repeat_interleave(counts, output_size=len(logits))
    classification = functional.cross_entropy(logits.float(), regions.labels, reduction="none")
    if regions.classes is not None:
        mixed = -(regions.classes * logits.float().log_softmax(dim=1)).sum(dim=1)
        classification = torch.where(regions.labels > 0, mixed, classification)
    positive = torch.where(regions.labels > 0)[0]
    said = deltas.float().reshape(*logits.shape, 4)[positive, regions.labels[positive]]
    box = functional.smooth_l1_loss(said, regions.targets[positive], beta=_BETA, reduction="none").sum(dim=1)
    if regions.worth is not None:
        worth = torch.where(regions.labels > 0, regions.worth, 1.0)
        classification, box = classification * worth, box * worth[positive]
    images = len(counts)
    return SampledSums(_grouped(classification, image, images), _grouped(box, image[positive], images), counts)


def _undoubted(labels: Num[Tensor, " n"], boxes: Float[Tensor, "n 4"], targets: Targets) -> Num[Tensor, " n"]:
    """What boxes learn, by torchvision's labels: -1, which is not sampled, for background that a teacher doubts."""
    if targets.doubtful is None:
        return labels
    return labels.masked_fill(within_any(centres(boxes), targets.doubtful) & (labels == 0), -1)


def _grouped(values: Float[Tensor, " n"], group: Int64[Tensor, " n"], groups: int) -> Float[Tensor, " g"]:
    """Sums of the values of each group; connected to the graph where there is none, and deterministic."""
    return (functional.one_hot(group, groups).to(values.dtype) * values.unsqueeze(1)).sum(dim=0)
