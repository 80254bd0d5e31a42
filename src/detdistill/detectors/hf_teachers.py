"""Detectors of a hub, ``hf:FOLDER`` or ``hf:OWNER/NAME``: where they lie, and transformers' own with weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from detdistill.detectors.families.hf import HFSettings
from detdistill.detectors.hf.building import config_of, transformers, unfit
from detdistill.detectors.hf.detector import HFDetector
from detdistill.detectors.hf.files import PREFIX, Described, is_folder, read_folder, require_safe
from detdistill.detectors.load_report import LoadedDetector, LoadReport, ShapeMismatch, require_finite
from detdistill.detectors.preprocess import shown_pixels
from detdistill.errors import ConfigError, astray

_FILES = ["config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json"]


def load_hf(text: str, *, allow: frozenset[str] = frozenset()) -> LoadedDetector:
    """A detector of transformers' with its weights, whose image size and pixels are those of its image processor.

    Nothing is unpickled, and no code but transformers' own runs.

    Args:
        text: ``"hf:FOLDER"``, or ``"hf:OWNER/NAME"`` of the hub (from its cache, else downloaded).
        allow: beginnings of tensor names that may be missing, unexpected or of another shape.

    Raises:
        ConfigError: there is no such detector, its weights are in no safetensors, or they do not fit.
        MissingDependencyError: transformers or scipy is not installed.
    """
    folder = hub_folder(text)
    found = read_folder(folder)
    require_safe(folder)
    classes = int(found.config["num_labels"])
    config = config_of(found.kind, found.config, classes=classes, wanted={})
    model, report = _filled(folder, config, source=str(folder))
    require_finite(model.state_dict(), source=str(folder))
    report.require_complete(allow=allow)
    names, slots = _classes(found, folder)
    settings = settings_of_folder(found, frozen=_is_frozen(model))
    settings = _with_slots(settings, slots, whole=len(slots) == classes)
    detector = HFDetector(model.train(), names, settings=settings, slots=settings.slots)
    return LoadedDetector(detector, report, found.image, names, extra={}, notes=_notes(found, detector))


def settings_of_folder(found: Described, *, frozen: bool = False) -> HFSettings:
    """What a detector that was read from a folder is built from."""
    mean, std = found.pixels
    norm: Any = "frozen" if frozen else "batch"
    return HFSettings(model=found.kind, config=found.config, norm=norm, mean=mean, std=std)


def saved_hf_settings(text: str) -> HFSettings:
    """What ``hf:FOLDER`` or ``hf:OWNER/NAME`` is built from, for a student of its kind that learns all of it."""
    return settings_of_folder(read_folder(hub_folder(text)))


def hub_folder(text: str, *, also: Sequence[str] = ()) -> Path:
    """The folder of ``hf:FOLDER``, or of ``hf:OWNER/NAME`` in the hub's cache, downloaded where it is not there yet.

    Args:
        also: files by which a folder is known, and that are downloaded, beside transformers' own; never a pickle.

    Raises:
        ConfigError: there is neither, or it cannot be downloaded.
    """
    name = text.removeprefix(PREFIX)
    path = Path(name).expanduser()
    if is_folder(name) or any((path / one).is_file() for one in also):
        return path
    if path.exists() or not re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        raise ConfigError(
            f"{PREFIX}{name} must be {PREFIX}FOLDER that push or save_pretrained wrote, or {PREFIX}OWNER/NAME of "
            f"the hub, got {'a path without config.json' if path.exists() else 'nothing there'}. {astray(path)}"
        )
    from huggingface_hub import snapshot_download

    with without_bars():
        try:
            return Path(snapshot_download(name, allow_patterns=[*_FILES, *also]))
        except Exception as error:  # of the network, the hub or the cache
            said = " ".join(str(error).split()).partition(". ")[0]
            raise ConfigError(
                f"The weights of {PREFIX}{name} must be in the hub's cache or downloadable, got: {said}. Download the "
                f"repository on another machine, and pass {PREFIX}FOLDER."
            ) from error


@contextmanager
def without_bars() -> Iterator[None]:
    """The hub's package draws no bars within."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()


def _filled(folder: Path, config: Any, *, source: str) -> tuple[Any, LoadReport]:
    """transformers' model with the folder's weights, and what fitted."""
    with transformers() as package:
        try:
            model, told = package.AutoModelForObjectDetection.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except Exception as error:  # of a file that is cut off, or parts that do not fit
            if "afetensor" in type(error).__name__ or "eader" in str(error):
                raise ConfigError(
                    f"The weights in {folder} must be whole safetensors files, got one that cannot be read ({error}). "
                    "Copy it anew."
                ) from error
            raise unfit(config.model_type, error) from error
    shapes = tuple(ShapeMismatch(str(key), tuple(file), tuple(here)) for key, file, here in told["mismatched_keys"])
    missing = tuple(sorted(set(told["missing_keys"]) - {one.name for one in shapes}))
    absent = {*missing, *(one.name for one in shapes)}
    matched = tuple(key for key in model.state_dict() if key not in absent)
    # A frozen norm counts no batches.
    surplus = tuple(sorted(key for key in told["unexpected_keys"] if not key.endswith("num_batches_tracked")))
    return model, LoadReport(source, matched, missing, surplus, shapes)


def _is_frozen(model: Any) -> bool:
    return any("FrozenBatchNorm" in type(one).__name__ for one in model.modules())


def _classes(found: Described, folder: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Class names in label order, and the model's own index of each."""
    names, slots = tuple(found.classes.values()), tuple(found.classes)
    if not names or len({*names}) != len(names):
        raise ConfigError(
            f"The class names (id2label) in {folder / 'config.json'} must be different ones, got {', '.join(names)}. "
            "Name every class there."
        )
    return names, slots


def _with_slots(settings: HFSettings, slots: tuple[int, ...], *, whole: bool) -> HFSettings:
    return settings if whole and slots == tuple(range(len(slots))) else replace(settings, slots=slots)


def _notes(found: Described, detector: HFDetector) -> tuple[str, ...]:
    """What its image processor says, and what becomes of it here."""
    told = []
    mean, std = found.pixels
    if mean is not None and std is not None:
        told.append(f"pixels normalised by {shown_pixels(mean, std)}, as its image processor says")
    else:
        told.append("pixels normalised by ImageNet's mean and std, as no image processor is beside it")
    if found.stretched:
        size: Mapping[str, int] = found.image
        told.append(
            f"its image processor stretches images to {size['long_side']} pixels; here they keep their ratio within it"
        )
    if not detector.parts.own_frame:
        told.append("padding is a part of the picture to it: its model knows no mask")
    return tuple(told)
