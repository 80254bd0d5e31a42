"""The training loss of a wrapped dense detector by torchvision's own functions: what observing is compared with."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torchvision.models.detection import FCOS
from torchvision.models.detection.image_list import ImageList

from detdistill.detectors.base import Detector
from detdistill.detectors.torchvision_dense import DenseDetector
from detdistill.errors import CapabilityError
from detdistill.types import Batch


def torchvision_loss(detector: Detector, batch: Batch) -> Float[Tensor, ""]:
    """torchvision's own training loss of the model inside a dense detector, without any observation.

    Args:
        detector: a RetinaNet or an FCOS built by `build_detector`; gradients flow to its parameters.
        batch: images and targets.

    Returns:
        The sum of torchvision's losses; equal to ``observe``'s task loss.

    Raises:
        CapabilityError: the detector is of another family.
    """
    if not isinstance(detector, DenseDetector):
        raise CapabilityError(
            f"The plain step must get a RetinaNet or an FCOS, got {detector.spec.name}. Choose retinanet/resnet18."
        )
    model = detector.model
    features = list(detector.extract(batch).levels)
    outputs = model.head(features)
    anchors = model.anchor_generator(ImageList(batch.images, list(batch.sizes)), features)
    taught = [target.taught() for target in batch.targets]
    targets = [{"boxes": target.boxes, "labels": target.labels} for target in taught]
    if isinstance(model, FCOS):
        per_level = [level.shape[-2] * level.shape[-1] for level in features]
        losses = model.compute_loss(targets, outputs, anchors, per_level)
    else:
        losses = model.compute_loss(targets, outputs, anchors)
    total: Tensor = sum(losses.values())
    return total
