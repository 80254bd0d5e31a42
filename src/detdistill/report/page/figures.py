"""The tables of figures: how good every detector is, overall, by class, by size and by kind of error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from detdistill.evaluation.coco import FIGURES, CocoMetrics
from detdistill.evaluation.error_types import mean_errors
from detdistill.evaluation.shared import mean_of
from detdistill.report.page.charts import Mark, ends, strip
from detdistill.report.page.content import Rows, Section, named
from detdistill.report.page.gather import DISTILLED, Gathered
from detdistill.report.tables import Cell, Table, error_costs

_SIZES = {"APs": "small, below 32² pixels", "APm": "medium, 32² to 96²", "APl": "large, above 96²"}
_MOST_CLASSES = 200
_DIFFERENCE, _INTERVAL = "distilled − alone", "95 % interval"


def difference_rows(verdict: Mapping[str, Any]) -> Rows:
    """AP, distilled minus alone: over the same steps, over the same time, and of every seed."""
    pairs = [("over the same steps", verdict["same_steps"]), ("over the same time", verdict.get("same_time"))]
    rows: list[tuple[str, float, float, float]] = []
    for over, found in pairs:
        one = None if found is None else found["figures"].get("AP")
        if one is None:
            continue
        rows.append((over, one["mean"], one["low"], one["high"]))
        if len(found["seeds"]) > 1:
            each = zip(found["seeds"], one["per_seed"], one.get("per_seed_half", ()), strict=False)
            rows += [(f"— seed {seed}", value, value - half, value + half) for seed, value, half in each]
    low, high = ends([end for row in rows for end in row[1:]], with_zero=True)
    strips = tuple(
        strip([Mark(DISTILLED, mean, least, most)], low=low, high=high, zero=True, told=_interval(least, most))
        for _, mean, least, most in rows
    )
    table = Table(
        ("", "difference", _INTERVAL),
        tuple((over, mean, _interval(least, most)) for over, mean, least, most in rows),
        signed=("difference",),
    )
    seeds = len(verdict["same_steps"]["seeds"])
    whole = "other seeds and other images" if seeds > 1 else "other images alone, as there is one seed"
    note = (
        f"In points of AP. Intervals cover {whole}{'; those of a single seed other images alone' if seeds > 1 else ''}."
    )
    return Rows("AP, distilled minus alone", table, strips, drawn=_ends(low, high, "+.1f"), note=note)


def figures(found: Gathered) -> Section:
    """All detectors overall, by class, by size and by kind of error."""
    means = {name: mean_of_seeds(of_seeds) for name, of_seeds in found.figures.items()}
    steps = (found.verdict or {}).get("same_steps", {})
    blocks = [_overall(found, means)]
    if steps.get("figures"):
        blocks.append(_differences(found.verdict or {}))
    sizes = {name: {title: one.figures()[key] for key, title in _SIZES.items()} for name, one in means.items()}
    told = {title: steps.get("figures", {}).get(key) for key, title in _SIZES.items()}
    blocks += _parts("AP by the size of objects", "size", sizes, told)
    classes = {name: dict(one.per_class) for name, one in means.items() if one.per_class}
    blocks += _parts("AP by class", "class", classes, steps.get("classes", {}))
    if found.errors:
        blocks.append(_error_rows(found))
    lead = ""
    if len(found.seeds) > 1:
        lead = f"Means over {len(found.seeds)} seeds; a bar goes from the least to the greatest of them."
    return Section("figures", "Figures", "Figures", tuple(blocks), lead)


def _overall(found: Gathered, means: Mapping[str, CocoMetrics]) -> Rows:
    every = {name: [one.ap for one in of_seeds if one.ap is not None] for name, of_seeds in found.figures.items()}
    low, high = ends([value for values in every.values() for value in values], with_zero=True)
    strips = []
    for name, one in means.items():
        mark = None if one.ap is None else Mark(name, one.ap, min(every[name]), max(every[name]))
        strips.append(strip([] if mark is None else [mark], low=low, high=high))
    rows = tuple((named(name), *one.figures().values()) for name, one in means.items())
    return Rows("COCO's figures, in percent", Table(("model", *FIGURES), rows), tuple(strips), _ends(low, high))


def _differences(verdict: Mapping[str, Any]) -> Rows:
    """The difference in each of COCO's figures, with its interval."""
    sides = {"same steps": verdict["same_steps"], "same time": verdict.get("same_time")}
    told = {name: side["figures"] for name, side in sides.items() if side is not None}
    names = [name for name in FIGURES if any(name in one for one in told.values())]
    columns: list[str] = []
    rows: list[list[Cell]] = [[name] for name in names]
    for over, one in told.items():
        columns += [f"over the {over}", _INTERVAL]
        for row, name in zip(rows, names, strict=True):
            row.extend(_both(one.get(name)))
    first = told["same steps"]
    low, high = ends([first[name][end] for name in names if name in first for end in ("low", "high")], with_zero=True)
    strips = tuple(strip(_gain(first.get(name)), low=low, high=high, zero=True) for name in names)
    signed = tuple(name for name in columns if name.startswith("over"))
    table = Table(("figure", *columns), tuple(map(tuple, rows)), signed=signed)
    caption = "Distilled minus alone, in points, with 95 % intervals"
    return Rows(caption, table, strips, _ends(low, high, "+.1f"))


