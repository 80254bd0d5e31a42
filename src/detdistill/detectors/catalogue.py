"""Every detector that can be built by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch

from detdistill.detectors.base import Detector
from detdistill.detectors.gfl import build_gfl
from detdistill.detectors.settings import FAMILIES, PRESETS, DetectorSettings, parse_detector
from detdistill.detectors.torchvision_dense import build_fcos, build_retinanet
from detdistill.detectors.torchvision_rcnn import build_faster_rcnn
from detdistill.errors import ConfigError

__all__ = ["BUILDERS", "FAMILIES", "PRESETS", "DetectorSettings", "build_detector", "parse_detector"]

BUILDERS: Mapping[str, Callable[[DetectorSettings, tuple[str, ...]], Detector]] = MappingProxyType(
    {"fcos": build_fcos, "retinanet": build_retinanet, "faster_rcnn": build_faster_rcnn, "gfl": build_gfl}
)
"""How each family is built."""


def build_detector(settings: DetectorSettings, class_names: Sequence[str], *, seed: int) -> Detector:
    """A detector on the CPU, in training mode; the same weights for the same arguments.

    Torch's random state is as before afterwards.

    Args:
        settings: what to build.
        class_names: the data set's classes, in label order.
        seed: of the weights that are drawn.

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
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return BUILDERS[settings.family](settings, names)
