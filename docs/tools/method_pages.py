"""One page a method, made of its own documentation, its settings, and what the benchmarks measured of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from detdistill.jobs.methods import setting_meanings
from detdistill.methods.catalogue import METHODS, RecipeDescription, describe
from detdistill.settings.calls import written

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PICTURES = ROOT / "benchmarks/results", ROOT / "docs/methods"
# The tables, and what their rows have in common.
TABLES = (
    ("evidence/table.md", "At one strength", "strength 3, which is the default; the interval is over the seeds"),
    ("methods/table.md", "At the published gains", "`--strength published`; ± is the standard error over the seeds"),
    ("pairs/table.md", "Between families", "teacher → student, on drawn scenes, at strength 3"),
)
# What every page has of a method on its own, beside it with images that nobody labelled.
BESIDE = ("", " + unlabelled")
# What pulls in the picture of a method that wraps.
DRAWN = {"aid": "`aid(frs)` pulls", "ikd": "`ikd(frs)` pulls on the image's adversarial twin"}


@dataclass(frozen=True, slots=True)
class Measured:
    """A row of a table: what was trained on what, and its cells by the column's title."""

    data: str
    row: str
    cells: dict[str, str]

    @property
    def gain(self) -> str:
        """AP against the same student alone."""
        return self.cells.get("against alone", "")

    @property
    def seeds(self) -> int:
        """Over how many it is a mean."""
        return len(self.cells.get("each seed", self.cells.get("seeds", "")).split(","))

    @property
    def spread(self) -> str:
        """How sure that is: an interval, a standard error, or each seed."""
        if "95 % interval" in self.cells:
            return self.cells["95 % interval"] or f"seeds {self.cells.get('each seed', '')}"
        errors = [value for title, value in self.cells.items() if title.startswith("± s.e.")]
        return f"± {errors[-1]}" if errors and errors[-1] else self.cells.get("each seed", "")


def measured(file: Path) -> Iterator[Measured]:
    """The rows of the first table of a file that compare with the student alone."""
    lines = [
        line.strip().strip("|").split("|") for line in file.read_text(encoding="utf-8").splitlines() if "|" in line
    ]
    titles = [title.strip() for title in lines[0]]
    titles = [title if titles.index(title) == index else f"{title} {index}" for index, title in enumerate(titles)]
    for line in lines[2:]:
        cells = dict(zip(titles, (cell.strip() for cell in line), strict=False))
        if len(line) != len(titles) or not cells.get("against alone"):
            continue
        yield Measured(cells.get("set", cells.get("data", "drawn")), cells["row"].strip("`"), cells)


def of_method(rows: list[Measured], method: RecipeDescription) -> list[Measured]:
    """Those of a method as it is, or of what it wraps; settings that were tried stand in the benchmarks alone."""
    name = method.name
    if method.wraps:
        return [one for one in rows if re.match(rf"{name}\(|control of {name}\(", one.row)]
    wanted = {f"{name}{more}" for more in BESIDE}
    return [one for one in rows if one.row in wanted or one.row.split(", ")[-1] in wanted]


def verdict(rows: list[Measured]) -> list[str]:
    """What the intervals of rows say, a point for each of gains, losses, and neither; none where there are none."""
    said: dict[str, list[str]] = {"It gains": [], "It loses": [], "Its interval holds 0": []}
    for one in rows:
        ends = re.fullmatch(r"([+-][\d.]+) to ([+-][\d.]+)", one.cells.get("95 % interval", ""))
        if ends is not None:
            low, high = map(float, ends.groups())
            kind = "It gains" if low > 0 else "It loses" if high < 0 else "Its interval holds 0"
            extra = ", with images without labels" if one.row.endswith("unlabelled") else ""
            said[kind].append(f"{one.data}{extra} ({one.gain})")
    return [f"- **{kind}** on {'; '.join(where)}." for kind, where in said.items() if where]


def beside(rows: list[Measured], everything: list[Measured]) -> list[str]:
    """How far what wraps is from what it wraps, and from its control, where as many seeds of both were trained."""
    known = {(one.data, one.row): one for one in everything}
    points = []
    for one in rows:
        inside = re.fullmatch(r"\w+\((.*?)(?:, \w+=\S+)*\)", one.row)
        if inside is None or "control=true" in one.row:
            continue
        controls = (f"{one.row[:-1]}, control=true)", f"control of {one.row}")
        others = [(f"`{inside[1]}`", inside[1]), *(("its control", control) for control in controls)]
        there = [(told, known[one.data, row]) for told, row in others if (one.data, row) in known]
        gaps = [(told, float(one.gain) - float(other.gain)) for told, other in there if other.seeds == one.seeds]
        if gaps:
            said = ", ".join(f"{gap:+.1f} AP against {told}" for told, gap in gaps)
            points.append(f"- `{one.row}` on {one.data}: {said}.")
    return points


