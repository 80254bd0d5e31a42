"""The ways in which a text names a detector with weights, to teach, to start from, to be measured: one table."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile, is_zipfile

from detdistill.detectors.base import Detector
from detdistill.detectors.called import PREFIX as PYTHON
from detdistill.detectors.called import BlackBox, load_called
from detdistill.detectors.catalogue import FAMILIES
from detdistill.detectors.families.own import moved
from detdistill.detectors.hf.files import PREFIX as HF
from detdistill.detectors.hf.files import moved as moved_hf
from detdistill.detectors.hf_teachers import hub_folder, load_hf, saved_hf_settings
from detdistill.detectors.load_report import LoadedDetector
from detdistill.detectors.onnx_detector import load_onnx
from detdistill.detectors.own_code import imported, names_code, taken_apart
from detdistill.detectors.predictions import load_predictions
from detdistill.detectors.settings import DetectorSettings
from detdistill.detectors.torchvision_teachers import PREFIX, load_torchvision, untrained_torchvision
from detdistill.errors import ConfigError, astray, either
from detdistill.store.layout import DESCRIPTION
from detdistill.store.own import load_own, own_settings
from detdistill.store.students import load_detector, saved_settings


@dataclass(frozen=True, slots=True)
class Door:
    """One way in which a text names a detector.

    Attributes:
        form: in messages, such as ``"torchvision:NAME"``; empty for what is refused.
        recognises: whether a text is of this form.
        open: the detector; the names are beginnings of tensor names that may be missing, left over or of another shape.
        settings: what it was built from, without reading its weights; None where that is no `DetectorSettings`.
        untrained: the same detector with random weights, to count and time; None where it must be opened.
        moved: the text with the paths in it changed.
    """

    form: str
    recognises: Callable[[str], bool]
    open: Callable[[str, frozenset[str]], LoadedDetector]
    settings: Callable[[str], DetectorSettings] | None = None
    untrained: Callable[[str], Detector] | None = None
    moved: Callable[[str, Callable[[str], str]], str] = lambda text, change: change(text)


def file_behind(text: str, change: Callable[[str], str]) -> str:
    """A text ``NAME=FILE`` with its file changed."""
    name, _, file = text.partition("=")
    return f"{name}={file if file.startswith('~') else change(file)}" if file else text


def _there(text: str) -> Path:
    path = Path(text)
    if not path.exists():
        remedy = astray(path)
        if text.partition("/")[0] in FAMILIES:
            remedy = f"Train it first, by detdistill train --detector {text}, and give the run's folder."
        raise ConfigError(f"{text} must be {kinds_of_source()}, got nothing there. {remedy}")
    return path


RUN = Door(
    form="a run folder, a checkpoint",
    recognises=lambda _: True,
    open=lambda text, allow: load_detector(_there(text), allow=allow),
    settings=lambda text: saved_settings(_there(text)),
)
"""What every other text is: a path to weights of ours."""

TORCHVISION = Door(
    form=f"{PREFIX}NAME",
    recognises=lambda text: text.startswith(PREFIX),
    open=lambda text, _: load_torchvision(text),
    untrained=untrained_torchvision,
    moved=file_behind,
)


def _ours(text: str) -> Path | None:
    """The folder of a hub's detector that this package wrote; None where it is one of transformers'."""
    folder = hub_folder(text, also=(DESCRIPTION,))
    return folder if (folder / DESCRIPTION).is_file() else None


def _open_hub(text: str, allow: frozenset[str]) -> LoadedDetector:
    folder = _ours(text)
    return load_hf(text, allow=allow) if folder is None else load_detector(folder, allow=allow)


def _hub_settings(text: str) -> DetectorSettings:
    folder = _ours(text)
    return saved_hf_settings(text) if folder is None else saved_settings(folder)


HUB = Door(
    form="hf:FOLDER",
    recognises=lambda text: text.startswith(HF),
    open=_open_hub,
    settings=_hub_settings,
    moved=moved_hf,
)

PREDICTIONS = Door(
    form="a predictions file .json",
    recognises=lambda text: text.lower().endswith(".json") and not Path(text).is_dir(),
    open=lambda text, _: load_predictions(_there(text)),
)


def _own(text: str, allow: frozenset[str]) -> LoadedDetector:
    code = taken_apart(text)
    if not code.weights and isinstance(named := imported(code), BlackBox):
        return named.loaded()
    return load_own(code, allow=allow)


def _own_settings(text: str) -> DetectorSettings:
    code = taken_apart(text)
    if not code.weights and isinstance(imported(code), BlackBox):
        raise ConfigError(
            f"What a student is built like must be a model, got {text}, a function that says boxes alone. Choose a "
            "student by --student, without --self."
        )
    return own_settings(code)


OWN = Door(
    form="MODULE:CLASS=WEIGHTS",
    recognises=names_code,
    open=_own,
    settings=_own_settings,
    moved=moved,
)

ONNX = Door(
    form="a detector .onnx",
    recognises=lambda text: Path(text).suffix.lower() in (".onnx", ".yaml", ".yml") and not Path(text).is_dir(),
    open=lambda text, _: load_onnx(_there(text)),
)

CALLED = Door(
    form="a detdistill.BlackBox",
    recognises=lambda text: text.startswith(PYTHON),
    open=lambda text, _: load_called(text),
    moved=lambda text, _: text,
)


def _is_torchscript(text: str) -> bool:
    """Whether a file is TorchScript, by its ending or by the code in its archive."""
    path = Path(text)
    if path.suffix.lower() in (".torchscript", ".ptl"):
        return True
    if path.suffix.lower() not in (".pt", ".pth") or not is_zipfile(path):
        return False
    with ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _no_torchscript(text: str, _: frozenset[str]) -> LoadedDetector:
    raise ConfigError(
        f"{text} must be a file that runs nothing when it is loaded, got TorchScript. Export the detector to ONNX."
    )


TORCHSCRIPT = Door(form="", recognises=_is_torchscript, open=_no_torchscript)

DOORS: tuple[Door, ...] = (TORCHVISION, HUB, CALLED, OWN, PREDICTIONS, ONNX, TORCHSCRIPT, RUN)
"""All of them; the first that recognises a text opens it."""


def door_of(text: str) -> Door:
    """The way in which a text names a detector."""
    return next(door for door in DOORS if door.recognises(text))


def named_twice(texts: Sequence[str]) -> str | None:
    """The first text that names what one before it names, however its path is written; None where none does."""
    places = [door_of(text).moved(text, os.path.realpath) for text in texts]
    return next((text for number, text in enumerate(texts) if places[number] in places[:number]), None)


def kinds_of_source() -> str:
    """All forms in words: ``"a run folder, a checkpoint or torchvision:NAME"``."""
    return either((RUN.form, *(door.form for door in DOORS if door is not RUN and door.form)))
