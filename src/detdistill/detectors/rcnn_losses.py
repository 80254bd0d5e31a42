"""Faster R-CNN's proposals and its four losses, per image and level, on outputs that were computed once.

Equal to what torchvision's modules compute in training, without their switches on `module.training` and without
the global generator. Sums over the sampled anchors are kept per image and level, so that the batch's total and
each image alone come from the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import boxes as box_ops

from detdistill.detectors.sampler import SeededSampler
from detdistill.types import Targets

# torchvision's smooth L1 turns from quadratic to linear here.
_BETA = 1 / 9


@dataclass(frozen=True, slots=True)
class RpnOutput:
    """What the RPN's head said, in float32, with every level's cells and anchors in one row per image.

    Attributes:
        objectness: logits.
        deltas: encoded boxes.
        anchors: pixels of the padded image; the same for every image.
        cells: anchors on every level.
    """

    objectness: Float[Tensor, "b n"]
    deltas: Float[Tensor, "b n 4"]
    anchors: Float[Tensor, "n 4"]
    cells: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SampledSums:
    """Two losses summed over what was sampled, and how much that was; divide to get a loss.

    Attributes:
        classification: sums per image (and level, for the RPN).
        box: sums per image (and level, for the RPN).
        count: how many anchors or regions each image had sampled.
    """

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
    """The regions that the second stage learns from, image after image.

    Attributes:
        boxes: per image, in pixels of the padded batch image.
        labels: the model's slots, 0 background; all images in one row.
        targets: encoded boxes of the objects that the regions belong to; all images in one row.
    """

    boxes: list[Float[Tensor, "_r 4"]]
    labels: Int64[Tensor, " r"]
    targets: Float[Tensor, "r 4"]


def flat_output(
    objectness: Sequence[Float[Tensor, "b a _h _w"]],
    deltas: Sequence[Float[Tensor, "b 4a _h _w"]],
    anchors: Float[Tensor, "n 4"],
) -> RpnOutput:
    """The head's maps as rows in the order of the anchors: level, row, column, anchor."""
    batch = objectness[0].shape[0]
    logits = [level.permute(0, 2, 3, 1).reshape(batch, -1) for level in objectness]
    encoded = [level.permute(0, 2, 3, 1).reshape(batch, -1, 4) for level in deltas]
    return RpnOutput(
        objectness=torch.cat(logits, dim=1).float(),
        deltas=torch.cat(encoded, dim=1).float(),
        anchors=anchors,
        cells=tuple(level.shape[1] for level in logits),
    )


def proposed(
    rpn: RegionProposalNetwork,
    output: RpnOutput,
    sizes: Sequence[tuple[int, int]],
    *,
    counts: Literal["training", "testing"],
) -> list[Float[Tensor, "_r 4"]]:
    """The best boxes of every image, as torchvision filters them; no gradient flows.

    Args:
        rpn: its box coder and thresholds.
        output: what its head said.
        sizes: height and width of every image, to which boxes are clipped.
        counts: which of the RPN's numbers of boxes to keep, per level before non-maximum suppression and after it.
    """
    before, after = rpn._pre_nms_top_n[counts], rpn._post_nms_top_n[counts]
    logits, deltas = output.objectness.detach(), output.deltas.detach()
    chosen, levels, start = [], [], 0
    for level, cells in enumerate(output.cells):
        best = logits[:, start : start + cells].topk(min(before, cells), dim=1).indices
        chosen.append(best + start)
        levels.append(torch.full((best.shape[1],), level, device=best.device))
        start += cells
    kept = torch.cat(chosen, dim=1)
    level_of = torch.cat(levels)
    scores = logits.gather(1, kept).sigmoid()
    # Only what was chosen is decoded.
    encoded = deltas.gather(1, kept.unsqueeze(-1).expand(-1, -1, 4))
    decoded = rpn.box_coder.decode_single(encoded.reshape(-1, 4), output.anchors[kept.reshape(-1)])
    proposals = []
    for boxes, score, size in zip(decoded.reshape(*kept.shape, 4), scores, sizes, strict=True):
        clipped = box_ops.clip_boxes_to_image(boxes, size)
        extent = clipped[:, 2:] - clipped[:, :2]
        keep = torch.where((extent >= rpn.min_size).all(dim=1) & (score >= rpn.score_thresh))[0]
        best = box_ops.batched_nms(clipped[keep], score[keep], level_of[keep], rpn.nms_thresh)[:after]
        proposals.append(clipped[keep[best]])
    return proposals


