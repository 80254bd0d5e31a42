"""Facades: the walls of a street, with windows, doors and shop fronts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from detdistill.scenes.canvas import Camera, Light, Point3, Sketch
from detdistill.scenes.texture import Colour, Dice, mix, shade

_WALLS: Final[tuple[Colour, ...]] = (
    (176, 150, 122),
    (150, 84, 66),
    (196, 188, 172),
    (128, 124, 122),
    (206, 176, 120),
    (108, 116, 124),
    (160, 168, 164),
    (122, 74, 62),
)
_LIT: Final[tuple[Colour, ...]] = ((252, 214, 130), (240, 226, 190), (214, 226, 250))


@dataclass(frozen=True, slots=True)
class Wall:
    """A vertical rectangle in the world.

    Attributes:
        start: ground corner (x, z) in metres.
        end: the other ground corner.
        height: metres.
        tone: brightness by where it faces.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    height: float
    tone: float

    def length(self) -> float:
        """Metres along the ground."""
        (x0, z0), (x1, z1) = self.start, self.end
        return float(((x1 - x0) ** 2 + (z1 - z0) ** 2) ** 0.5)

    def z(self) -> float:
        """Distance of its middle."""
        return (self.start[1] + self.end[1]) / 2

    def at(self, along: float, up: float) -> Point3:
        """A point of the wall: `along` in [0, 1] of its length, `up` metres above the ground."""
        (x0, z0), (x1, z1) = self.start, self.end
        return x0 + (x1 - x0) * along, up, z0 + (z1 - z0) * along


def _windows(dice: Dice, light: Light, wall: Colour) -> Callable[[], tuple[Colour, bool]]:
    glass = mix((70, 84, 100), shade(light.haze, 0.8), dice.uniform(0.0, 0.4))
    share = dice.uniform(0.15, 0.5) if light.lamps else 0.0
    glow = dice.pick(_LIT)

    def window() -> tuple[Colour, bool]:
        if dice.chance(share):
            return shade(glow, dice.uniform(0.35, 0.8)), True
        return shade(glass, dice.uniform(0.6, 1.15)), False

    return window


def facade(camera: Camera, light: Light, dice: Dice, wall: Wall) -> Sketch:
    """Draws one house front on a wall."""
    sketch = Sketch(wall.z())
    base = shade(dice.near(dice.pick(_WALLS), 20), wall.tone)
    length, height = wall.length(), wall.height

    def patch(a0: float, a1: float, u0: float, u1: float, colour: Colour, *, shines: bool = False) -> None:
        corners = (wall.at(a0, u0), wall.at(a1, u0), wall.at(a1, u1), wall.at(a0, u1))
        sketch.polygon(camera.points(corners), colour, shines=shines)

    patch(0.0, 1.0, 0.0, height, base)
    window = _windows(dice, light, base)
    floor = dice.uniform(2.7, 3.6)
    columns = max(1, min(8, int(length / dice.uniform(1.7, 3.2))))
    wide, tall = dice.uniform(0.35, 0.7), dice.uniform(0.4, 0.65)
    shop = dice.chance(0.45)
    if shop:
        _shop(dice, light, patch, floor, columns)
    floors = min(6, int(height / floor))
    lefts = [(column + 0.5 - wide / 2) / columns for column in range(columns)]
    lefts = [left for left in lefts if _seen(camera, wall, left, left + wide / columns)]
    for level in range(1 if shop else 0, floors):
        low = level * floor + 0.25 * floor
        for left in lefts:
            colour, shines = window()
            patch(left, left + wide / columns, low, low + tall * floor, colour, shines=shines)
        if dice.chance(0.3):
            patch(0.0, 1.0, level * floor, level * floor + 0.16, shade(base, 0.8))
    if not shop:
        door = (dice.integer(0, columns - 1) + 0.5) / columns
        span = 0.55 / length
        patch(door - span, door + span, 0.0, 2.1, shade(dice.any_colour(20, 140), wall.tone))
    patch(0.0, 1.0, height - 0.3, height, shade(base, 0.72))
    return sketch


def _shop(dice: Dice, light: Light, patch: Callable[..., None], floor: float, columns: int) -> None:
    awning = dice.any_colour(40, 220)
    lit = light.lamps and dice.chance(0.7)
    for column in range(columns):
        left = column / columns
        pane = shade((236, 214, 160), dice.uniform(0.4, 0.85)) if lit else shade((60, 72, 84), dice.uniform(0.7, 1.3))
        patch(left + 0.06 / columns, left + 0.94 / columns, 0.35, floor * 0.72, pane, shines=lit)
        if dice.chance(0.5):
            start = left + dice.uniform(0.15, 0.6) / columns
            patch(start, start + 0.2 / columns, 0.4, dice.uniform(0.8, floor * 0.6), dice.any_colour(30, 200))
    patch(0.0, 1.0, floor * 0.74, floor * 0.95, awning)
    if dice.chance(0.5):
        for k in range(dice.integer(2, 6)):
            start = 0.1 + 0.12 * k
            patch(start, start + 0.07, floor * 0.79, floor * 0.9, shade(awning, 0.4))


def _seen(camera: Camera, wall: Wall, start: float, end: float) -> bool:
    """Whether a part of the wall lies within the picture's width."""
    (u0, _), (u1, _) = camera.points((wall.at(start, 0.0), wall.at(end, 0.0)))
    return max(u0, u1) >= 0 and min(u0, u1) <= camera.width


def houses(
    camera: Camera, light: Light, dice: Dice, *, start: tuple[float, float], end: tuple[float, float], tone: float
) -> list[Sketch]:
    """A row of house fronts from one ground point (x, z) to another, with gaps; far ones first.

    Args:
        camera: where it is seen from.
        light: whether windows are lit.
        dice: chance.
        start: far end.
        end: near end.
        tone: brightness of the walls.
    """
    whole = Wall(start, end, 1.0, tone)
    length, done = whole.length(), 0.0
    row: list[Sketch] = []
    while done < length - 2.0 and len(row) < 12:
        step = min(dice.uniform(5.0, 13.0), length - done)
        a0, a1 = done / length, (done + step) / length
        done += step
        if dice.chance(0.14):
            continue
        if not _seen(camera, whole, a0, a1):
            continue
        x0, _, z0 = whole.at(a0, 0)
        x1, _, z1 = whole.at(a1, 0)
        row.append(facade(camera, light, dice, Wall((x0, z0), (x1, z1), dice.uniform(3.5, 13.0), tone)))
    return row
