"""How cars and trucks are drawn: solids in the world, seen from the camera."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from detdistill.scenes.sketch import Camera, Halo, Light, Point, Point3, Pose, Sketch, Span, Thing
from detdistill.scenes.texture import Colour, Dice, mix, palette, shade

PAINTS: Final = palette(
    "e1e1e4 ebebeb a8acb2 6e7278 26282e 18181c b22022 80181e 244696 3c70b2 1e5c48 ceac34 d6681e 786046"
)
_TARPAULINS: Final = palette("3c5c8c 466e4c 963c28 827c6c")
_BOXES: Final = (*palette("eeeeec eeeeec c4c6ca"), *PAINTS)
_GLASS: Final[Colour] = (52, 64, 80)
_TYRE: Final[Colour] = (26, 26, 28)
_HEADLIGHT: Final[Colour] = (255, 246, 214)
_SPOKES: Final = tuple((math.cos(i * math.pi / 6), math.sin(i * math.pi / 6)) for i in range(12))

# Profiles run from the front bumper over the roof to the rear: share of the length, metres of height.
_PROFILES: Final[tuple[tuple[tuple[Point, ...], float], ...]] = tuple(
    (tuple(zip(along, up, strict=True)), weight)
    for weight, along, up in (
        (0.36, (0.5, 0.5, 0.22, 0.06, -0.2, -0.37, -0.5, -0.5), (0.24, 0.66, 0.86, 1.4, 1.42, 0.95, 0.9, 0.3)),
        (0.3, (0.5, 0.5, 0.24, 0.08, -0.38, -0.48, -0.5, -0.5), (0.24, 0.68, 0.9, 1.46, 1.45, 0.98, 0.9, 0.3)),
        (0.2, (0.5, 0.5, 0.24, 0.1, -0.42, -0.48, -0.5, -0.5), (0.34, 0.85, 1.02, 1.7, 1.72, 1.1, 1.0, 0.38)),
        (0.14, (0.5, 0.5, 0.33, 0.16, -0.47, -0.49, -0.5, -0.5), (0.28, 0.82, 1.02, 1.8, 1.82, 1.1, 1.0, 0.34)),
    )
)
# Brightness of the surfaces between the points of a profile.
_SURFACES: Final = (0.84, 1.1, 0.9, 1.16, 0.86, 1.05, 0.78)
_WINDSCREEN, _REAR_WINDOW = 2, 4


class Block:
    """Draws the parts of a solid on a sketch, in the solid's axes (along, left, up), and only faces that are seen."""

    def __init__(self, camera: Camera, light: Light, pose: Pose, sketch: Sketch) -> None:
        self.camera, self.light, self.pose, self.sketch = camera, light, pose, sketch
        self.eye_along, self.eye_left = pose.eye()
        self._sin, self._cos = math.sin(pose.yaw), math.cos(pose.yaw)

    def quad(self, points: Iterable[Point3], colour: Colour, *, shines: bool = False) -> None:
        """A polygon."""
        # The same as camera.points(pose.world(...)), written out because half of a scene's time goes here.
        s, c, x0, z0 = self._sin, self._cos, self.pose.x, self.pose.z
        focal, centre, horizon, eye = self.camera.focal, self.camera.centre, self.camera.horizon, self.camera.eye
        corners: list[Point] = []
        for along, left, up in points:
            z = z0 + along * c + left * s
            scale = focal / (z if z > 0.5 else 0.5)
            corners.append((centre + scale * (x0 + along * s - left * c), horizon + scale * (eye - up)))
        self.sketch.polygon(corners, colour, shines=shines)

    def end(self, along: float, half: float, up: Span, colour: Colour) -> None:
        """A rectangle across the solid, symmetric to its axis."""
        low, high = up
        self.quad(((along, -half, low), (along, half, low), (along, half, high), (along, -half, high)), colour)

    def flank(self, left: float, along: Span, up: Span, colour: Colour) -> None:
        """A rectangle along the solid."""
        (a0, a1), (low, high) = along, up
        self.quad(((a0, left, low), (a1, left, low), (a1, left, high), (a0, left, high)), colour)

    def box(self, along: Span, half: float, up: Span, colour: Colour) -> None:
        """A box symmetric to the solid's axis: its visible top, end and flank."""
        (a0, a1), u1 = along, up[1]
        if self.camera.eye > u1:
            top = ((a0, half, u1), (a1, half, u1), (a1, -half, u1), (a0, -half, u1))
            self.quad(top, shade(colour, 1.12))
        if self.eye_along > a1:
            self.end(a1, half, up, shade(colour, 0.82))
        if self.eye_along < a0:
            self.end(a0, half, up, shade(colour, 0.76))
        if left := self.left(half):
            self.flank(left, along, up, shade(colour, self.brightness(left)))

    def left(self, half: float) -> float:
        """Where the flank stands that is seen of a solid of this half width: `half`, ``-half``, or 0 for none."""
        if self.eye_left > half:
            return half
        return -half if self.eye_left < -half else 0.0

    def brightness(self, left: float) -> float:
        """Of the flank at `left`."""
        facing = -self._cos if left > 0 else self._cos
        return 0.92 * (1.0 + (1.0 - self.light.left) * facing)

    def wheels(self, left: float, along: Iterable[float], radius: float, hub: Colour) -> None:
        """Wheels on a flank."""
        for at in along:
            for r, spokes, colour in ((radius, _SPOKES, _TYRE), (0.55 * radius, _SPOKES[::2], hub)):
                self.quad(((at + r * c, left, radius + r * s) for c, s in spokes), colour)

    def lamps(self, along: float, apart: float, up: float, size: float, *, colour: Colour, lit: bool) -> None:
        """A pair of lamps on an end."""
        half, bright = size / 2, colour if lit else shade(colour, 0.75)
        for left in (-apart, apart):
            corners = ((-half, -half * 0.7), (half, -half * 0.7), (half, half * 0.7), (-half, half * 0.7))
            self.quad(((along, left + a, up + b) for a, b in corners), bright, shines=lit)
            if lit:
                centre = self.camera.point(*self.pose.world(along, left, up))
                self.sketch.halos.append(Halo(centre, 1.1 * size * self.camera.scale(self.pose.z), bright))


