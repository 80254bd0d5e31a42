"""When a method ends: `until` and `decay` of every method, alone, wrapped and summed, and what is then not computed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from detdistill.distillation.recipe import Fade, Recipe, WarmUp, WeightedTerm
from detdistill.distillation.view import CLEAN
from detdistill.errors import ConfigError
from detdistill.jobs.identity import brought_up
from detdistill.methods.catalogue import METHODS, build_recipe, method_text, method_tree, parse_method
from detdistill.methods.ikd import TERM
from detdistill.methods.method import ScheduledSettings
from detdistill.settings import as_tree
from detdistill.types import Clock
from every_method import families_of, one_family, specs_of
from made_up_steps import PixelTerm, Stub, lit, step_of
from run_files import bare, distil, run_file

RUN = {"student": "fcos/test_resnet", "teacher": "t", "data": "d", "out": "o"}


def built(method: str, family: str = "fcos") -> Recipe:
    return build_recipe(method, *specs_of(family))


def fades(recipe: Recipe) -> dict[str, tuple[Fade, ...]]:
    return {term.name: term.fades for term in recipe.terms}


def test_the_factor_at_every_step() -> None:
    """Of 10 steps, until 0.5: e = 5."""
    for decay, expected in {
        "none": [1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        "linear": [1, 0.8, 0.6, 0.4, 0.2, 0, 0, 0, 0, 0],
        "cosine": [*((1 + math.cos(math.pi * step / 5)) / 2 for step in range(5)), 0, 0, 0, 0, 0],
    }.items():
        fade = Fade(0.5, decay)
        assert [fade(Clock(step, 10)) for step in range(10)] == pytest.approx(expected), decay
        assert [fade.active(Clock(step, 10)) for step in range(10)] == [step < 5 for step in range(10)]
    assert [Fade()(Clock(step, 10)) for step in range(10)] == [1.0] * 10
    assert Fade(0.01)(Clock(0, 10)) == 0.0  # no step is before its end


def test_a_step_multiplies_its_terms_by_gain_warm_up_and_fades() -> None:
    """Student 2, teacher 3, image 0.5: cost (1 − 1.5)² = 0.25; gain 4, half warmed up, 0.75 and 0.5 of the fades."""
    term = WeightedTerm(
        "m", PixelTerm(), 4.0, warm_up=WarmUp(steps=10), fades=(Fade(1.0, "linear"), Fade(0.5, "linear"))
    )
    report = step_of(term)(lit(0.5), Clock(5, 20))
    assert float(report.parts["m"]) == pytest.approx(4 * 0.5 * 0.75 * 0.5 * 0.25)
    assert float(report.total.detach()) == pytest.approx(float(report.parts["task"] + report.parts["m"]))


def test_when_every_term_is_off_the_teacher_does_not_look() -> None:
    student, teacher = Stub(2.0), Stub(3.0)
    first = WeightedTerm("first", PixelTerm(), 1.0, fades=(Fade(0.25),))
    second = WeightedTerm("second", PixelTerm(), 1.0, fades=(Fade(0.5),))
    step = step_of(first, second, student=student, teacher=teacher)
    for index, (on, off) in {0: ("first second", ""), 2: ("second", "first"), 4: ("", "first second")}.items():
        teacher.asked.clear()
        report = step(lit(0.5), Clock(index, 8))
        assert all(float(report.parts[name]) > 0 for name in on.split())
        assert all(float(report.parts[name]) == 0 for name in off.split())
        assert len(teacher.asked) == bool(on)
        assert {name.partition("/")[0] for name in report.diagnostics} == set(on.split())
    assert float(report.total.detach()) == float(report.parts["task"])


# What compares sets of queries works on none of these families: tests/golden/test_queries.py.
@pytest.mark.parametrize("name", sorted({*METHODS} - {"queries"}))
def test_every_method_has_a_schedule(name: str) -> None:
    settings = METHODS[name].settings
    assert issubclass(settings, ScheduledSettings)
    inside = "hint, " if METHODS[name].wraps else ""
    text = f"{name}({inside}until=0.5, decay=cosine)"
    families = families_of(name if not inside else f"{name}(hint)")
    for family in (*families[:1], one_family(name if not inside else f"{name}(hint)", 1)):
        terms = [term for term in built(text, family).terms if name != "ikd" or term.name == TERM]
        assert terms
        assert all(term.fades == (Fade(0.5, "cosine"),) for term in terms)
        plain = built(f"{name}({inside[:-2]})" if inside else name, family)
        ends = {"ikd": (Fade(2 / 3),)}.get(name, ())
        assert all(term.fades == (ends if term.name == TERM else ()) for term in plain.terms)


def test_inside_compositions() -> None:
    both = fades(built("frs(until=0.5, decay=cosine) + ssim"))
    assert both == {"frs.features": (Fade(0.5, "cosine"),), "frs.classes": (Fade(0.5, "cosine"),), "ssim.features": ()}
    assert set(fades(built("aid(frs(until=0.5))")).values()) == {(Fade(0.5),)}
    nested = built("aid(frs(until=0.5, decay=linear), until=0.8)")
    assert set(fades(nested).values()) == {(Fade(0.5, "linear"), Fade(0.8))}
    assert nested.terms[0].until == 0.5
    # ikd adds a term and leaves the others alone; aid weighs those on the clean view.
    around = built("aid(ikd(hint, until=0.4, decay=linear), until=0.8)")
    assert fades(around) == {"hint.features": (Fade(0.8),), TERM: (Fade(0.4, "linear"),)}
    assert around.transform_until == 0.4
    assert [term.view == CLEAN for term in around.terms] == [True, False]


@pytest.mark.parametrize(
    ("method", "setting", "text"),
    [
        ("hint", "method.until=0.5", "hint(until=0.5)"),
        ("frs", "method.decay=linear", "frs(decay=linear)"),
        ("aid(hint)", "method.recipe.until=0.25", "aid(hint(until=0.25))"),
        ("frs + ssim", "method.recipes.1.decay=cosine", "frs + ssim(decay=cosine)"),
    ],
)
def test_by_key_and_value_and_through_a_file(tmp_path: Any, method: str, setting: str, text: str) -> None:
    config = distil(None, setting, method=method, **RUN)
    assert bare(config) == parse_method(text)
    assert method_text(bare(config)) == text
    assert distil(run_file(tmp_path, config.yaml())) == config


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("method.until=0", "until must be above 0 and at most 1, got 0.0. Give one such as 0.5."),
        ("method.until=1.01", "until must be above 0 and at most 1, got 1.01. Give one such as 0.5."),
        (
            "method.decay=cosin",
            "must be none or linear or cosine or last_third, got 'cosin'. Did you mean 'cosine'?",
        ),
        (
            "method.decay=0.5",
            "must be none or linear or cosine or last_third, got 0.5. Choose one of them.",
        ),
    ],
)
def test_what_is_no_schedule_is_refused(setting: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        distil(None, setting, method="hint", **RUN)
    assert str(refused.value).endswith(said)


def test_the_attacks_momentum_is_still_read_under_its_former_name() -> None:
    """`decay` of `ikd` was a number, and is its schedule's word now."""
    assert parse_method("ikd(hint, decay=0.9)") == parse_method("ikd(hint, attack_momentum=0.9)")
    assert parse_method("ikd(hint, decay=linear, attack_momentum=0.9)").decay == "linear"
    with pytest.raises(ConfigError, match=r"must be none or linear or cosine or last_third, got 0\.9"):
        parse_method("ikd(hint, decay=0.9, attack_momentum=0.8)")


