"""Flat figures that face the camera: people, traffic lights, and what stands beside the road and is not annotated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from detdistill.scenes.canvas import Sketch, Stand
from detdistill.scenes.solids import container
from detdistill.scenes.texture import Colour, Dice, palette, shade

Maker = Callable[[Stand, Dice], None]

_CLOTHES: Final = "1e2028 343a54 c42c28 e4e2dc 406eaa ecbe3c 4e8050 96508c 785c42 e87c3c 82868c"
_TYRE: Final[Colour] = (30, 30, 32)
_PACK: Final = ((-0.06, 0.8), (-0.19, 0.77), (-0.19, 0.56), (-0.06, 0.54))
_UMBRELLA: Final = ((-0.22, 1.0), (-0.14, 1.1), (0.0, 1.16), (0.1, 1.17), (0.2, 1.16), (0.34, 1.1), (0.42, 1.0))
_HUB: Final = 0.34
_FRAME: Final = (
    ((-0.53, _HUB), (-0.17, 0.84), (0.36, 0.86), (0.53, _HUB)),
    ((-0.53, _HUB), (-0.08, 0.3), (0.37, 0.84)),
    ((-0.08, 0.3), (-0.2, 0.94)),
    ((0.53, _HUB), (0.35, 1.02), (0.44, 1.06)),
)
_POLE: Final[Colour] = (84, 88, 92)
_LAMPS: Final = tuple(zip(palette("ff2c22 ffbe28 3cf082"), palette("421412 403212 103a24"), strict=True))
_SIGNS: Final = "d21e22 1e50b4 ecece8 f0c828 146e46"
_LEFT_OF_CAR: Final = ((-0.4, 0.2), (-0.4, 0.42), (-0.2, 0.45), (-0.1, 0.65))
_PRINTED_CAR: Final = (*_LEFT_OF_CAR, (0.18, 0.65), (0.28, 0.45), (0.4, 0.4), (0.4, 0.2))


def _clothes(dice: Dice) -> tuple[Colour, ...]:
    """The colours of skin, hair, coat, trousers and shoes."""
    skin, hair = dice.tint("ecc4a8 d6a888 a87654 704c38 4e3428", 10), dice.tint("1c1614 462e1e 8c6438 bab8b4 602818", 8)
    coat, trousers = dice.tint(_CLOTHES, 22), dice.tint("22263a 1a1a1c 60584c 3e4e6e 6e7074", 16)
    return skin, hair, coat, trousers, dice.near((40, 34, 32), 16)


def _person(stand: Stand, dice: Dice, stone: Colour | None = None) -> None:
    """A standing or walking figure, one unit of the stand high; a statue has one colour from head to foot."""
    statue = stone and tuple(shade(stone, tone) for tone in (1.1, 0.95, 1.0, 0.88, 0.8))
    skin, hair, coat, trousers, shoes = statue or _clothes(dice)
    if dice.chance(0.6):  # seen from the side
        stride, chest, swing = dice.uniform(0.02, 0.15), dice.uniform(0.085, 0.105), dice.uniform(-0.1, 0.1)
        arm_far, arm_near, shoulder, toes, face = swing, -swing, 0.0, 0.055, 0.016
    else:
        stride, chest = dice.uniform(0.03, 0.06), dice.uniform(0.115, 0.14)
        arm_far, arm_near, shoulder, toes, face = -chest - 0.03, chest + 0.03, chest * 0.9, 0.02, 0.0
    hand, hip = dice.uniform(0.44, 0.5), 0.49
    if dice.chance(0.14):
        stand.polygon(_PACK, dice.tint(_CLOTHES, 20))
    stand.line(((-shoulder, 0.8), (arm_far, hand)), shade(coat, 0.75), width=0.06)
    for side, tone in ((-1.0, 0.8), (1.0, 1.0)):
        x, foot = 0.035 * side, stride * side
        leg = ((x, hip + 0.02 / stand.unit), ((x + foot) / 2 + 0.02, 0.26), (foot, 0.02))
        stand.line(leg, shade(trousers, tone), width=0.08)
        stand.line(((foot - 0.025, 0.018), (foot + toes, 0.018)), shoes, width=0.036)
    drop = dice.pick((0.0, 0.0, 0.02, 0.14, 0.2))
    right = ((chest * 0.6, 0.845), (chest, 0.825), (chest * 0.92, 0.6), (0.98 * chest * (1.0 + drop * 1.6), hip - drop))
    stand.polygon((*right, *((-x, y) for x, y in reversed(right))), coat)
    stand.line(((shoulder, 0.8), (arm_near, hand)), shade(coat, 0.86), width=0.062)
    stand.ellipse((arm_near, hand), (0.028, 0.028), skin)
    stand.line(((0, 0.83), (0, 0.9)), shade(skin, 0.85), width=0.06)
    stand.ellipse((-0.008, 0.937), (0.06, 0.063), hair)
    stand.ellipse((face, 0.922), (0.048, 0.056), skin)
    if dice.chance(0.15):
        stand.ellipse((arm_near + shoulder, hand - 0.07), (0.055, 0.07), dice.tint(_CLOTHES, 25))


def pedestrian(stand: Stand, dice: Dice) -> None:
    """A person on foot, about one in seven a child; about one in fourteen holds an umbrella."""
    height = dice.uniform(1.55, 1.9) if dice.chance(0.85) else dice.uniform(1.1, 1.4)
    stand._replace(axis=(0.0, 1.0)).shadow(0.4, 0.5, height)
    stand = stand._replace(unit=height, axis=(dice.pick((1.0, -1.0)), 0.0))
    _person(stand, dice)
    if dice.chance(0.07):
        stand.line(((0.1, 0.62), (0.1, 1.12)), (60, 60, 60), width=0.02)
        stand.polygon(_UMBRELLA, dice.tint(_CLOTHES, 20))


def _bicycle(stand: Stand, dice: Dice, turn: float) -> None:
    """A bicycle; `turn` in (0, 1] is 1 seen from the side and small from the front."""
    frame = dice.tint(_CLOTHES, 26)
    for x in (-0.53, 0.53):
        stand.ellipse((x * turn, _HUB), (max(0.34 * turn, 0.035), 0.34), _TYRE, outline=0.06)
    for bar in _FRAME:
        stand.line([(x * turn, y) for x, y in bar], frame, width=0.05)
    stand.line(((-0.3 * turn, 0.95), (-0.1 * turn, 0.95)), _TYRE, width=0.06)
    if turn < 0.5:
        stand.line(((0.4 * turn - 0.26, 1.05), (0.4 * turn + 0.26, 1.05)), _TYRE, width=0.04)


def cyclist(stand: Stand, dice: Dice) -> None:
    """A rider on a bicycle, as wide as its heading has it seen."""
    turn = max(0.16, abs(stand.eye[1]) / math.hypot(stand.x, stand.z))
    stand._replace(axis=(0.0, 1.0)).shadow(0.3, 1.7 * turn, 1.7)
    stand = stand._replace(axis=(dice.pick((1.0, -1.0)), 0.0))
    skin, hair, coat, trousers, shoes = _clothes(dice)
    size, lean = dice.uniform(0.92, 1.06), dice.uniform(0.0, 0.2)
    hip, neck = (-0.18 * turn, 0.98 * size), ((0.08 + lean) * turn, (1.5 - 0.25 * lean) * size)
    head, grip = ((0.15 + lean) * turn, (1.64 - 0.3 * lean) * size), (0.42 * turn, 1.04)
    pedal, front = dice.uniform(-0.15, 0.15), 1 - turn
    apart, wide = 0.1 * front, 0.12 + 0.09 * front

    def leg(side: float, tone: float) -> None:
        foot = (-0.08 * turn + side * pedal * turn - side * apart, 0.3 + side * dice.uniform(0.02, 0.14))
        bent = ((hip[0] - side * apart * 0.6, hip[1]), (0.2 * turn - side * apart, 0.68 + side * 0.08), foot)
        stand.line(bent, shade(trousers, tone), width=0.13)
        stand.line(((foot[0] - 0.06, foot[1]), (foot[0] + 0.12, foot[1] - 0.02)), shoes, width=0.07)

    leg(-1.0, 0.75)
    _bicycle(stand, dice, turn)
    leg(1.0, 1.0)
    back = ((hip[0] - wide, hip[1] - 0.06), (neck[0] - wide, neck[1] - 0.06))
    stand.polygon((*back, (neck[0] + wide * 0.7, neck[1]), (hip[0] + wide, hip[1] - 0.02)), coat)
    for side in (-1.0, 1.0):
        shoulder = (neck[0] + side * wide * front, neck[1] - 0.1)
        elbow = ((neck[0] + grip[0]) / 2 + side * 0.24 * front, 1.18)
        stand.line((shoulder, elbow, (grip[0] + side * 0.2 * front, grip[1])), shade(coat, 0.82), width=0.1)
    stand.ellipse(head, (0.1, 0.125), skin)
    cap = dice.tint(_CLOTHES, 20) if dice.chance(0.6) else hair
    stand.ellipse((head[0] - 0.015, head[1] + 0.055), (0.115, 0.085), cap)


def traffic_light(stand: Stand, dice: Dice) -> None:
    """A traffic light: its housing with one small lit lamp (this is the object), and what carries it."""
    stand = stand._replace(axis=(1.0, 0.0))
    height, width, base = dice.uniform(1.1, 1.35), dice.uniform(0.46, 0.56), dice.uniform(2.1, 3.3)
    # What carries it counts as a little farther away, so that the housing is painted over it.
    stand.sketch.carrier = Sketch(stand.z + 0.05)
    support = stand._replace(sketch=stand.sketch.carrier)
    metal = dice.tint("54585c 2c2e32 787c7c", 10)
    if dice.chance(0.3):
        foot, top = dice.pick((1.0, -1.0)) * dice.uniform(1.5, 3.0), base + height * 0.75
        support.post(0.16, (0.0, top), metal, middle=foot)
        support.post(abs(foot), (top - 0.1, top + 0.02), metal, middle=foot / 2)
    else:
        support.post(0.14, (0.0, base + 0.1), metal)
    shell = dice.weighted((((30, 32, 32), 0.62), ((44, 52, 48), 0.2), ((206, 164, 44), 0.18)))
    if dice.chance(0.25):
        stand.post(1.24 * width, (base - 0.1, base + height + 0.1), (226, 226, 222))
        stand.post(1.12 * width, (base - 0.05, base + height + 0.05), (20, 20, 22))
    stand.post(width, (base, base + height), dice.near(shell, 8))
    on = dice.weighted(((0, 0.45), (1, 0.15), (2, 0.4)))
    for lamp, (lit, unlit) in enumerate(_LAMPS):
        r, colour = 0.36 * width * (1.1 if lamp == on else 1.0), lit if lamp == on else unlit
        stand.ellipse((0.0, base + height * (5 - 2 * lamp) / 6), (r, r), colour, glow=r if lamp == on else 0.0)


def _tree(stand: Stand, dice: Dice) -> None:
    """A trunk under a crown of leaves, or a conifer, or bare branches."""
    trunk, bark = dice.uniform(1.6, 3.0), dice.near((84, 66, 50), 14)
    leaf = dice.tint("3e6834 547a38 30543a 967a34", 18)
    stand.post(dice.uniform(0.18, 0.36), (0.0, trunk + 1), bark)
    kind = dice.random()
    if kind < 0.2:
        for level in range(3):
            y, half = 1.2 + 1.4 * level, 1.5 - 0.4 * level
            stand.polygon(((-half, y), (half, y), (0.0, y + 2.1)), shade(leaf, 0.7 + 0.08 * level))
    elif kind < 0.35:
        for _ in range(9):
            start, turn = dice.uniform(1.4, trunk + 0.6), dice.uniform(-1.2, 1.2)
            stand.line(((0.0, start), (1.6 * math.sin(turn), start + 1.6 * math.cos(turn))), bark, width=0.07)
    else:
        size = dice.uniform(0.8, 1.3)
        for blob in range(9):
            centre = (dice.uniform(-1.2, 1.2) * size, trunk + dice.uniform(0.3, 2.6) * size)
            r = dice.uniform(0.55, 1.0) * size
            stand.ellipse(centre, (r, r * 0.85), shade(leaf, 0.72 + 0.05 * blob))


def _bush(stand: Stand, dice: Dice) -> None:
    leaf, span, height = dice.tint("3a6032 4c6e3c 5c6032", 16), dice.uniform(0.4, 1.9), dice.uniform(0.5, 1.4)
    for blob in range(8):
        centre = (dice.uniform(-1, 1) * span, height * dice.uniform(0.35, 0.62))
        stand.ellipse(centre, (0.5, 0.42 * height), shade(leaf, 0.7 + 0.06 * blob))


def _lamp_post(stand: Stand, dice: Dice) -> None:
    """Near in shape to a traffic light's pole, but without housing or colours."""
    height, metal = dice.uniform(3.2, 5.5), dice.near(_POLE, 16)
    stand.post(0.13, (0.0, height), metal)
    if dice.chance(0.6):
        side = dice.pick((1.0, -1.0))
        stand.line(((0.0, height), (side * 0.9, height + 0.15)), metal, width=0.1)
        stand.post(0.5, (height + 0.02, height + 0.22), metal, middle=side * 1.15)
        lamp = (side * 1.15, height + 0.02)
    else:
        stand.post(0.48, (height, height + dice.uniform(0.5, 0.9)), (52, 54, 56))
        lamp = (0.0, height + 0.3)
    on = stand.light.lamps
    stand.ellipse(lamp, (0.2, 0.2), (255, 236, 184) if on else (196, 196, 186), glow=0.5 if on else 0.0)


