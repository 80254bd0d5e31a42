"""A paired difference by weights is the difference of both data sets resampled and evaluated anew."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detdistill.evaluation.coco import FIGURES, evaluate_coco
from detdistill.evaluation.matches import match
from detdistill.proof.differences import Twins, differences, resampled
from scored_scenes import copied, detected, scene
from thorough import cases


@settings(max_examples=cases(5, 12), deadline=None)
@given(st.integers(100, 10**6))
def test_weights_are_the_resampled_data_sets_evaluated_anew(seed: int) -> None:
    truth, first = scene(seed)
    random, count = np.random.default_rng(seed), len(truth)
    found = [(first, detected(truth, random)), (detected(truth, random), detected(truth, random))]
    twins = [Twins(number, match(truth, alone), match(truth, more)) for number, (alone, more) in enumerate(found)]
    times = np.concatenate(
        [np.ones((1, count), dtype=np.int64), random.multinomial(count, [1 / count] * count, size=2)]
    )
    values = resampled(twins, times)
    for row, chosen in enumerate(times):
        for number, pair in enumerate(found):
            alone, more = (evaluate_coco(*copied(truth, one, chosen)) for one in pair)
            before = [*alone.figures().values(), *alone.per_class.values()]
            after = [*more.figures().values(), *more.per_class.values()]
            for place, (one, other) in enumerate(zip(before, after, strict=True)):
                value = values[number, place, row]
                assert (one is None) == (other is None) == bool(np.isnan(value))
                assert one is None or other is None or value == pytest.approx(other - one, abs=1e-9)
    whole = differences(twins, draws=50)
    for place, name in enumerate(FIGURES):
        if name in whole.figures:
            assert whole.figures[name].per_seed == pytest.approx(tuple(values[:, place, 0]), abs=1e-12)
