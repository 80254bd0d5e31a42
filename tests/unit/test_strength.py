"""Strength: gains that are brought to a multiple of the task's gradient, by hand, on ranks' parts, and on resume."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from detdistill.distillation.calibration import WINDOW, Calibration, inner_products
from detdistill.distillation.recipe import Fade, Recipe, Strength, WarmUp, WeightedTerm
from detdistill.distillation.startup import prove
from detdistill.distillation.step import DistillationStep, SupervisedStep
from detdistill.distillation.view import View
from detdistill.errors import ConfigError, DataError
from detdistill.jobs.identity import brought_up
from detdistill.methods.catalogue import build_recipe, method_text, method_tree, parse_method
from detdistill.methods.method import METHODS, Method
from detdistill.training.logs import read_rows
from detdistill.types import Clock
from made_up_steps import Known, PixelTerm, Stub, Table, lit, step_of
from observations import spec
from run_files import distil, run_file
from tiny_training import checkpoint_tensors, differing, run_tiny, tiny_loader, tiny_settings


@dataclass(frozen=True)
class PlainSettings:
    gain: float = 1.0


THREE = Strength("m", 3.0)
RUN: dict[str, Any] = {"student": "fcos/tiny", "teacher": "t", "data": "d", "out": "none"}


def pixels(name: str = "m.pixels", gain: float = 1.0, *, strength: Strength = THREE, **other: Any) -> WeightedTerm:
    """Student 2, teacher 3: on light v the task's gradient is 1 / n, this term's -2 v gain / n, on each of n cells."""
    member = other.pop("member", name.partition(".")[0])
    return WeightedTerm(name, PixelTerm(), gain, strength=strength, member=member, **other)


def at(step: int) -> Clock:
    return Clock(step=step, total_steps=1000)


def scales(step: DistillationStep) -> list[float]:
    return [step.calibration.scale(one) for one in step.recipe.terms]


def test_a_term_is_as_strong_as_is_asked_for() -> None:
    """Ratio 2 · 2 at gain 2; warm-up and weight come on top."""
    weigh = Table({8: [0.5]}, torch.nn.Parameter(torch.ones(())))
    step = step_of(pixels(gain=2.0, warm_up=WarmUp(10), weigh=weigh))
    report = step(lit(1.0), at(5))
    assert scales(step) == pytest.approx([0.75])
    assert float(report.parts["m.pixels"]) == pytest.approx(2.0 * 0.75 * 0.5 * 0.5)
    assert float(report.total.detach()) == pytest.approx(float(sum(report.parts.values())))
    assert step.calibration.figures() == pytest.approx({"m/ratio": 4.0, "m/scale": 0.75, "m/cosine": -1.0})
    assert step.calibration.lines() == ["m is 4 times the task; scaled by 0.75 for strength 3"]


def test_members_are_equally_strong_and_as_strong_together() -> None:
    """Ratios 2 and 8, one direction: 1.5 each. What a wrapper adds is scaled as the sum of 10 is."""
    added = pixels("w.more", member="", view=View("dark"))
    step = step_of(pixels("a.x"), pixels("b.x", 4.0), added)
    step(lit(1.0, dark=0.5), at(0))
    assert scales(step) == pytest.approx([0.75, 0.1875, 0.3])
    assert step.calibration.lines()[1] == "b is 8 times the task; scaled by 0.188 for strength 3 of m together"


@pytest.mark.parametrize("cosine", [-1.0, -0.5, 0.0, 0.5])
def test_the_angle_between_members_counts(cosine: float) -> None:
    """Unit vectors with cosine c add up to √(2 + 2c), and no member alone is stronger than all are to be."""
    calibration = Calibration((pixels("a.x"), pixels("b.x")))
    calibration.begin(torch.tensor([[1.0, 0.0, 0.0], [0.0, 4.0, 2 * cosine], [0.0, 2 * cosine, 1.0]]).double())
    together = max(1.0, math.sqrt(2 + 2 * cosine))
    own = [calibration.scale(pixels(f"{name}.x")) for name in "ab"]
    assert own == pytest.approx([1.5 / together, 3.0 / together])


def test_strengths_of_their_own_stand_apart() -> None:
    step = step_of(pixels("a.x", strength=Strength("a", 1.0)), pixels("b.x"), replace(pixels("c.x"), strength=None))
    step(lit(1.0), at(0))
    assert scales(step) == pytest.approx([0.5, 1.5, 1.0])


def test_micro_batches_are_one_measure() -> None:
    whole, parts = step_of(pixels()), step_of(pixels())
    batch = lit(0.2, 0.4, 0.6, 0.9)
    for step in (whole, parts):
        step(lit(1.0), at(1))
    whole(batch, at(5))
    for first, last in ((0, 1), (1, 4)):
        parts(batch.part(first, last), at(5))
    for step in (whole, parts):
        step(batch, at(6))
    assert scales(parts) == pytest.approx(scales(whole), rel=1e-6)
    assert scales(parts) != pytest.approx([1.5])


def test_unlabelled_images_are_measured_with_the_terms() -> None:
    """Light 1 and nobody's label on light 3: the term is a mean over both, the task of the first alone."""
    batch = replace(lit(1.0), unlabelled=lit(3.0))
    step = step_of(pixels())
    step(batch, at(0))
    assert scales(step) == pytest.approx([3.0 / math.sqrt(1.0 + 3.0**2)])


