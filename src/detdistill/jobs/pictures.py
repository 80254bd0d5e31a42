"""Draws what student alone, distilled student and teacher find on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detdistill.data.annotations import Annotations
from detdistill.data.classes import take_classes
from detdistill.evaluation.coco import ImageDetections
from detdistill.files import SHEET
from detdistill.jobs.opening import acquainted, detect, in_data_classes, open_detector, read_split, seen_size
from detdistill.progress import Progress, Silence
from detdistill.report.palette import require_png
from detdistill.report.qualitative import Pick, choose_pictures, draw_pictures
from detdistill.report.tables import AGNOSTIC, Cell, Table
from detdistill.store.students import load_detector


@dataclass(frozen=True, slots=True)
class PicturesOutcome:
    """What was drawn: of every image its file name, why it was chosen, and what both students did in it."""

    out: Path
    names: Sequence[str]
    picks: Sequence[Pick]
    agnostic: bool = False

    def table(self) -> list[str]:
        """A line an image, and where the picture is."""
        rows: list[tuple[Cell, ...]] = [
            (name, pick.reason, pick.alone.text(), pick.distilled.text(), f"{pick.change:+d}")
            for name, pick in zip(self.names, self.picks, strict=True)
        ]
        table = Table(("image", "chosen as", "student alone", "distilled student", "change"), tuple(rows))
        legend = "change: found minus wrong, of the distilled student minus that of the student alone"
        note = [AGNOSTIC] if self.agnostic else []
        return [*table.text().splitlines(), *note, "", legend, f"drawn in {self.out}"]

    def as_dict(self) -> Mapping[str, Any]:
        """The counts of every image."""
        return {
            name: {
                "chosen as": pick.reason,
                "objects": pick.alone.objects,
                "alone": {"found": pick.alone.found, "wrong": pick.alone.wrong},
                "distilled": {"found": pick.distilled.found, "wrong": pick.distilled.wrong},
            }
            for name, pick in zip(self.names, self.picks, strict=True)
        }


def pictures_job(
    *,
    alone: Path,
    distilled: Path,
    teacher: str,
    data: Path,
    out: Path,
    seed: int = 0,
    images: int = 6,
    score: float = 0.4,
    agnostic: bool = False,
    progress: Progress | None = None,
) -> PicturesOutcome:
    """Runs three detectors on validation images and draws some; the words are those of `detdistill.pictures`."""
    watcher = progress or Silence()
    require_png(out, SHEET, option="--out")
    annotations = read_split(data, "val", exact=data.is_file(), allow_problems=True, progress=watcher)
    # What the runs learned of the data's classes.
    annotations, notes = take_classes(annotations, load_detector(alone).class_names, source=data)
    for note in notes:
        watcher.say(f"val data: {note}")
    first, second = (found_by(str(source), annotations, agnostic, watcher) for source in (alone, distilled))
    third = found_by(teacher, annotations, agnostic, watcher)
    picks = choose_pictures(annotations, alone=first, distilled=second, seed=seed, images=images, score=score)
    draw_pictures(out, annotations, picks, alone=first, distilled=second, teacher=third, score=score)
    names = tuple(annotations.file_name(pick.index) for pick in picks)
    return PicturesOutcome(out, names, tuple(picks), agnostic=agnostic)


def found_by(source: str, annotations: Annotations, agnostic: bool, progress: Progress) -> list[ImageDetections]:
    """What the detector of a text finds in these images, in their classes and at its own size."""
    loaded = acquainted(open_detector(source, progress=progress), {"validation images": annotations}, progress=progress)
    loaded, _ = in_data_classes(loaded, annotations.class_names, source=source, choice=None, progress=progress)
    size = seen_size(loaded, annotations, source=source, progress=progress)
    label = f"detect with {source}"
    return detect(loaded.detector, annotations, size, label=label, agnostic=agnostic, progress=progress)
