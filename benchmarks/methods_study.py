"""Every method on drawn scenes, bccd and carla_sim, over several seeds: one resumable command, one JSON a run.

Start it as often as the machine has cores; each run is made by one of them. The drawn scenes and their teachers are
those of `demo_study.py`, the photographs' teachers those of `real_data.py`; both are made here where they are missing.

    python benchmarks/methods_study.py --data FOLDER_OF_DATA_SETS
    python benchmarks/methods_study.py --table   # what there is so far, and what is missing
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from detdistill.threads import quiet_threads

quiet_threads()

import torch  # noqa: E402

import real_data  # noqa: E402
from detdistill.bench.machine import machine  # noqa: E402
from detdistill.demo import DemoPlan, demo_configs, make_demo_scenes  # noqa: E402
from detdistill.files import read_json, write_json, write_text  # noqa: E402
from detdistill.jobs.config import read_run_config  # noqa: E402
from detdistill.jobs.run import (  # noqa: E402
    DISTILLED,
    TEACHER,
    distill_job,
    train_job,
)
from detdistill.progress import ScreenProgress  # noqa: E402

SEEDS = (0, 1, 2)
ALONE, SDA, SELF = "alone", "alone + SDA", "self-distillation (frs)"
DRAWN_STEPS = 200
SHARES = ("noise_eligible", "noised_expected", "cropped")

DRAWN_ROWS = {
    "hint": "hint",
    "attention": "attention",
    "frs": "frs",
    "ssim": "ssim",
    "frs + ssim": "frs + ssim",
    "fgd": "fgd",
    "mgd": "mgd",
    "aid(attention)": "aid(attention)",
    "control of aid(attention)": "aid(attention, control=true)",
    "aid(frs)": "aid(frs)",
    "control of aid(frs)": "aid(frs, control=true)",
    "ikd(fgd)": "ikd(fgd)",
    "aid(frs + ssim)": "aid(frs + ssim)",
    "aid(ikd(frs + ssim))": "aid(ikd(frs + ssim))",
    SELF: "frs",
}
PHOTO_ROWS = {key: DRAWN_ROWS[key] for key in ("frs", "aid(frs)", "control of aid(frs)", "ikd(fgd)")}
BEST_DRAWN = "hint"
# Choices that the sources leave open, and a weight that spreads further than AID's alpha of 0.1, on every seed.
OPTIONS = {
    "drawn": (
        "frs(scale=per_channel)",
        "ssim(rescale_over=channel)",
        "aid(frs, alpha=2)",
        "aid(frs, alpha=2, control=true)",
    ),
    "bccd": ("frs(scale=per_channel)", "ssim", "ssim(rescale_over=channel)"),
}
# Gains other than the published ones, for methods that these do not help at this size, on the first seed.
SWEEP = {
    "drawn": (
        "fgd(gain=0.1)",
        "fgd(gain=0.01)",
        "fgd(gain=0.001)",
        "fgd(gain=0.0001)",
        "attention(feature_gain=0.005)",
        "attention(nonlocal_gain=0)",
        "ikd(fgd(gain=0.01))",
    ),
    "bccd": (
        "frs(feature_gain=0.001)",
        "frs(class_gain=0.5)",
        "frs(feature_gain=0.02, standardize=true)",
        "fgd(gain=0.01)",
        "fgd(gain=0.001)",
        "ikd(fgd(gain=0.01))",
    ),
}


@dataclass(frozen=True)
class Run:
    """One training of the study."""

    group: str
    row: str
    method: str | None
    seed: int

    @property
    def name(self) -> str:
        return f"{self.group}/{re.sub(r'[^a-z0-9]+', '_', self.row.lower()).strip('_')}_{self.seed}"

    @property
    def data(self) -> str:
        return self.group.removesuffix("_scratch").removesuffix("_changed")


def planned() -> list[Run]:
    runs = []
    for seed in SEEDS:
        rows: dict[str, str | None] = {ALONE: None, SDA: None, **DRAWN_ROWS}
        runs += [Run("drawn", row, method, seed) for row, method in rows.items()]
    for seed in SEEDS:
        rows = {ALONE: None, **PHOTO_ROWS, f"{BEST_DRAWN} (best of the drawn)": BEST_DRAWN}
        for group in ("bccd", "carla_sim"):
            runs += [Run(group, row, method, seed) for row, method in rows.items()]
        runs += [Run("bccd_scratch", f"{family} alone", None, seed) for family in ("fcos", "gfl")]
    for changed, seeds in ((OPTIONS, SEEDS), (SWEEP, SEEDS[:1])):
        for group, methods in changed.items():
            runs += [Run(f"{group}_changed", method, method, seed) for method in methods for seed in seeds]
    return runs


@dataclass(frozen=True)
class Places:
    """Where the study reads and writes."""

    data: Path | None
    out: Path
    scenes: Path
    photos: Path
    backbones: Path
    results: Path


def train(run: Run, places: Places) -> dict[str, Any] | None:
    """Makes one run; None where something it needs is being made by another process."""
    drawn = run.data == "drawn"
    teacher = drawn_teacher(run.seed, places) if drawn else photo_teacher(run, places)
    if teacher is None:
        return None
    out = places.out / run.name
    shared = None if drawn else shared_run(run, places)
    if shared is not None and places.data is not None:
        real_data.train(shared, data=places.data, backbones=places.backbones)
        return figures_in(shared.out, run)
    options: dict[str, object] = {"out": out, "seed": run.seed}
    settings = drawn_settings(run, places) if drawn else photo_settings(run, places)
    if run.row == SDA:
        settings += ["data.sample_specific={}"]
    if run.method is None:
        train_job(read_run_config(None, settings, purpose="train", options=options), resume=True, progress=WATCH)
    else:
        if run.row == SELF:
            alone = places.out / f"drawn/alone_{run.seed}"
            if not (alone / "results.json").is_file():
                return None
            teacher = alone
        options |= {
            "method": run.method,
            "method.strength": "published",
            "teacher.source": teacher,
            "twins.folder": places.out / "twins",
        }
        distill_job(read_run_config(None, settings, purpose="distill", options=options), resume=True, progress=WATCH)
    return figures_in(out, run)


def figures_in(out: Path, run: Run) -> dict[str, Any]:
    """What a finished run's folder says."""
    content = read_json(out / "results.json")
    figures = content["student"] if run.method is None else content[DISTILLED]
    return {
        **{key: figures[key] for key in ("AP", "AP50", "AP75")},
        "method": run.method,
        "steps": content["steps"],
        "seconds": content["seconds"],
        "teacher": (content.get(TEACHER) or {}).get("AP"),
        "sample_specific": content.get("sample_specific"),
        "machine": machine(torch.device("cpu")),
    }


