"""From what a detector says at every anchor to what it finds: of all images at once, but for the suppression."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from detdistill.detectors.base import Detector
from detdistill.detectors.torchvision_parts import clipped
from detdistill.types import Detections, sent


def find_best(
    detector: Detector,
    scores: Float[Tensor, "b n k"],
    classes: Float[Tensor, "b n k"],
    decode: Callable[[Int64[Tensor, " p"], Int64[Tensor, " p"]], Float[Tensor, "p 4"]],
    *,
    counts: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    threshold: float,
    candidates: int,
    overlap: float,
    most: int,
) -> tuple[Detections, ...]:
    """What a dense detector finds in each image: each level's best candidates, decoded, and suppressed together.

    Args:
        scores: of every anchor, level by level.
        classes: the probabilities of its classes.
        decode: the boxes of some anchors, in pixels, by each one's image and anchor.
        counts: anchors per level.
        sizes: height and width of each image in pixels, which boxes are clipped to.
        threshold: a candidate's score is above it; there are at most so many `candidates` a level.
        overlap: the IoU above which boxes suppress each other; `most` are left.
    """
    levels = torch.split(scores, list(counts), dim=1)
    passed = torch.cat([_passed(level, threshold, candidates) for level in levels], dim=1)
    image, anchor, labels = passed.nonzero().unbind(dim=1)
    boxes = clipped_rows(decode(image, anchor), image, sizes)
    rows = boxes, scores[image, anchor, labels], labels, classes[image, anchor]
    parts = each_image(rows, image, count=len(sizes))
    return tuple(detector.suppress(one, threshold=overlap, most=most) for one in parts)


def _passed(scores: Float[Tensor, "b n k"], threshold: float, most: int) -> Bool[Tensor, "b n k"]:
    """Which scores of a level are above the threshold and among the best of their image."""
    above = scores > threshold
    flat = above.flatten(1)
    if flat.shape[1] <= most or int(flat.sum(dim=1).max()) <= most:
        return above
    best = torch.where(flat, scores.flatten(1), -torch.inf).topk(most, dim=1, sorted=False).indices
    return torch.zeros_like(flat).scatter(1, best, True).logical_and(flat).view_as(above)


def clipped_rows(
    boxes: Float[Tensor, "p 4"], image: Int64[Tensor, " p"], sizes: Sequence[tuple[int, int]]
) -> Float[Tensor, "p 4"]:
    """Boxes within the image that each belongs to, of such height and width in pixels."""
    return clipped(boxes, sent(torch.tensor(sizes), boxes.device)[image])


def each_image(
    rows: tuple[Float[Tensor, "p 4"], Float[Tensor, " p"], Int64[Tensor, " p"], Float[Tensor, "p k"]],
    image: Int64[Tensor, " p"],
    *,
    count: int,
) -> Iterator[Detections]:
    """What belongs to each of so many images of boxes, scores, labels and probabilities, which are in their order."""
    own = torch.bincount(image, minlength=count).tolist()
    return (Detections(*one) for one in zip(*(torch.split(column, own) for column in rows), strict=True))
