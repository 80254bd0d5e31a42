"""The first stage of a run: reads what it works with, and refuses what cannot be used before any work is done."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from detdistill.data.annotations import Annotations
from detdistill.errors import ConfigError, DataError
from detdistill.evaluation.coco import evaluate_coco
from detdistill.jobs import sizes
from detdistill.jobs.opening import (
    image_settings,
    open_detector,
    read_split,
    require_same_classes,
    shared_images,
)
from detdistill.jobs.samples import Opened, OpenedData
from detdistill.jobs.settings import RunConfig
from detdistill.jobs.start import open_start
from detdistill.progress import Progress
from detdistill.store.students import load_detector
from detdistill.training.launch import own_device
from detdistill.training.world import by_leader, watched_by_leader


def open_inputs(config: RunConfig, *, resume: bool = False, progress: Progress | None = None) -> Opened:
    """Reads data, teacher and the student alone; nothing is written or trained."""
    watcher = watched_by_leader(progress)
    require_free(config.out, resume=resume)
    own_device(config.train)
    choice, teacher, same_classes = config.teacher, None, True
    if choice is not None:
        teacher = open_detector(choice.source, allow=choice.allow, progress=watcher)
    train_split = _read_split(config, "train", None, watcher)
    if train_split.ignored.all():
        raise DataError(
            f"The training data {config.data.source('train')} must hold at least one box to learn, got none in "
            f"{len(train_split)} images. See what became of them by `detdistill data check`."
        )
    names = train_split.class_names
    val_split = _read_split(config, "val", names, watcher)
    if shared := shared_images(train_split, val_split):
        watcher.say(shared)
    _require_figure(config, val_split)
    start = open_start(config, resume=resume, progress=watcher)
    known = teacher.image if teacher else None
    if start is not None and (choice is None or choice.image is not None):
        known = start.image
    size = config.data.image or image_settings(known, train_split)
    if start is not None:
        start.say_size(size, train_split, watcher)
    data, teacher_image = OpenedData(train_split, val_split, size), None
    if choice is not None and teacher is not None:
        same_classes = require_same_classes(teacher, data.train, source=choice.source, allow=choice.allow)
        teacher_image = sizes.teachers_size(choice, teacher, size)
        note = sizes.foreign_size_note(teacher, teacher_image or size, train_split)
        if note is not None:
            watcher.say(note)
    alone = None if config.alone is None else load_detector(config.alone)
    if alone is not None and alone.class_names != names:
        raise ConfigError(
            f"The student alone in {config.alone} must have the data's classes {list(names)}, got "
            f"{list(alone.class_names)}. Give a run on this data."
        )
    return Opened(config, resume, data, teacher, same_classes, alone, teacher_image, start)


def _read_split(
    config: RunConfig, split: Literal["train", "val"], class_names: tuple[str, ...] | None, progress: Progress
) -> Annotations:
    data = config.data
    own = data.train if split == "train" else data.val
    return read_split(
        data.source(split),
        split,
        class_names=class_names,
        exact=own is not None,
        allow_problems=data.allow_problems,
        progress=progress,
    )


def require_free(out: Path, *, resume: bool) -> None:
    """Refuses a folder that holds something else, before any work is done."""

    def look() -> None:
        if out.exists() and not out.is_dir():
            raise ConfigError(f"The run folder {out} must be a folder, got a file of that name. Choose another --out.")
        if not resume and out.is_dir() and any(out.iterdir()):
            raise ConfigError(
                f"The run folder {out} must be new or empty, got one with files in it. "
                "Choose another --out, or go on with that run by --resume."
            )

    by_leader(look)


def _require_figure(config: RunConfig, val: Annotations) -> None:
    """Refuses to choose by a figure that the validation images have nothing for."""
    metric = config.train.best_metric
    if config.train.selects and evaluate_coco(val, [], backend=config.evaluate.backend).figures()[metric] is None:
        raise ConfigError(
            f"train.best_metric must be a figure that the validation images have, got {metric}, for which they hold no "
            f"object. {'Add labelled ones' if metric == 'AP' else 'Choose AP'}."
        )
