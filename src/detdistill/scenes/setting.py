"""The setting of a drawn scene: weather and light, the plan of the street, its ground, its walls and what falls."""

from __future__ import annotations

from typing import Final, NamedTuple

from detdistill.scenes.canvas import Canvas, Light, Sketch, Span, Stroke
from detdistill.scenes.figures import GREENERY
from detdistill.scenes.solids import houses
from detdistill.scenes.texture import Colour, Dice, shade

# Metres: where the ground begins in front of the camera, and half the length of a street across the view.
_NEAR: Final = 0.9
_WIDE: Final = (-90.0, 90.0)


class Street(NamedTuple):
    """The plan, in metres: one road "along" or "across" the view, or an open "place".

    `road` are left and right edge (x) of a road along the view, near and far edge (z) of one across it; on either side
    is a pavement as wide as `walk`. At the distance `back` a wall closes the view.
    """

    kind: str
    road: Span
    walk: float
    back: float


def weather(dice: Dice) -> tuple[Light, tuple[Colour, Colour, float], str]:
    """The light, the sky (top colour, bottom colour, cloud cover) and what falls: dry, rain or snow."""
    hour = dice.weighted((("day", 0.46), ("grey", 0.22), ("dusk", 0.16), ("night", 0.16)))
    fall = dice.weighted((("dry", 0.78), ("rain", 0.13), ("snow", 0.09)))
    sun, covered = (dice.uniform(-1.6, 1.6), dice.uniform(-0.4, 1.0)), (0.0, 0.0)
    sight = dice.log_uniform(45.0, 260.0) if fall == "dry" else dice.log_uniform(28.0, 90.0)
    left = 1.0 + max(-0.3, min(0.3, 0.25 * sun[0]))
    if hour == "day" and fall == "dry":
        blue, pale = dice.near((104, 150, 204), 22), dice.near((206, 216, 226), 12)
        warm = dice.uniform(0.96, 1.08)
        light = Light((1.04 * warm, 1.0, 0.98 / warm), sun, dice.uniform(0.35, 0.55), left, False, pale, sight)
        return light, (blue, pale, dice.uniform(0.0, 0.8)), fall
    if hour in ("day", "grey"):
        grey, level = dice.near((184, 188, 194), 16), dice.uniform(0.78, 1.0)
        light = Light((level, level, level * 1.03), covered, 0.28, 1.0, dice.chance(0.25), grey, sight)
        return light, (shade(grey, 0.86), grey, 0.6), fall
    if hour == "dusk":
        glow = dice.near((214, 138, 92), 24)
        light = Light((0.82, 0.66, 0.62), sun, 0.3, left, True, shade(glow, 0.8), sight)
        return light, (dice.near((66, 72, 118), 18), glow, dice.uniform(0.2, 0.9)), fall
    dark, level = dice.near((24, 26, 40), 8), dice.uniform(0.42, 0.6)
    light = Light((level * 1.06, level, level * 1.08), covered, 0.3, 1.0, True, dark, sight)
    return light, (shade(dark, 0.5), dark, 0.2), fall


def plan_street(dice: Dice) -> Street:
    """A street to look at."""
    kind = dice.weighted((("along", 0.45), ("across", 0.33), ("place", 0.22)))
    walk = dice.uniform(1.8, 4.0)
    if kind == "along":
        left = -dice.uniform(2.0, 9.0)
        return Street(kind, (left, left + dice.uniform(6.5, 12.0)), walk, dice.uniform(32.0, 60.0))
    if kind == "across":
        near = dice.uniform(5.5, 9.0)
        far = near + dice.uniform(6.0, 11.0)
        return Street(kind, (near, far), walk, far + walk + dice.uniform(0.0, 8.0))
    return Street(kind, (0.0, 0.0), walk, dice.uniform(18.0, 42.0))


