"""An epoch with what a teacher found or showed, from the cache, beside one of the student alone.

All trainings read the same drawn scenes with the same augmentation, in the same order, and take whole steps: the loader
in this process, forward, backward and an optimiser's step. Rounds of one epoch alternate, and who begins does too. What
counts are seconds of the processor, in one thread; seconds on the clock stand beside them. The teacher looked at every
image before; how long that took is told apart. A method on maps runs three times: with kept maps, with the live
teacher, and with kept maps that lie in memory ready to be compared, which is what the method's own arithmetic takes.
Medians and quartiles of the ratios of a round, and that of the fastest epochs, which others' work disturbs least.

    python benchmarks/teacher_cache.py --runs FOLDER --trained runs/demo/teacher \
        --json benchmarks/results/teacher_cache.json
    python benchmarks/teacher_cache.py --runs OTHER --trained runs/demo/teacher \
        --json benchmarks/results/teacher_cache.json --table "320 px" --sides 192 320 --student fcos/resnet18 \
        --images 4 --batch 4 --only "boxes, kept"
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from detdistill.threads import quiet_threads

quiet_threads()

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from detdistill.bench.machine import machine  # noqa: E402
from detdistill.bench.rows import ROWS, row  # noqa: E402
from detdistill.distillation.calibration import WINDOW  # noqa: E402
from detdistill.distillation.replay import Grid, Rows  # noqa: E402
from detdistill.distillation.step import DistillationStep  # noqa: E402
from detdistill.files import write_json  # noqa: E402
from detdistill.jobs import samples, stages  # noqa: E402
from detdistill.jobs.config import read_run_config  # noqa: E402
from detdistill.jobs.finds import Learned, finds  # noqa: E402
from detdistill.jobs.maps import open_maps  # noqa: E402
from detdistill.jobs.run import train_job  # noqa: E402
from detdistill.progress import ScreenProgress, Silence  # noqa: E402
from detdistill.scenes import make_scenes  # noqa: E402
from detdistill.training.optimizer import build_optimizer  # noqa: E402
from detdistill.types import Clock  # noqa: E402

COMMON = ("train.threads=1", "train.device=cpu", "train.workers=0")
ALONE, BOXES, KEPT, READY, LIVE = "student alone", "boxes, kept", "maps, kept", "maps, in memory", "live teacher"


def main() -> None:
    """Measures, prints the ratios, and writes the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=Path, required=True, help="folder of the scenes and the teacher")
    arguments.add_argument("--json", type=Path, help="where to write the figures, beside those of other tables")
    arguments.add_argument("--table", default="tiny", help="what these figures are called there")
    arguments.add_argument("--only", nargs="+", choices=(BOXES, KEPT, READY, LIVE), help="beside the student alone")
    arguments.add_argument("--images", type=int, default=120, help="of an epoch")
    arguments.add_argument("--rounds", type=int, default=20, help="epochs of each training")
    arguments.add_argument("--method", default="hint", help="that reads maps")
    arguments.add_argument("--sides", type=int, nargs=2, default=(96, 160), help="short and long, in pixels")
    arguments.add_argument("--student", default="fcos/tiny")
    arguments.add_argument("--teacher", default="fcos/small")
    arguments.add_argument("--teacher-steps", type=int, default=150)
    arguments.add_argument("--trained", type=Path, help="a run that is the teacher, in the place of one trained here")
    arguments.add_argument("--batch", type=int, default=8, help="images of a step")
    given = arguments.parse_args()
    found = measured(given)
    hardware, teacher = found["machine"], given.teacher if given.trained is None else given.trained.name
    pair = f"{teacher} → {given.student}"
    rows = [
        row(f"an epoch with {name} ÷ the student alone, {pair}, {max(given.sides)} px", ratios, hardware=hardware)
        for name, ratios in found.pop("ratios").items()
        if name != ALONE
    ]
    for name, one in found["epochs"].items():
        spread = "{lower:.3f} to {upper:.3f}; {fastest:.3f} of the fastest, {clock:.3f} on the clock".format(**one)
        print(f"{name}: {one['seconds']:.2f} s, {one['ratio']:.3f} times the student alone ({spread})")
    print(f"seconds for the teacher to look at {given.images} images once: {found['looks']}")
    if given.json is not None:
        known = json.loads(given.json.read_text()) if given.json.is_file() else {}
        told = [one for one in known.get(ROWS, ()) if one["what"] not in {fresh["what"] for fresh in rows}]
        write_json(given.json, known | {given.table: found, ROWS: [*told, *rows]})


