"""GFL, our own: class scores that stand for the box's quality, and a distribution for every edge of every box."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Annotated, Literal, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from detdistill.detectors.backbones import build_backbone
from detdistill.detectors.base import BoxLayout, Detector, Limits, TowerLayout
from detdistill.detectors.catalogue import Family
from detdistill.detectors.dense import (
    Asked,
    Assignment,
    assign,
    dense_spec,
    observe_dense,
    observe_dense_towers,
    tower,
)
from detdistill.detectors.finding import find_best
from detdistill.detectors.preprocess import Normaliser
from detdistill.detectors.settings import AnchorSize, Boxes, HeadNorm, PyramidSettings
from detdistill.detectors.torchvision_parts import cells_of, clipped
from detdistill.gfl.assign import box_distances, box_overlaps, boxes_at, match_by_atss
from detdistill.gfl.losses import (
    distribution_focal_costs,
    expected_distances,
    overlap_costs,
    quality_focal_cells,
    quality_focal_costs,
)
from detdistill.settings.bounds import Factor, Share, Within
from detdistill.types import Batch, Candidates, Detections, Need, Observation, Pyramid, TaskLoss

_LEAST = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True, kw_only=True)
class GFLSettings(PyramidSettings):
    """What a GFL is built from.

    Attributes:
        head_norm: normalisation in the towers; groups are chosen to fit the width.
        box_bias_init: mean of every edge's first distribution, in strides; (box_bins − 1) / 2, the paper's, starts
            with all distances alike.
        box_bins: an edge's distribution is over distances of 0, 1, ..., box_bins − 1 strides.
        class_prior: first score of every class.
        anchor_scale: side, in strides, of the one square around each cell by whose overlap objects are given to cells.
        candidates_per_level: most candidates per level before non-maximum suppression.
    """

    family: Literal["gfl"] = "gfl"
    head_norm: HeadNorm = "group"
    box_bias_init: Factor = 3.0
    box_bins: Annotated[int, Within(2, 1001)] = 17
    class_prior: Share = 0.01
    anchor_scale: AnchorSize = 8.0
    candidates_per_level: Boxes = 1000

    def check(self) -> None:
        """See `DetectorSettings.check`."""
        self.require_dense_head()
        self.require("anchor_scale", self.anchor_scale > 0, "be above 0")
        self.require("box_bins", self.box_bins >= 2, "be 2 or more", remedy="17 is usual.")
        last = self.box_bins - 1
        expected = f"lie between 0 and the last of GFL's bins, {last}"
        self.require("box_bias_init", 0 < self.box_bias_init < last, expected)


class GFLHead(nn.Module):
    """Reads a pyramid; the same weights on every level but for one learnt scale a level."""

    def __init__(self, settings: GFLSettings, *, classes: int) -> None:
        super().__init__()
        self.bins, channels = settings.box_bins, settings.fpn_channels
        towers = [tower(channels, depth=settings.head_depth, norm=settings.head_norm) for _ in range(2)]
        self.class_tower, self.box_tower = towers
        self.classes = nn.Conv2d(channels, classes, 3, padding=1)
        self.boxes = nn.Conv2d(channels, 4 * self.bins, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(settings.strides)))
        prior = settings.class_prior
        for layer, bias in (
            (self.classes, torch.tensor(math.log(prior / (1 - prior)))),
            (self.boxes, first_logits(self.bins, mean=settings.box_bias_init).repeat(4)),
        ):
            nn.init.normal_(layer.weight, std=0.01)
            with torch.no_grad():
                layer.bias.copy_(bias)  # type: ignore[union-attr]

    def class_logits(self, levels: Sequence[Float[Tensor, "b c _h _w"]]) -> tuple[Float[Tensor, "b k _h _w"], ...]:
        """The class logits of every level."""
        return tuple(self.classes(self.class_tower(level)) for level in levels)

    def box_logits(self, levels: Sequence[Float[Tensor, "b c _h _w"]]) -> tuple[Float[Tensor, "b 4 bins _h _w"], ...]:
        """The logits over the distances of the left, top, right and bottom edges, of every level."""
        maps = (scale * self.boxes(self.box_tower(level)) for level, scale in zip(levels, self.scales, strict=True))
        return tuple(level.unflatten(1, (4, self.bins)) for level in maps)


def first_logits(bins: int, *, mean: float) -> Float[Tensor, " bins"]:
    """Logits that fall or rise evenly from bin to bin, with this mean of their distribution, in 0 to bins − 1."""
    positions = torch.arange(bins, dtype=torch.float64)
    low, high = -20.0, 20.0
    for _ in range(60):
        slope = (low + high) / 2
        if float((positions * (slope * positions).softmax(dim=0)).sum()) < mean:
            low = slope
        else:
            high = slope
    return (slope * (positions - positions.mean())).float()


@final
class GFLDetector(Detector):
    """A dense detector without hand-made box codes: each edge's distance is a distribution over bins."""

    settings: GFLSettings
    agnostic = False
    weighs_objects = True

    def __init__(self, settings: GFLSettings, class_names: Sequence[str]) -> None:
        super().__init__()
        self.backbone = build_backbone(settings)
        self.head = GFLHead(settings, classes=len(class_names))
        self.settings = settings
        strides, channels = settings.strides, settings.fpn_channels
        boxes = BoxLayout(strides, anchors=1, bins=settings.box_bins, anchor_scale=settings.anchor_scale)
        towers = TowerLayout(settings.head_depth, channels)
        self.spec = dense_spec(
            settings.name, class_names, strides=strides, channels=channels, boxes=boxes, towers=towers
        )
        self._pixels = Normaliser.of(settings)

    def extract(self, batch: Batch) -> Pyramid:
        """See `Detector.extract`."""
        return Pyramid(tuple(self.backbone(self._pixels(batch)).values()), self.spec.maps.strides)

    def observe(self, pyramid: Pyramid, batch: Batch, needs: Set[Need]) -> Observation:
        """See `Detector.observe`."""
        return observe_dense(self, pyramid, batch, needs)

    def observe_towers(
        self, classes: Pyramid, boxes: Pyramid, batch: Batch, needs: Set[Need], *, after: int
    ) -> Observation:
        """See `Detector.observe_towers`."""
        return observe_dense_towers(self, classes, boxes, batch, needs, after=after)

    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        """See `Detector.detect`. Cells in the padding find nothing."""
        pyramid = self.extract(batch)
        cells = cells_of(pyramid.levels, pyramid.strides)
        scores, edges = _rows(self.class_outputs(pyramid)).sigmoid(), _rows(self.box_outputs(pyramid))
        inside = torch.stack([cells.inside(size) for size in batch.sizes])[..., None]

        def decode(image: Int64[Tensor, " p"], cell: Int64[Tensor, " p"]) -> Float[Tensor, "p 4"]:
            distances = expected_distances(edges[image, cell]) * cells.strides[cell][:, None]
            return boxes_at(distances, cells.points[cell])

        return find_best(
            self,
            torch.where(inside, scores, 0.0),
            scores,
            decode,
            counts=cells.counts,
            sizes=batch.sizes,
            threshold=self.settings.score_threshold,
            candidates=self.settings.candidates_per_level,
            overlap=self.settings.nms_threshold,
            most=self.settings.detections_per_image,
        )

    def candidates(self, batch: Batch, sizes: Int64[Tensor, "b 2"]) -> Candidates:
        """See `Detector.candidates`."""
        pyramid = self.extract(batch)
        cells = cells_of(pyramid.levels, pyramid.strides)
        distances = expected_distances(_rows(self.box_outputs(pyramid))) * cells.strides[:, None]
        inside = (cells.points < sizes.flip(1)[:, None]).all(dim=2, keepdim=True)
        scores = torch.where(inside, _rows(self.class_outputs(pyramid)).sigmoid(), 0.0)
        return Candidates(clipped(boxes_at(distances, cells.points), sizes), scores)

    def limits(self) -> Limits:
        """See `Detector.limits`."""
        own = self.settings
        return Limits(own.score_threshold, own.nms_threshold, own.detections_per_image)

    def class_rows(self) -> Mapping[str, tuple[int, ...]]:
        """See `Detector.class_rows`."""
        rows = tuple(range(len(self.spec.class_names)))
        return {"head.classes.weight": rows, "head.classes.bias": rows}

    def towers(self) -> tuple[tuple[nn.Module, str], tuple[nn.Module, str]]:
        """Both towers of the head."""
        return (self.head, "class_tower"), (self.head, "box_tower")

    def class_outputs(self, pyramid: Pyramid) -> tuple[Float[Tensor, "b 1 k _h _w"], ...]:
        """The class logits of every level."""
        return tuple(level.unsqueeze(1) for level in self.head.class_logits(pyramid.levels))

    def box_outputs(self, pyramid: Pyramid) -> tuple[Float[Tensor, "b 1 4 bins _h _w"], ...]:
        """The logits over the distances of every level's edges."""
        return tuple(level.unsqueeze(1) for level in self.head.box_logits(pyramid.levels))

    def class_maps(self, outputs: tuple[Tensor, ...], pyramid: Pyramid) -> tuple[Float[Tensor, "b 1 k _h _w"], ...]:
        """The class logits as they are."""
        del pyramid
        return outputs

    def box_maps(self, outputs: tuple[Tensor, ...], pyramid: Pyramid) -> tuple[Float[Tensor, "b 1 4 _h _w"], ...]:
        """The expected distances around every cell as boxes."""
        cells = cells_of(pyramid.levels, pyramid.strides)
        distances = expected_distances(_rows(outputs)) * cells.strides[:, None]
        rows = torch.split(boxes_at(distances, cells.points), list(cells.counts), dim=1)
        return tuple(
            level.mT.reshape(len(maps), 1, 4, *maps.shape[-2:]) for level, maps in zip(rows, outputs, strict=True)
        )

    def dense_loss(
        self, classes: tuple[Tensor, ...], boxes: tuple[Tensor, ...], pyramid: Pyramid, batch: Batch, *, per_image: bool
    ) -> TaskLoss:
        """Class costs per positive, of which every image counts at least one; box costs per weight of the positives.

        Cells in the padding are no negatives: they cost nothing.
        """
        return self.dense_losses(classes, boxes, pyramid, [(batch, per_image)])[0]

    def dense_losses(
        self, classes: tuple[Tensor, ...], boxes: tuple[Tensor, ...], pyramid: Pyramid, asked: Sequence[Asked]
    ) -> list[TaskLoss]:
        """The same against the targets of several batches."""
        sizes = asked[0][0].sizes
        logits, targets = _rows(classes), [target.taught() for batch, _ in asked for target in batch.targets]
        cells = cells_of(pyramid.levels, pyramid.strides)
        scale = self.settings.anchor_scale
        matches = [
            match_by_atss(target.boxes, cells, size=size, scale=scale).matched
            for target, size in zip(targets, sizes * len(asked), strict=True)
        ]
        given = assign(matches, targets, counts=cells.counts, points=cells.points, images=len(sizes))
        cell, edges = given.anchor, given.rows(_rows(boxes))
        points, strides = cells.points[cell], cells.strides[cell][:, None]
        truth = given.truth(cells.anchors(scale)[cell])
        iou, generalised = box_overlaps(boxes_at(expected_distances(edges) * strides, points), truth)
        weights = given.rows(logits).detach().amax(dim=1).sigmoid()
        inside = given.repeated(torch.stack([cells.inside(size) for size in sizes]))
        costs = _quality(logits, torch.where(given.positive, iou, 0.0), given)
        quality = given.by_level(given.counted(costs).masked_fill(~inside, 0.0))
        overlap = given.by_level(given.spread(weights * overlap_costs(generalised)))
        shape = given.spread(weights * distribution_focal_costs(edges, box_distances(truth, points) / strides))
        sums = (quality, overlap, shape.sum(dim=1), given.spread(weights).sum(dim=1), given.positives().clamp(min=1))
        parts = zip(*map(given.apart, sums), strict=True)
        return [
            _loss_of(*one, strides=pyramid.strides, per_image=each) for one, (_, each) in zip(parts, asked, strict=True)
        ]


