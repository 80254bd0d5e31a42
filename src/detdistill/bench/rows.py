"""The one form of a measured ratio, which every benchmark writes: what, how much, how sure, what is wanted, on what."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]
ROWS = "rows"
"""Under this key of its JSON a benchmark has its list of rows; `benchmarks/bench_table.py` makes one table of all."""


def row(
    what: str,
    ratios: Sequence[float],
    *,
    hardware: Mapping[str, str | int],
    at_most: float | None = None,
    at_least: float | None = None,
    tried: str = "",
) -> Row:
    """A ratio as it was measured.

    Args:
        what: is divided by what, in words; one `what` is one row of the table, whichever file it comes from.
        ratios: of every round, or one that is the same in every; time over time where a smaller one is better.
        hardware: as `machine` names it.
        at_most: what the median should not exceed; None for no such goal.
        at_least: what it should reach; None for no such goal.
        tried: where the goal is missed, what was tried.

    Returns:
        `what`, the median as `ratio`, `quartiles`, `rounds`, the goal as `target` (a text or None), whether it is `met`
        (None without), `hardware` as text and `tried`.
    """
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [*ratios] * 3
    low, middle, high = (round(one, 4) for one in quartiles)
    target, met = None, None
    if at_most is not None:
        target, met = f"≤ {at_most:g}", middle <= at_most
    elif at_least is not None:
        target, met = f"≥ {at_least:g}", middle >= at_least
    named = f"{hardware['device']}, {hardware['cores']} cores, {hardware['threads']} threads, torch {hardware['torch']}"
    return {
        "what": what,
        "ratio": middle,
        "quartiles": [low, high],
        "rounds": len(ratios),
        "target": target,
        "met": met,
        "hardware": named,
        "tried": tried,
    }
