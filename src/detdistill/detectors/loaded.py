"""A detector with what its file, or whoever made it, says about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detdistill.detectors.base import Detector
from detdistill.detectors.load_report import LoadReport


@dataclass(frozen=True, slots=True)
class LoadedDetector:
    """A detector with weights, and what is known about it.

    Attributes:
        detector: on the CPU, in train mode, as freshly built.
        report: which tensors matched.
        image: how its training images were prepared; empty where nobody said.
        class_names: in label order.
        extra: whatever else was saved beside it.
    """

    detector: Detector
    report: LoadReport
    image: Mapping[str, Any]
    class_names: tuple[str, ...]
    extra: Mapping[str, Any]
