"""What the adapters of torchvision's detectors share: anchors on nominal strides, class slots, the size of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher, encode_boxes
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

from detdistill.data.resizing import transform_sample
from detdistill.data.transforms import ImageSettings
from detdistill.detectors.base import BACKGROUND_ROW, UNUSED_ROW
from detdistill.detectors.dense import BACKGROUND, LEFT_OUT, all_background
from detdistill.errors import ConfigError
from detdistill.gfl.assign import Cells, make_cells
from detdistill.types import Detections, Targets, sent

_TINY = 1e-7  # torchvision's


def cells_of(levels: Sequence[Tensor], strides: Sequence[int]) -> Cells:
    """The cells of maps (..., h, w) with such nominal strides in pixels."""
    return make_cells([(one.shape[-2], one.shape[-1]) for one in levels], strides, device=levels[0].device)


def clipped(boxes: Float[Tensor, "b *n 4"], sizes: Int64[Tensor, "b 2"]) -> Float[Tensor, "b *n 4"]:
    """Boxes within images of such height and width in pixels."""
    limits = sizes.flip(1).repeat(1, 2).to(boxes.dtype).reshape(-1, *(1,) * (boxes.dim() - 2), 4)
    return torch.minimum(boxes.clamp(min=0.0), limits)


def encoded(coder: BoxCoder, boxes: Float[Tensor, "p 4"], anchors: Float[Tensor, "p 4"]) -> Float[Tensor, "p 4"]:
    """`BoxCoder.encode_single`, which waits for the device to send its weights there."""
    offsets: Tensor = encode_boxes(boxes, anchors, sent(torch.tensor(coder.weights, dtype=boxes.dtype), boxes.device))
    return offsets


def overlaps(first: Float[Tensor, "m 4"], second: Float[Tensor, "n 4"]) -> Float[Tensor, "m n"]:
    """The IoU of every pair: torchvision's `box_iou` to the bit, edge by edge, which takes a third of its time."""
    x1, y1, x2, y2 = first[:, None].unbind(dim=2)
    left, top, right, bottom = second.unbind(dim=1)
    wide = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp(min=0)
    high = (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp(min=0)
    shared = wide * high
    return shared / ((x2 - x1) * (y2 - y1) + (right - left) * (bottom - top) - shared)


def matched(matcher: Matcher, boxes: Float[Tensor, "m 4"], anchors: Float[Tensor, "n 4"]) -> Int64[Tensor, " n"]:
    """The box that each anchor learns, BACKGROUND or LEFT_OUT, as torchvision's matcher says by their overlaps.

    That one waits for the device to list the best anchors of every box.
    """
    if not len(boxes):
        return all_background(anchors)
    found = overlaps(boxes, anchors)
    best, objects = found.max(dim=0)
    matches = torch.where(best < matcher.high_threshold, LEFT_OUT, objects)
    matches = torch.where(best < matcher.low_threshold, BACKGROUND, matches)
    if not matcher.allow_low_quality_matches:
        return matches
    return torch.where((found == found.amax(dim=1, keepdim=True)).any(dim=0), objects, matches)


def overlap_costs(first: Float[Tensor, "p 4"], second: Float[Tensor, "p 4"]) -> Float[Tensor, " p"]:
    """torchvision's `generalized_box_iou_loss` to the bit, which waits for the device to count boxes that meet.

    1 − IoU + (hull − union) / hull, where the hull is the smallest box around both. Gradients flow.
    """
    x1, y1, x2, y2 = first.unbind(dim=-1)
    left, top, right, bottom = second.unbind(dim=-1)
    wide = torch.min(x2, right) - torch.max(x1, left)
    high = torch.min(y2, bottom) - torch.max(y1, top)
    shared = torch.where((high > 0) & (wide > 0), wide * high, 0.0)
    union = (x2 - x1) * (y2 - y1) + (right - left) * (bottom - top) - shared
    hull = (torch.max(x2, right) - torch.min(x1, left)) * (torch.max(y2, bottom) - torch.min(y1, top))
    return 1 - (shared / (union + _TINY) - (hull - union) / (hull + _TINY))


class NominalAnchors(AnchorGenerator):  # type: ignore[misc]
    """torchvision's anchors, spaced by the pyramid's nominal strides and always in float32.

    torchvision's own generator spaces them by image size // grid size, which is 53 instead of 64 where an image
    of 160 pixels has three cells, and computes them in the feature maps' dtype, which is too coarse in bfloat16.

    Sizes are in pixels, ratios height / width, strides pixels per cell; one of each per level, else a `ConfigError`.
    """

    cell_anchors: list[Tensor]

    def __init__(
        self, sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[Sequence[float]], *, strides: Sequence[int]
    ) -> None:
        super().__init__(tuple(map(tuple, sizes)), tuple(map(tuple, aspect_ratios)))
        self.strides = tuple(strides)
        if len(sizes) != len(self.strides):
            raise ConfigError(
                f"The strides must be as many as the model's anchor levels, {len(sizes)}, got {self.strides}. "
                "Give one stride per pyramid level."
            )

    @classmethod
    def like(cls, generator: Any, strides: Sequence[int]) -> NominalAnchors:
        """The anchors of a generator of torchvision's, spaced by nominal strides."""
        return cls(generator.sizes, generator.aspect_ratios, strides=strides)

    def anchors(self, levels: Sequence[Tensor]) -> tuple[Float[Tensor, "_n 4"], ...]:
        """The anchors of every level's maps (..., h, w) in pixels, in the order row, column, anchor."""
        cells = cells_of(levels, self.strides)
        self.cell_anchors = [around.to(levels[0].device) for around in self.cell_anchors]  # moves them once
        corners = torch.split(cells.points.repeat(1, 2)[:, None], list(cells.counts))
        return tuple(
            (corner + around).reshape(-1, 4) for corner, around in zip(corners, self.cell_anchors, strict=True)
        )

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Float[Tensor, "_n 4"]]:
        """torchvision's interface: the anchors of all levels in one row, once per image."""
        return [torch.cat(self.anchors(feature_maps))] * len(image_list.image_sizes)


