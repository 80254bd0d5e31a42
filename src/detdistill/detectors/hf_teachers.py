"""Detectors of a hub, ``hf:FOLDER`` or ``hf:OWNER/NAME``: where they lie, and transformers' own with weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from detdistill.detectors.families.hf import HFSettings, learner
from detdistill.detectors.hf.boxes import BOXES_ALONE, HFBoxes
from detdistill.detectors.hf.building import config_of, transformers, unfit
from detdistill.detectors.hf.detector import HFDetector
from detdistill.detectors.hf.files import PREFIX, PROCESSOR, Described, is_folder, read_folder, require_safe
from detdistill.detectors.load_report import LoadedDetector, LoadReport, ShapeMismatch, require_finite
from detdistill.detectors.preprocess import Channels, shown_pixels
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
    seen = _processed(found, folder) if found.kind in BOXES_ALONE else None
    config = None if seen else config_of(found.kind, found.config, classes=classes, wanted={})
    model, report = _filled(folder, found.kind, config)
    require_finite(model.state_dict(), source=str(folder))
    report.require_complete(allow=allow)
    names, slots = _classes(found, folder)
    if seen is not None:
        size, mean, std = seen
        boxes = HFBoxes(model, names, slots=slots, size=size, pixels=(mean, std))
        told = f"it says boxes alone, of images stretched to {size[0]} x {size[1]} pixels, as its image processor says"
        return LoadedDetector(boxes, report, boxes.image, names, extra={}, notes=(told, _normalised(mean, std)))
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
    return settings_of_folder(learner(hub_folder(text), instead="Choose a student by --student, without --self."))


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


def _filled(folder: Path, kind: str, config: Any) -> tuple[Any, LoadReport]:
    """transformers' model with the folder's weights, of its own configuration where none is given, and what fitted."""
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
            raise unfit(kind, error) from error
    shapes = tuple(ShapeMismatch(str(key), tuple(file), tuple(here)) for key, file, here in told["mismatched_keys"])
    missing = tuple(sorted(set(told["missing_keys"]) - {one.name for one in shapes}))
    absent = {*missing, *(one.name for one in shapes)}
    matched = tuple(key for key in model.state_dict() if key not in absent)
    # A frozen norm counts no batches.
    surplus = tuple(sorted(key for key in told["unexpected_keys"] if not key.endswith("num_batches_tracked")))
    return model, LoadReport(str(folder), matched, missing, surplus, shapes)


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


def _processed(found: Described, folder: Path) -> tuple[tuple[int, int], Channels, Channels]:
    """The size to which images are stretched, and mean and std of their pixels, for a model that runs as a whole."""
    (mean, std), size = found.pixels, found.stretched
    if size is None or mean is None or std is None:
        raise ConfigError(
            f"The size in {folder / PROCESSOR} must be the height and width to which {found.kind} has its images "
            'stretched, got none. Write "size": {"height": HEIGHT, "width": WIDTH} there, as it was trained.'
        )
    return size, mean, std


def _normalised(mean: Channels, std: Channels) -> str:
    return f"pixels normalised by {shown_pixels(mean, std)}, as its image processor says"


def _with_slots(settings: HFSettings, slots: tuple[int, ...], *, whole: bool) -> HFSettings:
    return settings if whole and slots == tuple(range(len(slots))) else replace(settings, slots=slots)


def _notes(found: Described, detector: HFDetector) -> tuple[str, ...]:
    """What its image processor says, and what becomes of it here."""
    told = []
    mean, std = found.pixels
    if mean is not None and std is not None:
        told.append(_normalised(mean, std))
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