def _loss_of(
    quality: Float[Tensor, "b l"],
    overlap: Float[Tensor, "b l"],
    shape: Float[Tensor, " b"],
    mass: Float[Tensor, " b"],
    positives: Int64[Tensor, " b"],
    *,
    strides: tuple[int, ...],
    per_image: bool,
) -> TaskLoss:
    total = quality.sum() / positives.sum()
    total = total + (overlap.sum() + shape.sum()) / mass.sum().clamp(min=_LEAST)
    if not per_image:
        return TaskLoss(total=total)
    mass = mass.clamp(min=_LEAST)
    other = {"distribution": shape / mass}
    return TaskLoss(total, strides, quality / positives[:, None], overlap / mass[:, None], other=other)


def _quality(logits: Float[Tensor, "_b n k"], quality: Float[Tensor, " p"], given: Assignment) -> Float[Tensor, "b n"]:
    """The quality focal loss of every cell; the mean over an object's classes, where they are a distribution."""
    if given.classes is None:
        of_own = (given.image, given.anchor, given.labels[given.objects])
        return quality_focal_cells(given.repeated(logits), quality, own=of_own)
    said = given.rows(logits)
    own = quality_focal_costs(said, quality.detach()[:, None].expand_as(said))
    mixed = given.mixed(own, quality_focal_costs(said, torch.zeros_like(said)))
    return given.repeated(quality_focal_costs(logits, torch.zeros_like(logits)).sum(dim=2)) + mixed


def _rows(levels: Sequence[Float[Tensor, "b 1 *says _h _w"]]) -> Float[Tensor, "b n *says"]:
    """The maps of all levels as rows in float32; gradients flow."""
    return torch.cat([level.squeeze(1).flatten(-2).movedim(-1, 1) for level in levels], dim=1).float()


# The source's ATSS leaves some objects untaught on 3 levels; ours does not: see `match_by_atss`.
_SMALL = GFLSettings(backbone="test_resnet", fpn_channels=64, head_depth=3, strides=(8, 16, 32))

_PRESETS = {"tiny": replace(_SMALL, fpn_channels=32, head_depth=2), "small": _SMALL}
FAMILY = Family("gfl", GFLSettings, presets=_PRESETS, build=GFLDetector)
