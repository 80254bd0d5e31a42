"""How pedestrians, cyclists, bicycles and statues are drawn: flat figures that face the camera."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final, NamedTuple

from detdistill.scenes.sketch import Point, Stand
from detdistill.scenes.texture import Colour, Dice, palette, shade

_SKIN: Final = palette("ecc4a8 d6a888 a87654 704c38 4e3428")
_HAIR: Final = palette("1c1614 462e1e 8c6438 bab8b4 602818")
_CLOTHES: Final = palette("1e2028 343a54 c42c28 e4e2dc 406eaa ecbe3c 4e8050 96508c 785c42 e87c3c 82868c")
_TROUSERS: Final = palette("22263a 1a1a1c 60584c 3e4e6e 6e7074")
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


class Wardrobe(NamedTuple):
    """The colours of a figure."""

    skin: Colour
    hair: Colour
    coat: Colour
    trousers: Colour
    shoes: Colour


def everyday(dice: Dice) -> Wardrobe:
    """Everyday clothes."""
    return Wardrobe(
        skin=dice.tint(_SKIN, 10),
        hair=dice.tint(_HAIR, 8),
        coat=dice.tint(_CLOTHES, 22),
        trousers=dice.tint(_TROUSERS, 16),
        shoes=dice.near((40, 34, 32), 16),
    )


def one_material(colour: Colour) -> Wardrobe:
    """One material from head to foot, as a statue has it."""
    return Wardrobe(*(shade(colour, tone) for tone in (1.1, 0.95, 1.0, 0.88, 0.8)))


def person(stand: Stand, dice: Dice, wear: Wardrobe) -> None:
    """Draws a standing or walking figure, one unit of the stand high."""
    sideways = dice.chance(0.6)
    stride = dice.uniform(0.02, 0.15) if sideways else dice.uniform(0.03, 0.06)
    chest = dice.uniform(0.085, 0.105) if sideways else dice.uniform(0.115, 0.14)
    swing = dice.uniform(-0.1, 0.1) if sideways else 0.0
    arm_far, arm_near = (swing, -swing) if sideways else (-chest - 0.03, chest + 0.03)
    shoulder, toes, face = (0.0, 0.055, 0.016) if sideways else (chest * 0.9, 0.02, 0.0)
    hand = dice.uniform(0.44, 0.5)
    if dice.chance(0.14):
        stand.polygon(_PACK, dice.tint(_CLOTHES, 20))
    stand.line(((-shoulder, 0.8), (arm_far, hand)), shade(wear.coat, 0.75), width=0.06)
    hip = 0.49
    for side, tone in ((-1.0, 0.8), (1.0, 1.0)):
        x, foot = 0.035 * side, stride * side
        leg = ((x, hip + 0.02 / stand.unit), ((x + foot) / 2 + 0.02, 0.26), (foot, 0.02))
        stand.line(leg, shade(wear.trousers, tone), width=0.08)
        stand.line(((foot - 0.025, 0.018), (foot + toes, 0.018)), wear.shoes, width=0.036)
    drop = dice.pick((0.0, 0.0, 0.02, 0.14, 0.2))
    hem, flare = hip - drop, 0.98 * chest * (1.0 + drop * 1.6)
    right = ((chest * 0.6, 0.845), (chest, 0.825), (chest * 0.92, 0.6), (flare, hem))
    stand.polygon((*right, *((-x, y) for x, y in reversed(right))), wear.coat)
    near = (arm_near, hand)
    stand.line(((shoulder, 0.8), near), shade(wear.coat, 0.86), width=0.062)
    stand.ellipse(near, (0.028, 0.028), wear.skin)
    stand.line(((0, 0.83), (0, 0.9)), shade(wear.skin, 0.85), width=0.06)
    stand.ellipse((-0.008, 0.937), (0.06, 0.063), wear.hair)
    stand.ellipse((face, 0.922), (0.048, 0.056), wear.skin)
    if dice.chance(0.15):
        stand.ellipse((arm_near + shoulder, hand - 0.07), (0.055, 0.07), dice.tint(_CLOTHES, 25))


def pedestrian(stand: Stand, dice: Dice) -> None:
    """A person on foot, about one in seven a child; about one in fourteen holds an umbrella."""
    height = dice.uniform(1.55, 1.9) if dice.chance(0.85) else dice.uniform(1.1, 1.4)
    replace(stand, axis=(0.0, 1.0)).shadow(0.4, 0.5, height)
    stand = replace(stand, unit=height, axis=(dice.sign(), 0.0))
    person(stand, dice, everyday(dice))
    if dice.chance(0.07):
        colour = dice.tint(_CLOTHES, 20)
        stand.line(((0.1, 0.62), (0.1, 1.12)), (60, 60, 60), width=0.02)
        stand.polygon(_UMBRELLA, colour)


def bicycle(stand: Stand, dice: Dice, turn: float) -> None:
    """Draws a bicycle; `turn` in (0, 1] is 1 seen from the side and small from the front."""
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
    (s, c), x, z = stand.axis, stand.x, stand.z
    turn = max(0.16, abs(s * z - c * x) / math.hypot(x, z))
    replace(stand, axis=(0.0, 1.0)).shadow(0.3, 1.7 * turn, 1.7)
    stand = replace(stand, axis=(dice.sign(), 0.0))
    wear = everyday(dice)
    size, lean = dice.uniform(0.92, 1.06), dice.uniform(0.0, 0.2)
    hip: Point = (-0.18 * turn, 0.98 * size)
    neck: Point = ((0.08 + lean) * turn, (1.5 - 0.25 * lean) * size)
    head: Point = ((0.15 + lean) * turn, (1.64 - 0.3 * lean) * size)
    grip: Point = (0.42 * turn, 1.04)
    pedal, front = dice.uniform(-0.15, 0.15), 1 - turn
    apart, wide = 0.1 * front, 0.12 + 0.09 * front

    def leg(side: float, tone: float) -> None:
        foot = (-0.08 * turn + side * pedal * turn - side * apart, 0.3 + side * dice.uniform(0.02, 0.14))
        bent = ((hip[0] - side * apart * 0.6, hip[1]), (0.2 * turn - side * apart, 0.68 + side * 0.08), foot)
        stand.line(bent, shade(wear.trousers, tone), width=0.13)
        stand.line(((foot[0] - 0.06, foot[1]), (foot[0] + 0.12, foot[1] - 0.02)), wear.shoes, width=0.07)

    leg(-1.0, 0.75)
    bicycle(stand, dice, turn)
    leg(1.0, 1.0)
    back = ((hip[0] - wide, hip[1] - 0.06), (neck[0] - wide, neck[1] - 0.06))
    stand.polygon((*back, (neck[0] + wide * 0.7, neck[1]), (hip[0] + wide, hip[1] - 0.02)), wear.coat)
    for side in (-1.0, 1.0):
        shoulder = (neck[0] + side * wide * front, neck[1] - 0.1)
        elbow = ((neck[0] + grip[0]) / 2 + side * 0.24 * front, 1.18)
        wrist = (grip[0] + side * 0.2 * front, grip[1])
        stand.line((shoulder, elbow, wrist), shade(wear.coat, 0.82), width=0.1)
    stand.ellipse(head, (0.1, 0.125), wear.skin)
    cap = dice.tint(_CLOTHES, 20) if dice.chance(0.6) else wear.hair
    stand.ellipse((head[0] - 0.015, head[1] + 0.055), (0.115, 0.085), cap)
