"""A sheet of validation images: ground truth and every model's boxes side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from detdistill.data.annotations import Annotations
from detdistill.data.dataset import read_image
from detdistill.errors import ConfigError
from detdistill.evaluation.coco import ImageDetections
from detdistill.files import SHEET, write_bytes
from detdistill.report.draw import Mark, detection_marks, draw_marks, legend, truth_marks
from detdistill.report.palette import FAINT, INK, WHITE, font, png_of

TRUTH_COLUMN = "ground truth"
_GAP_PX, _HEADER_PX, _CAPTION_PX = 12, 44, 24


@dataclass(frozen=True, slots=True)
class SheetRow:
    """One image of the sheet.

    Attributes:
        image: the picture as stored.
        boxes: ground truth, x1, y1, x2, y2 in pixels of `image`; (n, 4).
        detections: what each column's model found, by column title, in the order of the columns; every row
            has the same titles.
        ignored: which ground truth boxes are ignored regions; (n,). None where there are none.
    """

    image: Image.Image
    boxes: NDArray[np.float32]
    labels: NDArray[np.integer]
    detections: Mapping[str, ImageDetections] = field(default_factory=dict)
    ignored: NDArray[np.bool_] | None = None
    caption: str = ""

    def marks(self, score_threshold: float) -> list[tuple[Mark, ...]]:
        """What is drawn in each of its panels: ground truth, then every model's detections."""
        found = (detection_marks(one, score_threshold=score_threshold) for one in self.detections.values())
        return [truth_marks(self.boxes, self.labels, ignored=self.ignored), *found]


def sheet_rows(
    annotations: Annotations, columns: Mapping[str, Sequence[ImageDetections]], *, count: int = 6
) -> list[SheetRow]:
    """Rows for a sheet, from images spread evenly over the split, those with objects first.

    Each model's detections stand by column title; an image may be absent from them.

    Raises:
        DataError: an image cannot be read.
    """
    order = np.arange(len(annotations))
    filled = order[np.diff(annotations.offsets) > 0]
    candidates = filled if len(filled) else order
    picks = np.unique(np.linspace(0, max(0, len(candidates) - 1), num=min(count, len(candidates))).round().astype(int))
    return [sheet_row(annotations, index, columns) for index in candidates[picks].tolist()]


def sheet_row(
    annotations: Annotations, index: int, columns: Mapping[str, Sequence[ImageDetections]], *, remark: str = ""
) -> SheetRow:
    """The row of image `index`, with a remark behind its name; see `sheet_rows`."""
    image_id, objects = int(annotations.image_ids[index]), annotations.objects(index)
    none = ImageDetections.none(image_id)
    caption = f"image {image_id} · {annotations.file_name(index)}"
    height, width = annotations.sizes[index].tolist()
    pixels = read_image(annotations.path(index), image_id=image_id, size=(height, width))
    return SheetRow(
        image=Image.fromarray(pixels.permute(1, 2, 0).numpy()),
        boxes=annotations.boxes[objects],
        labels=annotations.labels[objects],
        detections={k: ([none] + [one for one in v if one.image_id == image_id])[-1] for k, v in columns.items()},
        ignored=annotations.ignored[objects],
        caption=f"{caption} · {remark}" if remark else caption,
    )


def comparison_sheet(
    path: Path,
    rows: Sequence[SheetRow],
    *,
    class_names: Sequence[str],
    score_threshold: float = 0.3,
    panel_px: int = 480,
    truth: str = TRUTH_COLUMN,
    note: str | None = None,
) -> None:
    """Writes a picture with one line per image and the columns ground truth and each model, with a legend.

    Detections below the threshold are left out. A panel is `panel_px` wide, and at most as high: small images are
    enlarged, large ones reduced. The first column is titled `truth`; a note in the legend takes the threshold's place.
    """
    if not rows:
        raise ConfigError(
            "A comparison sheet must have at least one row, got none. Evaluate on a split that has images."
        )
    titles = list(rows[0].detections)
    for row in rows:
        if list(row.detections) != titles:
            raise ConfigError(
                f"Every row of a comparison sheet must have the columns {titles}, got {list(row.detections)}. "
                "Give each row one entry per model."
            )
    drawn = [(row, row.marks(score_threshold)) for row in rows]
    panels = [[_panel(row.image, marks, class_names, panel_px) for marks in row_marks] for row, row_marks in drawn]
    lefts = [_GAP_PX + column * (panel_px + _GAP_PX) for column in range(1 + len(titles))]
    strip = legend(
        [mark for _, row_marks in drawn for marks in row_marks for mark in marks],
        class_names=class_names,
        width_px=lefts[-1] + panel_px + _GAP_PX,
        note=note if note is not None else f"detections with score ≥ {score_threshold:g}" if titles else "",
        size_px=18,
    )
    heights = [max(panel.height for panel in line) for line in panels]
    top = _HEADER_PX + strip.height
    sheet = Image.new("RGB", (strip.width, top + sum(_CAPTION_PX + height + _GAP_PX for height in heights)), WHITE)
    sheet.paste(strip, (0, _HEADER_PX))
    draw = ImageDraw.Draw(sheet)
    for left, title in zip(lefts, (truth, *titles), strict=True):
        draw.text((left + panel_px / 2, _HEADER_PX / 2), title, fill=INK, font=font(24, bold=True), anchor="mm")
    for row, line, height in zip(rows, panels, heights, strict=True):
        draw.text((_GAP_PX, top + _CAPTION_PX / 2), row.caption, fill=FAINT, font=font(15), anchor="lm")
        for left, panel in zip(lefts, line, strict=True):
            sheet.paste(panel, (left + (panel_px - panel.width) // 2, top + _CAPTION_PX))
        top += _CAPTION_PX + height + _GAP_PX
    write_bytes(path, png_of(sheet, SHEET))


def _panel(image: Image.Image, marks: Sequence[Mark], class_names: Sequence[str], panel_px: int) -> Image.Image:
    factor = min(panel_px / image.width, panel_px / image.height)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    resized = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    return draw_marks(resized, [mark.scaled(factor) for mark in marks], class_names=class_names, least_width_px=1)
