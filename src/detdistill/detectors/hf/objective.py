"""The losses of transformers' models against objects that count by a weight and are of a class by a distribution.

With weights of 1 and certain classes each equals the model's own loss, noisy labels apart: these need certain ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_convert, box_iou, generalized_box_iou

from detdistill.gfl.assign import within_any

ClassCosts = tuple[Float[Tensor, "m k"], Float[Tensor, "m k"]]
"""The cost of every class logit of a query that is of the class, and of one that is not."""

# DETR's descendants with sigmoid scores match by these, whatever their loss has.
_FOCAL_MATCH = (0.25, 2.0)
_TINY = 1e-8


@dataclass(frozen=True, slots=True)
class Objects:
    """What there is to find in an image.

    Attributes:
        boxes: centre, width and height as shares of the frame.
        shares: of which of the model's class slots each is: rows that add up to 1.
        weights: how much each counts, above 0.
        doubtful: x1, y1, x2, y2 as shares of the frame: a query whose box's centre lies here does not learn to say
            nothing.
    """

    boxes: Float[Tensor, "n 4"]
    shares: Float[Tensor, "n k"]
    weights: Float[Tensor, " n"]
    doubtful: Float[Tensor, "_d 4"]


@dataclass(frozen=True, slots=True)
class Layer:
    """What the queries say after one layer.

    Attributes:
        logits: of kind SOFTMAX with one more, the last: no object.
        boxes: centre, width and height as shares of the frame.
        corners: of a D-FINE, logits over the bins of its four edges.
        points: what these edges are measured from.
    """

    logits: Float[Tensor, "b q s"]
    boxes: Float[Tensor, "b q 4"]
    corners: Float[Tensor, "b q _"] | None = None
    points: Float[Tensor, "b q 4"] | None = None


@dataclass(frozen=True, slots=True)
class _Matched:
    """Which query of which image is which object, one to one; the objects' values are in the pairs' order."""

    image: Int64[Tensor, " m"]
    query: Int64[Tensor, " m"]
    boxes: Float[Tensor, "m 4"]
    shares: Float[Tensor, "m k"]
    weights: Float[Tensor, " m"]

    def of(self, values: Float[Tensor, "b q ..."]) -> Float[Tensor, "m ..."]:
        """The rows of the matched queries."""
        return values[self.image, self.query]


@dataclass(frozen=True, slots=True)
class Match:
    """What a model's Hungarian match costs: class, L1 and GIoU.

    Attributes:
        focal: alpha and gamma of the class cost of sigmoid scores; None: the share of a softmax.
        groups: so many sets of queries are matched apart.
    """

    classes: float
    box: float
    overlap: float
    focal: tuple[float, float] | None = _FOCAL_MATCH
    groups: int = 1

    @torch.no_grad()
    def __call__(self, layer: Layer, objects: Sequence[Objects]) -> _Matched:
        """Every object's query: the weighed sum of the costs is least, a class in doubt costs the mean over it."""
        from scipy.optimize import linear_sum_assignment

        found = list[tuple[Tensor, Tensor, Tensor]]()
        for at, one in enumerate(objects):
            logits, boxes = layer.logits[at], layer.boxes[at]
            corners = (box_convert(part, "cxcywh", "xyxy") for part in (boxes, one.boxes))
            classes = self._class_costs(logits)[:, : one.shares.shape[1]] @ one.shares.T
            costs = self.box * torch.cdist(boxes, one.boxes, p=1) + self.classes * classes
            costs = (costs - self.overlap * generalized_box_iou(*corners)) * one.weights
            most = torch.finfo(costs.dtype).max
            cells = torch.nan_to_num(costs, nan=most, posinf=most, neginf=most).cpu()
            size = len(cells) // self.groups
            for first in range(0, len(cells), size):
                pairs = linear_sum_assignment(cells[first : first + size])
                query, which = (torch.as_tensor(part, dtype=torch.int64, device=logits.device) for part in pairs)
                found.append((torch.full_like(query, at), query + first, which))
        image, query, which = (torch.cat(parts) for parts in zip(*found, strict=True))
        starts = torch.tensor([0, *(len(one.boxes) for one in objects)], device=image.device).cumsum(0)
        rows = starts[image] + which
        boxes, shares, weights = (
            torch.cat([getattr(one, name) for one in objects])[rows] for name in ("boxes", "shares", "weights")
        )
        return _Matched(image, query, boxes, shares, weights)

    def _class_costs(self, logits: Float[Tensor, "q s"]) -> Float[Tensor, "q s"]:
        if self.focal is None:
            return -logits.softmax(dim=-1)
        (alpha, gamma), shares = self.focal, logits.sigmoid()
        none = (1 - alpha) * shares**gamma * -(1 - shares + _TINY).log()
        return alpha * (1 - shares) ** gamma * -(shares + _TINY).log() - none


