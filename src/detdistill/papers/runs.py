"""The trainings behind a paper's rows: which runs a row needs, at the paper's size or small enough for a test."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

from detdistill.data.transforms import AugmentSettings, ImageSettings
from detdistill.detectors.catalogue import parse_detector, settings_of
from detdistill.detectors.settings import PyramidSettings
from detdistill.jobs.run import ALONE, DISTILLED, TEACHER
from detdistill.jobs.settings import DataSettings, RunConfig, StudentChoice, TeacherSettings, TwinSettings
from detdistill.methods.composition import method_text, structure
from detdistill.papers.data import PreparedData
from detdistill.papers.rows import DataName, PaperModel, PaperRow
from detdistill.training.settings import FREE_ON_RESUME, TrainSettings

Scale = Literal["smoke", "full"]
RUNS, TWINS = "runs", "twins"

SMOKE_STEPS_AN_EPOCH = 3
_SMOKE_BATCH = 4
_SMOKE_SIZES: Mapping[DataName, ImageSettings] = MappingProxyType(
    {"kitti": ImageSettings(96, 256), "coco_traffic": ImageSettings(112, 160), "coco": ImageSettings(112, 160)}
)
# The papers' backbones, by how much stands for them in a test: width of the pyramid and preset of the family.
_SMOKE_WIDTHS = MappingProxyType(
    {"resnext101_64x4d": (64, "small"), "resnet101": (64, "small"), "resnet50": (32, "tiny"), "resnet18": (24, "tiny")}
)
_SMOKE_FASTER_RCNN: Mapping[str, Any] = MappingProxyType(
    {
        "strides": (8, 16, 32),
        "anchor_scale": 2.0,
        "roi_samples": 64,
        "rpn_samples": 64,
        "proposals_train": 96,
        "proposals_test": 64,
    }
)


@dataclass(frozen=True, slots=True)
class PaperRun:
    """One training, which several rows may need.

    Attributes:
        name: of its folder: what it is, and a digest of everything that decides it.
        needs: the name of its teacher's run; None without a teacher.
    """

    name: str
    config: RunConfig
    needs: str | None = None


@dataclass(frozen=True, slots=True)
class RowRuns:
    """The runs of a row by role: teacher, alone, distilled; those that the row shows have a published figure or are
    the row's own; in the order in which they are made.
    """

    row: PaperRow
    runs: Mapping[str, PaperRun]


def row_runs(row: PaperRow, data: PreparedData, *, scale: Scale, out: Path) -> RowRuns:
    """The runs that a covered row needs; equal trainings of different rows have one name."""
    runs: dict[str, PaperRun] = {}
    if row.student is None:
        return RowRuns(row, runs)
    settings = row.method_settings
    if row.teacher is not None:
        runs[TEACHER] = _named(_alone(row, row.teacher, data, scale=scale), data, out)
    alone = _alone(row, row.student, data, scale=scale)
    if settings is None or row.student.published is not None:
        runs[ALONE] = _named(alone, data, out)
    if settings is not None:
        taught = replace(
            alone,
            teacher=TeacherSettings(source=str(runs[TEACHER].config.out)),
            method=settings,
            twins=TwinSettings(folder=out / TWINS),
            inherit=row.inherit,
        )
        runs[DISTILLED] = _named(taught, data, out, teacher=runs[TEACHER].name)
    return RowRuns(row, runs)


def in_order(rows: Sequence[RowRuns]) -> list[PaperRun]:
    """Every run once, teachers before their students."""
    unique = {run.name: run for one in rows for run in one.runs.values()}
    return sorted(unique.values(), key=lambda run: run.needs is not None)


def _alone(row: PaperRow, model: PaperModel, data: PreparedData, *, scale: Scale) -> RunConfig:
    smoke = scale == "smoke"
    settings = smoke_detector(model) if smoke else model.resolved()
    method = row.method_settings
    if smoke and row.teacher is not None and method is not None and "aligner=identity" in method_text(method):
        # The method compares channel by channel, so that both necks must have as many.
        settings = replace(settings, fpn_channels=smoke_detector(row.teacher).fpn_channels)
    image = _SMOKE_SIZES[row.data] if smoke else row.image
    sides = model.train.short_sides
    if sides is not None:
        # In pixels of an image that is smaller than the row's in a test.
        low, high = (max(1, round(side * image.short_side / row.image.short_side)) for side in sides)
        sides = low, high
    return RunConfig(
        data=DataSettings(folder=data.folder, image=image, augment=AugmentSettings(flip=0.5, short_sides=sides)),
        student=StudentChoice(settings.name, settings),
        train=_smoke_training(model) if smoke else _full_training(model, data.train_images),
        out=Path(),
    )


def smoke_detector(model: PaperModel) -> PyramidSettings:
    """A detector of the same family that learns from scratch in seconds."""
    full = model.resolved()
    family, (width, preset) = full.family, _SMOKE_WIDTHS.get(full.backbone.partition(".")[0], (32, "tiny"))
    changes: dict[str, Any] = {"fpn_channels": width}
    if family == "faster_rcnn":
        preset, changes = "test_resnet", {**changes, **_SMOKE_FASTER_RCNN, "roi_channels": 2 * width}
    small = settings_of({**parse_detector(f"{family}/{preset}").to_dict(), **changes})
    return cast(PyramidSettings, small)


def _smoke_training(model: PaperModel) -> TrainSettings:
    return TrainSettings(
        steps=SMOKE_STEPS_AN_EPOCH * model.train.epochs,
        batch_size=_SMOKE_BATCH,
        lr=4e-3,
        warmup_steps=10,
        ema_decay=0.9,
        threads=1,
        workers=1,
    )


def _full_training(model: PaperModel, images: int) -> TrainSettings:
    schedule = model.train
    steps = schedule.epochs * -(-images // schedule.batch_size)
    return TrainSettings(
        steps=steps,
        batch_size=schedule.batch_size,
        accumulate=schedule.accumulate,
        optimizer="sgd",
        lr=schedule.lr,
        weight_decay=1e-4,
        momentum=0.9,
        schedule="step",
        milestones=tuple(drop / schedule.epochs for drop in schedule.drops),
        warmup_steps=schedule.warmup_steps,
        clip_norm=schedule.clip_norm,
        ema_decay=0.0,
        workers=min(4, os.cpu_count() or 1),
        log_every=50,
        checkpoint_every=max(500, steps // 24),
    )


def _named(config: RunConfig, data: PreparedData, out: Path, *, teacher: str | None = None) -> PaperRun:
    content = {key: value for key, value in config.as_dict().items() if key not in ("out", "twins")}
    # Where the folder lies does not matter, and which it is says the data's identity.
    content["data"] |= {"folder": data.identity, "digest": data.digest}
    for key in FREE_ON_RESUME:
        content["train"].pop(key)
    if teacher is not None:
        content["teacher"] = teacher
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:8]
    student = config.student.settings
    words = [Path(data.identity).name, *student.name.partition(".")[0].split("/")]
    if config.method is not None:
        words += structure(config.method).replace(")", "").replace("(", "_").split(" + ")
    name = "-".join([*words, digest])
    return PaperRun(name=name, config=replace(config, out=out / RUNS / name), needs=teacher)
