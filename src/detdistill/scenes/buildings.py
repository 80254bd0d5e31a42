"""Facades: the walls of a street, with windows, doors and shop fronts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from detdistill.scenes.sketch import Camera, Light, Point, Point3, Sketch, Span
from detdistill.scenes.texture import Colour, Dice, mix, palette, shade

_WALLS: Final = palette("b0967a 965442 c4bcac 807c7a ceb078 6c747c a0a8a4 7a4a3e")
_LIT: Final = palette("fcd682 f0e2be d6e2fa")
_WHOLE: Final = (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Wall:
    """A vertical rectangle of the world between two ground points (x, z), as a camera sees it."""

    camera: Camera
    start: Point
    end: Point

    @property
    def length(self) -> float:
        """Metres along the ground."""
        (x0, z0), (x1, z1) = self.start, self.end
        return float(((x1 - x0) ** 2 + (z1 - z0) ** 2) ** 0.5)

    def at(self, along: float, up: float) -> Point3:
        """A point of the wall: `along` in [0, 1] of its length, `up` metres above the ground."""
        (x0, z0), (x1, z1) = self.start, self.end
        return x0 + (x1 - x0) * along, up, z0 + (z1 - z0) * along

    def patch(self, along: Span, up: Span) -> list[Point]:
        """The corners of a part of it on the canvas."""
        (a0, a1), (low, high) = along, up
        return self.camera.points((self.at(a0, low), self.at(a1, low), self.at(a1, high), self.at(a0, high)))

    def seen(self, along: Span) -> bool:
        """Whether a part of the wall lies within the picture's width."""
        (u0, _), (u1, _) = self.camera.points((self.at(along[0], 0.0), self.at(along[1], 0.0)))
        return max(u0, u1) >= 0 and min(u0, u1) <= self.camera.width


def facade(wall: Wall, light: Light, dice: Dice, *, height: float, tone: float) -> Sketch:
    """Draws one house front on a wall; `tone` is the brightness of its stones."""
    sketch = Sketch((wall.start[1] + wall.end[1]) / 2)
    base = shade(dice.tint(_WALLS, 20), tone)

    def patch(along: Span, up: Span, colour: Colour, *, shines: bool = False) -> None:
        sketch.polygon(wall.patch(along, up), colour, shines=shines)

    def shop(floor: float, columns: int) -> None:
        awning = dice.any_colour(40, 220)
        lit = light.lamps and dice.chance(0.7)
        for left in (column / columns for column in range(columns)):
            pane = (
                shade((236, 214, 160), dice.uniform(0.4, 0.85)) if lit else shade((60, 72, 84), dice.uniform(0.7, 1.3))
            )
            patch((left + 0.06 / columns, left + 0.94 / columns), (0.35, floor * 0.72), pane, shines=lit)
            if dice.chance(0.5):
                start = left + dice.uniform(0.15, 0.6) / columns
                top = dice.uniform(0.8, floor * 0.6)
                patch((start, start + 0.2 / columns), (0.4, top), dice.any_colour(30, 200))
        patch(_WHOLE, (floor * 0.74, floor * 0.95), awning)
        if dice.chance(0.5):
            for start in (0.1 + 0.12 * k for k in range(dice.integer(2, 6))):
                patch((start, start + 0.07), (floor * 0.79, floor * 0.9), shade(awning, 0.4))

    patch(_WHOLE, (0.0, height), base)
    glass = mix((70, 84, 100), shade(light.haze, 0.8), dice.uniform(0.0, 0.4))
    share = dice.uniform(0.15, 0.5) if light.lamps else 0.0
    glow = dice.pick(_LIT)
    floor = dice.uniform(2.7, 3.6)
    columns = max(1, min(8, int(wall.length / dice.uniform(1.7, 3.2))))
    wide, tall = dice.uniform(0.35, 0.7), dice.uniform(0.4, 0.65)
    has_shop = dice.chance(0.45)
    if has_shop:
        shop(floor, columns)
    windows = [((column + 0.5 - wide / 2) / columns, (column + 0.5 + wide / 2) / columns) for column in range(columns)]
    windows = [window for window in windows if wall.seen(window)]
    for level in range(1 if has_shop else 0, min(6, int(height / floor))):
        low = level * floor + 0.25 * floor
        for window in windows:
            lit = dice.chance(share)
            pane = shade(glow, dice.uniform(0.35, 0.8)) if lit else shade(glass, dice.uniform(0.6, 1.15))
            patch(window, (low, low + tall * floor), pane, shines=lit)
        if dice.chance(0.3):
            patch(_WHOLE, (level * floor, level * floor + 0.16), shade(base, 0.8))
    if not has_shop:
        door, half = (dice.integer(0, columns - 1) + 0.5) / columns, 0.55 / wall.length
        patch((door - half, door + half), (0.0, 2.1), shade(dice.any_colour(20, 140), tone))
    patch(_WHOLE, (height - 0.3, height), shade(base, 0.72))
    return sketch


def houses(camera: Camera, light: Light, dice: Dice, *, start: Point, end: Point, tone: float) -> list[Sketch]:
    """A row of house fronts from one ground point (x, z), the far one, to another, with gaps; far ones first."""
    row, done = Wall(camera, start, end), 0.0
    fronts: list[Sketch] = []
    while done < row.length - 2.0 and len(fronts) < 12:
        step = min(dice.uniform(5.0, 13.0), row.length - done)
        span = (done / row.length, (done + step) / row.length)
        done += step
        if dice.chance(0.14) or not row.seen(span):
            continue
        (x0, _, z0), (x1, _, z1) = row.at(span[0], 0.0), row.at(span[1], 0.0)
        fronts.append(facade(Wall(camera, (x0, z0), (x1, z1)), light, dice, height=dice.uniform(3.5, 13.0), tone=tone))
    return fronts
