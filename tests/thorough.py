"""How much a test goes through: less in `make test`, all of it in `make test-all`."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from _pytest.mark import ParameterSet

THOROUGH = os.environ.get("DETDISTILL_THOROUGH") == "1"


def cases(few: int, many: int) -> int:
    """So many drawn cases: `few`, or `many` where there is time."""
    return many if THOROUGH else few


def covering(cases: Iterable[Sequence[Any]]) -> list[ParameterSet]:
    """All of the cases; `slow` is each that `make test` needs not: every value at every place stays in another one.

    Those that stay are few, and use the values of a place about equally often.
    """
    left, uses = [tuple(case) for case in cases], Counter[tuple[int, Any]]()
    order, few = left.copy(), set()
    random.Random(0).shuffle(left)
    while any(not uses[value] for case in left for value in enumerate(case)):
        best = min(left, key=lambda case: (-sum(not uses[one] for one in enumerate(case)), _worn(uses, case)))
        few.add(best)
        left.remove(best)
        uses.update(enumerate(best))
    return [pytest.param(*case, marks=() if case in few else pytest.mark.slow) for case in order]


def thin_out(items: Iterable[pytest.Item]) -> None:
    """Marks `slow` what `make test` needs not of modules that are marked `covering(name)`.

    Each of their tests stays with one value of that parameter, and each value with about equally many of the tests.
    """
    products: dict[tuple[Any, str], dict[tuple[str, Any], list[pytest.Function]]] = {}
    for item in items:
        mark = item.get_closest_marker("covering")
        if mark is None or not isinstance(item, pytest.Function) or item.get_closest_marker("slow"):
            continue
        (name,) = mark.args
        if name in getattr(getattr(item, "callspec", None), "params", ()):
            product = products.setdefault((item.path, name), {})
            product.setdefault((item.originalname, item.callspec.params[name]), []).append(item)
    for product in products.values():
        for one in covering(product):
            for item in product[one.values] if one.marks else ():
                item.add_marker(pytest.mark.slow)


def _worn(uses: Counter[tuple[int, Any]], case: tuple[Any, ...]) -> int:
    return sum(uses[one] for one in enumerate(case))
