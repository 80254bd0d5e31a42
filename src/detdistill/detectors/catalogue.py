"""Every detector family that can be built by name: this library's own, other packages' and those of a notebook."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from detdistill.detectors.base import Detector
from detdistill.detectors.preprocess import with_pixel_statistics
from detdistill.detectors.settings import DetectorSettings, check_backbone
from detdistill.errors import ConfigError, suggestion
from detdistill.registry import Registry
from detdistill.settings import build
from detdistill.settings.bounds import require_bounds


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
    """

    name: str
    settings: type[DetectorSettings]
    presets: Mapping[str, DetectorSettings]
    build: Callable[[Any, tuple[str, ...]], Detector]

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


def parse_detector(text: str) -> DetectorSettings:
    """The settings behind a short name: ``family/preset`` or ``family/timm-backbone``, as ``"retinanet/resnet18"``.

    Raises:
        ConfigError: no slash, an unknown family, or neither a preset nor a timm backbone.

    Example:
        >>> detdistill.parse_detector("retinanet/resnet18").name
        'retinanet/resnet18'
    """
    name, _, rest = text.partition("/")
    if not rest:
        raise ConfigError(
            f"A detector must be written FAMILY/BACKBONE or FAMILY/PRESET, got '{text}'. "
            "Write for example fcos/resnet18."
        )
    family = FAMILIES.find(name)
    if rest in family.presets:
        return family.presets[rest]
    check_backbone(rest, presets=tuple(family.presets))
    return family.settings(family=name, backbone=rest)


def namesake(text: str, family: object) -> str:
    """The detector of another family with the preset or backbone of a short name; where it has none, its smallest."""
    own, _, rest = text.partition("/")
    if not isinstance(family, str) or family not in FAMILIES:
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
    _required("backbone", content)
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
