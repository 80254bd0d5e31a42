"""One table of every measured ratio, with its goal: what `make bench` prints and writes at its end.

    python benchmarks/bench_table.py runs/bench benchmarks/results --json FILE [--markdown FILE]

A benchmark's JSON that has `rows` (`detdistill.bench.rows.row`) is in it; a goal between a ratio's quartiles is met or
missed by the median alone, which noise may have decided. Where two files measured the same thing, the folder that is
named first counts. A markdown file that has the marks of the section gets it between them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import ascii_uppercase

from detdistill.bench.rows import ROWS, Row
from detdistill.files import read_json, write_json, write_text

BEGIN, END = "<!-- ratios -->", "<!-- /ratios -->"
COLUMNS = ("what", "ratio", "quartiles", "rounds", "target", "met", "on")


def collected(folders: Iterable[Path]) -> list[Row]:
    """The rows of all JSON files that lie in the folders themselves."""
    found: dict[str, Row] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.json")):
            content = read_json(path)
            rows = content.get(ROWS, ()) if isinstance(content, dict) else ()
            # Other benchmarks call other things so.
            for one in (row for row in rows if isinstance(row, dict) and {"what", "ratio", "hardware"} <= row.keys()):
                found.setdefault(one["what"], {**one, "file": path.name})
    return sorted(found.values(), key=lambda one: (one["file"], one["what"]))


def cells(one: Row) -> tuple[str, ...]:
    """A row as texts."""
    low, high = one["quartiles"]
    spread = f"{low:.3f} to {high:.3f}"
    return one["what"], f"{one['ratio']:.3f}", spread, str(one["rounds"]), one["target"] or "", _met(one)


def _met(one: Row) -> str:
    """Whether the goal is met, which is not known where the quartiles lie on both sides of it."""
    if one["target"] is None:
        return ""
    low, high = one["quartiles"]
    if low < float(one["target"].split()[1]) < high:
        return f"{'met' if one['met'] else 'missed'} by the median alone"
    return "met" if one["met"] else "not met"


def machines(rows: Iterable[Row]) -> dict[str, str]:
    """The letter that stands for each machine, by its name."""
    return dict(zip(sorted({one["hardware"] for one in rows}), ascii_uppercase, strict=False))


def _lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    letters = machines(rows)
    return [(*cells(one), letters[one["hardware"]]) for one in rows]


def plain(rows: Sequence[Row]) -> list[str]:
    """The table for a terminal."""
    lines = [COLUMNS, *_lines(rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def markdown(rows: Sequence[Row]) -> list[str]:
    """The table as markdown, what was tried where a goal is missed, and the hardware."""
    lines = [f"| {' | '.join(line)} |" for line in (COLUMNS, ["---"] * len(COLUMNS), *_lines(rows))]
    missed = [f"- {one['what']}: {one['tried']}" for one in rows if one["met"] is False and one["tried"]]
    measured = (f"{letter}: {name}" for name, letter in machines(rows).items())
    told = ["", "Where a goal is not met, this was tried:", "", *missed] if missed else []
    return [*lines, *told, "", f"Measured on {'; '.join(measured)}."]


def written_into(path: Path, section: Sequence[str]) -> None:
    """Writes the section between its marks of a file, or as a file."""
    text = "\n".join((BEGIN, "", *section, "", END))
    if path.is_file():
        before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        if not (begin and end):
            raise SystemExit(f"{path} must have the marks {BEGIN} and {END}, got a file without. Add them.")
        text = f"{before}{text}{after}"
    else:
        text += "\n"
    write_text(path, text)


def main() -> None:
    """Collects, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    chosen = parser.parse_args()
    rows = collected(chosen.folders)
    print("\n".join(plain(rows)))
    for machine, letter in machines(rows).items():
        print(f"{letter}: {machine}")
    if chosen.json is not None:
        write_json(chosen.json, {"table": rows})
    if chosen.markdown is not None:
        written_into(chosen.markdown, markdown(rows))


if __name__ == "__main__":
    main()
