"""Finds labels that are likely to be wrong: where a teacher and they disagree."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from detdistill.data.annotations import Annotations
from detdistill.data.classes import left_out, require_shared
from detdistill.data.sources import find_split
from detdistill.errors import ConfigError
from detdistill.evaluation.coco import ImageDetections, coco_dict
from detdistill.evaluation.label_errors import KINDS, NOTHING_THERE, WRONG_CLASS, LabelError, find_label_errors
from detdistill.evaluation.shared import require_score
from detdistill.files import SHEET, figures_of, require_own, write_figures, write_text
from detdistill.jobs.opening import acquainted, detect, open_detector, read_split, seen_size
from detdistill.progress import Progress, Silence, counted
from detdistill.report.audit import audit_sheet
from detdistill.report.palette import drawn
from detdistill.report.tables import Table

FINDINGS, PROPOSALS, PICTURES = "findings.csv", "proposals.json", "findings.png"
_COMMAND = "data audit"
_SHOWN = 10
Corners = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Finding:
    """A label that is likely to be wrong; boxes are x1, y1, x2, y2 in pixels of the stored image.

    Attributes:
        rank: 1 for the most likely.
        score: how likely, in [0, 1]; it ranks, and is no probability.
        kind: missing box, wrong class, box off or nothing there.
        labelled: the class as it is; None where there is no label, as its box `label`.
        proposed: the class as it should be; None where the label should go, as its box `box`.
    """

    rank: int
    score: float
    kind: str
    image_id: int
    file_name: str
    labelled: str | None
    proposed: str | None
    label: Corners | None
    box: Corners | None


@dataclass(frozen=True, slots=True)
class AuditOutcome:
    """Where the teacher and the labels of a split disagree, most likely errors first.

    Attributes:
        out: the folder with ``findings.csv``, ``proposals.json`` and ``findings.png``.
        labels: how many were looked at.
        score: the least of a finding.
        pictures: how many findings were drawn.
    """

    out: Path
    data: Path
    split: str
    teacher: str
    images: int
    labels: int
    score: float
    findings: tuple[Finding, ...]
    pictures: int

    def counts(self) -> dict[str, int]:
        """Findings by kind."""
        return {kind: sum(one.kind == kind for one in self.findings) for kind in KINDS}

    def table(self) -> list[str]:
        """How many findings of each kind, the first of them, and where all are."""
        looked = f"{counted(self.images, 'image')} and {counted(self.labels, 'label')} of {self.data} ({self.split})"
        number = counted(len(self.findings), "finding")
        kinds = ", ".join(f"{kind} {count}" for kind, count in self.counts().items())
        lines = [f"{looked}: {number} with score ≥ {self.score:g} by {self.teacher}", kinds]
        if self.findings:
            rows = tuple(
                (one.rank, f"{one.score:.2f}", one.kind, one.file_name, one.labelled or "–", one.proposed or "–")
                for one in self.findings[:_SHOWN]
            )
            columns = ("rank", "score", "kind", "image", "labelled", "proposed")
            lines += ["", *Table(columns, rows).text().splitlines()]
        drawn_ones = [f"the first {self.pictures} drawn in {PICTURES}"] if self.pictures else []
        told = [f"all in {FINDINGS}", *drawn_ones, f"the labels with the proposals in {PROPOSALS}"]
        return [*lines, "", f"{'; '.join(told)}; folder {self.out}"]

    def as_dict(self) -> Mapping[str, Any]:
        """What was looked at, counts and findings."""
        told = {"data": str(self.data), "split": self.split, "teacher": self.teacher, "images": self.images}
        found = [asdict(one) for one in self.findings]
        return {**told, "labels": self.labels, "score": self.score, "counts": self.counts(), "findings": found}


def audit_job(
    data: Path,
    *,
    teacher: str,
    out: Path,
    split: Literal["train", "val", "test"] = "train",
    score: float = 0.3,
    images: int = 20,
    progress: Progress | None = None,
) -> AuditOutcome:
    """Compares a split's labels with what a teacher finds; the words are those of `detdistill.audit_data`."""
    watcher = progress or Silence()
    require_score(score)
    if images < 0:
        raise ConfigError(f"--images must be at least 0, got {images}. Leave it out for 20.")
    exact = data.is_file()
    source = find_split(data, split, exact=exact).source
    if source.resolve() == (out / PROPOSALS).resolve():
        raise ConfigError(f"--out must be a folder other than that of the data, got {out}. Give a new folder.")
    begins = {FINDINGS: _header(), PROPOSALS: figures_of(_COMMAND), PICTURES: drawn(SHEET)}
    for name, beginning in begins.items():
        require_own(out / name, f"--out's {name}", beginning)
    loaded = open_detector(teacher, progress=watcher)
    annotations = read_split(data, split, exact=exact, allow_problems=True, progress=watcher)
    loaded = acquainted(loaded, {f"{split} images": annotations}, progress=watcher)
    require_shared(annotations.class_names, loaded.class_names, source=data)
    if note := left_out(annotations, loaded.class_names):
        watcher.say(f"{split} data: {note}, which {teacher} does not know")
    size = seen_size(loaded, annotations, source=teacher, progress=watcher)
    found = detect(loaded.detector, annotations, size, label=f"detect with {teacher}", progress=watcher)
    judged = known_labels(annotations, loaded.class_names)
    ranked = find_label_errors(judged, [_renamed(one, loaded.class_names, annotations.class_names) for one in found])
    errors = [error for error in ranked if error.score >= score]
    findings = tuple(_finding(annotations, error, rank) for rank, error in enumerate(errors, start=1))
    write_text(out / FINDINGS, _csv(findings))
    write_figures(out / PROPOSALS, proposals(annotations, errors), command=_COMMAND, option="--out")
    shown = errors[:images]
    if shown:
        audit_sheet(out / PICTURES, annotations, shown)
    else:
        (out / PICTURES).unlink(missing_ok=True)
    labels = int((~judged.ignored).sum())
    return AuditOutcome(out, data, split, teacher, len(annotations), labels, score, findings, len(shown))