def followed(calibration: str, lights: dict[int, float]) -> dict[int, float]:
    """The scale by step, where the light of a step is that of the last one named."""
    step, found, light = step_of(pixels(strength=Strength("m", 3.0, calibration))), {}, 1.0  # type: ignore[arg-type]
    for index in range(0, 201, 5):
        light = lights.get(index, light)
        if step.calibration.asks(at(index)) or index == 0:
            step(lit(light), at(index))
            step.calibration.settle()
        found[index] = scales(step)[0]
    return found


def test_fixed_is_measured_in_its_window_alone_and_is_the_mean_there() -> None:
    found = followed("fixed", {0: 1.0, 15: 4.0, WINDOW: 9.0})
    assert found[10] == pytest.approx(1.5)
    # Half of the six measures are four times as strong.
    assert found[WINDOW - 5] == found[200] == pytest.approx(1.5 / 2)


def test_running_follows_beyond_its_band() -> None:
    # What is off by less than a fifth changes nothing.
    assert len(set(followed("running", {WINDOW: 1.15}).values())) == 1
    found = followed("running", {WINDOW: 9.0})
    assert found[45] == pytest.approx(1.5)
    assert found[50] < 1.5 / 1.2
    assert found[200] < found[100] < found[50]


def test_a_gradient_that_says_nothing_leaves_gains_as_they_are() -> None:
    dead = replace(pixels(), term=Known([[1.0]], (8,)))
    for step in (step_of(dead), step_of(pixels(gain=1e-5)), step_of(pixels(gain=float("inf")))):
        step(lit(1.0), at(0))
        assert scales(step) == [1.0]
        assert step.calibration.lines() == [
            "m or the task has no gradient that can be measured: its gains stay as they are"
        ]
        assert step.calibration.figures() == {}
    both = step_of(pixels("a.x"), replace(dead, name="b.x", member="b"))
    both(lit(1.0), at(0))
    assert scales(both) == pytest.approx([1.5, 1.0])


@pytest.mark.parametrize("size", [1e-6, 1e4])
def test_half_precision_neither_underflows_nor_overflows(size: float) -> None:
    maps = torch.ones(2, 3, dtype=torch.float16, requires_grad=True)
    loss = (maps.float() * size).sum()
    expected = 6 * size**2 * torch.tensor([[1.0, 2.0], [2.0, 4.0]]).double()
    torch.testing.assert_close(inner_products([loss, 2 * loss], [maps]), expected, rtol=2e-3, atol=0)
    assert maps.grad is None


def test_the_start_up_proof_begins_it_and_says_what_gains_amount_to() -> None:
    step = step_of(pixels("m.one"), pixels("m.two", 4.0), replace(pixels("p.x", 5.0), strength=None))
    proofs = prove(step, lit(1.0))
    assert [proof.ratio for proof in proofs] == pytest.approx([2.0, 8.0, 10.0])
    assert str(proofs[2]).endswith(", at its gain 10 times the task")
    assert scales(step) == pytest.approx([0.3, 0.3, 1.0])
    assert "2 times" in str(proofs[0])


# --- in a run -------------------------------------------------------------------------------------------------------