@dataclass(frozen=True, slots=True)
class Objective:
    """A model's own loss, of each of its layers: gains of class, L1 and GIoU costs, and what the class costs.

    Attributes:
        cost: of the class logits of queries, whose boxes overlap their objects by the IoUs; None: a softmax's cross
            entropy.
        nothing: how much a query without an object counts in a softmax's.
        local: what else a D-FINE's layers cost; see `Local`.
    """

    match: Match
    classes: float
    box: float
    overlap: float
    cost: Callable[[Float[Tensor, "m k"], Float[Tensor, "m 1"]], ClassCosts] | None = None
    nothing: float = 1.0
    local: Local | None = None

    def __call__(self, layers: Sequence[Layer], objects: Sequence[Objects]) -> tuple[Tensor, Tensor, Tensor]:
        """The whole loss, and the class and box losses of the last layer in it. Gradients flow to all layers.

        Args:
            layers: the last first.
            objects: of every image; those that a query is matched with cost their weight's part, the other queries
                learn to say nothing, but where the objects are in doubt.
        """
        count = max(1.0, float(self.match.groups * sum(len(one.boxes) for one in objects)))
        total = layers[0].logits.new_zeros(())
        last = list[Tensor]()
        for layer in layers:
            matched = self.match(layer, objects)
            classes = self.classes * self._class_loss(layer, matched, objects, count)
            boxes = self._box_loss(layer, matched) / count
            total = total + classes + boxes
            last = last or [classes, boxes]
            if self.local is not None and layer.corners is not None and layer is not layers[0]:
                total = total + self.local(layer, layers[0], matched, count)
        return total, last[0], last[1]

    def _class_loss(self, layer: Layer, matched: _Matched, objects: Sequence[Objects], count: float) -> Tensor:
        rows, nothing = matched.of(layer.logits), _nothing(layer, matched, objects)
        if self.cost is None:
            logs = layer.logits.log_softmax(dim=-1)
            own = -(matched.of(logs)[:, :-1] * matched.shares).sum(dim=1) * matched.weights
            unmatched = logs[..., 0].numel() - len(own)
            return (own.sum() - self.nothing * logs[..., -1][nothing].sum()) / (len(own) + self.nothing * unmatched)
        own, other = self.cost(rows, _overlaps(layer, matched)[:, None])
        seen = ((matched.shares * own + (1 - matched.shares) * other).sum(dim=1) * matched.weights).sum()
        left = layer.logits[nothing]
        return (seen + self.cost(left, left.new_zeros(len(left), 1))[1].sum()) / count

    def _box_loss(self, layer: Layer, matched: _Matched) -> Tensor:
        boxes = matched.of(layer.boxes)
        apart = functional.l1_loss(boxes, matched.boxes, reduction="none").sum(dim=1)
        corners = (box_convert(part, "cxcywh", "xyxy") for part in (boxes, matched.boxes))
        overlap: Tensor = 1 - generalized_box_iou(*corners).diag()
        return ((self.box * apart + self.overlap * overlap) * matched.weights).sum()


