"""What weights, attention and a second view cost: each step against the same computations without them.

All parts take turns in one run. A ratio is taken in every round, between times of the same round.
"""

from __future__ import annotations

from detdistill.bench.rounds import Bench, BenchOutcome, BenchSettings, Ratio
from detdistill.bench.step import GOAL, SLOWER_GOAL
from detdistill.distillation.view import CLEAN
from detdistill.progress import Progress, Silence

WEIGHED = ("frs", "attention")
"""Methods that are measured with and without aid."""

_IKD = "ikd(fgd)"


def bench_overhead(settings: BenchSettings, *, progress: Progress | None = None) -> BenchOutcome:
    """Measures every part in turn, round after round.

    Args:
        settings: what to measure.
        progress: told how many rounds are done.

    Raises:
        ConfigError: unknown detector.
        CapabilityError: a recipe does not fit the detectors.
    """
    bench = Bench(settings)
    for method in WEIGHED:
        _add_aid(bench, method)
    bench.add("attention", at_most=SLOWER_GOAL)
    bench.add(_IKD, at_most=SLOWER_GOAL)
    return bench.measured(progress or Silence())


def _add_aid(bench: Bench, method: str) -> None:
    wrapped, asked = bench.recipe(f"aid({method})"), bench.recipe(method)
    # The same step, its first term asking the teacher for all that aid reads.
    asked.terms[0].term.teacher_needs |= wrapped.teacher_needs(CLEAN)
    plain, fuller, weighed = f"step {method}", f"step {method}, the teacher asked for what aid needs", wrapped.name
    bench.parts[plain] = bench.step(bench.recipe(method))
    bench.parts[fuller] = bench.step(asked)
    bench.parts[f"step {weighed}"] = bench.step(wrapped)
    meaning = f"{weighed} ÷ {method} with the teacher parts that aid needs"
    bench.compared[f"aid_{method}"] = Ratio(f"step {weighed}", (fuller,), meaning, at_most=GOAL)
    bench.compared[f"aid_{method}_plain"] = Ratio(f"step {weighed}", (plain,), f"{weighed} ÷ {method} as it is")