def run_step(calibration: str = "running") -> DistillationStep:
    terms = (
        pixels("a.x", strength=Strength("m", 3.0, calibration)),  # type: ignore[arg-type]
        pixels("b.x", 4.0, strength=Strength("m", 3.0, calibration), fades=(Fade(0.9, "last_third"),)),  # type: ignore[arg-type]
    )
    return step_of(*terms, student=Stub(2.0))


def test_killed_and_resumed_is_unbroken_to_the_bit(tmp_path: Path) -> None:
    settings = tiny_settings(steps=60, checkpoint_every=28, keep_checkpoints=9, log_every=1, ema_decay=0.9)

    def dying(start: int, rank: int, ranks: int) -> Any:
        for number, batch in enumerate(tiny_loader(settings)(start, rank, ranks)):
            if number == 33:
                raise DataError("killed")
            yield batch

    unbroken = run_tiny(tmp_path / "unbroken", settings, step=run_step())
    with pytest.raises(DataError, match="killed"):
        run_tiny(tmp_path / "killed", settings, step=run_step(), loader=dying)
    resumed = run_tiny(tmp_path / "killed", settings, step=run_step(), resume=True)
    assert resumed.resumed_from == 28
    assert differing(*(checkpoint_tensors(tmp_path / name, 60) for name in ("unbroken", "killed"))) == []
    rows = [read_rows(tmp_path / name / "metrics.csv") for name in ("unbroken", "killed")]
    for row in (*rows[0], *rows[1]):
        row.pop("seconds")
    assert rows[0] == rows[1]
    assert resumed.strength == unbroken.strength
    assert {"a/ratio", "a/scale", "a/cosine", "b/scale"} <= rows[0][0].keys()


def test_a_checkpoint_holds_exactly_what_was_measured() -> None:
    step = run_step()
    for index in (0, 5):
        step(lit(0.3, 0.7), at(index))
    step.calibration.settle()
    again = run_step()
    again.calibration.restore(json.loads(json.dumps(step.calibration.counters())))
    assert again.calibration.counters() == step.calibration.counters()
    assert scales(again) == scales(step) != [1.0, 1.0]


def test_accumulation_changes_no_scale(tmp_path: Path) -> None:
    found = []
    for accumulate in (1, 2):
        settings = tiny_settings(steps=12, accumulate=accumulate, ema_decay=0.0)
        step = run_step("fixed")
        prove(step, next(iter(tiny_loader(settings)(0, 0, 1))))
        found.append(run_tiny(tmp_path / str(accumulate), settings, step=step).strength["a"]["scale"])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_step_between_measures_computes_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    step = run_step("fixed")
    step(lit(0.5), at(0))
    monkeypatch.setattr("detdistill.distillation.step.inner_products", None)
    step(lit(0.5), at(1))
    step(lit(0.5), at(31))


# --- as people write it ---------------------------------------------------------------------------------------------


def strengths(text: str) -> dict[str, tuple[str, float] | None]:
    recipe = build_recipe(text, spec(channels=3), spec(channels=4))
    return {one.name: one.strength and (one.strength.of, one.strength.value) for one in recipe.terms}


def test_what_a_composition_gives_its_parts() -> None:
    assert strengths("hint") == strengths("hint(strength=published)") == {"hint.features": None}
    assert strengths("hint(strength=2)") == {"hint.features": ("hint", 2.0)}
    both = ("frs + hint", 3.0)
    assert strengths("sum(frs + hint, strength=3)") == {
        "frs.features": both,
        "frs.classes": both,
        "hint.features": both,
    }
    assert strengths("sum(frs(class_gain=0) + hint(strength=1), strength=3)") == {
        "frs.features": both,
        "hint.features": ("hint", 1.0),
    }
    assert strengths("sum(hint(strength=published) + ssim, strength=3)") == {
        "hint.features": None,
        "ssim.features": ("hint + ssim", 3.0),
    }
    assert strengths("aid(ikd(hint), strength=3)") == {
        "hint.features": ("aid(ikd(hint))", 3.0),
        "ikd.adversarial": ("aid(ikd(hint))", 3.0),
    }
    assert strengths("ikd(hint(strength=2), strength=3)") == {
        "hint.features": ("hint", 2.0),
        "ikd.adversarial": ("hint", 2.0),
    }
    members = [one.member for one in build_recipe("ikd(hint, strength=1)", spec(channels=3), spec(channels=4)).terms]
    assert members == ["hint", ""]


