"""Reads what an ONNX teacher gives, and shows it images, in other usual ways, and says by which its AP is higher."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from detdistill.data.transforms import ImageSettings
from detdistill.detectors.base import Detector
from detdistill.detectors.mapped import bare
from detdistill.detectors.onnx_detector import OnnxDetector
from detdistill.errors import DistillError
from detdistill.jobs.examine import Sample
from detdistill.proof.box_checks import Reading
from detdistill.proof.checks import Measure

_FEW = 24
_FACTORS = (0.5, 2.0)
_SQUARES = (320, 640)


def other_readings(sample: Sample, detector: Detector, at: ImageSettings) -> tuple[str, Measure, list[Reading]] | None:
    """As what an ONNX detector is read, its AP so on a few labelled images, and that in other ways; None of any other.

    Args:
        sample: of the validation images.
        detector: the teacher, in whatever classes it is shown.
        at: the size of the images that it is given.
    """
    model, few = bare(detector), sample.some(_FEW)
    if not isinstance(model, OnnxDetector):
        return None
    with model.remembering():
        own = few.measured(few.found_by(detector, at, label="as it is read"))
        if own is None:
            return None
        found = [_read(few, detector, model, changes, at) for changes in _outputs(model)]
    found += [_read(few, detector, model, changes, _size(model, changes, at)) for changes in _inputs(model)]
    if model.settings_of_file.size is None:
        found += [_shown(few, detector, at, factor) for factor in _FACTORS]
    return model.settings_of_file.text(), own, found


def _outputs(model: OnnxDetector) -> Iterator[dict[str, Any]]:
    """Other formats and scales of boxes, kinds of scores and first labels."""
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


def _inputs(model: OnnxDetector) -> Iterator[dict[str, Any]]:
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


def _size(model: OnnxDetector, changes: dict[str, Any], at: ImageSettings) -> ImageSettings:
    return replace(model.settings_of_file, **changes).seen() or at


def _read(few: Sample, detector: Detector, model: OnnxDetector, changes: dict[str, Any], at: ImageSettings) -> Reading:
    own = model.settings_of_file
    written = ", ".join(f"{key}: {_plain(value)}" for key, value in changes.items() if getattr(own, key) != value)
    with model.declared(replace(own, **changes)):
        return Reading(written, f"Write {written} in {model.where}.", _ap(few, detector, at, written))


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return str(list(value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(few: Sample, detector: Detector, at: ImageSettings, factor: float) -> Reading:
    """At images of another size, where the model takes them as they come."""
    sides = {key: max(1, round(getattr(at, key) * factor)) for key in ("short_side", "long_side")}
    typed = " ".join(f"teacher.image.{key}={side}" for key, side in sides.items())
    other = replace(at, **sides)
    what = f"images of {other.text()}"
    return Reading(what, f"Set {typed}.", _ap(few, detector, other, what))


def _ap(few: Sample, detector: Detector, at: ImageSettings, what: str) -> float:
    try:
        return few.ap(few.found_by(detector, at, label=f"with {what}")) or 0.0
    except DistillError:  # what cannot be read so is not so
        return 0.0