def ground(canvas: Canvas, street: Street, dice: Dice, fall: str) -> None:
    """Paints road, pavements, verges and markings."""
    if fall == "snow":
        verge, pave = dice.near((214, 218, 224), 10), dice.near((196, 198, 202), 12)
    else:
        verge, pave = dice.tint("6c7a4a 807862 86847e", 16), dice.tint("98928a 888684 a69682", 14)
    road, paint = dice.tint("545458 62605e 46484e", 14), dice.near((214, 212, 204), 10)
    (a, b), along = street.road, street.kind == "along"

    def strip(side: Span, run: Span, colour: Colour) -> None:
        """A rectangle of the ground, across the road and along it."""
        (x0, x1), (z0, z1) = (side, run) if along else (run, side)
        corners = [canvas.camera.point(x, 0.0, z) for x, z in ((x0, z0), (x1, z0), (x1, z1), (x0, z1))]
        canvas.paint(Sketch(min(z0 * 2.5, (z0 + z1) / 2), [Stroke("polygon", corners, colour)]))

    def cross(x: Span, z: Span, colour: Colour) -> None:
        strip(*((x, z) if along else (z, x)), colour)

    for z in ((_NEAR, 8.0), (8.0, 20.0), (20.0, 60.0), (60.0, 400.0)):
        cross((4 * _WIDE[0], 4 * _WIDE[1]), z, road if street.kind == "place" else verge)
    if street.kind == "place":
        row = dice.uniform(6.0, 12.0)
        for k in range(-8, 9):
            cross((2.6 * k, 2.6 * k + 0.12), (row, row + 5.0), paint)
        cross(_WIDE, (street.back - street.walk, street.back), pave)
        return
    # The ground near the camera is less hazy, so what runs along the view is painted in pieces.
    for run in ((_NEAR, 10.0), (10.0, 25.0), (25.0, 120.0)) if along else (_WIDE,):
        for beside, colour in ((street.walk, pave), (0.15 if along else 0.2, shade(pave, 0.75)), (0.0, road)):
            strip((a - beside, b + beside), run, colour)
    middle, start = (a + b) / 2, 2.0 if along else dice.uniform(0.0, 4.0)
    for dash in (start + 4.5 * k for k in (range(14) if along else range(-9, 9))):
        strip((middle - 0.08, middle + 0.08), (dash, dash + 2.2), paint)
    if along and dice.chance(0.5):
        for edge in (a + 0.3, b - 0.4):
            strip((edge, edge + 0.1), (_NEAR, 60.0), paint)
    if dice.chance(0.4):
        at = dice.uniform(5.0, 16.0) if along else dice.uniform(-5.0, 5.0)
        for k in range(int(b - a)):
            strip((a + 0.2 + k, a + 0.7 + k), (at, at + 2.6), paint)


def walls(canvas: Canvas, street: Street, dice: Dice) -> None:
    """Paints the house fronts, or trees, that bound the street."""
    brightness, back, (low, high) = canvas.light.left, street.back, canvas.camera.reach(street.back)
    if street.kind == "along":
        left, right = street.road[0] - street.walk, street.road[1] + street.walk
        if dice.chance(0.75):
            houses(canvas, dice, (-36.0, back), (36.0, back), tone=0.85)
        for x, tone in ((left - dice.uniform(0, 3), 2 - brightness), (right + dice.uniform(0, 3), brightness)):
            if dice.chance(0.8):
                houses(canvas, dice, (x, back), (x, 2.0), tone=tone)
    elif dice.chance(0.85):
        houses(canvas, dice, (low - 6, back), (high + 6, back), tone=0.95)
    else:
        for _ in range(12):
            draw, _ = dice.pick(GREENERY)
            stand = canvas.stand(dice.uniform(low, high), back)
            draw(stand, dice)
            canvas.paint(stand.sketch)


def precipitation(canvas: Canvas, fall: str, dice: Dice) -> None:
    """Draws rain or snow over the finished scene."""
    width, height = canvas.camera.width, canvas.camera.height
    if fall == "rain":
        slant = dice.uniform(-0.35, 0.35)
        for _ in range(dice.integer(40, 130)):
            x, y, long = dice.uniform(0, width), dice.uniform(0, height), dice.uniform(5, 16)
            canvas.glaze.line([(x, y), (x + slant * long, y + long)], fill=(200, 206, 216, 90))
    elif fall == "snow":
        for _ in range(dice.integer(60, 200)):
            x, y = dice.uniform(0, width), dice.uniform(0, height)
            canvas.glaze.line([(x, y), (x + 1, y)], fill=(244, 246, 250, 190), width=2)
