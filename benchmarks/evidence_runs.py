"""How trainings of `evidence.py` and `pair_study.py` are made: data, settings, and many side by side."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from statistics import median
from typing import Any

from detdistill.threads import quiet_threads

quiet_threads()

import numpy as np  # noqa: E402
import torch  # noqa: E402

from audit_study import moved  # noqa: E402
from detdistill.bench.machine import machine  # noqa: E402
from detdistill.data.dataset import keep_decoded  # noqa: E402
from detdistill.demo import DemoPlan, write_labelled  # noqa: E402
from detdistill.files import read_json, write_json, write_text  # noqa: E402
from detdistill.jobs import stages  # noqa: E402
from detdistill.jobs.config import read_run_config  # noqa: E402
from detdistill.progress import Silence  # noqa: E402
from detdistill.random import draw_seed  # noqa: E402
from detdistill.scenes import make_scenes  # noqa: E402
from detdistill.training.launch import own_device  # noqa: E402
from evidence_plan import ALONE, COMMON, EQUAL_TIME, SEEDS, SETS, TEACHER, Run, Set, teacher_of  # noqa: E402

# A guess before the first run is done: seconds that one takes beside its steps, and for a step of the student alone.
BESIDE, FIRST_PACE = 4.0, 0.08
# Runs are given up where so many have failed and none is done.
GIVEN_UP = 8


@dataclass(frozen=True)
class Places:
    """Where data, runs and results lie, and how much smaller than planned everything is made."""

    data: Path
    out: Path
    results: Path
    share: float

    def result(self, run: Run) -> Path:
        return self.results / f"{run.name}.json"

    def folder(self, chosen: Set, seed: int) -> Path:
        """The set's images and annotations."""
        return self.out / "sets" / (f"{chosen.source}_{seed}" if chosen.each else chosen.source)

    def steps(self, run: Run) -> int:
        chosen = SETS[run.set]
        whole = chosen.teacher_steps if run.row == TEACHER else chosen.steps * run.times
        if run.row == EQUAL_TIME:
            whole = chosen.steps * self.pace(run)
        return max(2, round(whole * self.share))

    def config(self, run: Run) -> Any:
        """The settings of a run."""
        return config_of(run, self)

    def pace(self, run: Run) -> float:
        """How many times as long as alone a step of `hint` or `frs` took on the run's set."""
        found = {
            row: [one["seconds"] / one["steps"] for one in self.made(run.set, row)] for row in (ALONE, "hint", "frs")
        }
        return median(found["hint"] + found["frs"]) / median(found[ALONE])

    def made(self, name: str, row: str) -> list[dict[str, Any]]:
        return [found for seed in SEEDS if (found := self.done(Run(name, row, seed)))]

    def done(self, run: Run) -> dict[str, Any] | None:
        """What the run came to; None where it was not made, or failed."""
        file = self.result(run)
        return content if file.is_file() and "AP" in (content := read_json(file)) else None

    def ready(self, run: Run) -> bool:
        """Whether what the run needs is there."""
        if run.row == EQUAL_TIME:
            return all(self.made(run.set, row) for row in (ALONE, "hint", "frs"))
        return all(map(self.trained, self.teachers(run)))

    def teachers(self, run: Run) -> list[Run]:
        """The trainings that a run learns from."""
        return [] if run.method is None else [teacher_of(run)]

    def trained(self, run: Run) -> bool:
        """Whether the run was made and its folder is here, as another run needs it."""
        return self.done(run) is not None and (self.out / "runs" / run.name).is_dir()

    def left(self, runs: Sequence[Run]) -> list[Run]:
        """Which of the runs are still to be made, the teachers that they need among them."""
        needed = [run for run in runs if self.done(run) is None]
        teachers = {one for run in needed for one in self.teachers(run)}
        return [run for run in runs if (not self.trained(run) if run in teachers else run in needed)]


def prepare(places: Places, sets: Sequence[str], seeds: Sequence[int], *, jobs: int) -> None:
    """The sets' images, the parts of them that have labels, and all of it decoded into memory."""
    plan = DemoPlan()
    for name in sets:
        chosen = SETS[name]
        for seed in (one for one in chosen.seeds if one in seeds):
            folder = places.folder(chosen, seed)
            if chosen.source == "drawn":
                scenes = [max(8, round(count * places.share)) for count in (plan.train_scenes, plan.val_scenes)]
                kept = max(4, round(plan.labelled_scenes * places.share))
                if not (folder / "labelled.json").is_file():
                    size = {"width": plan.width, "height": plan.height}
                    make_scenes(folder / "scenes", train=scenes[0], val=scenes[1], seed=seed, workers=jobs, **size)
                    write_labelled(folder, kept)
                    names = sorted((folder / "scenes" / "images").glob("train_*"))[kept:]
                    others = "".join(f"scenes/images/{one.name}\n" for one in names)
                    write_text(folder / f"unlabelled_{chosen.labels}_{seed}.txt", others)
            elif not folder.is_dir():
                partial = folder.with_suffix(".partial")
                shutil.rmtree(partial, ignore_errors=True)
                shutil.copytree(places.data / chosen.source, partial, ignore=shutil.ignore_patterns("native_*"))
                partial.rename(folder)
            if chosen.source != "drawn" and chosen.labels is not None:
                write_labels(folder, chosen.labels, seed)
            if chosen.wrong:
                write_wrong(folder, chosen.wrong)
    folders = {places.folder(SETS[name], seed) for name in sets for seed in SETS[name].seeds if seed in seeds}
    keep_decoded(file for folder in sorted(folders) for file in sorted(folder.rglob("images/*")) if often(file))


