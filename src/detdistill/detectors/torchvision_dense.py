"""torchvision's RetinaNet and FCOS as detectors that show what they saw; what tells the two apart is in `families`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.image_list import ImageList

from detdistill.detectors.backbones import PyramidBackbone
from detdistill.detectors.base import Detector, Limits, TowerLayout
from detdistill.detectors.dense import (
    Asked,
    dense_spec,
    observe_dense,
    observe_dense_towers,
    prior_bias,
    tower,
)
from detdistill.detectors.finding import find_best
from detdistill.detectors.preprocess import Normaliser, pixel_statistics
from detdistill.detectors.settings import PyramidSettings
from detdistill.detectors.torchvision_parts import ClassSlots, NominalAnchors, clipped
from detdistill.detectors.towers import block_ends
from detdistill.errors import CapabilityError
from detdistill.types import Batch, Candidates, Detections, Need, Observation, Pyramid, TaskLoss

DenseLoss = Callable[..., list[TaskLoss]]
"""A family's losses of (model, rows, levels, targets, *, strides, per_image).

`rows` are the head's outputs by torchvision's names, in float32, and gradients flow to them; `levels` the anchors
(n, 4) of every level; `targets` the taught objects of every image, labels in the model's slots, one set of all images
after the other; `per_image` asks of each set whether each image's and level's part is wanted too.
"""


@final
class DenseDetector(Detector):
    """A torchvision RetinaNet or FCOS; its losses and detections are torchvision's own, on nominal anchors.

    Args:
        model: taken over: its anchor generator is replaced by one that spaces by `strides`, nominal pixels per cell.
        class_names: our classes, in label order.
        name: how messages call it.
        loss: the family's.
        class_slots: the model's logit index of every class; None = the label itself.
        settings: what it was built from; None where a foreign model is wrapped.
    """

    agnostic = False
    weighs_objects = True

    def __init__(
        self,
        model: RetinaNet | FCOS,
        class_names: Sequence[str],
        *,
        name: str,
        loss: DenseLoss,
        class_slots: Sequence[int] | None = None,
        strides: tuple[int, ...] = (8, 16, 32, 64, 128),
        settings: PyramidSettings | None = None,
    ) -> None:
        super().__init__()
        model.anchor_generator = NominalAnchors.like(model.anchor_generator, strides)
        self.model = model
        self.settings = settings
        self._loss = loss
        anchors = model.anchor_generator.num_anchors_per_location()[0]
        channels = model.backbone.out_channels
        towers = TowerLayout(len(block_ends(model.head.classification_head.conv)), channels)
        self.spec = dense_spec(name, class_names, strides=strides, channels=channels, anchors=anchors, towers=towers)
        self._pixels = Normaliser(model.transform.image_mean, model.transform.image_std)
        total = int(model.head.classification_head.num_classes)
        self._slots = ClassSlots(class_slots, class_names, total=total, first=0, name=name)

    def extract(self, batch: Batch) -> Pyramid:
        """See `Detector.extract`."""
        return Pyramid(tuple(self.model.backbone(self._pixels(batch)).values()), self.spec.maps.strides)

    def observe(self, pyramid: Pyramid, batch: Batch, needs: Set[Need]) -> Observation:
        """See `Detector.observe`."""
        return observe_dense(self, pyramid, batch, needs)

    def observe_towers(
        self, classes: Pyramid, boxes: Pyramid, batch: Batch, needs: Set[Need], *, after: int
    ) -> Observation:
        """See `Detector.observe_towers`."""
        return observe_dense_towers(self, classes, boxes, batch, needs, after=after)

    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        """See `Detector.detect`: as torchvision's own post-processing, with the probabilities of all classes."""
        pyramid, model = self.extract(batch), self.model
        levels = model.anchor_generator.anchors(pyramid.levels)
        classes = self._slots.logits(self.class_outputs(pyramid)).float().sigmoid()
        said = {name: values.float() for name, values in self.box_outputs(pyramid).items()}
        central = said.get("bbox_ctrness")
        scores = classes if central is None else (classes * central.sigmoid()).sqrt()
        offsets, anchors, coder = said["bbox_regression"], torch.cat(levels), model.box_coder
        decode = getattr(coder, "decode_single", coder.decode)
        return find_best(
            self,
            scores,
            classes,
            lambda image, anchor: decode(offsets[image, anchor], anchors[anchor]),
            counts=[len(level) for level in levels],
            sizes=batch.sizes,
            threshold=model.score_thresh,
            candidates=model.topk_candidates,
            overlap=model.nms_thresh,
            most=model.detections_per_img,
        )

    def candidates(self, batch: Batch, sizes: Int64[Tensor, "b 2"]) -> Candidates:
        """See `Detector.candidates`."""
        pyramid = self.extract(batch)
        scores, rows = self._slots.logits(self.class_outputs(pyramid)).float().sigmoid(), self.box_outputs(pyramid)
        if "bbox_ctrness" in rows:
            scores = (scores * rows["bbox_ctrness"].float().sigmoid()).sqrt()
        return Candidates(clipped(self._every_box(rows, pyramid), sizes), scores)

    def limits(self) -> Limits:
        """See `Detector.limits`."""
        return Limits(self.model.score_thresh, self.model.nms_thresh, self.model.detections_per_img)

    def class_rows(self) -> Mapping[str, tuple[int, ...]]:
        """See `Detector.class_rows`: all slots of one anchor after those of another."""
        rows = self._slots.rows() * self.model.anchor_generator.num_anchors_per_location()[0]
        return {f"model.head.classification_head.cls_logits.{part}": rows for part in ("weight", "bias")}

    def towers(self) -> tuple[tuple[nn.Module, str], tuple[nn.Module, str]]:
        """Both towers of the head."""
        return (self.model.head.classification_head, "conv"), (self.model.head.regression_head, "conv")

    def class_outputs(self, pyramid: Pyramid) -> Float[Tensor, "b n s"]:
        """The logits of all of the model's slots, the anchors of all levels in a row."""
        logits: Tensor = self.model.head.classification_head(list(pyramid.levels))
        return logits

    def box_outputs(self, pyramid: Pyramid) -> Mapping[str, Float[Tensor, "b n _"]]:
        """The rows of the box tower by torchvision's names: FCOS's says centerness too."""
        said = self.model.head.regression_head(list(pyramid.levels))
        return dict(
            zip(("bbox_regression", "bbox_ctrness"), said if isinstance(said, tuple) else (said,), strict=False)
        )

    def class_maps(self, outputs: Float[Tensor, "b n s"], pyramid: Pyramid) -> tuple[Float[Tensor, "b a k _h _w"], ...]:
        """The rows of our classes as maps: views, with gradients."""
        return self._maps(self._slots.logits(outputs), pyramid)

    def box_maps(self, outputs: Mapping[str, Tensor], pyramid: Pyramid) -> tuple[Float[Tensor, "b a 4 _h _w"], ...]:
        """The rows of the box tower decoded on the anchors."""
        return self._maps(self._every_box(outputs, pyramid), pyramid)

    def _every_box(self, outputs: Mapping[str, Tensor], pyramid: Pyramid) -> Float[Tensor, "b n 4"]:
        coder, rows = self.model.box_coder, outputs["bbox_regression"].float()
        anchors = torch.cat(self.model.anchor_generator.anchors(pyramid.levels)).repeat(rows.shape[0], 1)
        decode = getattr(coder, "decode_single", coder.decode)
        boxes: Tensor = decode(rows.flatten(0, 1), anchors).view_as(rows)
        return boxes

    def _maps(self, rows: Float[Tensor, "b n s"], pyramid: Pyramid) -> tuple[Float[Tensor, "b a s _h _w"], ...]:
        """What is said of every anchor as maps, one a level: views."""
        anchors = self.model.anchor_generator.num_anchors_per_location()[0]
        shapes = [level.shape[-2:] for level in pyramid.levels]
        parts = torch.split(rows, [shape.numel() * anchors for shape in shapes], dim=1)
        return tuple(
            part.reshape(len(part), *shape, anchors, -1).permute(0, 3, 4, 1, 2)
            for part, shape in zip(parts, shapes, strict=True)
        )

    def dense_loss(
        self, classes: Tensor, boxes: Mapping[str, Tensor], pyramid: Pyramid, batch: Batch, *, per_image: bool
    ) -> TaskLoss:
        """The family's loss of what both towers said."""
        return self.dense_losses(classes, boxes, pyramid, [(batch, per_image)])[0]

    def dense_losses(
        self, classes: Tensor, boxes: Mapping[str, Tensor], pyramid: Pyramid, asked: Sequence[Asked]
    ) -> list[TaskLoss]:
        """The same against the targets of several batches."""
        rows = {name: rows.float() for name, rows in {"cls_logits": classes, **boxes}.items()}
        anchors = self.model.anchor_generator.anchors(pyramid.levels)
        targets = [self._slots.targets(target) for batch, _ in asked for target in batch.targets]
        wanted = [each for _, each in asked]
        return self._loss(self.model, rows, anchors, targets, strides=pyramid.strides, per_image=wanted)