@dataclass(frozen=True, slots=True)
class Local:
    """What D-FINE's layers cost beside classes and boxes: their edges' bins, and how these differ from the last's.

    Attributes:
        fine: gain of the bins' cost against the objects' edges (FGL).
        passed: gain of the divergence from the last layer's bins (DDF).
        bins: the highest bin.
        scale: how the bins are spaced, with `up`.
    """

    fine: float
    passed: float
    bins: int
    scale: float
    up: float
    temperature: float = 5.0

    def __call__(self, layer: Layer, last: Layer, matched: _Matched, count: float) -> Tensor:
        """The cost of a layer; gradients flow to its corners."""
        from transformers.loss.loss_d_fine import bbox2distance

        assert layer.corners is not None
        assert layer.points is not None
        assert last.corners is not None
        width = self.bins + 1
        overlaps = _overlaps(layer, matched)
        rows = matched.of(layer.corners).reshape(-1, width)
        with torch.no_grad():
            up = torch.tensor([self.up], device=rows.device)
            edges = box_convert(matched.boxes, "cxcywh", "xyxy")
            place, right, left = bbox2distance(matched.of(layer.points), edges, self.bins, self.scale, up)
        bins = place.long()
        fine = functional.cross_entropy(rows, bins, reduction="none") * left
        fine = fine + functional.cross_entropy(rows, bins + 1, reduction="none") * right
        total: Tensor = self.fine * (fine * (overlaps * matched.weights).repeat_interleave(4)).sum() / count
        said, shown = layer.corners.reshape(-1, width), last.corners.detach().reshape(-1, width)
        if torch.equal(said, shown):
            return total + said.sum() * 0
        sure = last.logits.detach().sigmoid().amax(dim=-1)
        sure[matched.image, matched.query] = overlaps * matched.weights
        taken = torch.zeros_like(sure, dtype=torch.bool)
        taken[matched.image, matched.query] = True
        heat = self.temperature
        apart = functional.kl_div(
            functional.log_softmax(said / heat, dim=1), functional.softmax(shown / heat, dim=1), reduction="none"
        ).sum(dim=1)
        apart = (heat**2 * apart).view(*sure.shape, 4).mean(dim=-1) * sure
        parts = list[tuple[Tensor, Tensor]]()
        for one in (taken, ~taken):
            cells = one.sum()
            parts.append((torch.where(one, apart, 0.0).sum() / cells.clamp(min=1), (4 * cells / len(sure)) ** 0.5))
        passed = (
            torch.stack([mean * size for mean, size in parts]).sum() / torch.stack([size for _, size in parts]).sum()
        )
        return total + self.passed * passed


def varifocal(alpha: float, gamma: float) -> Callable[[Tensor, Tensor], ClassCosts]:
    """RT-DETR's: a query of the class learns to say the IoU of its box."""

    def costs(logits: Tensor, overlaps: Tensor) -> ClassCosts:
        own = _entropy(logits, overlaps) * overlaps
        return own, alpha * logits.detach().sigmoid() ** gamma * functional.softplus(logits)

    return costs


def focal(alpha: float, gamma: float = 2.0) -> Callable[[Tensor, Tensor], ClassCosts]:
    """The focal loss of Deformable DETR and its kin."""

    def costs(logits: Tensor, overlaps: Tensor) -> ClassCosts:
        del overlaps
        shares = logits.sigmoid()
        own = alpha * (1 - shares) ** gamma * functional.softplus(-logits)
        return own, (1 - alpha) * shares**gamma * functional.softplus(logits)

    return costs


def _entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, wanted.expand_as(logits), reduction="none")


def _overlaps(layer: Layer, matched: _Matched) -> Float[Tensor, " m"]:
    """The IoU of each pair, without gradients."""
    corners = (box_convert(part, "cxcywh", "xyxy") for part in (matched.of(layer.boxes).detach(), matched.boxes))
    found: Tensor = box_iou(*corners).diag()
    return found


def _nothing(layer: Layer, matched: _Matched, objects: Sequence[Objects]) -> Bool[Tensor, "b q"]:
    """Which queries learn to say nothing."""
    free = [~within_any(boxes[:, :2], one.doubtful) for boxes, one in zip(layer.boxes.detach(), objects, strict=True)]
    nothing = torch.stack(free)
    nothing[matched.image, matched.query] = False
    return nothing


def clamped(layer: Layer) -> Layer:
    """The layer with boxes inside the frame by their four numbers, as D-FINE's loss has them."""
    return replace(layer, boxes=layer.boxes.clamp(0, 1))


def parted(said: Mapping[str, Any], name: str, axis: int) -> Tensor:
    """One of the loss's arguments without the queries of noisy labels, which come first along an axis."""
    value, noisy = said[name], said.get("denoising_meta_values")
    found: Tensor = value if noisy is None else torch.split(value, noisy["dn_num_split"], dim=axis)[1]
    return found
