"""Pairs that have no family in common, on drawn scenes: transformers' RT-DETR, boxes alone, two specialists.

    python benchmarks/pair_study.py --out runs/pairs --budget 300 --jobs 12
    python benchmarks/pair_study.py --table      # what there is so far

Every seed has scenes and teachers of its own. One JSON a run in benchmarks/results/pairs; a run that is done is not
made again, and none is begun that the budget has no time for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from detdistill.threads import quiet_threads

quiet_threads()

import detdistill  # noqa: E402
from detdistill.files import read_json  # noqa: E402
from detdistill.jobs.config import read_run_config  # noqa: E402
from detdistill.progress import Silence  # noqa: E402
from evidence_plan import COMMON, SETS, Run  # noqa: E402
from evidence_runs import Places, carry_out, options  # noqa: E402

SCENES = "drawn, 400 steps"
FCOS, DETR = "fcos", "rt-detr"
TEACHERS = {FCOS: "fcos/small", DETR: "hf:rtdetr_v2_small"}
STUDENTS = {FCOS: "fcos/tiny", DETR: "hf:rtdetr_v2_tiny"}
SPECIALISTS = {"vehicles": ("car", "truck"), "others": ("pedestrian", "cyclist", "traffic light")}
# What each kind of detector learns by, as a teacher and as a student.
OURS = ("train.lr=8e-3", "train.schedule=step")
THEIRS = ("train.optimizer=adamw", "train.lr=5e-4", "train.weight_decay=1e-4", "train.clip_norm=0.1")
STEPS = {FCOS: 400, DETR: 700}  # of students


@dataclass(frozen=True)
class PairRun(Run):
    """A training of a pair.

    Attributes:
        kind: of the detector that learns.
        own_steps: how many; None for those of students of its kind.
        teachers: rows of those that it learns from.
        by_predictions: whether it gets a file of what the teacher found, instead of the teacher.
        classes: that it learns; None for all.
    """

    kind: str = FCOS
    own_steps: int | None = None
    teachers: tuple[str, ...] = ()
    by_predictions: bool = False
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class PairPlaces(Places):
    """The same for pairs."""

    def steps(self, run: Run) -> int:
        assert isinstance(run, PairRun)
        return max(2, round((run.own_steps or STEPS[run.kind]) * self.share))

    def teachers(self, run: Run) -> list[Run]:
        assert isinstance(run, PairRun)
        return [one for one in planned([run.seed]) if one.row in run.teachers]

    def config(self, run: Run) -> Any:
        """The settings of a run as the command line would have them; a file of predictions is written first."""
        assert isinstance(run, PairRun)
        chosen = SETS[SCENES]
        folder, short, long = self.folder(chosen, run.seed), *chosen.image
        own = OURS if run.kind == FCOS else THEIRS
        settings = [*COMMON, *own, f"data.image.short_side={short}", f"data.image.long_side={long}", *run.settings]
        options: dict[str, object] = {
            "student.detector": (STUDENTS if run.teachers or run.row.startswith("alone") else TEACHERS)[run.kind],
            "data.folder": folder / "scenes",
            "out": self.out / "runs" / run.name,
            "seed": run.seed,
            "train.steps": self.steps(run),
        }
        if run.row.startswith("teacher"):
            settings.append("train.ema_decay=0.99")
        else:
            options["data.train"] = folder / "labelled.json"
        if run.classes is not None:
            settings.append(f"data.classes={json.dumps(run.classes)}")
        if run.method is not None:
            sources = [self.out / "runs" / one.name for one in self.teachers(run)]
            if run.by_predictions:
                sources = [self.predictions(run, sources[0])]
            options |= {
                "method": run.method,
                "teacher.source": str(sources[0]) if len(sources) == 1 else [*map(str, sources)],
            }
        if run.unlabelled:
            options["data.unlabelled.source"] = folder / f"unlabelled_{chosen.labels}_{run.seed}.txt"
        return read_run_config(None, settings, purpose="train" if run.method is None else "distill", options=options)

    def predictions(self, run: Run, teacher: Path) -> Path:
        """What the teacher finds in all images of the scenes, as a user would write it."""
        scenes = self.folder(SETS[SCENES], run.seed) / "scenes"
        file = scenes / f"found_by_{teacher.parent.name}_for_{Path(run.name).name}.json"
        if not file.is_file():
            detdistill.predict(teacher, data=scenes, coco=file, score=0.05, class_scores=True, progress=Silence())
        return file


def planned(seeds: Sequence[int]) -> list[PairRun]:
    """All runs, teachers first."""

    def rows(seed: int) -> Iterator[PairRun]:
        def run(row: str, method: str | None = None, **changes: Any) -> PairRun:
            return PairRun("pairs", row, seed, method, **changes)

        yield run("teacher, rt-detr", kind=DETR, own_steps=1300)
        yield run("teacher, rt-detr, 800 steps", kind=DETR, own_steps=800)
        yield run("teacher, fcos", own_steps=900)
        for name, classes in SPECIALISTS.items():
            yield run(f"teacher, {name}", own_steps=900, classes=classes)
        for kind in (DETR, FCOS):
            yield run(f"alone, {kind}", kind=kind)
        for method in ("hint", "boxes"):
            yield run(f"fcos → rt-detr, {method}", method, kind=DETR, teachers=("teacher, fcos",))
        for method in ("hint", "boxes"):
            yield run(f"rt-detr → fcos, {method}", method, teachers=("teacher, rt-detr",))
            yield run(f"fcos → fcos, {method}", method, teachers=("teacher, fcos",))
            yield run(f"two specialists → fcos, {method}", method, teachers=("teacher, vehicles", "teacher, others"))
        named = {"teachers": ("teacher, fcos",), "by_predictions": True}
        yield run("predictions of fcos → fcos, boxes", "boxes", **named)
        yield run("predictions of fcos → fcos, boxes + unlabelled", "boxes", unlabelled=True, **named)
        same = {"kind": DETR, "teachers": ("teacher, rt-detr, 800 steps",)}
        yield run("rt-detr → rt-detr, queries", "queries", **same)
        published = ("method.strength=published",)
        yield run("rt-detr → rt-detr, queries, published gains", "queries", settings=published, **same)

    runs = [run for seed in seeds for run in rows(seed)]
    return sorted(runs, key=lambda run: not run.row.startswith("teacher"))


def table(places: PairPlaces, runs: Sequence[PairRun]) -> list[str]:
    """What there is: AP of each row, and against the same student and seed alone."""
    lines = ["| row | AP | against alone | each seed | AP50 | steps |", "|---|---|---|---|---|---|"]
    have = {run: found for run in runs if (found := places.done(run))}
    for row in dict.fromkeys(run.row for run in have):
        mine = {run.seed: (run, one) for run, one in have.items() if run.row == row}
        kind = next(iter(mine.values()))[0].kind
        alone = {run.seed: one["AP"] for run, one in have.items() if run.row == f"alone, {kind}"}
        gains = [one["AP"] - alone[seed] for seed, (run, one) in mine.items() if run.method and seed in alone]
        cells = [
            row,
            f"{mean(one['AP'] for _, one in mine.values()):.1f}",
            f"{mean(gains):+.1f}" if gains else "",
            ", ".join(f"{gain:+.1f}" for gain in gains) or ", ".join(f"{one['AP']:.1f}" for _, one in mine.values()),
            f"{mean(one['AP50'] for _, one in mine.values()):.1f}",
            f"{mean(one['steps'] for _, one in mine.values()):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    failed = [run for run in runs if run not in have and places.result(run).is_file()]
    told = [f"{run.name}: {read_json(places.result(run))['error']}" for run in failed]
    return [*lines, "", f"{len(have)} of {len(runs)} runs are there.", *told]


def main() -> None:
    """Runs what the command line asks for."""
    parser = options(__doc__, out="runs/pairs", results="benchmarks/results", budget=7200.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    chosen = parser.parse_args()
    places = PairPlaces(Path(), chosen.out.resolve(), chosen.results.resolve(), chosen.share)
    runs = planned(chosen.seeds)
    if chosen.rows:
        wanted = [run for run in runs if run.row in chosen.rows]
        needed = {one for run in wanted for one in places.teachers(run)}
        runs = [run for run in runs if run in wanted or run in needed]
    carry_out(chosen, places, runs, sets=[SCENES], table=table, file=places.results / "pairs" / "table.md")


if __name__ == "__main__":
    main()