def drawn_teacher(seed: int, places: Places) -> Path | None:
    out = places.scenes / f"seed_{seed}"
    with locked(out) as mine:
        if not mine:
            return None
        make_demo_scenes(DemoPlan(), out=out, seed=seed, progress=WATCH)
        config = demo_configs(DemoPlan(), out=out, seed=seed)[TEACHER]
        if not (config.out / "results.json").is_file():
            train_job(config, resume=True, progress=WATCH)
        return config.out


def drawn_settings(run: Run, places: Places) -> list[str]:
    out, plan = places.scenes / f"seed_{run.seed}", DemoPlan()
    own = plan.student_training
    return [
        f"student={plan.student}",
        f"data.folder={out / 'scenes'}",
        f"data.train={out / 'labelled.json'}",
        f"data.image.short_side={plan.height}",
        f"data.image.long_side={plan.width}",
        f"train.steps={DRAWN_STEPS}",
        f"train.batch_size={own.batch_size * own.processes}",
        f"train.lr={own.lr}",
        f"train.warmup_steps={own.warmup_steps}",
        f"train.ema_decay={own.ema_decay}",
        "train.threads=1",
        "train.device=cpu",
    ]


def photo_group(run: Run) -> real_data.Group:
    scratch = run.group.endswith("_scratch")
    return next(group for group in real_data.GROUPS if group.data == run.data and ("scratch" in group.name) == scratch)


def photo_teacher(run: Run, places: Places) -> Path | None:
    group = photo_group(run)
    out = places.photos / f"{group.data}_teacher_{run.seed}"
    with locked(out) as mine:
        if not mine:
            return None
        if run.method is not None and places.data is not None:
            made = real_data.Run(group, real_data.TEACHER, run.seed, out)
            real_data.train(made, data=places.data, backbones=places.backbones)
        return out


def shared_run(run: Run, places: Places) -> real_data.Run | None:
    """The run of `real_data.py` that this one equals; None where there is none."""
    model = real_data.ALONE if run.row in (ALONE, "fcos alone") else run.method
    if model not in (real_data.ALONE, *real_data.METHODS) or run.row.startswith("gfl"):
        return None
    kind = "scratch" if run.group.endswith("_scratch") else "imagenet"
    group = photo_group(run)
    return real_data.Run(group, model, run.seed, places.photos / f"{group.data}_{kind}" / f"{model}_{run.seed}")