def car(camera: Camera, light: Light, dice: Dice, pose: Pose) -> Thing:
    """A car: one low body with a glazed cabin (saloon, hatchback, off-roader or van)."""
    profile = dice.weighted(_PROFILES)
    length, half = dice.uniform(3.7, 4.8), dice.uniform(0.84, 0.93)
    lift = dice.uniform(0.94, 1.08)
    paint = dice.tint(PAINTS, 14)
    glass = mix(_GLASS, light.haze, dice.uniform(0.0, 0.35))
    block = Block(camera, light, pose, Sketch(pose.z))
    outline = [(a * length, u * lift) for a, u in profile]
    belt = outline[2][1] + 0.05
    # (along, half the width there, up): the cabin is narrower than the body.
    edges = [(a, half if u <= belt + 0.12 else half * 0.8, u) for a, u in outline]
    strips = [
        (pose.world((start[0] + end[0]) / 2, 0, 0)[2], kind, start, end)
        for kind, (start, end) in enumerate(pairwise(edges))
        if (end[2] - start[2]) * (block.eye_along - start[0]) - (end[0] - start[0]) * (camera.eye - start[2]) > 0
    ]
    for _, kind, (a0, w0, u0), (a1, w1, u1) in sorted(strips, reverse=True):
        block.quad(((a0, w0, u0), (a1, w1, u1), (a1, -w1, u1), (a0, -w0, u0)), shade(paint, _SURFACES[kind]))
        if kind in (_WINDSCREEN, _REAR_WINDOW):
            corners = ((0.1, 0.86), (0.86, 0.86), (0.86, -0.86), (0.1, -0.86))
            pane = [(a0 + (a1 - a0) * t, (w0 + (w1 - w0) * t) * s, u0 + (u1 - u0) * t) for t, s in corners]
            block.quad(pane, shade(glass, 1.25 if kind == _WINDSCREEN else 1.0))
    if left := block.left(half * 0.9):
        _car_flank(block, outline, math.copysign(half, left), paint, glass)
    _car_ends(block, outline, half, dice)
    return Thing(block.sketch, pose.footprint(length, 2 * half), outline[3][1])


def _car_flank(block: Block, outline: list[Point], left: float, paint: Colour, glass: Colour) -> None:
    upper, length, tone = left * 0.8, 2 * outline[0][0], block.brightness(left)
    sill, bumper, bonnet, front, rear, boot, tail, foot = outline
    cabin = [
        (bonnet[0], left, bonnet[1]),
        (front[0], upper, front[1]),
        (rear[0], upper, rear[1]),
        (boot[0], left, boot[1]),
    ]
    block.quad(cabin, shade(paint, tone * 1.02))
    block.quad([(a, left, u) for a, u in (sill, bumper, bonnet, boot, tail, foot)], shade(paint, tone))
    block.flank(left, (-0.46 * length, 0.46 * length), (0.24, 0.42), shade(paint, tone * 0.6))
    middle, height = sum(a for a, _, _ in cabin) / 4, sum(u for _, _, u in cabin) / 4 + 0.02
    panes = [(middle + (a - middle) * 0.84, w, height + (u - height) * 0.76) for a, w, u in cabin]
    block.quad(panes, glass)
    post, low, high = middle - 0.02 * length, panes[0][2], panes[1][2]
    pillar = ((post, left, low), (post + 0.11, left, low), (post + 0.11, upper, high), (post, upper, high))
    block.quad(pillar, shade(paint, tone * 0.9))
    block.wheels(left * 1.01, (0.31 * length, -0.31 * length), 0.33 if front[1] < 1.6 else 0.37, (150, 152, 156))


