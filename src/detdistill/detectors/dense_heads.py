"""What the adapters of torchvision's dense detectors share: class slots, levels, towers and detections."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detdistill.detectors.anchors import NominalAnchors
from detdistill.detectors.backbones import group_norm
from detdistill.detectors.preprocess import normalise
from detdistill.detectors.settings import HeadNorm
from detdistill.errors import ConfigError
from detdistill.types import Batch, Detections, Need, Pyramid, Targets

HEAD_NEEDS = frozenset({Need.CLASS_LOGITS, Need.TASK_LOSS, Need.IMAGE_LOSSES})
LOSS_NEEDS = frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES})


class ClassSlots(nn.Module):
    """Where our classes sit among a model's logits; holds no weights.

    Args:
        slots: the model's logit index of every class, in label order.
        total: how many logits an anchor has.
    """

    slots: Tensor

    def __init__(self, slots: Sequence[int], total: int) -> None:
        super().__init__()
        if len(set(slots)) != len(slots) or not all(0 <= slot < total for slot in slots):
            raise ConfigError(
                f"The class slots must be different numbers from 0 to {total - 1}, got {tuple(slots)}. "
                "Give every class its own logit."
            )
        self._identity = tuple(slots) == tuple(range(total))
        self.register_buffer("slots", torch.tensor(tuple(slots), dtype=torch.int64), persistent=False)

    def logits(self, logits: Float[Tensor, "b n s"]) -> Float[Tensor, "b n k"]:
        """The logits of our classes, in label order."""
        return logits if self._identity else logits.index_select(2, self.slots)

    def targets(self, targets: Targets) -> Targets:
        """What training uses of an image's targets, labels as the model's slots."""
        taught = targets.taught()
        if self._identity:
            return taught
        return Targets(boxes=taught.boxes, labels=self.slots[taught.labels], ignored=taught.ignored)


class Normaliser(nn.Module):
    """A batch's pixels as a model reads them: normalised, zero in the padding; holds no weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(tuple(mean)).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(tuple(std)).view(3, 1, 1), persistent=False)

    def forward(self, batch: Batch) -> Float[Tensor, "b 3 h w"]:
        """See `preprocess.normalise`."""
        return normalise(batch, mean=self.mean, std=self.std)


def nominal(generator: Any, strides: tuple[int, ...]) -> NominalAnchors:
    """A torchvision anchor generator's anchors, spaced by nominal strides.

    Raises:
        ConfigError: it makes anchors for another number of levels.
    """
    if len(generator.sizes) != len(strides):
        raise ConfigError(
            f"The strides must be as many as the model's anchor levels, {len(generator.sizes)}, got {strides}. "
            "Give one stride per pyramid level."
        )
    return NominalAnchors(generator.sizes, generator.aspect_ratios, strides=strides)


def grids(pyramid: Pyramid) -> tuple[tuple[int, int], ...]:
    """Rows and columns of every level."""
    return tuple((level.shape[2], level.shape[3]) for level in pyramid.levels)


def class_levels(
    logits: Float[Tensor, "b n k"], pyramid: Pyramid, *, anchors: int
) -> tuple[Float[Tensor, "b a k _h _w"], ...]:
    """The head's rows as maps: views, with gradients."""
    shapes = grids(pyramid)
    parts = torch.split(logits, [rows * columns * anchors for rows, columns in shapes], dim=1)
    return tuple(
        part.reshape(part.shape[0], rows, columns, anchors, -1).permute(0, 3, 4, 1, 2)
        for part, (rows, columns) in zip(parts, shapes, strict=True)
    )


def find(
    model: Any, outputs: Mapping[str, Tensor], anchors: tuple[Tensor, ...], batch: Batch
) -> tuple[Detections, ...]:
    """torchvision's own post-processing of every image on its own size.

    Args:
        model: a torchvision RetinaNet or FCOS.
        outputs: its head's outputs, class logits in our label order.
        anchors: per level.
        batch: whose images they belong to.
    """
    counts = [level.shape[0] for level in anchors]
    split = {name: list(torch.split(rows.float(), counts, dim=1)) for name, rows in outputs.items()}
    found = model.postprocess_detections(split, [list(anchors)] * len(batch), list(batch.sizes))
    return tuple(Detections(boxes=one["boxes"], scores=one["scores"], labels=one["labels"]) for one in found)


def tower(channels: int, *, depth: int, norm: HeadNorm) -> nn.Sequential:
    """3×3 convolutions with ReLU, and group-norm that fits the width where asked."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        conv = nn.Conv2d(channels, channels, 3, padding=1, bias=norm == "none")
        nn.init.normal_(conv.weight, std=0.01)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        layers.append(conv)
        if norm == "group":
            layers.append(group_norm(channels))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def prior_bias(probability: float) -> float:
    """The logit of a probability."""
    return -math.log((1 - probability) / probability)


def slot_count(model: Any) -> int:
    """Logits per anchor of a torchvision RetinaNet or FCOS."""
    return int(model.head.classification_head.num_classes)


def float_rows(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Head outputs in float32."""
    return {name: rows.float() for name, rows in outputs.items()}
