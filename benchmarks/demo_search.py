"""Searches the demo's numbers on other scenes (seed 100) than those that are reported (seeds 0, 1, 2).

First the student's own learning rate and schedule, for the student trained alone; then the recipe's gains, with the
student's training as that search left it. Each training runs in one process, so that two searches can run side by
side; the demo splits the same batches over two. Every run is its own folder and is not repeated; the table is
rewritten after each.

    python benchmarks/demo_search.py --json benchmarks/results/demo_search.json
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detdistill.threads import quiet_threads

quiet_threads()

from detdistill.demo import SCENES, DemoPlan, demo_configs, write_labelled  # noqa: E402
from detdistill.files import read_json, write_json  # noqa: E402
from detdistill.jobs.run import (  # noqa: E402
    ALONE,
    DISTILLED,
    TEACHER,
    distill_job,
    train_job,
)
from detdistill.jobs.settings import RunConfig  # noqa: E402
from detdistill.methods.catalogue import METHODS as KNOWN  # noqa: E402
from detdistill.methods.catalogue import method_tree  # noqa: E402
from detdistill.progress import ScreenProgress  # noqa: E402
from detdistill.scenes import make_scenes  # noqa: E402
from detdistill.training.settings import ScheduleName  # noqa: E402

SEED = 100
STUDENT_RATES = (4e-3, 8e-3, 1.6e-2)
_FRS = {"standardize": True, "aligner": "conv1x1", "feature_gain": 0.02}
# The class gain was chosen while the schedule was still the cosine; the rest with the student's own schedule.
METHODS: tuple[tuple[str, dict[str, Any], ScheduleName], ...] = (
    ("frs", {**_FRS, "class_gain": 1.5}, "cosine"),
    ("frs", {**_FRS, "class_gain": 4.0}, "cosine"),
    ("frs", {**_FRS, "class_gain": 1.5}, "step"),
    ("frs", {**_FRS, "class_gain": 0.0}, "step"),
    ("hint", {"gain": 3.0}, "step"),
    ("hint", {"gain": 1.0}, "step"),
    ("hint", {"gain": 0.3}, "step"),
    ("ssim", {"gain": 4.0}, "step"),
)


@dataclass(frozen=True)
class Trial:
    """One run of the search."""

    name: str
    config: RunConfig


def trials(plan: DemoPlan, out: Path, stage: str) -> Iterator[Trial]:
    configs = {
        name: replace(config, train=replace(config.train, batch_size=16, processes=1))
        for name, config in demo_configs(plan, out=out, seed=SEED).items()
    }
    if stage in ("teacher", "all"):
        yield Trial(TEACHER, configs[TEACHER])
    if stage in ("student", "all"):
        alone = configs[ALONE]
        for rate in STUDENT_RATES:
            name = f"alone_lr{rate:g}"
            yield Trial(name, replace(alone, train=replace(alone.train, lr=rate, schedule="cosine"), out=out / name))
        yield Trial("alone_step", replace(alone, train=replace(alone.train, schedule="step"), out=out / "alone_step"))
    if stage in ("method", "all"):
        for method, numbers, schedule in METHODS:
            name = "_".join([method, *(f"{key}{value}" for key, value in numbers.items()), schedule])
            choice = KNOWN.find(method).settings(**numbers)
            config = replace(configs[DISTILLED], alone=None, method=choice, out=out / name)
            yield Trial(name, replace(config, train=replace(config.train, schedule=schedule)))


def run(trial: Trial) -> dict[str, Any]:
    results = trial.config.out / "results.json"
    if not results.is_file():
        job = distill_job if trial.config.method else train_job
        job(trial.config, resume=True, progress=ScreenProgress())
    content = read_json(results)
    figures = content.get(DISTILLED) or content["student"]
    return {
        "AP": figures["AP"],
        "AP50": figures["AP50"],
        "steps": content["steps"],
        "seconds": content["seconds"],
        "lr": trial.config.train.lr,
        "schedule": trial.config.train.schedule,
        "method": None if trial.config.method is None else method_tree(trial.config.method),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", choices=("teacher", "student", "method", "all"), default="all")
    parser.add_argument("--out", type=Path, default=Path("runs/search"))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/demo_search.json"))
    chosen = parser.parse_args()
    plan = DemoPlan()
    make_scenes(
        chosen.out / SCENES,
        train=plan.train_scenes,
        val=plan.val_scenes,
        seed=SEED,
        width=plan.width,
        height=plan.height,
    )
    write_labelled(chosen.out, plan.labelled_scenes)
    for trial in trials(plan, chosen.out, chosen.stage):
        run(trial)
        existing = [one for one in trials(plan, chosen.out, "all") if (one.config.out / "results.json").is_file()]
        table = {one.name: run(one) for one in existing}
        print(f"{trial.name:<60} AP {table[trial.name]['AP']:.1f}", flush=True)
        write_json(chosen.json, table)


if __name__ == "__main__":
    main()
