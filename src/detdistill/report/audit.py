"""A sheet of likely label errors: the place in the image as it is labelled, and as it should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detdistill.data.annotations import Annotations
from detdistill.evaluation.coco import ImageDetections
from detdistill.evaluation.label_errors import NOTHING_THERE, LabelError
from detdistill.report.sheet import SheetRow, comparison_sheet, sheet_row

LABELS, PROPOSAL, NOTHING = "labels", "proposal", "nothing"
_PANEL_PX = 360
# Of a finding's own size, and of its image: what is shown around it.
_TIMES, _SHARE = 3.0, 0.4


def audit_sheet(path: Path, annotations: Annotations, errors: Sequence[LabelError]) -> None:
    """Writes a picture with a line for each finding: the labels around it beside the one proposal.

    Raises:
        ConfigError: there are no findings.
        DataError: an image cannot be read.
    """
    rows = [_row(annotations, error, place) for place, error in enumerate(errors, start=1)]
    comparison_sheet(
        path,
        rows,
        class_names=annotations.class_names,
        score_threshold=0.0,
        panel_px=_PANEL_PX,
        truth=LABELS,
        note="with the score of the finding",
    )


def _row(annotations: Annotations, error: LabelError, place: int) -> SheetRow:
    box, label = np.array([error.box], dtype=np.float32), np.array([error.label])
    image_id, names = int(annotations.image_ids[error.image]), annotations.class_names
    before = NOTHING if error.row is None else names[annotations.labels[error.row]]
    after = NOTHING if error.kind == NOTHING_THERE else names[error.label]
    proposed = ImageDetections(image_id, box, np.array([error.score], dtype=np.float32), label)
    if error.kind == NOTHING_THERE:
        proposed = ImageDetections.none(image_id)
    row = sheet_row(annotations, error.image, {PROPOSAL: [proposed]})
    held = box if error.row is None else np.concatenate([box, annotations.boxes[error.row][None]])
    size = np.array([row.image.width, row.image.height], dtype=np.float64)
    first, last = held[:, :2].min(axis=0), held[:, 2:].max(axis=0)
    half = np.maximum(_TIMES * (last - first), _SHARE * size).max() / 2
    corner = np.clip((first + last) / 2 - half, 0, None).astype(int)
    end = np.minimum(np.maximum((first + last) / 2 + half, corner + 1), size).astype(int)
    shift = np.tile(corner, 2).astype(np.float32)
    limit = np.tile(end - corner, 2).astype(np.float32)

    def moved(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(np.clip(boxes - shift, 0, limit))

    seen = (row.boxes[:, 2:] > corner).all(axis=1) & (row.boxes[:, :2] < end).all(axis=1)
    return replace(
        row,
        image=row.image.crop((*corner.tolist(), *end.tolist())),
        boxes=moved(row.boxes[seen]),
        labels=row.labels[seen],
        ignored=None if row.ignored is None else row.ignored[seen],
        detections={PROPOSAL: replace(proposed, boxes=moved(proposed.boxes))},
        caption=f"{place} · {error.kind} {error.score:.2f}: {before} → {after} · {annotations.file_name(error.image)}",
    )
