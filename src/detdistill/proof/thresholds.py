"""From where on a figure of a distillation is called a fault, before a run as after it."""

from __future__ import annotations

WORTH = 0.5
"""The smallest difference of AP that is worth a distillation, in points, where nobody says another."""
CLOSED = 1 / 3
"""Share of a teacher's lead that students closed by the best methods, on drawn scenes and on bccd with few labels."""
CONFLICT = -0.1
"""Cosine of a method's gradient to the task's below which they pull apart."""
WEAK, STRONG = 0.1, 30.0
"""Below and above this many times the task's gradient a method teaches nothing, or the task counts for nothing."""
OFF = 10.0
"""How many times stronger than was asked for a method may become over a run."""
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


def pull_fault(ratio: float) -> str:
    """What is wrong with how many times the task's gradient a method's is, in words; empty where nothing is."""
    if ratio < WEAK:
        return "too weak to teach anything"
    return "so strong that the labels hardly count" if ratio > STRONG else ""
