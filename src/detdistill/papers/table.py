"""A paper's tables, ours beside the published ones, with everything that differs in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detdistill.detectors.catalogue import build_detector, parse_detector
from detdistill.detectors.complexity import complexity
from detdistill.jobs.run import ALONE, DISTILLED, TEACHER
from detdistill.methods.composition import structure
from detdistill.papers.plan import Plan
from detdistill.papers.rows import Metric, Paper, PaperRow, PublishedComplexity
from detdistill.papers.runs import SMOKE_STEPS_AN_EPOCH, RowRuns, Scale
from detdistill.report.tables import Cell, Table

SMOKE_HEADLINE = "smoke: these figures test the code, not the paper"
_COST_COLUMNS = ("detector", "classes", "pixels", "parameters, M", "ours", "GFLOPs", "ours ")
_COLUMNS = ("row", "model", "metric", "published", "ours", "published gain", "our gain")
SMOKE_NOTES = (
    "The detectors are tiny ones of the same family, trained from scratch on small images by AdamW.",
    f"A training has {SMOKE_STEPS_AN_EPOCH} steps of 4 images for every epoch of the paper's.",
)


@dataclass(frozen=True, slots=True)
class ReproducedLine:
    """A line of the table.

    Attributes:
        model: teacher, alone, the method's name, or what we lack for the row.
        published: the paper's figure in percent; None where it gives none, as for `ours`.
        published_gain: over the student alone, or over the row that it is compared with, as `our_gain`; in words
            where the paper has words.
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
class ComplexityLine:
    """The paper's line for a detector, and ours: millions of parameters with frozen ones, billions of multiply-adds."""

    published: PublishedComplexity
    parameters: float
    gflops: float


@dataclass(frozen=True, slots=True)
class ReproduceOutcome:
    """A paper's table, ours beside the published one.

    Attributes:
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
        smoke = self.scale == "smoke"
        return [
            *([SMOKE_HEADLINE, ""] if smoke else []),
            self.paper.title,
            f"published figures: {self.paper.figures}",
            "",
            *Table(_COLUMNS, tuple(line.cells() for line in self.lines), signed=("our gain",)).text().splitlines(),
            "",
            *complexity_text(self.complexity),
            *(["Here:", *(f"  - {note}" for note in self.notes), ""] if self.notes else []),
            f"Differences from the paper{' at full scale' if smoke else ''}:",
            *(f"  - {sentence}{_whose(rows)}" for sentence, rows in self.differences.items()),
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
            "lines": [{**asdict(line), "run": line.run and str(line.run)} for line in self.lines],
            "complexity": [asdict(line) for line in self.complexity],
            "notes": list(self.notes),
            "differences": {sentence: list(rows) for sentence, rows in self.differences.items()},
        }


def table_lines(
    rows: Sequence[PaperRow], runs: Mapping[str, RowRuns], figures: Mapping[str, Mapping[Metric, float | None]]
) -> list[ReproducedLine]:
    """The lines of a paper's table, from the runs of every covered row by its name, and the figures by run's name."""
    by_name = {row.name: row for row in rows}

    def of(row: PaperRow, role: str) -> tuple[float | None, float | None]:
        """A row's published figure for a role, and ours."""
        run = runs[row.name].runs.get(role)
        return row.published_of(role), None if run is None else figures.get(run.name, {}).get(row.metric)

    lines: list[ReproducedLine] = []
    for row in rows:
        if row.needs is not None:
            said = (row.published, None, row.published_gain, None, None)
            lines.append(ReproducedLine(row.name, f"not covered: needs {row.needs}", row.metric, *said))
            continue
        for role, run in runs[row.name].runs.items():
            published, ours = of(row, role)
            if role == TEACHER and published is None:
                continue
            model, gain, our_gain = role, None, None
            if role == DISTILLED:
                base = row if row.against is None else by_name[row.against]
                base_published, base_ours = of(base, DISTILLED if row.against and base.method else ALONE)
                model = role if row.method_settings is None else structure(row.method_settings)
                gain, our_gain = row.published_gain or _less(published, base_published), _less(ours, base_ours)
            lines.append(ReproducedLine(row.name, model, row.metric, published, ours, gain, our_gain, run.config.out))
    return lines


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def count_complexity(paper: Paper) -> tuple[ComplexityLine, ...]:
    """Builds each detector of the paper's table of costs, with random weights, and counts."""
    lines = []
    for said in paper.complexity:
        names = tuple(f"class {index}" for index in range(said.classes))
        detector = build_detector(parse_detector(said.detector), names, seed=0)
        found = complexity(detector, height=said.pixels, width=said.pixels)
        lines.append(ComplexityLine(said, found.parameters / 1e6, found.total_macs / 1e9))
    return tuple(lines)


def complexity_text(lines: Sequence[ComplexityLine]) -> list[str]:
    """The table of costs as plain text; nothing without lines."""
    rows = [
        (said.detector, said.classes, said.pixels, said.parameters, line.parameters, said.gflops, line.gflops)
        for line in lines
        for said in [line.published]
    ]
    return [*Table(_COST_COLUMNS, tuple(rows)).text(decimals=2).splitlines(), ""] if rows else []


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
    more = f" and {len(rows) - 3} more" if len(rows) > 4 else ""
    return f" [{', '.join(rows[:3] if more else rows)}{more}]" if rows else ""