class ClassSlots(nn.Module):
    """Which of a model's class slots is which of our classes; holds no weights.

    Args:
        slots: the model's slot of every class, each its own; None for one after the other from `first`.
        class_names: our classes, in label order.
        total: how many slots the model has.
        first: the first slot that can be a class: 1 where slot 0 is the background.
        name: of the detector, in messages.
    """

    slots: Tensor
    labels: Tensor

    def __init__(
        self, slots: Sequence[int] | None, class_names: Sequence[str], *, total: int, first: int, name: str
    ) -> None:
        super().__init__()
        given = tuple(range(first, first + len(class_names)) if slots is None else slots)
        distinct = len(given) == len(class_names) == len(set(given)) > 0
        if not (distinct and all(first <= slot < total for slot in given)):
            raise ConfigError(
                f"the classes of {name} must be one slot of {first} to {total - 1} each, got {len(class_names)} names "
                f"and slots {given}. Give every class a slot of its own."
            )
        self._first = first
        self._identity = given == tuple(range(total))
        labels = torch.full((total,), -1)
        labels[list(given)] = torch.arange(len(given))
        self.register_buffer("slots", torch.tensor(given, dtype=torch.int64), persistent=False)
        self.register_buffer("labels", labels, persistent=False)

    def rows(self) -> tuple[int, ...]:
        """What every slot stands for, as in `Detector.class_rows`."""
        known = enumerate(self.labels.tolist())
        return tuple(
            BACKGROUND_ROW if slot < self._first else label if label >= 0 else UNUSED_ROW for slot, label in known
        )

    def logits(self, logits: Float[Tensor, "b n s"]) -> Float[Tensor, "b n k"]:
        """The logits of our classes, in label order."""
        return logits if self._identity else logits.index_select(2, self.slots)

    def targets(self, targets: Targets) -> Targets:
        """What training uses of an image's targets, labels as the model's slots."""
        taught = targets.taught()
        if self._identity:
            return taught
        classes = taught.probabilities
        if classes is not None:
            classes = classes.new_zeros(len(classes), len(self.labels)).index_copy(1, self.slots, classes)
        return replace(taught, labels=self.slots[taught.labels], probabilities=classes)

    def detections(self, found: Detections) -> Detections:
        """What was found of our classes, slots as labels; its probabilities are of all slots."""
        labels = self.labels[found.labels]
        known = labels >= 0
        said = found.probabilities
        classes = None if said is None else said[known].index_select(1, self.slots)
        return Detections(found.boxes[known], found.scores[known], labels[known], classes)


class RunTransform(GeneralizedRCNNTransform):  # type: ignore[misc]
    """torchvision's way into its own models, with a run's image size: it resizes, pads and normalises as our loader.

    What enters is RGB in [0, 1], as from ``ToTensor``; it is resized as the 8-bit image that it was.
    """

    def __init__(self, image: ImageSettings, mean: Sequence[float], std: Sequence[float]) -> None:
        sides = image.short_side, image.long_side
        super().__init__(*sides, list(mean), list(std), size_divisible=image.pad_multiple)
        self._image = image

    def normalize(self, image: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
        """Left to `resize`: our loader resizes first."""
        return image

    def resize(
        self, image: Float[Tensor, "3 h w"], target: dict[str, Tensor] | None = None
    ) -> tuple[Float[Tensor, "3 _h _w"], dict[str, Tensor] | None]:
        """The image resized and normalised, and its target's boxes."""
        pixels = (image * 255).round().clamp(0, 255).to(torch.uint8)
        none = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
        resized, _ = transform_sample(pixels, none, settings=self._image)
        if target is not None:
            sizes = [[*one.shape[-2:]] for one in (image, resized)]
            target = {**target, "boxes": resize_boxes(target["boxes"], *sizes)}
        return super().normalize(resized.to(image.dtype) / 255), target


def set_image_size(detector: Any, image: ImageSettings) -> None:
    """Gives the torchvision model inside a detector the size at which the detector sees images; others have none.

    ``detector.model([image])`` then finds what `Detector.detect` finds in the image as the run's loader brings it.
    """
    model = getattr(detector, "model", None)
    inner = getattr(model, "transform", None)
    if model is not None and isinstance(inner, GeneralizedRCNNTransform):
        model.transform = RunTransform(image, inner.image_mean, inner.image_std)
