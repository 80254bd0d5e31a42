"""What every detector is to the rest of detdistill: a spec, and three ways to look through it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from detdistill.detectors.settings import DetectorSettings
from detdistill.types import Batch, ClassKind, Detections, Need, Observation, Pyramid

_BODY = "body"
LOSS_NEEDS = frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES})


@dataclass(frozen=True, slots=True)
class PyramidLayout:
    """The neck's output: nominal strides in pixels, fine to coarse, and the channels of every level."""

    strides: tuple[int, ...]
    channels: int


@dataclass(frozen=True, slots=True)
class ClassLayout:
    """How class logits are laid out: on which strides, what they mean, anchors a cell, classes by name."""

    strides: tuple[int, ...]
    kind: ClassKind
    anchors: int
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BoxLayout:
    """How box distributions are laid out: on which strides, anchors a cell, bins an edge.

    `anchor_scale` is the side, in strides, of the square around each cell by whose overlap objects are given to cells.
    """

    strides: tuple[int, ...]
    anchors: int
    bins: int
    anchor_scale: float = 8.0


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """What a detector is and offers; a layout is None where it does not offer such maps.

    Attributes:
        name: how messages call it, such as ``"fcos/resnet18"``.
        class_names: the data set's names, in label order.
        two_stage: whether a second stage refines proposals.
    """

    name: str
    class_names: tuple[str, ...]
    pyramid: PyramidLayout
    class_logits: ClassLayout | None = None
    box_distributions: BoxLayout | None = None
    two_stage: bool = False


class Detector(nn.Module, ABC):
    """A trainable detector that shows what it saw.

    `Need.PYRAMID` is always answered. Every other part of an observation is computed only when it is asked for.

    Attributes:
        spec: what it is and offers.
        settings: what it was built from; None for a model that was not built from settings, which cannot be saved.
    """

    spec: DetectorSpec
    settings: DetectorSettings | None = None

    @abstractmethod
    def extract(self, batch: Batch) -> Pyramid:
        """The neck's feature maps. Gradients flow to the parameters and to ``batch.images``."""

    @abstractmethod
    def observe(self, pyramid: Pyramid, batch: Batch, needs: Set[Need]) -> Observation:
        """What the heads see on `pyramid` (any pyramid of this detector's layout, its own or another's).

        Args:
            pyramid: gradients flow through it; the observation's own.
            batch: image sizes, targets (for the losses) and seeds (for sampling).
            needs: which parts to compute.
        """

    @abstractmethod
    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        """Detections of every image, best first, in pixels of the padded batch image, clipped to the image.

        Runs as the module stands; put it into eval mode and under ``no_grad`` for inference.
        """

    def in_backbone(self, tensor: str) -> bool:
        """Whether the parameter or buffer of this name is the backbone's, without its neck.

        ``train.backbone_lr_factor`` and `inherit` ask. As it stands: what lies in a module called ``body``, as
        in a `PyramidBackbone`.
        """
        return _BODY in tensor.split(".")

    def forward(self, batch: Batch, needs: Set[Need]) -> Observation:
        """`extract`, then `observe`."""
        return self.observe(self.extract(batch), batch, needs)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients within; afterwards every sub-module is in the mode it was in before."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training
