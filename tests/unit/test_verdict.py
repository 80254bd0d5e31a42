"""Every word of the verdict, by its fixed rule."""

from __future__ import annotations

import json
import math
import re

import pytest

from detdistill.errors import ConfigError, DataError
from detdistill.proof.differences import Difference, Differences
from detdistill.proof.quantile import half_width
from detdistill.proof.verdict import judge, rule_of, to_settle


def ap(mean: float, half: float, *, per_seed: tuple[float, ...] | None = None, **parts: float | None) -> Difference:
    values = (mean - 0.5, mean, mean + 0.5) if per_seed is None else per_seed
    many = len(values) > 1
    given = {"of_seeds": 0.5 if many else None, "of_images": 0.6, "of_both": 0.3 if many else None, **parts}
    return Difference(values, mean, mean - half, mean + half, **given)  # type: ignore[arg-type]


def told(one: Difference, *, images: int = 300, **more: Difference) -> Differences:
    seeds = tuple(range(len(one.per_seed)))
    return Differences(seeds, images, {"AP": one}, more)


def test_a_gain_over_steps_and_time_is_worth_it() -> None:
    verdict = judge(told(ap(3.85, 1.75)), told(ap(2.2, 1.8)), worth=0.5)
    assert verdict.kind == "gains"
    assert verdict.sentence() == (
        "distillation gains 3.9 AP [2.1, 5.6] over the same steps and 2.2 [0.4, 4.0] over the same time "
        "(3 of 3 seeds); worth it"
    )
    assert verdict.worth_it


def test_a_gain_over_steps_alone() -> None:
    assert judge(told(ap(1.0, 0.8, per_seed=(-0.2, 1.2, 2.0)))).sentence() == (
        "distillation gains 1.0 AP [0.2, 1.8] over the same steps (2 of 3 seeds); worth it"
    )


def test_a_gain_that_is_too_small_is_said_to_be() -> None:
    verdict = judge(told(ap(3.9, 1.7)), told(ap(0.8, 0.4)), worth=1)
    assert verdict.kind == "gains"
    assert not verdict.worth_it
    assert verdict.sentence().endswith("(3 of 3 seeds); less than the 1 AP that make it worth it")


def test_a_gain_over_steps_that_time_does_not_show() -> None:
    verdict = judge(told(ap(3.9, 1.7)), told(ap(0.6, 1.4)))
    assert not verdict.worth_it
    assert verdict.sentence() == (
        "distillation gains 3.9 AP [2.2, 5.6] over the same steps (3 of 3 seeds), but over the same time none is "
        "measurable: between −0.8 and +2.0 AP; not shown to be worth it"
    )


def test_a_gain_over_steps_that_time_turns_around() -> None:
    sentence = judge(told(ap(3.9, 1.7)), told(ap(-1.2, 0.5))).sentence()
    assert sentence == (
        "distillation gains 3.9 AP [2.2, 5.6] over the same steps (3 of 3 seeds), but over the same time it loses "
        "1.2 AP [0.7, 1.7]; less than the 0.5 AP that make it worth it"
    )


def test_harm_is_said_without_a_minus() -> None:
    verdict = judge(told(ap(-2.0, 1.5)))
    assert verdict.kind == "hurts"
    assert verdict.worth_it is False
    assert verdict.sentence() == "distillation hurts: it loses 2.0 AP [0.5, 3.5] over the same steps (3 of 3 seeds)"
    both = judge(told(ap(-2.0, 1.5)), told(ap(-3.0, 1.5)))
    assert both.sentence() == (
        "distillation hurts: it loses 2.0 AP [0.5, 3.5] over the same steps and 3.0 [1.5, 4.5] over the same time "
        "(3 of 3 seeds)"
    )


def test_nothing_measurable_says_what_would_settle_it() -> None:
    parts = {"of_seeds": 0.4, "of_images": 0.0, "of_both": 0.3}
    verdict = judge(told(ap(0.15, 0.95, **parts)))
    assert verdict.kind == "no measurable effect"
    assert verdict.sentence() == ("no measurable effect: between −0.8 and +1.1 AP; to settle ±0.5 takes about 7 seeds")
    timed = judge(told(ap(0.15, 0.95)), told(ap(-1.0, 0.5))).sentence()
    assert timed.startswith(
        "no measurable effect over the same steps: between −0.8 and +1.1 AP; over the same time it loses 1.0 AP "
        "[0.5, 1.5]; to settle ±0.5 takes "
    )
    neither = judge(told(ap(0.15, 0.95)), told(ap(0.2, 1.0))).sentence()
    assert "; over the same time none is measurable: between −0.8 and +1.2 AP; to settle" in neither


