"""Traffic lights, and the things beside the road that are not annotated though some resemble what is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from detdistill.scenes.people import bicycle, one_material, person
from detdistill.scenes.sketch import Sketch, Stand
from detdistill.scenes.texture import Colour, Dice, palette, shade
from detdistill.scenes.vehicles import PAINTS

_POLE: Final[Colour] = (84, 88, 92)
_METALS: Final = palette("54585c 2c2e32 787c7c")
_HOUSINGS: Final[tuple[tuple[Colour, float], ...]] = (((30, 32, 32), 0.62), ((44, 52, 48), 0.2), ((206, 164, 44), 0.18))
_LAMPS: Final = palette("ff2c22 ffbe28 3cf082")
_UNLIT: Final = palette("421412 403212 103a24")
_LEAVES: Final = palette("3e6834 547a38 30543a 967a34")
_HEDGES: Final = palette("3a6032 4c6e3c 5c6032")
_SIGNS: Final = palette("d21e22 1e50b4 ecece8 f0c828 146e46")
_BOXES: Final = palette("be1e22 244696 deb228 58605c 3c5a3c")
_STONES: Final = palette("969690 747a74 5c7062 6e583e")
_PRINTED_CAR: Final = (
    *((-0.4, 0.2), (-0.4, 0.42), (-0.2, 0.45), (-0.1, 0.65)),
    *((0.18, 0.65), (0.28, 0.45), (0.4, 0.4), (0.4, 0.2)),
)


def traffic_light(stand: Stand, dice: Dice) -> None:
    """A traffic light: its housing with one small lit lamp (this is the object), and what carries it."""
    stand = replace(stand, axis=(1.0, 0.0))
    height, width = dice.uniform(1.1, 1.35), dice.uniform(0.46, 0.56)
    base = dice.uniform(2.1, 3.3)
    # What carries it counts as a little farther away, so that the housing is painted over it.
    stand.sketch.carrier = Sketch(stand.z + 0.05)
    support = replace(stand, sketch=stand.sketch.carrier)
    metal = dice.tint(_METALS, 10)
    if dice.chance(0.3):
        foot = dice.sign() * dice.uniform(1.5, 3.0)
        top = base + height * 0.75
        support.post(0.16, (0.0, top), metal, middle=foot)
        support.post(abs(foot), (top - 0.1, top + 0.02), metal, middle=foot / 2)
    else:
        support.post(0.14, (0.0, base + 0.1), metal)
    shell = dice.weighted(_HOUSINGS)
    if dice.chance(0.25):
        stand.post(1.24 * width, (base - 0.1, base + height + 0.1), (226, 226, 222))
        stand.post(1.12 * width, (base - 0.05, base + height + 0.05), (20, 20, 22))
    stand.post(width, (base, base + height), dice.near(shell, 8))
    on = dice.weighted(((0, 0.45), (1, 0.15), (2, 0.4)))
    for lamp in range(3):
        r = 0.36 * width * (1.1 if lamp == on else 1.0)
        colour, glow = (_LAMPS[lamp], r) if lamp == on else (_UNLIT[lamp], 0.0)
        stand.ellipse((0.0, base + height * (5 - 2 * lamp) / 6), (r, r), colour, glow=glow)


def tree(stand: Stand, dice: Dice) -> None:
    """A tree: a trunk under a crown of leaves, or a conifer, or bare branches."""
    trunk = dice.uniform(1.6, 3.0)
    bark, leaf = dice.near((84, 66, 50), 14), dice.tint(_LEAVES, 18)
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


def bush(stand: Stand, dice: Dice) -> None:
    """A bush or a piece of hedge, as high as a car."""
    leaf = dice.tint(_HEDGES, 16)
    span, height = dice.uniform(0.4, 1.9), dice.uniform(0.5, 1.4)
    for blob in range(8):
        centre = (dice.uniform(-1, 1) * span, height * dice.uniform(0.35, 0.62))
        stand.ellipse(centre, (0.5, 0.42 * height), shade(leaf, 0.7 + 0.06 * blob))


def lamp_post(stand: Stand, dice: Dice) -> None:
    """A street lamp: near in shape to a traffic light's pole, but without housing or colours."""
    height, metal = dice.uniform(3.2, 5.5), dice.near(_POLE, 16)
    stand.post(0.13, (0.0, height), metal)
    if dice.chance(0.6):
        side = dice.sign()
        stand.line(((0.0, height), (side * 0.9, height + 0.15)), metal, width=0.1)
        stand.post(0.5, (height + 0.02, height + 0.22), metal, middle=side * 1.15)
        lamp = (side * 1.15, height + 0.02)
    else:
        stand.post(0.48, (height, height + dice.uniform(0.5, 0.9)), (52, 54, 56))
        lamp = (0.0, height + 0.3)
    on = stand.light.lamps
    stand.ellipse(lamp, (0.2, 0.2), (255, 236, 184) if on else (196, 196, 186), glow=0.5 if on else 0.0)


def sign(stand: Stand, dice: Dice) -> None:
    """A traffic sign: a coloured disc, triangle, square or a dark board with dots, on a pole."""
    height = dice.uniform(1.9, 3.0)
    stand.post(0.08, (0.0, height), _POLE)
    colour, r = dice.tint(_SIGNS, 14), dice.uniform(0.3, 0.45)
    shape = dice.random()
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


