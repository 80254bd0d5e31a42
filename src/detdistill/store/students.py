"""A detector in a folder: ``student.safetensors`` with the weights, ``student.json`` with all that rebuilds it.

Nothing is pickled, and nothing of a teacher or of a distillation term is in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from detdistill.data.image_files import is_text
from detdistill.data.transforms import ImageSettings
from detdistill.detectors.base import Detector
from detdistill.detectors.catalogue import FAMILIES, build_detector, settings_of
from detdistill.detectors.families.own import OwnSettings
from detdistill.detectors.load_report import LoadedDetector, load_tensors, require_finite
from detdistill.detectors.own_code import digest_of
from detdistill.detectors.preprocess import with_pixel_statistics
from detdistill.detectors.settings import DetectorSettings
from detdistill.detectors.torchvision_parts import set_image_size
from detdistill.errors import ConfigError, astray, suggestion
from detdistill.files import read_json, write_bytes, write_json
from detdistill.settings import build
from detdistill.store.layout import BEST, CHECKPOINTS, COUNTERS, DESCRIPTION, LATEST, SUMS, WEIGHTS, latest_of
from detdistill.store.sums import require_as_written

_FORMAT = "detdistill-student"
_VERSION = 2
_FORMATS = tuple(f"{_FORMAT}/{version}" for version in range(1, _VERSION + 1))


def save_detector(
    detector: Detector, folder: Path, *, image: Mapping[str, Any], extra: Mapping[str, Any] | None = None
) -> None:
    """Writes a detector, from any device, that `load_detector` reads, alone, wherever the folder is moved.

    Args:
        detector: left as it is.
        folder: created where needed.
        image: how training images were prepared, such as ``{"short_side": 96, "long_side": 160}``.
        extra: further facts to keep beside it.

    Raises:
        ConfigError: the detector was not built from `DetectorSettings`.
    """
    settings = detector.settings
    if settings is None:
        raise ConfigError(
            f"a detector to save must be built from DetectorSettings, got {detector.spec.name}. "
            "Keep torchvision's own weights file instead."
        )
    # Who builds it anew may do so from another working directory.
    described = settings.to_dict(place=lambda text: str(Path(text).absolute()))
    code = {"code": digest_of(settings.code)} if isinstance(settings, OwnSettings) else {}
    content = {
        "format": f"{_FORMAT}/{_VERSION}",
        "detector": described,
        **code,
        "class_names": list(detector.spec.class_names),
        "image": dict(image),
        "extra": dict(extra or {}),
    }
    write_json(folder / DESCRIPTION, content)
    # Tensors that share memory, or are views, are written as tensors of their own.
    tensors = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in detector.state_dict().items()}
    write_bytes(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))


def load_detector(
    path: Path, *, allow: frozenset[str] = frozenset(), instead: DetectorSettings | None = None
) -> LoadedDetector:
    """Reads a detector that `save_detector`, or a training run, wrote.

    Args:
        path: a run folder, its ``checkpoints`` folder, one checkpoint, or the ``student.safetensors`` in it. A run
            that keeps its best evaluation's student is read as that one.
        allow: beginnings of tensor names that may be missing, unexpected or of another shape.
        instead: what to build it from; None for what it describes.

    Raises:
        ConfigError: there is no such thing, it is none of ours or of another version, its weights are cut off,
            changed or not finite, its tensors are not those of the detector it describes, or it names code that
            nobody said may be imported.
    """
    weights = find_weights(path)
    for record in (weights.with_name(COUNTERS), weights.with_name(SUMS)):
        if weights.name == WEIGHTS and record.is_file():
            require_as_written(weights.parent, record)
    settings, content = _described(weights.with_suffix(".json"))
    tensors = _read(weights)
    require_finite(tensors, source=str(weights))
    class_names = tuple(content["class_names"])
    # The weights are here: nothing is to be fetched for the backbone.
    settings = instead or with_pixel_statistics(settings).at_home()
    detector = build_detector(settings, class_names, seed=0)
    report = load_tensors(detector, tensors, source=str(weights), current=True)
    report.require_complete(allow=allow)
    image, extra = content["image"], content.get("extra", {})
    if image:
        set_image_size(detector, ImageSettings(**image))
    notes = _code_notes(settings, content)
    return LoadedDetector(detector, report, image=image, class_names=class_names, extra=extra, notes=notes)


def code_notes(path: Path, settings: DetectorSettings) -> tuple[str, ...]:
    """Says where the code of a detector of one's own is another now than when the one at `path` was saved."""
    return _code_notes(settings, _described(find_weights(path).with_suffix(".json"))[1])


