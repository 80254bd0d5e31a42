"""detdistill: make a small object detector better by distilling a large one into it.

The public functions are here at once; every other name is imported when it is first asked for, so that importing the
package stays free of torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from detdistill import errors
from detdistill.api.checking import doctor
from detdistill.api.commands import (
    audit_data,
    check_data,
    convert_data,
    describe_methods,
    describe_settings,
    diagnose,
    evaluate,
    pictures,
    predict,
    profile,
)
from detdistill.api.pieces import (
    build_detector,
    load_detector,
    open_data,
    register_detector,
    register_format,
    register_method,
    run_config,
    save_detector,
)
from detdistill.api.proving import prove
from detdistill.api.runs import distill, train
from detdistill.api.showing import export_detector, push, write_report
from detdistill.api.tuning import tune
from detdistill.threads import quiet_threads

if TYPE_CHECKING:
    from detdistill.data.formats import Format
    from detdistill.detectors.base import (
        BoxLayout,
        ClassLayout,
        Detector,
        DetectorSpec,
        Limits,
        PyramidLayout,
        QueryLayout,
        TowerLayout,
    )
    from detdistill.detectors.called import BlackBox
    from detdistill.detectors.catalogue import Family, parse_detector
    from detdistill.detectors.checking import check_detector
    from detdistill.detectors.frozen import FrozenTeacher
    from detdistill.detectors.inherit import inherit
    from detdistill.detectors.own_code import trust_code
    from detdistill.detectors.preprocess import Normaliser
    from detdistill.detectors.settings import DetectorSettings, PyramidSettings
    from detdistill.detectors.wrapping import wrap
    from detdistill.distillation.step import DistillationStep
    from detdistill.jobs import stages
    from detdistill.methods.catalogue import Method, build_recipe, method_text, parse_method
    from detdistill.progress import ScreenProgress
    from detdistill.store.layout import RunFolder
    from detdistill.training.callbacks import EvaluationFigures, StepFigures
    from detdistill.training.signals import Interrupted
    from detdistill.types import (
        Batch,
        BoxDistributions,
        Boxes,
        Candidates,
        ClassKind,
        ClassLogits,
        Clock,
        Cost,
        Detections,
        Need,
        Observation,
        Pyramid,
        Queries,
        StepReport,
        Targets,
        TaskLoss,
        Towers,
    )

    __version__: str

_HOMES = {
    "data.formats": ("Format",),
    "detectors.base": (
        "BoxLayout",
        "ClassLayout",
        "Detector",
        "DetectorSpec",
        "Limits",
        "PyramidLayout",
        "QueryLayout",
        "TowerLayout",
    ),
    "detectors.called": ("BlackBox",),
    "detectors.checking": ("check_detector",),
    "detectors.frozen": ("FrozenTeacher",),
    "detectors.inherit": ("inherit",),
    "detectors.catalogue": ("Family", "parse_detector"),
    "detectors.own_code": ("trust_code",),
    "detectors.preprocess": ("Normaliser",),
    "detectors.settings": ("DetectorSettings", "PyramidSettings"),
    "detectors.wrapping": ("wrap",),
    "distillation.step": ("DistillationStep",),
    "jobs.stages": ("stages",),
    "methods.catalogue": ("Method", "build_recipe", "method_text", "parse_method"),
    "progress": ("ScreenProgress",),
    "store.layout": ("RunFolder",),
    "training.callbacks": ("EvaluationFigures", "StepFigures"),
    "training.signals": ("Interrupted",),
    "types": (
        "Batch",
        "BoxDistributions",
        "Boxes",
        "Candidates",
        "ClassKind",
        "ClassLogits",
        "Clock",
        "Cost",
        "Detections",
        "Need",
        "Observation",
        "Pyramid",
        "Queries",
        "StepReport",
        "Targets",
        "TaskLoss",
        "Towers",
    ),
}

# What the commands do, the stages of a run, a loop of one's own, and what flows in it.
__all__ = ["describe_methods", "describe_settings", "distill", "evaluate", "pictures", "predict", "profile", "train"]
__all__ += ["audit_data", "check_data", "convert_data", "diagnose", "doctor", "export_detector", "prove", "tune"]
__all__ += ["push", "write_report"]
__all__ += ["Interrupted", "RunFolder", "ScreenProgress", "errors", "quiet_threads", "run_config", "stages"]
__all__ += ["EvaluationFigures", "StepFigures"]
__all__ += ["build_detector", "inherit", "load_detector", "open_data", "parse_detector", "save_detector"]
__all__ += ["DistillationStep", "FrozenTeacher", "build_recipe", "method_text", "parse_method"]
__all__ += ["Family", "Format", "Method", "register_detector", "register_format", "register_method"]
__all__ += ["BoxDistributions", "BoxLayout", "ClassKind", "ClassLayout", "ClassLogits", "Detections", "Need"]
__all__ += ["Boxes", "Candidates", "Limits", "Queries", "QueryLayout", "TowerLayout", "Towers"]
__all__ += ["Normaliser", "Pyramid", "PyramidLayout", "TaskLoss", "check_detector", "trust_code", "wrap"]
__all__ += ["Batch", "BlackBox", "Clock", "Cost", "Detector", "DetectorSettings", "DetectorSpec"]
__all__ += ["Observation", "PyramidSettings", "StepReport", "Targets", "__version__"]


def __getattr__(name: str) -> object:
    value: object
    if name == "__version__":
        # Costs 45 ms, which only who asks should pay.
        value = importlib.import_module("importlib.metadata").version("detdistill")
    else:
        home = next((module for module, names in _HOMES.items() if name in names), None)
        if home is None:
            raise AttributeError(f"module 'detdistill' has no attribute '{name}'")
        module = importlib.import_module(f"detdistill.{home}")
        value = module if home.endswith(f".{name}") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
