"""Which cells learn which object: adaptive training sample selection (ATSS), and the region around its positives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

ANCHOR_SCALE = 8.0
CANDIDATES = 9
BACKGROUND = -1
REGION_SHARE = 0.25
# Pairs of a cell and a box that are compared at once: where images are small, more of them take no longer than one.
_AT_ONCE = 1 << 16


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of a pyramid, level by level, fine to coarse, row by row.

    Attributes:
        points: x and y of every cell in pixels: column · stride and row · stride.
        strides: pixels per cell of the level that every cell belongs to.
        counts: cells per level.
    """

    points: Float[Tensor, "n 2"]
    strides: Float[Tensor, " n"]
    counts: tuple[int, ...]

    def anchors(self, scale: float) -> Float[Tensor, "n 4"]:
        """One square around every cell's point, `scale` strides wide, in pixels."""
        half = (self.strides * (scale / 2))[:, None]
        return torch.cat((self.points - half, self.points + half), dim=1)

    def inside(self, size: tuple[int, int]) -> Bool[Tensor, " n"]:
        """Which cells lie inside an image of this height and width in pixels."""
        height, width = size
        return (self.points[:, 0] < width) & (self.points[:, 1] < height)


@dataclass(frozen=True, slots=True)
class Match:
    """What the cells of one image learn.

    Attributes:
        matched: index of the object that every cell learns, or BACKGROUND.
        thresholds: the overlap from which on a cell learns each object, in [0, 1].
    """

    matched: Int64[Tensor, " n"]
    thresholds: Float[Tensor, " m"]


def make_cells(grids: Sequence[tuple[int, int]], strides: Sequence[int], *, device: torch.device) -> Cells:
    """The cells of a pyramid with so many rows and columns, and nominal pixels per cell, on every level."""
    points, widths = [], []
    for (rows, columns), stride in zip(grids, strides, strict=True):
        y, x = (torch.arange(count, device=device) * stride for count in (rows, columns))
        points.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2).float())
        widths.append(torch.full((rows * columns,), float(stride), device=device))
    return Cells(torch.cat(points), torch.cat(widths), tuple(rows * columns for rows, columns in grids))


def match_by_atss(
    boxes: Float[Tensor, "m 4"], cells: Cells, *, size: tuple[int, int], scale: float = ANCHOR_SCALE
) -> Match:
    """Which object every cell of one image learns.

    The candidates of an object are the 9 cells of each level whose points are nearest to its centre, of those
    inside the image (of equally near ones the first). With the overlap (IoU) of a candidate's anchor and the object,
    the object's threshold is mean + standard deviation (of a sample) over its candidates, at most their highest
    overlap. The source has no such bound, and on few levels some objects teach no cell there: of 480 boxes with random
    sides of 8 to 120 pixels on strides 8, 16 and 32 it is 28, here none. A candidate learns the object when its
    overlap reaches the threshold and its point lies inside the box; one that could learn several takes the one it
    overlaps most. Cells in the padding are background, so that an image's matches are its own. Boxes and `size`, height
    and width of the image, are in pixels, `scale`, the side of the anchors, in strides.
    """
    background = torch.full_like(cells.points[:, 0], BACKGROUND, dtype=torch.int64)
    if len(boxes) == 0:
        return Match(background, cells.points.new_zeros(0))
    boxes = boxes.float()
    chosen, real = _candidates(boxes, cells, cells.inside(size))
    overlaps = box_overlaps(cells.anchors(scale)[chosen], boxes[:, None])[0]
    number = real.sum(dim=1, keepdim=True).clamp(min=1)
    mean = torch.where(real, overlaps, 0.0).sum(dim=1, keepdim=True) / number
    squares = torch.where(real, (overlaps - mean).square(), 0.0).sum(dim=1, keepdim=True)
    spread = (squares / (number - 1).clamp(min=1)).sqrt()
    highest = torch.where(real, overlaps, 0.0).amax(dim=1, keepdim=True)
    thresholds = torch.minimum(mean + spread, highest)
    within = box_distances(boxes[:, None], cells.points[chosen]).amin(dim=2) > 0
    learns = real & within & (overlaps >= thresholds)
    table = overlaps.new_full((len(boxes), len(background)), -1.0)
    table.scatter_(1, chosen, torch.where(learns, overlaps, -1.0))
    best, matched = table.max(dim=0)
    return Match(torch.where(best >= 0, matched, background), thresholds[:, 0])


