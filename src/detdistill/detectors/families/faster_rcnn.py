"""Faster R-CNN: torchvision's two-stage detector, whose proposals from every level are refined one by one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Annotated, Literal, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign, remove_small_boxes
from torchvision.ops.poolers import initLevelMapper

from detdistill.detectors.backbones import build_backbone
from detdistill.detectors.base import LOSS_NEEDS, ClassLayout, Detector, DetectorSpec, Limits, PyramidLayout
from detdistill.detectors.catalogue import Family
from detdistill.detectors.finding import clipped_rows, each_image
from detdistill.detectors.preprocess import Normaliser, pixel_statistics
from detdistill.detectors.rcnn_losses import RpnOutput, flat_output, proposed, roi_sums, rpn_sums, sampled_regions
from detdistill.detectors.settings import AnchorRatios, AnchorSize, Boxes, Depth, Octaves, PyramidSettings, Strides
from detdistill.detectors.torchvision_parts import ClassSlots, NominalAnchors, clipped
from detdistill.settings.bounds import Share, Within
from detdistill.types import (
    Batch,
    Candidates,
    ClassKind,
    ClassLogits,
    Detections,
    Need,
    Observation,
    Pyramid,
    TaskLoss,
    sent,
)

_POOLED_CELLS = 7
_COARSEST_POOLED = 32
# Torchvision's: what it finds narrower or lower than this is nothing.
_SMALLEST_FOUND = 1e-2


@dataclass(frozen=True, slots=True, kw_only=True)
class FasterRCNNSettings(PyramidSettings):
    """What a Faster R-CNN is built from; its `head_depth` is the RPN's.

    Attributes:
        anchor_scale: side of the smallest anchor, in strides.
        anchor_octaves: anchor sizes per octave on every level.
        anchor_ratios: height / width of the anchors.
        roi_channels: width of the second stage's two layers.
        roi_samples: proposals sampled per image for the second stage's loss.
        rpn_samples: anchors sampled per image for the first stage's loss.
        proposals_train: proposals kept per image in training.
        proposals_test: proposals kept per image in detection.
    """

    family: Literal["faster_rcnn"] = "faster_rcnn"
    head_depth: Depth = 1
    strides: Strides = (4, 8, 16, 32, 64)
    nms_threshold: Share = 0.5
    anchor_scale: AnchorSize = 8.0
    anchor_octaves: Octaves = 1
    anchor_ratios: AnchorRatios = (0.5, 1.0, 2.0)
    roi_channels: Annotated[int, Within(1, 16384)] = 1024
    roi_samples: Boxes = 512
    rpn_samples: Boxes = 256
    proposals_train: Boxes = 2000
    proposals_test: Boxes = 1000

    def check(self) -> None:
        """See `DetectorSettings.check`."""
        self.require_at_least_one("anchor_octaves", "roi_channels", "roi_samples", "rpn_samples")
        self.require_at_least_one("proposals_train", "proposals_test")
        self.require("anchor_scale", self.anchor_scale > 0, "be above 0")


@final
class FasterRCNNDetector(Detector):
    """Faster R-CNN: proposals from every pyramid level, refined one by one.

    Its class logits are the RPN's objectness. What is computed depends on what is asked for, never on train or
    eval mode: losses use the training counts of proposals, detection the testing ones. Anchors and regions are
    drawn from ``batch.seeds``; the global generator plays no part.

    Args:
        model: torchvision's model, taken over: its anchors and its RoI pooling are set to the nominal strides.
            Its backbone gives the levels ``"0"``, ``"1"``, ... fine to coarse; its own resizing is not used.
        name: how messages call the detector.
        class_slots: the model's own class index of every label, 1 or more as 0 is the background. None: label + 1.
        settings: what it was built from, so that it can be saved; None where torchvision's builder made it.
    """

    agnostic = False
    weighs_objects = True

    def __init__(
        self,
        model: FasterRCNN,
        class_names: Sequence[str],
        *,
        name: str,
        class_slots: Sequence[int] | None = None,
        strides: tuple[int, ...] = (4, 8, 16, 32, 64),
        settings: PyramidSettings | None = None,
    ) -> None:
        super().__init__()
        slots = model.roi_heads.box_predictor.cls_score.out_features
        self._slots = ClassSlots(class_slots, class_names, total=slots, first=1, name=name)
        anchors = NominalAnchors.like(model.rpn.anchor_generator, strides)
        model.rpn.anchor_generator = anchors
        _pool_by_nominal_strides(model.roi_heads.box_roi_pool, strides)
        self.model = model
        self.settings = settings
        self.spec = DetectorSpec(
            name=name,
            class_names=tuple(class_names),
            pyramid=PyramidLayout(strides, model.backbone.out_channels),
            class_logits=ClassLayout(strides, ClassKind.OBJECTNESS, anchors.num_anchors_per_location()[0], ("object",)),
            two_stage=True,
            free_strides=True,
        )
        self._pixels = Normaliser(model.transform.image_mean, model.transform.image_std)

    def extract(self, batch: Batch) -> Pyramid:
        """See `Detector.extract`."""
        return Pyramid(tuple(self.model.backbone(self._pixels(batch)).values()), self.spec.maps.strides)

    def observe(self, pyramid: Pyramid, batch: Batch, needs: Set[Need]) -> Observation:
        """See `Detector.observe`: the class logits cost the RPN's head alone; any loss costs the second stage too."""
        learns = Need.FOUND_LOSS in needs and batch.found is not None
        if not (learns or needs & (LOSS_NEEDS | {Need.CLASS_LOGITS})):
            return Observation(pyramid)
        objectness, deltas = self.model.rpn.head(list(pyramid.levels))
        logits = loss = found = None
        if Need.CLASS_LOGITS in needs:
            levels = tuple(level.unsqueeze(2) for level in objectness)
            logits = ClassLogits(levels, pyramid.strides, ClassKind.OBJECTNESS)
        if learns or needs & LOSS_NEEDS:
            output = flat_output(self.model.rpn, objectness, deltas)
            with torch.autocast(batch.images.device.type, enabled=False):
                proposals = proposed(self.model.rpn, output, batch.sizes, counts="training")
            if needs & LOSS_NEEDS:
                loss = self._task_loss(pyramid, batch, output, proposals, by_image=Need.IMAGE_LOSSES in needs)
            if learns:
                found = self._task_loss(pyramid, batch.against_found, output, proposals, by_image=True)
        return Observation(pyramid, class_logits=logits, task_loss=loss, found_loss=found)

    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        """See `Detector.detect`."""
        pyramid, rpn = self.extract(batch), self.model.rpn
        output = flat_output(rpn, *rpn.head(list(pyramid.levels)))
        proposals = proposed(rpn, output, batch.sizes, counts="testing")
        logits, deltas = (said.float() for said in self._second_stage(pyramid, proposals, batch.sizes))
        return self._found(logits.softmax(dim=1), deltas.reshape(*logits.shape, 4), proposals, batch.sizes)

    def _found(
        self,
        scores: Float[Tensor, "r s"],
        deltas: Float[Tensor, "r s 4"],
        proposals: list[Float[Tensor, "_r 4"]],
        sizes: Sequence[tuple[int, int]],
    ) -> tuple[Detections, ...]:
        """As torchvision's post-processing of every image, with the probabilities of all classes.

        Only what may be found is decoded.
        """
        heads = self.model.roi_heads
        region, slots = (scores[:, 1:] > heads.score_thresh).nonzero().unbind(1)
        slots = slots + 1
        ends = sent(torch.tensor([len(one) for one in proposals]).cumsum(0), region.device)
        image = torch.bucketize(region, ends, right=True)
        boxes = heads.box_coder.decode_single(deltas[region, slots], torch.cat(proposals)[region])
        boxes = clipped_rows(boxes, image, sizes)
        large = remove_small_boxes(boxes, min_size=_SMALLEST_FOUND)
        region, slots = region[large], slots[large]
        rows = boxes[large], scores[region, slots], slots, scores[region]
        return tuple(map(self._suppressed, each_image(rows, image[large], count=len(sizes))))

    def _suppressed(self, found: Detections) -> Detections:
        heads = self.model.roi_heads
        limits = {"threshold": heads.nms_thresh, "most": heads.detections_per_img}
        if self.agnostic:
            return self.suppress(self._slots.detections(found), **limits)
        return self._slots.detections(self.suppress(found, **limits))

    def candidates(self, batch: Batch, sizes: Int64[Tensor, "b 2"]) -> Candidates:
        """See `Detector.candidates`."""
        from detdistill.detectors.rcnn_graph import of_size, proposed_rows, refined_rows

        pyramid, rpn = self.extract(batch), self.model.rpn
        output = flat_output(rpn, *rpn.head(list(pyramid.levels)))
        boxes, scores = refined_rows(self.model.roi_heads, pyramid.levels, *proposed_rows(rpn, output, sizes))
        boxes = clipped(boxes.index_select(2, self._slots.slots), sizes)
        return Candidates(boxes, of_size(boxes, scores.index_select(2, self._slots.slots)))

    def limits(self) -> Limits:
        """See `Detector.limits`."""
        heads = self.model.roi_heads
        return Limits(heads.score_thresh, heads.nms_thresh, heads.detections_per_img)

    def class_rows(self) -> Mapping[str, tuple[int, ...]]:
        """See `Detector.class_rows`: a score, and the four numbers of a box, for every slot."""
        rows = self._slots.rows()
        layers = {"cls_score": rows, "bbox_pred": tuple(row for row in rows for _ in range(4))}
        parts = ((name, part) for name in layers for part in ("weight", "bias"))
        return {f"model.roi_heads.box_predictor.{name}.{part}": layers[name] for name, part in parts}

    def _second_stage(
        self, pyramid: Pyramid, boxes: list[Float[Tensor, "_r 4"]], sizes: Sequence[tuple[int, int]]
    ) -> tuple[Float[Tensor, "r s"], Float[Tensor, "r 4s"]]:
        heads = self.model.roi_heads
        features = {str(level): maps for level, maps in enumerate(pyramid.levels)}
        logits, deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, boxes, list(sizes))))
        return logits, deltas

    def _task_loss(
        self,
        pyramid: Pyramid,
        batch: Batch,
        output: RpnOutput,
        proposals: list[Float[Tensor, "_r 4"]],
        *,
        by_image: bool,
    ) -> TaskLoss:
        rpn, heads = self.model.rpn, self.model.roi_heads
        targets = [self._slots.targets(target) for target in batch.targets]
        # The losses are in float32; the second stage's layers stay under the caller's autocast.
        with torch.autocast(batch.images.device.type, enabled=False):
            first = rpn_sums(rpn, output, targets, batch.seeds)
            regions = sampled_regions(heads, proposals, targets, batch.seeds)
        logits, deltas = self._second_stage(pyramid, regions.boxes, batch.sizes)
        with torch.autocast(batch.images.device.type, enabled=False):
            second = roi_sums(logits, deltas, regions)
            total = first.total() + second.total()
            return (
                TaskLoss(total, pyramid.strides, *first.by_image(), *second.by_image()) if by_image else TaskLoss(total)
            )