def _sign(stand: Stand, dice: Dice) -> None:
    """A coloured disc, triangle, square or a dark board with dots, on a pole."""
    height = dice.uniform(1.9, 3.0)
    stand.post(0.08, (0.0, height), _POLE)
    colour, r, shape = dice.tint(_SIGNS, 14), dice.uniform(0.3, 0.45), dice.random()
    if shape < 0.35:
        stand.ellipse((0.0, height), (r, r), colour)
        stand.ellipse((0.0, height), (r * 0.62, r * 0.62), dice.tint(_SIGNS, 10))
    elif shape < 0.55:
        up = 1.0 if dice.chance(0.6) else -1.0
        for a, fill in ((r * 1.2, colour), (r * 0.7, (238, 238, 230))):
            foot = height - up * a * 0.7
            stand.polygon(((-a, foot), (a, foot), (0.0, height + up * a)), fill)
    elif shape < 0.8:
        w, h = dice.uniform(0.5, 1.2), dice.uniform(0.4, 1.1)
        stand.post(w, (height - h / 2, height + h / 2), colour)
        stand.post(w * 0.6, (height - h * 0.1, height + h * 0.1), shade(colour, 0.4))
    else:
        stand.post(0.5, (height - 0.6, height + 0.6), (40, 44, 46))
        for dot in range(dice.integer(1, 2)):
            stand.ellipse((0.0, height + 0.3 - 0.6 * dot), (0.15, 0.15), dice.near((150, 150, 144), 20))


