"""Faster R-CNN as a graph: as many proposals of every image as there can be, and a mask of those that there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import roi_align

from detdistill.detectors.rcnn_losses import RpnOutput
from detdistill.detectors.suppression import unrivalled
from detdistill.detectors.torchvision_parts import clipped

_LEAST_SIDE_PX = 1e-2  # torchvision's, of what is detected
_NEVER = -1.0


def proposed_rows(
    rpn: RegionProposalNetwork, output: RpnOutput, sizes: Int64[Tensor, "b 2"]
) -> tuple[Float[Tensor, "b p 4"], Bool[Tensor, "b p"]]:
    """What `rcnn_losses.proposed` returns in detection, in a fixed number of rows, and which rows hold a box.

    Args:
        sizes: height and width in pixels of each image.
    """
    before, after = rpn._pre_nms_top_n["testing"], rpn._post_nms_top_n["testing"]
    levels, start = [], 0
    for cells in output.cells:
        own = output.objectness[:, start : start + cells]
        # A level may have fewer cells than are chosen.
        none = own.new_full((own.shape[0], before), torch.finfo(own.dtype).min)
        best, places = torch.cat((own, none), dim=1).topk(before, dim=1)
        there = places < cells
        rows = start + torch.where(there, places, 0)
        said = output.deltas.gather(1, rows.unsqueeze(-1).expand(-1, -1, 4))
        decoded = rpn.box_coder.decode_single(said.reshape(-1, 4), output.anchors[rows.reshape(-1)])
        boxes = clipped(decoded.reshape(said.shape), sizes)
        scores = best.sigmoid()
        large = (boxes[..., 2:] - boxes[..., :2] >= rpn.min_size).all(dim=2)
        scores = torch.where(there & large & (scores >= rpn.score_thresh), scores, _NEVER)
        keep = unrivalled(boxes, scores[:, None], rpn.nms_thresh, 0.0, after)[:, 0]
        levels.append((boxes, torch.where(keep, scores, _NEVER)))
        start += cells
    boxes, scores = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
    best, places = scores.topk(min(after, before * len(levels)), dim=1)
    return boxes.gather(1, places.unsqueeze(-1).expand(-1, -1, 4)), best > 0


def refined_rows(
    heads: RoIHeads,
    features: Sequence[Float[Tensor, "b c _h _w"]],
    proposals: Float[Tensor, "b p 4"],
    there: Bool[Tensor, "b p"],
) -> tuple[Float[Tensor, "b p s 4"], Float[Tensor, "b p s"]]:
    """What the second stage makes of the proposals that are there: boxes and scores of every slot, zero elsewhere."""
    count, rows = there.shape
    images = torch.arange(count, device=proposals.device).repeat_interleave(rows).to(proposals.dtype)
    at = there.flatten().nonzero()[:, 0]
    regions = torch.cat((images[:, None], proposals.flatten(0, 1)), dim=1)[at]
    logits, deltas = heads.box_predictor(heads.box_head(_pooled(heads.box_roi_pool, features, regions)))
    decoded = heads.box_coder.decode_single(deltas.float(), regions[:, 1:])
    slots = logits.shape[1]
    shares = logits.float().softmax(dim=1)
    scores = shares.new_zeros(count * rows, slots).index_put((at,), shares)
    boxes = decoded.new_zeros(count * rows, 4 * slots).index_put((at,), decoded.flatten(1))
    return boxes.reshape(count, rows, slots, 4), scores.reshape(count, rows, slots)


def of_size(boxes: Float[Tensor, "b p s 4"], scores: Float[Tensor, "b p s"]) -> Float[Tensor, "b p s"]:
    """The scores, zero for boxes so narrow or low that torchvision leaves them out."""
    return torch.where((boxes[..., 2:] - boxes[..., :2] >= _LEAST_SIDE_PX).all(dim=-1), scores, 0.0)


def _pooled(
    pool: Any, features: Sequence[Float[Tensor, "b c _h _w"]], regions: Float[Tensor, "r 5"]
) -> Float[Tensor, "r c _side _side"]:
    """`MultiScaleRoIAlign` of regions, each with the number of its image, computed in float32."""
    size, ratio, scales = pool.output_size, pool.sampling_ratio, pool.scales
    maps = [level.float() for level in features[: len(scales)]]
    levels = pool.map_levels([regions[:, 1:]]) if len(scales) > 1 else torch.zeros_like(regions[:, 0])
    pooled = maps[0].new_zeros(regions.shape[0], maps[0].shape[1], *size)
    for level, (own, scale) in enumerate(zip(maps, scales, strict=True)):
        at = (levels == level).nonzero()[:, 0]
        pooled = pooled.index_put((at,), roi_align(own, regions[at], size, scale, ratio))
    return pooled.to(features[0].dtype)
