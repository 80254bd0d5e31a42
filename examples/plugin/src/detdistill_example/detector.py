"""centre: a dense detector in the manner of CenterNet, where one cell learns each object, the one at its centre."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, generalized_box_iou_loss

from detdistill import Batch, Detector, Family, Observation, PyramidSettings, Targets
from detdistill.detectors import dense
from detdistill.detectors.backbones import build_backbone
from detdistill.detectors.preprocess import Normaliser
from detdistill.detectors.settings import HeadNorm
from detdistill.gfl.assign import Cells, boxes_at, make_cells
from detdistill.types import Detections, Need, Pyramid, TaskLoss

FARTHEST = 6.0  # edges lie at most e^6 = 403 strides away, lest a wild step overflow
MOST_CANDIDATES = 1000
FIRST_SCORE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class CentreSettings(PyramidSettings):
    """What a centre detector is built from.

    Attributes:
        head_norm: normalisation in the towers.
        side: an object is learnt on the level whose stride is nearest to its longer side divided by this; also the
            side, in strides, of the first boxes.
        leeway: cells nearer than this many strides to an object's centre, other than the one that learns it, learn
            nothing: the hard form of CenterNet's Gaussian discount.
    """

    family: Literal["centre"] = "centre"
    head_norm: HeadNorm = "group"
    side: float = 4.0
    leeway: float = 1.5

    def check(self) -> None:
        """See `DetectorSettings.check`."""
        self.require_one_of("head_norm", get_args(HeadNorm))
        self.require("side", self.side > 0, "be above 0")
        self.require("leeway", self.leeway >= 0, "be 0 or more")


@final
class CentreDetector(Detector):
    """Says at every cell how likely it is the centre of an object of each class, and how far its edges are."""

    settings: CentreSettings
    agnostic = False

    def __init__(self, settings: CentreSettings, class_names: Sequence[str]) -> None:
        super().__init__()
        self.settings = settings
        self.spec = dense.dense_spec(
            settings.name, class_names, strides=settings.strides, channels=settings.fpn_channels
        )
        self.backbone = build_backbone(settings)
        self.heat = _head(settings, len(class_names), bias=dense.prior_bias(FIRST_SCORE))
        self.edges = _head(settings, 4, bias=math.log(settings.side / 2))
        self._pixels = Normaliser.of(settings)

    def extract(self, batch: Batch) -> Pyramid:
        """See `Detector.extract`."""
        return Pyramid(tuple(self.backbone(self._pixels(batch)).values()), self.spec.pyramid.strides)

    def observe(self, pyramid: Pyramid, batch: Batch, needs: Set[Need]) -> Observation:
        """See `Detector.observe`: answered by the five functions that follow."""
        return dense.observe_dense(self, pyramid, batch, needs)

    def class_rows(self) -> Mapping[str, tuple[int, ...]]:
        """See `Detector.class_rows`: the last layer of the heat's head has a row for every class."""
        rows = tuple(range(len(self.spec.class_names)))
        return {"heat.1.weight": rows, "heat.1.bias": rows}

    def class_outputs(self, pyramid: Pyramid) -> tuple[Tensor, ...]:
        """The class logits (b, 1, k, h, w) of every level."""
        return tuple(self.heat(level)[:, None] for level in pyramid.levels)

    def box_outputs(self, pyramid: Pyramid) -> tuple[Tensor, ...]:
        """The logarithms (b, 1, 4, h, w) of the edges' distances in strides, of every level."""
        return tuple(self.edges(level)[:, None] for level in pyramid.levels)

    def class_maps(self, outputs: tuple[Tensor, ...], pyramid: Pyramid) -> tuple[Tensor, ...]:
        """The class logits as they are."""
        del pyramid
        return outputs

    def dense_loss(
        self, classes: tuple[Tensor, ...], boxes: tuple[Tensor, ...], pyramid: Pyramid, batch: Batch, *, per_image: bool
    ) -> TaskLoss:
        """Focal and GIoU losses, each image's sums per object that it teaches, averaged over images."""
        targets, cells = [target.taught() for target in batch.targets], _cells(pyramid)
        matches = [self._match(target, cells, size) for target, size in zip(targets, batch.sizes, strict=True)]
        given = dense.assign(matches, targets, counts=cells.counts)
        boxes_said = _boxes(boxes, cells)[given.image, given.anchor]
        overlap = generalized_box_iou_loss(boxes_said, given.boxes[given.objects], reduction="none")
        each = given.positives().clamp(min=1)[:, None]
        classification = given.by_level(dense.focal_cells(_rows(classes), given)) / each
        box = given.by_level(given.spread(overlap)) / each
        total = (classification + box).sum(dim=1).mean()
        return TaskLoss(total, pyramid.strides, classification, box) if per_image else TaskLoss(total)

    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        """See `Detector.detect`. Cells in the padding find nothing."""
        pyramid = self.extract(batch)
        cells = _cells(pyramid)
        scores, boxes = _rows(self.class_outputs(pyramid)).sigmoid(), _boxes(self.box_outputs(pyramid), cells)
        return tuple(
            self._find(torch.where(cells.inside(size)[:, None], scores[image], 0.0), boxes[image], size)
            for image, size in enumerate(batch.sizes)
        )

    def _find(self, scores: Tensor, boxes: Tensor, size: tuple[int, int]) -> Detections:
        flat = scores.flatten()
        passed = (flat > self.settings.score_threshold).nonzero()[:, 0]
        best = flat[passed].topk(min(MOST_CANDIDATES, len(passed)))
        cell, label = passed[best.indices] // scores.shape[1], passed[best.indices] % scores.shape[1]
        found = Detections(clip_boxes_to_image(boxes[cell], size), best.values, label)
        return self.suppress(found, threshold=self.settings.nms_threshold, most=self.settings.detections_per_image)

    def _match(self, target: Targets, cells: Cells, size: tuple[int, int]) -> Tensor:
        """What each cell of one image learns; of several objects it takes the smallest."""
        boxes = target.boxes.float()
        if not len(boxes):
            return dense.all_background(cells.points)
        sides, centres = boxes[:, 2:] - boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2
        misfit = (cells.strides.log2() - (sides.amax(dim=1) / self.settings.side).log2()[:, None]).abs()
        fits = (misfit == misfit.amin(dim=1, keepdim=True)) & cells.inside(size)
        apart = (cells.points - centres[:, None]).norm(dim=2) / cells.strides
        apart = apart.masked_fill(~fits, torch.inf)
        areas = torch.full_like(apart, torch.inf)
        areas.scatter_(1, apart.argmin(dim=1, keepdim=True), sides.prod(dim=1, keepdim=True))
        smallest, matched = areas.min(dim=0)
        others = torch.where((apart < self.settings.leeway).any(dim=0), dense.LEFT_OUT, dense.BACKGROUND)
        return torch.where(smallest.isfinite(), matched, others)