def _mailbox(stand: Stand, dice: Dice) -> None:
    """A letter box, bin, cabinet or hydrant: the size of a child."""
    height, width = dice.uniform(0.7, 1.5), dice.uniform(0.35, 0.8)
    colour = dice.tint("be1e22 244696 deb228 58605c 3c5a3c", 16)
    stand.post(width, (0.0, height), colour)
    stand.post(width * 0.2, (0.0, height), shade(colour, 1.15), middle=-width * 0.3)
    if dice.chance(0.5):
        stand.ellipse((0.0, height), (width / 2, 0.16), shade(colour, 0.9))
    stand.post(width * 0.6, (height * 0.68, height * 0.68 + 0.09), shade(colour, 0.35))


def _bollards(stand: Stand, dice: Dice) -> None:
    """A row of bollards or traffic cones."""
    cones, colour = dice.chance(0.4), dice.tint("46484c c8c6be", 16)
    for at in (1.1 * k for k in range(dice.integer(1, 5))):
        if cones:
            stand.polygon(((at - 0.22, 0.0), (at + 0.22, 0.0), (at, 0.75)), (232, 98, 30))
            stand.post(0.24, (0.28, 0.42), (236, 236, 230), middle=at)
        else:
            stand.post(0.16, (0.0, 0.9), colour, middle=at)


