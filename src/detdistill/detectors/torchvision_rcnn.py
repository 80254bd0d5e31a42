"""torchvision's Faster R-CNN as a detector that shows what it saw."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from detdistill.detectors.anchors import NominalAnchors
from detdistill.detectors.backbones import build_backbone
from detdistill.detectors.base import ClassLayout, Detector, DetectorSpec, PyramidLayout
from detdistill.detectors.preprocess import normalise
from detdistill.detectors.rcnn_losses import (
    RpnOutput,
    SampledSums,
    flat_output,
    proposed,
    roi_sums,
    rpn_sums,
    sampled_regions,
)
from detdistill.detectors.sampler import SeededSampler, Stream
from detdistill.detectors.settings import DetectorSettings
from detdistill.errors import ConfigError
from detdistill.types import (
    Batch,
    ClassKind,
    ClassLogits,
    Detections,
    Need,
    Observation,
    Pyramid,
    Targets,
    TaskLoss,
)

_LOSSES = frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES})
_POOLED_CELLS = 7
_COARSEST_POOLED = 32


@final
class FasterRCNNDetector(Detector):
    """Faster R-CNN: proposals from every pyramid level, refined one by one.

    Its class logits are the RPN's objectness. What is computed depends on what is asked for, never on train or
    eval mode: losses use the training counts of proposals, detection the testing ones. Anchors and regions are
    drawn from ``batch.seeds``; the global generator plays no part.

    Args:
        model: torchvision's model, taken over: its anchors and its RoI pooling are set to the nominal strides.
            Its backbone gives the levels ``"0"``, ``"1"``, ... fine to coarse; its own resizing is not used.
        class_names: in label order.
        name: how messages call the detector.
        class_slots: the model's own class index of every label, 1 or more as 0 is the background. None: label + 1.
        strides: nominal pixels per cell of every level.
        mean: subtracted from RGB in [0, 1], per channel. None: the model's own.
        std: what the difference is divided by, per channel. None: the model's own.
        settings: what it was built from, so that it can be saved; None where torchvision's builder made it.

    Raises:
        ConfigError: the slots do not fit the class names or the model.
    """

    mean: Tensor
    std: Tensor
    label_of_slot: Tensor
    slot_of_label: Tensor

    def __init__(
        self,
        model: FasterRCNN,
        class_names: Sequence[str],
        *,
        name: str,
        class_slots: Sequence[int] | None = None,
        strides: Sequence[int] = (4, 8, 16, 32, 64),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        settings: DetectorSettings | None = None,
    ) -> None:
        super().__init__()
        class_names, strides = tuple(class_names), tuple(strides)
        slots = tuple(range(1, len(class_names) + 1)) if class_slots is None else tuple(class_slots)
        in_model = model.roi_heads.box_predictor.cls_score.out_features
        _check_slots(slots, class_names=class_names, in_model=in_model, name=name)
        anchors = model.rpn.anchor_generator
        model.rpn.anchor_generator = NominalAnchors(anchors.sizes, anchors.aspect_ratios, strides=strides)
        self._level_names = tuple(str(level) for level in range(len(strides)))
        _pool_by_nominal_strides(model.roi_heads.box_roi_pool, strides)
        self.model = model
        self.settings = settings
        self.spec = DetectorSpec(
            name=name,
            family="faster_rcnn",
            class_names=class_names,
            pyramid=PyramidLayout(strides, model.backbone.out_channels),
            class_logits=ClassLayout(strides, ClassKind.OBJECTNESS, anchors.num_anchors_per_location()[0], ("object",)),
            two_stage=True,
        )
        for buffer, given, own in (("mean", mean, model.transform.image_mean), ("std", std, model.transform.image_std)):
            values = torch.tensor(own if given is None else given).view(3, 1, 1)
            self.register_buffer(buffer, values, persistent=False)
        labels = torch.full((in_model,), -1)
        labels[list(slots)] = torch.arange(len(slots))
        self.register_buffer("label_of_slot", labels, persistent=False)
        self.register_buffer("slot_of_label", torch.tensor(slots, dtype=torch.int64), persistent=False)

    def extract(self, batch: Batch) -> Pyramid:
        """The neck's feature maps. Gradients flow to the parameters and to ``batch.images``."""
        features = self.model.backbone(normalise(batch, mean=self.mean, std=self.std))
        return Pyramid(tuple(features.values()), self.spec.pyramid.strides)

    def observe(self, pyramid: Pyramid, batch: Batch, needs: Set[Need]) -> Observation:
        """What the heads see on `pyramid`.

        Args:
            pyramid: feature maps; gradients flow through them.
            batch: image sizes, targets (for the losses) and seeds (for what is sampled).
            needs: the class logits cost the RPN's head alone; any loss costs the second stage too.
        """
        if not needs & (_LOSSES | {Need.CLASS_LOGITS}):
            return Observation(pyramid)
        objectness, deltas = self.model.rpn.head(list(pyramid.levels))
        logits = loss = None
        if Need.CLASS_LOGITS in needs:
            levels = tuple(level.unsqueeze(2) for level in objectness)
            logits = ClassLogits(levels, pyramid.strides, ClassKind.OBJECTNESS)
        if needs & _LOSSES:
            output = self._flat(objectness, deltas)
            loss = self._task_loss(pyramid, batch, output, by_image=Need.IMAGE_LOSSES in needs)
        return Observation(pyramid, class_logits=logits, task_loss=loss)

    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        """Detections of every image, best first, in pixels of the padded batch image, clipped to the image."""
        pyramid = self.extract(batch)
        rpn = self.model.rpn
        output = self._flat(*rpn.head(list(pyramid.levels)))
        proposals = proposed(
            rpn,
            output,
            batch.sizes,
            before=rpn._pre_nms_top_n["testing"],
            after=rpn._post_nms_top_n["testing"],
        )
        class_logits, deltas = self._second_stage(pyramid, proposals, batch.sizes)
        boxes, scores, slots = self.model.roi_heads.postprocess_detections(
            class_logits.float(), deltas.float(), proposals, list(batch.sizes)
        )
        return tuple(self._named(*found) for found in zip(boxes, scores, slots, strict=True))

    def _named(
        self, boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], slots: Int64[Tensor, " n"]
    ) -> Detections:
        labels = self.label_of_slot[slots]
        known = labels >= 0
        return Detections(boxes=boxes[known], scores=scores[known], labels=labels[known])

    def _flat(self, objectness: list[Tensor], deltas: list[Tensor]) -> RpnOutput:
        grids = [(level.shape[-2], level.shape[-1]) for level in objectness]
        anchors = self.model.rpn.anchor_generator.anchors(grids, device=objectness[0].device)
        return flat_output(objectness, deltas, torch.cat(anchors))

    def _second_stage(
        self, pyramid: Pyramid, boxes: list[Float[Tensor, "_r 4"]], sizes: Sequence[tuple[int, int]]
    ) -> tuple[Float[Tensor, "r s"], Float[Tensor, "r 4s"]]:
        heads = self.model.roi_heads
        features = dict(zip(self._level_names, pyramid.levels, strict=True))
        logits, deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, boxes, list(sizes))))
        return logits, deltas

    def _task_loss(self, pyramid: Pyramid, batch: Batch, output: RpnOutput, *, by_image: bool) -> TaskLoss:
        rpn, heads = self.model.rpn, self.model.roi_heads
        targets = [self._slotted(target.taught()) for target in batch.targets]
        # The losses are in float32; the second stage's layers stay under the caller's autocast.
        with torch.autocast(batch.images.device.type, enabled=False):
            proposals = proposed(
                rpn,
                output,
                batch.sizes,
                before=rpn._pre_nms_top_n["training"],
                after=rpn._post_nms_top_n["training"],
            )
            first = rpn_sums(rpn, output, targets, _sampler(rpn.fg_bg_sampler, batch, Stream.ANCHORS))
            regions = sampled_regions(heads, proposals, targets, _sampler(heads.fg_bg_sampler, batch, Stream.REGIONS))
        logits, deltas = self._second_stage(pyramid, regions.boxes, batch.sizes)
        with torch.autocast(batch.images.device.type, enabled=False):
            second = roi_sums(logits, deltas, regions)
            return _task_loss(first, second, strides=pyramid.strides, by_image=by_image)

    def _slotted(self, targets: Targets) -> Targets:
        return Targets(targets.boxes, self.slot_of_label[targets.labels], targets.ignored)