def often(file: Path) -> bool:
    """Whether an image is read often: of drawn scenes the labelled and the validation images are, which come first."""
    found = re.fullmatch(r"train_(\d+)", file.stem)
    return found is None or int(found[1]) < DemoPlan().labelled_scenes


def write_wrong(folder: Path, share: float) -> None:
    """`train_wrong.json`, the labels with every second of such a share of another class, the others moved."""
    content, dice = read_json(folder / "train.json"), np.random.default_rng(0)
    sizes = {image["id"]: np.array([image["width"], image["height"]]) for image in content["images"]}
    classes, labels = [one["id"] for one in content["categories"]], content["annotations"]
    for place, row in enumerate(dice.permutation(len(labels))[: round(share * len(labels))].tolist()):
        label = labels[row]
        if place % 2:
            label["category_id"] = int(dice.choice([one for one in classes if one != label["category_id"]]))
        elif (box := moved(label["bbox"], sizes[label["image_id"]], dice)) is not None:
            label["bbox"] = box
    write_json(folder / "train_wrong.json", content)


def write_labels(folder: Path, labels: int, seed: int) -> None:
    """`train_LABELS_SEED.json`, a set of so many of the images, and the names of the others in a text file."""
    content = read_json(folder / "train.json")
    order = torch.randperm(len(content["images"]), generator=torch.Generator().manual_seed(draw_seed(seed, labels)))
    images = [content["images"][index] for index in order.tolist()]
    kept = {image["id"] for image in images[:labels]}
    boxes = [box for box in content["annotations"] if box["image_id"] in kept]
    chosen = [image for image in content["images"] if image["id"] in kept]
    write_json(folder / f"train_{labels}_{seed}.json", {**content, "images": chosen, "annotations": boxes})
    others = sorted(image["file_name"] for image in images[labels:])
    write_text(folder / f"unlabelled_{labels}_{seed}.txt", "".join(f"images/{name}\n" for name in others))


def config_of(run: Run, places: Places) -> Any:
    """The settings of a run as the command line would have them."""
    chosen = SETS[run.set]
    folder, short, long = places.folder(chosen, run.seed), *chosen.image
    drawn, taught = chosen.source == "drawn", run.row == TEACHER
    settings = [*COMMON, *chosen.settings, f"data.image.short_side={short}", f"data.image.long_side={long}"]
    if taught:
        settings += ["train.ema_decay=0.99", "train.schedule=cosine"]
    options: dict[str, object] = {
        "student.detector": "fcos/small" if taught else "fcos/tiny",
        "data.folder": folder / "scenes" if drawn else folder,
        "out": places.out / "runs" / run.name,
        "seed": run.seed,
        "train.steps": places.steps(run),
    }
    if taught and chosen.wrong:
        options["data.train"] = folder / "train_wrong.json"
    if not taught and chosen.labels is not None:
        part = "labelled.json" if drawn else f"train_{chosen.labels}_{run.seed}.json"
        options["data.train"] = folder / part
    if run.method is not None:
        options |= {"method": run.method, "teacher.source": places.out / "runs" / teacher_of(run).name}
        settings += [*([] if run.strength is None else [f"method.strength={run.strength}"]), *run.settings]
    if run.unlabelled:
        options["data.unlabelled.source"] = folder / f"unlabelled_{chosen.labels}_{run.seed}.txt"
    return read_run_config(None, settings, purpose="train" if run.method is None else "distill", options=options)


class Listening:
    """Remembers what a run says; see `Progress`."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        quiet = Silence()
        self.start, self.advance, self.finish = quiet.start, quiet.advance, quiet.finish

    def say(self, line: str) -> None:
        self.lines.append(line)


def make(run: Run, places: Places) -> dict[str, Any]:
    """Trains, measures on the validation images, and returns what the run came to."""
    began, said, config = time.perf_counter(), Listening(), places.config(run)
    shutil.rmtree(config.out, ignore_errors=True)  # of a run that was cut
    opened = stages.open_inputs(config, progress=said)
    fitted = stages.fit(stages.prove(stages.build(opened, progress=said), progress=said), progress=said)
    metrics = stages.measure(opened, {"student": fitted.student})["student"].metrics
    if metrics is None:
        raise SystemExit(f"{run.name} has no figures")
    return {
        **asdict(run),
        **{key: value for key, value in metrics.as_dict().items() if key in ("AP", "AP50", "AP75")},
        "steps": fitted.training.steps,
        "seconds": round(fitted.training.seconds, 2),
        "whole_seconds": round(time.perf_counter() - began, 2),
        "calibrated": fitted.training.strength,
        "said": [line for line in said.lines if line.startswith("strength") or ": alpha " in line],
        "machine": machine(own_device(config.train)),
    }


def work(pipe: Connection, places: Places) -> None:
    """One process's life: a run at a time, as they come."""
    torch.set_num_threads(1)
    while (run := pipe.recv()) is not None:
        try:
            found = make(run, places)
        except Exception as error:  # noqa: BLE001  the others go on, and the table says what is missing
            found = {
                **asdict(run),
                "error": f"{type(error).__name__}: {error}",
                "trace": traceback.format_exc()[-1500:],
            }
        write_json(places.result(run), found)
        pipe.send(found)


