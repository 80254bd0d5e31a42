"""Each look before a run by itself: what is ok, what is not, and what helps then."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from detdistill.detectors.drift import NormDrift
from detdistill.proof import checks
from detdistill.proof.checks import FAIL, LOOK, OK, Check, Measure, Pixels, TermFigures

GOOD = Measure(30.0, 27.0, 33.0, 100)
WELL = (NormDrift("stem", 0.1, 1.1), NormDrift("last", 0.2, 1.2))
STRANGE = (WELL[0], NormDrift("last", 3.0, 1.0))
OURS, THEIRS = (0.485, 0.456, 0.406), (1 / 255,) * 3
TERM = TermFigures("hint", 1.0, 2.0, 3.0, 0.1)


def weighed(matched: int = 10, drifts: tuple[NormDrift, ...] = WELL, *, otherwise: bool = False) -> Check:
    return checks.weights(matched, 10, drifts, source="runs/teacher", shown_otherwise=otherwise)


def good(found: Measure | None, recorded: float | None = None) -> Check:
    return checks.teachers_ap(found, total=300, recorded=recorded, train="`detdistill train`")


def room(gap: float, ends: tuple[float, float] | None = None) -> Check:
    return checks.headroom(gap, ends, against="the student alone", train="`detdistill train`")


@pytest.mark.parametrize(
    ("check", "state", "said"),
    [
        (weighed(), OK, "2 batch-norm layers see what they saw in training"),
        (weighed(9), LOOK, "9 of 10 tensors matched, the others are random"),
        (weighed(drifts=STRANGE), LOOK, "1 of 2 batch-norm layers see what they never saw in training, the first last"),
        (weighed(drifts=STRANGE, otherwise=True), OK, "10 of 10 tensors matched"),
        (weighed(drifts=()), OK, "without batch-norm layers, only its AP tells random ones"),
        (good(GOOD), OK, "30.0 AP [27.0, 33.0] on 100 of 300 validation images"),
        (good(GOOD, 33.9), OK, "30.0 AP"),
        (good(GOOD, 34.1), LOOK, "where its own run measured 34.1"),
        (good(Measure(1.0, 0.5, 4.9, 100)), LOOK, "it finds next to nothing here"),
        (good(None), LOOK, "hold nothing to find"),
        (room(5.0), OK, "+5.0 AP over the student alone"),
        (room(5.0, (2.0, 8.0)), OK, "+5.0 AP [+2.0, +8.0] over"),
        (room(5.0, (-1.0, 11.0)), LOOK, "no more than these images can tell"),
        (room(-0.1, (-2.0, 2.0)), LOOK, "the teacher is worse than the student: -0.1 AP"),
        (room(0.2, (0.1, 0.3)), LOOK, "the teacher knows no more than the student"),
        (checks.term(TERM, batches=3), OK, "loss 1, gradient to the student 2, 3 times the task's at its gain"),
        (checks.term(replace(TERM, cosine=-0.2), batches=3), LOOK, "pulls against the labels"),
        (checks.strength({"hint": 3.0}, {}), OK, "hint at 3 times the task"),
        (checks.strength({"hint": None}, {"hint": 5.0}), OK, "hint at its published gains"),
        (checks.strength({"hint": None}, {"hint": 0.01}), LOOK, "hint at 0.01 times the task is too weak"),
        (checks.numbers("16-mixed", steps=4, skipped=0), OK, "4 steps in 16-mixed without NaN or infinity"),
        (checks.numbers("16-mixed", steps=4, skipped=2), LOOK, "2 of 4 steps in 16-mixed were not finite"),
        (checks.memory(2_000_000_000, 8_000_000_000), OK, "at most 2,000 MB of 8,000 MB"),
        (checks.memory(7_900_000_000, 8_000_000_000), LOOK, "at most 7,900 MB"),
        (checks.memory(None, None), OK, "not measured"),
        (checks.time(0.5, steps=100, evaluations=10.0, then=("more",)), OK, "about 1:00: 100 steps of 0.5 s"),
        (checks.validation(1.94, images=124), OK, "124 images: differences below 1.9 AP cannot be seen"),
        (checks.validation(6.0, images=9), LOOK, "differences below 6.0 AP cannot be seen"),
        (checks.validation(None, images=1), LOOK, "1 image: too few for an interval"),
        (checks.validation(0.0, images=9), OK, "what they can show is not told"),
        (checks.labels({"train boxes": 0}, {"train boxes": 9}, check="look"), OK, "nothing is left out"),
        (checks.labels({"train boxes": 1}, {"train boxes": 999}, check="look"), OK, "1 of 1,000 train boxes"),
        (checks.labels({"train boxes": 20}, {"train boxes": 980}, check="look"), LOOK, "20 of 1,000 train boxes"),
        (checks.splits(0, images=500), OK, "no validation image is a training image too"),
        (checks.splits(4, images=500), OK, "4 of 500 validation images"),
        (checks.splits(5, images=500), LOOK, "AP is of what was learned by heart"),
        (checks.unlabelled(40, 4), OK, "40 images, 4 in a step"),
        (checks.normalisation("a", "b", GOOD, [Pixels("c", OURS, THEIRS, 33.0)]), OK, "the student by a"),
        (checks.normalisation("a", "b", GOOD, [Pixels("c", OURS, THEIRS, 40.0)]), LOOK, "30.0 AP by b, 40.0 by c"),
        (checks.sizes("a", "b", None, own_ap=None, seen=GOOD), OK, "the student sees a, the teacher b"),
        (checks.sizes("a", "b", "c", own_ap=31.0, seen=GOOD), OK, "(30.0 AP here, 31.0 there)"),
        (checks.sizes("a", "b", "c", own_ap=None, seen=GOOD), LOOK, "which was trained at c"),
        (checks.refused("x", "It must be 1, got 2. Set it to 1."), FAIL, "It must be 1, got 2"),
    ],
    ids=lambda one: one.name if isinstance(one, Check) else "",
)
def test_a_check_says_what_is_and_what_helps(check: Check, state: str, said: str) -> None:
    assert check.state == state
    assert said in check.said
    assert bool(check.remedy) == (state != OK)
    assert check.remedy.endswith(".") == (state != OK)
    assert check.text().startswith(f"{state} ")
    assert json.loads(json.dumps(check.as_dict()))["name"] == check.name


def test_numbers_of_pixels_can_be_typed() -> None:
    check = checks.normalisation("a", "b", GOOD, [Pixels("c", OURS, THEIRS, 40.0)])
    typed = "teacher.mean=[0.485,0.456,0.406] teacher.std=[0.00392157,0.00392157,0.00392157]"
    assert check.remedy == f"Set {typed}."
