"""Non-maximum suppression as one operation of a graph: what it returns has the shape of what it is given."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from detdistill.detectors.base import Limits
from detdistill.types import Candidates


@torch.library.custom_op("detdistill::unrivalled", mutates_args=())
def unrivalled(boxes: Tensor, scores: Tensor, overlap: float, score: float, most: int) -> Tensor:
    """Which boxes of each class no better one of it overlaps by more than `overlap`; no gradient flows.

    Args:
        boxes: (b, n, 4).
        scores: (b, k, n); only those above `score` count, of each class the `most` best.

    Returns:
        A mask (b, k, n).
    """
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for places, said, mask in zip(boxes, scores, keep, strict=True):
        for own, kept in zip(said, mask, strict=True):
            above = (own > score).nonzero()[:, 0]
            kept[above[nms(places[above], own[above], overlap)[:most]]] = True
    return keep


@unrivalled.register_fake
def _shape(boxes: Tensor, scores: Tensor, overlap: float, score: float, most: int) -> Tensor:
    del boxes, overlap, score, most
    return torch.empty_like(scores, dtype=torch.bool)


def sorted_out(candidates: Candidates, limits: Limits) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The detections among the candidates, in a fixed number of rows.

    Returns:
        Boxes (b, m, 4), scores (b, m) and labels (b, m), best first and zero where there are no more, and how many
        there are (b); m is the most that there can be.
    """
    boxes, scores = candidates.boxes, candidates.scores.transpose(1, 2)
    count, classes, rows = scores.shape
    own = boxes.dim() == 4
    if own:  # every class's boxes are an image of their own
        boxes = boxes.transpose(1, 2).reshape(count, classes * rows, 4)
    if limits.overlap is None:
        keep = scores > limits.score
    elif own:
        grouped = boxes.reshape(count * classes, rows, 4), scores.reshape(count * classes, 1, rows)
        keep = unrivalled(*grouped, limits.overlap, limits.score, limits.most).reshape(scores.shape)
    else:
        keep = unrivalled(boxes, scores, limits.overlap, limits.score, limits.most)
    held = torch.where(keep, scores, 0.0).flatten(1)
    # There may be fewer candidates than rows.
    best, places = torch.cat((held, held.new_zeros(count, limits.most)), dim=1).topk(limits.most, dim=1)
    there = best > 0
    places = torch.where(there, places, 0)
    of_class = places.new_full((), rows)  # the exporter divides by no whole number of its own
    chosen = places if own else places % of_class
    found = boxes.gather(1, chosen[..., None].expand(-1, -1, 4))
    return torch.where(there[..., None], found, 0.0), best, places // of_class, there.sum(dim=1)