def rpn_sums(
    rpn: RegionProposalNetwork, output: RpnOutput, targets: Sequence[Targets], sampler: SeededSampler
) -> SampledSums:
    """The RPN's objectness and box losses, summed over the sampled anchors of every image and level.

    Gradients flow to `output`. The targets are without ignored objects.
    """
    images, levels = len(targets), len(output.cells)
    described = [{"boxes": target.boxes} for target in targets]
    labels, matched = rpn.assign_targets_to_anchors([output.anchors] * images, described)
    positives, negatives = sampler(labels)
    image, anchor = torch.where(torch.stack(positives).bool() | torch.stack(negatives).bool())
    wanted = torch.stack(labels)[image, anchor]
    classification = functional.binary_cross_entropy_with_logits(
        output.objectness[image, anchor], wanted, reduction="none"
    )
    positive = wanted >= 1
    image_of_box, anchor_of_box = image[positive], anchor[positive]
    goal = rpn.box_coder.encode_single(torch.stack(matched)[image_of_box, anchor_of_box], output.anchors[anchor_of_box])
    box = functional.smooth_l1_loss(output.deltas[image_of_box, anchor_of_box], goal, beta=_BETA, reduction="none").sum(
        dim=1
    )

    ends = torch.tensor(output.cells, device=anchor.device).cumsum(0)
    group = image * levels + torch.bucketize(anchor, ends, right=True)
    return SampledSums(
        classification=_grouped(classification, group, images * levels).reshape(images, levels),
        box=_grouped(box, group[positive], images * levels).reshape(images, levels),
        count=torch.bincount(image, minlength=images),
    )


def sampled_regions(
    heads: RoIHeads, proposals: list[Float[Tensor, "_r 4"]], targets: Sequence[Targets], sampler: SeededSampler
) -> SampledRegions:
    """Each image's proposals and the true boxes themselves, matched to the objects and sampled.

    The targets are without ignored objects, labels in the model's slots.
    """
    boxes = [target.boxes.to(proposals[0].dtype) for target in targets]
    candidates = heads.add_gt_proposals(proposals, boxes)
    matched, labels = heads.assign_targets_to_proposals(candidates, boxes, [target.labels for target in targets])
    kept_boxes, kept_labels, goals = [], [], []
    for i, (positive, negative) in enumerate(zip(*sampler(labels), strict=True)):
        keep = torch.where(positive | negative)[0]
        kept_boxes.append(candidates[i][keep])
        kept_labels.append(labels[i][keep])
        # An image without objects has background alone, whose box is never compared.
        objects = boxes[i] if len(boxes[i]) else candidates[i].new_zeros((1, 4))
        goals.append(objects[matched[i][keep]])
    every_box = torch.cat(kept_boxes)
    return SampledRegions(
        boxes=kept_boxes,
        labels=torch.cat(kept_labels),
        targets=heads.box_coder.encode_single(torch.cat(goals), every_box),
    )


def roi_sums(logits: Float[Tensor, "r s"], deltas: Float[Tensor, "r 4s"], regions: SampledRegions) -> SampledSums:
    """The second stage's class and box losses, summed over the sampled regions of every image.

    Args:
        logits: per region and slot, 0 background; gradients flow.
        deltas: encoded boxes per region and slot; gradients flow.
        regions: what they are compared with.
    """
    counts = torch.tensor([len(boxes) for boxes in regions.boxes], device=logits.device)
    image = torch.arange(len(counts), device=logits.device).repeat_interleave(counts)
    classification = functional.cross_entropy(logits.float(), regions.labels, reduction="none")
    positive = torch.where(regions.labels > 0)[0]
    encoded = deltas.float().reshape(*logits.shape, 4)[positive, regions.labels[positive]]
    box = functional.smooth_l1_loss(encoded, regions.targets[positive], beta=_BETA, reduction="none").sum(dim=1)
    return SampledSums(
        classification=_grouped(classification, image, len(counts)),
        box=_grouped(box, image[positive], len(counts)),
        count=counts,
    )


def _grouped(values: Float[Tensor, " n"], group: Int64[Tensor, " n"], groups: int) -> Float[Tensor, " g"]:
    """Sums of the values of each group; connected to the graph where there is none, and deterministic."""
    return (functional.one_hot(group, groups).to(values.dtype) * values.unsqueeze(1)).sum(dim=0)
