"""Reads what an ONNX teacher gives, and shows it images, in other usual ways, and says by which its AP is higher."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from detdistill.data.transforms import ImageSettings
from detdistill.detectors.base import Detector
from detdistill.detectors.mapped import bare
from detdistill.detectors.onnx_detector import OnnxDetector
from detdistill.detectors.onnx_readings import changed_keys, other_inputs, other_outputs
from detdistill.errors import DistillError
from detdistill.jobs.examine import Sample
from detdistill.proof.box_checks import Reading
from detdistill.proof.checks import Measure

_FEW = 24
_FACTORS = (0.5, 2.0)


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
        found = [_read(few, detector, model, changes, at) for changes in other_outputs(model)]
    found += [_read(few, detector, model, changes, _size(model, changes, at)) for changes in other_inputs(model)]
    if model.settings_of_file.size is None:
        found += [_shown(few, detector, at, factor) for factor in _FACTORS]
    return model.settings_of_file.text(), own, found


def _size(model: OnnxDetector, changes: dict[str, Any], at: ImageSettings) -> ImageSettings:
    return replace(model.settings_of_file, **changes).seen() or at


def _read(few: Sample, detector: Detector, model: OnnxDetector, changes: dict[str, Any], at: ImageSettings) -> Reading:
    written = changed_keys(model, changes)
    with model.declared(replace(model.settings_of_file, **changes)):
        return Reading(written, f"Write {written} in {model.where}.", _ap(few, detector, at, written))


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
