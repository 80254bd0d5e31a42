"""torchvision's own COCO detectors as teachers: ``torchvision:NAME`` or ``torchvision:NAME=FILE.pth``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model_builder, get_model_weights
from torchvision.ops import FrozenBatchNorm2d

from detdistill.detectors.backbones import read_state_dict
from detdistill.detectors.base import Detector
from detdistill.detectors.families.faster_rcnn import FasterRCNNDetector
from detdistill.detectors.families.fcos import fcos_loss
from detdistill.detectors.families.retinanet import retinanet_loss
from detdistill.detectors.load_report import LoadedDetector, load_tensors, require_finite
from detdistill.detectors.torchvision_dense import DenseDetector
from detdistill.errors import ConfigError, suggestion

PREFIX = "torchvision:"
_NOT_CLASSES = frozenset({"__background__", "N/A"})
_CLASS_LAYERS = ("classification_head.cls_logits.weight", "box_predictor.cls_score.weight")


@dataclass(frozen=True, slots=True)
class _Known:
    """What torchvision's builder of a name does not say itself; `eps` is the published norms' where it is unusual."""

    adapt: Callable[..., Detector]
    strides: tuple[int, ...]
    eps: float | None = None


_RETINANET = partial(DenseDetector, loss=retinanet_loss)
_DENSE = (8, 16, 32, 64, 128)
_TWO_STAGE = (4, 8, 16, 32, 64)
_KNOWN: Mapping[str, _Known] = MappingProxyType(
    {
        # The published weights of the first generation were trained with norms without an epsilon.
        "fasterrcnn_resnet50_fpn": _Known(FasterRCNNDetector, _TWO_STAGE, eps=0.0),
        "fasterrcnn_resnet50_fpn_v2": _Known(FasterRCNNDetector, _TWO_STAGE),
        # Its backbone gives two maps of stride 32.
        "fasterrcnn_mobilenet_v3_large_fpn": _Known(FasterRCNNDetector, (32, 32, 64)),
        "fcos_resnet50_fpn": _Known(partial(DenseDetector, loss=fcos_loss), _DENSE),
        "retinanet_resnet50_fpn": _Known(_RETINANET, _DENSE, eps=0.0),
        "retinanet_resnet50_fpn_v2": _Known(_RETINANET, _DENSE),
    }
)
TORCHVISION_DETECTORS: tuple[str, ...] = tuple(_KNOWN)
"""The names that may follow ``torchvision:``."""


def load_torchvision(text: str) -> LoadedDetector:
    """One of torchvision's detectors with its published COCO weights, or with those of a file.

    The 80 class names are those of torchvision's own list; its background and its ``N/A`` slots are dropped.

    Args:
        text: ``"torchvision:NAME"`` (weights from torch's cache, else downloaded) or ``"torchvision:NAME=FILE"``.

    Raises:
        ConfigError: the name is unknown, the weights cannot be had or read, or they do not fit the model.
    """
    name, equals, file = text.removeprefix(PREFIX).partition("=")
    if not text.startswith(PREFIX) or name not in _KNOWN or (equals and not file):
        raise ConfigError(
            f"a torchvision detector must be {PREFIX}NAME or {PREFIX}NAME=FILE.pth, got '{text}'. "
            f"{suggestion(name, _KNOWN)}"
        )
    published = get_model_weights(name).DEFAULT
    path = Path(file).expanduser()
    tensors = read_state_dict(path) if file else _download(published, name)
    source = str(path) if file else f"{name}'s published weights"
    require_finite(tensors, source=source)
    model = get_model_builder(name)(weights=None, weights_backbone=None)
    report = load_tensors(model, tensors, source=source)
    for bad in report.mismatched:
        if bad.name.endswith(_CLASS_LAYERS):
            raise ConfigError(
                f"{source} must have torchvision's 91 COCO class slots ({bad.name} {bad.in_model}), got "
                f"{bad.in_file}: a model of other classes, whose names the file does not hold. "
                "Use COCO weights, or train the teacher with detdistill."
            )
    report.require_complete()
    eps = _KNOWN[name].eps
    if eps is not None and (not file or path.name == PurePosixPath(published.url).name):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
                module.eps = eps
    image = {"short_side": model.transform.min_size[-1], "long_side": model.transform.max_size, "pad_multiple": 32}
    detector = _wrap(model, name)
    return LoadedDetector(detector, report, image, detector.spec.class_names, extra={})


def untrained_torchvision(text: str) -> Detector:
    """One of torchvision's COCO detectors (``"torchvision:NAME"``) with random weights: cost needs no download.

    Raises:
        ConfigError: the name is unknown.
    """
    name = text.removeprefix(PREFIX).partition("=")[0]
    if name not in _KNOWN:
        raise ConfigError(f"a torchvision model must be {PREFIX}NAME, got '{text}'. {suggestion(name, _KNOWN)}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = get_model_builder(name)(weights=None, weights_backbone=None)
    return _wrap(model, name)


def _wrap(model: Any, name: str) -> Detector:
    categories = get_model_weights(name).DEFAULT.meta["categories"]
    slots = {slot: category for slot, category in enumerate(categories) if category not in _NOT_CLASSES}
    known = _KNOWN[name]
    names, indices = tuple(slots.values()), tuple(slots)
    return known.adapt(model, names, name=f"{PREFIX}{name}", class_slots=indices, strides=known.strides)


def _download(published: WeightsEnum, name: str) -> Mapping[str, Tensor]:
    try:
        tensors: Mapping[str, Tensor] = published.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"the published weights of {name} must be in torch's cache or downloadable, got: {error}. "
            f"Fetch {published.url} on another machine and pass {PREFIX}{name}=FILE."
        ) from error
    return tensors
