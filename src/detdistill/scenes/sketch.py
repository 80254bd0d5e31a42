"""What a scene is drawn with: camera, light, and sketches of things that stand somewhere in the world.

World coordinates are metres: x to the right, y up from the ground, z away from the camera. Canvas coordinates
are pixels of the supersampled picture.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from detdistill.scenes.texture import Colour, shade

Point = tuple[float, float]
Point3 = tuple[float, float, float]
Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Camera:
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

    def points(self, points: Iterable[Point3]) -> list[Point]:
        """Where several points of the world stand on the canvas."""
        return [self.point(x, y, z) for x, y, z in points]

    def scale(self, z: float) -> float:
        """Canvas pixels per metre at distance `z`."""
        return self.focal / z

    def reach(self, z: float) -> Span:
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
    """One shape of a sketch in canvas coordinates: ellipses and rings by two corners around them."""

    kind: Literal["polygon", "ellipse", "line", "ring"]
    points: list[Point]
    colour: Colour
    width: int = 0
    shines: bool = False


class Halo(NamedTuple):
    """A lamp that is on, and how far it glows, in canvas pixels."""

    centre: Point
    radius: float
    colour: Colour


@dataclass(slots=True)
class Sketch:
    """The shapes of one thing at distance `z`, in drawing order, before light and haze.

    A shadow falls from `footprint`, corners on the ground (x, z), as if the thing were a box of that height;
    `carrier` is what holds it up and is no part of it.
    """

    z: float
    strokes: list[Stroke] = field(default_factory=list)
    halos: list[Halo] = field(default_factory=list)
    footprint: tuple[Point, ...] = ()
    height: float = 0.0
    carrier: Sketch | None = None

    def bounds(self) -> tuple[float, float, float, float]:
        """The rectangle around all shapes, beyond the picture's edge too: x1, y1, x2, y2 in canvas pixels."""
        around = []
        for stroke in self.strokes:
            margin = stroke.width / 2 if stroke.kind == "line" else 0.0
            xs, ys = zip(*stroke.points, strict=True)
            around.append((min(xs) - margin, min(ys) - margin, max(xs) + margin, max(ys) + margin))
        x1, y1, x2, y2 = zip(*around, strict=True)
        return min(x1), min(y1), max(x2), max(y2)


@dataclass(frozen=True, slots=True)
class Stand:
    """A place in the world where a thing is drawn on a sketch, in the thing's own axes.

    Points are (along, up) or (along, up, left), in units of `unit` metres from the point (x, `height`, z).

    Attributes:
        camera: what sees it.
        light: how it is lit.
        sketch: what the shapes are added to.
        x: metres.
        z: metres.
        height: metres.
        unit: metres.
        axis: where `along` points on the ground, a unit vector (x, z): (1, 0) and, mirrored, (-1, 0) for flat
            figures that face the camera; (sin, cos) of the heading of a solid, which looks away from us at 0.
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
        z = self.z + (along * c + left * s) * unit
        x = self.x + (along * s - left * c) * unit
        return self.camera.point(x, self.height + up * unit, z if z > 0.5 else 0.5)

    def pixels(self, length: float) -> float:
        """A length in canvas pixels."""
        return length * self.unit * self.camera.scale(self.z)

    def shadow(self, length: float, width: float, height: float) -> None:
        """Has the thing throw the shadow of a box of this size."""
        (s, c), a, b = self.axis, length / 2, width / 2
        corners = ((a, b), (a, -b), (-a, -b), (-a, b))
        self.sketch.footprint = tuple((self.x + p * s - q * c, max(0.5, self.z + p * c + q * s)) for p, q in corners)
        self.sketch.height = height

    # Flat shapes.

    def polygon(self, points: Iterable[Point | Point3], colour: Colour, *, shines: bool = False) -> None:
        """Adds a filled polygon."""
        self.sketch.strokes.append(Stroke("polygon", [self.at(*point) for point in points], colour, shines=shines))

    def panel(self, along: Span, up: Span, colour: Colour, *, left: float = 0.0, shines: bool = False) -> None:
        """Adds an upright rectangle along the thing."""
        (a0, a1), (low, high) = along, up
        corners = ((a0, low, left), (a1, low, left), (a1, high, left), (a0, high, left))
        self.polygon(corners, colour, shines=shines)

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
        around = [(x - rx, y - ry), (x + rx, y + ry)]
        self.sketch.strokes.append(Stroke("ring" if outline else "ellipse", around, colour, thickness, glow > 0))
        if glow > 0:
            self.sketch.halos.append(Halo((x, y), self.pixels(glow), colour))

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
        _, left = self.eye
        if left > half:
            return half
        return -half if left < -half else 0.0

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
