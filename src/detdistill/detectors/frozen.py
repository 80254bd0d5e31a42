"""The teacher: a detector that looks and never changes."""

from __future__ import annotations

import hashlib
from collections.abc import Set
from dataclasses import replace
from typing import NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from detdistill.detectors.base import Detector, DetectorSpec
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
        autocast: the teacher computes under autocast of this dtype, whatever the caller's autocast; None for
            full precision.
    """

    def __init__(self, detector: Detector, *, autocast: torch.dtype | None = None) -> None:
        self._detector = detector.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self._autocast = autocast

    @property
    def spec(self) -> DetectorSpec:
        """What the teacher is and offers."""
        return self._detector.spec

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self._detector.parameters()).device

    def observe(self, batch: Batch, needs: Set[Need]) -> Observation:
        """What the teacher sees on its own features, given targets where losses are asked for. No gradient flows."""
        batch = _drawn_by_image(batch)
        with torch.no_grad(), self._precision(batch.images):
            detector = self._ready()
            return detector.observe(detector.extract(batch), batch, needs)

    def observe_pyramid(self, pyramid: Pyramid, batch: Batch, needs: Set[Need]) -> Observation:
        """What the teacher's heads see on a given pyramid of the batch, such as the student's. No gradient flows.

        Raises:
            CapabilityError: the pyramid's strides or channels are not those that the teacher's heads read.
        """
        layout = self.spec.pyramid
        channels = {level.shape[1] for level in pyramid.levels}
        if pyramid.strides != layout.strides or channels != {layout.channels}:
            raise CapabilityError(
                f"a pyramid for the heads of {self.spec.name} must have strides {layout.strides} and "
                f"{layout.channels} channels, got strides {pyramid.strides} and channels {sorted(channels)}. "
                "Let the teacher read its own features."
            )
        batch = _drawn_by_image(batch)
        detached = Pyramid(tuple(level.detach() for level in pyramid.levels), pyramid.strides)
        with torch.no_grad(), self._precision(batch.images):
            return self._ready().observe(detached, batch, needs)

    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        """Detections of every image, best first, in pixels of the padded batch image."""
        with torch.no_grad(), self._precision(batch.images):
            return self._ready().detect(_drawn_by_image(batch))

    def input_gradient(self, batch: Batch) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, " b"]]:
        """The direction in which each image makes the teacher's class loss grow: what an attack needs.

        The class loss is each image alone against its own targets: the sum over the levels, or, for a two-stage
        teacher, the RoI head's. Parameters take no gradient. Works under ``no_grad`` too.

        Args:
            batch: images in [0, 1], with targets.

        Returns:
            The gradient of the class loss by the image, and the class loss (≥ 0). Both detached.

        Raises:
            CapabilityError: the teacher reports no class loss per image.
        """
        batch = _drawn_by_image(batch)
        with torch.enable_grad(), self._precision(batch.images):
            images = batch.images.detach().clone().requires_grad_()
            detector = self._ready()
            pyramid = detector.extract(replace(batch, images=images))
            seen = detector.observe(pyramid, batch, frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES}))
            loss = _class_loss(seen.task_loss, self.spec)
            (gradient,) = torch.autograd.grad(loss.sum(), images)
        return gradient, loss.detach()

    def to(self, device: torch.device | str) -> FrozenTeacher:
        """Moves the teacher to a device, in place; its dtype stays. Returns itself."""
        self._detector.to(device=torch.device(device))
        return self

    def digest(self) -> str:
        """SHA-256 over the names, dtypes, shapes and bytes of all its parameters and buffers, as hex.

        Raises:
            ConfigError: the teacher is on the meta device, where tensors have no content.
        """
        if self.device.type == "meta":
            raise ConfigError(
                f"the device of {self.spec.name} for a digest must hold data, got 'meta'. Move the teacher first."
            )
        digest = hashlib.sha256()
        for name, tensor in sorted(self._detector.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            flat = tensor.detach().to("cpu").contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _ready(self) -> Detector:
        """The detector in eval mode, even if somebody who holds it too changed that."""
        if self._detector.training:
            self._detector.eval()
        return self._detector

    def _precision(self, images: Tensor) -> torch.autocast:
        return torch.autocast(images.device.type, dtype=self._autocast, enabled=self._autocast is not None)

    def __copy__(self) -> FrozenTeacher:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> FrozenTeacher:
        return self

    def __reduce__(self) -> NoReturn:
        raise CapabilityError(
            f"what is pickled or sent to another process must hold no teacher, got {self.spec.name}. "
            "Load the teacher in each process, and save the student alone."
        )


def _drawn_by_image(batch: Batch) -> Batch:
    return replace(batch, seeds=batch.image_ids)


def _class_loss(loss: TaskLoss | None, spec: DetectorSpec) -> Float[Tensor, " b"]:
    """Each image's class loss alone: the RoI head's, or the sum over the levels."""
    if loss is not None and spec.two_stage and loss.roi_classification is not None:
        return loss.roi_classification
    if loss is not None and not spec.two_stage and loss.classification is not None:
        return loss.classification.sum(dim=1)
    raise CapabilityError(
        f"a teacher whose input gradient is wanted must report a class loss per image, got {spec.name}, which "
        "does not. Use a teacher of another family."
    )
