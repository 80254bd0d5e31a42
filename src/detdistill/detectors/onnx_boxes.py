"""From what an ONNX detector gives to detections: boxes of any format, scores of any kind, in pixels of the image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torchvision.ops import batched_nms, box_convert

from detdistill.detectors.onnx_settings import OnnxSettings
from detdistill.types import Detections

_CANDIDATES = 1000


@dataclass(frozen=True, slots=True)
class Fit:
    """Where an image lies in the input: input = image · scale + offset, in pixels."""

    image: tuple[int, int]
    input: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[int, int]

    def back(self, boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
        """Boxes of the input in pixels of the image."""
        (down, across), (top, left) = self.scale, self.offset
        return (boxes - boxes.new_tensor([left, top, left, top])) / boxes.new_tensor([across, down, across, down])


def fitted(image: Float[Tensor, "3 h w"], settings: OnnxSettings) -> tuple[Float[Tensor, "3 _h _w"], Fit]:
    """An image brought to the input's size."""
    height, width = image.shape[-2:]
    own = height, width
    if settings.size is None or settings.resize == "keep":
        return image, Fit(own, own, (1.0, 1.0), (0, 0))
    rows, columns = settings.size
    new = (rows, columns)
    if settings.resize == "letterbox":
        ratio = min(rows / height, columns / width)
        new = max(1, round(height * ratio)), max(1, round(width * ratio))
    if new != own:
        image = functional.interpolate(image[None], new, mode="bilinear", align_corners=False, antialias=True)[0]
    left, top = ((columns - new[1]) // 2, (rows - new[0]) // 2) if settings.centred else (0, 0)
    sides = (left, columns - new[1] - left, top, rows - new[0] - top)
    canvas = functional.pad(image, sides, value=settings.fill or 0.0)
    return canvas, Fit(own, (rows, columns), (new[0] / height, new[1] / width), (top, left))


def detections(outputs: tuple[Tensor, ...], settings: OnnxSettings, fit: Fit) -> Detections:
    """What one image's outputs say, best first, in pixels of the image, clipped to it.

    Args:
        outputs: in the order of the form, without the axis of images; see `OnnxSettings.form`.
        settings: with nothing left open.
        fit: where the image lay.
    """
    classes = len(settings.classes or ())
    boxes, scores, labels, every = _read(tuple(one.float() for one in outputs), settings, classes)
    kept = (scores >= settings.score_threshold) & (labels >= 0) & (labels < classes)
    best = scores.masked_fill(~kept, -1).argsort(descending=True, stable=True)[: int(kept.sum())]
    best = best[: _CANDIDATES if settings.nms else settings.detections_per_image]
    boxes = _placed(boxes[best], settings, fit)
    found = Detections(boxes, scores[best], labels[best], None if every is None else every[best])
    if not settings.nms:
        return found
    keep = batched_nms(found.boxes, found.scores, found.labels, settings.nms_threshold)
    keep = keep[: settings.detections_per_image]
    said = None if found.probabilities is None else found.probabilities[keep]
    return Detections(found.boxes[keep], found.scores[keep], found.labels[keep], said)


def _read(
    outputs: tuple[Tensor, ...], settings: OnnxSettings, classes: int
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Boxes as they are given, their scores and labels, and the score of every class where it says so."""
    first = settings.first_label or 0
    if settings.form == "detections":
        boxes, scores, labels = outputs
        return boxes, scores, labels.long() - first, None
    if settings.form == "rows":
        (rows,) = outputs
        return rows[:, :4], rows[:, 4], rows[:, 5].round().long() - first, None
    if settings.form == "queries":
        every, boxes = outputs
    else:
        (cells,) = outputs
        # Some have a cell a column.
        cells = cells if cells.shape[1] == 4 + classes + bool(settings.objectness) else cells.T
        boxes, every = cells[:, :4], cells[:, 4:]
    every = {"sigmoid": torch.sigmoid, "softmax": lambda one: one.softmax(1)}.get(str(settings.activation), _as_is)(
        every
    )
    if settings.form == "cells" and settings.objectness:
        every = every[:, :1] * every[:, 1:]
    every = every[:, :classes]
    scores, chosen = every.flatten().topk(min(_CANDIDATES, every.numel()))
    row = chosen // classes
    return boxes[row], scores, chosen % classes, every[row]


def _as_is(values: Tensor) -> Tensor:
    return values


def _placed(boxes: Float[Tensor, "n 4"], settings: OnnxSettings, fit: Fit) -> Float[Tensor, "n 4"]:
    height, width = fit.image
    if settings.boxes != "xyxy":
        boxes = box_convert(boxes, str(settings.boxes), "xyxy")
    if settings.units == "shares":
        boxes = boxes * boxes.new_tensor([fit.input[1], fit.input[0]] * 2)
    if settings.units != "image":
        boxes = fit.back(boxes)
    boxes = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height] * 2))
    # What is read otherwise than it is meant may end before it begins.
    return torch.cat([boxes[:, :2], torch.maximum(boxes[:, :2], boxes[:, 2:])], dim=1)
