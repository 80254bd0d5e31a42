"""detdistill: make a small object detector better by distilling a large one into it.

Every public name is imported when it is first asked for, so that importing the package stays free of torch.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detdistill import errors as errors
    from detdistill.detectors.base import Detector as Detector
    from detdistill.detectors.catalogue import build_detector as build_detector
    from detdistill.detectors.catalogue import parse_detector as parse_detector
    from detdistill.detectors.frozen import FrozenTeacher as FrozenTeacher
    from detdistill.detectors.inherit import inherit as inherit
    from detdistill.distillation.step import DistillationStep as DistillationStep
    from detdistill.methods.catalogue import build_recipe as build_recipe
    from detdistill.methods.catalogue import method_text as method_text
    from detdistill.methods.catalogue import parse_method as parse_method
    from detdistill.store.students import load_detector as load_detector
    from detdistill.store.students import save_detector as save_detector
    from detdistill.types import Batch as Batch
    from detdistill.types import Clock as Clock
    from detdistill.types import Cost as Cost
    from detdistill.types import Observation as Observation
    from detdistill.types import StepReport as StepReport
    from detdistill.types import Targets as Targets

    __version__: str

_HOMES = {
    "Batch": "types",
    "Clock": "types",
    "Cost": "types",
    "Detector": "detectors.base",
    "DistillationStep": "distillation.step",
    "FrozenTeacher": "detectors.frozen",
    "Observation": "types",
    "StepReport": "types",
    "Targets": "types",
    "build_detector": "detectors.catalogue",
    "build_recipe": "methods.catalogue",
    "inherit": "detectors.inherit",
    "load_detector": "store.students",
    "method_text": "methods.catalogue",
    "parse_detector": "detectors.catalogue",
    "parse_method": "methods.catalogue",
    "save_detector": "store.students",
}

__all__ = [  # noqa: RUF022 (the order of a run: data, detectors, recipe, step)
    "Batch",
    "Targets",
    "Observation",
    "Cost",
    "Clock",
    "StepReport",
    "Detector",
    "FrozenTeacher",
    "build_detector",
    "parse_detector",
    "load_detector",
    "save_detector",
    "inherit",
    "build_recipe",
    "parse_method",
    "method_text",
    "DistillationStep",
    "errors",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        value: object = importlib.metadata.version("detdistill")
    elif name == "errors":
        value = importlib.import_module("detdistill.errors")
    elif name in _HOMES:
        value = getattr(importlib.import_module(f"detdistill.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module 'detdistill' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
