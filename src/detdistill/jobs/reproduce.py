"""Runs the published rows of a paper, and prints our figures beside the published ones."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detdistill.detectors.saved import load_detector
from detdistill.errors import ConfigError
from detdistill.evaluate.coco import CocoMetrics
from detdistill.evaluate.voc import evaluate_voc
from detdistill.files import read_json, write_json, write_text
from detdistill.jobs.distill import ALONE, DISTILLED, TEACHER, distill_job
from detdistill.jobs.fitting import RESULTS, device_of
from detdistill.jobs.opening import measure, open_data
from detdistill.jobs.paper_data import PreparedData, full_data, smoke_data
from detdistill.jobs.paper_plan import Plan, make_plan, require_room
from detdistill.jobs.paper_rows import Metric, Paper, PaperRow, chosen_rows, read_paper
from detdistill.jobs.paper_runs import SMOKE_STEPS_AN_EPOCH, PaperRun, RowRuns, Scale, in_order, row_runs
from detdistill.jobs.settings import RunConfig
from detdistill.jobs.train import STUDENT, train_job
from detdistill.progress import Progress, Silence
from detdistill.report.tables import Cell, Table

SMOKE_HEADLINE = "smoke: these figures test the code, not the paper"
TEST_DATA = "DETDISTILL_TEST_DATA"
VOC = "voc.json"

_AP50: Metric = "AP50"
_VOC: Metric = "VOC AP50"
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
        plan: what a full reproduction takes; None for a smoke test.
    """

    paper: Paper
    scale: Scale
    out: Path
    lines: Sequence[ReproducedLine]
    differences: Mapping[str, Sequence[str]]
    notes: Sequence[str] = ()
    plan: Plan | None = None

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
            "notes": list(self.notes),
            "differences": {sentence: list(rows) for sentence, rows in self.differences.items()},
        }


def reproduce_job(
    paper: str,
    *,
    row: str | None = None,
    data: Path | None = None,
    scale: Scale = "smoke",
    out: Path | None = None,
    plan_only: bool = False,
    papers: Path | None = None,
    progress: Progress | None = None,
) -> ReproduceOutcome:
    """Trains what a paper's rows need, each training once and each in a folder of its own, and fills its table.

    An interrupted reproduction goes on where it was; runs that are finished are not made again, and papers that share
    a folder share their teachers.

    Args:
        paper: aid, frs, ssim or ikd.
        row: one row's name; None for all. The row that it is measured against is made too.
        data: where the data sets are. Full: a folder with ``kitti`` and ``coco``, or the one needed. Smoke: a folder
            with small ones, by default what the variable DETDISTILL_TEST_DATA names, else scenes are drawn.
        scale: ``"smoke"`` for a test of minutes, ``"full"`` for the paper's size.
        out: folder of runs and tables; None for ``runs/reproduce-SCALE``.
        plan_only: full: check the data, estimate time and disk, train nothing.
        papers: folder of row files; None for those that come with detdistill.
        progress: told how it goes.

    Raises:
        DistillError: anything that cannot be used, in one sentence.
        Interrupted: stopped by a signal, with the checkpoint saved.
    """
    watcher = progress or Silence()
    if plan_only and scale == "smoke":
        raise ConfigError("--plan must come with --scale full, got --scale smoke. A smoke test takes minutes.")
    if data is not None and not data.is_dir():
        raise ConfigError(f"--data {data} must be a folder of data sets, got no such folder. Check the path.")
    about, all_rows = read_paper(paper, folder=papers)
    rows = chosen_rows(all_rows, row)
    folder = out or Path("runs") / f"reproduce-{scale}"
    prepared = _data_of(rows, root=data, scale=scale, out=folder, progress=watcher)
    needed = [row_runs(one, prepared[_data_key(one)], scale=scale, out=folder) for one in rows if one.needs is None]
    runs = in_order(needed)
    plan: Plan | None = None
    if scale == "full":
        by_run = {run.name: prepared[_data_key(one.row)] for one in needed for run in one.runs.values()}
        plan = make_plan(runs, by_run, finished={run.name for run in runs if _finished(run)}, progress=watcher)
        for line in plan.lines():
            watcher.say(line)
        require_room(plan, folder)
    if not plan_only:
        for number, run in enumerate(runs, start=1):
            _make(run, watcher, place=f"training {number} of {len(runs)}")
    voc = {run.name for one in needed for run in one.runs.values() if one.row.metric == _VOC}
    figures = {run.name: _figures(run, voc=run.name in voc, progress=watcher) for run in runs if _finished(run)}
    outcome = ReproduceOutcome(
        paper=about,
        scale=scale,
        out=folder,
        lines=_lines(rows, {one.row.name: one for one in needed}, figures),
        differences=_differences(about, rows),
        notes=_notes(prepared.values(), scale),
        plan=plan,
    )
    if not plan_only:
        name = paper if row is None else f"{paper}-{row}"
        write_json(folder / f"{name}.json", outcome.as_dict())
        write_text(folder / f"{name}.txt", "\n".join(outcome.table()) + "\n")
    return outcome


