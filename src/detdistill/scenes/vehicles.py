"""How cars and trucks are drawn: solids in the world, seen from the camera."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from detdistill.scenes.sketch import Halo, Point, Span, Stand
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


def _wheels(stand: Stand, left: float, along: Iterable[float], radius: float, hub: Colour) -> None:
    """Wheels on a flank."""
    for at in along:
        for r, spokes, colour in ((radius, _SPOKES, _TYRE), (0.55 * radius, _SPOKES[::2], hub)):
            stand.polygon(((at + r * c, radius + r * s, left) for c, s in spokes), colour)


def _lamps(stand: Stand, along: float, apart: float, up: float, size: float, *, colour: Colour, lit: bool) -> None:
    """A pair of lamps on an end."""
    half, bright = size / 2, colour if lit else shade(colour, 0.75)
    corners = ((-half, -half * 0.7), (half, -half * 0.7), (half, half * 0.7), (-half, half * 0.7))
    for left in (-apart, apart):
        stand.polygon(((along, up + b, left + a) for a, b in corners), bright, shines=lit)
        if lit:
            stand.sketch.halos.append(Halo(stand.at(along, up, left), stand.pixels(1.1 * size), bright))


def car(stand: Stand, dice: Dice) -> None:
    """A car: one low body with a glazed cabin (saloon, hatchback, off-roader or van)."""
    profile = dice.weighted(_PROFILES)
    length, half = dice.uniform(3.7, 4.8), dice.uniform(0.84, 0.93)
    lift = dice.uniform(0.94, 1.08)
    paint = dice.tint(PAINTS, 14)
    glass = mix(_GLASS, stand.light.haze, dice.uniform(0.0, 0.35))
    outline = [(a * length, u * lift) for a, u in profile]
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
        if kind in (_WINDSCREEN, _REAR_WINDOW):
            corners = ((0.1, 0.86), (0.86, 0.86), (0.86, -0.86), (0.1, -0.86))
            pane = [(a0 + (a1 - a0) * t, u0 + (u1 - u0) * t, (w0 + (w1 - w0) * t) * s) for t, s in corners]
            stand.polygon(pane, shade(glass, 1.25 if kind == _WINDSCREEN else 1.0))
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
    radius = 0.33 if front[1] < 1.6 else 0.37
    _wheels(stand, left * 1.01, (0.31 * length, -0.31 * length), radius, (150, 152, 156))


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
    length, half = dice.uniform(6.0, 8.5), dice.uniform(1.12, 1.28)
    height = dice.uniform(2.7, 3.5)
    cargo = dice.weighted((("box", 0.6), ("tarpaulin", 0.22), ("tipper", 0.18)))
    paint = dice.tint(PAINTS, 16)
    load = dice.tint(_BOXES, 12) if cargo == "box" else dice.tint(_TARPAULINS, 16)
    if cargo == "tipper":
        height = dice.uniform(1.9, 2.3)
    nose, tail = length / 2, -length / 2
    back = nose - dice.uniform(1.6, 2.0)
    roof = dice.uniform(2.3, 2.75)
    hold = (tail, back - 0.18)
    stand.box((tail, nose - 0.1), half * 0.8, (0.5, 0.95), (46, 46, 50))
    parts = [(stand.depth((back + nose) / 2), "cab"), (stand.depth(sum(hold) / 2), "hold")]
    for _, part in sorted(parts, reverse=True):
        if part == "cab":
            _cab(stand, (back, nose), half * 0.94, roof, paint)
        else:
            _hold(stand, hold, half, (0.92, height), load=load, dice=dice)
    if left := stand.flank(half):
        _wheels(stand, left, (nose - 1.0, tail + 0.95, tail + 2.0), 0.47, (128, 128, 130))
    stand.shadow(length, 2 * half, max(height, roof))


def _cab(stand: Stand, along: Span, half: float, roof: float, paint: Colour) -> None:
    stand.box(along, half, (0.5, roof), paint)
    back, nose = along
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
