"""Our own GFL as a detector that shows what it saw: class scores, and a distribution for every edge of every box."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from detdistill.detectors.backbones import PyramidBackbone, build_backbone
from detdistill.detectors.base import BoxLayout, ClassLayout, Detector, DetectorSpec, PyramidLayout
from detdistill.detectors.dense_heads import HEAD_NEEDS, LOSS_NEEDS, Normaliser, grids, tower
from detdistill.detectors.dense_losses import assign
from detdistill.detectors.settings import DetectorSettings
from detdistill.gfl.assign import Cells, box_distances, box_overlaps, boxes_at, make_cells, match_by_atss
from detdistill.gfl.losses import distribution_focal_costs, expected_distances, overlap_costs, quality_focal_cells
from detdistill.gfl.network import GFLHead
from detdistill.types import (
    Batch,
    BoxDistributions,
    ClassKind,
    ClassLogits,
    Detections,
    Need,
    Observation,
    Pyramid,
    TaskLoss,
)

_TINY = torch.finfo(torch.float32).tiny
_CLASS_NEEDS = HEAD_NEEDS
_BOX_NEEDS = LOSS_NEEDS | {Need.BOX_DISTRIBUTIONS}


@final
class GFLDetector(Detector):
    """A dense detector without hand-made box codes: each edge's distance is a distribution over bins.

    Args:
        backbone: gives the pyramid.
        head: reads it.
        class_names: in label order.
        settings: what both were built from.
    """

    settings: DetectorSettings

    def __init__(
        self, backbone: PyramidBackbone, head: GFLHead, *, class_names: Sequence[str], settings: DetectorSettings
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.settings = settings
        names, strides = tuple(class_names), settings.strides
        self.spec = DetectorSpec(
            name=settings.name,
            family="gfl",
            class_names=names,
            pyramid=PyramidLayout(strides=strides, channels=backbone.out_channels),
            class_logits=ClassLayout(strides=strides, kind=ClassKind.SIGMOID, anchors=1, classes=names),
            box_distributions=BoxLayout(
                strides=strides, anchors=1, bins=settings.box_bins, anchor_scale=settings.anchor_scale
            ),
        )
        self._pixels = Normaliser(settings.mean, settings.std)

    def extract(self, batch: Batch) -> Pyramid:
        """The neck's feature maps. Gradients flow to the parameters and to ``batch.images``."""
        levels = self.backbone(self._pixels(batch))
        return Pyramid(levels=tuple(levels.values()), strides=self.spec.pyramid.strides)

    def observe(self, pyramid: Pyramid, batch: Batch, needs: Set[Need]) -> Observation:
        """What the heads see on `pyramid`; each head runs once, where it is needed. See `Detector.observe`."""
        classes = self.head.class_logits(pyramid.levels) if needs & _CLASS_NEEDS else ()
        boxes = self.head.box_logits(pyramid.levels) if needs & _BOX_NEEDS else ()
        strides = pyramid.strides
        logits = distributions = loss = None
        if Need.CLASS_LOGITS in needs:
            logits = ClassLogits(tuple(level.unsqueeze(1) for level in classes), strides, ClassKind.SIGMOID)
        if Need.BOX_DISTRIBUTIONS in needs:
            distributions = BoxDistributions(tuple(level.unsqueeze(1) for level in boxes), strides)
        if needs & LOSS_NEEDS:
            with torch.autocast(batch.images.device.type, enabled=False):
                loss = self._task_loss(classes, boxes, batch, cells=_cells(pyramid), needs=needs)
        return Observation(pyramid=pyramid, class_logits=logits, box_distributions=distributions, task_loss=loss)

    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        """See `Detector.detect`. Cells in the padding find nothing."""
        pyramid = self.extract(batch)
        cells = _cells(pyramid)
        scores = _rows(self.head.class_logits(pyramid.levels)).sigmoid()
        boxes = _rows(self.head.box_logits(pyramid.levels))
        return tuple(
            self._find(scores[index], boxes[index], cells, size=size) for index, size in enumerate(batch.sizes)
        )

    def _task_loss(
        self,
        classes: tuple[Tensor, ...],
        boxes: tuple[Tensor, ...],
        batch: Batch,
        *,
        cells: Cells,
        needs: Set[Need],
    ) -> TaskLoss:
        logits, targets = _rows(classes), [target.taught() for target in batch.targets]
        scale = self.settings.anchor_scale
        matches = [
            match_by_atss(target.boxes, cells, size=size, scale=scale).matched
            for target, size in zip(targets, batch.sizes, strict=True)
        ]
        given = assign(matches, targets, counts=cells.counts)
        image, cell, objects = given.image, given.anchor, given.objects
        edges = _rows(boxes)[image, cell]
        points, strides = cells.points[cell], cells.strides[cell][:, None]
        truth = given.boxes[objects]
        iou, generalised = box_overlaps(boxes_at(expected_distances(edges) * strides, points), truth)
        weights = logits[image, cell].detach().amax(dim=1).sigmoid()
        quality = quality_focal_cells(logits, iou, own=(image, cell, given.labels[objects]))
        overlap = given.spread(weights * overlap_costs(generalised))
        shape = given.spread(weights * distribution_focal_costs(edges, box_distances(truth, points) / strides))
        return _normalised(
            given.by_level(quality),
            given.by_level(overlap),
            shape.sum(dim=1),
            positives=given.positives(),
            weights=given.spread(weights).sum(dim=1),
            strides=self.spec.pyramid.strides if Need.IMAGE_LOSSES in needs else None,
        )

    def _find(
        self, scores: Float[Tensor, "n k"], boxes: Float[Tensor, "n 4 bins"], cells: Cells, *, size: tuple[int, int]
    ) -> Detections:
        settings, classes = self.settings, scores.shape[1]
        scores = torch.where(cells.inside(size)[:, None], scores, 0.0)
        best, chosen, first = [], [], 0
        for level in torch.split(scores.flatten(), [count * classes for count in cells.counts]):
            passed = (level > settings.score_threshold).nonzero()[:, 0]
            ranked = level[passed].topk(min(settings.candidates_per_level, len(passed)))
            best.append(ranked.values)
            chosen.append(first + passed[ranked.indices])
            first += len(level)
        together, flat = torch.cat(best), torch.cat(chosen)
        cell, labels = flat // classes, flat % classes
        distances = expected_distances(boxes[cell]) * cells.strides[cell][:, None]
        found = clip_boxes_to_image(boxes_at(distances, cells.points[cell]), size)
        keep = batched_nms(found, together, labels, settings.nms_threshold)[: settings.detections_per_image]
        return Detections(boxes=found[keep], scores=together[keep], labels=labels[keep])


