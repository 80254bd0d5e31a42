"""A detector of one's own with its weights: of a run, or a file that another program wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from detdistill.detectors.backbones import read_state_dict
from detdistill.detectors.catalogue import build_detector
from detdistill.detectors.families.own import OwnSettings
from detdistill.detectors.load_report import LoadedDetector, load_tensors, require_finite
from detdistill.detectors.own_code import OwnCode, shown
from detdistill.detectors.wrapping import WrappedDetector
from detdistill.errors import ConfigError
from detdistill.store.students import load_detector, saved_settings

_NAMES = "class_names"


def own_settings(code: OwnCode) -> OwnSettings:
    """What `load_own` builds a detector from, without reading its weights.

    Of a run, arguments that the text does not give are those it was trained with.

    Raises:
        ConfigError: the text gives no weights, or names some that are not there.
    """
    if not code.weights:
        raise ConfigError(
            f"A detector of one's own must be given with its weights where it is to look, got '{code.text()}'. Write "
            f"{code.text()}=RUN, or {code.text()}=FILE.pth for a state dict; of a function that finds boxes itself "
            "make a detdistill.BlackBox."
        )
    path, arguments = Path(code.weights).expanduser(), code.keywords()
    saved = None if _is_bare(path) else saved_settings(path)
    arguments.pop(_NAMES, None)
    if not isinstance(saved, OwnSettings):
        return OwnSettings(source=replace(code, weights="", arguments=shown(arguments)).text())
    source = replace(code, weights="", arguments=shown(saved.code.keywords() | arguments))
    return replace(saved, source=source.text())


def load_own(code: OwnCode, *, allow: frozenset[str] = frozenset()) -> LoadedDetector:
    """A detector of one's own by its import path and its weights: a run or a checkpoint, or a state dict.

    Raises:
        ConfigError: see `own_settings` and `load_detector`; or no class names with a state dict, which holds none.
    """
    settings, path = own_settings(code), Path(code.weights).expanduser()
    if not _is_bare(path):
        return load_detector(path, allow=allow, instead=settings)
    names = code.keywords().get(_NAMES)
    if not isinstance(names, list) or not names or not all(isinstance(one, str) for one in names):
        raise ConfigError(
            f"The classes of {code.place} must be given with {path}, which holds no names, got none. Write "
            f"'{code.place}({_NAMES}=[car, truck])={code.weights}' with the classes in the order of its labels."
        )
    detector = build_detector(settings, names, seed=0)
    tensors = read_state_dict(path)
    require_finite(tensors, source=str(path))
    # A file of another program knows the module, not what is wrapped around it.
    bare = isinstance(detector, WrappedDetector) and not any(name.startswith("module.") for name in tensors)
    report = load_tensors(detector.module if bare else detector, tensors, source=str(path))  # type: ignore[arg-type]
    report.require_complete(allow=allow)
    return LoadedDetector(detector, report, image={}, class_names=tuple(names), extra={})


def _is_bare(path: Path) -> bool:
    """Whether weights are a file of another program's, without what describes their detector."""
    return path.is_file() and not path.with_suffix(".json").is_file()
