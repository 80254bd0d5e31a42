"""How cars and trucks are drawn: solids in the world, seen from the camera."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from detdistill.scenes.canvas import Camera, Halo, Light, Point, Point3, Sketch
from detdistill.scenes.texture import Colour, Dice, mix, shade

PAINTS: Final[tuple[Colour, ...]] = (
    (225, 225, 228),
    (235, 235, 235),
    (168, 172, 178),
    (110, 114, 120),
    (38, 40, 46),
    (24, 24, 28),
    (178, 32, 34),
    (128, 24, 30),
    (36, 70, 150),
    (60, 112, 178),
    (30, 92, 72),
    (206, 172, 52),
    (214, 104, 30),
    (120, 96, 70),
)
_GLASS: Final[Colour] = (52, 64, 80)
_TYRE: Final[Colour] = (26, 26, 28)
_SPOKES: Final = tuple((math.cos(i * math.pi / 6), math.sin(i * math.pi / 6)) for i in range(12))

# Profiles run from the front bumper over the roof to the rear: share of the length, metres of height.
_PROFILES: Final[tuple[tuple[tuple[float, float], ...], ...]] = (
    ((0.5, 0.24), (0.5, 0.66), (0.22, 0.86), (0.06, 1.40), (-0.2, 1.42), (-0.37, 0.95), (-0.5, 0.9), (-0.5, 0.3)),
    ((0.5, 0.24), (0.5, 0.68), (0.24, 0.9), (0.08, 1.46), (-0.38, 1.45), (-0.48, 0.98), (-0.5, 0.9), (-0.5, 0.3)),
    ((0.5, 0.34), (0.5, 0.85), (0.24, 1.02), (0.1, 1.7), (-0.42, 1.72), (-0.48, 1.1), (-0.5, 1.0), (-0.5, 0.38)),
    ((0.5, 0.28), (0.5, 0.82), (0.33, 1.02), (0.16, 1.8), (-0.47, 1.82), (-0.49, 1.1), (-0.5, 1.0), (-0.5, 0.34)),
)


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a solid stands: the middle of its footprint in metres, and its heading (0 looks away from us)."""

    x: float
    z: float
    yaw: float

    def world(self, along: float, left: float, up: float) -> Point3:
        """A point given in the solid's own axes."""
        s, c = math.sin(self.yaw), math.cos(self.yaw)
        return self.x + along * s - left * c, up, max(0.5, self.z + along * c + left * s)

    def eye(self) -> Point:
        """The camera's place on the ground in the solid's own axes: along, left."""
        s, c = math.sin(self.yaw), math.cos(self.yaw)
        return -self.x * s - self.z * c, self.x * c - self.z * s


@dataclass(frozen=True, slots=True)
class Solid:
    """A drawn solid with what its shadow needs.

    Attributes:
        sketch: its shapes.
        footprint: corners on the ground in metres (x, z).
        height: metres.
    """

    sketch: Sketch
    footprint: tuple[Point, ...]
    height: float


def footprint(pose: Pose, length: float, width: float) -> tuple[Point, ...]:
    """The four ground corners (x, z) of a solid of this size."""
    corners = ((0.5, 0.5), (0.5, -0.5), (-0.5, -0.5), (-0.5, 0.5))
    places = (pose.world(a * length, b * width, 0.0) for a, b in corners)
    return tuple((x, z) for x, _, z in places)


def side_light(pose: Pose, light: Light, side: float) -> float:
    """Brightness of the left (side = 1) or right (-1) face of a solid."""
    facing = -side * math.cos(pose.yaw)
    return 0.92 * (1.0 + (1.0 - light.left) * facing)