def mailbox(stand: Stand, dice: Dice) -> None:
    """A letter box, bin, cabinet or hydrant: the size of a child."""
    height, width = dice.uniform(0.7, 1.5), dice.uniform(0.35, 0.8)
    colour = dice.tint(_BOXES, 16)
    stand.post(width, (0.0, height), colour)
    stand.post(width * 0.2, (0.0, height), shade(colour, 1.15), middle=-width * 0.3)
    if dice.chance(0.5):
        stand.ellipse((0.0, height), (width / 2, 0.16), shade(colour, 0.9))
    stand.post(width * 0.6, (height * 0.68, height * 0.68 + 0.09), shade(colour, 0.35))


def bollards(stand: Stand, dice: Dice) -> None:
    """A row of bollards or traffic cones."""
    cones, colour = dice.chance(0.4), dice.tint(((70, 72, 76), (200, 198, 190)), 16)
    for k in range(dice.integer(1, 5)):
        at = 1.1 * k
        if cones:
            stand.polygon(((at - 0.22, 0.0), (at + 0.22, 0.0), (at, 0.75)), (232, 98, 30))
            stand.post(0.24, (0.28, 0.42), (236, 236, 230), middle=at)
        else:
            stand.post(0.16, (0.0, 0.9), colour, middle=at)


def statue(stand: Stand, dice: Dice) -> None:
    """A stone or bronze figure on a pedestal: a person in one material."""
    stone, base = dice.tint(_STONES, 8), dice.uniform(0.5, 1.1)
    stand.post(1.0, (0.0, base), shade(stone, 0.9))
    stand.post(1.2, (base - 0.1, base + 0.02), shade(stone, 1.1))
    figure = replace(stand, height=base, axis=(dice.sign(), 0.0), unit=dice.uniform(1.5, 1.9))
    person(figure, dice, one_material(stone))


def billboard(stand: Stand, dice: Dice) -> None:
    """An advertisement on posts, sometimes with a printed person or car in two or three flat colours."""
    w, h = dice.uniform(1.2, 3.6), dice.uniform(1.3, 2.2)
    base = dice.uniform(0.3, 1.8)
    for side in (-0.35, 0.35):
        stand.post(0.12, (0.0, base + 0.2), (70, 70, 74), middle=side * w)
    stand.post(w, (base, base + h), (60, 60, 64))
    paper = dice.any_colour(90, 240)
    stand.post(w - 0.14, (base + 0.07, base + h - 0.07), paper)
    motif, ink = dice.random(), shade(paper, 0.45)
    if motif < 0.3:
        x = stand.x + dice.uniform(-0.25, 0.25) * w
        figure = replace(stand, x=x, height=base + 0.1, unit=h * 0.88, axis=(dice.sign(), 0.0))
        person(figure, dice, one_material(ink))
    elif motif < 0.55 and w > 2:
        stand.polygon([(a * w, base + b * h) for a, b in _PRINTED_CAR], ink)
    else:
        for line in range(dice.integer(2, 4)):
            long, low = w * dice.uniform(0.3, 0.8), base + h * (0.75 - 0.2 * line)
            stand.post(long, (low, low + h * 0.1), ink, middle=long / 2 - w * 0.42)
        if dice.chance(0.4):
            stand.ellipse((0.2 * w, base + 0.4 * h), (0.3 * h, 0.3 * h), dice.any_colour())


def container(stand: Stand, dice: Dice) -> None:
    """A shipping container, skip or site hut: a truck's box that stands on the ground."""
    yaw = dice.pick((0.0, math.pi / 2, dice.uniform(0, math.pi)))
    block = replace(stand, axis=(math.sin(yaw), math.cos(yaw)))
    colour = dice.tint((*PAINTS, (150, 70, 50), (60, 100, 130)), 16)
    half, height, long = dice.uniform(0.9, 1.25), dice.uniform(1.2, 2.7), dice.uniform(1.6, 3.0)
    block.box((-long, long), half, (0.0, height), colour)
    if left := block.flank(half):
        for at in (-long + 0.2 * long * k for k in range(1, 10)):
            rib = shade(colour, 0.78 * block.brightness(left))
            block.panel((at, at + 0.1), (0.1, height - 0.1), rib, left=left)
        if dice.chance(0.3):
            block.panel((-0.3 * long, 0.2 * long), (0.5 * height, 0.8 * height), (60, 72, 88), left=left)


def parked_bicycle(stand: Stand, dice: Dice) -> None:
    """A bicycle (or two) without a rider, which is no cyclist."""
    for k in range(dice.integer(1, 2)):
        bicycle(replace(stand, x=stand.x + 0.5 * k, axis=(dice.sign(), 0.0)), dice, dice.uniform(0.3, 1.0))


def shelter(stand: Stand, dice: Dice) -> None:
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


Maker = Callable[[Stand, Dice], None]

FURNITURE: Final[tuple[tuple[Maker, float], ...]] = (
    (tree, 2.4),
    (bush, 1.5),
    (lamp_post, 1.8),
    (sign, 1.8),
    (mailbox, 1.4),
    (bollards, 0.8),
    (statue, 0.6),
    (billboard, 1.1),
    (container, 1.0),
    (parked_bicycle, 0.7),
    (shelter, 0.6),
)
