"""What `make test` leaves out of a product."""

from __future__ import annotations

import itertools

from thorough import covering


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