def _statue(stand: Stand, dice: Dice) -> None:
    """A person in one material on a pedestal."""
    stone, base = dice.tint("969690 747a74 5c7062 6e583e", 8), dice.uniform(0.5, 1.1)
    stand.post(1.0, (0.0, base), shade(stone, 0.9))
    stand.post(1.2, (base - 0.1, base + 0.02), shade(stone, 1.1))
    figure = stand._replace(height=base, axis=(dice.pick((1.0, -1.0)), 0.0), unit=dice.uniform(1.5, 1.9))
    _person(figure, dice, stone)


def _billboard(stand: Stand, dice: Dice) -> None:
    """An advertisement on posts, sometimes with a printed person or car in two or three flat colours."""
    w, h, base = dice.uniform(1.2, 3.6), dice.uniform(1.3, 2.2), dice.uniform(0.3, 1.8)
    for side in (-0.35, 0.35):
        stand.post(0.12, (0.0, base + 0.2), (70, 70, 74), middle=side * w)
    stand.post(w, (base, base + h), (60, 60, 64))
    paper = dice.any_colour(90, 240)
    stand.post(w - 0.14, (base + 0.07, base + h - 0.07), paper)
    motif, ink = dice.random(), shade(paper, 0.45)
    if motif < 0.3:
        x = stand.x + dice.uniform(-0.25, 0.25) * w
        figure = stand._replace(x=x, height=base + 0.1, unit=h * 0.88, axis=(dice.pick((1.0, -1.0)), 0.0))
        _person(figure, dice, ink)
    elif motif < 0.55 and w > 2:
        stand.polygon([(a * w, base + b * h) for a, b in _PRINTED_CAR], ink)
    else:
        for line in range(dice.integer(2, 4)):
            long, low = w * dice.uniform(0.3, 0.8), base + h * (0.75 - 0.2 * line)
            stand.post(long, (low, low + h * 0.1), ink, middle=long / 2 - w * 0.42)
        if dice.chance(0.4):
            stand.ellipse((0.2 * w, base + 0.4 * h), (0.3 * h, 0.3 * h), dice.any_colour())