def measured(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds of an epoch of each training, and its ratio to the student alone by round."""
    scenes, teacher = given.runs / "scenes", given.trained or given.runs / "teacher"
    common = (
        *COMMON,
        f"train.batch_size={given.batch}",
        f"data.image.short_side={given.sides[0]}",
        f"data.image.long_side={given.sides[1]}",
    )
    if not scenes.exists():
        make_scenes(scenes, train=given.images, val=8, seed=3)
    if given.trained is None and not (teacher / "results.json").is_file():
        options = {"student": given.teacher, "data": scenes, "out": teacher}
        settings = (*common, f"train.steps={given.teacher_steps}")
        train_job(read_run_config(None, settings, purpose="train", options=options), progress=ScreenProgress())
    epochs, looks, folder = {}, {}, Path(tempfile.mkdtemp(dir=given.runs))
    methods = {ALONE: None, BOXES: "boxes", KEPT: given.method, READY: given.method, LIVE: given.method}
    for name, method in methods.items():
        if given.only and name not in (ALONE, *given.only):
            continue
        options = {"student": given.student, "data": scenes, "out": folder / str(len(epochs))}
        options |= {} if method is None else {"teacher.source": teacher, "method": method}
        options |= {"teacher.cache": "maps"} if name in (KEPT, READY) else {}
        settings = (*common, f"train.steps={given.images // given.batch}")
        config = read_run_config(None, settings, purpose="distill" if method else "train", options=options)
        built = stages.build(stages.open_inputs(config, progress=Silence()), progress=Silence())
        changes, step, began = built.changes, built.step, time.process_time()
        if isinstance(step, DistillationStep) and (learnable := step.recipe.learnable) is not None:
            train = built.opened.data.train
            kept = finds(built.opened, train, teacher=step.digest(), label="benchmark", progress=Silence())
            changes = replace(changes, found=Learned.of(train, learnable, kept))
        if isinstance(step, DistillationStep):
            maps = open_maps(built.opened, step, teacher=step.digest(), progress=Silence())
            if maps is not None:
                step.replays, changes = maps.replays, replace(changes, kept=maps.labelled)
                if name == READY:
                    step.replays = {number: replace(one, read=Ready(one.read)) for number, one in maps.replays.items()}
        looks[name] = round(time.process_time() - began, 2)
        epochs[name] = Epoch(built, changes)
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in epochs}
    for number in range(given.rounds + 1):
        for name in list(epochs)[:: 1 if number % 2 else -1]:
            took[name].append(epochs[name]())
    rows = {name: _row(times[1:], took[ALONE][1:]) for name, times in took.items()}
    passed_over = ("runs", "json", "table", *(() if given.trained is None else ("teacher", "teacher_steps")))
    asked = {key: value for key, value in vars(given).items() if key not in passed_over}
    asked["trained"] = None if given.trained is None else given.trained.name
    ratios = {name: _ratios(times[1:], took[ALONE][1:]) for name, times in took.items()}
    return {"machine": machine(torch.device("cpu")), "asked": asked, "epochs": rows, "looks": looks, "ratios": ratios}


def _ratios(times: list[tuple[float, float]], alone: list[tuple[float, float]]) -> list[float]:
    """Of the processor's seconds, round by round."""
    return [own[0] / base[0] for own, base in zip(times, alone, strict=True)]


def _row(times: list[tuple[float, float]], alone: list[tuple[float, float]]) -> dict[str, float]:
    """Medians and quartiles of processor and clock, beside the student alone round by round."""
    ratios = _ratios(times, alone)
    lower, middle, upper = quantiles(ratios, n=4, method="inclusive")
    row = {"seconds": median(own for own, _ in times), "ratio": middle, "lower": lower, "upper": upper}
    row["fastest"] = min(own for own, _ in times) / min(base for base, _ in alone)
    row["clock"] = median(own[1] / base[1] for own, base in zip(times, alone, strict=True))
    return {key: round(value, 4) for key, value in row.items()}


class Ready(Rows):
    """Gives the first batch's maps for every batch of as many images: nothing is read."""

    def __init__(self, read: Rows) -> None:
        self.read, self.known = read, dict[tuple[int, Grid], dict[str, Tensor] | None]()

    def __call__(self, places: Sequence[int], grid: Grid, *, half: bool) -> dict[str, Tensor] | None:
        key = (len(places), grid)
        if key not in self.known:
            self.known[key] = self.read(places, grid, half=half)
        return self.known[key]


class Epoch:
    """Trains over the images once whenever it is called; the weights go on."""

    def __init__(self, built: stages.Built, changes: samples.SampleChanges) -> None:
        self.settings = built.opened.config.train
        self.step = built.step.train()
        self.loader = samples.batches_for(built.opened, changes, self.settings)
        self.optimizer = build_optimizer(self.step, self.settings)

    def __call__(self) -> tuple[float, float]:
        """The seconds that it took of the processor, which others may be using too, and those on the clock."""
        began, at = time.process_time(), time.perf_counter()
        for batch in self.loader(0, 0, 1):
            # Behind the steps that strength is measured in.
            report = self.step(batch, Clock(WINDOW, 10 * WINDOW))
            self.optimizer.zero_grad(set_to_none=True)
            report.total.backward()
            self.optimizer.step()
        return time.process_time() - began, time.perf_counter() - at


if __name__ == "__main__":
    main()