def _whose(rows: Sequence[str]) -> str:
    """The rows that a difference is about, in brackets; the first few of many."""
    if not rows:
        return ""
    more = f" and {len(rows) - 3} more" if len(rows) > 4 else ""
    return f" [{', '.join(rows[:3] if more else rows)}{more}]"


def _data_key(row: PaperRow) -> tuple[str, str]:
    return row.data, row.classes


def _data_of(
    rows: Sequence[PaperRow], *, root: Path | None, scale: Scale, out: Path, progress: Progress
) -> dict[tuple[str, str], PreparedData]:
    """The data sets that the covered rows need, each prepared once."""
    wanted = {_data_key(row): row for row in rows if row.needs is None}
    if scale == "smoke":
        named = os.environ.get(TEST_DATA)
        place = root or (Path(named) if named else None)
        return {
            key: smoke_data(row.data, row.classes, root=place, out=out, progress=progress)
            for key, row in wanted.items()
        }
    if root is None and wanted:
        raise ConfigError(
            "--data must be the folder of the data sets at --scale full, got none. Pass --data ROOT with kitti/ and "
            "coco/ in it, or try --scale smoke first."
        )
    return {
        key: full_data(row.data, row.classes, root=root or Path(), out=out, progress=progress)
        for key, row in wanted.items()
    }


def _finished(run: PaperRun) -> bool:
    return (run.config.out / RESULTS).is_file()


def _make(run: PaperRun, progress: Progress, *, place: str) -> None:
    if _finished(run):
        progress.say(f"{place}: {run.name} is there")
        return
    progress.say(f"{place}: {run.name}")
    if run.needs is None:
        train_job(run.config, resume=True, progress=progress)
    else:
        distill_job(run.config, resume=True, progress=progress)


def _figures(run: PaperRun, *, voc: bool, progress: Progress) -> dict[Metric, float | None]:
    """What a finished run achieved, by metric; Pascal VOC's is measured where a row asks for it, and kept."""
    content = read_json(run.config.out / RESULTS)
    metrics = CocoMetrics.from_dict(content[STUDENT if run.needs is None else DISTILLED])
    found: dict[Metric, float | None] = {"AP": metrics.ap, _AP50: metrics.ap50}
    if voc:
        kept = run.config.out / VOC
        if not kept.is_file():
            write_json(kept, _voc(run.config, progress))
        found[_VOC] = read_json(kept)["mAP"]
    return found


def _voc(config: RunConfig, progress: Progress) -> dict[str, Any]:
    data = open_data(config.data, image=None, progress=progress)
    detector = load_detector(config.out).detector
    measured = measure(
        detector,
        data.val,
        data.image,
        what="Pascal VOC's AP",
        backend=config.evaluate.backend,
        batch_size=config.evaluate.batch_size,
        device=device_of(config),
        progress=progress,
    )
    return evaluate_voc(data.val, measured.found).as_dict()


def _lines(
    rows: Sequence[PaperRow], runs: Mapping[str, RowRuns], figures: Mapping[str, Mapping[Metric, float | None]]
) -> list[ReproducedLine]:
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


def _notes(data: Iterable[PreparedData], scale: Scale) -> tuple[str, ...]:
    """What the table must be read with beside the differences of a full reproduction."""
    smoke = [text.format(steps=SMOKE_STEPS_AN_EPOCH) for text in _SMOKE_NOTES] if scale == "smoke" else []
    return (*smoke, *dict.fromkeys(note for prepared in data for note in prepared.notes))


def _differences(paper: Paper, rows: Sequence[PaperRow]) -> dict[str, tuple[str, ...]]:
    """Every sentence once, with the rows that it is about; none where it is about all."""
    found: dict[str, list[str]] = {sentence: [] for sentence in paper.differences}
    covered = [row for row in rows if row.needs is None]
    for row in covered:
        for sentence in row.differences:
            found.setdefault(sentence, []).append(row.name)
    return {sentence: () if len(names) == len(covered) else tuple(names) for sentence, names in found.items()}