def _candidates(
    boxes: Float[Tensor, "m 4"], cells: Cells, inside: Bool[Tensor, " n"]
) -> tuple[Int64[Tensor, "m c"], Bool[Tensor, "m c"]]:
    """The cells nearest to each centre on every level, and which of them are inside the image."""
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2)[:, None].unbind(dim=2)
    squares = (x - cells.points[:, 0]).square() + (y - cells.points[:, 1]).square()
    # Numbers of no sign are in the order of their bits: with its place behind, no cell is as near as another.
    order = squares.masked_fill(~inside, torch.inf).view(torch.int32).long() << 32
    order += torch.arange(len(inside), device=order.device)
    chosen, first = [], 0
    for level in torch.split(order, list(cells.counts), dim=1):
        nearest = level.topk(min(CANDIDATES, level.shape[1]), dim=1, largest=False)
        chosen.append(first + nearest.indices)
        first += level.shape[1]
    together = torch.cat(chosen, dim=1)
    return together, inside[together]


def valuable_region(
    boxes: Float[Tensor, "m 4"], cells: Cells, match: Match, *, size: tuple[int, int], scale: float = ANCHOR_SCALE
) -> Float[Tensor, " n"]:
    """How well the cells around an image's positives see an object: its IoU with their anchor; 0 at all other cells.

    Those inside the image that learn nothing and whose anchor's DIoU with an object (IoU − squared distance of the
    centres / squared diagonal of the common hull) lies between a quarter of its threshold and the threshold; of
    several objects the one overlapped most counts. The arguments are those of `match_by_atss`, which gave the match.
    """
    background = cells.inside(size) & (match.matched == BACKGROUND)
    if len(boxes) == 0:
        return torch.zeros_like(cells.strides)
    anchors, boxes = cells.anchors(scale)[:, None], boxes.float()
    overlaps, hull = box_overlaps(anchors, boxes)[0], _hull(anchors, boxes)
    apart = (anchors[..., :2] + anchors[..., 2:] - boxes[:, :2] - boxes[:, 2:]) / 2
    distances = overlaps - apart.square().sum(dim=2) / hull.square().sum(dim=2)
    near = (distances >= REGION_SHARE * match.thresholds) & (distances < match.thresholds)
    return torch.where(near & background[:, None], overlaps, 0.0).amax(dim=1)


def looks_everywhere(device: torch.device) -> bool:
    """Whether all cells are computed rather than those that matter: to count these the host would wait for a GPU."""
    return device.type != "cpu"


def places(mask: Bool[Tensor, "*cells"]) -> tuple[Int64[Tensor, " p"], ...]:
    """The indices along every axis where the mask is true; of every place where `looks_everywhere` says so."""
    if not looks_everywhere(mask.device):
        return torch.nonzero(mask, as_tuple=True)
    # As torch.unravel_index, which copies the shape to the device and waits for that.
    rest, found = torch.arange(mask.numel(), device=mask.device), list[Tensor]()
    for size in reversed(mask.shape):
        found.append(rest % size)
        rest = rest // size
    return tuple(reversed(found))


def within_any(points: Float[Tensor, "n 2"], boxes: Float[Tensor, "*b m 4"]) -> Bool[Tensor, "*b n"]:
    """Which points lie in one of the boxes of each image, or in several."""
    (x, y), (left, top, right, bottom) = points.unbind(dim=1), boxes[..., None].unbind(dim=-2)
    return ((x >= left) & (x < right) & (y >= top) & (y < bottom)).any(dim=-2)