class Block:
    """Draws boxes of a solid, far ones first, with only the faces that the camera sees."""

    def __init__(self, camera: Camera, light: Light, pose: Pose, sketch: Sketch) -> None:
        self.camera, self.light, self.pose, self.sketch = camera, light, pose, sketch
        self.eye_along, self.eye_left = pose.eye()
        self._view = (camera.focal, camera.centre, camera.horizon, camera.eye)
        self._sin, self._cos = math.sin(pose.yaw), math.cos(pose.yaw)

    def quad(self, points: tuple[Point3, ...], colour: Colour, *, shines: bool = False) -> None:
        """A polygon whose corners are given in the solid's axes."""
        # The same as camera.points(pose.world(...)), written out because half of a scene's time goes here.
        s, c, x0, z0 = self._sin, self._cos, self.pose.x, self.pose.z
        focal, centre, horizon, eye = self._view
        corners: list[Point] = []
        for along, left, up in points:
            z = z0 + along * c + left * s
            scale = focal / (z if z > 0.5 else 0.5)
            corners.append((centre + scale * (x0 + along * s - left * c), horizon + scale * (eye - up)))
        self.sketch.polygon(corners, colour, shines=shines)

    def end(self, along: float, left: tuple[float, float], up: tuple[float, float], colour: Colour) -> None:
        """A rectangle across the solid, at `along`."""
        (l0, l1), (u0, u1) = left, up
        self.quad(((along, l0, u0), (along, l1, u0), (along, l1, u1), (along, l0, u1)), colour)

    def flank(self, left: float, along: tuple[float, float], up: tuple[float, float], colour: Colour) -> None:
        """A rectangle along the solid, at `left`."""
        (a0, a1), (u0, u1) = along, up
        self.quad(((a0, left, u0), (a1, left, u0), (a1, left, u1), (a0, left, u1)), colour)

    def box(self, along: tuple[float, float], half: float, up: tuple[float, float], colour: Colour) -> None:
        """A box symmetric to the solid's axis: its visible top, end and flank."""
        (a0, a1), u1 = along, up[1]
        if self.camera.eye > u1:
            top = ((a0, half, u1), (a1, half, u1), (a1, -half, u1), (a0, -half, u1))
            self.quad(top, shade(colour, 1.12))
        for at, seen, tone in ((a1, self.eye_along > a1, 0.82), (a0, self.eye_along < a0, 0.76)):
            if seen:
                self.end(at, (-half, half), up, shade(colour, tone))
        side = self.side(half)
        if side:
            self.flank(side * half, along, up, shade(colour, side_light(self.pose, self.light, side)))

    def side(self, half: float) -> float:
        """Which flank is seen: 1 left, -1 right, 0 none."""
        if self.eye_left > half:
            return 1.0
        return -1.0 if self.eye_left < -half else 0.0

    def wheel(self, along: float, left: float, radius: float, hub: Colour) -> None:
        """A wheel on a flank."""
        rim = tuple((along + radius * c, left, radius + radius * s) for c, s in _SPOKES)
        self.quad(rim, _TYRE)
        inner = 0.55 * radius
        self.quad(tuple((along + inner * c, left, radius + inner * s) for c, s in _SPOKES[::2]), hub)


def _lamp(block: Block, at: Point3, size: float, colour: Colour, *, lit: bool) -> None:
    along, left, up = at
    half = size / 2
    corners = ((-half, -half * 0.7), (half, -half * 0.7), (half, half * 0.7), (-half, half * 0.7))
    bright = colour if lit else shade(colour, 0.75)
    block.quad(tuple((along, left + a, up + b) for a, b in corners), bright, shines=lit)
    if lit:
        centre = block.camera.point(*block.pose.world(along, left, up))
        block.sketch.halos.append(_halo(block, centre, size, bright))


def _halo(block: Block, centre: Point, size: float, colour: Colour) -> Halo:
    return Halo(centre, 1.1 * size * block.camera.scale(block.pose.z), colour)


