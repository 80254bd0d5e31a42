"""Every detector family that can be built by name: this library's own, other packages' and those of a notebook."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

import torch

from detdistill.detectors.base import Detector
from detdistill.detectors.preprocess import with_pixel_statistics
from detdistill.detectors.settings import DetectorSettings, PyramidSettings, check_backbone
from detdistill.errors import ConfigError, either, suggestion
from detdistill.registry import Registry
from detdistill.settings import build
from detdistill.settings.bounds import require_bounds
from detdistill.settings.trees import default_of


@dataclass(frozen=True, slots=True)
class Naming:
    """How detectors of a family are named that are no FAMILY/PRESET.

    Attributes:
        form: in messages, such as ``"hf:NAME"``.
        recognises: whether a text is of this form.
        settings: what a text of this form stands for.
        moved: the text with the paths in it changed; as it stands it holds none.
    """

    form: str
    recognises: Callable[[str], bool]
    settings: Callable[[str], DetectorSettings]
    moved: Callable[[str, Callable[[str], str]], str] = lambda text, change: text


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of detector: what it is built from, and how.

    Attributes:
        name: what stands before the slash, as in ``"fcos/resnet18"``.
        settings: a frozen dataclass derived from `DetectorSettings`, tagged with the name.
        presets: small detectors that learn from scratch on images of a few hundred pixels, by what stands behind the
            slash; the smallest first, which the tests of what every family promises build.
        build: from settings of that type and class names in label order to a detector in training mode, with weights
            drawn from torch's global CPU generator.
        naming: how else its detectors are named; presets may then be missing.
    """

    name: str
    settings: type[DetectorSettings]
    presets: Mapping[str, DetectorSettings]
    build: Callable[[Any, tuple[str, ...]], Detector]
    naming: Naming | None = None

    def __post_init__(self) -> None:
        if self.settings.tag() != self.name:
            raise ConfigError(
                f"The settings of the detector's family '{self.name}' must have the tag family = '{self.name}', got "
                f"'{self.settings.tag()}'. Give the field family this default."
            )

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of its settings."""
        return tuple(field.name for field in fields(self.settings))


FAMILIES: Registry[Family] = Registry(
    "detector's family",
    group="detdistill.detectors",
    package="detdistill.detectors.families",
    attribute="FAMILY",
    entry_type=Family,
)
"""The families by name; `FAMILIES.register` adds one for this process."""


def naming_of(text: str) -> Naming | None:
    """How a detector's name is written; None for FAMILY/PRESET and FAMILY/BACKBONE, and for none that there is."""
    ways = (one.naming for one in FAMILIES.values())
    return next((one for one in ways if one is not None and one.recognises(text)), None)


def settings_type(text: str) -> type[DetectorSettings]:
    """The settings that a detector of this name is built from; those that all have, where there is no such family."""
    for one in FAMILIES.values():
        if one.name == text.partition("/")[0] or (one.naming is not None and one.naming.recognises(text)):
            return one.settings
    return DetectorSettings


def parse_detector(text: str) -> DetectorSettings:
    """The settings behind a name: ``family/preset``, ``family/timm-backbone`` or as a family's own naming has it.

    Raises:
        ConfigError: no such form, an unknown family, or neither a preset nor a timm backbone.

    Example:
        >>> detdistill.parse_detector("retinanet/resnet18").name
        'retinanet/resnet18'
    """
    if naming := naming_of(text):
        return naming.settings(text)
    name, _, rest = text.partition("/")
    if not rest:
        forms = (one.naming.form for one in FAMILIES.values() if one.naming is not None)
        raise ConfigError(
            f"A detector must be written {either(('FAMILY/BACKBONE', 'FAMILY/PRESET', *forms))}, got '{text}'. "
            f"{_example(text)}"
        )
    family = FAMILIES.find(name)
    if rest in family.presets:
        return family.presets[rest]
    if not issubclass(family.settings, PyramidSettings):
        known = (family.naming.form if family.naming else "", *(f"{name}/{one}" for one in family.presets))
        raise ConfigError(
            f"A detector of {name} must be written {either(filter(None, known))}, got '{text}'. Write it so."
        )
    check_backbone(rest, presets=tuple(family.presets))
    return family.settings(family=name, backbone=rest)


def _example(text: str) -> str:
    file, ending, _ = text.partition(".py")
    if not ending:
        return "Write for example fcos/resnet18."
    return f"Write {file}.py:CLASS, with the name of the class or function in it."


def namesake(text: str, family: object) -> str:
    """The detector of another family with the preset or backbone of a short name; where it has none, its smallest."""
    own, _, rest = text.partition("/")
    if not isinstance(family, str) or family not in FAMILIES or own not in FAMILIES or not FAMILIES[family].presets:
        return text
    presets = FAMILIES[family].presets
    return f"{family}/{rest if rest in presets or rest not in FAMILIES[own].presets else next(iter(presets))}"


def settings_of(
    content: Mapping[str, Any], *, optional: Collection[str] = (), where: str = "The detector's settings"
) -> DetectorSettings:
    """The settings that `DetectorSettings.to_dict`, or JSON made of it, holds.

    Keys in `optional` are passed over where the family does not have them; messages call the content `where`.

    Raises:
        ConfigError: a key is unknown to the family or missing, or a value cannot be used.
    """
    family = FAMILIES.find(str(_required("family", content)))
    unknown = [key for key in content if key not in family.keys and key not in optional]
    if unknown:
        raise ConfigError(
            f"The settings of {family.name} must have known keys, got '{unknown[0]}'. "
            f"{suggestion(unknown[0], family.keys)}"
        )
    for one in fields(family.settings):
        if default_of(one) is MISSING:
            _required(one.name, content)
    known = {key: value for key, value in content.items() if key in family.keys}
    settings: DetectorSettings = build(family.settings, known, where=where, what=family.name)
    return settings


def _required(key: str, content: Mapping[str, Any]) -> Any:
    if key not in content:
        raise ConfigError(f"The detector's settings must have the key '{key}', got none. Add it.")
    return content[key]


def build_detector(settings: DetectorSettings, class_names: Sequence[str], *, seed: int) -> Detector:
    """A detector on the CPU, in training mode; the same weights for the same arguments.

    Torch's random state is as before afterwards. The class names are in label order.

    Raises:
        ConfigError: no class, a class twice, or settings that do not fit together.
        MissingDependencyError: weights that should be downloaded cannot be.
    """
    names = tuple(class_names)
    if not names or len(set(names)) != len(names):
        raise ConfigError(
            f"The detector's classes must be at least one name, each once, got {names}. "
            "Check the data set's categories."
        )
    family = FAMILIES.find(settings.family)
    require_bounds(settings, where="student")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return family.build(with_pixel_statistics(settings), names)
