"""torchvision's RetinaNet and FCOS as detectors that show what they saw."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import generalized_box_iou_loss

from detdistill.detectors.anchors import NominalAnchors
from detdistill.detectors.backbones import PyramidBackbone, build_backbone
from detdistill.detectors.base import ClassLayout, Detector, DetectorSpec, PyramidLayout
from detdistill.detectors.dense_heads import (
    HEAD_NEEDS,
    LOSS_NEEDS,
    ClassSlots,
    Normaliser,
    class_levels,
    find,
    float_rows,
    grids,
    nominal,
    prior_bias,
    slot_count,
    tower,
)
from detdistill.detectors.dense_losses import (
    assign,
    centreness,
    focal_cells,
    match_by_centre,
    match_by_iou,
    offset_costs,
    total_over_images,
    total_over_positives,
)
from detdistill.detectors.settings import DetectorSettings
from detdistill.types import Batch, ClassKind, ClassLogits, Detections, Need, Observation, Pyramid, Targets, TaskLoss

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TORCHVISION_STRIDES = (8, 16, 32, 64, 128)


def _spec(model: Any, family: str, class_names: Sequence[str], *, name: str, strides: tuple[int, ...]) -> DetectorSpec:
    names = tuple(class_names)
    return DetectorSpec(
        name=name,
        family=family,
        class_names=names,
        pyramid=PyramidLayout(strides=strides, channels=model.backbone.out_channels),
        class_logits=ClassLayout(
            strides=strides,
            kind=ClassKind.SIGMOID,
            anchors=model.anchor_generator.num_anchors_per_location()[0],
            classes=names,
        ),
    )


@final
class DenseDetector(Detector):
    """A torchvision RetinaNet or FCOS; its losses and detections are torchvision's own, on nominal anchors.

    Args:
        model: a torchvision `RetinaNet` or `FCOS`; its anchor generator is replaced by one that spaces by `strides`.
        class_names: our classes, in label order.
        name: how messages call it.
        class_slots: the model's logit index of every class; None = the label itself.
        strides: nominal pixels per cell of every level.
        mean: of the pixels the model was made for.
        std: of the same.
        settings: what it was built from; None where a foreign model is wrapped.
    """

    def __init__(
        self,
        model: RetinaNet | FCOS,
        class_names: Sequence[str],
        *,
        name: str,
        class_slots: Sequence[int] | None = None,
        strides: tuple[int, ...] = TORCHVISION_STRIDES,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        settings: DetectorSettings | None = None,
    ) -> None:
        super().__init__()
        model.anchor_generator = nominal(model.anchor_generator, strides)
        self.model = model
        self.settings = settings
        family, self._loss = ("fcos", _fcos_loss) if isinstance(model, FCOS) else ("retinanet", _retinanet_loss)
        self.spec = _spec(model, family, class_names, name=name, strides=strides)
        self._pixels = Normaliser(mean, std)
        self._slots = ClassSlots(range(len(class_names)) if class_slots is None else class_slots, slot_count(model))

    def extract(self, batch: Batch) -> Pyramid:
        """The neck's feature maps. Gradients flow to the parameters and to ``batch.images``."""
        levels = self.model.backbone(self._pixels(batch))
        return Pyramid(levels=tuple(levels.values()), strides=self.spec.pyramid.strides)

    def observe(self, pyramid: Pyramid, batch: Batch, needs: Set[Need]) -> Observation:
        """What the heads see on `pyramid`; the head runs once, where it is needed. See `Detector.observe`."""
        if not needs & HEAD_NEEDS:
            return Observation(pyramid=pyramid)
        outputs = self._head(list(pyramid.levels), boxes=bool(needs & LOSS_NEEDS))
        layout = self.spec.class_logits
        shown = None
        if Need.CLASS_LOGITS in needs and layout is not None:
            levels = class_levels(self._slots.logits(outputs["cls_logits"]), pyramid, anchors=layout.anchors)
            shown = ClassLogits(levels=levels, strides=pyramid.strides, kind=layout.kind)
        loss = self._task_loss(outputs, pyramid, batch, needs) if needs & LOSS_NEEDS else None
        return Observation(pyramid=pyramid, class_logits=shown, task_loss=loss)

    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        """See `Detector.detect`."""
        pyramid = self.extract(batch)
        outputs = self.model.head(list(pyramid.levels))
        outputs["cls_logits"] = self._slots.logits(outputs["cls_logits"])
        return find(self.model, outputs, _anchors(self.model, pyramid), batch)

    def _head(self, levels: list[Tensor], *, boxes: bool) -> dict[str, Tensor]:
        """What the head says; the box tower is left out where nobody reads it."""
        if boxes:
            outputs: dict[str, Tensor] = self.model.head(levels)
            return outputs
        return {"cls_logits": self.model.head.classification_head(levels)}

    def _task_loss(self, outputs: dict[str, Tensor], pyramid: Pyramid, batch: Batch, needs: Set[Need]) -> TaskLoss:
        with torch.autocast(batch.images.device.type, enabled=False):
            return self._loss(
                self.model,
                float_rows(outputs),
                _anchors(self.model, pyramid),
                [self._slots.targets(target) for target in batch.targets],
                strides=pyramid.strides,
                per_image=Need.IMAGE_LOSSES in needs,
            )


