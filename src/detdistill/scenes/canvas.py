"""What a scene is drawn with: camera and light, sketches of things that stand somewhere in the world, and the canvas.

World coordinates are metres: x to the right, y up from the ground, z away from the camera. Canvas coordinates
are pixels of the supersampled picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from detdistill.scenes.texture import Colour, mix, shade

Point = tuple[float, float]
Point3 = tuple[float, float, float]
Span = tuple[float, float]

SUPERSAMPLING: Final = 2


class Camera(NamedTuple):
    """A pinhole camera that looks along +z from `eye` metres above the ground.

    The canvas is width x height pixels; `focal` is in its pixels, and the vanishing point is (centre, horizon).
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

    def reach(self, z: float) -> Span:
        """Smallest and largest world x that the picture shows at distance `z`."""
        return -self.centre * z / self.focal, (self.width - self.centre) * z / self.focal


class Light(NamedTuple):
    """How a scene is lit.

    Colours that do not shine themselves are multiplied by `ambient`; at `sight` metres 63 % of a colour is `haze`.
    Shadows, of darkness `shadow` in [0, 1], fall `sun` metres of ground (x, z) per metre of height, (0, 0) under a
    covered sky. Faces that look to the left are as bright as `left`, those to the right as 2 - left.
    """

    ambient: Colour
    sun: Point
    shadow: float
    left: float
    lamps: bool
    haze: Colour
    sight: float


class Stroke(NamedTuple):
    """One shape on the canvas: polygon, line or ellipse, this by two corners around it; a ring where it has a width."""

    kind: str
    points: list[Point]
    colour: Colour
    width: int = 0
    shines: bool = False

    def draw(self, pen: ImageDraw.ImageDraw, fill: int | tuple[int, int, int]) -> None:
        """Draws it in another colour than its own."""
        if self.kind == "polygon":
            pen.polygon(self.points, fill=fill)
        elif self.kind == "line":
            pen.line(self.points, fill=fill, width=self.width)
        elif self.width:
            pen.ellipse(self.points, outline=fill, width=self.width)
        else:
            pen.ellipse(self.points, fill=fill)


@dataclass(slots=True)
class Sketch:
    """The shapes of one thing at distance `z`, in drawing order, before light and haze.

    Its lamps that are on have `halos`: centre, radius and colour. `shadows` are polygons on the ground, and how dark
    they are in [0, 255]. `carrier` is what holds it up and is no part of it.
    """

    z: float
    strokes: list[Stroke] = field(default_factory=list)
    halos: list[tuple[Point, float, Colour]] = field(default_factory=list)
    shadows: list[tuple[list[Point], int]] = field(default_factory=list)
    carrier: Sketch | None = None


