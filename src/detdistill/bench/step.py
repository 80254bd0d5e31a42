"""A distillation step against its floor, interleaved in one run.

Floor = a plain training step of the student through torchvision's own loss functions, without any observation,
plus the teacher's observation of exactly what the method needs.
"""

from __future__ import annotations

from collections.abc import Sequence

from detdistill.bench.rounds import Bench, BenchOutcome, BenchSettings
from detdistill.progress import Progress, Silence

GOAL, SLOWER_GOAL, SLOWER = 1.03, 1.05, ("attention", "ikd")
"""What a step should cost at most in floors, and which methods may cost more, for what they train and see besides."""


def bench_step(settings: BenchSettings, methods: Sequence[str], *, progress: Progress | None = None) -> BenchOutcome:
    """Measures every method's step in turn, round after round.

    Args:
        settings: what to measure.
        methods: texts of methods, such as ``"aid(frs)"``, as `build_recipe` reads them.
        progress: told how many rounds are done.

    Raises:
        ConfigError: unknown method or detector.
        CapabilityError: a method does not fit the detectors.
    """
    bench = Bench(settings)
    for method in methods:
        bench.add(method, at_most=SLOWER_GOAL if any(name in method for name in SLOWER) else GOAL)
    return bench.measured(progress or Silence())


def separate(text: str) -> tuple[str, ...]:
    """The methods of a list whose commas stand between them: those within parentheses belong to a method."""
    methods, depth = [""], 0
    for letter in text:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            methods.append("")
        else:
            methods[-1] += letter
    return tuple(method.strip() for method in methods)
