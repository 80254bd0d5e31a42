"""The setting of a drawn scene: weather and light, the plan of the street, its ground and its walls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from detdistill.scenes.buildings import houses
from detdistill.scenes.canvas import SUPERSAMPLING, Camera, Canvas, Light, Point
from detdistill.scenes.furniture import FURNITURE
from detdistill.scenes.texture import Colour, Dice, shade

# Metres: where the ground begins in front of the camera, and half the length of a street across the view.
_NEAR: Final = 0.9
_WIDE: Final = 90.0


@dataclass(frozen=True, slots=True)
class Street:
    """The plan: one road along or across the view, or an open place.

    Attributes:
        kind: which of the three.
        road: left and right edge (x) of a road along the view; near and far edge (z) of one across it.
        walk: metres of pavement on either side.
        back: distance of the wall that closes the view.
    """

    kind: Literal["along", "across", "place"]
    road: tuple[float, float]
    walk: float
    back: float


def weather(dice: Dice) -> tuple[Light, tuple[Colour, Colour, float], str]:
    """The light, the sky (top colour, bottom colour, cloud cover) and what falls: dry, rain or snow."""
    hour = dice.weighted((("day", 0.46), ("grey", 0.22), ("dusk", 0.16), ("night", 0.16)))
    fall = dice.weighted((("dry", 0.78), ("rain", 0.13), ("snow", 0.09)))
    sun = (dice.uniform(-1.6, 1.6), dice.uniform(-0.4, 1.0))
    sight = dice.log_uniform(45.0, 260.0) if fall == "dry" else dice.log_uniform(28.0, 90.0)
    left = 1.0 + max(-0.3, min(0.3, 0.25 * sun[0]))
    if hour == "day" and fall == "dry":
        blue = dice.near((104, 150, 204), 22)
        pale = dice.near((206, 216, 226), 12)
        warm = dice.uniform(0.96, 1.08)
        light = Light((1.04 * warm, 1.0, 0.98 / warm), sun, dice.uniform(0.35, 0.55), left, False, pale, sight)
        return light, (blue, pale, dice.uniform(0.0, 0.8)), fall
    if hour in ("day", "grey"):
        grey = dice.near((184, 188, 194), 16)
        level = dice.uniform(0.78, 1.0)
        light = Light((level, level, level * 1.03), (0.0, 0.0), 0.28, 1.0, dice.chance(0.25), grey, sight)
        return light, (shade(grey, 0.86), grey, 0.6), fall
    if hour == "dusk":
        glow = dice.near((214, 138, 92), 24)
        light = Light((0.82, 0.66, 0.62), sun, 0.3, left, True, shade(glow, 0.8), sight)
        return light, (dice.near((66, 72, 118), 18), glow, dice.uniform(0.2, 0.9)), fall
    dark = dice.near((24, 26, 40), 8)
    level = dice.uniform(0.42, 0.6)
    light = Light((level * 1.06, level, level * 1.08), (0.0, 0.0), 0.3, 1.0, True, dark, sight)
    return light, (shade(dark, 0.5), dark, 0.2), fall


def camera_for(dice: Dice, width: int, height: int) -> Camera:
    """A camera for a picture of this size in pixels."""
    w, h = width * SUPERSAMPLING, height * SUPERSAMPLING
    return Camera(
        width=w,
        height=h,
        focal=dice.uniform(0.72, 1.02) * w * min(1.0, 1.67 * height / width),
        centre=w * dice.uniform(0.22, 0.78),
        horizon=h * dice.uniform(0.36, 0.52),
        eye=dice.uniform(1.4, 2.9),
    )


def plan_street(dice: Dice) -> Street:
    """A street to look at."""
    kind: Literal["along", "across", "place"] = dice.weighted((("along", 0.45), ("across", 0.33), ("place", 0.22)))
    walk = dice.uniform(1.8, 4.0)
    if kind == "along":
        left = -dice.uniform(2.0, 9.0)
        return Street(kind, (left, left + dice.uniform(6.5, 12.0)), walk, dice.uniform(32.0, 60.0))
    if kind == "across":
        near = dice.uniform(5.5, 9.0)
        far = near + dice.uniform(6.0, 11.0)
        return Street(kind, (near, far), walk, far + walk + dice.uniform(0.0, 8.0))
    return Street(kind, (0.0, 0.0), walk, dice.uniform(18.0, 42.0))


def _strip(canvas: Canvas, x: Point, z: Point, colour: Colour) -> None:
    corners = ((x[0], 0.0, z[0]), (x[1], 0.0, z[0]), (x[1], 0.0, z[1]), (x[0], 0.0, z[1]))
    canvas.ground(canvas.camera.points(corners), colour, z=min(z[0] * 2.5, (z[0] + z[1]) / 2))


def ground(canvas: Canvas, street: Street, dice: Dice, fall: str) -> None:
    """Paints road, pavements, verges and markings."""
    if fall == "snow":
        verge, pave = dice.near((214, 218, 224), 10), dice.near((196, 198, 202), 12)
    else:
        verge = dice.near(dice.pick(((108, 122, 74), (128, 120, 98), (134, 132, 126))), 16)
        pave = dice.near(dice.pick(((152, 146, 138), (136, 134, 132), (166, 150, 130))), 14)
    road = dice.near(dice.pick(((84, 84, 88), (98, 96, 94), (70, 72, 78))), 14)
    paint = dice.near((214, 212, 204), 10)
    for z in ((_NEAR, 8.0), (8.0, 20.0), (20.0, 60.0), (60.0, 400.0)):
        _strip(canvas, (-4 * _WIDE, 4 * _WIDE), z, verge if street.kind != "place" else road)
    if street.kind == "along":
        _road_along(canvas, street, dice, colours=(pave, road, paint))
    elif street.kind == "across":
        _road_across(canvas, street, dice, colours=(pave, road, paint))
    else:
        row = dice.uniform(6.0, 12.0)
        for k in range(-8, 9):
            _strip(canvas, (2.6 * k, 2.6 * k + 0.12), (row, row + 5.0), paint)
        _strip(canvas, (-_WIDE, _WIDE), (street.back - street.walk, street.back), pave)


def _road_along(canvas: Canvas, street: Street, dice: Dice, *, colours: tuple[Colour, Colour, Colour]) -> None:
    (pave, road, paint), (a, b), walk = colours, street.road, street.walk
    for z in ((_NEAR, 10.0), (10.0, 25.0), (25.0, 120.0)):
        _strip(canvas, (a - walk, b + walk), z, pave)
        _strip(canvas, (a - 0.15, b + 0.15), z, shade(pave, 0.75))
        _strip(canvas, (a, b), z, road)
    middle = (a + b) / 2
    for k in range(14):
        _strip(canvas, (middle - 0.08, middle + 0.08), (2.0 + 4.5 * k, 4.2 + 4.5 * k), paint)
    if dice.chance(0.5):
        for edge in (a + 0.3, b - 0.4):
            _strip(canvas, (edge, edge + 0.1), (_NEAR, 60.0), paint)
    if dice.chance(0.4):
        at = dice.uniform(5.0, 16.0)
        for k in range(int(b - a)):
            _strip(canvas, (a + 0.2 + k, a + 0.7 + k), (at, at + 2.6), paint)


def _road_across(canvas: Canvas, street: Street, dice: Dice, *, colours: tuple[Colour, Colour, Colour]) -> None:
    (pave, road, paint), (a, b), walk = colours, street.road, street.walk
    _strip(canvas, (-_WIDE, _WIDE), (a - walk, b + walk), pave)
    _strip(canvas, (-_WIDE, _WIDE), (a - 0.2, b + 0.2), shade(pave, 0.75))
    _strip(canvas, (-_WIDE, _WIDE), (a, b), road)
    middle, start = (a + b) / 2, dice.uniform(0.0, 4.0)
    for k in range(-9, 9):
        _strip(canvas, (start + 4.5 * k, start + 4.5 * k + 2.2), (middle - 0.08, middle + 0.08), paint)
    if dice.chance(0.4):
        at = dice.uniform(-5.0, 5.0)
        for k in range(int(b - a)):
            _strip(canvas, (at, at + 2.6), (a + 0.2 + k, a + 0.7 + k), paint)


def walls(canvas: Canvas, street: Street, dice: Dice) -> None:
    """Paints the house fronts, or trees, that bound the street."""
    camera, light = canvas.camera, canvas.light
    if street.kind == "along":
        left, right = street.road[0] - street.walk, street.road[1] + street.walk
        if dice.chance(0.75):
            for sketch in houses(camera, light, dice, start=(-36.0, street.back), end=(36.0, street.back), tone=0.85):
                canvas.scenery(sketch)
        for x, tone in ((left - dice.uniform(0, 3), 2 - light.left), (right + dice.uniform(0, 3), light.left)):
            if dice.chance(0.8):
                for sketch in houses(camera, light, dice, start=(x, street.back), end=(x, 2.0), tone=tone):
                    canvas.scenery(sketch)
        return
    low, high = camera.reach(street.back)
    if dice.chance(0.85):
        for sketch in houses(camera, light, dice, start=(low - 6, street.back), end=(high + 6, street.back), tone=0.95):
            canvas.scenery(sketch)
    else:
        for _ in range(12):
            maker = FURNITURE[dice.integer(0, 1)][0]
            canvas.scenery(maker(camera, light, dice, dice.uniform(low, high), street.back))


def precipitation(canvas: Canvas, fall: str, dice: Dice) -> None:
    """Draws rain or snow over the finished scene."""
    width, height = canvas.camera.width, canvas.camera.height
    if fall == "rain":
        slant = dice.uniform(-0.35, 0.35)
        lines = []
        for _ in range(dice.integer(40, 130)):
            x, y, long = dice.uniform(0, width), dice.uniform(0, height), dice.uniform(5, 16)
            lines.append([(x, y), (x + slant * long, y + long)])
        canvas.streaks(lines, (200, 206, 216, 90))
    elif fall == "snow":
        flakes = []
        for _ in range(dice.integer(60, 200)):
            x, y = dice.uniform(0, width), dice.uniform(0, height)
            flakes.append([(x, y), (x + 1, y)])
        canvas.streaks(flakes, (244, 246, 250, 190), 2)