def build_faster_rcnn(settings: DetectorSettings, class_names: Sequence[str]) -> FasterRCNNDetector:
    """A Faster R-CNN on a timm backbone, with weights drawn from the global generator.

    Args:
        settings: `settings.head_depth` is the RPN's; the second stage has two layers of `settings.roi_channels`.
        class_names: in label order.
    """
    backbone = build_backbone(
        settings.backbone,
        strides=settings.strides,
        fpn_channels=settings.fpn_channels,
        fpn_norm=settings.fpn_norm,
        norm=settings.norm,
        freeze_stages=settings.freeze_stages,
        pretrained=settings.pretrained,
        # As torchvision's, where that gives the levels.
        extra="pool" if settings.strides[-1] <= 2 * _COARSEST_POOLED else "conv",
    )
    octaves = settings.anchor_octaves
    sizes = tuple(
        tuple(stride * settings.anchor_scale * 2 ** (i / octaves) for i in range(octaves))
        for stride in settings.strides
    )
    ratios = (settings.anchor_ratios,) * len(settings.strides)
    channels = settings.fpn_channels
    model = FasterRCNN(
        backbone,
        rpn_anchor_generator=NominalAnchors(sizes, ratios, strides=settings.strides),
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
        image_mean=list(settings.mean),
        image_std=list(settings.std),
    )
    return FasterRCNNDetector(model, class_names, name=settings.name, strides=settings.strides, settings=settings)


