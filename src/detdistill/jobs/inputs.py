"""The first stage of a run: reads what it works with, and refuses what cannot be used before any work is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

from detdistill.data.annotations import Annotations
from detdistill.data.builder import match_classes
from detdistill.data.classes import left_out, require_shared
from detdistill.data.mixture import Mixture
from detdistill.data.problems import Problems
from detdistill.data.transforms import ImageSettings
from detdistill.data.union import counted, one_sided, shared_images, unite, united_names
from detdistill.detectors.load_report import LoadedDetector
from detdistill.detectors.mapped import bare
from detdistill.detectors.predictions import Predictions
from detdistill.errors import ConfigError, DataError, suggestion
from detdistill.evaluation.coco import evaluate_coco
from detdistill.files import is_partial, require_writable
from detdistill.jobs import sizes
from detdistill.jobs.opening import acquainted, image_settings, read_split, tell_known
from detdistill.jobs.paths import PATHS_FROM
from detdistill.jobs.samples import Opened, OpenedData
from detdistill.jobs.settings import DataSettings, RunConfig, TeacherSettings
from detdistill.jobs.several import in_classes, open_teachers, require_turns, united
from detdistill.jobs.start import open_start
from detdistill.jobs.unlabelled import open_unlabelled
from detdistill.progress import Progress
from detdistill.settings.strict_yaml import load_yaml
from detdistill.store.layout import ALONE_LONGER, LOCK, RunFolder
from detdistill.store.lock import require_idle
from detdistill.store.students import load_detector
from detdistill.training.launch import own_device
from detdistill.training.loggers import require_loggers
from detdistill.training.world import by_leader, watched_by_leader


def open_inputs(config: RunConfig, *, resume: bool = False, progress: Progress | None = None) -> Opened:
    """Reads data, teacher and the student alone; nothing is written or trained."""
    watcher = watched_by_leader(progress)
    require_free(config.out, resume=resume)
    if resume:
        _require_same_longer(config)
    own_device(config.train)
    require_loggers(config.train)
    choice, teacher, same_classes = config.teacher, None, True
    if choice is not None:
        require_turns(choice, config.train.steps)
    teachers = () if choice is None else open_teachers(choice, watcher)
    told = {"train": Problems(), "val": Problems()}
    sets, train_split, val_split = open_data_sets(config.data, told=told, progress=watcher)
    if train_split.ignored.all():
        raise DataError(
            f"The training data {' and '.join(map(str, config.data.sources('train')))} must hold at least one box to "
            f"learn, got none in {len(train_split)} images. See what became of them by `detdistill data check DATA`."
        )
    if empty := int((np.diff(train_split.offsets) == 0).sum()):
        watcher.say(f"train data: {empty} of {len(train_split)} images have no box: they teach background alone")
    names, weights, mixture = train_split.class_names, config.data.weights, None
    if weights is not None and len(set(weights)) > 1:
        mixture = Mixture(tuple(map(len, sets)), weights, config.seed)
    _require_figure(config, val_split)
    start = open_start(config, resume=resume, progress=watcher)
    known = teachers[0].image if teachers else None
    if start is not None and (choice is None or choice.image is not None):
        known = start.image
    size = config.data.image or image_settings(known, train_split)
    if start is not None:
        start.say_size(size, train_split, watcher)
    data, teacher_image = OpenedData(train_split, val_split, size, mixture, told), None
    found_at: ImageSettings | None = None
    if choice is not None:
        shown = {"training images": train_split, "validation images": val_split}
        teachers = tuple(acquainted(one, shown, sets=len(sets), progress=watcher) for one in teachers)
        teachers, same_classes = in_classes(teachers, names, choice, watcher)
        teacher = united(teachers, choice)
        teacher_image, found_at = _teachers_sizes(choice, teachers, size, train_split)
        seen = found_at or teacher_image or size
        notes = (sizes.foreign_size_note(one, seen, train_split) for one in teachers)
        for note in dict.fromkeys(filter(None, notes)):
            watcher.say(note)
    alone = None if config.alone is None else load_detector(config.alone)
    if alone is not None and alone.class_names != names:
        raise ConfigError(
            f"The student alone in {config.alone} must have the data's classes {list(names)}, got "
            f"{list(alone.class_names)}. Give a run on this data."
        )
    others = open_unlabelled(config, train_split, val_split, same_classes=same_classes, progress=watcher)
    if others is not None and teacher is not None:
        tell_known(teacher.detector, others, title="unlabelled images", some=True, progress=watcher)
    several = teachers if len(teachers) > 1 else ()
    return Opened(
        config, resume, data, teacher, same_classes, alone, teacher_image, start, others, several, found_at=found_at
    )


def _teachers_sizes(
    choice: TeacherSettings, teachers: Sequence[LoadedDetector], ours: ImageSettings, train: Annotations
) -> tuple[ImageSettings | None, ImageSettings | None]:
    """The size at which teachers see the student's images, and that of some that say boxes alone before training.

    See `Opened`.
    """
    detectors = [bare(one.detector) for one in teachers]
    if any(one.spec.pyramid is not None or isinstance(one, Predictions) for one in detectors):
        return sizes.teachers_size(choice, teachers, ours), None
    given = choice.image if isinstance(choice.image, ImageSettings) else None
    own = {sizes.own_size(one) for one in teachers}
    return None, given or (own.pop() if len(own) == 1 else None) or image_settings(None, train)


def _learned_images(train: Annotations, val: Annotations) -> list[str]:
    """A line that says how many validation images are training images too; none where there is none."""
    first, second = (
        {f"{split.images_dir.resolve()}/{split.file_name(index)}" for index in range(len(split))}
        for split in (train, val)
    )
    both = f"val data: {len(first & second)} of {len(second)} images are training images too: "
    return [f"{both}AP says little about new ones"] if first & second else []


def open_data_sets(
    settings: DataSettings, *, told: Mapping[str, Problems] = MappingProxyType({}), progress: Progress
) -> tuple[list[Annotations], Annotations, Annotations]:
    """The training sets of a run one by one, and both its splits whole: of one data set or several, as they are chosen.

    What was repaired or skipped is added to `told`, by split.

    Raises:
        ConfigError: there is no such data, or a class to keep is in none of it.
        DataError: data cannot be used, or the validation classes are others than the training classes.
    """

    def read(split: Literal["train", "val"], demanded: tuple[str, ...] | None = None) -> dict[str, Annotations]:
        paths, found = settings.sources(split), {}
        exact = (settings.train if split == "train" else settings.val) is not None
        for path in paths:
            title = f"{split} data {path}" if len(paths) > 1 else None
            found[str(path)] = read_split(
                path,
                split,
                class_names=demanded,
                exact=exact,
                allow_problems=settings.allow_problems,
                title=title,
                told=told.get(split),
                progress=progress,
            )
        return found

    trains, places = read("train"), settings.sources("val")
    every = united_names([*trains.values()])
    names = every if settings.classes is None else settings.classes
    if settings.classes is None and len(trains) == len(places) == 1:
        (train,), (val,) = trains.values(), read("val", names).values()
        for line in _learned_images(train, val):
            progress.say(line)
        return [train], train, val
    for name in names:
        if name not in every:
            raise ConfigError(
                f"data.classes must be classes of the data, {', '.join(every)}, got '{name}'. "
                f"{suggestion(name, every, listed=True)}"
            )
    vals = read("val")
    for split, sets in (("train", trains), ("val", vals)):
        for title, one in sets.items():
            if settings.classes is not None:
                require_shared(one.class_names, names, source=Path(title))
                if lost := left_out(one, names):
                    progress.say(f"{split} data {title}: {lost}")
            elif not set(one.class_names) <= set(names):
                match_classes(Path(title), one.class_names, names)
            if len(sets) > 1:
                progress.say(f"{split} data {counted(title, one, names)}")
    several = len(trains) + len(vals) > 2
    shared = shared_images(trains, vals) if several else _learned_images(*trains.values(), *vals.values())
    for line in (*one_sided(names, trains), *shared):
        progress.say(line)
    measured = {name for one in vals.values() for name in one.class_names}
    if missing := [name for name in names if name not in measured]:
        progress.say(f"no validation data has the class {', '.join(missing)}: its figures stay unknown")
    return [*trains.values()], unite([*trains.values()], names), unite([*vals.values()], names)


def require_free(out: Path, *, resume: bool, first: str = "", owns: Callable[[str], bool] = lambda name: False) -> None:
    """Refuses a folder that holds something else, before any work is done.

    Args:
        out: the folder that is to be written.
        resume: whether a run may lie there; anything else may not all the same.
        first: the run's own folder in it, for a chain of several.
        owns: whether what has a name there is a study's own, for one of several runs.
    """

    def look() -> None:
        require_idle(out)
        if out.exists() and not out.is_dir():
            raise ConfigError(f"The run folder {out} must be a folder, got a file of that name. Choose another --out.")
        require_writable(out, "The run folder")
        if not (made := _made_in(out)):
            return
        begun = _is_run(out / first) or all(map(owns, made))
        if not resume:
            remedy = "Choose another --out, or go on with that run by --resume." if begun else "Choose another --out."
            raise ConfigError(f"The run folder {out} must be new or empty, got one with files in it. {remedy}")
        if not begun:
            raise ConfigError(
                f"The run folder {out} must hold a run to go on with, or nothing, got other files. "
                "Choose another --out."
            )

    by_leader(look)


def _is_run(folder: Path) -> bool:
    """Whether a run was begun in a folder: it has a checkpoint, a config file, or what its teacher made alone."""
    run, made = RunFolder(folder), _made_in(folder)
    if run.steps() or (made and made <= {run.twins.name, run.unlabelled.name, run.finds.name}):
        return True
    try:
        return run.config.read_text(encoding="utf-8").startswith(f"{PATHS_FROM}:")
    except (OSError, UnicodeDecodeError):
        return False


def _made_in(folder: Path) -> set[str]:
    """The names in a folder but for what a kill leaves of a run that has made nothing: its lock, a cut-off write."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return {name for name in names if name != LOCK and not is_partial(name)}


def _require_same_longer(config: RunConfig) -> None:
    """Refuses to go on with the student alone for another time than it was begun for."""
    begun = RunFolder(config.out / ALONE_LONGER)
    if config.longer is None or not by_leader(begun.config.is_file):
        return
    steps = by_leader(lambda: int(load_yaml(begun.config)["train"]["steps"]))
    if steps != round(config.longer * config.train.steps):
        raise ConfigError(
            f"--longer must be {steps / config.train.steps:g} to resume from {begun.path}, got {config.longer:g}. "
            "Set it back, or start a new run in another folder."
        )


def _require_figure(config: RunConfig, val: Annotations) -> None:
    """Refuses to choose by a figure that the validation images have nothing for."""
    metric = config.train.best_metric
    if config.train.selects and evaluate_coco(val, [], backend=config.evaluate.backend).figures()[metric] is None:
        raise ConfigError(
            f"train.best_metric must be a figure that the validation images have, got {metric}, for which they hold no "
            f"object. {'Add labelled ones' if metric == 'AP' else 'Choose AP'}."
        )
