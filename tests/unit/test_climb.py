"""Whether a student was still climbing: by hand, and what is said where nobody can tell."""

from __future__ import annotations

import numpy as np
import pytest

from detdistill.report.climb import climb_lines, climb_of


def rows(values: dict[int, float | None]) -> list[dict[str, float | None]]:
    return [{"step": float(step), "AP": value, "AP50": 0.0} for step, value in values.items()]


def test_the_rise_is_the_lines_over_the_last_quarter() -> None:
    """On 75, 85, 95, 100 of 100 steps exactly 0.1 AP a step: 2.5 AP, without noise; what was before does not count."""
    found = climb_of(rows({10: 30.0, 50: 0.0, 75: 7.5, 85: 8.5, 95: 9.5, 100: 10.0}), steps=100)
    assert (found.evaluations, found.verdict) == (4, "climbing")
    assert found.rise == pytest.approx(2.5)
    assert found.noise == pytest.approx(0.0, abs=1e-9)
    assert "still climbing at the end" in found.text()
    assert found.as_dict()["verdict"] == "climbing"


def test_the_noise_is_students_interval() -> None:
    """On 0, 1, 2, 3 from the quarter's begin: residuals ±0.5 of slope 0.2, s² = 0.8 / 2, Σ(x − x̄)² = 5."""
    found = climb_of(rows({9: 10.0, 10: 11.0, 11: 10.0, 12: 11.0}), steps=12)
    assert found.rise == pytest.approx(0.2 * 3)
    assert found.noise == pytest.approx(4.302653 * np.sqrt(0.8 / 2 / 5) * 3)
    assert found.verdict == "unclear"


@pytest.mark.parametrize(
    ("slope", "jitter", "verdict"), [(0.0, 0.05, "level"), (-0.5, 0.05, "falling"), (0.2, 0.05, "climbing")]
)
def test_verdicts(slope: float, jitter: float, verdict: str) -> None:
    values = {step: 20 + slope * (step - 30) + jitter * (-1) ** step for step in range(30, 41)}
    assert climb_of(rows(values), steps=40).verdict == verdict


def test_too_few_evaluations_tell_nothing() -> None:
    for found in (climb_of([], steps=800), climb_of(rows({200: 1.0, 400: 2.0, 600: None, 800: 3.0}), steps=None)):
        assert found.verdict == "unknown"
        assert "fewer than 4 evaluations in the last quarter" in found.text()
        assert "train.evaluate_every=50 has enough" in found.text()
    assert len(range(600, 801, 50)) >= 4
    assert "evaluate_every" not in climb_of([], steps=None).text()


def test_the_same_is_said_once() -> None:
    climbs = {"alone": climb_of([], steps=80), "distilled": climb_of([], steps=80)}
    (line,) = climb_lines(climbs)
    assert line.startswith("length of training: alone, distilled: whether it was still climbing")