def dense_detector(
    kind: type[RetinaNet] | type[FCOS],
    settings: Any,
    class_names: Sequence[str],
    *,
    backbone: PyramidBackbone,
    head: Any,
    anchors: NominalAnchors,
    loss: DenseLoss,
    own: Mapping[str, float],
) -> DenseDetector:
    """Puts a detector of torchvision's together, with towers as the settings ask for them and with their class prior.

    Args:
        kind: torchvision's class.
        settings: of the family: the shared keys, and `head_norm`, `class_prior` and `candidates_per_level`.
        backbone: drawn before the head.
        head: torchvision's; its fixed towers are replaced by newly drawn ones.
        own: arguments of `kind` that it alone has.
    """
    for branch in (head.classification_head, head.regression_head):
        branch.conv = tower(settings.fpn_channels, depth=settings.head_depth, norm=settings.head_norm)
    nn.init.constant_(head.classification_head.cls_logits.bias, prior_bias(settings.class_prior))
    mean, std = pixel_statistics(settings)
    model = kind(
        backbone,
        num_classes=len(class_names),
        anchor_generator=anchors,
        head=head,
        image_mean=list(mean),
        image_std=list(std),
        score_thresh=settings.score_threshold,
        nms_thresh=settings.nms_threshold,
        detections_per_img=settings.detections_per_image,
        topk_candidates=settings.candidates_per_level,
        **own,
    )
    return DenseDetector(model, class_names, name=settings.name, loss=loss, strides=settings.strides, settings=settings)


def torchvision_loss(detector: Detector, batch: Batch) -> Float[Tensor, ""]:
    """The sum of torchvision's own training losses of the model inside a dense detector, without any observation.

    Equal to ``observe``'s task loss; gradients flow to the parameters.

    Raises:
        CapabilityError: the detector is neither a RetinaNet nor an FCOS.
    """
    if not isinstance(detector, DenseDetector):
        raise CapabilityError(
            f"The plain step must get a RetinaNet or an FCOS, got {detector.spec.name}. Choose retinanet/resnet18."
        )
    model = detector.model
    features = list(detector.extract(batch).levels)
    outputs = model.head(features)
    anchors = model.anchor_generator(ImageList(batch.images, list(batch.sizes)), features)
    taught = [target.taught() for target in batch.targets]
    targets = [{"boxes": target.boxes, "labels": target.labels} for target in taught]
    cells = ([level.shape[-2] * level.shape[-1] for level in features],) if isinstance(model, FCOS) else ()
    total: Tensor = sum(model.compute_loss(targets, outputs, anchors, *cells).values())
    return total
