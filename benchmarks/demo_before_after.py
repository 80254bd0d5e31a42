"""The demo's training time in one checkout of the library beside another, interleaved.

    python benchmarks/demo_before_after.py --before OTHER/src --json FILE

In every round both begin each of the demo's trainings, as the demo does it, for a few steps, and which goes first
alternates. What counts is the clock of the later half of the steps, when every image has been seen, as in most of the
demo's steps; its training time is that of all steps of its teacher, its student alone and its distilled student.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from checkouts import SERVE, Checkout, quartiles, ratios, serve

TRAININGS = ("teacher", "alone", "distilled")
GOAL = 0.85
TRIED = "70 % of a step are convolutions, as torch has them"


@cache
def _configs(home: Path, steps: int) -> dict[str, Any]:
    """The demo's runs, each of so many steps, on as many scenes as its student has labels for, evaluated on one."""
    from detdistill.demo import DemoPlan, demo_configs, make_demo_scenes
    from detdistill.progress import Silence
    from detdistill.threads import quiet_threads

    quiet_threads()
    plan = replace(DemoPlan(), val_scenes=1, train_scenes=DemoPlan().labelled_scenes)
    make_demo_scenes(plan, out=home, seed=0, progress=Silence())
    return {
        name: replace(one, train=replace(one.train, steps=steps, log_every=steps // 4))
        for name, one in demo_configs(plan, out=home, seed=0).items()
    }


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Trains, and says how many milliseconds a step took."""
    from detdistill.jobs.run import distill_job, train_job

    config = _configs(Path(question["home"]), question["steps"])[question["training"]]
    if not question["first"]:  # whose runs are what the others learn from, or are compared with
        config = replace(config, out=Path(question["home"]) / "again")
    (distill_job if question["training"] == "distilled" else train_job)(config)
    with (config.out / "metrics.csv").open(encoding="utf-8") as file:
        seconds = {int(line["step"]): float(line["seconds"]) for line in csv.DictReader(file)}
    if not question["first"]:
        shutil.rmtree(config.out)
    half, whole = sorted(seconds)[1], max(seconds)
    return {"ms": 1000 * (seconds[whole] - seconds[half]) / (whole - half)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="src folder of another checkout")
    parser.add_argument("--after", type=Path, default=Path(__file__).parents[1] / "src")
    parser.add_argument("--steps", type=int, default=40, help="of each training in a round")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    checkouts = {"before": Checkout(__file__, chosen.before), "after": Checkout(__file__, chosen.after)}
    times: dict[str, dict[str, list[float]]] = {name: {"before": [], "after": []} for name in TRAININGS}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(-1, chosen.rounds):
            for training in TRAININGS:
                for when in sorted(checkouts, reverse=turn % 2 == 0):
                    home = str(Path(folder) / when)
                    ms = checkouts[when].ask(training=training, home=home, steps=chosen.steps, first=turn < 0)["ms"]
                    if turn >= 0:
                        times[training][when].append(ms)
            sys.stderr.write(f"\rround {turn + 1} of {chosen.rounds}")
    for checkout in checkouts.values():
        checkout.close()
    _tell(chosen, times)


def _tell(chosen: argparse.Namespace, times: dict[str, dict[str, list[float]]]) -> None:
    import torch

    from detdistill.bench.machine import machine
    from detdistill.bench.rows import ROWS, row
    from detdistill.demo import DemoPlan
    from detdistill.files import write_json

    plan = DemoPlan()
    lengths = dict.fromkeys(TRAININGS, plan.student_training.steps) | {"teacher": plan.teacher_training.steps}
    whole = {
        when: [
            sum(lengths[name] * times[name][when][turn] / 1000 for name in TRAININGS) for turn in range(chosen.rounds)
        ]
        for when in ("before", "after")
    }
    print()
    for name, taken in times.items():
        print(f"{name:<10} ms a step {quartiles(taken['before'], 1)} before, {quartiles(taken['after'], 1)} after")
    print("training seconds, after ÷ before", ratios(whole["after"], whole["before"]))
    if chosen.json is None:
        return
    torch.set_num_threads(plan.student_training.threads)
    hardware = machine(torch.device("cpu"))
    rows = [
        row(
            "training seconds of the demo ÷ what they were before",
            [after / before for after, before in zip(whole["after"], whole["before"], strict=True)],
            hardware=hardware,
            at_most=GOAL,
            tried=TRIED,
        )
    ]
    told = {name: {when: quartiles(ms, 2) for when, ms in taken.items()} for name, taken in times.items()}
    content = {"machine": hardware, "steps": chosen.steps, "rounds": chosen.rounds, "ms": told, ROWS: rows}
    write_json(chosen.json, content)


if __name__ == "__main__":
    if sys.argv[1:] == [SERVE]:
        serve(answer)
    else:
        main()
