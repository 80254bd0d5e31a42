"""Successive halving on made-up values: who goes on, what it costs, and that a kill forgets nothing."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

import pytest

from detdistill.errors import ConfigError, DiskError
from detdistill.jobs.halving import Rung, Study, rungs_of

CHOICES = [{"method": "alone", "strength": 0.0}]
CHOICES += [{"method": method, "strength": strength} for strength in (3.0, 1.0) for method in ("hint", "frs", "ssim")]


def cost(rungs: tuple[Rung, ...], steps: int) -> float:
    befores = accumulate((one.steps for one in rungs[:-1]), lambda _, new: new, initial=0)
    return steps + sum(one.trials * (one.steps - before) for one, before in zip(rungs, befores, strict=False))


@pytest.mark.parametrize("trials", [2, 4, 5, 16, 40])
@pytest.mark.parametrize("budget", [2.5, 3.0, 4.0, 6.0])
def test_the_rungs_cost_what_the_budget_has_and_end_with_all_steps(trials: int, budget: float) -> None:
    rungs = rungs_of(trials, steps=9000, budget=budget)
    assert rungs[0].trials == trials
    assert rungs[-1].steps == 9000
    assert [one.steps for one in rungs] == sorted({one.steps for one in rungs})
    assert cost(rungs, 9000) <= budget * 9000 * 1.001
    if rungs[-1].trials == 1 and len(rungs) > 1:
        assert cost(rungs, 9000) == pytest.approx(budget * 9000, rel=0.01)


def test_a_large_budget_trains_several_to_the_end() -> None:
    assert rungs_of(4, steps=100, budget=50)[-1] == Rung(100, 4)
    assert rungs_of(1, steps=100, budget=3) == (Rung(100, 1),)


def test_a_budget_without_room_is_refused_with_one_that_has_it() -> None:
    with pytest.raises(
        ConfigError, match=r"--budget must be at least 5\.\d trainings for 40 trials of 20 steps"
    ) as found:
        rungs_of(40, steps=20, budget=2.1)
    least = float(str(found.value).split("at least ")[1].split()[0])
    assert rungs_of(40, steps=20, budget=least)
    with pytest.raises(ConfigError, match=f"at least {least + 4:g} .* got {least:g}"):
        rungs_of(40, steps=20, budget=least, reserved=4)
    assert rungs_of(40, steps=20, budget=least + 4, reserved=4) == rungs_of(40, steps=20, budget=least)


def climb(study: Study, rungs: tuple[Rung, ...], values: list[float]) -> list[list[int]]:
    survivors = []
    for rung in rungs:
        for number in study.running():
            if study.value(number, rung.steps) is None:
                study.report(number, rung.steps, values[number])
        study.prune()
        survivors.append(study.running())
    return survivors


def test_the_best_go_on_and_the_student_alone_always_does(tmp_path: Path) -> None:
    rungs = rungs_of(6, steps=90, budget=4)
    assert [one.trials for one in rungs] == [6, 2, 1]
    survivors = climb(Study(tmp_path / "study.db", CHOICES, rungs), rungs, [0.0, 5, 9, 1, 7, 9, 2])
    assert survivors == [[0, 2, 5], [0, 2], [0, 2]]


def test_a_search_goes_on_from_its_file(tmp_path: Path) -> None:
    rungs, values = rungs_of(6, steps=90, budget=4), [9.0, 5, 9, 1, 7, 9, 2]
    cut = Study(tmp_path / "study.db", CHOICES, rungs)
    for number in (0, 1, 2):
        cut.report(number, rungs[0].steps, values[number])
    del cut
    again = Study(tmp_path / "study.db", CHOICES, rungs)
    assert [again.value(number, rungs[0].steps) for number in range(4)] == [9, 5, 9, None]
    assert climb(again, rungs, values)[-1] == [0, 2]
    assert again.curves()[5] == {rungs[0].steps: 9, rungs[1].steps: 9}


def test_a_file_that_is_none_of_ours_is_said_in_a_sentence(tmp_path: Path) -> None:
    place = tmp_path / "a?b%20{c}.db"
    place.write_text("not a database" * 100)
    with pytest.raises(DiskError, match=r"must be written, got: .*file is not a database"):
        Study(place, CHOICES, rungs_of(6, steps=90, budget=4))
    place.unlink()
    Study(place, CHOICES, rungs_of(6, steps=90, budget=4))
    assert place.stat().st_size > 0
