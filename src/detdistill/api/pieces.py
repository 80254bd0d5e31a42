"""What a loop of one's own is made of: data, detectors, and a run's settings for the stages of `detdistill.stages`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from detdistill.data.transforms import ImageSettings
    from detdistill.detectors.base import Detector
    from detdistill.detectors.load_report import LoadedDetector
    from detdistill.detectors.settings import DetectorSettings
    from detdistill.jobs.opening import OpenedSplit
    from detdistill.jobs.settings import RunConfig
    from detdistill.progress import Progress

Place = Path | str
"""A file or folder."""
if TYPE_CHECKING:
    from detdistill.detectors.called import BlackBox

    Source = str | Path | BlackBox
else:  # what a command line can say
    Source = str | Path
"""Where a detector comes from: a run folder, a checkpoint, torchvision:NAME, or MODULE:CLASS=WEIGHTS."""

Entry = TypeVar("Entry")


def run_config(
    *settings: Place,
    purpose: Literal["train", "distill"],
    teacher: Source | Sequence[Source] | None = None,
    then: Source | Sequence[Source] | None = None,
    student: str | None = None,
    student_args: Sequence[str] = (),
    data: Place | Sequence[Place] | None = None,
    classes_map: str | None = None,
    unlabelled: Place | None = None,
    method: str | None = None,
    strength: float | str | None = None,
    itself: bool = False,
    inherit: bool = False,
    allow_problems: bool = False,
    init: Source | None = None,
    out: Place | None = None,
    alone: Place | None = None,
    alone_differs: bool = False,
    equal_time: bool = False,
    longer: float | None = None,
    steps: int | None = None,
    seed: int | None = None,
) -> RunConfig:
    """What `train` or `distill` would do with these words, complete and checked: for the stages of `detdistill.stages`.

    Args:
        settings: A config file, then settings that win over it.
        purpose: Whether a teacher and a method are looked at; all other words as in `distill`.

    Example:
        >>> stages = detdistill.stages
        >>> words = {"student": "fcos/tiny", "teacher": "runs/teacher", "method": "frs", "data": "my_data"}
        >>> config = detdistill.run_config("train.steps=2", purpose="distill", out="runs/distilled", **words)
        >>> proved = stages.prove(stages.build(stages.open_inputs(config)))
        >>> [proof.name for proof in proved.proofs]
        ['frs.features', 'frs.classes']
        >>> fitted = stages.fit(proved)
        >>> stages.measure(proved.built.opened, {"student": fitted.student})["student"].metrics.ap50 >= 0
        True
    """
    from detdistill.jobs.config import read_run_config

    file, written = split_arguments(tuple(map(str, settings)))
    after = _plain(then)
    options = {
        "teacher.source": _plain(teacher),
        "teacher.then": [after] if isinstance(after, str) else after,
        "student.detector": student,
        "data.folder": _plain(data),
        "teacher.classes_map": classes_map,
        "data.unlabelled.source": unlabelled,
        "method.name": method,
        "method.strength": strength,
        "inherit": inherit or None,
        "data.allow_problems": allow_problems or None,
        "init": init,
        "out": out,
        "alone": alone,
        "alone_differs": alone_differs or None,
        "equal_time": equal_time or None,
        "longer": longer,
        "train.steps": steps,
        "seed": seed,
    }
    return read_run_config(
        file, written, purpose=purpose, options=options, itself=itself, arguments=student_args, typed=True
    )


def _plain(data: Source | Sequence[Source] | None) -> str | list[str] | None:
    """A data set or a detector as a config file has it, or a list of several."""
    if data is None or isinstance(data, str) or not isinstance(data, Sequence):
        return None if data is None else str(data)
    return str(data[0]) if len(data) == 1 else list(map(str, data))


def open_data(
    path: Place,
    /,
    *,
    split: Literal["train", "val", "test"] = "train",
    class_names: Sequence[str] | None = None,
    image: Mapping[str, Any] | ImageSettings | None = None,
    allow_problems: bool = False,
    progress: Progress | None = None,
) -> OpenedSplit:
    """One split of a data set, to look at and to learn from: its annotations, and batches of it.

    Args:
        path: Data set folder, COCO JSON, or data.yaml.
        class_names: In label order, such as a teacher's; boxes of others are dropped, which `progress` is told. None
            for the data's own.
        image: To what size batches bring the images, such as a teacher's; None for the images' own median size.
        allow_problems: Open it even where most of its images or boxes had to be skipped.

    Example:
        >>> loaded = detdistill.load_detector("runs/teacher")
        >>> data = detdistill.open_data("my_data", class_names=loaded.class_names, image=loaded.image)
        >>> student = detdistill.build_detector("fcos/tiny", data.class_names, seed=0)
        >>> teacher = detdistill.FrozenTeacher(loaded.detector)
        >>> recipe = detdistill.build_recipe("frs", student.spec, teacher.spec)
        >>> step = detdistill.DistillationStep(student, teacher, recipe)
        >>> for index, batch in enumerate(data.batches(2, steps=3)):
        ...     report = step(batch, detdistill.Clock(step=index, total_steps=3))
        >>> bool(report.total > 0)
        True
    """
    from detdistill.data.classes import take_classes
    from detdistill.data.transforms import ImageSettings
    from detdistill.jobs.opening import OpenedSplit, image_settings, read_split
    from detdistill.progress import Silence

    place = Path(path)
    watcher = progress or Silence()
    annotations = read_split(place, split, exact=place.is_file(), allow_problems=allow_problems, progress=watcher)
    if class_names is not None:
        annotations, notes = take_classes(annotations, class_names, source=place)
        for note in notes:
            watcher.say(f"{split} data: {note}")
    size = image if isinstance(image, ImageSettings) else image_settings(image, annotations)
    return OpenedSplit(annotations=annotations, image=size)


def load_detector(source: Source, *, allow: Sequence[str] = (), progress: Progress | None = None) -> LoadedDetector:
    """A detector from a run, a checkpoint or torchvision, with its class names and image size.

    Args:
        source: Run folder, checkpoint, torchvision:NAME[=FILE.pth], hf:FOLDER, FILE.onnx, FILE.json, or
            MODULE:CLASS=WEIGHTS.
        allow: Beginnings of tensor names that may be missing, left over or of another shape.

    Example:
        >>> loaded = detdistill.load_detector("runs/teacher")
        >>> loaded.report.fraction, loaded.image["short_side"]
        (1.0, 96)
    """
    from detdistill.jobs.opening import open_detector

    return open_detector(typed(source), allow=allow, progress=progress)


def save_detector(detector: Detector, out: Place, *, image: Mapping[str, Any] | ImageSettings) -> None:
    """Writes a detector that `load_detector` reads, alone, wherever its folder is moved.

    Args:
        image: How its training images were prepared: a mapping, or what `open_data` says.

    Example:
        >>> detector = detdistill.build_detector("fcos/tiny", ("car", "truck"), seed=0)
        >>> detdistill.save_detector(detector, "runs/mine", image={"short_side": 96, "long_side": 160})
        >>> detdistill.load_detector("runs/mine").class_names
        ('car', 'truck')
    """
    from detdistill.store.students import save_detector

    save_detector(detector, Path(out), image=image if isinstance(image, Mapping) else asdict(image))


def build_detector(detector: str | DetectorSettings, class_names: Sequence[str], *, seed: int = 0) -> Detector:
    """A fresh detector.

    Args:
        detector: FAMILY/PRESET, FAMILY/BACKBONE or MODULE:CLASS, such as fcos/tiny, or what `parse_detector` made.

    Example:
        >>> detdistill.build_detector("fcos/tiny", ("car", "truck")).spec.class_names
        ('car', 'truck')
    """
    from detdistill.detectors.catalogue import build_detector, parse_detector

    typed(detector if isinstance(detector, str) else detector.name)
    settings = parse_detector(detector) if isinstance(detector, str) else detector
    return build_detector(settings, tuple(class_names), seed=seed)


def register_method(method: Entry) -> Entry:
    """Adds a method for this process; a package adds one by the entry-point group ``detdistill.methods``."""
    registered: Entry = importlib.import_module("detdistill.methods.catalogue").METHODS.register(method)
    return registered


def register_detector(family: Entry) -> Entry:
    """Adds a detector family for this process; a package adds one by the group ``detdistill.detectors``."""
    registered: Entry = importlib.import_module("detdistill.detectors.catalogue").FAMILIES.register(family)
    return registered


def register_format(data_format: Entry) -> Entry:
    """Adds a data format for this process; a package adds one by the group ``detdistill.formats``."""
    registered: Entry = importlib.import_module("detdistill.data.formats").FORMATS.register(data_format)
    return registered


def typed(source: Source) -> str:
    """A word of a user that says where a detector comes from; code that it names may then be imported."""
    from detdistill.detectors.own_code import trust_typed

    trust_typed(source)
    return str(source)


def split_arguments(arguments: Sequence[str]) -> tuple[Path | None, tuple[str, ...]]:
    """The config file, where the first argument is one, and the ``key=value`` settings."""
    if arguments and ("=" not in arguments[0] or Path(arguments[0]).is_file()):
        return Path(arguments[0]), tuple(arguments[1:])
    return None, tuple(arguments)
