"""The teachers of a run: opened, shown in the data's classes, and taken together where they are several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, chain, pairwise

from detdistill.detectors.class_map import read_pairs, require_known
from detdistill.detectors.load_report import LoadedDetector, LoadReport
from detdistill.detectors.preprocess import set_pixels
from detdistill.detectors.united import UnitedDetector
from detdistill.distillation.recipe import Window
from detdistill.errors import ConfigError
from detdistill.jobs.opening import in_data_classes, open_detector
from detdistill.jobs.settings import TeacherSettings
from detdistill.progress import Progress


def require_turns(choice: TeacherSettings, steps: int) -> None:
    """Refuses a sequence of teachers of which one would never teach.

    Raises:
        ConfigError: a share is less than one of the run's steps.
    """
    lengths = [round(one.end * steps) - round(one.start * steps) for one in windows(choice)]
    if not all(lengths):
        idle = choice.sources[lengths.index(0)]
        remedy = (
            "Leave teacher.shares out" if steps >= len(choice.parts) else f"Pass --steps {len(choice.parts)} or more"
        )
        raise ConfigError(
            f"Each teacher of a sequence must teach for a step at least, got none of {steps} for {idle}. {remedy}."
        )


def open_teachers(choice: TeacherSettings, progress: Progress) -> tuple[LoadedDetector, ...]:
    """All teachers of a run, in order."""
    found = []
    for source in choice.sources:
        loaded = open_detector(source, allow=choice.allow, progress=progress)
        set_pixels(loaded.detector, mean=choice.mean, std=choice.std, source=source)
        found.append(loaded)
    return tuple(found)


def in_classes(
    teachers: Sequence[LoadedDetector], names: tuple[str, ...], choice: TeacherSettings, progress: Progress
) -> tuple[tuple[LoadedDetector, ...], bool]:
    """The teachers in the data's classes `names`, and whether those that teach last know all of them.

    Raises:
        ConfigError: one knows none of them, or the map names a class that is none.
    """
    every = tuple(dict.fromkeys(chain.from_iterable(one.class_names for one in teachers)))
    require_known(read_pairs(choice.classes_map or ""), teacher=every, student=names)
    shown = [
        in_data_classes(one, names, source=source, choice=choice, progress=progress)
        for source, one in zip(choice.sources, teachers, strict=True)
    ]
    last = [one.detector.spec for one, _ in shown[-len(choice.parts[-1]) :]]
    missing = [name for name in names if all(name in spec.unknown or name not in spec.class_names for spec in last)]
    whole = not missing and all(spec.class_names == names for spec in last)
    if len(last) > 1 and missing:
        progress.say(f"no teacher knows the class {', '.join(missing)}: no class term teaches it")
    return tuple(one for one, _ in shown), whole


def united(teachers: Sequence[LoadedDetector], choice: TeacherSettings) -> LoadedDetector:
    """What is measured as the teacher, and whose boxes are labels: the teachers of the last part of a run as one."""
    last = teachers[-len(choice.parts[-1]) :]
    if len(last) == 1:
        return last[0]
    detector, first = UnitedDetector([one.detector for one in last]), last[0]
    reports = [one.report for one in last]
    report = LoadReport(
        " and ".join(one.source for one in reports),
        tuple(chain.from_iterable(one.matched for one in reports)),
        tuple(chain.from_iterable(one.missing for one in reports)),
        tuple(chain.from_iterable(one.unexpected for one in reports)),
        tuple(chain.from_iterable(one.mismatched for one in reports)),
        known="; ".join(one.known for one in reports) if all(one.known for one in reports) else "",
    )
    known = tuple(name for name in detector.spec.class_names if name not in detector.spec.unknown)
    image = first.image if all(one.image == first.image for one in last) else {}
    return replace(first, detector=detector, report=report, image=image, class_names=known, extra={})


def windows(choice: TeacherSettings) -> tuple[Window, ...]:
    """The part of the run in which each teacher teaches."""
    shares = choice.shares or (1.0,) * len(choice.parts)
    total = sum(shares)
    edges = [0.0, *(passed / total for passed in accumulate(shares[:-1])), 1.0]
    return tuple(
        Window(start, end) for part, (start, end) in zip(choice.parts, pairwise(edges), strict=True) for _ in part
    )
