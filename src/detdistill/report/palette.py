"""Colours that colour-blind readers can tell apart, and the font of all pictures."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from PIL import ImageFont

Colour = tuple[int, int, int]

# Okabe and Ito's palette without black, then colours of Tol's "muted" and "light" schemes; it repeats after these.
CLASS_COLOURS: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (213, 94, 0),
    (0, 158, 115),
    (240, 228, 66),
    (204, 121, 167),
    (0, 114, 178),
    (170, 68, 153),
    (153, 153, 51),
    (136, 204, 238),
    (136, 34, 85),
    (221, 204, 119),
    (17, 119, 51),
    (255, 170, 187),
    (51, 34, 136),
)
BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)
INK: Colour = (34, 34, 34)
FAINT: Colour = (110, 110, 110)
IGNORED: Colour = (170, 170, 170)

Font = ImageFont.FreeTypeFont


def class_colour(label: int) -> Colour:
    """The colour of class `label` in every picture of a run."""
    return CLASS_COLOURS[label % len(CLASS_COLOURS)]


def luminance(colour: Colour) -> float:
    """Relative luminance of an sRGB colour, in [0, 1]."""
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: Colour, other: Colour) -> float:
    """Contrast ratio of two colours, from 1 (equal) to 21 (black on white)."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def text_on(background: Colour) -> Colour:
    """Black or white, whichever reads better on `background`."""
    return BLACK if contrast(BLACK, background) >= contrast(WHITE, background) else WHITE


@cache
def font(size_px: int, *, bold: bool = False) -> Font:
    """DejaVu Sans, which matplotlib brings along, at a size in pixels."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size_px)