@dataclass
class Side:
    """A process that makes runs, and what it makes now."""

    process: Any
    pipe: Connection
    run: Run | None = None


def make_all(runs: list[Run], places: Places, *, jobs: int, until: float, tell: Callable[[], None]) -> None:
    """Makes the runs side by side until none is left or there is no time for one."""
    forked = multiprocessing.get_context("fork")
    sides = []
    for _ in range(min(jobs, len(runs))):
        here, there = forked.Pipe()
        process = forked.Process(target=work, args=(there, places))
        process.start()
        sides.append(Side(process, here))
    paces: dict[tuple[str | None, bool], list[float]] = {}
    outcomes: list[bool] = []

    def seconds(run: Run) -> float:
        kind, plain = (run.method, run.unlabelled), median(paces.get((None, False), [FIRST_PACE]))
        heavy = 1.0 if run.method is None else 3.0 if "ikd" in run.method else 2.0 if run.unlabelled else 1.4
        return BESIDE * places.share + places.steps(run) * median(paces.get(kind, [heavy * plain]))

    try:
        while True:
            for side in sides:
                fits = (one for one in runs if places.ready(one) and time.perf_counter() + seconds(one) < until)
                if side.run is None and (run := next(fits, None)) is not None:
                    runs.remove(run)
                    side.run = run
                    side.pipe.send(run)
            busy = [side for side in sides if side.run is not None]
            left = until - time.perf_counter()
            if not busy or left <= 0:
                return
            answered = wait([side.pipe for side in busy] + [side.process.sentinel for side in busy], timeout=left)
            for side in busy:
                if side.pipe in answered and side.run is not None:
                    found = side.pipe.recv()
                    if "AP" in found:
                        kind = side.run.method, side.run.unlabelled
                        paces.setdefault(kind, []).append(found["seconds"] / found["steps"])
                    tell_run(found, side.run)
                    outcomes.append("AP" in found)
                    if len(outcomes) == GIVEN_UP and not any(outcomes):
                        return  # rather than spend the budget on it
                    side.run = None
                    tell()
                elif side.process.sentinel in answered:
                    print(f"a process ended with {side.process.exitcode} at {side.run}", file=sys.stderr, flush=True)
                    sides.remove(side)
    finally:
        for side in sides:
            side.process.kill()  # what it makes is unfinished, and is made anew next time


def tell_run(found: dict[str, Any], run: Run) -> None:
    """One line about a run that is done."""
    said = f"AP {found['AP']:.1f} in {found['seconds']:.0f} s" if "AP" in found else found["error"]
    print(f"{run.name}: {said}", flush=True)


def options(description: str | None, *, out: str, results: str, budget: float) -> argparse.ArgumentParser:
    """What the command line of every such study takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--results", type=Path, default=Path(results))
    parser.add_argument("--together", type=Path, help="also all results in this one file, after each run")
    parser.add_argument("--rows", nargs="+", help="only these rows, and the teachers that they need")
    parser.add_argument("--budget", type=float, default=budget, help="seconds for everything")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) * 3 // 4))
    parser.add_argument("--share", type=float, default=1.0, help="of all steps and drawn scenes, to try the script")
    parser.add_argument("--table", action="store_true", help="make no run")
    parser.add_argument("--unpack", type=Path, help="take the results of such a file over into --results")
    return parser


def carry_out(
    chosen: argparse.Namespace,
    places: Places,
    runs: list[Any],
    *,
    sets: Sequence[str],
    table: Callable[[Any, Sequence[Any]], list[str]],
    file: Path,
) -> None:
    """Makes what is left of the runs within the budget, and writes and prints their table."""
    began = time.perf_counter()
    if chosen.unpack is not None:
        for name, content in read_json(chosen.unpack).items():
            write_json(places.results / f"{name}.json", content)

    def together() -> None:
        if chosen.together is not None:
            done = {run.name: read_json(one) for run in runs if (one := places.result(run)).is_file()}
            write_text(chosen.together, json.dumps(done))

    if not chosen.table:
        torch.set_num_threads(1)
        prepare(places, sets, chosen.seeds, jobs=chosen.jobs)
        print(f"images ready after {time.perf_counter() - began:.0f} s", flush=True)
        make_all(places.left(runs), places, jobs=chosen.jobs, until=began + chosen.budget, tell=together)
    lines = table(places, runs)
    write_text(file, "\n".join(lines) + "\n")
    together()
    print("\n".join(lines))
