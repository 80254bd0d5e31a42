"""Other usual ways to read what an ONNX detector gives, and to show it images; which fits labelled objects best."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torchvision.ops import box_iou

from detdistill.detectors.base import evaluating
from detdistill.detectors.boxes_checking import wrong
from detdistill.detectors.onnx_detector import OnnxDetector
from detdistill.detectors.preprocess import USUAL_PIXELS, normalised_by
from detdistill.errors import DistillError
from detdistill.types import Batch

_FACTORS = (0.5, 2.0)
_SQUARES = (320, 640)
# Another reading is told where it fits at least so well, and by so much better; both are mean overlaps (IoU).
_FITS, _BETTER = 0.5, 0.25
# So many images are looked at, and so many of an image's best boxes for each of its objects.
_IMAGES, _EACH = 8, 3


def other_outputs(model: OnnxDetector) -> Iterator[dict[str, Any]]:
    """Other formats and scales of boxes, kinds of scores and first labels, as keys of its YAML file."""
    settings = model.settings_of_file
    units = ("pixels", "shares", *(() if model.graph.sizes is None else ("image",)))
    for boxes in ("xyxy", "xywh", "cxcywh"):
        for scale in units:
            if (boxes, scale) != (settings.boxes, settings.units):
                yield {"boxes": boxes, "units": scale}
    if settings.form in ("detections", "rows"):
        yield {"first_label": 1 - (settings.first_label or 0)}
    else:
        yield from ({"activation": one} for one in ("none", "sigmoid", "softmax") if one != settings.activation)


def other_inputs(model: OnnxDetector) -> Iterator[dict[str, Any]]:
    """Another order of channels, another way to a size, and, where the file leaves it open, another size."""
    settings = model.settings_of_file
    yield {"channels": "rgb" if settings.channels == "bgr" else "bgr"}
    if settings.size is None:
        return
    ways = ("stretch", True), ("letterbox", True), ("letterbox", False)
    own = (settings.resize, settings.centred or settings.resize == "stretch")
    yield from ({"resize": resize, "centred": centred} for resize, centred in ways if (resize, centred) != own)
    if model.graph.size is None:
        height, width = settings.size
        sizes = [(round(height * factor), round(width * factor)) for factor in _FACTORS]
        sizes += [(side, side) for side in _SQUARES]
        yield from ({"size": size} for size in dict.fromkeys(sizes) if size != settings.size)


def changed_keys(model: OnnxDetector, changes: dict[str, Any]) -> str:
    """What of it the YAML file would say otherwise, as it is written there."""
    own = model.settings_of_file
    return ", ".join(f"{key}: {_plain(value)}" for key, value in changes.items() if getattr(own, key) != value)


def check_readings(model: OnnxDetector, batch: Batch, name: str) -> Iterator[str]:
    """Whether labelled objects are found much better where the model is read, or shown images, in another way.

    Args:
        model: put into eval mode and back.
        batch: images whose labels are in its classes.
        name: what the sentence calls it.
    """
    rows = [index for index, one in enumerate(batch.targets) if len(one.taught().labels)]
    some = batch.only(rows[:_IMAGES])
    with evaluating(model):
        with model.remembering():
            own = _fit(model, some)
            fits = {changed_keys(model, one): _fit_with(model, some, one) for one in other_outputs(model)}
        for one in (*other_inputs(model), *_other_sizes(model, some), *_other_pixels(model)):
            fits[changed_keys(model, one)] = _fit_with(model, some, one)
    best = max(fits, key=lambda written: fits[written])
    if fits[best] >= _FITS and fits[best] - own > _BETTER:
        got = f"{own:.2f} so ({model.settings_of_file.text()}) and {fits[best]:.2f} with {best}"
        expected = f"be as {model.where} says, by how well boxes overlap labelled objects"
        yield wrong(f"What {name} takes and gives", expected, got, f"Write {best} in {model.where}.")


def _other_sizes(model: OnnxDetector, batch: Batch) -> Iterator[dict[str, Any]]:
    """Fixed sizes for a model that takes images as they come."""
    if model.settings_of_file.size is None:
        height, width = (max(size[side] for size in batch.sizes) for side in (0, 1))
        for factor in _FACTORS:
            size = max(1, round(height * factor)), max(1, round(width * factor))
            yield {"size": size, "resize": "letterbox", "centred": False}


def _other_pixels(model: OnnxDetector) -> Iterator[dict[str, Any]]:
    """Other usual normalisations."""
    own = np.array(model.pixels.numbers())
    for numbers in USUAL_PIXELS.values():
        if not np.allclose(own, numbers, atol=2e-3):
            yield model.settings_of_file.with_pixels(*numbers)


def _fit_with(model: OnnxDetector, batch: Batch, changes: dict[str, Any]) -> float:
    settings = replace(model.settings_of_file, **changes)
    pixels = normalised_by(model.pixels, *settings.pixels()) if "mean" in changes else nullcontext()
    with model.declared(settings), pixels:
        return _fit(model, batch)


def _fit(model: OnnxDetector, batch: Batch) -> float:
    """The mean over labelled objects of their best overlap (IoU) with one of the best boxes of their class."""
    try:
        found = model.detect(batch)
    except DistillError:  # what cannot be read so is not so
        return 0.0
    overlaps = []
    for one, target in zip(found, batch.targets, strict=True):
        taught = target.taught()
        best = slice(_EACH * len(taught.labels))
        alike = taught.labels[:, None] == one.labels[best]
        shared = box_iou(taught.boxes.float(), one.boxes[best].float()).where(alike, 0.0)
        overlaps.append(functional.pad(shared, (0, 1)).amax(dim=1))
    return float(torch.cat(overlaps).mean())


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return str(list(value))
    return str(value).lower() if isinstance(value, bool) else str(value)