def _cells(pyramid: Pyramid) -> Cells:
    return make_cells(grids(pyramid), pyramid.strides, device=pyramid.levels[0].device)


def _rows(levels: Sequence[Tensor]) -> Tensor:
    """Maps (b, ..., h, w) of all levels as rows (b, n, ...) in float32; gradients flow."""
    return torch.cat([level.flatten(-2).movedim(-1, 1) for level in levels], dim=1).float()


def _normalised(
    quality: Float[Tensor, "b l"],
    overlap: Float[Tensor, "b l"],
    shape: Float[Tensor, " b"],
    *,
    positives: Tensor,
    weights: Float[Tensor, " b"],
    strides: tuple[int, ...] | None,
) -> TaskLoss:
    """The batch's sums per positive of the batch, and per weight of the batch; each image's per its own."""
    total = quality.sum() / positives.sum().clamp(min=1) + (overlap.sum() + shape.sum()) / weights.sum().clamp(
        min=_TINY
    )
    if strides is None:
        return TaskLoss(total=total)
    each, mass = positives.clamp(min=1), weights.clamp(min=_TINY)
    return TaskLoss(
        total=total,
        strides=strides,
        classification=quality / each[:, None],
        box=overlap / mass[:, None],
        other={"distribution": shape / mass},
    )


def build_gfl(settings: DetectorSettings, class_names: Sequence[str]) -> GFLDetector:
    """A GFL with new weights (see `build_backbone` for where they are drawn from and what is raised)."""
    backbone = build_backbone(
        settings.backbone,
        strides=settings.strides,
        fpn_channels=settings.fpn_channels,
        norm=settings.norm,
        fpn_norm=settings.fpn_norm,
        freeze_stages=settings.freeze_stages,
        pretrained=settings.pretrained,
    )
    towers = [tower(settings.fpn_channels, depth=settings.head_depth, norm=settings.head_norm) for _ in range(2)]
    head = GFLHead(
        towers[0],
        towers[1],
        channels=settings.fpn_channels,
        classes=len(class_names),
        bins=settings.box_bins,
        levels=len(settings.strides),
        class_prior=settings.class_prior,
        first_distance=settings.box_bias_init,
    )
    return GFLDetector(backbone, head, class_names=class_names, settings=settings)
