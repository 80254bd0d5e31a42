"""Tables as plain text and as data; nothing here prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detdistill.evaluation.coco import CocoMetrics

Cell = str | int | float | None
FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
BASELINE = "alone"


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows of text and numbers; None is a value that is not known or not defined.

    Attributes:
        columns: the header.
        rows: one cell per column.
        signed: columns whose numbers show their sign, such as differences.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    signed: tuple[str, ...] = ()

    def text(self, *, decimals: int = 1) -> str:
        """The table as aligned plain text, with a rule below the header: words left, numbers right."""
        return format_table(self, decimals=decimals)

    def records(self) -> list[dict[str, Cell]]:
        """One dictionary per row, ready for JSON."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def side_by_side(results: Mapping[str, CocoMetrics | None], *, baseline: str = BASELINE) -> Table:
    """COCO's figures of several models, one row each, with the difference in AP from the student alone.

    Args:
        results: metrics by the name of the row, in the order of the rows; None where a model was not measured.
        baseline: the row that the others are compared with.

    Returns:
        Columns: model, AP, AP50, AP75, APs, APm, APl in percent, and "AP vs alone" in points.
    """
    base = results.get(baseline)
    rows: list[tuple[Cell, ...]] = []
    for name, metrics in results.items():
        figures = metrics.figures() if metrics is not None else dict.fromkeys(FIGURES)
        gained = None if name == baseline else _difference(metrics, base)
        rows.append((name, *(figures[figure] for figure in FIGURES), gained))
    difference = f"AP vs {baseline}"
    return Table(("model", *FIGURES, difference), tuple(rows), signed=(difference,))


def per_class(results: Mapping[str, CocoMetrics | None]) -> Table:
    """AP of every class, one row per class and one column per model that was measured.

    Args:
        results: metrics by model; None where a model was not measured.
    """
    measured = {name: metrics for name, metrics in results.items() if metrics is not None}
    classes = dict.fromkeys(label for metrics in measured.values() for label in metrics.per_class)
    return Table(
        ("class", *measured),
        tuple((label, *(metrics.per_class.get(label) for metrics in measured.values())) for label in classes),
    )


def results_json(results: Mapping[str, CocoMetrics | None]) -> dict[str, Any]:
    """What ``results.json`` holds: the figures in percent by model; null where they are missing.

    Args:
        results: metrics by model, such as teacher, alone and distilled; None where a model was not measured.
    """
    return {name: None if metrics is None else metrics.as_dict() for name, metrics in results.items()}


def results_from_json(content: Mapping[str, Any]) -> dict[str, CocoMetrics | None]:
    """What `results_json` was made from; entries that are no metrics are left out."""
    return {
        name: None if entry is None else CocoMetrics.from_dict(entry)
        for name, entry in content.items()
        if entry is None or (isinstance(entry, Mapping) and "AP" in entry)
    }


def format_table(table: Table, *, decimals: int = 1) -> str:
    """The table as aligned plain text: words left, numbers right, a dash for None."""
    formats = [f"{'+' if name in table.signed else ''}.{decimals}f" for name in table.columns]
    body = [[_cell(cell, form) for cell, form in zip(row, formats, strict=True)] for row in table.rows]
    widths = [max(len(line[i]) for line in [list(table.columns), *body]) for i in range(len(table.columns))]
    left = [any(isinstance(row[i], str) for row in table.rows) for i in range(len(table.columns))]
    lines = [_line(table.columns, widths, left), "  ".join("─" * width for width in widths)]
    lines += [_line(row, widths, left) for row in body]
    return "\n".join(lines)


def _difference(metrics: CocoMetrics | None, base: CocoMetrics | None) -> float | None:
    if metrics is None or base is None or metrics.ap is None or base.ap is None:
        return None
    return metrics.ap - base.ap


def _cell(cell: Cell, form: str) -> str:
    if cell is None:
        return "–"
    return format(cell, form) if isinstance(cell, float) else str(cell)


def _line(cells: Sequence[str], widths: Sequence[int], left: Sequence[bool]) -> str:
    padded = [
        cell.ljust(width) if to_left else cell.rjust(width)
        for cell, width, to_left in zip(cells, widths, left, strict=True)
    ]
    return "  ".join(padded).rstrip()
