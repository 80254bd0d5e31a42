"""transformers' detectors, by ``hf:NAME``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch

from detdistill.detectors.base import evaluating
from detdistill.detectors.catalogue import Family, Naming
from detdistill.detectors.hf.architectures import ARCHITECTURES
from detdistill.detectors.hf.boxes import BOXES_ALONE
from detdistill.detectors.hf.building import config_of, described, new_model, plain, unfit
from detdistill.detectors.hf.detector import HFDetector
from detdistill.detectors.hf.files import PREFIX, Described, is_folder, moved, read_folder
from detdistill.detectors.hf.presets import PRESETS
from detdistill.detectors.settings import DetectorSettings
from detdistill.errors import ConfigError, suggestion
from detdistill.settings.bounds import Within
from detdistill.types import Batch, Targets

_TEACHES_ALONE = frozenset({"yolos", *BOXES_ALONE})


@dataclass(frozen=True, slots=True, kw_only=True)
class HFSettings(DetectorSettings):
    """What one of transformers' detectors is built from; its boxes do not suppress each other: nms_threshold is unused.

    Attributes:
        model: a preset's name, such as rtdetr_v2_small, or transformers' own name of a kind of model.
        config: keys of the model's configuration, as transformers has them, that are to differ from the preset's.
        norm: the backbone's: "batch" = its batch-norms and all of its layers learn; "frozen" = as transformers has it,
            whose backbones keep their norms, and DETR's its first layers, as their weights have them.
        slots: the model's own class index of every label; None: the label.
    """

    family: Literal["hf"] = "hf"
    model: str = "rtdetr_v2_small"
    config: Mapping[str, Any] | None = None
    norm: Literal["batch", "frozen"] = "batch"
    slots: tuple[Annotated[int, Within(0, 1e5)], ...] | None = None

    named_by: ClassVar[tuple[str, ...]] = ("family", "model")

    def check(self) -> None:
        """See `DetectorSettings.check`."""
        self.require_one_of("norm", ("batch", "frozen"))

    @property
    def kind(self) -> str:
        """transformers' own name of the kind of model."""
        preset = PRESETS.get(self.model)
        return str((self.config or {}).get("model_type", self.model if preset is None else preset.kind))

    @property
    def name(self) -> str:
        """See `DetectorSettings.name`."""
        return f"{PREFIX}{self.model}"

    def to_dict(self, *, place: Callable[[str], str] = str) -> dict[str, Any]:
        """See `DetectorSettings.to_dict`; it names no files."""
        del place
        return {one.name: plain(getattr(self, one.name)) for one in fields(self)}

    def built(self, classes: int) -> Any:
        """The whole configuration, transformers' own object: the preset's, with what was changed, for so many classes.

        Raises:
            ConfigError: the model is unknown, or what was changed does not fit.
        """
        preset = PRESETS.get(self.model)
        given = {} if preset is None else preset.config
        frozen = {"freeze_backbone_batch_norms": self.norm == "frozen"}
        asked = {**given, **(self.config or {})}
        if self.slots is None:
            asked["num_labels"] = classes
        return config_of(self.kind, asked, classes=classes, wanted=frozen)


def build_hf(settings: HFSettings, class_names: Sequence[str]) -> HFDetector:
    """One of transformers' detectors with new weights, from torch's global generator; its settings say all of it.

    Raises:
        ConfigError: the configuration is none.
        MissingDependencyError: transformers or scipy is not installed.
    """
    config = settings.built(len(class_names))
    model = new_model(config, learns=settings.norm == "batch")
    detector = HFDetector(
        model, class_names, settings=replace(settings, config=described(config)), slots=settings.slots
    )
    _try(detector)
    return detector


def _try(detector: HFDetector) -> None:
    """Refuses a configuration that can be built and not run, on a blank image of as many cells as it needs."""
    fewest = sum(1 / stride**2 for stride in detector.spec.maps.strides)
    side = 128 * math.ceil(math.sqrt(detector.parts.queries / fewest) / 128)
    device = next(detector.parameters()).device
    nothing = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    size = ((side, side),)
    blank = Batch(torch.zeros(1, 3, side, side), size, size, (nothing,), (0,), (0,)).to(device)
    try:
        with evaluating(detector):
            detector.detect(blank)
    except Exception as error:
        raise unfit(detector.model.config.model_type, error) from error


def learner(folder: str | Path, *, instead: str) -> Described:
    """What a folder says of its detector, of a kind that learns here.

    Args:
        instead: the remedy where it is none.

    Raises:
        ConfigError: it is of no kind that there is, or teaches alone.
    """
    found = read_folder(folder)
    if found.kind in _TEACHES_ALONE:
        raise ConfigError(
            f"A student must be of a kind that learns here, got {found.kind} in {folder}, which teaches alone. "
            f"{instead}"
        )
    return found


def is_name(text: str) -> bool:
    """Whether ``hf:NAME`` is a preset or a kind of model that learns, and no place where weights lie."""
    return text.removeprefix(PREFIX) in PRESETS.keys() | (ARCHITECTURES.keys() - _TEACHES_ALONE)


def _named(text: str) -> HFSettings:
    """The settings that a text ``hf:NAME`` stands for: a preset, a kind of model, or a folder of transformers'."""
    name = text.removeprefix(PREFIX)
    if is_name(text):
        return _preset(name) if name in PRESETS else HFSettings(model=name)
    if is_folder(name):
        found = learner(name, instead=f"Write for example --student {PREFIX}rtdetr_v2_small.")
        mean, std = found.pixels
        return HFSettings(model=found.kind, config=found.config, mean=mean, std=std)
    raise ConfigError(
        f"A detector of transformers' must be {PREFIX}NAME of a preset, or {PREFIX}FOLDER that save_pretrained wrote, "
        f"got '{text}'. {suggestion(name, PRESETS)}"
    )


def _preset(name: str) -> HFSettings:
    mean, std = PRESETS[name].pixels
    return HFSettings(model=name, mean=mean, std=std)


FAMILY = Family(
    "hf",
    HFSettings,
    presets={name: _preset(name) for name, one in PRESETS.items() if one.small},
    build=build_hf,
    naming=Naming(
        form=f"{PREFIX}NAME",
        recognises=lambda text: text.startswith(PREFIX),
        settings=_named,
        moved=moved,
    ),
)