def _parked_bicycles(stand: Stand, dice: Dice) -> None:
    """One or two without a rider, which is no cyclist."""
    for k in range(dice.integer(1, 2)):
        _bicycle(stand._replace(x=stand.x + 0.5 * k, axis=(dice.pick((1.0, -1.0)), 0.0)), dice, dice.uniform(0.3, 1.0))


def _shelter(stand: Stand, dice: Dice) -> None:
    """A bus shelter or kiosk: roof, posts, a pane, a bench."""
    w, roof = dice.uniform(2.2, 3.6), dice.near((90, 96, 104), 24)
    if dice.chance(0.4):
        stand.post(w, (0.0, 2.2), dice.near((170, 150, 120), 30))
        stand.post(w * 0.7, (0.95, 1.75), (56, 62, 70))
    else:
        stand.post(w * 0.3, (0.4, 0.48), (110, 84, 60), middle=-0.25 * w)
        for at in (-0.48, 0.0, 0.46):
            stand.post(0.09, (0.0, 2.2), (70, 74, 80), middle=at * w + 0.045)
        stand.post(w * 0.25, (0.5, 1.9), dice.any_colour(60, 220), middle=0.325 * w)
    stand.post(w * 1.08, (2.15, 2.4), roof)


GREENERY: Final = ((_tree, 2.4), (_bush, 1.5))
FURNITURE: Final[tuple[tuple[Maker, float], ...]] = (
    *(*GREENERY, (_lamp_post, 1.8), (_sign, 1.8), (_mailbox, 1.4), (_bollards, 0.8), (_statue, 0.6)),
    *((_billboard, 1.1), (container, 1.0), (_parked_bicycles, 0.7), (_shelter, 0.6)),
)
"""What stands about, and how often."""