class Stand(NamedTuple):
    """A place in the world where a thing is drawn on a sketch, in the thing's own axes.

    Points are (along, up) or (along, up, left), in units of `unit` metres from the point (x, `height`, z). `axis` is
    where `along` points on the ground, a unit vector (x, z): (1, 0) and, mirrored, (-1, 0) for flat figures that face
    the camera; (sin, cos) of the heading of a solid, which looks away from us at 0.
    """

    camera: Camera
    light: Light
    sketch: Sketch
    x: float
    z: float
    height: float = 0.0
    unit: float = 1.0
    axis: Point = (1.0, 0.0)

    def at(self, along: float, up: float, left: float = 0.0) -> Point:
        """Where one of its points stands on the canvas."""
        (s, c), unit = self.axis, self.unit
        x, z = self.x + (along * s - left * c) * unit, self.z + (along * c + left * s) * unit
        return self.camera.point(x, self.height + up * unit, z if z > 0.5 else 0.5)

    def pixels(self, length: float) -> float:
        """A length in canvas pixels."""
        return length * self.unit * (self.camera.focal / self.z)

    def shadow(self, length: float, width: float, height: float) -> None:
        """Has the thing throw the shadow of a box of this size."""
        (s, c), a, b = self.axis, length / 2, width / 2
        corners = ((a, b), (a, -b), (-a, -b), (-a, b))
        base = [(self.x + p * s - q * c, max(0.5, self.z + p * c + q * s)) for p, q in corners]
        (sx, sz), reach = self.light.sun, height * 0.8
        moved = [(x + sx * reach, max(1.0, z + sz * reach)) for x, z in base]
        sides = [[base[i], base[i - 1], moved[i - 1], moved[i]] for i in range(4) if sx or sz]
        for ground, strength in ((base, 1.1), *((side, 0.4) for side in sides)):
            points = [self.camera.point(x, 0.0, z) for x, z in ground]
            self.sketch.shadows.append((points, int(255 * min(1.0, self.light.shadow * strength))))

    # Flat shapes.

    def polygon(self, points: Iterable[Point | Point3], colour: Colour, *, shines: bool = False) -> None:
        """Adds a filled polygon."""
        self.sketch.strokes.append(Stroke("polygon", [self.at(*point) for point in points], colour, shines=shines))

    def panel(self, along: Span, up: Span, colour: Colour, *, left: float = 0.0, shines: bool = False) -> None:
        """Adds an upright rectangle along the thing."""
        (a0, a1), (low, high) = along, up
        self.polygon(((a, u, left) for a, u in ((a0, low), (a1, low), (a1, high), (a0, high))), colour, shines=shines)

    def post(self, width: float, up: Span, colour: Colour, *, middle: float = 0.0) -> None:
        """Adds an upright rectangle around `middle`."""
        self.panel((middle - width / 2, middle + width / 2), up, colour)

    def line(self, points: Iterable[Point], colour: Colour, *, width: float) -> None:
        """Adds a line through `points`, at least one canvas pixel thick."""
        thickness = max(1, round(self.pixels(width)))
        self.sketch.strokes.append(Stroke("line", [self.at(*point) for point in points], colour, thickness))

    def ellipse(self, centre: Point, radii: Point, colour: Colour, *, glow: float = 0.0, outline: float = 0.0) -> None:
        """Adds an ellipse: filled, or its outline as a line is drawn; or a lamp that is on with a halo of `glow`."""
        (x, y), rx, ry = self.at(*centre), self.pixels(radii[0]), self.pixels(radii[1])
        thickness = max(1, round(self.pixels(outline))) if outline else 0
        self.sketch.strokes.append(Stroke("ellipse", [(x - rx, y - ry), (x + rx, y + ry)], colour, thickness, glow > 0))
        if glow > 0:
            self.sketch.halos.append(((x, y), self.pixels(glow), colour))

    # Solids, of which only the faces that the camera sees are drawn.

    @property
    def eye(self) -> Point:
        """The camera's place on the ground: along, left."""
        s, c = self.axis
        return -self.x * s - self.z * c, self.x * c - self.z * s

    def depth(self, along: float) -> float:
        """The distance of a point of its axis."""
        return max(0.5, self.z + along * self.axis[1])

    def flank(self, half: float) -> float:
        """Where the flank is that is seen of a solid of this half width: `half` to the left, ``-half``, 0 for none."""
        left = self.eye[1]
        return math.copysign(half, left) if abs(left) > half else 0.0

    def brightness(self, left: float) -> float:
        """Of the flank at `left`."""
        facing = -self.axis[1] if left > 0 else self.axis[1]
        return 0.92 * (1.0 + (1.0 - self.light.left) * facing)

    def end(self, along: float, half: float, up: Span, colour: Colour) -> None:
        """Adds an upright rectangle across the solid, symmetric to its axis."""
        low, high = up
        self.polygon(((along, low, -half), (along, low, half), (along, high, half), (along, high, -half)), colour)

    def box(self, along: Span, half: float, up: Span, colour: Colour) -> None:
        """Adds the visible top, end and flank of a box symmetric to the solid's axis."""
        (a0, a1), top, (eye, _) = along, up[1], self.eye
        if self.camera.eye > top:
            self.polygon(((a0, top, half), (a1, top, half), (a1, top, -half), (a0, top, -half)), shade(colour, 1.12))
        if eye > a1:
            self.end(a1, half, up, shade(colour, 0.82))
        if eye < a0:
            self.end(a0, half, up, shade(colour, 0.76))
        if left := self.flank(half):
            self.panel(along, up, shade(colour, self.brightness(left)), left=left)