def car(camera: Camera, light: Light, dice: Dice, pose: Pose) -> Solid:
    """A car: one low body with a glazed cabin (saloon, hatchback, off-roader or van)."""
    profile = dice.weighted(tuple(zip(_PROFILES, (0.36, 0.3, 0.2, 0.14), strict=True)))
    length, half = dice.uniform(3.7, 4.8), dice.uniform(0.84, 0.93)
    lift = dice.uniform(0.94, 1.08)
    paint = dice.near(dice.pick(PAINTS), 14)
    glass = mix(_GLASS, light.haze, dice.uniform(0.0, 0.35))
    sketch = Sketch(pose.z)
    block = Block(camera, light, pose, sketch)
    outline = [(a * length, u * lift) for a, u in profile]
    belt = outline[2][1] + 0.05

    def wide(up: float) -> float:
        return half if up <= belt + 0.12 else half * 0.8

    strips = []
    for kind, ((a0, u0), (a1, u1)) in enumerate(pairwise(outline)):
        if (u1 - u0) * (block.eye_along - a0) - (a1 - a0) * (camera.eye - u0) <= 0:
            continue
        strips.append((pose.world((a0 + a1) / 2, 0, 0)[2], kind, a0, u0, a1, u1))
    for _, kind, a0, u0, a1, u1 in sorted(strips, reverse=True):
        w0, w1 = wide(u0), wide(u1)
        quad = ((a0, w0, u0), (a1, w1, u1), (a1, -w1, u1), (a0, -w0, u0))
        tone = (0.84, 1.1, 0.9, 1.16, 0.86, 1.05, 0.78)[kind]
        block.quad(quad, shade(paint, tone))
        if kind in (2, 4):
            inner = [
                (a0 + (a1 - a0) * t, (w0 + (w1 - w0) * t) * s * 0.86, u0 + (u1 - u0) * t)
                for t, s in ((0.1, 1), (0.86, 1), (0.86, -1), (0.1, -1))
            ]
            block.quad(tuple(inner), shade(glass, 1.25 if kind == 2 else 1.0))
    side = block.side(half * 0.9)
    if side:
        _car_flank(block, outline, (side, half, wide(9.9)), paint, glass)
    _car_ends(block, outline, half, dice)
    return Solid(sketch, footprint(pose, length, 2 * half), outline[3][1])


def _car_flank(
    block: Block, outline: list[Point], widths: tuple[float, float, float], paint: Colour, glass: Colour
) -> None:
    side, half, upper = widths
    length = 2 * outline[0][0]
    tone = side_light(block.pose, block.light, side)
    bonnet, front, rear, boot = outline[2], outline[3], outline[4], outline[5]
    body = [outline[0], outline[1], bonnet, boot, outline[6], outline[7]]
    cabin = [(*bonnet, half), (*front, upper), (*rear, upper), (*boot, half)]
    block.quad(tuple((a, side * w, u) for a, u, w in cabin), shade(paint, tone * 1.02))
    block.quad(tuple((a, side * half, u) for a, u in body), shade(paint, tone))
    block.flank(side * half, (-0.46 * length, 0.46 * length), (0.24, 0.42), shade(paint, tone * 0.6))
    middle = (sum(c[0] for c in cabin) / 4, sum(c[1] for c in cabin) / 4 + 0.02)
    panes = [
        (middle[0] + (a - middle[0]) * 0.84, side * (w * 1.0), middle[1] + (u - middle[1]) * 0.76) for a, u, w in cabin
    ]
    block.quad(tuple(panes), glass)
    post = middle[0] - 0.02 * length
    low, high = panes[0][2], panes[1][2]
    pillar = ((post, side * half, low), (post + 0.11, side * half, low))
    top = ((post + 0.11, side * upper, high), (post, side * upper, high))
    block.quad(pillar + top, shade(paint, tone * 0.9))
    radius = 0.33 if outline[3][1] < 1.6 else 0.37
    for at in (0.31, -0.31):
        block.wheel(at * length, side * half * 1.01, radius, (150, 152, 156))


def _car_ends(block: Block, outline: list[Point], half: float, dice: Dice) -> None:
    front, rear = outline[1], outline[6]
    on = block.light.lamps
    if block.eye_along > front[0]:
        up = front[1] - 0.1
        block.end(front[0], (-0.45 * half, 0.45 * half), (0.4, up - 0.03), (34, 34, 38))
        for side in (-1.0, 1.0):
            _lamp(block, (front[0], side * half * 0.74, up), 0.3, (255, 246, 214), lit=on)
        block.end(front[0], (-0.26, 0.26), (0.36, 0.47), (222, 222, 214))
    elif block.eye_along < rear[0]:
        up = rear[1] - 0.12
        braking = on or dice.chance(0.25)
        for side in (-1.0, 1.0):
            _lamp(block, (rear[0], side * half * 0.8, up), 0.26, (226, 26, 22), lit=braking)
        block.end(rear[0], (-half, half), (0.3, 0.44), (44, 44, 48))
        block.end(rear[0], (-0.28, 0.28), (0.5, 0.62), (226, 224, 206))