def build_faster_rcnn(settings: FasterRCNNSettings, class_names: Sequence[str]) -> FasterRCNNDetector:
    """A Faster R-CNN with new weights (see `build_backbone` for where they are drawn from and what is raised)."""
    # As torchvision's, where that gives the levels.
    backbone = build_backbone(settings, extra="pool" if settings.strides[-1] <= 2 * _COARSEST_POOLED else "conv")
    octaves = settings.anchor_octaves
    sizes = [
        [stride * settings.anchor_scale * 2 ** (i / octaves) for i in range(octaves)] for stride in settings.strides
    ]
    channels = settings.fpn_channels
    mean, std = pixel_statistics(settings)
    model = FasterRCNN(
        backbone,
        rpn_anchor_generator=NominalAnchors(sizes, [settings.anchor_ratios] * len(sizes), strides=settings.strides),
        rpn_head=RPNHead(channels, octaves * len(settings.anchor_ratios), conv_depth=settings.head_depth),
        rpn_pre_nms_top_n_train=settings.proposals_train,
        rpn_pre_nms_top_n_test=settings.proposals_test,
        rpn_post_nms_top_n_train=settings.proposals_train,
        rpn_post_nms_top_n_test=settings.proposals_test,
        rpn_batch_size_per_image=settings.rpn_samples,
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=_POOLED_CELLS, sampling_ratio=2),
        box_head=TwoMLPHead(channels * _POOLED_CELLS**2, settings.roi_channels),
        box_predictor=FastRCNNPredictor(settings.roi_channels, len(class_names) + 1),
        box_batch_size_per_image=settings.roi_samples,
        box_score_thresh=settings.score_threshold,
        box_nms_thresh=settings.nms_threshold,
        box_detections_per_img=settings.detections_per_image,
        image_mean=list(mean),
        image_std=list(std),
    )
    return FasterRCNNDetector(model, class_names, name=settings.name, strides=settings.strides, settings=settings)


def _pool_by_nominal_strides(pool: MultiScaleRoIAlign, strides: Sequence[int]) -> None:
    """Sets what the pooling would otherwise guess from the first batch's image sizes, and keep."""
    # Coarser levels are the RPN's alone.
    pooled = [stride for stride in strides if stride <= max(_COARSEST_POOLED, strides[0])]
    pool.featmap_names = [str(level) for level in range(len(pooled))]
    pool.scales = [1 / stride for stride in pooled]
    ends = (int(math.log2(stride)) for stride in (pooled[0], pooled[-1]))
    scale, level = pool.canonical_scale, pool.canonical_level
    pool.map_levels = initLevelMapper(*ends, canonical_scale=scale, canonical_level=level)


_SMALL = FasterRCNNSettings(
    backbone="resnet10t",
    fpn_channels=64,
    strides=(4, 8, 16, 32),
    anchor_scale=4.0,
    roi_channels=256,
    roi_samples=64,
    rpn_samples=128,
    proposals_train=256,
    proposals_test=256,
)

FAMILY = Family("faster_rcnn", FasterRCNNSettings, presets={"small": _SMALL}, build=build_faster_rcnn)
