"""Detectors of one's own at the start of a run: looked at on training images, told, and refused with a mistake."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

from detdistill.detectors.base import Detector
from detdistill.detectors.checking import check_detector
from detdistill.detectors.families.own import OwnSettings
from detdistill.jobs import samples
from detdistill.jobs.samples import Opened
from detdistill.progress import Progress
from detdistill.store.layout import RunFolder
from detdistill.store.students import code_notes
from detdistill.training.world import by_leader
from detdistill.types import Batch


def check_own(opened: Opened, student: Detector, progress: Progress) -> None:
    """Looks at student and teacher where they are of one's own; what they show is said.

    Raises:
        CapabilityError: one has a mistake.
    """
    for source, detector, batch in _own(opened, student):
        like = copy.deepcopy(detector).to(opened.first_device)
        found = check_detector(like, batch.to(opened.first_device), name=source)
        found.require()
        for line in found.shows:
            progress.say(f"{source}: {line}")
    settings, run = student.settings, RunFolder(opened.config.out)
    if opened.resume and isinstance(settings, OwnSettings) and (latest := by_leader(run.latest)) is not None:
        for note in by_leader(lambda: code_notes(run.checkpoint(latest), settings)):
            progress.say(f"{settings.name}: {note}")


def _own(opened: Opened, student: Detector) -> Iterator[tuple[str, Detector, Batch]]:
    """Each detector of one's own, also within one that shows it in other classes or beside others; what it sees."""
    batch = None
    for whole in (student, None if opened.teacher is None else opened.teacher.detector):
        for part in () if whole is None else whole.modules():
            if not isinstance(part, Detector) or not isinstance(part.settings, OwnSettings):
                continue
            batch = batch or samples.batch_with_boxes(opened, samples.own_changes(opened.config.data))
            seen = batch if whole is student else batch.for_teacher
            yield part.settings.name, part, _in_its_classes(seen, len(part.spec.class_names))


def _in_its_classes(batch: Batch, classes: int) -> Batch:
    """The batch with labels that a detector of so many classes can have."""
    targets = [replace(one, labels=one.labels.clamp(max=classes - 1)) for one in batch.targets]
    return replace(batch, targets=tuple(targets))