def test_a_narrow_interval_that_still_holds_an_effect_asks_for_what_would_tell_it_from_none() -> None:
    assert "between 0.0 and +0.9 AP; to settle ±0.4 takes " in judge(told(ap(0.4, 0.45))).sentence()
    assert "to settle ±0.35 takes " in judge(told(ap(0.15, 0.45))).sentence()


def test_a_narrow_interval_rules_an_effect_out() -> None:
    assert judge(told(ap(0.1, 0.3))).sentence() == (
        "no measurable effect: between −0.2 and +0.4 AP; an effect of 0.5 AP is ruled out"
    )


def test_one_seed_says_what_it_cannot_tell() -> None:
    one = told(ap(3.9, 1.7, per_seed=(3.9,)))
    verdict = judge(one)
    assert verdict.worth_it is None
    assert verdict.sentence() == (
        "distillation gains 3.9 AP [2.2, 5.6] over the same steps (1 seed: the interval covers other images, not other "
        "trainings); one seed cannot tell whether it is worth it"
    )
    assert "over the images (1 seed: not over other trainings)" in verdict.lines()[2]
    assert (
        "for this one seed takes about 1,700 validation images" in judge(told(ap(0.3, 1.2, per_seed=(0.3,)))).sentence()
    )


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((0.4, 0.1, 0.3), r"takes about (?P<seeds>\d+) seeds"),
        ((0.1, 0.5, 0.1), r"takes about (?P<images>[\d,]+) validation images"),
        ((0.15, 0.2, 0.6), r"takes about (?P<seeds>\d+) seeds or (?P<images>[\d,]+) validation images"),
        ((1.0, 1.0, 0.2), r"takes both more seeds and more images: about (\d+) seeds and ([\d,]+) validation images"),
        ((8.0, 0.3, 0.2), r"takes more than 100 seeds and 1,000,000 validation images"),
    ],
)
def test_what_would_settle_it_is_the_least_that_does(parts: tuple[float, float, float], words: str) -> None:
    one = ap(0.0, 2.0, **dict(zip(("of_seeds", "of_images", "of_both"), parts, strict=True)))
    found = re.fullmatch(f"to settle ±0.5 {words}", text := to_settle(one, images=100, width=0.5))
    assert found is not None, text

    def half(seeds: int, times: float) -> float:
        trainings = (parts[0] ** 2 + parts[2] ** 2 / times) / seeds
        return half_width(trainings, parts[1] ** 2 / times, seeds - 1)

    if seeds := found.groupdict().get("seeds"):
        assert half(int(seeds), 1) <= 0.5 < half(int(seeds) - 1, 1)
    if images := found.groupdict().get("images"):
        count = int(images.replace(",", ""))
        assert half(3, count / 100) <= 0.5 < half(3, 0.9 * count / 100)
    if len(found.groups()) == 2 and not found.groupdict():
        assert half(int(found[1]), int(found[2].replace(",", "")) / 100) <= 0.5 < half(int(found[1]), 1)


def test_the_rule_is_the_same_whatever_is_found() -> None:
    found = [judge(told(ap(mean, 1.0)), worth=0.7) for mean in (-2.0, 0.0, 2.0)]
    assert {one.rule for one in found} == {rule_of(0.7)}
    assert found[0].lines()[0] == rule_of(0.7)
    assert "at least 0.7 AP" in rule_of(0.7)


def test_classes_whose_interval_excludes_zero_are_marked() -> None:
    lines = judge(told(ap(1.0, 2.0), car=ap(2.0, 1.0), person=ap(0.2, 1.0))).lines()
    assert [line for line in lines if line.startswith("car")] == ["car       +2.0  +1.0 to +3.0*     +1.5, +2.0, +2.5"]
    assert "*" not in next(line for line in lines if line.startswith("person"))
    assert "about 0.1 of these classes" in "\n".join(lines)


def test_the_verdict_goes_into_json() -> None:
    content = json.loads(json.dumps(judge(told(ap(3.85, 1.75)), told(ap(2.2, 1.8))).as_dict()))
    assert content["verdict"] == "gains"
    assert content["worth_it"] is True
    assert content["same_steps"]["figures"]["AP"]["per_seed"] == [3.35, 3.85, 4.35]
    assert content["same_time"]["images"] == 300


def test_what_cannot_be_judged_is_refused() -> None:
    for worth in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="--worth must be points of AP above 0, got "):
            judge(told(ap(1, 1)), worth=worth)
    with pytest.raises(DataError, match="got 300 images with too few"):
        judge(Differences((0,), 300, {}, {}))
    with pytest.raises(DataError, match=r"must be of the seeds 0, 1, 2 on 300 images, got 0 on 300 images"):
        judge(told(ap(1, 1)), told(ap(1, 1, per_seed=(1.0,))))