def _retinanet_loss(
    model: RetinaNet,
    rows: dict[str, Tensor],
    levels: tuple[Tensor, ...],
    targets: list[Targets],
    *,
    strides: tuple[int, ...],
    per_image: bool,
) -> TaskLoss:
    anchors = torch.cat(levels)
    matches = [match_by_iou(target.boxes, anchors, matcher=model.proposal_matcher) for target in targets]
    given = assign(matches, targets, counts=tuple(level.shape[0] for level in levels))
    regression = model.head.regression_head
    box = offset_costs(
        rows["bbox_regression"][given.image, given.anchor],
        given.boxes[given.objects],
        anchors[given.anchor],
        kind=regression._loss_type,
        coder=regression.box_coder,
    )
    return total_over_images(
        given.by_level(focal_cells(rows["cls_logits"], given)),
        given.by_level(given.spread(box)),
        given.positives(),
        strides=strides,
        per_image=per_image,
    )


def _fcos_loss(
    model: FCOS,
    rows: dict[str, Tensor],
    levels: tuple[Tensor, ...],
    targets: list[Targets],
    *,
    strides: tuple[int, ...],
    per_image: bool,
) -> TaskLoss:
    anchors, counts = torch.cat(levels), tuple(level.shape[0] for level in levels)
    radius = model.center_sampling_radius
    matches = [match_by_centre(target.boxes, anchors, counts=counts, radius=radius) for target in targets]
    given = assign(matches, targets, counts=counts)
    positive, boxes, own = (given.image, given.anchor), given.boxes[given.objects], anchors[given.anchor]
    box = generalized_box_iou_loss(
        model.head.box_coder.decode(rows["bbox_regression"][positive], own), boxes, reduction="none"
    )
    centre = nn.functional.binary_cross_entropy_with_logits(
        rows["bbox_ctrness"][positive].squeeze(1), centreness(boxes, own), reduction="none"
    )
    return total_over_positives(
        given.by_level(focal_cells(rows["cls_logits"], given)),
        given.by_level(given.spread(box)),
        given.spread(centre).sum(dim=1),
        given.positives(),
        strides=strides,
        per_image=per_image,
    )


def _anchors(model: Any, pyramid: Pyramid) -> tuple[Float[Tensor, "_n 4"], ...]:
    generator: NominalAnchors = model.anchor_generator
    return generator.anchors(grids(pyramid), device=pyramid.levels[0].device)


def _backbone(settings: DetectorSettings) -> PyramidBackbone:
    return build_backbone(
        settings.backbone,
        strides=settings.strides,
        fpn_channels=settings.fpn_channels,
        norm=settings.norm,
        fpn_norm=settings.fpn_norm,
        freeze_stages=settings.freeze_stages,
        pretrained=settings.pretrained,
    )


def _fit_towers(head: Any, settings: DetectorSettings) -> None:
    """Replaces torchvision's fixed towers and sets the class prior."""
    for branch in (head.classification_head, head.regression_head):
        branch.conv = tower(settings.fpn_channels, depth=settings.head_depth, norm=settings.head_norm)
    nn.init.constant_(head.classification_head.cls_logits.bias, prior_bias(settings.class_prior))


def _dense(model: RetinaNet | FCOS, class_names: Sequence[str], settings: DetectorSettings) -> DenseDetector:
    return DenseDetector(
        model,
        class_names,
        name=settings.name,
        strides=settings.strides,
        mean=settings.mean,
        std=settings.std,
        settings=settings,
    )


def build_retinanet(settings: DetectorSettings, class_names: Sequence[str]) -> DenseDetector:
    """A RetinaNet with new weights (see `build_backbone` for where they are drawn from and what is raised)."""
    octaves = [2 ** (octave / settings.anchor_octaves) for octave in range(settings.anchor_octaves)]
    sizes = [
        [max(1, int(stride * settings.anchor_scale * octave)) for octave in octaves] for stride in settings.strides
    ]
    anchors = NominalAnchors(sizes, [settings.anchor_ratios] * len(sizes), strides=settings.strides)
    backbone = _backbone(settings)
    head = RetinaNetHead(settings.fpn_channels, anchors.num_anchors_per_location()[0], len(class_names))
    _fit_towers(head, settings)
    model = RetinaNet(
        backbone,
        num_classes=len(class_names),
        anchor_generator=anchors,
        head=head,
        image_mean=list(settings.mean),
        image_std=list(settings.std),
        score_thresh=settings.score_threshold,
        nms_thresh=settings.nms_threshold,
        detections_per_img=settings.detections_per_image,
        fg_iou_thresh=settings.positive_iou,
        bg_iou_thresh=settings.negative_iou,
        topk_candidates=settings.candidates_per_level,
    )
    return _dense(model, class_names, settings)


def build_fcos(settings: DetectorSettings, class_names: Sequence[str]) -> DenseDetector:
    """An FCOS with new weights (see `build_backbone` for where they are drawn from and what is raised)."""
    sizes, ratios = [(stride,) for stride in settings.strides], [(1.0,)] * len(settings.strides)
    backbone = _backbone(settings)
    head = FCOSHead(settings.fpn_channels, 1, len(class_names), num_convs=0)
    _fit_towers(head, settings)
    nn.init.constant_(head.regression_head.bbox_reg.bias, settings.box_bias_init)
    model = FCOS(
        backbone,
        num_classes=len(class_names),
        anchor_generator=NominalAnchors(sizes, ratios, strides=settings.strides),
        head=head,
        center_sampling_radius=settings.centre_radius,
        image_mean=list(settings.mean),
        image_std=list(settings.std),
        score_thresh=settings.score_threshold,
        nms_thresh=settings.nms_threshold,
        detections_per_img=settings.detections_per_image,
        topk_candidates=settings.candidates_per_level,
    )
    return _dense(model, class_names, settings)