def _code_notes(settings: DetectorSettings, content: Mapping[str, Any]) -> tuple[str, ...]:
    if not isinstance(settings, OwnSettings) or content.get("code") in (None, digest_of(settings.code)):
        return ()
    return (f"the file of {settings.code.place} has changed since these weights were saved",)


def saved_settings(path: Path) -> DetectorSettings:
    """What the detector that `load_detector` would read from `path` was built from, without reading its weights.

    Raises:
        ConfigError: there is no such thing, or it is none of ours.
    """
    settings, _ = _described(find_weights(path).with_suffix(".json"))
    return settings


def find_weights(path: Path) -> Path:
    """The weights file behind a run folder, a checkpoints folder, a checkpoint or the file itself.

    Raises:
        ConfigError: there is none.
    """
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ConfigError(
                f"{path} must be a {WEIGHTS} or a folder that holds one, got another file. "
                "Give the run folder, or torchvision:NAME=FILE for weights of torchvision's own models."
            )
        return path
    if not path.is_dir():
        raise ConfigError(
            f"{path} must be a run folder, a checkpoint or a {WEIGHTS}, got nothing there. {astray(path)}"
        )
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    for folder in (path, path / BEST, path / CHECKPOINTS):
        if (folder / LATEST).is_file():
            weights = folder / latest_of(folder) / WEIGHTS
            if weights.is_file():
                return weights
            raise ConfigError(
                f"{weights}, which {LATEST} names, must be a file, got nothing there. "
                "Give another of the checkpoint folders instead."
            )
    raise ConfigError(
        f"{path} must hold {WEIGHTS} or {CHECKPOINTS}/{LATEST}, got a folder without them. "
        "Give the folder of a run that has saved at least one checkpoint."
    )


def _described(path: Path) -> tuple[DetectorSettings, dict[str, Any]]:
    content = read_json(path)
    written = content.get("format") if isinstance(content, dict) else None
    if not isinstance(written, str) or not written.startswith(f"{_FORMAT}/"):
        raise ConfigError(
            f"{path} must describe a detector that detdistill saved, got format {written!r}. "
            "Give a checkpoint that detdistill wrote."
        )
    if written not in _FORMATS:
        raise ConfigError(
            f"{path} must have the format {' or '.join(_FORMATS)}, got {written}. "
            "Use the version of detdistill that wrote it."
        )
    settings, names, image = content.get("detector"), content.get("class_names"), content.get("image")
    named = isinstance(names, list) and bool(names) and all(isinstance(name, str) and is_text(name) for name in names)
    sections = (settings, image, content.get("extra", {}))
    if not (named and len({*names}) == len(names) and all(isinstance(one, dict) for one in sections)):
        raise ConfigError(
            f"{path} must hold detector, class_names and image, got {sorted(content)} with something missing or "
            "of another kind. Restore the file as it was written."
        )
    family = settings.get("family")
    if not isinstance(family, str) or family not in FAMILIES:
        raise ConfigError(
            f"the detector's family in {path} must be one of {', '.join(FAMILIES)}, got {family!r}. "
            f"{suggestion(str(family), FAMILIES, listed=True)}"
        )
    # The first version held the keys of every family, whichever the detector's was.
    every = {key for one in FAMILIES.values() for key in one.keys} if written == _FORMATS[0] else ()
    if image:
        build(ImageSettings, image, where=f"{path}: image", what="image")
    try:
        return settings_of(settings, optional=every, where=str(path)), content
    except ConfigError as error:
        said = str(error)
        raise ConfigError(said if str(path) in said else f"{path}: {said}") from error


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"{path} must be a whole safetensors file, got one that cannot be read ({error}). "
            "It may be cut off: copy it anew or use an earlier checkpoint."
        ) from error