def _car_ends(block: Block, outline: list[Point], half: float, dice: Dice) -> None:
    (front, bonnet), (rear, boot), on = outline[1], outline[6], block.light.lamps
    if block.eye_along > front:
        up = bonnet - 0.1
        block.end(front, 0.45 * half, (0.4, up - 0.03), (34, 34, 38))
        block.lamps(front, half * 0.74, up, 0.3, colour=_HEADLIGHT, lit=on)
        block.end(front, 0.26, (0.36, 0.47), (222, 222, 214))
    elif block.eye_along < rear:
        block.lamps(rear, half * 0.8, boot - 0.12, 0.26, colour=(226, 26, 22), lit=on or dice.chance(0.25))
        block.end(rear, half, (0.3, 0.44), (44, 44, 48))
        block.end(rear, 0.28, (0.5, 0.62), (226, 224, 206))


def truck(camera: Camera, light: Light, dice: Dice, pose: Pose) -> Thing:
    """A truck: a tall cab with a wheelbase of its own behind it, carrying a box, a tarpaulin or a tipper."""
    length, half = dice.uniform(6.0, 8.5), dice.uniform(1.12, 1.28)
    height = dice.uniform(2.7, 3.5)
    cargo = dice.weighted((("box", 0.6), ("tarpaulin", 0.22), ("tipper", 0.18)))
    paint = dice.tint(PAINTS, 16)
    load = dice.tint(_BOXES, 12) if cargo == "box" else dice.tint(_TARPAULINS, 16)
    if cargo == "tipper":
        height = dice.uniform(1.9, 2.3)
    block = Block(camera, light, pose, Sketch(pose.z))
    nose, tail = length / 2, -length / 2
    back = nose - dice.uniform(1.6, 2.0)
    roof = dice.uniform(2.3, 2.75)
    hold = (tail, back - 0.18)
    block.box((tail, nose - 0.1), half * 0.8, (0.5, 0.95), (46, 46, 50))
    parts = [(pose.world(sum(span) / 2, 0, 0)[2], name) for name, span in (("cab", (back, nose)), ("hold", hold))]
    for _, part in sorted(parts, reverse=True):
        if part == "cab":
            _cab(block, (back, nose), half * 0.94, roof, paint)
        else:
            _hold(block, hold, half, (0.92, height), load=load, dice=dice)
    if left := block.left(half):
        block.wheels(left, (nose - 1.0, tail + 0.95, tail + 2.0), 0.47, (128, 128, 130))
    return Thing(block.sketch, pose.footprint(length, 2 * half), max(height, roof))


def _cab(block: Block, along: Span, half: float, roof: float, paint: Colour) -> None:
    block.box(along, half, (0.5, roof), paint)
    back, nose = along
    if block.eye_along > nose:
        block.end(nose, half * 0.9, (1.45, roof - 0.22), _GLASS)
        block.end(nose, half * 0.6, (0.85, 1.2), (40, 40, 44))
        block.lamps(nose, half * 0.8, 0.8, 0.34, colour=_HEADLIGHT, lit=block.light.lamps)
    if left := block.left(half):
        block.flank(left, ((back + nose) / 2 - 0.25, nose - 0.1), (1.45, roof - 0.28), _GLASS)


def _hold(block: Block, along: Span, half: float, up: Span, *, load: Colour, dice: Dice) -> None:
    block.box(along, half, up, load)
    (tail, head), (low, high) = along, up
    length, style = head - tail, dice.random()
    if left := block.left(half):
        tone = block.brightness(left)
        if style < 0.4:
            colour = shade(dice.any_colour(), tone)
            rise = (low + 0.3 * (high - low), low + dice.uniform(0.5, 0.8) * (high - low))
            block.flank(left, (tail + 0.12 * length, head - 0.15 * length), rise, colour)
        elif style < 0.75:
            for at in (tail + length * k / 7 for k in range(1, 7)):
                block.flank(left, (at, at + 0.07), up, shade(load, tone * 0.8))
        block.flank(left, along, (low, low + 0.12), shade(load, tone * 0.55))
    if block.eye_along < tail:
        block.end(tail, 0.04, up, shade(load, 0.5))
        block.end(tail, half, (low - 0.05, low + 0.12), (60, 56, 54))
        block.lamps(tail, half * 0.84, low - 0.12, 0.3, colour=(220, 28, 24), lit=block.light.lamps)