class Canvas:
    """Picture and instance map of one scene, painted from far to near.

    `glaze` draws translucent colours on `image`; `ids` tells which annotated thing every pixel shows, 0 for none.
    """

    def __init__(self, camera: Camera, light: Light) -> None:
        self.camera, self.light = camera, light
        self.image = Image.new("RGB", (camera.width, camera.height))
        self.ids = Image.new("L", (camera.width, camera.height))
        self.glaze = ImageDraw.Draw(self.image, "RGBA")
        self._pen, self._id_pen = ImageDraw.Draw(self.image), ImageDraw.Draw(self.ids)
        self._halos: list[tuple[Point, float, Colour]] = []

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

        `instance` is its number in the instance map, 0 for what hides objects and is none; None leaves the map alone.
        """
        ink = self.ink(sketch.z)
        for stroke in sketch.strokes:
            stroke.draw(self._pen, ink(stroke.colour, stroke.shines))
            if instance is not None:
                stroke.draw(self._id_pen, instance)
        self._halos += sketch.halos

    def silhouette(self, sketch: Sketch) -> tuple[tuple[int, int, int, int], int, float] | None:
        """Measures a thing's whole shape inside the picture, hidden parts included; None where it lies outside.

        Returns:
            The box x1, y1, x2, y2 around it and how many pixels it covers, both of the canvas, and the share of the
            rectangle around the shape that lies outside the picture, in [0, 1].
        """
        shape = Image.new("L", self.ids.size)
        pen = ImageDraw.Draw(shape)
        edges: list[tuple[float, float, float]] = []
        for stroke in sketch.strokes:
            stroke.draw(pen, 1)
            edges += [(x, y, stroke.width / 2 if stroke.kind == "line" else 0.0) for x, y in stroke.points]
        box = shape.getbbox()
        if box is None:
            return None
        x1, y1 = min(x - margin for x, _, margin in edges), min(y - margin for _, y, margin in edges)
        x2, y2 = max(x + margin for x, _, margin in edges), max(y + margin for _, y, margin in edges)
        inside = (min(x2, self.camera.width) - max(x1, 0)) * (min(y2, self.camera.height) - max(y1, 0))
        truncated = 1.0 - max(0.0, inside) / max((x2 - x1) * (y2 - y1), 1e-6)
        return box, shape.histogram()[1], min(1.0, max(0.0, truncated))

    def bloom(self) -> Image.Image:
        """The halos of all lamps that nothing hides, to add to the picture at its final size."""
        width, height = self.camera.width, self.camera.height
        light, seen = Image.new("RGB", (width // 4, height // 4)), np.asarray(self.image)
        for (x, y), radius, colour in self._halos:
            if 0 <= x < width and 0 <= y < height and seen[int(y), int(x)].sum() >= 0.55 * sum(colour):
                r = min(3.5, max(0.5, radius / 4))
                around = [(x / 4 - r, y / 4 - r), (x / 4 + r, y / 4 + r)]
                ImageDraw.Draw(light).ellipse(around, fill=tuple(map(int, mix(colour, (0, 0, 0), 0.5))))
        size = (width // SUPERSAMPLING, height // SUPERSAMPLING)
        return light.filter(ImageFilter.GaussianBlur(1.3)).resize(size, Image.Resampling.BILINEAR)
