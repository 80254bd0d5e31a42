"""The main job on drawn scenes: teacher, student alone, distilled student, and the student alone for the same time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detdistill.data.transforms import AugmentSettings, ImageSettings
from detdistill.detectors.catalogue import parse_detector
from detdistill.errors import ConfigError
from detdistill.evaluation.coco import CocoMetrics
from detdistill.files import is_partial, read_json, require_writable, write_bytes, write_json
from detdistill.jobs.longer import ALONE_EQUAL_TIME, equal_time_config
from detdistill.jobs.outcomes import page_line
from detdistill.jobs.page import write_page
from detdistill.jobs.run import ALONE, DISTILLED, STUDENT, TEACHER, distill_job, train_job
from detdistill.jobs.settings import DataSettings, RunConfig, StudentChoice, TeacherSettings
from detdistill.jobs.stages import held, report
from detdistill.json_text import used_as
from detdistill.methods.catalogue import MethodSettings
from detdistill.methods.frs import FRSSettings
from detdistill.progress import Progress, Silence
from detdistill.report.tables import Table, results_json, side_by_side
from detdistill.scenes import make_scenes
from detdistill.scenes.write import SCENES_MADE
from detdistill.store.layout import LOCK, RunFolder
from detdistill.training.settings import TrainSettings

SCENES, LABELLED = "scenes", "labelled.json"
_TRAINING = TrainSettings(steps=400, batch_size=8, processes=2, device="cpu", lr=8e-3, threads=1)


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """The demo's configuration; `benchmarks/` measures this very one over several seeds.

    Attributes:
        train_scenes: drawn for training; the teacher learns from all of them.
        labelled_scenes: the first so many of them are all that the student learns from, alone and distilled alike.
        val_scenes: drawn for validation.
        width: of a scene, pixels, as is `height`.
        student_training: of the student, alone and distilled alike; searched for the student alone.
        method: the recipe's numbers; chosen on other scenes than those that are reported.
    """

    train_scenes: int = 3000
    labelled_scenes: int = 300
    val_scenes: int = 300
    width: int = 160
    height: int = 96
    augment: AugmentSettings = AugmentSettings(flip=0.5)
    teacher: str = "fcos/small"
    student: str = "fcos/tiny"
    teacher_training: TrainSettings = replace(_TRAINING, steps=900, warmup_steps=100, ema_decay=0.99)
    student_training: TrainSettings = replace(_TRAINING, schedule="step", warmup_steps=50, ema_decay=0.98)
    method: MethodSettings = FRSSettings(strength=10)


@dataclass(frozen=True, slots=True)
class DemoOutcome:
    """What the demo measured of its four detectors; `training` has the steps and seconds of each."""

    out: Path
    results: Mapping[str, CocoMetrics | None]
    training: Mapping[str, tuple[int, float]]

    def table(self) -> list[str]:
        """Figures and cost of the four detectors."""
        folder = RunFolder(self.out)
        rows = tuple((name, steps, seconds) for name, (steps, seconds) in self.training.items())
        return [
            *side_by_side(self.results).text().splitlines(),
            "",
            *Table(("model", "steps", "training seconds"), rows).text(decimals=0).splitlines(),
            "",
            f"{folder.results.name}, {folder.pictures.name} and {folder.curves.name} in {self.out}",
            *page_line(self.out),
        ]

    def as_dict(self) -> Mapping[str, Any]:
        """What ``results.json`` holds."""
        cost = {name: {"steps": steps, "seconds": round(took, 2)} for name, (steps, took) in self.training.items()}
        return {**results_json(self.results), "training": cost}


def demo_job(
    *, out: Path, seed: int = 0, plan: DemoPlan | None = None, progress: Progress | None = None
) -> DemoOutcome:
    """Draws scenes, trains four detectors and compares them; an interrupted demo goes on where it was.

    Args:
        out: folder of the demo.
        seed: decides scenes, weights and the order of images.
        plan: another configuration; None for the demo's own.
    """
    chosen = plan or DemoPlan()
    _require_own(out)
    with held(out):
        make_demo_scenes(chosen, out=out, seed=seed, progress=progress or Silence())
        configs = demo_configs(chosen, out=out, seed=seed)
        runs = {name: train_job(configs[name], resume=True, progress=progress) for name in (TEACHER, ALONE)}
        distilled = distill_job(configs[DISTILLED], resume=True, progress=progress)
        equal_time = equal_time_config(configs[ALONE], out=out, alone=runs[ALONE].seconds, distilled=distilled.seconds)
        runs[ALONE_EQUAL_TIME] = train_job(equal_time, resume=True, progress=progress)
        results = {name: run.results[STUDENT] for name, run in runs.items()}
        results[DISTILLED], runs[DISTILLED] = distilled.results[DISTILLED], distilled
        outcome = DemoOutcome(out, results, {name: (run.steps, run.seconds) for name, run in runs.items()})
        refused = report(out, outcome.as_dict(), curves={name: out / name for name in runs})
        for undrawn in (refused, *(run.undrawn for run in runs.values())):
            if undrawn is not None:
                raise undrawn
        write_bytes(RunFolder(out).pictures, RunFolder(distilled.out).pictures.read_bytes())
        found = {**distilled.found, ALONE_EQUAL_TIME: runs[ALONE_EQUAL_TIME].found[STUDENT]}
        write_page(out, looks=found, progress=progress)
        return outcome


def _require_own(out: Path) -> None:
    """Refuses a folder that holds something else than a demo, begun or finished."""
    require_writable(out, "The demo's folder")
    inside = [one.name for one in out.iterdir()] if out.exists() else []
    if not (out / SCENES / SCENES_MADE).is_file() and not all(is_partial(name) or name == LOCK for name in inside):
        raise ConfigError(
            f"The demo's folder {out} must be new or empty, or hold a demo, got one with other files. "
            "Give another folder."
        )


def make_demo_scenes(plan: DemoPlan, *, out: Path, seed: int, progress: Progress) -> None:
    """Draws the demo's scenes where they are not there yet, and writes which of them the student has labels for."""
    progress.start("draw scenes", plan.train_scenes + plan.val_scenes, unit="image")
    make_scenes(
        out / SCENES,
        train=plan.train_scenes,
        val=plan.val_scenes,
        seed=seed,
        width=plan.width,
        height=plan.height,
        workers=min(2, os.cpu_count() or 1),
        progress=lambda done, total: progress.advance(done),
    )
    progress.finish()
    write_labelled(out, plan.labelled_scenes)


