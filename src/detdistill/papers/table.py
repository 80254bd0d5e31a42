"""A paper's table, ours beside the published one, with everything that differs in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detdistill.jobs.run import ALONE, DISTILLED, TEACHER
from detdistill.papers.complexity import ComplexityLine, complexity_text
from detdistill.papers.data import PreparedData
from detdistill.papers.plan import Plan
from detdistill.papers.rows import Metric, Paper, PaperRow
from detdistill.papers.runs import SMOKE_STEPS_AN_EPOCH, RowRuns, Scale
from detdistill.report.tables import Cell, Table

SMOKE_HEADLINE = "smoke: these figures test the code, not the paper"
_COLUMNS = ("row", "model", "metric", "published", "ours", "published gain", "our gain")
_SMOKE_NOTES = (
    "The detectors are tiny ones of the same family, trained from scratch on small images by AdamW.",
    "A training has {steps} steps of 4 images for every epoch of the paper's.",
)


@dataclass(frozen=True, slots=True)
class ReproducedLine:
    """A line of the table.

    Attributes:
        row: the row's name.
        model: teacher, alone, the method's name, or what we lack for the row.
        metric: what the figures are.
        published: the paper's figure in percent; None where it gives none.
        ours: what was measured; None where it was not.
        published_gain: over the student alone, or over the row that it is compared with; in words where the paper
            has words.
        our_gain: likewise.
        run: folder of the run; None where there is none.
    """

    row: str
    model: str
    metric: Metric
    published: float | None
    ours: float | None
    published_gain: float | str | None
    our_gain: float | None
    run: Path | None

    def cells(self) -> tuple[Cell, ...]:
        """The line as `Table` takes it."""
        gain = f"{self.published_gain:+.1f}" if isinstance(self.published_gain, float) else self.published_gain
        return (self.row, self.model, self.metric, self.published, self.ours, gain, self.our_gain)


@dataclass(frozen=True, slots=True)
class ReproduceOutcome:
    """A paper's table, ours beside the published one.

    Attributes:
        paper: what all rows share.
        scale: ``"smoke"`` or ``"full"``.
        out: folder of the runs.
        lines: of the table.
        differences: from the paper at full scale, a sentence each, with the rows that it is about; no rows for all.
        notes: what else differs here: of a smoke test, or of the data.
        plan: what a full reproduction takes, where no more was asked for; else None.
        complexity: what the paper's detectors cost, where it has a table of that.
    """

    paper: Paper
    scale: Scale
    out: Path
    lines: Sequence[ReproducedLine]
    differences: Mapping[str, Sequence[str]]
    notes: Sequence[str] = ()
    plan: Plan | None = None
    complexity: Sequence[ComplexityLine] = ()

    def table(self) -> list[str]:
        """The table, and everything that differs from the paper, in words."""
        table = Table(_COLUMNS, tuple(line.cells() for line in self.lines), signed=("our gain",))
        smoke = self.scale == "smoke"
        head = [SMOKE_HEADLINE, ""] if smoke else []
        notes = ["Here:", *(f"  - {note}" for note in self.notes), ""] if self.notes else []
        differences = [f"  - {sentence}{_whose(rows)}" for sentence, rows in self.differences.items()]
        return [
            *head,
            self.paper.title,
            f"published figures: {self.paper.figures}",
            "",
            *table.text().splitlines(),
            "",
            *complexity_text(self.complexity),
            *notes,
            f"Differences from the paper{' at full scale' if smoke else ''}:",
            *differences,
            "",
            *([] if self.plan is None else self.plan.lines()),
            f"runs and this table in {self.out}",
        ]

    def as_dict(self) -> Mapping[str, Any]:
        """The table and the differences."""
        return {
            "scale": self.scale,
            "note": SMOKE_HEADLINE if self.scale == "smoke" else None,
            "paper": self.paper.title,
            "figures": self.paper.figures,
            "lines": [
                {
                    "row": line.row,
                    "model": line.model,
                    "metric": line.metric,
                    "published": line.published,
                    "ours": line.ours,
                    "published_gain": line.published_gain,
                    "our_gain": line.our_gain,
                    "run": None if line.run is None else str(line.run),
                }
                for line in self.lines
            ],
            "complexity": [asdict(line) for line in self.complexity],
            "notes": list(self.notes),
            "differences": {sentence: list(rows) for sentence, rows in self.differences.items()},
        }


def table_lines(
    rows: Sequence[PaperRow], runs: Mapping[str, RowRuns], figures: Mapping[str, Mapping[Metric, float | None]]
) -> list[ReproducedLine]:
    """The lines of a paper's table.

    Args:
        rows: in the order of the table.
        runs: of every covered row, by its name.
        figures: of every finished run, by its name and the metric.
    """
    by_name = {row.name: row for row in rows}
    lines: list[ReproducedLine] = []
    for row in rows:
        if row.needs is not None:
            lines.append(_line(row, f"not covered: needs {row.needs}", published=row.published))
            continue
        ours = {role: figures.get(run.name, {}).get(row.metric) for role, run in runs[row.name].runs.items()}
        published = _published(row)
        for role, run in runs[row.name].runs.items():
            if role == TEACHER and published[TEACHER] is None:
                continue
            model = role if role != DISTILLED else row.method_name or role
            gains: tuple[float | str | None, float | None] = (None, None)
            if role == DISTILLED:
                base = _base(row, by_name, runs, figures)
                gains = (
                    row.published_gain or _less(published[DISTILLED], base[0]),
                    _less(ours[DISTILLED], base[1]),
                )
            lines.append(_line(row, model, published=published[role], ours=ours[role], gains=gains, run=run.config.out))
    return lines


def _line(
    row: PaperRow,
    model: str,
    *,
    published: float | None,
    ours: float | None = None,
    gains: tuple[float | str | None, float | None] | None = None,
    run: Path | None = None,
) -> ReproducedLine:
    published_gain, our_gain = gains or (row.published_gain if row.needs is not None else None, None)
    return ReproducedLine(row.name, model, row.metric, published, ours, published_gain, our_gain, run)


def _published(row: PaperRow) -> dict[str, float | None]:
    student, teacher = row.student, row.teacher
    alone = None if student is None else student.published
    return {TEACHER: None if teacher is None else teacher.published, ALONE: alone, DISTILLED: row.published}


def _base(
    row: PaperRow,
    rows: Mapping[str, PaperRow],
    runs: Mapping[str, RowRuns],
    figures: Mapping[str, Mapping[Metric, float | None]],
) -> tuple[float | None, float | None]:
    """The published figure that a row's gain is measured from, and ours."""
    other = row if row.against is None else rows[row.against]
    role = ALONE if row.against is None else runs[other.name].main
    run = runs[other.name].runs.get(role)
    return _published(other)[role], None if run is None else figures.get(run.name, {}).get(row.metric)


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def notes_of(data: Iterable[PreparedData], scale: Scale) -> tuple[str, ...]:
    """What the table must be read with beside the differences of a full reproduction."""
    smoke = [text.format(steps=SMOKE_STEPS_AN_EPOCH) for text in _SMOKE_NOTES] if scale == "smoke" else []
    return (*smoke, *dict.fromkeys(note for prepared in data for note in prepared.notes))


def differences_of(paper: Paper, rows: Sequence[PaperRow]) -> dict[str, tuple[str, ...]]:
    """Every sentence once, with the rows that it is about; none where it is about all."""
    found: dict[str, list[str]] = {sentence: [] for sentence in paper.differences}
    covered = [row for row in rows if row.needs is None]
    for row in covered:
        for sentence in row.differences:
            found.setdefault(sentence, []).append(row.name)
    return {sentence: () if len(names) == len(covered) else tuple(names) for sentence, names in found.items()}


def _whose(rows: Sequence[str]) -> str:
    """The rows that a difference is about, in brackets; the first few of many."""
    if not rows:
        return ""
    more = f" and {len(rows) - 3} more" if len(rows) > 4 else ""
    return f" [{', '.join(rows[:3] if more else rows)}{more}]"