def _head(settings: CentreSettings, outputs: int, *, bias: float) -> nn.Sequential:
    """A tower that says so many numbers at every cell, all of them `bias` or near it at first."""
    last = nn.Conv2d(settings.fpn_channels, outputs, 1)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.constant_(last.bias, bias)  # type: ignore[arg-type]
    return nn.Sequential(dense.tower(settings.fpn_channels, depth=settings.head_depth, norm=settings.head_norm), last)


def _cells(pyramid: Pyramid) -> Cells:
    grids = [(level.shape[-2], level.shape[-1]) for level in pyramid.levels]
    return make_cells(grids, pyramid.strides, device=pyramid.levels[0].device)


def _rows(levels: Sequence[Tensor]) -> Tensor:
    """Maps (b, 1, x, h, w) of all levels as rows (b, n, x) in float32."""
    return torch.cat([level[:, 0].flatten(-2).mT for level in levels], dim=1).float()


def _boxes(levels: Sequence[Tensor], cells: Cells) -> Tensor:
    """The boxes (b, n, 4) in pixels that the edges' outputs say."""
    return boxes_at(_rows(levels).clamp(max=FARTHEST).exp() * cells.strides[:, None], cells.points)


FAMILY = Family(
    name="centre",
    settings=CentreSettings,
    presets={"tiny": CentreSettings(backbone="test_resnet", fpn_channels=32, head_depth=2, strides=(8, 16, 32))},
    build=CentreDetector,
)
