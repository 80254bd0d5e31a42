"""The drawing board of a scene: a picture, and the instance map that tells what hides what."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from detdistill.scenes.sketch import Camera, Light, Point, Sketch, Stand, Stroke
from detdistill.scenes.texture import Colour, mix, whole

SUPERSAMPLING: Final = 2


class Silhouette(NamedTuple):
    """The whole shape of a thing inside the picture, hidden parts included.

    A box x1, y1, x2, y2 and how many pixels it covers, both of the canvas, and the share of the rectangle around the
    shape that lies outside the picture, in [0, 1].
    """

    box: tuple[int, int, int, int]
    pixels: int
    truncated: float


def _draw(pen: ImageDraw.ImageDraw, stroke: Stroke, fill: int | tuple[int, int, int]) -> None:
    kind, points, _, width, _ = stroke
    if kind == "polygon":
        pen.polygon(points, fill=fill)
    elif kind == "ellipse":
        pen.ellipse(points, fill=fill)
    elif kind == "line":
        pen.line(points, fill=fill, width=width)
    else:
        pen.ellipse(points, outline=fill, width=width)


class Canvas:
    """Picture and instance map of one scene, painted from far to near.

    Attributes:
        image: the picture.
        glaze: a pen that draws translucent colours on it.
        ids: which annotated thing every pixel shows, 0 for none.
    """

    def __init__(self, camera: Camera, light: Light) -> None:
        self.camera, self.light = camera, light
        self.image = Image.new("RGB", (camera.width, camera.height))
        self.ids = Image.new("L", (camera.width, camera.height))
        self.glaze = ImageDraw.Draw(self.image, "RGBA")
        self._pen, self._id_pen = ImageDraw.Draw(self.image), ImageDraw.Draw(self.ids)
        self._sketches: list[Sketch] = []

    def stand(self, x: float, z: float, yaw: float = math.pi / 2) -> Stand:
        """A place where a new thing is drawn; without a heading, for flat shapes that face the camera."""
        return Stand(self.camera, self.light, Sketch(z), x, z, axis=(math.sin(yaw), math.cos(yaw)))

    def ink(self, z: float) -> Callable[[Colour, bool], tuple[int, int, int]]:
        """What colours, and colours that shine themselves, look like at distance `z` in this light."""
        clear = math.exp(-z / self.light.sight)
        ambient = tuple(a * clear for a in self.light.ambient)
        hr, hg, hb = (h * (1.0 - clear) for h in self.light.haze)

        def seen(colour: Colour, shines: bool) -> tuple[int, int, int]:
            (r, g, b), (fr, fg, fb) = colour, (clear, clear, clear) if shines else ambient
            return int(min(255, r * fr + hr)), int(min(255, g * fg + hg)), int(min(255, b * fb + hb))

        return seen

    def paint(self, sketch: Sketch, instance: int | None = None) -> None:
        """Paints a thing over what is farther away.

        Args:
            sketch: what to paint.
            instance: its number in the instance map, 0 for what hides objects and is none; None leaves the map alone.
        """
        ink = self.ink(sketch.z)
        for stroke in sketch.strokes:
            _draw(self._pen, stroke, ink(stroke.colour, stroke.shines))
            if instance is not None:
                _draw(self._id_pen, stroke, instance)
        self._sketches.append(sketch)

    def shadow(self, points: list[Point], strength: float) -> None:
        """Darkens a polygon on the ground."""
        alpha = int(255 * min(1.0, self.light.shadow * strength))
        if alpha > 0:
            self.glaze.polygon(points, fill=(0, 0, 8, alpha))

    def silhouette(self, sketch: Sketch) -> Silhouette | None:
        """Measures a thing's whole shape inside the picture; None where it lies outside."""
        x1, y1, x2, y2 = sketch.bounds()
        left, top = max(0, math.floor(x1) - 1), max(0, math.floor(y1) - 1)
        right, bottom = min(self.camera.width, math.ceil(x2) + 2), min(self.camera.height, math.ceil(y2) + 2)
        if right <= left or bottom <= top:
            return None
        patch = Image.new("L", (right - left, bottom - top))
        pen = ImageDraw.Draw(patch)
        for stroke in sketch.strokes:
            _draw(pen, stroke._replace(points=[(x - left, y - top) for x, y in stroke.points]), 1)
        box = patch.getbbox()
        if box is None:
            return None
        inside = (min(x2, self.camera.width) - max(x1, 0)) * (min(y2, self.camera.height) - max(y1, 0))
        truncated = 1.0 - max(0.0, inside) / max((x2 - x1) * (y2 - y1), 1e-6)
        whole_box = (box[0] + left, box[1] + top, box[2] + left, box[3] + top)
        return Silhouette(whole_box, patch.histogram()[1], min(1.0, max(0.0, truncated)))

    def instances(self) -> NDArray[np.uint8]:
        """The instance map as an array, (height, width)."""
        return np.asarray(self.ids, dtype=np.uint8)

    def bloom(self) -> Image.Image | None:
        """The halos of all lamps that nothing hides, to add to the picture at its final size."""
        width, height = self.camera.width, self.camera.height
        light = Image.new("RGB", (width // 4, height // 4))
        pen, lit = ImageDraw.Draw(light), False
        for halo in (halo for sketch in self._sketches for halo in sketch.halos):
            x, y = halo.centre
            if not (0 <= x < width and 0 <= y < height):
                continue
            seen = self.image.getpixel((int(x), int(y)))
            if not isinstance(seen, tuple) or sum(seen) < 0.55 * sum(halo.colour):
                continue
            r = min(3.5, max(0.5, halo.radius / 4))
            box = [(x / 4 - r, y / 4 - r), (x / 4 + r, y / 4 + r)]
            pen.ellipse(box, fill=whole(mix(halo.colour, (0, 0, 0), 0.5)))
            lit = True
        if not lit:
            return None
        size = (width // SUPERSAMPLING, height // SUPERSAMPLING)
        return light.filter(ImageFilter.GaussianBlur(1.3)).resize(size, Image.Resampling.BILINEAR)
