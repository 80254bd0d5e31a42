"""Draws boxes with class and score on an image, readable on small and on crowded images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from detdistill.errors import ShapeError
from detdistill.evaluation.coco import ImageDetections
from detdistill.report.palette import BLACK, IGNORED, INK, WHITE, Colour, Font, class_colour, font, text_on

LEAST_WIDTH_PX = 480
_PAD_PX = 2
Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Mark:
    """One box to draw, in pixels of the image; a faint one is an ignored region, dashed and without a class."""

    box: Rectangle
    label: int
    score: float | None = None
    faint: bool = False

    def scaled(self, factor: float) -> Mark:
        """The same in an image that is larger by a factor."""
        x1, y1, x2, y2 = self.box
        return replace(self, box=(x1 * factor, y1 * factor, x2 * factor, y2 * factor))

    def name(self, class_names: Sequence[str]) -> str:
        """Its class, or the number of one without a name."""
        return class_names[self.label] if 0 <= self.label < len(class_names) else f"class {self.label}"


def detection_marks(detections: ImageDetections, *, score_threshold: float) -> tuple[Mark, ...]:
    """The detections with at least `score_threshold`, best first."""
    kept = detections.above(score_threshold)
    found = zip(kept.boxes.tolist(), kept.labels.tolist(), kept.scores.tolist(), strict=True)
    marks = (Mark(tuple(box), label, score) for box, label, score in found)
    return tuple(sorted(marks, key=lambda mark: -(mark.score or 0.0)))


def truth_marks(
    boxes: NDArray[np.float32], labels: NDArray[np.integer], *, ignored: NDArray[np.bool_] | None = None
) -> tuple[Mark, ...]:
    """Ground truth as marks without scores; ignored objects are faint."""
    faint = np.zeros(len(boxes), dtype=np.bool_) if ignored is None else ignored
    if not len(boxes) == len(labels) == len(faint):
        raise ShapeError(
            f"Boxes, labels and ignored flags to draw must be equally many, got {len(boxes)}, {len(labels)} and "
            f"{len(faint)}. Pass those of one image."
        )
    truths = zip(boxes.tolist(), labels.tolist(), faint.tolist(), strict=True)
    return tuple(Mark(tuple(box), label, faint=flag) for box, label, flag in truths)


def draw_marks(
    image: Image.Image, marks: Sequence[Mark], *, class_names: Sequence[str], least_width_px: int = LEAST_WIDTH_PX
) -> Image.Image:
    """A copy of the image with boxes, classes and scores, enlarged first where it is narrow.

    Every label goes where it covers the least of other labels and boxes. Where a full label such as "car 0.87"
    finds no free place it is shortened to the score: the colour still tells the class.

    Earlier marks get the better places and lie on top.
    """
    factor = max(1.0, least_width_px / image.width)
    canvas = image.convert("RGB").copy()
    if factor > 1.0:
        size = (round(image.width * factor), max(1, round(image.height * factor)))
        canvas = canvas.resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    scaled = [mark.scaled(factor) for mark in marks]
    for mark in reversed(scaled):
        _draw_box(draw, mark, line=max(3, round(canvas.width / 240)))
    letters = font(min(64, max(14, round(canvas.width / 42))))
    placed: list[Rectangle] = []
    for mark in scaled:
        if not mark.faint:
            text, place = _label(mark, scaled, placed, class_names=class_names, letters=letters, canvas=canvas.size)
            colour = class_colour(mark.label)
            draw.rectangle(place, fill=colour)
            draw.text((place[0] + _PAD_PX, place[1]), text, fill=text_on(colour), font=letters)
            placed.append(place)
    return canvas


def draw_detections(
    image: Image.Image,
    detections: ImageDetections,
    *,
    class_names: Sequence[str],
    score_threshold: float = 0.3,
    least_width_px: int = LEAST_WIDTH_PX,
) -> Image.Image:
    """The image with the detections from a score on drawn, see `draw_marks`, and a legend of their classes below."""
    marks = detection_marks(detections, score_threshold=score_threshold)
    drawn = draw_marks(image, marks, class_names=class_names, least_width_px=least_width_px)
    note = f"{len(marks)} boxes with score ≥ {score_threshold:g}"
    strip = legend(marks, class_names=class_names, width_px=drawn.width, note=note)
    whole = Image.new("RGB", (drawn.width, drawn.height + strip.height), WHITE)
    whole.paste(drawn, (0, 0))
    whole.paste(strip, (0, drawn.height))
    return whole


def legend(
    marks: Iterable[Mark], *, class_names: Sequence[str], width_px: int, note: str = "", size_px: int = 15
) -> Image.Image:
    """A white strip that names the colour of every class drawn, and what dashes mean, on as many lines as it takes.

    Each class is named once, in label order; a note stands behind them. Letters are `size_px` high.
    """
    letters, marks = font(size_px), list(marks)
    first = {mark.label: mark for mark in marks if not mark.faint}
    entries: list[tuple[str, Colour | None]] = [
        (first[label].name(class_names), class_colour(label)) for label in sorted(first)
    ]
    if any(mark.faint for mark in marks):
        entries.append(("ignored region (dashed)", IGNORED))
    if note:
        entries.append((note, None))
    gap, line, swatch = size_px, round(size_px * 1.7), round(size_px * 1.4)
    x, y = gap, round(size_px * 0.5)
    strip = Image.new("RGB", (width_px, y + line * max(1, len(entries))), WHITE)
    draw = ImageDraw.Draw(strip)
    for text, colour in entries:
        needed = round(letters.getlength(text)) + (0 if colour is None else swatch)
        if x > gap and x + needed > width_px - gap:
            x, y = gap, y + line
        if colour is not None:
            draw.rectangle((x, y + 2, x + size_px, y + 2 + size_px), fill=colour, outline=INK)
        draw.text((x if colour is None else x + swatch, y), text, fill=INK, font=letters)
        x += needed + round(gap * 1.5)
    return strip.crop((0, 0, width_px, y + line))


def _draw_box(draw: ImageDraw.ImageDraw, mark: Mark, *, line: int) -> None:
    x1, y1, x2, y2 = mark.box
    x2, y2 = max(x1, x2 - 1), max(y1, y2 - 1)
    if not mark.faint:
        draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=BLACK, width=1)
        draw.rectangle((x1, y1, x2, y2), outline=class_colour(mark.label), width=line)
        return
    dash = 4 * line
    draw.rectangle((x1, y1, x2, y2), outline=BLACK, width=line)
    for x in np.arange(x1, x2, 2 * dash):
        for top in (y1, y2 - line + 1):
            draw.rectangle((x, top, min(x + dash, x2), top + line - 1), fill=IGNORED)
    for y in np.arange(y1, y2, 2 * dash):
        for left in (x1, x2 - line + 1):
            draw.rectangle((left, y, left + line - 1, min(y + dash, y2)), fill=IGNORED)


def _label(
    mark: Mark,
    marks: Sequence[Mark],
    placed: Sequence[Rectangle],
    *,
    class_names: Sequence[str],
    letters: Font,
    canvas: tuple[int, int],
) -> tuple[str, Rectangle]:
    """A mark's text and the place where it covers least: the shorter one where the full one would hide others."""
    name, score = mark.name(class_names), "" if mark.score is None else f"{mark.score:.2f}"
    texts = (f"{name} {score}", score) if score else (name,)
    others = [other.box for other in marks if other.box != mark.box]
    least, chosen = math.inf, ("", mark.box)
    for text in texts:
        size = (letters.getlength(text) + 2 * _PAD_PX, sum(letters.getmetrics()))
        for place in _places(mark.box, size, canvas):
            hidden = sum(_overlap(place, other) for other in placed)
            crossed = sum(_overlap(place, other) for other in others)
            badness = (4 * hidden + 0.5 * crossed) / (size[0] * size[1])
            if badness < least - 1e-6:
                least, chosen = badness, (text, place)
        if least < 1.0:
            break
    return chosen


def _places(box: Rectangle, size: tuple[float, float], canvas: tuple[int, int]) -> list[Rectangle]:
    """Where a label may stand, best first: on the box, below it, inside it, at its left or right corner."""
    (x1, y1, x2, y2), (width, height) = box, size
    outside = ((x1, y1 - height), (x2 - width, y1 - height), (x1, y2), (x2 - width, y2))
    inside = [
        (min(max(x, 0.0), max(0.0, canvas[0] - width)), min(max(y, 0.0), max(0.0, canvas[1] - height)))
        for x, y in (*outside, (x1, y1), (x2 - width, y2 - height), (x2, y1), (x1 - width, y1))
    ]
    return [(left, top, left + width, top + height) for left, top in inside]


def _overlap(one: Rectangle, other: Rectangle) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
