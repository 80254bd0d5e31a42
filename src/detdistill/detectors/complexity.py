"""What a detector costs: parameters, multiply-adds by part, and seconds an image."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from detdistill.detectors.base import Detector, evaluating
from detdistill.detectors.families.faster_rcnn import FasterRCNNDetector
from detdistill.errors import ConfigError
from detdistill.types import Batch, Need, Targets

FEATURES, HEADS, SECOND_STAGE = "backbone and pyramid", "heads", "second stage"
_LEAST_SIDE_PX = 32
_WARM_UP = 2


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
    """Counts parameters, and what one image of `height` × `width` pixels costs by torch's own counter, in eval mode.

    Normalisation, activations, pooling and the sorting-out of boxes are not counted. A second stage is counted for
    the full number of proposals it may look at, so that weights and image do not matter.

    Raises:
        ConfigError: a side is below 32 pixels.
    """
    batch, proposals = _noise(detector, height, width), None
    with evaluating(detector):
        macs = {FEATURES: _macs(lambda: detector.extract(batch))}
        if isinstance(detector, FasterRCNNDetector):
            pyramid, heads = detector.extract(batch), detector.model.roi_heads
            proposals = int(detector.model.rpn._post_nms_top_n["testing"])
            cells = heads.box_roi_pool.output_size
            pooled = torch.zeros((proposals, pyramid.levels[0].shape[1], *cells), device=batch.images.device)
            macs[HEADS] = _macs(lambda: detector.observe(pyramid, batch, {Need.CLASS_LOGITS}))
            macs[SECOND_STAGE] = _macs(lambda: heads.box_predictor(heads.box_head(pooled)))
        else:
            macs[HEADS] = _macs(lambda: detector.detect(batch)) - macs[FEATURES]
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in detector.parameters()]
    return Complexity(sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns), macs, proposals)


def seconds_per_image(detector: Detector, *, height: int, width: int, rounds: int = 10) -> float:
    """Median time of detecting in one image of noise, in eval mode, sorting-out of boxes included; two rounds warm up.

    Raises:
        ConfigError: a side is below 32 pixels, or the rounds below 1.
    """
    batch = _noise(detector, height, width)
    if rounds < 1:
        raise ConfigError(f"The rounds of timing must be 1 or more, got {rounds}. 10 is usual.")
    times: list[float] = []
    with evaluating(detector):
        for _ in range(_WARM_UP + rounds):
            _wait(batch.images.device)
            begin = time.perf_counter()
            detector.detect(batch)
            _wait(batch.images.device)
            times.append(time.perf_counter() - begin)
    return statistics.median(times[_WARM_UP:])


def _noise(detector: Detector, height: int, width: int) -> Batch:
    """One image without objects, where the detector is."""
    if min(height, width) < _LEAST_SIDE_PX:
        raise ConfigError(
            f"The image's height and width must be {_LEAST_SIDE_PX} pixels or more, got {height} and {width}. "
            "224 224 is what AID's table fits."
        )
    images = torch.rand((1, 3, height, width), generator=torch.Generator().manual_seed(0))
    nothing = Targets(torch.zeros((0, 4)), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    size = ((height, width),)
    batch = Batch(images, sizes=size, stored_sizes=size, targets=(nothing,), image_ids=(0,), seeds=(0,))
    return batch.to(next(detector.parameters()).device)


def _macs(run: Callable[[], object]) -> int:
    """Multiply-adds of a computation; the counter counts each as two operations."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops()) // 2


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