def test_strength_0_is_the_student_alone() -> None:
    recipe = build_recipe("sum(ikd(hint) + ssim(strength=1), strength=0)", spec(channels=3), spec(channels=4))
    assert [one.name for one in recipe.terms] == ["ssim.features"]
    assert (dict(recipe.twins), recipe.sample_transform is None) == ({}, False)
    teacher = Stub(3.0)
    step, alone = step_of(student=Stub(2.0), teacher=teacher), SupervisedStep(Stub(2.0))
    assert torch.equal(step(lit(0.5), at(0)).total, alone(lit(0.5), at(0)).total)
    assert prove(step, lit(0.5)) == ()
    assert teacher.asked == []


@pytest.mark.parametrize(
    "text", ["sum(frs + hint, strength=1.0)", "frs + sum(hint + ssim, strength=2.0)", "aid(frs, strength=published)"]
)
def test_texts_that_say_it(text: str) -> None:
    settings = parse_method(text)
    assert method_text(settings) == text
    assert method_text(parse_method(f"ikd({text})")) == f"ikd({text})"
    config = distil(None, method=text, **RUN)
    assert distil(None, f"method={method_tree(config.method)}".replace("None", "null"), **RUN) == config


@pytest.mark.parametrize(
    ("words", "strength"),
    [
        ({"method": "frs"}, 3.0),
        ({"method": "frs + hint"}, 3.0),
        ({"method": "frs(strength=1)"}, 1.0),
        ({"method": "frs", "method__strength": 2}, 2.0),
        ({"method": "frs", "method__strength": "published"}, "published"),
        ({"method": "frs + hint", "method__strength": 0}, 0.0),
        # A number that somebody gave is meant as it stands.
        ({"method": "hint(gain=2)"}, "published"),
        ({"method": "aid(frs(feature_gain=0.1) + hint)"}, "published"),
        ({"method": "frs(class_gain=0)"}, 3.0),
        ({"method": "hint(gain=2)", "method__strength": 3}, 3.0),
    ],
)
def test_distil_calibrates_where_nobody_says_otherwise(words: dict[str, Any], strength: float | str) -> None:
    config = distil(None, **RUN, **words)
    assert config.method.strength == strength
    assert distil(None, f"method={json.dumps(method_tree(config.method))}", **RUN) == config


@pytest.mark.parametrize("wrong", ["-1", ".nan", "strong", "true", "[3]"])
def test_what_is_no_strength_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="strength must be"):
        distil(None, f"method.strength={wrong}", method="hint", **RUN)


def test_a_run_of_before_goes_on_and_again_with_its_gains(tmp_path: Path) -> None:
    """Its file has all keys that there were, and fgd's gain was called strength."""
    config = distil(None, method="aid(fgd)", method__strength="published", **(RUN | {"out": tmp_path / "run"}))
    tree = {"paths_from": "file", **json.loads(json.dumps(config.as_dict(), default=str))}
    for part in (tree["method"], tree["method"]["recipe"]):
        del part["strength"], part["calibration"]
    tree["method"]["recipe"]["strength"] = tree["method"]["recipe"].pop("gain") / 2
    (tmp_path / "run").mkdir()
    written = tmp_path / "run" / "config.yaml"
    written.write_text(json.dumps(tree))
    again = distil(written).method
    assert (again.strength, again.recipe.strength, again.recipe.gain) == ("published", None, 0.5)
    words = RUN | {"out": tmp_path / "run"}
    assert distil(None, method="frs", **words).method.strength == "published"
    before = brought_up({"method": tree["method"]})["method"]
    assert (before["strength"], before["recipe"]["gain"], before["recipe"]["strength"]) == ("published", 0.5, None)
    plain = run_file(tmp_path, "method: frs")
    assert distil(plain, **RUN).method.strength == 3.0


def test_a_method_from_outside_that_knows_no_strength_keeps_its_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "_added", {})
    METHODS.register(Method("plain", PlainSettings, lambda student, teacher, settings: Recipe("plain", ())))
    assert distil(None, method="plain", **RUN).method == PlainSettings()
