"""Confusion matrices as a picture: what the objects of every class were taken for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from detdistill.evaluation.confusion import LEAST_IOU, ConfusionMatrix
from detdistill.files import CONFUSION, write_bytes
from detdistill.report.palette import CLASS_COLOURS, FAINT, INK, WHITE, font, png_of, text_on

_DARKEST, _LINE = CLASS_COLOURS[6], 225
_GAP_PX, _WIDEST_PX = 12, 2400
# Sides of a cell: with few classes; the least that a number fits into; the least that a name is as high as.
_CELL_PX, _NUMBERED_PX, _NAMED_PX = 48, 26, 12


def draw_confusion(matrices: Mapping[str, ConfusionMatrix], out: Path) -> None:
    """Writes a PNG with a panel for each matrix, one beside the other, under its name.

    A cell is the darker the greater its share of its row, which is the objects of a class or the detections on the
    background, and shows its count where there is room.

    Args:
        matrices: at least one.
        out: the PNG to write.
    """
    panels = [_panel(matrix, title=name) for name, matrix in matrices.items()]
    width = sum(panel.width for panel in panels)
    sheet = Image.new("RGB", (width, max(panel.height for panel in panels)), WHITE)
    left = 0
    for panel in panels:
        sheet.paste(panel, (left, 0))
        left += panel.width
    write_bytes(out, png_of(sheet, CONFUSION))


def _panel(matrix: ConfusionMatrix, *, title: str) -> Image.Image:
    side = max(2, min(_CELL_PX, _WIDEST_PX // len(matrix.rows)))
    size_px = min(14, side - 2) if side >= _NAMED_PX else 0
    rows, columns = _names(matrix.rows, size_px, anchor="ra"), _names(matrix.columns, size_px, anchor="la")
    left, above = rows[0].width + 2 * _GAP_PX, columns[0].width + 4 * _GAP_PX
    grid = side * len(matrix.rows)
    legend = f"rows: truth; columns: taken for; score from {matrix.score:g}, IoU from {LEAST_IOU:g}"
    widest = max(left + grid, *(int(font(px).getlength(text)) + _GAP_PX for text, px in ((title, 16), (legend, 12))))
    panel = Image.new("RGB", (widest + _GAP_PX, above + grid + 3 * _GAP_PX), WHITE)
    draw = ImageDraw.Draw(panel)
    draw.text((_GAP_PX, _GAP_PX), title, fill=INK, font=font(16, bold=True))
    draw.text((_GAP_PX, above + grid + _GAP_PX), legend, fill=FAINT, font=font(12))
    for at, (row, column) in enumerate(zip(rows, columns, strict=True)):
        middle = at * side + side // 2
        panel.paste(row, (_GAP_PX, above + middle - row.height // 2))
        turned = column.transpose(Image.Transpose.ROTATE_90)
        panel.paste(turned, (left + middle - turned.width // 2, above - turned.height - _GAP_PX // 2))
    shares = matrix.counts / np.maximum(matrix.counts.sum(axis=1, keepdims=True), 1)
    shades = np.rint(255 + shares[..., None] * (np.array(_DARKEST) - 255)).astype(np.uint8)
    squares = shades.repeat(side, axis=0).repeat(side, axis=1)
    if size_px:
        squares[side - 1 :: side] = squares[:, side - 1 :: side] = _LINE
    panel.paste(Image.fromarray(squares), (left, above))
    for row_at, column_at in np.argwhere(matrix.counts).tolist() if side >= _NUMBERED_PX else ():
        text, (red, green, blue) = str(matrix.counts[row_at, column_at]), shades[row_at, column_at].tolist()
        centre = left + column_at * side + side // 2, above + row_at * side + side // 2
        size = font(min(14, 3 * side // 2 // len(text)))
        draw.text(centre, text, fill=text_on((red, green, blue)), font=size, anchor="mm")
    return panel


def _names(names: Sequence[str], size_px: int, *, anchor: str) -> list[Image.Image]:
    """The names as pictures of one size, written from its right (``"ra"``) or left (``"la"``), a dot without room."""
    if not size_px:
        return [Image.new("RGB", (1, 1), WHITE)] * len(names)
    width = max(int(font(size_px).getlength(name)) for name in names) + 1
    pictures = [Image.new("RGB", (width, size_px + 4), WHITE) for _ in names]
    for name, picture in zip(names, pictures, strict=True):
        start = width if anchor == "ra" else 0
        ImageDraw.Draw(picture).text((start, 2), name, fill=INK, font=font(size_px), anchor=anchor)
    return pictures