def page(method: RecipeDescription) -> str:
    """The page of one method."""
    name = method.name
    lines = [f"# {name}", "", method.summary, ""]
    if (PICTURES / f"{name}.webp").is_file():
        lines += [
            f"![How hard {name} pulls at each cell of the student's maps]({name}.webp)",
            "",
            f"How hard {DRAWN.get(name, 'it pulls')} at each cell of the student's maps, light is hard, each level on "
            "its own scale: the length of the gradient of its terms, on one of the demo's scenes, at a student that "
            "learned alone ([how it was drawn](index.md#the-pictures)).",
            "",
        ]
    lines += ["## Formula", "", "```text", method.formula, "```", ""]
    lines += ["## What it needs", "", _escaped(method.needs), "", "Which detectors that are: [pairs](../pairs.md).", ""]
    lines += ["## When it helps, by our evidence", "", *_evidence(method)]
    lines += [
        "## Settings",
        "",
        f'Change one with `method.KEY=VALUE`, or in the text: `--method "{_example(method)}"`.',
        "",
    ]
    lines += ["| key | default | meaning |", "|---|---|---|"]
    for key, meaning in setting_meanings(name).items():
        if key in method.defaults:
            value = written(method.defaults[key])
            lines.append(f"| `{key}` | `{_cell(value)}` | {_cell(_escaped(meaning))} |")
    lines += ["", "## Source", "", _escaped(method.source), "", "## Where it differs from the source", ""]
    return "\n".join([*lines, _escaped(method.differs), ""])


def _evidence(method: RecipeDescription) -> list[str]:
    lines: list[str] = []
    for file, heading, told in TABLES:
        everything = list(measured(RESULTS / file))
        rows = of_method(everything, method)
        if not rows:
            continue
        points = beside(rows, everything) if method.wraps else verdict(rows)
        lines += [f"**{heading}** ({told}):", "", *points, *([""] if points else [])]
        lines += ["| data | what | AP | against alone | how sure |", "|---|---|---|---|---|"]
        lines += [f"| {one.data} | `{one.row}` | {one.cells['AP']} | {one.gain} | {one.spread} |" for one in rows]
        lines.append("")
    if not lines:
        return ["Nothing was trained with it for the benchmarks yet, so that no figure speaks for or against it.", ""]
    return [*lines, "What the data sets are, and every other row: [benchmarks](../../benchmarks/README.md).", ""]


def index() -> str:
    """The page of all methods."""
    lines = [
        "# Methods",
        "",
        "A method says what the student imitates. They compose: `frs + ssim` adds two up, `aid(...)` weighs any of "
        "them by how well the teacher does on an image and level, `ikd(...)` shows them changed images. Every one is "
        "brought to [one strength](../training.md#how-strong-a-method-is) unless you say otherwise.",
        "",
        "| method | what the student imitates | on drawn scenes | on 40 labelled micrographs |",
        "|---|---|---|---|",
    ]
    rows = list(measured(RESULTS / TABLES[0][0]))
    for name in METHODS:
        method = describe(name)
        own = {one.data: one for one in rows if one.row == name}
        gains = [f"{own[data].gain} AP" if data in own else "" for data in ("drawn", "bccd, 40 labels")]
        lines.append(f"| [`{name}`]({name}.md) | {_cell(_escaped(method.summary))} | {' | '.join(gains)} |")
    lines += [
        "",
        "The gains are those over the same student alone, the mean of three seeds at strength 3, far from convergence "
        "([with their intervals](../../benchmarks/README.md#at-one-strength-at-lengths-where-it-counts)). An empty "
        "cell means that nobody measured it there. Where to begin: "
        "[what the figures advise](../../benchmarks/README.md#where-to-begin); what helps on your data: [`detdistill "
        "tune`](../training.md#which-method-at-which-strength-detdistill-tune) and [a proof](../proof.md).",
        "",
        "## The pictures",
        "",
        " ".join(_about_pictures()),
        "",
    ]
    return "\n".join(lines)


def pages() -> dict[str, str]:
    """Every page by its name in the site."""
    return {"methods/index.md": index(), **{f"methods/{name}.md": page(describe(name)) for name in METHODS}}


def _about_pictures() -> list[str]:
    """What the script that draws them says of itself, but for how it is called."""
    text = (ROOT / "benchmarks/method_pictures.py").read_text(encoding="utf-8").split('"""')[1]
    said = text.split("\n\n")[2:]
    return [
        "`make method-pictures` draws them, from the folder that `make demo` leaves.",
        *(" ".join(one.split()) for one in said),
    ]


def _example(method: RecipeDescription) -> str:
    return f"{method.name}(METHOD, KEY=VALUE)" if method.wraps else f"{method.name}(KEY=VALUE)"


def _escaped(text: str) -> str:
    """Docstrings are plain text: what Markdown would read as its own is kept as it stands."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_<\[\]])", r"\\\1", part) for part in parts)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
