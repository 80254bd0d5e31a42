"""Every number of every setting has bounds, is refused outside them in one sentence, and harms nobody inside them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args

import pytest
import torch

from detdistill.detectors.catalogue import FAMILIES, build_detector
from detdistill.errors import ConfigError
from detdistill.jobs.config import read_run_config
from detdistill.jobs.settings import RunConfig
from detdistill.methods.catalogue import METHODS
from detdistill.settings import build
from detdistill.settings.bounds import UNSAID, Within, bare, require_bounds, within
from detdistill.settings.trees import hints_of, in_order, section_in
from detdistill.training.settings import TrainSettings

OPTIONS = {"data": "d", "out": "o", "teacher": "t"}
SIZED = [f"{key}.image={{short_side: 8, long_side: 8}}" for key in ("data", "teacher")]
SIZED += ["data.sample_specific={}", "data.train=[d, e]", "data.unlabelled={source: u}"]


@dataclass(frozen=True)
class Number:
    """A number of a run: its key, type, and what a run needs to have it."""

    key: str
    hint: Any
    student: str = "fcos/tiny"
    method: str = "hint"

    @property
    def bounds(self) -> Within:
        return within(self.hint) or UNSAID


def is_number(hint: Any) -> bool:
    return bare(hint) in (int, float) or any(is_number(member) for member in get_args(hint))


def walked(kind: Any, prefix: str, **needs: str) -> Iterator[Number]:
    for one in in_order(kind):
        key, hint = f"{prefix}.{one.name}".strip("."), hints_of(kind)[one.name]
        inner = section_in(hint)
        if inner is not None and key not in ("student", "method.recipe"):
            yield from walked(inner, key, **needs)
        elif is_number(hint):
            yield Number(key, hint, **needs)


def numbers() -> list[Number]:
    found = list(walked(RunConfig, ""))
    for name, family in ((name, one) for name, one in FAMILIES.items() if one.presets):
        found += walked(family.settings, "student", student=f"{name}/{next(iter(family.presets))}")
    for name, method in METHODS.items():
        found += walked(method.settings, "method", method=f"{name}(hint)" if method.wraps else name)
    return found


NUMBERS = numbers()


def written(number: Number, value: str) -> str:
    """The setting that gives the number, or every number of its list, this value."""
    length = 2 if number.key.endswith(("weights", "scale_jitter", "short_sides")) else 3
    return f"{number.key}=[{', '.join([value] * length)}]" if "tuple" in str(number.hint) else f"{number.key}={value}"


def test_every_number_has_finite_bounds() -> None:
    assert len(NUMBERS) > 90
    for number in NUMBERS:
        assert -math.inf < number.bounds.low < number.bounds.high < math.inf, number.key
        assert abs(number.bounds.high) <= UNSAID.high or number.key == "train.seed", number.key


@pytest.mark.parametrize("value", ["1e17", "-1e17", "1" + "0" * 17, "1" + "0" * 400, ".nan", ".inf", "-.inf"])
def test_what_lies_outside_is_refused_in_one_sentence(value: str) -> None:
    for number in NUMBERS:
        options = {**OPTIONS, "student": number.student, "method": number.method}
        with pytest.raises(ConfigError) as refused:
            read_run_config(None, [*SIZED, written(number, value)], purpose="distill", options=options)
        said, last = str(refused.value), number.key.rpartition(".")[2]
        for line in said.splitlines():
            assert " must " in line, (number.key, line)
            assert ", got " in line, (number.key, line)
            assert len(line) < 400, (number.key, line)
        assert last in said, (number.key, said)


def test_a_little_more_than_the_bound_is_refused_and_the_bound_is_told() -> None:
    for key, value, said in (
        ("train.threads", 513, "train.threads must be from 0 to 512, got 513. Give at most 512."),
        ("student.head_depth", 65, "student.head_depth must be from 0 to 64, got 65. Give at most 64."),
        ("evaluate.batch_size", 0, "evaluate.batch_size must be from 1 to 65536, got 0. Give at least 1."),
        ("data.weights", "[1, -1e10]", "data.weights must be a number above 0"),
        ("method.gain", -1, "method.gain must be from 0 to 1000000000, got -1.0. Give at least 0."),
        ("seed", 2**32, "train.seed must be from 0 to 4294967295, got 4294967296. Give at most 4294967295."),
    ):
        options = {**OPTIONS, "student": "fcos/tiny", "method": "hint"}
        with pytest.raises(ConfigError) as refused:
            read_run_config(None, [*SIZED, f"{key}={value}"], purpose="distill", options=options)
        assert said in str(refused.value)


def test_settings_made_in_python_are_held_to_the_same_bounds() -> None:
    with pytest.raises(ConfigError, match=r"train\.threads must be from 0 to 512, got 1000000\."):
        TrainSettings(steps=1, batch_size=1, threads=10**6)
    tiny = next(iter(FAMILIES["fcos"].presets.values()))
    with pytest.raises(ConfigError, match=r"student\.head_depth must be from 0 to 64, got 10000\."):
        build_detector(replace(tiny, head_depth=10_000), ["a"], seed=0)


def test_numbers_of_other_packages_have_bounds_too() -> None:
    @dataclass(frozen=True)
    class Theirs:
        reach: float = 1.0
        steps: tuple[int, ...] = ()

    assert build(Theirs, {"reach": -1e9, "steps": [1]}, where="here") == Theirs(-1e9, (1,))
    with pytest.raises(ConfigError, match=r"^here: steps\.1 must be from -1000000000 to 1000000000, got 10000000000\."):
        build(Theirs, {"steps": [1, 10**10]}, where="here")
    with pytest.raises(ConfigError, match=r"^theirs\.reach must be .*, got nan\."):
        require_bounds(Theirs(math.nan), where="theirs")


@pytest.mark.parametrize(
    ("student", "key"),
    [("fcos/tiny", "head_depth"), ("gfl/tiny", "box_bins"), ("retinanet/tiny", "anchor_octaves")],
)
def test_a_detector_at_its_bounds_builds(student: str, key: str) -> None:
    family, _, preset = student.partition("/")
    tiny: Any = FAMILIES[family].presets[preset]
    most = within(hints_of(type(tiny))[key])
    assert most is not None
    detector = build_detector(replace(tiny, **{key: int(most.high)}), ["a"], seed=0)
    assert all(torch.isfinite(one).all() for one in detector.parameters())
