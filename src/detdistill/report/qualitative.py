"""Which images show what distillation changed: some at random, those that it fixed most, those that it broke most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detdistill.data.annotations import Annotations
from detdistill.errors import ConfigError
from detdistill.evaluation.coco import ImageDetections
from detdistill.evaluation.shared import intersections, overlap, require_score
from detdistill.report.sheet import comparison_sheet, sheet_row

HIT_IOU = 0.5
ALONE, DISTILLED, TEACHER = "student alone", "distilled student", "teacher"
RANDOM, FIXED, BROKEN = "random", "fixed most", "broken most"
# Wide pictures, as a driving camera takes them, are unreadable in panels of the usual width.
_WIDE, _PANEL_PX, _WIDE_PANEL_PX = 2.0, 480, 720


@dataclass(frozen=True, slots=True)
class Counts:
    """What a detector did in one image: objects that it found, all but the ignored ones, and its wrong detections."""

    found: int
    objects: int
    wrong: int

    @property
    def balance(self) -> int:
        """Found less wrong: what the choice of pictures goes by."""
        return self.found - self.wrong

    def text(self) -> str:
        """In words."""
        return f"{self.found}/{self.objects} found, {self.wrong} wrong"


@dataclass(frozen=True, slots=True)
class Pick:
    """An image of a split to show: why it was chosen, and what both students did in it."""

    index: int
    reason: str
    alone: Counts
    distilled: Counts

    @property
    def change(self) -> int:
        """How much the balance rose by distillation."""
        return self.distilled.balance - self.alone.balance

    def remark(self) -> str:
        """Reason and counts, for the picture's caption."""
        return f"{self.reason} · alone {self.alone.text()} → distilled {self.distilled.text()} ({self.change:+d})"


HIT, WRONG, EXCUSED = 1, 0, -1


def judge_boxes(annotations: Annotations, index: int, found: ImageDetections) -> NDArray[np.int8]:
    """What each detection in an image is: a hit, wrong, or excused; leaving out unsure ones changes no other.

    Best detections first, each takes the free object of its class that it overlaps most, if by 0.5 or more. One that
    gets none is wrong, unless it lies on an ignored object of its class by half of its own area.

    Returns:
        `HIT`, `WRONG` or `EXCUSED`; (n,).
    """
    rows = annotations.objects(index)
    boxes, labels, ignored = annotations.boxes[rows], annotations.labels[rows], annotations.ignored[rows]
    overlaps = overlap(found.boxes, boxes)
    own_area = np.clip(found.boxes[:, 2:] - found.boxes[:, :2], 1e-6, None).prod(axis=1)
    on_ignored = intersections(found.boxes, boxes) / own_area[:, None] >= HIT_IOU
    free, told = ~ignored, np.full(len(found.scores), WRONG, dtype=np.int8)
    for guess in np.argsort(-found.scores, kind="stable").tolist():
        own = labels == found.labels[guess]
        candidates = np.where(own & free, overlaps[guess], -1.0)
        best = int(candidates.argmax()) if len(candidates) else -1
        if best >= 0 and candidates[best] >= HIT_IOU:
            free[best] = False
            told[guess] = HIT
        elif (on_ignored[guess] & own & ignored).any():
            told[guess] = EXCUSED
    return told


def count_hits(annotations: Annotations, index: int, found: ImageDetections | None, *, score: float) -> Counts:
    """Counts what was found in one image, and what is wrong, by `judge_boxes`."""
    objects = int((~annotations.ignored[annotations.objects(index)]).sum())
    if found is None:
        return Counts(0, objects, 0)
    told = judge_boxes(annotations, index, found.above(score))
    return Counts(int((told == HIT).sum()), objects, int((told == WRONG).sum()))


def choose_pictures(
    annotations: Annotations,
    *,
    alone: Sequence[ImageDetections],
    distilled: Sequence[ImageDetections],
    seed: int = 0,
    images: int = 6,
    extremes: int = 2,
    score: float = 0.4,
) -> list[Pick]:
    """Images drawn at random by a seed; then those that distillation fixed most, and those that it broke most.

    The extremes go by the change of (found − wrong) from the student alone to the distilled one; an image that changed
    to the better is never among the broken, nor one that is shown already. Equal changes keep the split's order.

    There are `images` random ones, or all, and at most `extremes` fixed and as many broken ones. Detections below
    `score` are left out.
    """
    if images < 1 or seed < 0:
        raise ConfigError(f"--images must be at least 1 and --seed at least 0, got {images} and {seed}. Change them.")
    require_score(score)
    by_model = [{one.image_id: one for one in entries} for entries in (alone, distilled)]
    ids = annotations.image_ids.tolist()
    counted = [
        [count_hits(annotations, index, found.get(ids[index]), score=score) for found in by_model]
        for index in range(len(annotations))
    ]
    changes = np.array([after.balance - before.balance for before, after in counted])
    drawn = np.random.default_rng(seed).permutation(len(annotations))[:images]
    picked: dict[int, str] = dict.fromkeys(np.sort(drawn).tolist(), RANDOM)
    for reason, signed in ((FIXED, changes), (BROKEN, -changes)):
        order = np.argsort(-signed, kind="stable").tolist()
        fresh = [index for index in order if signed[index] > 0 and index not in picked]
        picked.update(dict.fromkeys(fresh[:extremes], reason))
    return [Pick(index, reason, *counted[index]) for index, reason in picked.items()]


def draw_pictures(
    path: Path,
    annotations: Annotations,
    picks: Sequence[Pick],
    *,
    alone: Sequence[ImageDetections],
    distilled: Sequence[ImageDetections],
    teacher: Sequence[ImageDetections],
    score: float = 0.4,
) -> None:
    """Writes a picture with ground truth, student alone, distilled student and teacher side by side.

    An image without detections may be absent from a model's; detections below `score` are left out.

    Raises:
        ConfigError: there are no images.
        DataError: an image cannot be read.
    """
    columns = {ALONE: alone, DISTILLED: distilled, TEACHER: teacher}
    rows = [sheet_row(annotations, pick.index, columns, remark=pick.remark()) for pick in picks]
    wide = bool(rows) and float(np.median([row.image.width / row.image.height for row in rows])) > _WIDE
    panel_px = _WIDE_PANEL_PX if wide else _PANEL_PX
    comparison_sheet(path, rows, class_names=annotations.class_names, score_threshold=score, panel_px=panel_px)
