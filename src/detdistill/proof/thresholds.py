"""From where on a figure of a distillation is called a fault, before a run as after it."""

from __future__ import annotations

from collections.abc import Sequence

WORTH = 0.5
"""The smallest difference of AP that is worth a distillation, in points, where nobody says another."""
CONFLICT = -0.1
"""Cosine of a method's gradient to the task's below which they pull apart."""
WEAK, STRONG = 0.1, 30.0
"""Below and above this many times the task's gradient a method teaches nothing, or the task counts for nothing."""
OFF = 3.0
"""How many times stronger or weaker than was asked for a method may come out."""
LEAST_FALL = 0.01
"""Share of its first value by which a term's cost falls at least where a student imitates."""
FEW_EPOCHS = 5.0
"""Passes over the training images below which a schedule is short."""
MOSTLY_OFF = 0.5
"""Mean factor of warm-up and fades below which a method is off for most of a run."""
SKIPPED = 0.005
"""Share of a run's steps that were left out as not finite, from where on it matters."""
CLIPPED = 0.5
"""Share of a run's steps that were clipped, from where on it matters."""
LEAKED = 0.01
"""Share of the validation images that are training images too, from where on it matters."""


def scaled_pixels(mean: Sequence[float], std: Sequence[float]) -> bool:
    """Whether the numbers that pixels are normalised by are those of pixels from 0 to 255; here they are in [0, 1]."""
    return max(*mean, *std) > 1.0


def pull_fault(ratio: float, *, asked: float | None) -> str:
    """What is wrong with how strong a method is beside the task, in words; empty where nothing is.

    Args:
        ratio: of the gradients, as the method counts.
        asked: what it was to be; None where its gains are taken as they are.
    """
    if ratio < WEAK:
        return "too weak to teach anything"
    if ratio > STRONG:
        return "so strong that the labels hardly count"
    if asked is not None and asked > 0 and not 1 / OFF <= ratio / asked <= OFF:
        return f"far from the strength asked for, {asked:g}"
    return ""
