"""Tables as plain text and as data; nothing here prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detdistill.evaluation.coco import CocoMetrics
from detdistill.evaluation.error_types import KINDS, ErrorTypes

Cell = str | int | float | None
FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
BASELINE = "alone"
AGNOSTIC = "boxes suppressed across classes"
"""What is said of figures, and of drawings, where detectors were agnostic."""


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows of text and numbers, None where unknown; numbers of signed columns show their sign."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    signed: tuple[str, ...] = ()

    def text(self, *, decimals: int = 1) -> str:
        """The table as aligned plain text, a rule below the header: words left, numbers right, a dash for None."""
        formats = [f"{'+' if name in self.signed else ''}.{decimals}f" for name in self.columns]
        body = [[_cell(cell, form) for cell, form in zip(row, formats, strict=True)] for row in self.rows]
        is_text = [any(isinstance(row[i], str) for row in self.rows) for i in range(len(self.columns))]
        widths = [max(len(line[i]) for line in [list(self.columns), *body]) for i in range(len(self.columns))]
        lines = [list(self.columns), ["─" * width for width in widths], *body]
        aligned = [
            [cell.ljust(w) if words else cell.rjust(w) for cell, w, words in zip(line, widths, is_text, strict=True)]
            for line in lines
        ]
        return "\n".join("  ".join(line).rstrip() for line in aligned)

    def records(self) -> list[dict[str, Cell]]:
        """One dictionary per row, ready for JSON."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def side_by_side(results: Mapping[str, CocoMetrics | None], *, baselines: Sequence[str] = (BASELINE,)) -> Table:
    """COCO's figures of several models, one row each, with the difference in AP from the student alone.

    Args:
        results: metrics by the name of the row, in the order of the rows; None where a model was not measured.
        baselines: the rows that the others are compared with, each in a column.

    Returns:
        Columns: model, AP, AP50, AP75, APs, APm, APl in percent, and, where the baseline is a row, "AP vs alone" in
        points.
    """
    figures = {k: dict.fromkeys(FIGURES) if v is None else v.figures() for k, v in results.items()}
    told = [baseline for baseline in baselines if baseline in figures]
    rows: list[tuple[Cell, ...]] = []
    for name, own in figures.items():
        gains: list[Cell] = []
        for baseline in told:
            ap, base = own["AP"], figures[baseline]["AP"]
            gains.append(None if name == baseline or ap is None or base is None else ap - base)
        rows.append((name, *(own[figure] for figure in FIGURES), *gains))
    differences = tuple(f"AP vs {baseline}" for baseline in told)
    return Table(("model", *FIGURES, *differences), tuple(rows), signed=differences)


def per_class(results: Mapping[str, CocoMetrics | None], *, change: tuple[str, str] | None = None) -> Table:
    """AP of every class, one row per class and one column per model that was measured (None for the others).

    Args:
        change: two models, where both were measured: a last column has the first's difference from the second.
    """
    measured = {name: metrics for name, metrics in results.items() if metrics is not None}
    classes = dict.fromkeys(label for metrics in measured.values() for label in metrics.per_class)
    columns = {name: metrics.per_class for name, metrics in measured.items()}
    signed: tuple[str, ...] = ()
    if change is not None and (gained := class_change(results, *change)):
        signed = (f"{change[0]} vs {change[1]}",)
        columns[signed[0]] = gained
    rows = tuple((label, *(column.get(label) for column in columns.values())) for label in classes)
    return Table(("class", *columns), rows, signed=signed)


def class_change(results: Mapping[str, CocoMetrics | None], model: str, baseline: str) -> dict[str, float | None]:
    """By how much AP of every class differs between two models; empty where one of them was not measured."""
    ours, theirs = results.get(model), results.get(baseline)
    if ours is None or theirs is None:
        return {}
    pairs = {label: (value, theirs.per_class.get(label)) for label, value in ours.per_class.items()}
    return {label: None if a is None or b is None else a - b for label, (a, b) in pairs.items()}


def error_costs(errors: Mapping[str, ErrorTypes], *, change: tuple[str, str] | None = None) -> Table:
    """The AP50 that each kind of error costs, one row per kind and one column per model, in points.

    Args:
        errors: by model; of one alone, how many errors there are as well.
        change: two models, where both are there: a last column has the first's cost minus the second's.
    """
    costs: dict[str, Mapping[str, Cell]] = {name: one.costs for name, one in errors.items()}
    signed: tuple[str, ...] = ()
    if change is not None and change[0] in errors and change[1] in errors:
        signed, (first, second) = (f"{change[0]} vs {change[1]}",), (errors[name].costs for name in change)
        costs[signed[0]] = {
            kind: None if cost is None else cost - (second[kind] or 0.0) for kind, cost in first.items()
        }
    if len(errors) == 1:
        costs = {"errors": next(iter(errors.values())).counts, "AP50 lost": next(iter(costs.values()))}
    columns = ("AP50 lost to" if len(errors) > 1 else "error type", *costs)
    return Table(columns, tuple((kind, *(column[kind] for column in costs.values())) for kind in KINDS), signed=signed)


def results_json(results: Mapping[str, CocoMetrics | None]) -> dict[str, Any]:
    """What ``results.json`` holds: the figures in percent by model; null where they are missing."""
    return {name: None if metrics is None else metrics.as_dict() for name, metrics in results.items()}


def _cell(cell: Cell, form: str) -> str:
    if cell is None:
        return "–"
    return format(cell, form) if isinstance(cell, float) else str(cell)
