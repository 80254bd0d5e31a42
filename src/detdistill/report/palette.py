"""Colours that colour-blind readers can tell apart, the font of all pictures, how they are written and known again."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

from PIL import Image, ImageFont, PngImagePlugin

from detdistill.errors import ConfigError
from detdistill.files import PACKAGE, SOFTWARE, require_own

Colour = tuple[int, int, int]

# Okabe and Ito's palette without black, then colours of Tol's "muted" and "light" schemes; it repeats after these.
_CODES = "e69f00 56b4e9 d55e00 009e73 f0e442 cc79a7 0072b2 aa4499 999933 88ccee 882255 ddcc77 117733 ffaabb 332288"
CLASS_COLOURS: tuple[Colour, ...] = tuple((r, g, b) for r, g, b in map(bytes.fromhex, _CODES.split()))
# Yellow is left out: a thin line of it cannot be seen on white.
LINE_COLOURS: tuple[str, ...] = tuple(f"#{bytes(CLASS_COLOURS[i]).hex()}" for i in (6, 2, 3, 0, 5, 1, 7, 10))
BLACK, INK, FAINT, IGNORED, WHITE = ((grey, grey, grey) for grey in (0, 34, 110, 170, 255))

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


def marked(kind: str) -> str:
    """What a picture or a video of ours of that kind says of itself."""
    return f"{PACKAGE}: {kind}"


def drawn(kind: str) -> bytes:
    """What stands in the beginning of a PNG of ours of that kind."""
    return f"tEXt{SOFTWARE}\0{marked(kind)}".encode()


def require_png(path: Path, kind: str, *, option: str) -> None:
    """Refuses the name of a picture that is not a PNG's, or is that of a file that is no picture of ours of that kind.

    Raises:
        ConfigError: it has another ending, or is another file; `option` is where it was given.
        DiskError: the place cannot be written to.
    """
    if path.suffix.lower() != ".png":
        name = path.with_suffix(".png").name if path.stem else "picture.png"
        raise ConfigError(f"{option} must be a file name that ends in .png, got {path}. Write for example {name}.")
    require_own(path, option, drawn(kind))


def png_of(picture: Image.Image, kind: str) -> bytes:
    """The file of a picture, which says what it is, so that its like may take its place."""
    told, content = PngImagePlugin.PngInfo(), io.BytesIO()
    told.add_text(SOFTWARE, marked(kind))
    picture.save(content, format="PNG", pnginfo=told)
    return content.getvalue()
