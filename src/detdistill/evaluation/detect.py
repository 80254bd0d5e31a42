"""Runs a detector over a split and brings its boxes back to the stored images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detdistill.detectors.base import Detector, evaluating, suppressing
from detdistill.errors import DistillError
from detdistill.evaluation.coco import ImageDetections
from detdistill.types import Batch, Detections

Progress = Callable[[int], None]


def detect_split(
    detector: Detector,
    loader: Iterable[Batch],
    *,
    device: torch.device | str,
    agnostic: bool = False,
    progress: Progress | None = None,
) -> list[ImageDetections]:
    """What a detector finds in every image of a split; no gradients flow.

    Args:
        detector: is put into eval mode for the while; must be on `device` already.
        loader: batches in data set order.
        device: where batches are moved to.
        agnostic: whether boxes suppress each other across classes.
        progress: called after every batch with the number of images done so far.

    Returns:
        One entry per image, in the loader's order, best detections first, in pixels of the stored images and
        clipped to them.

    Raises:
        CapabilityError: the detector cannot suppress across classes.
        DistillError: a box or score is NaN or infinite.
    """
    found: list[ImageDetections] = []
    with evaluating(detector), suppressing(detector, agnostic=agnostic), _watched(detector) as require_finite:
        for batch in loader:
            detections = detector.detect(batch.to(device))
            require_finite(batch)
            found += _stored(detections, batch)
            if progress is not None:
                progress(len(found))
    return found


@contextmanager
def _watched(detector: Detector) -> Iterator[Callable[[Batch], None]]:
    """Yields what refuses a batch in which a layer of the detector computed NaN or infinity.

    What is no number is no better than any threshold: boxes would be missing, and nothing else be seen.
    """
    names: list[str] = []
    sums: list[Tensor] = []

    def keep(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            names.append(name)
            sums.append(output.detach().sum(dtype=torch.float32))

    def require_finite(batch: Batch) -> None:
        bad = [] if not sums else (~torch.isfinite(torch.stack(sums))).nonzero().flatten().tolist()
        first = names[bad[0]] if bad else ""
        names.clear()
        sums.clear()
        if bad:
            raise DistillError(
                f"What {detector.spec.name} computes for the images {list(batch.image_ids)[:3]} must be finite, got "
                f"NaN or infinity from its layer {first}. Train with a lower learning rate, or load a checkpoint from "
                "before the loss diverged."
            )

    layers = [
        (name, part)
        for name, part in detector.named_modules()
        if next(chain(part.parameters(recurse=False), part.buffers(recurse=False)), None) is not None
    ]
    handles = [
        part.register_forward_hook(lambda _part, _given, output, name=name: keep(name, output)) for name, part in layers
    ]
    try:
        yield require_finite
    finally:
        for handle in handles:
            handle.remove()


def _stored(detections: Sequence[Detections], batch: Batch) -> list[ImageDetections]:
    """What was found in the images of a batch, in pixels of the stored images."""

    def column(name: str) -> Tensor:
        return torch.cat([getattr(one, name) for one in detections]).detach().cpu()

    boxes, scores, labels = (column(name) for name in ("boxes", "scores", "labels"))
    counts = [len(one.scores) for one in detections]
    finite = boxes.isfinite().all(dim=1) & scores.isfinite()
    if not finite.all():
        owners = [id_ for id_, count in zip(batch.image_ids, counts, strict=True) for _ in range(count)]
        raise DistillError(
            f"Boxes and scores detected in image {owners[int(finite.int().argmin())]} must be finite, got NaN or "
            "infinity. Train with a lower learning rate, or load a checkpoint from before the loss diverged."
        )
    sides = torch.tensor([batch.stored_sizes, batch.sizes], dtype=torch.float32).flip(2).repeat(1, 1, 2)
    limits, seen = sides.repeat_interleave(torch.tensor(counts), dim=1)
    boxes = torch.minimum((boxes.float() * (limits / seen)).clamp(min=0), limits)
    columns = (torch.split(one, counts) for one in (boxes, scores.float(), labels.long()))
    return [
        ImageDetections(image_id, box.numpy(), score.numpy(), label.numpy(), _classes(of))
        for image_id, of, box, score, label in zip(batch.image_ids, detections, *columns, strict=True)
    ]


def _classes(found: Detections) -> NDArray[np.float32] | None:
    said = found.probabilities
    return None if said is None else said.detach().cpu().float().numpy()