def _sampler(torchvisions: object, batch: Batch, stream: Stream) -> SeededSampler:
    """The seeded twin of a sampler of torchvision's."""
    return SeededSampler(
        seeds=batch.seeds,
        stream=stream,
        count=torchvisions.batch_size_per_image,  # type: ignore[attr-defined]
        positive_fraction=torchvisions.positive_fraction,  # type: ignore[attr-defined]
    )


def _task_loss(first: SampledSums, second: SampledSums, *, strides: tuple[int, ...], by_image: bool) -> TaskLoss:
    total = first.total() + second.total()
    if not by_image:
        return TaskLoss(total=total)
    classification, box = first.by_image()
    roi_classification, roi_box = second.by_image()
    return TaskLoss(
        total=total,
        strides=strides,
        classification=classification,
        box=box,
        roi_classification=roi_classification,
        roi_box=roi_box,
    )


def _pooled_strides(strides: Sequence[int]) -> tuple[int, ...]:
    """The levels that the second stage reads; coarser ones are the RPN's alone."""
    return tuple(stride for stride in strides if stride <= max(_COARSEST_POOLED, strides[0]))


def _pool_by_nominal_strides(pool: MultiScaleRoIAlign, strides: Sequence[int]) -> None:
    """Sets what the pooling would otherwise guess from the first batch's image sizes, and keep."""
    pooled = _pooled_strides(strides)
    pool.featmap_names = [str(level) for level in range(len(pooled))]
    pool.scales = [1 / stride for stride in pooled]
    pool.map_levels = initLevelMapper(
        int(math.log2(pooled[0])),
        int(math.log2(pooled[-1])),
        canonical_scale=pool.canonical_scale,
        canonical_level=pool.canonical_level,
    )


def _check_slots(slots: tuple[int, ...], *, class_names: tuple[str, ...], in_model: int, name: str) -> None:
    fitting = len(slots) == len(class_names) == len(set(slots)) and all(0 < slot < in_model for slot in slots)
    if not (fitting and class_names):
        raise ConfigError(
            f"the classes of {name} must be one slot of 1 to {in_model - 1} each, got {len(class_names)} names "
            f"and slots {slots}. Give one slot per name."
        )