def cells_within_any(points: Float[Tensor, "n 2"], boxes: Sequence[Float[Tensor, "_m 4"]]) -> Bool[Tensor, "b n"]:
    """The same of the cells of pyramids, whose points lie in few columns and rows, and of several images."""
    if looks_everywhere(points.device):
        return torch.cat([within_any(points, some) for some in together(boxes, cells=len(points))])
    # A point is in a box where its column and its row are.
    (columns, column), (rows, row) = (torch.unique(one, return_inverse=True) for one in points.unbind(dim=1))
    found = []
    for some in together(boxes, cells=len(columns) + len(rows)):
        left, top, right, bottom = some[..., None].unbind(dim=2)
        across, down = ((columns >= left) & (columns < right)).float(), ((rows >= top) & (rows < bottom)).float()
        found.append((down.mT @ across)[:, row, column] > 0)
    return torch.cat(found)


def together(boxes: Sequence[Float[Tensor, "_m 4"]], *, cells: int) -> Iterator[Float[Tensor, "_b _m 4"]]:
    """The boxes of `some_images` at a time, filled up by empty ones."""
    for some in some_images(boxes, cells=cells):
        yield pad_sequence(some, batch_first=True)


def some_images(boxes: Sequence[Float[Tensor, "_m 4"]], *, cells: int) -> Iterator[list[Float[Tensor, "_m 4"]]]:
    """The boxes of as many images at a time as can be held against so many cells at once."""
    most = max((len(one) for one in boxes), default=0)
    count = max(1, _AT_ONCE // max(1, cells * most))
    for first in range(0, len(boxes), count):
        yield list(boxes[first : first + count])


def box_distances(boxes: Float[Tensor, "*#p 4"], points: Float[Tensor, "*#p 2"]) -> Float[Tensor, "*p 4"]:
    """How far the left, top, right and bottom edges lie from the points, in pixels; negative outside the box."""
    return torch.cat((points - boxes[..., :2], boxes[..., 2:] - points), dim=-1)


def boxes_at(distances: Float[Tensor, "*#p 4"], points: Float[Tensor, "*#p 2"]) -> Float[Tensor, "*p 4"]:
    """The boxes whose edges lie so far from the points: the inverse of `box_distances`. Gradients flow."""
    return torch.cat((points - distances[..., :2], points + distances[..., 2:]), dim=-1)


def box_overlaps(
    first: Float[Tensor, "*#p 4"], second: Float[Tensor, "*#p 4"]
) -> tuple[Float[Tensor, "*p"], Float[Tensor, "*p"]]:
    """IoU in [0, 1] and generalised IoU in [−1, 1] of boxes, pair by pair. Gradients flow.

    GIoU = IoU − (hull − union) / hull, where the hull is the smallest box around both. Empty pairs give 0.
    """
    corner = torch.maximum(first[..., :2], second[..., :2])
    overlap = _product((torch.minimum(first[..., 2:], second[..., 2:]) - corner).clamp(min=0))
    union = _area(first) + _area(second) - overlap
    hull = _product(_hull(first, second))
    tiny = torch.finfo(union.dtype).tiny
    iou = overlap / union.clamp(min=tiny)
    return iou, iou - (hull - union) / hull.clamp(min=tiny)


def _area(boxes: Tensor) -> Tensor:
    return _product(boxes[..., 2:] - boxes[..., :2])


def _product(sides: Tensor) -> Tensor:
    """Width times height; the gradient of `Tensor.prod` looks for zeros, for which the host waits for a GPU."""
    return sides[..., 0] * sides[..., 1]


def _hull(first: Tensor, second: Tensor) -> Tensor:
    """Width and height of the smallest box around each pair."""
    return torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(first[..., :2], second[..., :2])
