"""What `make test` leaves out of a product."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from thorough import covering, thin_out


def test_every_value_stays_in_a_few_cases_and_no_case_is_lost() -> None:
    methods, families, sizes = "abcdefg", ("x", "y", "z"), (1, 2)
    cases = [case for case in itertools.product(methods, families, sizes) if case[:2] != ("a", "x")]
    given = covering(cases)
    assert [one.values for one in given] == cases
    few = [one.values for one in given if not one.marks]
    assert len(few) == len(methods)
    for place, values in enumerate((methods, families, sizes)):
        used = [case[place] for case in few]
        assert {*used} == {*values}
        assert max(used.count(one) for one in values) - min(used.count(one) for one in values) <= 1
    assert [one.marks for one in covering(cases)] == [one.marks for one in given]


def test_a_product_of_tests_and_values_is_thinned_out(request: pytest.FixtureRequest) -> None:
    """Each test keeps one value, each value one test, and what ranges over something else stays whole."""

    def item(test: str, **params: Any) -> Any:
        made: Any = pytest.Function.from_parent(request.node.parent, name=test, callobj=lambda: None, originalname=test)
        made.callspec = SimpleNamespace(params=params, marks=[])
        made.add_marker(pytest.mark.covering("family"))
        return made

    items = [item(test, family=family) for test in ("one", "other", "third") for family in "xyz"]
    whole = [item("whole", size=size) for size in (1, 2)]
    thin_out([*items, *whole])
    few = [(one.originalname, one.callspec.params["family"]) for one in items if not one.get_closest_marker("slow")]
    assert sorted(test for test, _ in few) == ["one", "other", "third"]
    assert sorted(family for _, family in few) == [*"xyz"]
    assert not any(one.get_closest_marker("slow") for one in whole)
