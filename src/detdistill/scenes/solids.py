"""Solids in the world, seen from the camera: cars, trucks, containers and rows of houses."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from detdistill.scenes.canvas import Canvas, Point, Sketch, Span, Stand
from detdistill.scenes.texture import Colour, Dice, mix, palette, shade

_PAINTS: Final = "e1e1e4 ebebeb a8acb2 6e7278 26282e 18181c b22022 80181e 244696 3c70b2 1e5c48 ceac34 d6681e 786046"
_GLASS: Final[Colour] = (52, 64, 80)
_HEADLIGHT: Final[Colour] = (255, 246, 214)
_SPOKES: Final = tuple((math.cos(i * math.pi / 6), math.sin(i * math.pi / 6)) for i in range(12))
# Profiles run from the front bumper over the roof to the rear: shares of the length, metres of height; how often.
_PROFILES: Final = (
    (((0.5, 0.5, 0.22, 0.06, -0.2, -0.37, -0.5, -0.5), (0.24, 0.66, 0.86, 1.4, 1.42, 0.95, 0.9, 0.3)), 0.36),
    (((0.5, 0.5, 0.24, 0.08, -0.38, -0.48, -0.5, -0.5), (0.24, 0.68, 0.9, 1.46, 1.45, 0.98, 0.9, 0.3)), 0.3),
    (((0.5, 0.5, 0.24, 0.1, -0.42, -0.48, -0.5, -0.5), (0.34, 0.85, 1.02, 1.7, 1.72, 1.1, 1.0, 0.38)), 0.2),
    (((0.5, 0.5, 0.33, 0.16, -0.47, -0.49, -0.5, -0.5), (0.28, 0.82, 1.02, 1.8, 1.82, 1.1, 1.0, 0.34)), 0.14),
)
# Brightness of the surfaces between the points of a profile, and of those with a window how bright its glass is.
_SURFACES: Final = (0.84, 1.1, 0.9, 1.16, 0.86, 1.05, 0.78)
_WINDOWS: Final = {2: 1.25, 4: 1.0}


def _wheels(stand: Stand, left: float, along: Iterable[float], radius: float, hub: Colour) -> None:
    for at in along:
        for r, spokes, colour in ((radius, _SPOKES, (26, 26, 28)), (0.55 * radius, _SPOKES[::2], hub)):
            stand.polygon(((at + r * c, radius + r * s, left) for c, s in spokes), colour)


def _lamps(stand: Stand, along: float, apart: float, up: float, size: float, *, colour: Colour, lit: bool) -> None:
    """A pair of lamps on an end."""
    half, bright = size / 2, colour if lit else shade(colour, 0.75)
    corners = ((-half, -half * 0.7), (half, -half * 0.7), (half, half * 0.7), (-half, half * 0.7))
    for left in (-apart, apart):
        stand.polygon(((along, up + b, left + a) for a, b in corners), bright, shines=lit)
        if lit:
            stand.sketch.halos.append((stand.at(along, up, left), stand.pixels(1.1 * size), bright))


def car(stand: Stand, dice: Dice) -> None:
    """A car: one low body with a glazed cabin (saloon, hatchback, off-roader or van)."""
    along, up = dice.weighted(_PROFILES)
    length, half, lift = dice.uniform(3.7, 4.8), dice.uniform(0.84, 0.93), dice.uniform(0.94, 1.08)
    paint, glass = dice.tint(_PAINTS, 14), mix(_GLASS, stand.light.haze, dice.uniform(0.0, 0.35))
    outline = [(a * length, u * lift) for a, u in zip(along, up, strict=True)]
    belt, (eye, _) = outline[2][1] + 0.05, stand.eye
    # (along, up, half the width there): the cabin is narrower than the body.
    edges = [(a, u, half if u <= belt + 0.12 else half * 0.8) for a, u in outline]
    strips = [
        (stand.depth((start[0] + end[0]) / 2), kind, start, end)
        for kind, (start, end) in enumerate(pairwise(edges))
        if (end[1] - start[1]) * (eye - start[0]) - (end[0] - start[0]) * (stand.camera.eye - start[1]) > 0
    ]
    for _, kind, (a0, u0, w0), (a1, u1, w1) in sorted(strips, reverse=True):
        stand.polygon(((a0, u0, w0), (a1, u1, w1), (a1, u1, -w1), (a0, u0, -w0)), shade(paint, _SURFACES[kind]))
        if kind in _WINDOWS:
            corners = ((0.1, 0.86), (0.86, 0.86), (0.86, -0.86), (0.1, -0.86))
            pane = [(a0 + (a1 - a0) * t, u0 + (u1 - u0) * t, (w0 + (w1 - w0) * t) * s) for t, s in corners]
            stand.polygon(pane, shade(glass, _WINDOWS[kind]))
    if left := stand.flank(half * 0.9):
        _car_flank(stand, outline, math.copysign(half, left), paint, glass)
    _car_ends(stand, outline, half, dice)
    stand.shadow(length, 2 * half, outline[3][1])


def _car_flank(stand: Stand, outline: list[Point], left: float, paint: Colour, glass: Colour) -> None:
    upper, length, tone = left * 0.8, 2 * outline[0][0], stand.brightness(left)
    sill, bumper, bonnet, front, rear, boot, tail, foot = outline
    cabin = [(*bonnet, left), (*front, upper), (*rear, upper), (*boot, left)]
    stand.polygon(cabin, shade(paint, tone * 1.02))
    stand.polygon([(*point, left) for point in (sill, bumper, bonnet, boot, tail, foot)], shade(paint, tone))
    stand.panel((-0.46 * length, 0.46 * length), (0.24, 0.42), shade(paint, tone * 0.6), left=left)
    middle, height = sum(a for a, _, _ in cabin) / 4, sum(u for _, u, _ in cabin) / 4 + 0.02
    panes = [(middle + (a - middle) * 0.84, height + (u - height) * 0.76, w) for a, u, w in cabin]
    stand.polygon(panes, glass)
    post, low, high = middle - 0.02 * length, panes[0][1], panes[1][1]
    pillar = ((post, low, left), (post + 0.11, low, left), (post + 0.11, high, upper), (post, high, upper))
    stand.polygon(pillar, shade(paint, tone * 0.9))
    along, radius = (0.31 * length, -0.31 * length), 0.33 if front[1] < 1.6 else 0.37
    _wheels(stand, left * 1.01, along, radius, (150, 152, 156))


def _car_ends(stand: Stand, outline: list[Point], half: float, dice: Dice) -> None:
    (front, bonnet), (rear, boot), on = outline[1], outline[6], stand.light.lamps
    if stand.eye[0] > front:
        up = bonnet - 0.1
        stand.end(front, 0.45 * half, (0.4, up - 0.03), (34, 34, 38))
        _lamps(stand, front, half * 0.74, up, 0.3, colour=_HEADLIGHT, lit=on)
        stand.end(front, 0.26, (0.36, 0.47), (222, 222, 214))
    elif stand.eye[0] < rear:
        _lamps(stand, rear, half * 0.8, boot - 0.12, 0.26, colour=(226, 26, 22), lit=on or dice.chance(0.25))
        stand.end(rear, half, (0.3, 0.44), (44, 44, 48))
        stand.end(rear, 0.28, (0.5, 0.62), (226, 224, 206))


def truck(stand: Stand, dice: Dice) -> None:
    """A truck: a tall cab with a wheelbase of its own behind it, carrying a box, a tarpaulin or a tipper."""
    length, half, height = dice.uniform(6.0, 8.5), dice.uniform(1.12, 1.28), dice.uniform(2.7, 3.5)
    cargo = dice.weighted((("box", 0.6), ("tarpaulin", 0.22), ("tipper", 0.18)))
    paint, boxes = dice.tint(_PAINTS, 16), cargo == "box"
    load = dice.tint(f"eeeeec eeeeec c4c6ca {_PAINTS}" if boxes else "3c5c8c 466e4c 963c28 827c6c", 12 if boxes else 16)
    if cargo == "tipper":
        height = dice.uniform(1.9, 2.3)
    nose, tail = length / 2, -length / 2
    back, roof = nose - dice.uniform(1.6, 2.0), dice.uniform(2.3, 2.75)
    hold = (tail, back - 0.18)
    stand.box((tail, nose - 0.1), half * 0.8, (0.5, 0.95), (46, 46, 50))
    parts = [(stand.depth((back + nose) / 2), "cab"), (stand.depth(sum(hold) / 2), "hold")]
    for _, part in sorted(parts, reverse=True):
        if part == "cab":
            _cab(stand, back, nose, half * 0.94, roof, paint=paint)
        else:
            _hold(stand, hold, half, (0.92, height), load=load, dice=dice)
    if left := stand.flank(half):
        _wheels(stand, left, (nose - 1.0, tail + 0.95, tail + 2.0), 0.47, (128, 128, 130))
    stand.shadow(length, 2 * half, max(height, roof))


def _cab(stand: Stand, back: float, nose: float, half: float, roof: float, *, paint: Colour) -> None:
    stand.box((back, nose), half, (0.5, roof), paint)
    if stand.eye[0] > nose:
        stand.end(nose, half * 0.9, (1.45, roof - 0.22), _GLASS)
        stand.end(nose, half * 0.6, (0.85, 1.2), (40, 40, 44))
        _lamps(stand, nose, half * 0.8, 0.8, 0.34, colour=_HEADLIGHT, lit=stand.light.lamps)
    if left := stand.flank(half):
        stand.panel(((back + nose) / 2 - 0.25, nose - 0.1), (1.45, roof - 0.28), _GLASS, left=left)


def _hold(stand: Stand, along: Span, half: float, up: Span, *, load: Colour, dice: Dice) -> None:
    stand.box(along, half, up, load)
    (tail, head), (low, high) = along, up
    length, style = head - tail, dice.random()
    if left := stand.flank(half):
        tone = stand.brightness(left)
        if style < 0.4:
            colour = shade(dice.any_colour(), tone)
            rise = (low + 0.3 * (high - low), low + dice.uniform(0.5, 0.8) * (high - low))
            stand.panel((tail + 0.12 * length, head - 0.15 * length), rise, colour, left=left)
        elif style < 0.75:
            for at in (tail + length * k / 7 for k in range(1, 7)):
                stand.panel((at, at + 0.07), up, shade(load, tone * 0.8), left=left)
        stand.panel(along, (low, low + 0.12), shade(load, tone * 0.55), left=left)
    if stand.eye[0] < tail:
        stand.end(tail, 0.04, up, shade(load, 0.5))
        stand.end(tail, half, (low - 0.05, low + 0.12), (60, 56, 54))
        _lamps(stand, tail, half * 0.84, low - 0.12, 0.3, colour=(220, 28, 24), lit=stand.light.lamps)


def container(stand: Stand, dice: Dice) -> None:
    """A shipping container, skip or site hut: a truck's box that stands on the ground."""
    yaw = dice.pick((0.0, math.pi / 2, dice.uniform(0, math.pi)))
    block = stand._replace(axis=(math.sin(yaw), math.cos(yaw)))
    colour = dice.tint(f"{_PAINTS} 964632 3c6482", 16)
    half, height, long = dice.uniform(0.9, 1.25), dice.uniform(1.2, 2.7), dice.uniform(1.6, 3.0)
    block.box((-long, long), half, (0.0, height), colour)
    if left := block.flank(half):
        for at in (-long + 0.2 * long * k for k in range(1, 10)):
            block.panel((at, at + 0.1), (0.1, height - 0.1), shade(colour, 0.78 * block.brightness(left)), left=left)
        if dice.chance(0.3):
            block.panel((-0.3 * long, 0.2 * long), (0.5 * height, 0.8 * height), (60, 72, 88), left=left)


