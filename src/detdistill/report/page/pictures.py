"""Images for the page: small enough to stand in one file, with the boxes of every detector beside them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detdistill.data.annotations import Annotations
from detdistill.data.dataset import read_image
from detdistill.evaluation.coco import ImageDetections
from detdistill.progress import counted
from detdistill.report.page.content import Box, Panel, Picture, Pictures
from detdistill.report.qualitative import EXCUSED, HIT, Pick, choose_pictures, judge_boxes

MOST_BYTES = 5 << 20
"""Of all images together, as they stand in the file."""
_LARGEST_PX, _QUALITY, _MOST_BOXES = 880, 82, 40
_LOOKED, _SCORES = 500, [step / 20 for step in range(2, 19)]
_STATES = {HIT: "hit", EXCUSED: "excused"}


@dataclass(frozen=True, slots=True)
class Shown:
    """What detectors found in the images of a split, by the names of results, the images in the split's order."""

    annotations: Annotations
    found: Mapping[str, Sequence[ImageDetections]]

    def working_score(self, model: str) -> float:
        """From which score on a detector's boxes are the best mixture of hits and wrong ones, by F1, of some images."""
        rows = np.unique(
            np.linspace(0, len(self.annotations) - 1, min(len(self.annotations), _LOOKED)).round().astype(int)
        )
        scores, states, objects = list[NDArray[np.float32]](), list[NDArray[np.int8]](), 0
        for row in rows.tolist():
            found = self.found[model][row]
            scores.append(found.scores)
            states.append(judge_boxes(self.annotations, row, found))
            objects += int((~self.annotations.ignored[self.annotations.objects(row)]).sum())
        score, state = np.concatenate(scores), np.concatenate(states)

        def f1(least: float) -> float:
            kept = state[score >= least]
            hits = int((kept == HIT).sum())
            return 2 * hits / max(1, objects + int((kept != EXCUSED).sum()))

        return max(_SCORES, key=f1)


def choose(shown: Shown, *, alone: str, distilled: str, images: int, score: float) -> list[Pick]:
    """So many images: those that distillation fixed most and broke most, and a few at random."""
    choosing = partial(
        choose_pictures, shown.annotations, alone=shown.found[alone], distilled=shown.found[distilled], score=score
    )
    if alone == distilled:
        return choosing(images=images)
    few = max(1, images // 5)
    picks = choosing(images=few, extremes=max(0, images - few + 1) // 2)
    return [*picks[few:], *picks[:few]][:images]


def pictures(
    shown: Shown, picks: Sequence[Pick], *, score: float, chosen: str = "", most_bytes: int = MOST_BYTES
) -> Pictures:
    """The images with their boxes, as many as there is room for.

    Raises:
        DataError: an image cannot be read.
    """
    made, held = list[Picture](), 0
    for pick in picks:
        one = picture(shown, pick.index, reason=_reason(pick, shown), number=len(made) + 1, score=score)
        held += len(one.uri)
        if held > most_bytes:
            break
        made.append(one)
    drawn = [box for one in made for boxes in (one.labels, *(panel.boxes for panel in one.panels)) for box in boxes]
    classes = {box.label: box.name for box in sorted(drawn, key=lambda box: box.label)}
    return Pictures(tuple(made), classes, tuple(shown.found), score, chosen, _note(shown, picks, made))


def picture(shown: Shown, index: int, *, reason: str, number: int, score: float) -> Picture:
    """Image `index` with its boxes.

    Raises:
        DataError: it cannot be read.
    """
    truth, rows = shown.annotations, shown.annotations.objects(index)
    image_id = int(truth.image_ids[index])
    height, width = truth.sizes[index].tolist()
    read = read_image(truth.path(index), image_id=image_id, size=(height, width), labelled=truth.labelled)
    labels = zip(truth.boxes[rows].tolist(), truth.labels[rows].tolist(), truth.ignored[rows].tolist(), strict=True)
    return Picture(
        number,
        f"image {image_id}, {truth.file_name(index)}",
        reason,
        width,
        height,
        jpeg(Image.fromarray(read.permute(1, 2, 0).numpy())),
        tuple(_box(box, label, truth, state="ignored" if faint else "label") for box, label, faint in labels),
        tuple(_panel(shown, model, index, score) for model in shown.found),
    )


def jpeg(image: Image.Image) -> str:
    """An image, made smaller where it is large, as an address that holds it."""
    content, small = io.BytesIO(), image.convert("RGB")
    small.thumbnail((_LARGEST_PX, _LARGEST_PX), Image.Resampling.LANCZOS)
    small.save(content, format="JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def _panel(shown: Shown, model: str, index: int, least: float) -> Panel:
    truth = shown.annotations
    found = shown.found[model][index]
    states = judge_boxes(truth, index, found)
    order = np.argsort(-found.scores, kind="stable")[:_MOST_BOXES].tolist()
    boxes = []
    for row in order:
        state, score = _STATES.get(int(states[row]), "wrong"), round(float(found.scores[row]), 2)
        box = _box(found.boxes[row].tolist(), int(found.labels[row]), truth, state=state)
        boxes.append(replace(box, score=score, shown=score >= least))
    seen = [box.state for box in boxes if box.shown]
    return Panel(model, tuple(boxes), seen.count("hit"), seen.count("wrong"))


def _box(box: Sequence[float], label: int, truth: Annotations, *, state: str) -> Box:
    x, y, right, bottom = (round(one, 1) for one in box)
    return Box(x, y, round(right - x, 1), round(bottom - y, 1), label, truth.class_names[label], state)


def _reason(pick: Pick, shown: Shown) -> str:
    if len(shown.found) < 2:
        return pick.reason
    return f"{pick.reason} ({pick.change:+d})".replace("-", "−") if pick.change else pick.reason


def _note(shown: Shown, picks: Sequence[Pick], made: Sequence[Picture]) -> str:
    whole, notes = len(shown.annotations), [f"{len(made)} of {counted(len(shown.annotations), 'image')} are here"]
    if len(made) < len(picks):
        notes.append(f"{len(picks) - len(made)} that were chosen are left out, as the file would grow too large")
    if made and max(len(panel.boxes) for one in made for panel in one.panels) == _MOST_BOXES:
        notes.append(f"of each detector the surest {_MOST_BOXES} boxes of an image")
    return "; ".join(notes) if whole else ""
