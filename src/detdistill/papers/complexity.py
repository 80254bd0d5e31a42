"""A paper's table of what its detectors cost, ours beside the published one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detdistill.detectors.catalogue import build_detector, parse_detector
from detdistill.detectors.complexity import complexity
from detdistill.papers.rows import Paper, PublishedComplexity
from detdistill.report.tables import Table

_COLUMNS = ("detector", "classes", "pixels", "parameters, M", "ours", "GFLOPs", "ours ")


@dataclass(frozen=True, slots=True)
class ComplexityLine:
    """The paper's line for a detector, and ours: millions of parameters with frozen ones, billions of multiply-adds."""

    published: PublishedComplexity
    parameters: float
    gflops: float


def count_complexity(paper: Paper) -> tuple[ComplexityLine, ...]:
    """Builds each detector of the paper's table, with random weights, and counts."""
    lines = []
    for said in paper.complexity:
        names = tuple(f"class {index}" for index in range(said.classes))
        detector = build_detector(parse_detector(said.detector), names, seed=0)
        found = complexity(detector, height=said.pixels, width=said.pixels)
        lines.append(ComplexityLine(said, found.parameters / 1e6, found.total_macs / 1e9))
    return tuple(lines)


def complexity_text(lines: Sequence[ComplexityLine]) -> list[str]:
    """The table as plain text; nothing without lines."""
    rows = [
        (said.detector, said.classes, said.pixels, said.parameters, line.parameters, said.gflops, line.gflops)
        for line in lines
        for said in [line.published]
    ]
    return [*Table(_COLUMNS, tuple(rows)).text(decimals=2).splitlines(), ""] if rows else []
