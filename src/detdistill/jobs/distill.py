"""Trains a student with a teacher's help, and compares teacher, student alone and distilled student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from detdistill.data.dataset import DetectionDataset, Draw
from detdistill.data.loader import collate
from detdistill.detectors.base import Detector
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.detectors.inherit import InheritReport, inherit
from detdistill.detectors.loaded import LoadedDetector
from detdistill.distillation.startup import prove
from detdistill.distillation.step import DistillationStep
from detdistill.distillation.term import pairing_note
from detdistill.errors import ConfigError, DataError
from detdistill.evaluation.coco import CocoMetrics
from detdistill.files import write_json
from detdistill.jobs.fitting import (
    CURVES,
    PICTURES,
    RESULTS,
    device_of,
    fit,
    measure_fitted,
    new_student,
    require_free,
    training_data,
)
from detdistill.jobs.opening import Measured, OpenedData, open_data, open_detector, require_same_classes
from detdistill.jobs.samples import SampleChanges, open_twins, reached, recipe_changes, weighed_constantly
from detdistill.jobs.settings import MethodChoice, RunConfig, TeacherSettings
from detdistill.methods.catalogue import build_recipe
from detdistill.progress import Progress
from detdistill.report.curves import learning_curves
from detdistill.report.sheet import comparison_sheet, sheet_rows
from detdistill.report.tables import results_json, side_by_side
from detdistill.store.layout import RunFolder
from detdistill.store.students import load_detector
from detdistill.training.launch import forks
from detdistill.training.world import by_leader, first_on_machine, leads, watched_by_leader
from detdistill.types import Batch

TEACHER, ALONE, DISTILLED = "teacher", "alone", "distilled"
INHERITED = "inherited.json"
_PROOF_IMAGES = 4


@dataclass(frozen=True, slots=True)
class DistillOutcome:
    """A distilled student beside its teacher and its twin.

    Attributes:
        out: the run folder.
        method: the recipe's name, such as ``"aid(frs)"``.
        results: figures of teacher, student alone and distilled student; None where not known.
        steps: of the training.
        seconds: that the training took, without evaluation.
        sample_specific: shares of the images that sample-specific augmentation reaches; None where it is off.
    """

    out: Path
    method: str
    results: Mapping[str, CocoMetrics | None]
    steps: int
    seconds: float
    sample_specific: Mapping[str, float] | None = None

    def table(self) -> list[str]:
        """The figures side by side, and where the run is."""
        lines = side_by_side(self.results).text().splitlines()
        if self.results[ALONE] is None:
            lines += [
                "",
                "The student alone is not known: train it with `detdistill train` and pass its run as --alone.",
            ]
        return [*lines, "", f"{self.method}: {self.steps} steps in {self.seconds:.0f} s; run folder {self.out}"]

    def as_dict(self) -> Mapping[str, Any]:
        """What ``results.json`` holds."""
        content = {
            **results_json(self.results),
            "method": self.method,
            "steps": self.steps,
            "seconds": round(self.seconds, 2),
        }
        if self.sample_specific is not None:
            content["sample_specific"] = dict(self.sample_specific)
        return content


def distill_job(config: RunConfig, *, resume: bool = False, progress: Progress | None = None) -> DistillOutcome:
    """Distils a teacher into a student, and measures all on the same validation images.

    Before the first step it proves that every term of the recipe reaches the student.

    Args:
        config: of the run, with teacher and method.
        resume: go on from the latest checkpoint.
        progress: told how it goes.

    Raises:
        DistillError: anything that cannot be used, in one sentence.
        Interrupted: stopped by a signal, with the checkpoint saved.
    """
    watcher = watched_by_leader(progress)
    choice, method = _teacher_and_method(config)
    require_free(config.out, resume=resume)
    loaded = open_detector(choice.source, allow=choice.allow, progress=watcher)
    data = open_data(config.data, image=loaded.image or None, progress=watcher)
    same_classes = require_same_classes(loaded, data.train, source=choice.source, allow=choice.allow)
    alone = _open_alone(config, data)
    student = new_student(config, data)
    inherited = inherit(student, loaded.detector, source=choice.source) if config.inherit else None
    teacher = FrozenTeacher(loaded.detector, autocast=_autocast(config))
    recipe = build_recipe(method, student.spec, teacher.spec, seed=config.seed)
    changes = recipe_changes(recipe, config.data)
    # Several processes are forked from this one, which must not have touched a GPU before.
    forked = forks(config.train)
    device = torch.device("cpu") if forked else device_of(config)
    recipe = weighed_constantly(recipe, teacher, config, data, device=device, progress=watcher)
    step = DistillationStep(student, teacher, recipe).to(device)
    _tell(step, config, watcher, inherited=inherited)
    for proof in prove(step, _batch_with_boxes(config, data, changes).to(device)):
        watcher.say(f"start-up proof: {proof}")
    if inherited is not None and leads():
        write_json(config.out / INHERITED, inherited.as_dict())
    shares = reached(changes, data, progress=watcher)
    twins = first_on_machine(lambda: open_twins(recipe, teacher, config, data, device=device, progress=watcher))
    others = {TEACHER: loaded.detector if same_classes else None, ALONE: alone.detector if alone else None}
    results: dict[str, Measured | None] = {}
    if not forked and leads():
        results = _measure(others, config, data, watcher)
    fitted = fit(
        step,
        config,
        data,
        label=f"distil {config.student.detector} by {recipe.name}",
        identity={
            "method": method_tree(method),
            "teacher": teacher.digest(),
            **changes.identity(),
            **({"inherit": True} if config.inherit else {}),
            **({"twins": sorted(twins)} if recipe.twins else {}),
        },
        resume=resume,
        progress=watcher,
        changes=replace(changes, twins=twins),
    )

    def outcome() -> DistillOutcome:
        measured = results or _measure(others, config, data, watcher)
        measured[DISTILLED] = measure_fitted(fitted.student, config, data, what=DISTILLED, progress=watcher)
        found = DistillOutcome(
            out=config.out,
            method=recipe.name,
            results={name: None if one is None else one.metrics for name, one in measured.items()},
            steps=fitted.training.steps,
            seconds=fitted.training.seconds,
            sample_specific=shares,
        )
        write_json(config.out / RESULTS, found.as_dict())
        _draw(config, data, measured)
        return found

    return by_leader(outcome)


def _teacher_and_method(config: RunConfig) -> tuple[TeacherSettings, MethodSettings]:
    if config.teacher is None or config.method is None:
        missing = "teacher" if config.teacher is None else "method"
        raise ConfigError(f"A distillation must have a {missing}, got none. Pass --{missing}.")
    return config.teacher, config.method


def _open_alone(config: RunConfig, data: OpenedData) -> LoadedDetector | None:
    if config.alone is None:
        return None
    alone = load_detector(config.alone)
    if alone.class_names != data.val.class_names:
        raise ConfigError(
            f"The student alone in {config.alone} must have the data's classes {list(data.val.class_names)}, got "
            f"{list(alone.class_names)}. Give a run on this data."
        )
    return alone


def _autocast(config: RunConfig) -> torch.dtype | None:
    return {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(config.train.precision)


def _measure(
    detectors: Mapping[str, Detector | None], config: RunConfig, data: OpenedData, watcher: Progress
) -> dict[str, Measured | None]:
    """Figures of what there is beside the distilled student."""
    return {
        name: None if detector is None else measure_fitted(detector, config, data, what=name, progress=watcher)
        for name, detector in detectors.items()
    }


def _tell(step: DistillationStep, config: RunConfig, watcher: Progress, *, inherited: InheritReport | None) -> None:
    """Says what is inherited, paired and capped."""
    if inherited is not None:
        watcher.say("\n".join(inherited.lines()))
    watcher.say(pairing_note(step.student.spec, step.teacher.spec))
    for weighted in step.recipe.terms:
        steps = weighted.warm_up.within(config.train.steps)
        if steps != weighted.warm_up.steps:
            watcher.say(
                f"{weighted.name}: warm-up of {weighted.warm_up.steps} steps capped at {steps} of {config.train.steps}"
            )


def _batch_with_boxes(config: RunConfig, data: OpenedData, changes: SampleChanges) -> Batch:
    dataset: DetectionDataset = training_data(config, data, changes=changes)
    samples = []
    for index in range(len(dataset)):
        if (~data.train.ignored[data.train.objects(index)]).any():
            sample = dataset[Draw(epoch=0, index=index)]
            if len(sample.targets.taught().labels):
                samples.append(sample)
        if len(samples) == _PROOF_IMAGES:
            break
    if not samples:
        raise DataError(
            "The training images must have at least one box to learn, got none. "
            "Check the annotations with `detdistill data check`."
        )
    return collate(samples, pad_multiple=data.image.pad_multiple)


def _draw(config: RunConfig, data: OpenedData, results: Mapping[str, Measured | None]) -> None:
    columns = {name: measured.found for name, measured in results.items() if measured is not None}
    comparison_sheet(config.out / PICTURES, sheet_rows(data.val, columns), class_names=data.val.class_names)
    curves = {DISTILLED: RunFolder(config.out).metrics}
    if config.alone is not None and RunFolder(config.alone).metrics.is_file():
        curves = {ALONE: RunFolder(config.alone).metrics, **curves}
    learning_curves(curves, config.out / CURVES)