def test_the_identity_of_an_earlier_version_is_that_of_today() -> None:
    """What a checkpoint held before methods had schedules, and features a scale."""
    now = method_tree(parse_method("aid(ikd(frs, until=0.5), alpha=0.5)"))
    before = method_tree(parse_method("aid(ikd(frs, until=0.5), alpha=0.5)"))
    for part in (before, before["recipe"], before["recipe"]["recipe"]):
        del part["decay"], part["strength"], part["calibration"]
    del before["until"], before["recipe"]["recipe"]["until"], before["recipe"]["recipe"]["features"]
    before["recipe"]["decay"] = before["recipe"].pop("attack_momentum")
    assert before != now
    assert brought_up({"method": before, "teacher": "t"}) == {"method": now | {"strength": "published"}, "teacher": "t"}
    assert brought_up({"method": {"name": "gone"}, "image": 3}) == {"method": {"name": "gone"}, "image": 3}
    assert brought_up({"method": None}) == {"method": None}
    # Any other key that a method lacks may be another way to compute it, which cannot go on.
    del before["alpha"]
    assert "alpha" not in brought_up({"method": before})["method"]


def test_defaults_come_last_where_people_read_settings() -> None:
    assert list(as_tree(METHODS["hint"].settings())) == [
        "gain", "p", "normalized", "aligner", "strength", "calibration", "until", "decay", "features"
    ]  # fmt: skip
    assert replace(METHODS["hint"].settings(), until=0.5).until == 0.5
