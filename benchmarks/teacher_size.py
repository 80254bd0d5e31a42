"""A teacher at its own image size and a student at half of it: every method a few steps, and one whole distillation.

Teachers of the families fcos and gfl learn from drawn scenes of 160 × 96 pixels; students of the same family see them
at 80 × 48. Every method runs with its default numbers, for the family fcos where it is built for it, else for gfl. The
whole distillation is `frs` with the demo's numbers, with its teacher at the student's size and at its own, beside the
student alone: a student with the preset's strides 8, 16 and 32, of whose levels the teacher's own size pairs two, and
one with 4, 8 and 16, all of which it pairs. Every run is its own folder and is not repeated.

    python benchmarks/teacher_size.py --runs FOLDER --json benchmarks/results/teacher_size.json
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from statistics import median
from typing import Any

from detdistill.threads import quiet_threads

quiet_threads()

import torch  # noqa: E402

import detdistill  # noqa: E402
from detdistill.bench.machine import machine  # noqa: E402
from detdistill.errors import CapabilityError  # noqa: E402
from detdistill.files import read_json, write_json  # noqa: E402
from detdistill.jobs.config import read_run_config  # noqa: E402
from detdistill.jobs.run import distill_job, train_job  # noqa: E402
from detdistill.methods.catalogue import METHODS  # noqa: E402
from detdistill.progress import ScreenProgress  # noqa: E402
from detdistill.scenes import make_scenes  # noqa: E402

COMMON = ("train.batch_size=8", "train.lr=8e-3", "train.threads=1", "train.device=cpu")
LARGE = ("data.image.short_side=96", "data.image.long_side=160", "train.warmup_steps=100", "train.ema_decay=0.99")
SMALL = ("data.image.short_side=48", "data.image.long_side=80", "train.warmup_steps=50", "train.ema_decay=0.98")
DEMO = "frs(feature_gain=0.02, class_gain=1.5, standardize=true, aligner=conv1x1)"
FAMILIES = ("fcos", "gfl")
STRIDES = {"8, 16, 32": (), "4, 8, 16": ("student.strides=[4, 8, 16]",)}


def main() -> None:
    """Runs what is missing and writes the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=Path, required=True, help="folder of the scenes and of all runs")
    arguments.add_argument("--json", type=Path, help="where to write the figures")
    arguments.add_argument("--teacher-steps", type=int, nargs=2, default=(600, 200), help="of fcos and of gfl")
    arguments.add_argument("--steps", type=int, default=400, help="of the whole distillation and the student alone")
    arguments.add_argument("--method-steps", type=int, default=8, help="of every method")
    given = arguments.parse_args()
    lab = Lab(given.runs)
    for family, steps in zip(FAMILIES, given.teacher_steps, strict=True):
        lab.train(f"teacher_{family}", f"{family}/small", *LARGE, steps=steps)
    found = {
        "machine": machine(torch.device("cpu")),
        "distilled": {name: lab.compared(words, steps=given.steps) for name, words in STRIDES.items()},
        "methods": {name: lab.every(name, steps=given.method_steps) for name in methods()},
        "step": lab.cost(),
    }
    if given.json is not None:
        write_json(given.json, found)


def methods() -> list[str]:
    """Every method, those that wrap another around hint."""
    return [f"{name}(hint)" if method.wraps else name for name, method in METHODS.items()]


class Lab:
    """Runs in one folder, each done once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "scenes").exists():
            make_scenes(folder / "scenes", train=1200, val=200, seed=3)

    def train(self, out: str, detector: str, *words: str, steps: int) -> None:
        """One detector alone."""
        if not (self.folder / out / "results.json").is_file():
            options = {"student": detector, "data": self.folder / "scenes", "out": self.folder / out}
            config = read_run_config(None, [*COMMON, *words, f"train.steps={steps}"], purpose="train", options=options)
            train_job(config, resume=True, progress=ScreenProgress())

    def distil(
        self, out: str, method: str, *words: str, steps: int, family: str = "fcos", alone: Path | None = None
    ) -> dict[str, Any]:
        """One distillation's AP by detector."""
        folder = self.folder / out
        if not (folder / "results.json").is_file():
            options = {
                "student": f"{family}/tiny",
                "teacher": self.folder / f"teacher_{family}",
                "method": method,
                "method.strength": "published",
                "data": self.folder / "scenes",
                "out": folder,
                "alone": alone,
            }
            settings = [*COMMON, *SMALL, *words, f"train.steps={steps}"]
            config = read_run_config(None, settings, purpose="distill", options=options)
            distill_job(config, resume=True, progress=ScreenProgress())
        results = read_json(folder / "results.json")
        names = ("teacher", "teacher_own_size", "alone", "distilled")
        figures = {name: results[name]["AP"] for name in names if results.get(name)}
        return figures | {"steps": results["steps"]}

    def compared(self, words: tuple[str, ...], *, steps: int) -> dict[str, Any]:
        """The whole distillation of a student at both sizes of its teacher, beside the student alone."""
        mark = "_fine" if words else ""
        alone = f"alone{mark}"
        self.train(alone, "fcos/tiny", *SMALL, *words, steps=steps)
        return {
            size: self.distil(f"demo_{size}{mark}", DEMO, *image, *words, steps=steps, alone=self.folder / alone)
            for size, image in (("students_size", ()), ("own_size", ("teacher.image=own",)))
        }

    def every(self, method: str, *, steps: int) -> dict[str, Any]:
        """A method with its teacher at its own size: what it gave, or how it was refused by either family."""
        refused = {}
        words = ("teacher.image=own", *(("twins.on_the_fly=true",) if "ikd" in method else ()))
        for family in FAMILIES:
            name = f"{method.replace('(', '_').strip(')')}_{family}"
            try:
                return {"family": family} | self.distil(name, method, *words, steps=steps, family=family)
            except CapabilityError as error:
                refused[family] = str(error)
        return {"refused": refused}

    def cost(self, rounds: int = 15) -> dict[str, float]:
        """Seconds of a step of the whole distillation, forward and backward, at both sizes of its teacher, interleaved.

        Medians over the rounds; the loader's work is not in them.
        """
        loaded = detdistill.load_detector(self.folder / "teacher_fcos")
        data = detdistill.open_data(self.folder / "scenes", image={"short_side": 48, "long_side": 80})
        took: dict[str, list[float]] = {"students_size": [], "own_size": []}
        sides = {}
        for name, ratio, image in (("students_size", 1.0, None), ("own_size", 2.0, loaded.image)):
            student = detdistill.build_detector("fcos/tiny", data.class_names, seed=0)
            teacher = detdistill.FrozenTeacher(copy.deepcopy(loaded.detector), ratio=ratio)
            recipe = detdistill.build_recipe(DEMO, student.spec, teacher.spec)
            batch = next(iter(data.batches(8, steps=1, teacher_image=image)))
            sides[name] = detdistill.DistillationStep(student, teacher, recipe), batch
        for _ in range(rounds):
            for name, (step, batch) in sides.items():
                began = time.perf_counter()
                step(batch, detdistill.Clock(step=1, total_steps=2)).total.backward()
                took[name].append(time.perf_counter() - began)
        return {name: round(median(times), 4) for name, times in took.items()}


if __name__ == "__main__":
    main()