def demo_configs(plan: DemoPlan, *, out: Path, seed: int) -> dict[str, RunConfig]:
    """The runs of the demo, by name: teacher, student alone and distilled student."""
    short, long = sorted((plan.width, plan.height))
    image = ImageSettings(short_side=short, long_side=long)
    data = DataSettings(out / SCENES, image=image, augment=plan.augment, cache="ram")
    student, teacher = (StudentChoice(name, parse_detector(name)) for name in (plan.student, plan.teacher))
    training, teachers = (replace(one, seed=seed) for one in (plan.student_training, plan.teacher_training))
    alone = RunConfig(replace(data, train=out / LABELLED), student=student, train=training, out=out / ALONE)
    distilled = replace(alone, teacher=TeacherSettings(str(out / TEACHER)), method=plan.method, alone=out / ALONE)
    distilled = replace(distilled, report=False)  # the demo has one page of its own
    return {
        TEACHER: RunConfig(data, student=teacher, train=teachers, out=out / TEACHER),
        ALONE: alone,
        DISTILLED: replace(distilled, out=out / DISTILLED),
    }


def write_labelled(out: Path, scenes: int) -> None:
    """Writes the annotations of the first training scenes, which are all that the demo's student learns from."""
    path = out / SCENES / "train.json"
    content = read_json(path)
    with used_as(path, "the drawn scenes' annotations"):
        images = [
            {**image, "file_name": f"{SCENES}/images/{image['file_name']}"} for image in content["images"][:scenes]
        ]
        kept = {image["id"] for image in images}
        boxes = [box for box in content["annotations"] if box["image_id"] in kept]
    write_json(out / LABELLED, {**content, "images": images, "annotations": boxes})
