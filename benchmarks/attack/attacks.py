"""The attacks by name: how many attempts, which bars, and what makes one."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.attack import kills
from benchmarks.attack.material import Material
from benchmarks.attack.records import Attempt


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack.

    Attributes:
        number: of attempts that its figures stand for.
        bars: what must not happen a single time, by name.
        attempt: makes one from the material, its number and its draws.
        batched: whether attempts are made in a process of their own, many in one: it may hang or die, which counts.
    """

    number: int
    bars: tuple[str, ...]
    attempt: Callable[[Material, int, random.Random], Attempt]
    batched: bool = False


ATTACKS = {
    "kill": Attack(1000, kills.BARS, kills.attempt),
}
