"""An epoch with what a teacher found, from the cache, beside one of the student alone: images read, learned, stepped.

Both trainings read the same drawn scenes of 160 × 96 pixels with the same augmentation, in the same order, and take
whole steps: the loader in this process, forward, backward and an optimiser's step. Rounds of one epoch alternate, and
who begins does too. What counts are seconds of the processor, in one thread. The teacher looked at every image before;
how long that took is told apart, as is one epoch with the live teacher's features (`hint`). Medians over the rounds,
the lowest and highest ratio of a round, and that of the fastest epochs, which others' work disturbs least.

    python benchmarks/teacher_cache.py --runs FOLDER --json benchmarks/results/teacher_cache.json
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from detdistill.threads import quiet_threads

quiet_threads()

import torch  # noqa: E402

from detdistill.bench.machine import machine  # noqa: E402
from detdistill.distillation.calibration import WINDOW  # noqa: E402
from detdistill.files import write_json  # noqa: E402
from detdistill.jobs import samples, stages  # noqa: E402
from detdistill.jobs.config import read_run_config  # noqa: E402
from detdistill.jobs.finds import Learned, finds  # noqa: E402
from detdistill.jobs.run import train_job  # noqa: E402
from detdistill.progress import ScreenProgress, Silence  # noqa: E402
from detdistill.scenes import make_scenes  # noqa: E402
from detdistill.training.optimizer import build_optimizer  # noqa: E402
from detdistill.types import Clock  # noqa: E402

IMAGE = ("data.image.short_side=96", "data.image.long_side=160")
COMMON = (*IMAGE, "train.batch_size=8", "train.threads=1", "train.device=cpu", "train.workers=0")
ALONE, BOXES, LIVE = "student alone", "boxes, from the cache", "hint, live teacher"


def main() -> None:
    """Measures, prints the ratios, and writes the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=Path, required=True, help="folder of the scenes and the teacher")
    arguments.add_argument("--json", type=Path, help="where to write the figures")
    arguments.add_argument("--images", type=int, default=120, help="of an epoch")
    arguments.add_argument("--rounds", type=int, default=8, help="epochs of each training")
    arguments.add_argument("--student", default="fcos/tiny")
    arguments.add_argument("--teacher", default="fcos/small")
    arguments.add_argument("--teacher-steps", type=int, default=150)
    given = arguments.parse_args()
    found = measured(given)
    for name, row in found["epochs"].items():
        spread = "{lowest:.3f} to {highest:.3f}; {fastest:.3f} of the fastest".format(**row)
        print(f"{name}: {row['seconds']:.2f} s, {row['ratio']:.3f} times the student alone ({spread})")
    print(f"{found['looks']:.1f} s for the teacher to look at {given.images} images once")
    if given.json is not None:
        write_json(given.json, found)


def measured(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds of an epoch of each training, and its ratio to the student alone by round."""
    scenes, teacher = given.runs / "scenes", given.runs / "teacher"
    if not scenes.exists():
        make_scenes(scenes, train=given.images, val=8, seed=3)
    if not (teacher / "results.json").is_file():
        options = {"student": given.teacher, "data": scenes, "out": teacher}
        settings = (*COMMON, f"train.steps={given.teacher_steps}")
        train_job(read_run_config(None, settings, purpose="train", options=options), progress=ScreenProgress())
    epochs, looks, folder = {}, 0.0, Path(tempfile.mkdtemp(dir=given.runs))
    for name, method in ((ALONE, None), (BOXES, "boxes"), (LIVE, "hint")):
        options = {"student": given.student, "data": scenes, "out": folder / str(len(epochs))}
        options |= {} if method is None else {"teacher.source": teacher, "method": method}
        config = read_run_config(
            None,
            (*COMMON, f"train.steps={given.images // 8}"),
            purpose="distill" if method else "train",
            options=options,
        )
        built = stages.build(stages.open_inputs(config, progress=Silence()), progress=Silence())
        changes, learnable = built.changes, None if method is None else built.step.recipe.learnable
        if learnable is not None:
            train, began = built.opened.data.train, time.perf_counter()
            digest = built.step.teacher.digest()
            kept = finds(built.opened, train, teacher=digest, label="benchmark", progress=Silence())
            looks = time.perf_counter() - began
            changes = replace(changes, found=Learned.of(train, learnable, kept))
        epochs[name] = Epoch(built, changes)
    took: dict[str, list[float]] = {name: [] for name in epochs}
    for number in range(given.rounds + 1):
        for name in list(epochs)[:: 1 if number % 2 else -1]:
            took[name].append(epochs[name]())
    rounds = {name: times[1:] for name, times in took.items()}
    rows = {}
    for name, times in rounds.items():
        ratios = [own / alone for own, alone in zip(times, rounds[ALONE], strict=True)]
        figures = {"seconds": median(times), "ratio": median(ratios), "lowest": min(ratios), "highest": max(ratios)}
        figures["fastest"] = min(times) / min(rounds[ALONE])
        rows[name] = {key: round(value, 4) for key, value in figures.items()}
    asked = {key: value for key, value in vars(given).items() if key not in ("runs", "json")}
    return {"machine": machine(torch.device("cpu")), "asked": asked, "epochs": rows, "looks": round(looks, 2)}


class Epoch:
    """Trains over the images once whenever it is called; the weights go on."""

    def __init__(self, built: stages.Built, changes: samples.SampleChanges) -> None:
        self.settings = built.opened.config.train
        self.step = built.step.train()
        self.loader = samples.batches_for(built.opened, changes, self.settings)
        self.optimizer = build_optimizer(self.step, self.settings)

    def __call__(self) -> float:
        """The seconds that it took of the processor, which others may be using too."""
        began = time.process_time()
        for batch in self.loader(0, 0, 1):
            # Behind the steps that strength is measured in.
            report = self.step(batch, Clock(WINDOW, 10 * WINDOW))
            self.optimizer.zero_grad(set_to_none=True)
            report.total.backward()
            self.optimizer.step()
        return time.process_time() - began


if __name__ == "__main__":
    main()
