"""What a scene is drawn with: camera, light, and sketches of things that stand somewhere in the world.

World coordinates are metres: x to the right, y up from the ground, z away from the camera. Canvas coordinates
are pixels of the supersampled picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from detdistill.scenes.texture import Colour

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


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a solid stands: the middle of its footprint in metres, and its heading (0 looks away from us)."""

    x: float
    z: float
    yaw: float = 0.0

    def world(self, along: float, left: float, up: float) -> Point3:
        """A point given in the solid's own axes."""
        s, c = math.sin(self.yaw), math.cos(self.yaw)
        return self.x + along * s - left * c, up, max(0.5, self.z + along * c + left * s)

    def eye(self) -> Point:
        """The camera's place on the ground in the solid's own axes: along, left."""
        s, c = math.sin(self.yaw), math.cos(self.yaw)
        return -self.x * s - self.z * c, self.x * c - self.z * s

    def footprint(self, length: float, width: float) -> tuple[Point, ...]:
        """The four ground corners (x, z) of a solid of this size."""
        corners = ((0.5, 0.5), (0.5, -0.5), (-0.5, -0.5), (-0.5, 0.5))
        places = (self.world(a * length, b * width, 0.0) for a, b in corners)
        return tuple((x, z) for x, _, z in places)


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
    """The shapes of one thing at distance `z`, in drawing order, before light and haze."""

    z: float
    strokes: list[Stroke] = field(default_factory=list)
    halos: list[Halo] = field(default_factory=list)

    def polygon(self, points: list[Point], colour: Colour, *, shines: bool = False) -> None:
        """Adds a filled polygon of the canvas."""
        self.strokes.append(Stroke("polygon", points, colour, shines=shines))

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
    """A place in the world where flat shapes that face the camera are drawn on a sketch.

    Its own coordinates are (to the front, up) from the point (x, up, z), in units of `unit` metres.

    Attributes:
        camera: what sees it.
        light: whether its lamps are on.
        sketch: what the shapes are added to.
        x: metres.
        up: metres.
        unit: metres.
        mirror: 1 or -1, which way its front looks.
    """

    camera: Camera
    light: Light
    sketch: Sketch
    x: float
    up: float = 0.0
    unit: float = 1.0
    mirror: float = 1.0

    @property
    def z(self) -> float:
        """Its distance in metres."""
        return self.sketch.z

    def at(self, point: Point) -> Point:
        """Where one of its points stands on the canvas."""
        x, y = point
        return self.camera.point(self.x + self.mirror * x * self.unit, self.up + y * self.unit, self.sketch.z)

    def pixels(self, length: float) -> float:
        """A length in canvas pixels."""
        return length * self.unit * self.camera.scale(self.sketch.z)

    def polygon(self, points: Iterable[Point], colour: Colour) -> None:
        """Adds a filled polygon."""
        self.sketch.polygon([self.at(point) for point in points], colour)

    def panel(self, middle: float, width: float, height: Span, colour: Colour) -> None:
        """Adds a rectangle of `width` around `middle` that reaches from one height to another."""
        left, right, (low, high) = middle - width / 2, middle + width / 2, height
        self.polygon(((left, low), (right, low), (right, high), (left, high)), colour)

    def line(self, points: Iterable[Point], colour: Colour, *, width: float) -> None:
        """Adds a line through `points`, at least one canvas pixel thick."""
        thickness = max(1, round(self.pixels(width)))
        self.sketch.strokes.append(Stroke("line", [self.at(point) for point in points], colour, thickness))

    def _around(self, centre: Point, radii: Point) -> list[Point]:
        (x, y), rx, ry = self.at(centre), self.pixels(radii[0]), self.pixels(radii[1])
        return [(x - rx, y - ry), (x + rx, y + ry)]

    def ring(self, centre: Point, radii: Point, colour: Colour, *, width: float) -> None:
        """Adds the outline of an ellipse, at least one canvas pixel thick."""
        thickness = max(1, round(self.pixels(width)))
        self.sketch.strokes.append(Stroke("ring", self._around(centre, radii), colour, thickness))

    def ellipse(self, centre: Point, radii: Point, colour: Colour, *, glow: float = 0.0) -> None:
        """Adds a filled ellipse; above 0, `glow` makes it a lamp that is on with a halo of that radius."""
        self.sketch.strokes.append(Stroke("ellipse", self._around(centre, radii), colour, shines=glow > 0))
        if glow > 0:
            self.sketch.halos.append(Halo(self.at(centre), self.pixels(glow), colour))


class Thing(NamedTuple):
    """A drawn object, what throws its shadow (ground corners (x, z), a height in metres), and what carries it."""

    sketch: Sketch
    footprint: tuple[Point, ...] = ()
    height: float = 0.0
    carrier: Sketch | None = None
