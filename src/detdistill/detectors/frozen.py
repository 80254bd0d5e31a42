"""The teacher: a detector that looks and never changes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from detdistill.detectors.base import Detector, DetectorSpec
from detdistill.detectors.folding import folded
from detdistill.detectors.preprocess import normaliser_of
from detdistill.errors import CapabilityError, ConfigError
from detdistill.types import Batch, Detections, Need, Observation, Pyramid, TaskLoss


class FrozenTeacher:
    """A detector in eval mode whose parameters take no gradient.

    It is deliberately not an `nn.Module`: a step that holds it does not register it, so that ``train()``,
    ``parameters()``, ``state_dict()``, data-parallel wrappers and weight averages never reach it. A copy of the
    step, deep or not, shares the one teacher. What it draws at random for an image depends on the image id
    alone, so that it says the same about an image at every step of every run.

    Args:
        detector: taken over: put into eval mode, its parameters frozen. Give a copy to keep training the original.
        autocast: the teacher computes under autocast of this dtype, whatever the caller's; None for full precision.
        ratio: how many pixels of the images that it is shown lie along one pixel of the student's. Its spec and what
            it observes then name levels by the stride in the student's pixels; see `DetectorSpec.at_ratio`.
        fold: whether it observes by a copy with its batch norms in its convolutions (`folding.folded`), the same but
            for rounding, where no tower is read; `folded` tells how many.

    Raises:
        CapabilityError: a stride would be no whole number of the student's pixels.
    """

    def __init__(
        self, detector: Detector, *, autocast: torch.dtype | None = None, ratio: float = 1.0, fold: bool = False
    ) -> None:
        detector.spec.at_ratio(ratio)  # refuses what cannot be, before it takes the detector over
        self._ratio = ratio
        self._detector = detector.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self._looker, self.folded = folded(self._detector) if fold else (self._detector, 0)
        self._autocast = autocast

    @property
    def spec(self) -> DetectorSpec:
        """What the teacher is and offers, its strides in the student's pixels."""
        return self._detector.spec.at_ratio(self._ratio)

    @property
    def device(self) -> torch.device:
        """Where its parameters are, or its buffers where it has no parameter."""
        return next(chain(self._detector.parameters(), self._detector.buffers())).device

    def observe(self, batch: Batch, needs: Set[Need]) -> Observation:
        """What the teacher sees on its own features, given targets where losses are asked for. No gradient flows."""
        with self._looking(batch) as (detector, seeded):
            looker = detector if Need.TOWERS in needs else self._looker
            return self._named(looker(seeded, needs))

    def observe_pyramid(self, pyramid: Pyramid, batch: Batch, needs: Set[Need]) -> Observation:
        """What the teacher's heads see on a given pyramid of the batch, such as the student's. No gradient flows.

        Raises:
            CapabilityError: the pyramid's strides or channels are not those that the teacher's heads read.
        """
        layout = self.spec.maps
        channels = tuple(level.shape[1] for level in pyramid.levels)
        if pyramid.strides != layout.strides or channels != tuple(map(layout.at, layout.strides)):
            raise CapabilityError(
                f"a pyramid for the heads of {self.spec.name} must have strides {layout.strides} and "
                f"{layout.channels} channels, got strides {pyramid.strides} and channels {sorted({*channels})}. "
                "Let the teacher read its own features."
            )
        own = self._detector.spec.maps.strides
        detached = Pyramid(tuple(level.detach() for level in pyramid.levels), own)
        with self._looking(batch) as (detector, seeded):
            return self._named(detector.observe(detached, seeded, needs))

    def observe_towers(
        self, classes: Pyramid, boxes: Pyramid, batch: Batch, needs: Set[Need], *, after: int
    ) -> Observation:
        """What the teacher's heads see whose towers go on from given maps, such as the student's.

        Gradients flow to the maps, never to the teacher. See `Detector.observe_towers`; strides are the spec's.
        """
        own = self._detector.spec.maps.strides
        classes, boxes = (replace(one, strides=own) for one in (classes, boxes))
        with self._looking(batch, gradients=torch.is_grad_enabled()) as (detector, seeded):
            return self._named(detector.observe_towers(classes, boxes, seeded, needs, after=after))

    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        """Detections of every image, best first, in pixels of the padded batch image."""
        with self._looking(batch) as (detector, seeded):
            return detector.detect(seeded)

    def input_gradient(self, batch: Batch) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, " b"]]:
        """The direction in which each image makes the teacher's class loss grow, and that loss; both detached.

        The class loss is each image alone against its own targets: the sum over the levels, or, for a two-stage
        teacher, the RoI head's. Parameters take no gradient. Works under ``no_grad`` too.

        Raises:
            CapabilityError: the teacher reports no class loss per image.
        """
        with self._looking(batch, gradients=True) as (detector, seeded):
            images = batch.images.detach().clone().requires_grad_()
            pyramid = detector.extract(replace(seeded, images=images))
            seen = detector.observe(pyramid, seeded, frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES}))
            loss = _class_loss(seen.task_loss, self.spec)
            (gradient,) = torch.autograd.grad(loss.sum(), images)
        return gradient, loss.detach()

    def to(self, device: torch.device | str) -> FrozenTeacher:
        """Moves the teacher to a device, in place; its dtype stays. Returns itself."""
        self._detector.to(device=torch.device(device))
        self._looker.to(device=torch.device(device))
        return self

    def digest(self) -> str:
        """Its detector's `digest`.

        Raises:
            ConfigError: the teacher is on the meta device, where tensors have no content.
        """
        if self.device.type == "meta":
            raise ConfigError(
                f"the device of {self.spec.name} for a digest must hold data, got 'meta'. Move the teacher first."
            )
        return digest(self._detector)

    def _named(self, seen: Observation) -> Observation:
        """The observation with its levels named as the spec names them."""
        if self.spec.ratio == 1.0:
            return seen
        parts = ("pyramid", "class_logits", "box_distributions", "boxes", "task_loss")
        shown = {name: part for name in parts if (part := getattr(seen, name)) is not None}
        factor = self.spec.factor
        return replace(
            seen,
            **{
                name: replace(part, strides=tuple(int(stride / factor) for stride in part.strides))
                for name, part in shown.items()
            },
        )

    @contextmanager
    def _looking(self, batch: Batch, *, gradients: bool = False) -> Iterator[tuple[Detector, Batch]]:
        """The detector, and the batch with seeds of the images' own, in the teacher's precision."""
        if self._detector.training:  # changed by somebody who holds it too
            self._detector.eval()
        precision = torch.autocast(batch.images.device.type, dtype=self._autocast, enabled=self._autocast is not None)
        with torch.set_grad_enabled(gradients), precision:
            yield self._detector, replace(batch, seeds=batch.image_ids)

    def __copy__(self) -> FrozenTeacher:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> FrozenTeacher:
        return self

    def __reduce__(self) -> NoReturn:
        raise CapabilityError(
            f"what is pickled or sent to another process must hold no teacher, got {self.spec.name}. "
            "Load the teacher in each process, and save the student alone."
        )


def digest(detector: Detector) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of all parameters and buffers of a detector, as hex.

    What pixels are normalised by counts where somebody gave other numbers than the detector came with.
    """
    found = hashlib.sha256()
    for name, tensor in sorted(detector.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy().data)
    pixels = normaliser_of(detector)
    if pixels is not None and pixels.given:
        found.update(repr(pixels.numbers()).encode())
    return found.hexdigest()


def _class_loss(loss: TaskLoss | None, spec: DetectorSpec) -> Float[Tensor, " b"]:
    if loss is not None and spec.two_stage and loss.roi_classification is not None:
        return loss.roi_classification
    if loss is not None and not spec.two_stage and loss.classification is not None:
        levels = loss.classification.sum(dim=1)
        return levels if loss.roi_classification is None else levels + loss.roi_classification
    raise CapabilityError(
        f"a teacher whose input gradient is wanted must report a class loss per image, got {spec.name}, which "
        "does not. Use a teacher of another family."
    )
