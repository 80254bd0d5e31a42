"""Intervals of made-up studies hold the true difference as often as they say, and plain bootstraps do not."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
STUDIES = 60


@pytest.fixture(scope="module")
def coverage() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    found = import_module("coverage_study")
    sys.path.remove(str(BENCHMARKS))
    return found


def test_students_alone_of_different_seeds_gain_nothing_and_a_plain_bootstrap_would_say_so(coverage: Any) -> None:
    world = coverage.World(gain=None, own=0.8, both=0.0)
    random = np.random.default_rng(3)
    made = [coverage.study(world, 30, 3, figure="AP", draws=60, random=random) for _ in range(STUDIES)]
    rules = coverage.told(made, 3, 0.0)
    own, plain = rules["components"], rules["hierarchical"]
    # Of 60 true 95 % intervals 54 to 60 hold it, but for 3 in 1,000 times.
    assert own["inside"] >= 54 / STUDIES
    assert own["gain_claimed"] <= 0.05
    assert plain["inside"] < 0.8
    assert plain["gain_claimed"] > 0.05
    assert rules["images"]["inside"] < 0.5