def photo_settings(run: Run, places: Places) -> list[str]:
    group = photo_group(run)
    if places.data is None:
        raise SystemExit("give --data FOLDER_OF_DATA_SETS, or set DETDISTILL_TEST_DATA")
    detector, *_ = group.student
    if run.row.startswith("gfl"):
        detector = detector.replace("fcos", "gfl")
    return [
        *real_data.settings_of(group, teacher=False, backbones=places.backbones),
        f"student={detector}",
        f"data.folder={places.data / group.data}",
        f"train.steps={group.student_steps}",
    ]


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Whether this process alone works on a folder now; a killed process lets go of it by itself."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def table(places: Places) -> list[str]:
    """Mean ± standard error of what there is, beside the same seeds alone."""
    lines = [
        "| data | row | AP | ± s.e. | against alone | ± s.e. | AP50 | seconds | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    runs = planned()
    for group, row in dict.fromkeys((run.group, run.row) for run in runs):
        mine = [run for run in runs if (run.group, run.row) == (group, row)]
        have = {run.seed: read_json(result(run, places)) for run in mine if result(run, places).is_file()}
        if not have:
            lines.append(f"| {group} | `{row}` | missing | | | | | | |")
            continue
        alone = {seed: result(Run(group.removesuffix("_changed"), ALONE, None, seed), places) for seed in have}
        pairs = [have[seed]["AP"] - read_json(file)["AP"] for seed, file in alone.items() if file.is_file()]
        gain = f"{mean(pairs):+.1f} | {error(pairs)}" if pairs and row != ALONE else " | "
        values = [one["AP"] for one in have.values()]
        lines.append(
            f"| {group} | `{row}` | {mean(values):.1f} | {error(values)} | {gain} | "
            f"{mean(one['AP50'] for one in have.values()):.1f} | "
            f"{median(one['seconds'] for one in have.values()):.0f} | "
            f"{', '.join(map(str, sorted(have)))}{'' if len(have) == len(mine) else ' (others missing)'} |"
        )
    return [*lines, "", *shares(runs, places)]


def shares(runs: list[Run], places: Places) -> list[str]:
    """How many images `alone + SDA` and `ikd(...)` change, which the sizes of the boxes decide."""
    lines = ["| data | images that may be noised | noised | cropped |", "|---|---|---|---|"]
    for data in dict.fromkeys(run.data for run in runs):
        done = [read_json(result(run, places)) for run in runs if run.data == data and result(run, places).is_file()]
        found = [one["sample_specific"] for one in done if one["sample_specific"]]
        cells = [f"{mean(one[key] for one in found):.0%}" for key in SHARES] if found else ["missing", "", ""]
        lines.append(f"| {data} | {' | '.join(cells)} |")
    return lines


def error(values: list[float]) -> str:
    return f"{stdev(values) / len(values) ** 0.5:.1f}" if len(values) > 1 else ""


def result(run: Run, places: Places) -> Path:
    return places.results / f"{run.name}.json"


WATCH = ScreenProgress()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("DETDISTILL_TEST_DATA"))
    parser.add_argument("--group", help="make the runs of this group alone, such as drawn")
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    parser.add_argument("--scenes", type=Path, default=Path("runs/study"))
    parser.add_argument("--photos", type=Path, default=Path("runs/real"))
    parser.add_argument("--backbones", type=Path, default=Path("runs/backbones"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/methods"))
    parser.add_argument("--table", action="store_true", help="make no run")
    chosen = parser.parse_args()
    data = None if chosen.data is None else Path(chosen.data)
    places = Places(data, chosen.out, chosen.scenes, chosen.photos, chosen.backbones, chosen.results)
    runs = [] if chosen.table else [run for run in planned() if chosen.group in (None, run.group)]
    while left := [run for run in runs if not result(run, places).is_file()]:
        advanced = False
        for run in left:
            with locked(places.out / run.name) as mine:
                if not mine or result(run, places).is_file():
                    continue
                print(f"--- {run.name}", flush=True)
                figures = train(run, places)
                if figures is not None:
                    write_json(result(run, places), figures)
                    print(f"=== {run.name}: AP {figures['AP']:.1f}", flush=True)
                    advanced = True
        if not advanced:
            time.sleep(5)
    lines = table(places)
    write_text(places.results / "table.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
