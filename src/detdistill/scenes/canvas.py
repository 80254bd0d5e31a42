"""The drawing board of a scene: camera, light, sketches, and the instance map that tells what hides what.

World coordinates are metres: x to the right, y up from the ground, z away from the camera. Canvas coordinates
are pixels of the supersampled picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from detdistill.scenes.texture import Colour, mix

SUPERSAMPLING: Final = 2

Point = tuple[float, float]
Point3 = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole camera that looks along +z from `eye` metres above the ground.

    Attributes:
        width: of the canvas, in its (supersampled) pixels.
        height: of the canvas.
        focal: in canvas pixels.
        centre: canvas x of the vanishing point.
        horizon: canvas y of the horizon.
        eye: metres above the ground.
    """

    width: int
    height: int
    focal: float
    centre: float
    horizon: float
    eye: float

    def point(self, x: float, y: float, z: float) -> Point:
        """Where a point of the world (z > 0) stands on the canvas."""
        scale = self.focal / z
        return self.centre + scale * x, self.horizon + scale * (self.eye - y)

    def points(self, points: Iterable[Point3]) -> list[Point]:
        """Where several points of the world stand on the canvas."""
        f, cx, horizon, eye = self.focal, self.centre, self.horizon, self.eye
        return [(cx + f * x / z, horizon + f * (eye - y) / z) for x, y, z in points]

    def scale(self, z: float) -> float:
        """Canvas pixels per metre at distance `z`."""
        return self.focal / z

    def reach(self, z: float) -> tuple[float, float]:
        """Smallest and largest world x that the picture shows at distance `z`."""
        return -self.centre * z / self.focal, (self.width - self.centre) * z / self.focal


@dataclass(frozen=True, slots=True)
class Light:
    """How a scene is lit.

    Attributes:
        ambient: factor on every colour that does not shine itself.
        sun: where shadows fall, metres of ground (x, z) per metre of height; (0, 0) for a covered sky.
        shadow: darkness of shadows in [0, 1].
        left: brightness of faces that look to the left; faces to the right get 2 - left.
        lamps: whether lamps and headlights are on.
        haze: colour that distance fades into.
        sight: metres after which 63 % of a colour is haze.
    """

    ambient: Colour
    sun: Point
    shadow: float
    left: float
    lamps: bool
    haze: Colour
    sight: float


class Stroke(NamedTuple):
    """One shape of a sketch: kind 0 polygon, 1 ellipse, 2 line, 3 ring."""

    kind: int
    points: list[Point]
    colour: Colour
    width: int
    shines: bool


class Halo(NamedTuple):
    """A lamp that is on, and how far it glows, in canvas pixels."""

    centre: Point
    radius: float
    colour: Colour


@dataclass(slots=True)
class Sketch:
    """The shapes of one thing at one distance, in drawing order, before light and haze."""

    z: float
    strokes: list[Stroke] = field(default_factory=list)
    halos: list[Halo] = field(default_factory=list)

    def polygon(self, points: list[Point], colour: Colour, *, shines: bool = False) -> None:
        """Adds a filled polygon."""
        self.strokes.append(Stroke(0, points, colour, 0, shines))

    def ellipse(self, centre: Point, rx: float, ry: float, colour: Colour, *, shines: bool = False) -> None:
        """Adds a filled ellipse."""
        x, y = centre
        self.strokes.append(Stroke(1, [(x - rx, y - ry), (x + rx, y + ry)], colour, 0, shines))

    def ring(self, centre: Point, rx: float, ry: float, colour: Colour, *, width: float) -> None:
        """Adds the outline of an ellipse, `width` canvas pixels thick."""
        x, y = centre
        stroke = max(1, round(width))
        self.strokes.append(Stroke(3, [(x - rx, y - ry), (x + rx, y + ry)], colour, stroke, False))

    def line(self, points: list[Point], colour: Colour, *, width: float) -> None:
        """Adds a line through `points`, `width` canvas pixels thick."""
        self.strokes.append(Stroke(2, points, colour, max(1, round(width)), False))

    def bounds(self) -> tuple[float, float, float, float]:
        """The rectangle around all shapes, beyond the picture's edge too: x1, y1, x2, y2 in canvas pixels."""
        x1 = y1 = math.inf
        x2 = y2 = -math.inf
        for stroke in self.strokes:
            margin = stroke.width / 2 if stroke.kind == 2 else 0.0
            xs, ys = zip(*stroke.points, strict=True)
            x1, x2 = min(x1, min(xs) - margin), max(x2, max(xs) + margin)
            y1, y2 = min(y1, min(ys) - margin), max(y2, max(ys) + margin)
        return x1, y1, x2, y2


class Silhouette(NamedTuple):
    """The whole shape of a thing inside the picture, hidden parts included.

    Attributes:
        box: x1, y1, x2, y2 in canvas pixels.
        pixels: canvas pixels that the shape covers.
        truncated: share of the rectangle around the shape that lies outside the picture, in [0, 1].
    """

    box: tuple[int, int, int, int]
    pixels: int
    truncated: float


def _draw(pen: ImageDraw.ImageDraw, stroke: Stroke, fill: int | tuple[int, int, int]) -> None:
    if stroke.kind == 0:
        pen.polygon(stroke.points, fill=fill)
    elif stroke.kind == 1:
        pen.ellipse(stroke.points, fill=fill)
    elif stroke.kind == 2:
        pen.line(stroke.points, fill=fill, width=stroke.width)
    else:
        pen.ellipse(stroke.points, outline=fill, width=stroke.width)


