"""Runs the published rows of a paper, and prints our figures beside the published ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from detdistill.errors import ConfigError
from detdistill.evaluation.coco import CocoMetrics
from detdistill.evaluation.voc import evaluate_voc
from detdistill.files import figures_of, read_json, require_own, write_figures, write_json, write_text
from detdistill.jobs.run import DISTILLED, STUDENT, distill_job, train_job
from detdistill.jobs.settings import RunConfig
from detdistill.jobs.stages import held, measure, open_inputs
from detdistill.json_text import used_as
from detdistill.papers.data import PreparedData, full_data, smoke_data
from detdistill.papers.plan import Plan, make_plan, require_room
from detdistill.papers.rows import Metric, PaperRow, chosen_rows, read_paper
from detdistill.papers.runs import PaperRun, Scale, in_order, row_runs
from detdistill.papers.table import SMOKE_NOTES, ReproduceOutcome, count_complexity, differences_of, table_lines
from detdistill.progress import Progress, Silence
from detdistill.store.layout import RunFolder
from detdistill.store.students import load_detector

TEST_DATA = "DETDISTILL_TEST_DATA"
_COMMAND = "reproduce"
_VOC_FILE = "voc.json"
_VOC: Metric = "VOC AP50"


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

    Raises:
        DistillError: anything that cannot be used, in one sentence.
        Interrupted: stopped by a signal, with the checkpoint saved.
    """
    watcher = progress or Silence()
    if plan_only and scale == "smoke":
        raise ConfigError("--plan must come with --scale full, got --scale smoke. Add --scale full.")
    if data is not None and not data.is_dir():
        raise ConfigError(f"--data {data} must be a folder of data sets, got no such folder. Check the path.")
    about, all_rows = read_paper(paper, folder=papers)
    rows = chosen_rows(all_rows, row)
    folder = out or Path("runs") / f"reproduce-{scale}"
    covered = [one for one in rows if one.needs is None]
    figures_file = folder / f"{paper if row is None else f'{paper}-{row}'}.json"
    text_file = figures_file.with_name(figures_file.stem + ".txt")
    require_own(figures_file, "The table's file", figures_of(_COMMAND))
    if text_file.exists() and not figures_file.exists():
        raise ConfigError(f"{text_file} must be a new file, or a table of ours, got another. Give another folder.")
    with nullcontext() if plan_only else held(folder):
        prepared = _data_of(covered, root=data, scale=scale, out=folder, progress=watcher)
        needed = [row_runs(one, prepared[one.data, one.classes], scale=scale, out=folder) for one in covered]
        runs = in_order(needed)
        plan: Plan | None = None
        if scale == "full":
            by_run = {run.name: prepared[one.row.data, one.row.classes] for one in needed for run in one.runs.values()}
            plan = make_plan(runs, by_run, finished={run.name for run in runs if _finished(run)}, progress=watcher)
            for line in plan.lines():
                watcher.say(line)
            require_room(plan, folder)
        if not plan_only:
            for number, run in enumerate(runs, start=1):
                made = _finished(run)
                watcher.say(f"training {number} of {len(runs)}: {run.name}{' is there' if made else ''}")
                if not made:
                    job = train_job if run.needs is None else distill_job
                    if undrawn := job(run.config, resume=True, progress=watcher).undrawn:
                        watcher.say(f"{undrawn.said} The run is finished all the same.")
        told = dict.fromkeys(note for one in prepared.values() for note in one.notes)
        voc = {run.name for one in needed for run in one.runs.values() if one.row.metric == _VOC}
        figures = {run.name: _figures(run, voc=run.name in voc, progress=watcher) for run in runs if _finished(run)}
        outcome = ReproduceOutcome(
            paper=about,
            scale=scale,
            out=folder,
            lines=table_lines(rows, {one.row.name: one for one in needed}, figures),
            differences=differences_of(about, rows),
            notes=(*(SMOKE_NOTES if scale == "smoke" else ()), *told),
            plan=plan if plan_only else None,
            complexity=count_complexity(about) if row is None and not plan_only else (),
        )
        if not plan_only:
            write_figures(figures_file, outcome.as_dict(), command=_COMMAND, option="The table's file")
            write_text(text_file, "\n".join(outcome.table()) + "\n")
    return outcome


def _data_of(
    rows: Sequence[PaperRow], *, root: Path | None, scale: Scale, out: Path, progress: Progress
) -> dict[tuple[str, str], PreparedData]:
    """The data sets that rows need, each prepared once."""
    named = os.environ.get(TEST_DATA)
    prepared: dict[tuple[str, str], PreparedData] = {}
    for data, classes in dict.fromkeys((row.data, row.classes) for row in rows):
        if scale == "smoke":
            place = root or (Path(named) if named else None)
            prepared[data, classes] = smoke_data(data, classes, root=place, out=out, progress=progress)
        elif root is not None:
            prepared[data, classes] = full_data(data, classes, root=root, out=out, progress=progress)
        else:
            raise ConfigError(
                "--data must be the folder of the data sets at --scale full, got none. Pass --data ROOT with kitti/ "
                "and coco/ in it, or try --scale smoke first."
            )
    return prepared


def _finished(run: PaperRun) -> bool:
    return RunFolder(run.config.out).results.is_file()


def _figures(run: PaperRun, *, voc: bool, progress: Progress) -> dict[Metric, float | None]:
    """What a finished run achieved, by metric; Pascal VOC's is measured where a row asks for it, and kept."""
    results = RunFolder(run.config.out).results
    with used_as(results, "a run's results"):
        metrics = CocoMetrics.from_dict(read_json(results)[STUDENT if run.needs is None else DISTILLED])
    found: dict[Metric, float | None] = {"AP": metrics.ap, "AP50": metrics.ap50}
    if voc:
        kept = run.config.out / _VOC_FILE
        if not kept.is_file():
            write_json(kept, _voc(run.config, progress))
        with used_as(kept, "Pascal VOC's figures"):
            found[_VOC] = read_json(kept)["mAP"]
    return found


def _voc(config: RunConfig, progress: Progress) -> dict[str, Any]:
    opened = open_inputs(replace(config, teacher=None, method=None, alone=None), resume=True, progress=progress)
    what = "Pascal VOC's AP"
    measured = measure(opened, {what: load_detector(config.out).detector}, progress=progress)[what]
    return evaluate_voc(opened.data.val, measured.found).as_dict()