def known_labels(annotations: Annotations, class_names: Sequence[str]) -> Annotations:
    """The annotations with the labels of all other classes as ignored regions, as nobody can judge them."""
    known = np.array([name in class_names for name in annotations.class_names], dtype=np.bool_)
    return replace(annotations, ignored=annotations.ignored | ~known[annotations.labels])


def _renamed(found: ImageDetections, names: Sequence[str], own: Sequence[str]) -> ImageDetections:
    """Detections with the data's class numbers, those of classes that it lacks left out."""
    numbers = np.array([own.index(name) if name in own else -1 for name in names], dtype=np.int64)[found.labels]
    kept = numbers >= 0
    return ImageDetections(found.image_id, found.boxes[kept], found.scores[kept], numbers[kept])


def _finding(annotations: Annotations, error: LabelError, rank: int) -> Finding:
    names, row = annotations.class_names, error.row
    gone = error.kind == NOTHING_THERE
    return Finding(
        rank=rank,
        score=round(error.score, 4),
        kind=error.kind,
        image_id=int(annotations.image_ids[error.image]),
        file_name=annotations.file_name(error.image),
        labelled=None if row is None else names[annotations.labels[row]],
        proposed=None if gone else names[error.label],
        label=None if row is None else _rounded(annotations.boxes[row].tolist()),
        box=None if gone else _rounded(error.box),
    )


def _rounded(box: Sequence[float]) -> Corners:
    x1, y1, x2, y2 = (round(float(edge), 2) for edge in box)
    return x1, y1, x2, y2


def proposals(annotations: Annotations, errors: Sequence[LabelError]) -> dict[str, Any]:
    """The labels in COCO's form, mended as proposed; what nothing speaks for stays.

    Each one concerned has a field ``proposal`` with the finding's rank, kind and score, and what it replaces:
    ``category_id`` or ``bbox``. File names are as in the source, object ids are new.
    """
    content = coco_dict(annotations)
    labels = content["annotations"]
    for rank, error in enumerate(errors, start=1):
        told: dict[str, Any] = {"rank": rank, "kind": error.kind, "score": round(error.score, 4)}
        x1, y1, x2, y2 = _rounded(error.box)
        mended = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
        category = {"category_id": int(annotations.category_ids[error.label])}
        if error.row is None:
            at = {"id": len(labels) + 1, "image_id": int(annotations.image_ids[error.image])}
            labels.append({**at, **category, **mended, "iscrowd": 0, "proposal": told})
            continue
        change = {} if error.kind == NOTHING_THERE else category if error.kind == WRONG_CLASS else mended
        label = labels[error.row]
        told |= {key: label[key] for key in change if key != "area"}
        label |= {**change, "proposal": told}
    return content


def _header() -> bytes:
    return ",".join(one.name for one in fields(Finding)).encode()


def _csv(findings: Sequence[Finding]) -> str:
    """A line for each finding; boxes as four numbers with spaces between."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(one.name for one in fields(Finding))
    for finding in findings:
        values = asdict(finding).values()
        writer.writerow(" ".join(map(str, value)) if isinstance(value, tuple) else value for value in values)
    return text.getvalue()