class Canvas:
    """Picture and instance map of one scene, painted from far to near."""

    def __init__(self, camera: Camera, light: Light) -> None:
        self.camera = camera
        self.light = light
        self.image = Image.new("RGB", (camera.width, camera.height))
        self._ids = Image.new("L", (camera.width, camera.height))
        self._pen = ImageDraw.Draw(self.image)
        self._glaze = ImageDraw.Draw(self.image, "RGBA")
        self._id_pen = ImageDraw.Draw(self._ids)
        self._halos: list[Halo] = []

    def fill(self, colour: Colour, z: float, *, shines: bool = False) -> tuple[int, int, int]:
        """The colour that a surface at distance `z` has in this light."""
        return self._inks(z)(colour, shines)

    def _inks(self, z: float) -> Callable[[Colour, bool], tuple[int, int, int]]:
        light = self.light
        clear = math.exp(-z / light.sight)
        ar, ag, ab = (a * clear for a in light.ambient)
        hr, hg, hb = (h * (1.0 - clear) for h in light.haze)

        def ink(colour: Colour, shines: bool) -> tuple[int, int, int]:
            r, g, b = colour
            if shines:
                return int(min(255, r * clear + hr)), int(min(255, g * clear + hg)), int(min(255, b * clear + hb))
            return int(min(255, r * ar + hr)), int(min(255, g * ag + hg)), int(min(255, b * ab + hb))

        return ink

    def background(self, image: Image.Image) -> None:
        """Pastes the sky."""
        self.image.paste(image)

    def ground(self, points: list[Point], colour: Colour, *, z: float) -> None:
        """Paints a piece of scenery that never hides an object."""
        self._pen.polygon(points, fill=self.fill(colour, z))

    def scenery(self, sketch: Sketch) -> None:
        """Paints a thing that stands behind all objects (it leaves the instance map alone)."""
        ink = self._inks(sketch.z)
        for stroke in sketch.strokes:
            _draw(self._pen, stroke, ink(stroke.colour, stroke.shines))
        self._halos.extend(sketch.halos)

    def multiply(self, tile: Image.Image) -> None:
        """Darkens what is painted so far by a texture."""
        self.image.paste(ImageChops.multiply(self.image, tile))

    def shadow(self, points: list[Point], strength: float = 1.0) -> None:
        """Darkens a polygon on the ground."""
        alpha = int(255 * min(1.0, self.light.shadow * strength))
        if alpha > 0:
            self._glaze.polygon(points, fill=(0, 0, 8, alpha))

    def streaks(self, lines: Iterable[list[Point]], colour: tuple[int, int, int, int], width: int = 1) -> None:
        """Draws translucent lines over everything (rain, snow)."""
        for points in lines:
            self._glaze.line(points, fill=colour, width=width)

    def paint(self, sketch: Sketch, instance: int = 0) -> None:
        """Paints a thing over what is farther away.

        Args:
            sketch: what to paint.
            instance: its number in the instance map; 0 for what is not annotated.
        """
        ink = self._inks(sketch.z)
        for stroke in sketch.strokes:
            _draw(self._pen, stroke, ink(stroke.colour, stroke.shines))
            _draw(self._id_pen, stroke, instance)
        self._halos.extend(sketch.halos)

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
            moved = stroke._replace(points=[(x - left, y - top) for x, y in stroke.points])
            _draw(pen, moved, 1)
        box = patch.getbbox()
        if box is None:
            return None
        inside = (min(x2, self.camera.width) - max(x1, 0)) * (min(y2, self.camera.height) - max(y1, 0))
        truncated = 1.0 - max(0.0, inside) / max((x2 - x1) * (y2 - y1), 1e-6)
        whole = (box[0] + left, box[1] + top, box[2] + left, box[3] + top)
        return Silhouette(whole, patch.histogram()[1], min(1.0, max(0.0, truncated)))

    def instances(self) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        """The instance map: which annotated thing every canvas pixel shows, 0 for none."""
        return np.asarray(self._ids, dtype=np.uint8)

    def counts(self) -> list[int]:
        """How many canvas pixels show each number of the instance map."""
        return self._ids.histogram()

    def bloom(self) -> Image.Image | None:
        """The halos of all lamps that nothing hides, to add to the picture at its final size."""
        small = (self.camera.width // 4, self.camera.height // 4)
        light = Image.new("RGB", small)
        pen = ImageDraw.Draw(light)
        lit = False
        for halo in self._halos:
            x, y = halo.centre
            if not (0 <= x < self.camera.width and 0 <= y < self.camera.height):
                continue
            seen = self.image.getpixel((int(x), int(y)))
            if not isinstance(seen, tuple) or sum(seen) < 0.55 * sum(halo.colour):
                continue
            r = min(3.5, max(0.5, halo.radius / 4))
            dim = mix(halo.colour, (0, 0, 0), 0.5)
            box = [(x / 4 - r, y / 4 - r), (x / 4 + r, y / 4 + r)]
            pen.ellipse(box, fill=(int(dim[0]), int(dim[1]), int(dim[2])))
            lit = True
        if not lit:
            return None
        size = (self.camera.width // SUPERSAMPLING, self.camera.height // SUPERSAMPLING)
        return light.filter(ImageFilter.GaussianBlur(1.3)).resize(size, Image.Resampling.BILINEAR)