def truck(camera: Camera, light: Light, dice: Dice, pose: Pose) -> Solid:
    """A truck: a tall cab with a wheelbase of its own behind it, carrying a box, a tarpaulin or a tipper."""
    length, half = dice.uniform(6.0, 8.5), dice.uniform(1.12, 1.28)
    height = dice.uniform(2.7, 3.5)
    cargo = dice.weighted((("box", 0.6), ("tarpaulin", 0.22), ("tipper", 0.18)))
    paint = dice.near(dice.pick(PAINTS), 16)
    if cargo == "box":
        load = dice.near(dice.pick(((238, 238, 236), (238, 238, 236), (196, 198, 202), *PAINTS)), 12)
    else:
        load = dice.near(dice.pick(((60, 92, 140), (70, 110, 76), (150, 60, 40), (130, 124, 108))), 16)
    if cargo == "tipper":
        height = dice.uniform(1.9, 2.3)
    sketch = Sketch(pose.z)
    block = Block(camera, light, pose, sketch)
    nose, tail = length / 2, -length / 2
    back = nose - dice.uniform(1.6, 2.0)
    roof = dice.uniform(2.3, 2.75)
    hold = (tail, back - 0.18)
    block.box((tail, nose - 0.1), half * 0.8, (0.5, 0.95), (46, 46, 50))
    parts = [(pose.world((back + nose) / 2, 0, 0)[2], "cab"), (pose.world(sum(hold) / 2, 0, 0)[2], "hold")]
    for _, part in sorted(parts, reverse=True):
        if part == "cab":
            _cab(block, (back, nose), half * 0.94, roof, paint)
        else:
            _hold(block, hold, half, (0.92, height), load=load, dice=dice)
    side = block.side(half)
    if side:
        for at in (nose - 1.0, tail + 0.95, tail + 2.0):
            block.wheel(at, side * half, 0.47, (128, 128, 130))
    return Solid(sketch, footprint(pose, length, 2 * half), max(height, roof))


def _cab(block: Block, along: tuple[float, float], half: float, roof: float, paint: Colour) -> None:
    block.box(along, half, (0.5, roof), paint)
    back, nose = along
    if block.eye_along > nose:
        block.end(nose, (-half * 0.9, half * 0.9), (1.45, roof - 0.22), _GLASS)
        block.end(nose, (-half * 0.6, half * 0.6), (0.85, 1.2), (40, 40, 44))
        for side in (-1.0, 1.0):
            _lamp(block, (nose, side * half * 0.8, 0.8), 0.34, (255, 246, 214), lit=block.light.lamps)
    side = block.side(half)
    if side:
        middle = (back + nose) / 2
        block.flank(side * half, (middle - 0.25, nose - 0.1), (1.45, roof - 0.28), _GLASS)


def _hold(
    block: Block, along: tuple[float, float], half: float, up: tuple[float, float], *, load: Colour, dice: Dice
) -> None:
    block.box(along, half, up, load)
    low, high = up
    tail, head = along
    side = block.side(half)
    style = dice.random()
    if side:
        tone = side_light(block.pose, block.light, side)
        if style < 0.4:
            colour = shade(dice.any_colour(), tone)
            span = (tail + 0.12 * (head - tail), head - 0.15 * (head - tail))
            rise = (low + 0.3 * (high - low), low + dice.uniform(0.5, 0.8) * (high - low))
            block.flank(side * half, span, rise, colour)
        elif style < 0.75:
            for k in range(1, 7):
                at = tail + (head - tail) * k / 7
                block.flank(side * half, (at, at + 0.07), up, shade(load, tone * 0.8))
        block.flank(side * half, along, (low, low + 0.12), shade(load, tone * 0.55))
    if block.eye_along < tail:
        block.end(tail, (-0.04, 0.04), up, shade(load, 0.5))
        block.end(tail, (-half, half), (low - 0.05, low + 0.12), (60, 56, 54))
        for lamp in (-1.0, 1.0):
            _lamp(block, (tail, lamp * half * 0.84, low - 0.12), 0.3, (220, 28, 24), lit=block.light.lamps)
