"""WHAT is compared: one kind of map out of an observation, laid out as levels of (b, c, h, w)."""

from __future__ import annotations

from detdistill.errors import CapabilityError
from detdistill.types import Observation, Pyramid


def pyramid(observation: Observation) -> Pyramid:
    """The feature maps at the neck's output.

    Args:
        observation: what a detector showed; gradients flow.

    Returns:
        Levels (b, c, h, w), fine to coarse.
    """
    return observation.pyramid


def class_logits(observation: Observation) -> Pyramid:
    """The class logits of every cell, anchors and classes flattened into one channel axis.

    Args:
        observation: what a detector showed; gradients flow.

    Returns:
        Levels (b, a·k, h, w), fine to coarse.

    Raises:
        CapabilityError: the observation was made without class logits.
    """
    logits = observation.class_logits
    if logits is None:
        raise CapabilityError(
            "The observation must hold class logits, got none. Ask for Need.CLASS_LOGITS when observing."
        )
    return Pyramid(levels=tuple(level.flatten(1, 2) for level in logits.levels), strides=logits.strides)
