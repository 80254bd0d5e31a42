"""A distillation step against its floor, interleaved in one run.

Floor = a plain training step of the student through torchvision's own loss functions, without any observation,
plus the teacher's observation of exactly what the method needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from detdistill.bench.rounds import STUDENT, Bench, BenchOutcome, BenchSettings, Ratio
from detdistill.distillation.view import CLEAN
from detdistill.methods.catalogue import build_recipe
from detdistill.progress import Progress, Silence


def bench_step(settings: BenchSettings, methods: Sequence[str], *, progress: Progress | None = None) -> BenchOutcome:
    """Measures every method's step in turn, round after round.

    Args:
        settings: what to measure.
        methods: texts of methods that look at clean images, such as ``"aid(frs)"``, as `build_recipe` reads them.
        progress: told how many rounds are done.

    Raises:
        ConfigError: unknown method or detector.
        CapabilityError: a method does not fit the detectors.
    """
    bench = Bench(settings)
    for method in methods:
        recipe = build_recipe(method, bench.student.spec, bench.teacher.spec)
        observe, step = f"teacher.observe for {method}", f"distillation step {method}"
        bench.parts[observe] = partial(bench.teacher.observe, bench.batch, recipe.teacher_needs(CLEAN))
        bench.parts[step] = bench.step(recipe)
        bench.compared[method] = Ratio(
            step, (STUDENT, observe), "plain student step through torchvision's own losses + teacher.observe"
        )
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