def _is_seen(wall: Stand, along: Span) -> bool:
    """Whether a part of the wall lies within the picture's width."""
    edges = [wall.at(metres, 0.0)[0] for metres in along]
    return max(edges) >= 0 and min(edges) <= wall.camera.width


def _facade(wall: Stand, dice: Dice, *, length: float, height: float, tone: float) -> None:
    """Draws one house front; `tone` is the brightness of its stones."""
    base = shade(dice.tint("b0967a 965442 c4bcac 807c7a ceb078 6c747c a0a8a4 7a4a3e", 20), tone)
    light, whole = wall.light, (0.0, length)
    wall.panel(whole, (0.0, height), base)
    glass = mix((70, 84, 100), shade(light.haze, 0.8), dice.uniform(0.0, 0.4))
    share = dice.uniform(0.15, 0.5) if light.lamps else 0.0
    glow, floor = dice.pick(palette("fcd682 f0e2be d6e2fa")), dice.uniform(2.7, 3.6)
    columns = max(1, min(8, int(length / dice.uniform(1.7, 3.2))))
    column = length / columns
    wide, tall, has_shop = dice.uniform(0.35, 0.7), dice.uniform(0.4, 0.65), dice.chance(0.45)
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


def houses(canvas: Canvas, dice: Dice, start: Point, end: Point, *, tone: float) -> None:
    """Paints a row of house fronts from one ground point (x, z), the far one, to another, with gaps."""
    (x, z), done, count = start, 0.0, 0
    length = float(((end[0] - x) ** 2 + (end[1] - z) ** 2) ** 0.5)
    s, c = (end[0] - x) / length, (end[1] - z) / length
    row = canvas.stand(x, z)._replace(axis=(s, c))
    while done < length - 2.0 and count < 12:
        wide = min(dice.uniform(5.0, 13.0), length - done)
        begin, done = done, done + wide
        if dice.chance(0.14) or not _is_seen(row, (begin, done)):
            continue
        sketch = Sketch(z + c * (begin + wide / 2))
        wall = row._replace(sketch=sketch, x=x + s * begin, z=z + c * begin)
        _facade(wall, dice, length=wide, height=dice.uniform(3.5, 13.0), tone=tone)
        canvas.paint(sketch)
        count += 1
