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
from detdistill.detectors.load_report import LoadReport, load_tensors, require_finite
from detdistill.detectors.loaded import LoadedDetector
from detdistill.detectors.torchvision_dense import DenseDetector
from detdistill.errors import ConfigError, suggestion

PREFIX = "torchvision:"
_NOT_CLASSES = frozenset({"__background__", "N/A"})
_CLASS_LAYERS = ("classification_head.cls_logits.weight", "box_predictor.cls_score.weight")


@dataclass(frozen=True, slots=True)
class _Known:
    """What torchvision's builder of a name does not say itself.

    Attributes:
        adapt: puts it behind the `Detector` interface.
        strides: of the pyramid.
        eps: of the norms of the published weights, where it is not the layer's default.
    """

    adapt: Callable[..., Detector]
    strides: tuple[int, ...]
    eps: float | None = None


_RETINANET = partial(DenseDetector, loss=retinanet_loss)
_DENSE = (8, 16, 32, 64, 128)
_TWO_STAGE = (4, 8, 16, 32, 64)
_KNOWN: Mapping[str, _Known] = MappingProxyType(
    {
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
            f"a torchvision teacher must be {PREFIX}NAME or {PREFIX}NAME=FILE.pth, got '{text}'. "
            f"{suggestion(name, _KNOWN)}"
        )
    published = get_model_weights(name).DEFAULT
    if file:
        path = Path(file).expanduser()
        source = str(path)
        tensors: Mapping[str, Tensor] = read_state_dict(path)
    else:
        source = f"{name}'s published weights"
        tensors = _download(published, name)
    require_finite(tensors, source=source)
    model = get_model_builder(name)(weights=None, weights_backbone=None)
    report = load_tensors(model, tensors, source=source)
    _require_coco_classes(report)
    report.require_complete()
    if not file or Path(file).name == PurePosixPath(published.url).name:
        _set_norm_eps(model, _KNOWN[name].eps)
    categories: list[str] = published.meta["categories"]
    return LoadedDetector(
        detector=wrap_torchvision(model, name, categories=categories),
        report=report,
        image={"short_side": model.transform.min_size[-1], "long_side": model.transform.max_size, "pad_multiple": 32},
        class_names=tuple(category for category in categories if category not in _NOT_CLASSES),
        extra={},
    )


def wrap_torchvision(model: Any, name: str, *, categories: list[str]) -> Detector:
    """Puts a model of torchvision's builder `name` behind the `Detector` interface.

    Args:
        model: taken over.
        name: one of `TORCHVISION_DETECTORS`.
        categories: what each of the model's class slots means; background and ``N/A`` are dropped.
    """
    known = _KNOWN[name]
    slots = {slot: category for slot, category in enumerate(categories) if category not in _NOT_CLASSES}
    names, indices = tuple(slots.values()), tuple(slots)
    return known.adapt(model, names, name=f"{PREFIX}{name}", class_slots=indices, strides=known.strides)


def untrained_torchvision(text: str) -> Detector:
    """One of torchvision's COCO detectors with random weights: its size and speed need no download.

    Args:
        text: ``"torchvision:NAME"``; a file behind an equals sign is not read.

    Raises:
        ConfigError: the name is unknown.
    """
    name = text.removeprefix(PREFIX).partition("=")[0]
    if name not in _KNOWN:
        raise ConfigError(f"a torchvision model must be {PREFIX}NAME, got '{text}'. {suggestion(name, _KNOWN)}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = get_model_builder(name)(weights=None, weights_backbone=None)
    return wrap_torchvision(model, name, categories=get_model_weights(name).DEFAULT.meta["categories"])


def _download(published: WeightsEnum, name: str) -> Mapping[str, Tensor]:
    try:
        tensors: Mapping[str, Tensor] = published.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"the published weights of {name} must be in torch's cache or downloadable, got: {error}. "
            f"Fetch {published.url} on another machine and pass {PREFIX}{name}=FILE."
        ) from error
    return tensors


def _require_coco_classes(report: LoadReport) -> None:
    for bad in report.mismatched:
        if bad.name.endswith(_CLASS_LAYERS):
            raise ConfigError(
                f"{report.source} must have torchvision's 91 COCO class slots ({bad.name} {bad.in_model}), got "
                f"{bad.in_file}: a model of other classes, whose names the file does not hold. "
                "Use COCO weights, or train the teacher with detdistill."
            )


def _set_norm_eps(model: nn.Module, eps: float | None) -> None:
    """The published weights of the first generation were trained with norms without an epsilon."""
    if eps is None:
        return
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            module.eps = eps
