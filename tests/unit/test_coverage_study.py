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


def script(name: str) -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    found = import_module(name)
    sys.path.remove(str(BENCHMARKS))
    return found


@pytest.fixture(scope="module")
def coverage() -> Any:
    return script("coverage_study")


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


def test_one_seed_holds_what_its_own_two_students_differ_by(coverage: Any) -> None:
    found = coverage.one_seed(coverage.World(gain=0.2, own=0.3), 40, studies=12, draws=40)
    assert min(found["inside"].values()) >= 9 / 12


def test_time_and_memory_are_measured_of_one_detector_and_of_twins() -> None:
    bootstrap = script("bootstrap")
    for what in ("one detector", "a pair of twins"):
        found = bootstrap.measured(what, 20, 3, 12)
        assert found["AP_interval"][0] < found["AP_interval"][1]
        assert found["peak_mb"] > 0