def _parts(
    caption: str,
    head: str,
    values: Mapping[str, Mapping[str, float | None]],
    told: Mapping[str, Mapping[str, Any] | None],
) -> Iterator[Rows]:
    """A row for each part, a column for each model, the difference with its interval, and all models in a line."""
    names = [
        part
        for part in dict.fromkeys(part for one in values.values() for part in one)
        if any(one.get(part) is not None for one in values.values())
    ]
    if not names:
        return
    gains = {part: told.get(part) for part in names} if any(told.values()) else {}
    if len(names) > _MOST_CLASSES:
        ranked = sorted(names, key=lambda part: -abs((gains.get(part) or {}).get("mean", 0.0)))[:_MOST_CLASSES]
        names, caption = [part for part in names if part in ranked], f"{caption}, the {_MOST_CLASSES} that differ most"
    low, high = ends([one.get(part) for one in values.values() for part in names], with_zero=True)
    rows, strips = list[tuple[Cell, ...]](), list[Markup]()
    for part in names:
        of_part = {model: one.get(part) for model, one in values.items()}
        rows.append((part, *of_part.values(), *(_both(gains[part]) if gains else ())))
        marks = [Mark(model, value) for model, value in of_part.items() if value is not None]
        strips.append(strip(marks, low=low, high=high))
    columns = (head, *map(named, values), *((_DIFFERENCE, _INTERVAL) if gains else ()))
    table = Table(columns, tuple(rows), signed=(_DIFFERENCE,))
    yield Rows(caption, table, tuple(strips), _ends(low, high))


def _error_rows(found: Gathered) -> Rows:
    means = {name: mean_errors(of_seeds) for name, of_seeds in found.errors.items()}
    change = (DISTILLED, found.against) if DISTILLED in means and found.against in means else None
    whole = error_costs(means, change=change)
    columns = tuple(name.replace(" vs ", " − ") if " vs " in name else named(name) for name in whole.columns)
    signed = tuple(name for name in columns if " − " in name)
    low, high = ends([cost for one in means.values() for cost in one.costs.values()], with_zero=True)
    strips = tuple(
        strip(
            [Mark(model, cost) for model, one in means.items() if (cost := one.costs[kind]) is not None],
            low=low,
            high=high,
        )
        for kind in next(iter(means.values())).costs
    )
    note = "By how many points AP50 would rise if errors of that kind alone were mended; less is better."
    table = Table(columns, whole.rows, signed=signed)
    return Rows("AP50 lost to each kind of error, in points", table, strips, _ends(low, high), note)


def mean_of_seeds(of_seeds: Sequence[CocoMetrics]) -> CocoMetrics:
    """The mean over seeds of each figure that all have."""
    if len(of_seeds) == 1:
        return of_seeds[0]
    figures = {name: mean_of([one.figures()[name] for one in of_seeds]) for name in FIGURES}
    classes = dict.fromkeys(name for one in of_seeds for name in one.per_class)
    by_class = {name: mean_of([one.per_class.get(name) for one in of_seeds]) for name in classes}
    return CocoMetrics.from_dict({**figures, "per_class": by_class})


def _both(one: Mapping[str, Any] | None) -> list[Cell]:
    return [None, None] if one is None else [one["mean"], _interval(one["low"], one["high"])]


def _gain(one: Mapping[str, Any] | None) -> list[Mark]:
    return [] if one is None else [Mark(DISTILLED, one["mean"], one["low"], one["high"])]


def _ends(low: float, high: float, form: str = ".0f") -> tuple[str, str]:
    least, most = (format(end, form).replace("-", "−") if round(end, 1) else "0" for end in (low, high))
    return least, most


def _interval(low: float, high: float) -> str:
    return f"{low:+.1f} to {high:+.1f}".replace("-", "−")
