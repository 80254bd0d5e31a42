"""The attacks by name: how many attempts, which bars, and what makes one."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.attack import beside, flips, full_disk, fuzz, growth, kills, together
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
        prepare: makes what all batches use.
        ready: what a process of a batch does before its first attempt.
    """

    number: int
    bars: tuple[str, ...]
    attempt: Callable[[Material, int, random.Random], Attempt]
    batched: bool = False
    prepare: Callable[[Material], None] = Material.rest
    ready: Callable[[Material], None] = Material.rest


ATTACKS = {
    "kill": Attack(1000, kills.BARS, kills.attempt),
    "full disk": Attack(full_disk.NUMBER, full_disk.BARS, full_disk.attempt, prepare=full_disk.prepare),
    "flip": Attack(10_000, flips.BARS, flips.attempt, batched=True, prepare=flips.prepare, ready=flips.ready),
    "flip and resume": Attack(200, flips.BARS, flips.attempt_resumed),
    "fuzz": Attack(10_000, fuzz.BARS, fuzz.attempt, batched=True, prepare=fuzz.prepare, ready=fuzz.ready),
    "together": Attack(50, together.BARS, together.attempt, prepare=together.prepare),
    "user's files": Attack(beside.NUMBER, beside.BARS, beside.attempt, prepare=beside.prepare),
    "growth": Attack(1, growth.BARS, growth.attempt),
}
