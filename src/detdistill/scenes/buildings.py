"""Facades: the walls of a street, with windows, doors and shop fronts."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from detdistill.scenes.canvas import Canvas
from detdistill.scenes.sketch import Point, Sketch, Span, Stand
from detdistill.scenes.texture import Dice, mix, palette, shade

_WALLS: Final = palette("b0967a 965442 c4bcac 807c7a ceb078 6c747c a0a8a4 7a4a3e")
_LIT: Final = palette("fcd682 f0e2be d6e2fa")


def _is_seen(wall: Stand, along: Span) -> bool:
    """Whether a part of the wall lies within the picture's width."""
    edges = [wall.at(metres, 0.0)[0] for metres in along]
    return max(edges) >= 0 and min(edges) <= wall.camera.width


def _facade(wall: Stand, dice: Dice, *, length: float, height: float, tone: float) -> None:
    """Draws one house front; `tone` is the brightness of its stones."""
    light, base, whole = wall.light, shade(dice.tint(_WALLS, 20), tone), (0.0, length)
    wall.panel(whole, (0.0, height), base)
    glass = mix((70, 84, 100), shade(light.haze, 0.8), dice.uniform(0.0, 0.4))
    share = dice.uniform(0.15, 0.5) if light.lamps else 0.0
    glow = dice.pick(_LIT)
    floor = dice.uniform(2.7, 3.6)
    columns = max(1, min(8, int(length / dice.uniform(1.7, 3.2))))
    column = length / columns
    wide, tall = dice.uniform(0.35, 0.7), dice.uniform(0.4, 0.65)
    has_shop = dice.chance(0.45)
    if has_shop:
        _shop(wall, dice, floor=floor, columns=columns, length=length)
    windows = [((k + 0.5 - wide / 2) * column, (k + 0.5 + wide / 2) * column) for k in range(columns)]
    windows = [window for window in windows if _is_seen(wall, window)]
    for level in range(1 if has_shop else 0, min(6, int(height / floor))):
        low = level * floor + 0.25 * floor
        for window in windows:
            lit = dice.chance(share)
            pane = shade(glow, dice.uniform(0.35, 0.8)) if lit else shade(glass, dice.uniform(0.6, 1.15))
            wall.panel(window, (low, low + tall * floor), pane, shines=lit)
        if dice.chance(0.3):
            wall.panel(whole, (level * floor, level * floor + 0.16), shade(base, 0.8))
    if not has_shop:
        door = (dice.integer(0, columns - 1) + 0.5) * column
        wall.post(1.1, (0.0, 2.1), shade(dice.any_colour(20, 140), tone), middle=door)
    wall.panel(whole, (height - 0.3, height), shade(base, 0.72))


def _shop(wall: Stand, dice: Dice, *, floor: float, columns: int, length: float) -> None:
    awning, column = dice.any_colour(40, 220), length / columns
    lit = wall.light.lamps and dice.chance(0.7)
    for left in (k * column for k in range(columns)):
        pane = shade((236, 214, 160), dice.uniform(0.4, 0.85)) if lit else shade((60, 72, 84), dice.uniform(0.7, 1.3))
        wall.panel((left + 0.06 * column, left + 0.94 * column), (0.35, floor * 0.72), pane, shines=lit)
        if dice.chance(0.5):
            start, top = left + dice.uniform(0.15, 0.6) * column, dice.uniform(0.8, floor * 0.6)
            wall.panel((start, start + 0.2 * column), (0.4, top), dice.any_colour(30, 200))
    wall.panel((0.0, length), (floor * 0.74, floor * 0.95), awning)
    if dice.chance(0.5):
        for start in ((0.1 + 0.12 * k) * length for k in range(dice.integer(2, 6))):
            wall.panel((start, start + 0.07 * length), (floor * 0.79, floor * 0.9), shade(awning, 0.4))


def paint_houses(canvas: Canvas, dice: Dice, start: Point, end: Point, *, tone: float) -> None:
    """Paints a row of house fronts from one ground point (x, z), the far one, to another, with gaps."""
    (x, z), done, count = start, 0.0, 0
    length = float(((end[0] - x) ** 2 + (end[1] - z) ** 2) ** 0.5)
    s, c = (end[0] - x) / length, (end[1] - z) / length
    row = replace(canvas.stand(x, z), axis=(s, c))
    while done < length - 2.0 and count < 12:
        wide = min(dice.uniform(5.0, 13.0), length - done)
        span, done = (done, done + wide), done + wide
        if dice.chance(0.14) or not _is_seen(row, span):
            continue
        sketch = Sketch(z + c * (span[0] + wide / 2))
        wall = replace(row, sketch=sketch, x=x + s * span[0], z=z + c * span[0])
        _facade(wall, dice, length=wide, height=dice.uniform(3.5, 13.0), tone=tone)
        canvas.paint(sketch)
        count += 1
