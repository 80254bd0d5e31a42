"""WHAT is compared beside the feature maps: one kind of map out of an observation, as levels, fine to coarse."""

from __future__ import annotations

from detdistill.errors import CapabilityError
from detdistill.types import ClassLogits, Observation, Pyramid


def class_logits(seen: Observation) -> Pyramid:
    """The class logits of every cell as channels, (b, a·k, h, w); gradients flow.

    Raises:
        CapabilityError: the observation was made without class logits.
    """
    logits = _logits(seen)
    return Pyramid(tuple(level.flatten(1, 2) for level in logits.levels), logits.strides)


def class_distributions(seen: Observation) -> Pyramid:
    """The class logits as one distribution an anchor, (b, a, k, h, w); gradients flow.

    Raises:
        CapabilityError: the observation was made without class logits.
    """
    logits = _logits(seen)
    return Pyramid(logits.levels, logits.strides)


def box_distributions(seen: Observation) -> Pyramid:
    """The logits over distances as one distribution an edge, (b, a·4, bins, h, w); gradients flow.

    Raises:
        CapabilityError: the observation was made without box distributions.
    """
    boxes = seen.box_distributions
    if boxes is None:
        raise CapabilityError(
            "The observation must hold box distributions, got none. Ask for Need.BOX_DISTRIBUTIONS when observing."
        )
    return Pyramid(tuple(level.flatten(1, 2) for level in boxes.levels), boxes.strides)


def _logits(seen: Observation) -> ClassLogits:
    if seen.class_logits is None:
        raise CapabilityError(
            "The observation must hold class logits, got none. Ask for Need.CLASS_LOGITS when observing."
        )
    return seen.class_logits
