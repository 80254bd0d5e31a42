"""What a detector costs: parameters, multiply-adds by part, and seconds an image."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from detdistill.detectors.base import Detector, evaluating
from detdistill.detectors.families.faster_rcnn import FasterRCNNDetector
from detdistill.errors import ConfigError
from detdistill.types import Batch, Need, Targets

FEATURES, HEADS, SECOND_STAGE = "backbone and pyramid", "heads", "second stage"
_LEAST_SIDE_PX = 32


@dataclass(frozen=True, slots=True)
class Complexity:
    """A detector's size and work for one image.

    Attributes:
        parameters: numbers that the model holds and could learn.
        trainable: those that training changes, frozen stages left out.
        macs: multiplications with an addition, by part; of convolutions and matrix products alone.
        proposals: boxes that the second stage looks at; None without one.
    """

    parameters: int
    trainable: int
    macs: Mapping[str, int]
    proposals: int | None

    @property
    def total_macs(self) -> int:
        """The parts together. Papers often call billions of these GFLOPs; as separate operations they count twice."""
        return sum(self.macs.values())


def complexity(detector: Detector, *, height: int, width: int) -> Complexity:
    """Counts parameters, and what one image costs by torch's own counter.

    Normalisation, activations, pooling and the sorting-out of boxes are not counted. A second stage is counted for
    the full number of proposals it may look at, so that weights and image do not matter.

    Args:
        detector: is put into eval mode for the while.
        height: of the image in pixels, 32 or more.
        width: likewise.

    Raises:
        ConfigError: the size is too small.
    """
    _require_size(height, width)
    device = next(detector.parameters()).device
    batch = plain_batch(height, width, device=device)
    with evaluating(detector):
        features = _macs(lambda: detector.extract(batch))
        parts, proposals = _head_macs(detector, batch, features)
    return Complexity(
        parameters=_count(detector, trainable=False),
        trainable=_count(detector, trainable=True),
        macs={FEATURES: features, **parts},
        proposals=proposals,
    )


def seconds_per_image(detector: Detector, *, height: int, width: int, rounds: int = 10) -> float:
    """Median time of detecting in one image of noise, sorting-out of boxes included; two rounds warm up.

    Args:
        detector: runs where it is; is put into eval mode for the while.
        height: of the image in pixels, 32 or more.
        width: likewise.
        rounds: how many times, 1 or more.

    Raises:
        ConfigError: the size or the rounds are too small.
    """
    _require_size(height, width)
    if rounds < 1:
        raise ConfigError(f"The rounds of timing must be 1 or more, got {rounds}. 10 is usual.")
    device = next(detector.parameters()).device
    batch = plain_batch(height, width, device=device)
    times: list[float] = []
    with evaluating(detector):
        for _ in range(2 + rounds):
            _wait(device)
            begin = time.perf_counter()
            detector.detect(batch)
            _wait(device)
            times.append(time.perf_counter() - begin)
    return statistics.median(times[2:])


def plain_batch(height: int, width: int, *, device: torch.device) -> Batch:
    """One image of noise without objects."""
    images = torch.rand((1, 3, height, width), generator=torch.Generator().manual_seed(0))
    nothing = Targets(
        boxes=torch.zeros((0, 4)),
        labels=torch.zeros(0, dtype=torch.int64),
        ignored=torch.zeros(0, dtype=torch.bool),
    )
    size = ((height, width),)
    return Batch(images=images, sizes=size, stored_sizes=size, targets=(nothing,), image_ids=(0,), seeds=(0,)).to(
        device
    )


def _head_macs(detector: Detector, batch: Batch, features: int) -> tuple[dict[str, int], int | None]:
    if not isinstance(detector, FasterRCNNDetector):
        return {HEADS: _macs(lambda: detector.detect(batch)) - features}, None
    pyramid = detector.extract(batch)
    heads = detector.model.roi_heads
    proposals = int(detector.model.rpn._post_nms_top_n["testing"])
    cells = heads.box_roi_pool.output_size
    pooled = torch.zeros((proposals, detector.spec.pyramid.channels, *cells), device=batch.images.device)
    return {
        HEADS: _macs(lambda: detector.observe(pyramid, batch, {Need.CLASS_LOGITS})),
        SECOND_STAGE: _macs(lambda: heads.box_predictor(heads.box_head(pooled))),
    }, proposals


def _macs(run: Callable[[], object]) -> int:
    """Multiply-adds of a computation; the counter counts each as two operations."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops()) // 2


def _count(module: nn.Module, *, trainable: bool) -> int:
    return sum(one.numel() for one in module.parameters() if one.requires_grad or not trainable)


def _require_size(height: int, width: int) -> None:
    if min(height, width) < _LEAST_SIDE_PX:
        raise ConfigError(
            f"The image's height and width must be {_LEAST_SIDE_PX} pixels or more, got {height} and {width}. "
            "224 224 is what AID's table fits."
        )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
