"""Every rule of a diagnosis at both sides of its threshold, and what is made of its causes."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from typing import Any

import pytest

from detdistill.detectors.drift import NormDrift
from detdistill.proof import checks
from detdistill.proof.causes import RULES
from detdistill.proof.checks import Check, Measure, Pixels
from detdistill.proof.diagnosis import Diagnosis, diagnose
from detdistill.proof.evidence import Classes, Evidence, Part, Pull, Sizes, Span


def whole(matched: int, *, shift: float = 0.1, scale: float = 1.1) -> Check:
    return checks.weights(matched, 300, [NormDrift("norm", shift, scale)], source="runs/teacher", shown_otherwise=False)


def normalised(other: float) -> Check:
    """Of a teacher that has 30 AP, and so much by other numbers."""
    black = Pixels("other numbers", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), ap=other)
    return checks.normalisation("a", "b", Measure(30.0, None, None, 32), [black])


NONE, LOSS = Span(-0.1, -0.4, 0.3), Span(-2.0, -3.0, -1.0)
HEALTHY = Evidence(
    gain=NONE,
    same_time=Span(-0.2, -0.6, 0.2),
    slower=1.4,
    worth=0.5,
    images=2000,
    teacher_ap=50.0,
    alone_ap=30.0,
    headroom=Span(20.0, 17.0, 23.0),
    parts=(Part("class", "car", 60.0, 40.0, 40.0), Part("size", "small objects", 30.0, 20.0, 20.0)),
    rise=Span(0.1, -0.2, 0.4),
    steps=2000,
    planned=2000,
    epochs=20.0,
    left_out=0,
    clip=(0.1, 0.1),
    pulls={"frs": Pull(asked=3.0, first=3.0, last=2.5, first_cosine=0.2, last_cosine=0.1)},
    on=0.9,
    falls={"frs.features": 0.5, "frs.classes": 0.1},
    weights=whole(300),
    sizes=Sizes("480", "480"),
    pixels=normalised(20.0),
    classes=Classes((), ("car", "truck"), 0.0),
    differing=(),
    leaked=0,
    method="frs",
)
NOTHING: dict[str, Any] = {}


def pull(**figures: float | None) -> dict[str, Any]:
    return {"pulls": {"frs": replace(HEALTHY.pulls["frs"], **figures)}}


def part(kind: Any, teacher: float | None, distilled: float, gain: Span | None = None) -> dict[str, Any]:
    hurt = Part(kind, "bus", teacher, 40.0, distilled, gain)
    return {"parts": (hurt, *(Part("class", f"class {number}", 60.0, 40.0, 40.0) for number in range(9)))}


ROWS: list[tuple[str, dict[str, Any], int, dict[str, Any]]] = [
    # cause, what makes it, its weight, what just does not make it
    ("teacher not whole", {"weights": whole(299)}, 3, {"weights": whole(300)}),
    ("teacher not whole", {"weights": whole(300, shift=0.51)}, 3, {"weights": whole(300, shift=0.5, scale=1.75)}),
    ("no twin", {"differing": ("train.lr 0.1 (here 0.01)",)}, 3, {"differing": ()}),
    ("teacher's normalisation", {"pixels": normalised(32.1)}, 3, {"pixels": normalised(32.0)}),
    ("no headroom", {"headroom": Span(-1.0, -2.0, 0.0)}, 3, {"headroom": Span(1.6, 0.1, 3.1)}),
    ("no headroom", {"headroom": Span(1.4, 0.1, 2.7)}, 2, {"headroom": Span(1.6, 0.1, 3.1)}),
    ("no headroom", {"headroom": Span(0.5, -0.1, 1.1)}, 3, NOTHING),
    ("no headroom", {"headroom": Span(0.6, -0.1, 1.3)}, 2, NOTHING),
    ("class map partial", {"classes": Classes(("bus",), ("car", "truck"), 0.5)}, 3, NOTHING),
    ("class map partial", {"classes": Classes(("bus",), ("car", "truck"), 0.49)}, 2, NOTHING),
    ("class map partial", {"classes": Classes((), ("truck", "car"), 0.0, ordered=False)}, 2, NOTHING),
    ("gain paid for by time", {"gain": Span(2.0, 0.1, 3.9)}, 3, {"gain": Span(2.0, -0.1, 4.1)}),
    ("strength", pull(first=0.09, last=0.01), 3, pull(first=0.11, last=0.01)),
    ("strength", pull(first=31.0, last=1.0), 3, pull(first=29.0, last=1.0)),
    ("strength", pull(asked=200.0, first=None), 3, pull(asked=29.0, first=None)),
    ("strength", pull(asked=4.0, first=4.0, last=31.0), 3, pull(asked=4.0, first=4.0, last=29.0)),
    ("strength", pull(asked=2.0, last=20.1), 2, pull(asked=2.0, last=19.9)),
    ("strength", {"pulls": {"a": Pull(last=500.0)}}, 3, {"pulls": {"a": Pull(last=5.0), "b": Pull(last=0.5)}}),
    ("strength", {"pulls": {"a": Pull(last=12.0), "b": Pull(last=0.01)}}, 3, {"pulls": {"a": Pull(3.0)}}),
    ("teacher's image size", {"sizes": Sizes("800", "480")}, 1, NOTHING),
    ("teacher's image size", {"sizes": Sizes("800", "480", 40.6, 40.0)}, 2, {"sizes": Sizes("800", "480", 40.4, 40.0)}),
    ("method mostly off", {"on": 0.49}, 2, {"on": 0.5}),
    ("method mostly off", {"on": 0.2, "ends": ("method.until",)}, 2, {"on": 0.6, "ends": ("method.until",)}),
    ("still climbing", {"rise": Span(0.6, 0.1, 1.1)}, 2, {"rise": Span(0.6, 0.0, 1.2)}),
    ("still climbing", {"rise": Span(0.4, 0.1, 0.7)}, 1, NOTHING),
    ("falling at the end", {"rise": Span(-0.6, -1.1, -0.1)}, 2, {"rise": Span(-0.6, -1.2, 0.0)}),
    ("schedule too short", {"epochs": 4.9, "rise": None}, 2, {"epochs": 5.0, "rise": None}),
    ("schedule too short", {"epochs": 1.0, "rise": Span(0.5, -0.1, 1.1)}, 2, {"epochs": 1.0}),
    ("stopped early", {"steps": 1999}, 2, {"steps": 2000}),
    ("steps not finite", {"left_out": 10}, 1, {"left_out": 9}),
    ("steps not finite", {"left_out": 100, "mixed": True}, 2, NOTHING),
    ("gradient clipped", {"clip": (0.5, 0.25)}, 1, {"clip": (0.49, 0.0)}),
    ("gradient clipped", {"clip": (0.9, 0.1)}, 1, {"clip": (0.9, 0.5)}),
    ("gradients in conflict", pull(first_cosine=-0.11, last_cosine=-0.11), 2, pull(last_cosine=-0.11)),
    ("gradients in conflict", {"pulls": {"a": Pull(last_cosine=-0.2)}}, 2, {"pulls": {"a": Pull(last_cosine=-0.1)}}),
    ("terms did not fall", {"falls": {"a": 0.009, "b": -0.2}}, 2, {"falls": {"a": 0.011}}),
    ("terms did not fall", {"falls": {"a": 0.009, "b": 0.2}}, 1, NOTHING),
    ("teacher wrong where it hurts", part("class", 39.9, 37.4), 2, part("class", 40.0, 37.4)),
    ("teacher wrong where it hurts", part("class", 20.0, 37.4), 2, part("class", 20.0, 37.6)),
    ("teacher wrong where it hurts", part("size", 20.0, 39.7), 2, part("size", 20.0, 39.8)),
    ("teacher wrong where it hurts", part("class", 20.0, 30.0, LOSS), 2, part("class", 20.0, 30.0, NONE)),
    ("teacher wrong where it hurts", part("size", 20.0, 30.0), 2, part("size", None, 30.0)),
    ("too few images to see it", {"gain": Span(0.0, -0.5, 0.5)}, 2, {"gain": Span(0.0, -0.5, 0.49)}),
    ("too few images to see it", {"gain": Span(0.4, 0.0, 0.8), "seeds": 3}, 2, {"gain": LOSS}),
    ("validation images learned", {"leaked": 20}, 1, {"leaked": 19}),
    ("validation images learned", {"leaked": 1000}, 3, {"leaked": 0}),
]


def causes(**changes: Any) -> dict[str, int]:
    found = diagnose(replace(HEALTHY, **changes))
    assert found is not None
    return {one.name: one.weight for one in found.causes}


@pytest.mark.parametrize(("name", "fault", "weight", "healthy"), ROWS)
def test_a_rule_finds_its_fault_and_nothing_else(
    name: str, fault: dict[str, Any], weight: int, healthy: dict[str, Any]
) -> None:
    assert causes(**fault) == {name: weight}
    assert name not in causes(**healthy)


def test_every_rule_has_its_row() -> None:
    assert {rule.name for rule in RULES} == {name for name, *_ in ROWS}


def test_where_nothing_is_known_nothing_is_found() -> None:
    found = diagnose(Evidence(gain=NONE))
    assert found is not None
    assert (found.causes, found.checked) == ((), ("too few images to see it",))
    assert len(found.unknown) == len(RULES) - 1


@pytest.mark.parametrize("gain", [None, Span(1.0, 0.1, 2.0)])
def test_a_gain_is_not_explained(gain: Span | None) -> None:
    fault = {"headroom": Span(-1.0, -2.0, 0.0), "gain": gain}
    assert diagnose(replace(HEALTHY, same_time=None, **fault)) is None
    assert diagnose(replace(HEALTHY, same_time=Span(1.0, 0.2, 1.8), **fault)) is None


def test_the_likeliest_comes_first() -> None:
    fault = {"epochs": 1.0, "rise": Span(0.6, 0.1, 1.1), "leaked": 30, "weights": whole(3), "on": 0.3}
    order = ["teacher not whole", "method mostly off", "still climbing", "schedule too short"]
    assert list(causes(**fault)) == [*order, "validation images learned"]


def test_the_lines_and_the_json_say_the_same() -> None:
    found = diagnose(replace(HEALTHY, gain=LOSS, headroom=Span(-1.0, -2.0, 0.0), teacher_ap=29.0, leaked=None))
    assert isinstance(found, Diagnosis)
    assert found.lines() == [
        "why distillation did not help (-2.0 AP [-3.0, -1.0]), likeliest cause first:",
        "  1. no headroom: the teacher has 29.0 AP on these images, the student alone 30.0: -1.0 AP [-2.0, +0.0]. "
        "Train a larger teacher, or this one for longer, until detdistill evaluate TEACHER --data DATA --interval "
        "prints clearly more than 30.0.",
        "  Not known: validation images learned.",
    ]
    written = json.loads(json.dumps(found.as_dict()))
    assert written["gain"] == {"mean": -2.0, "low": -3.0, "high": -1.0}
    assert written["causes"][0]["typed"] == "detdistill evaluate TEACHER --data DATA --interval"
    assert written["unknown"] == ["validation images learned"]


def test_without_a_cause_one_sentence_says_what_was_looked_for() -> None:
    found = diagnose(HEALTHY)
    assert found is not None
    (line,) = found.lines()
    assert line.startswith("why distillation did not help (-0.1 AP [-0.4, +0.3]): nothing that was looked for explains")
    assert all(rule.name in line for rule in RULES)


@pytest.mark.parametrize("fault", [fault for _, fault, *_ in ROWS])
def test_an_action_holds_what_is_to_be_typed(fault: dict[str, Any]) -> None:
    (cause,) = diagnose(replace(HEALTHY, **fault)).causes  # type: ignore[union-attr]
    assert cause.typed in cause.action
    assert shlex.split(cause.typed)
    assert cause.action.endswith(".")
    assert not cause.evidence.endswith(".")


def test_further_pairs_lie_beside_the_run() -> None:
    """Not where a proof of the same run may lie already."""
    for run, out in (("my runs/a", "my runs/a_again"), ("my runs/study/seed_0/distilled", "my runs/study_again")):
        known = replace(HEALTHY, epochs=1.0, rise=None, config=f"{run}/config.yaml")
        (short,) = (one for one in diagnose(known).causes if one.name == "schedule too short")
        assert short.typed.startswith(f"detdistill prove '{run}/config.yaml' ")
        assert short.typed.endswith(f" out='{out}'")
