"""What weights, attention and a second view cost: each step against the same computations without them.

All parts take turns in one run. A ratio is taken in every round, between times of the same round.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from functools import partial

import torch

from detdistill.bench.rounds import STUDENT, Bench, BenchOutcome, BenchSettings, Part, Ratio
from detdistill.detectors.base import Detector
from detdistill.distillation.recipe import Recipe
from detdistill.distillation.view import CLEAN, View
from detdistill.methods.catalogue import build_recipe
from detdistill.progress import Progress, Silence
from detdistill.types import Batch, Need

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
        CapabilityError: a recipe does not fit the detectors, or the student is no RetinaNet or FCOS.
    """
    bench = Bench(settings)
    for method in WEIGHED:
        _add_aid(bench, method)
    _add_floor(bench, "attention")
    _add_ikd(bench)
    return bench.measured(progress or Silence())


def _recipe(bench: Bench, method: str) -> Recipe:
    return build_recipe(method, bench.student.spec, bench.teacher.spec)


def _add_aid(bench: Bench, method: str) -> None:
    wrapped, asked = _recipe(bench, f"aid({method})"), _recipe(bench, method)
    # The same step, its first term asking the teacher for all that aid reads.
    asked.terms[0].term.teacher_needs |= wrapped.teacher_needs(CLEAN)
    plain, fuller, weighed = f"step {method}", f"step {method}, the teacher asked for what aid needs", wrapped.name
    bench.parts[plain] = bench.step(_recipe(bench, method))
    bench.parts[fuller] = bench.step(asked)
    bench.parts[f"step {weighed}"] = bench.step(wrapped)
    bench.compared[f"aid_{method}"] = Ratio(
        f"step {weighed}", (fuller,), f"{weighed} ÷ {method} with the teacher parts that aid needs"
    )
    bench.compared[f"aid_{method}_plain"] = Ratio(f"step {weighed}", (plain,), f"{weighed} ÷ {method} as it is")


def _add_floor(bench: Bench, method: str) -> None:
    observe = f"teacher.observe for {method}"
    bench.parts[observe] = partial(bench.teacher.observe, bench.batch, _recipe(bench, method).teacher_needs(CLEAN))
    bench.compared[method] = Ratio(
        f"step {method}", (STUDENT, observe), f"{method} ÷ (plain student step + teacher.observe with its needs)"
    )


def _add_ikd(bench: Bench) -> None:
    recipe = _recipe(bench, _IKD)
    (view,) = (view for view in recipe.views() if view != CLEAN)
    ready = replace(bench.batch, twins={str(view.twin): 1 - bench.batch.images})
    observe = {CLEAN: f"teacher.observe for {_IKD}", view: "teacher.observe of the twins"}
    for seen, name in observe.items():
        bench.parts[name] = partial(bench.teacher.observe, seen(ready), recipe.teacher_needs(seen))
    twins = "student forward-backward on the twins"
    bench.parts[twins] = _forward_backward(bench.student, ready, view, needs=recipe.student_needs(view))
    bench.parts[f"step {_IKD}"] = bench.step(recipe, batch=ready)
    bench.compared["ikd_fgd"] = Ratio(
        f"step {_IKD}",
        (STUDENT, observe[CLEAN], twins, observe[view]),
        f"{_IKD} with its twins at hand ÷ (plain student step + teacher.observe + both on the twins)",
    )


def _forward_backward(student: Detector, batch: Batch, view: View, *, needs: Set[Need]) -> Part:
    """The student on a view, and back from everything that is read of it."""

    def run() -> None:
        student.train().zero_grad()
        seen = student(view(batch), needs)
        shown = [*seen.maps.levels, *(() if seen.class_logits is None else seen.class_logits.levels)]
        torch.autograd.backward(shown, [torch.ones_like(level) for level in shown])

    return run
