"""Traffic lights, and the things beside the road that are not annotated though some resemble what is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from detdistill.scenes.canvas import Camera, Halo, Light, Point, Sketch
from detdistill.scenes.people import Wardrobe, bicycle, person, stand
from detdistill.scenes.texture import Colour, Dice, shade
from detdistill.scenes.vehicles import PAINTS, Block, Pose, side_light

_POLE: Final[Colour] = (84, 88, 92)
_LAMPS: Final[tuple[Colour, ...]] = ((255, 44, 34), (255, 190, 40), (60, 240, 130))
_UNLIT: Final[tuple[Colour, ...]] = ((66, 20, 18), (64, 50, 18), (16, 58, 36))
_SIGNS: Final[tuple[Colour, ...]] = ((210, 30, 34), (30, 80, 180), (236, 236, 232), (240, 200, 40), (20, 110, 70))

Maker = Callable[[Camera, Light, Dice, float, float], Sketch]


def rectangle(sketch: Sketch, camera: Camera, corner: Point, size: Point, *, z: float, colour: Colour) -> None:
    """A rectangle that faces us: `corner` is its lower left (x, y) in metres."""
    (x, y), (w, h) = corner, size
    sketch.polygon(camera.points(((x, y, z), (x + w, y, z), (x + w, y + h, z), (x, y + h, z))), colour)


def _pole(sketch: Sketch, camera: Camera, x: float, size: Point, *, z: float, colour: Colour) -> None:
    width, height = size
    rectangle(sketch, camera, (x - width / 2, 0.0), (width, height), z=z, colour=colour)


def traffic_light(camera: Camera, dice: Dice, x: float, z: float) -> tuple[Sketch, Sketch]:
    """A traffic light: its housing with one small lit lamp (this is the object), and what carries it."""
    height, width = dice.uniform(1.1, 1.35), dice.uniform(0.46, 0.56)
    base = dice.uniform(2.1, 3.3)
    support = Sketch(z + 0.05)
    metal = dice.near(dice.pick((_POLE, (44, 46, 50), (120, 124, 124))), 10)
    if dice.chance(0.3):
        side = 1.0 if dice.chance(0.5) else -1.0
        foot = x + side * dice.uniform(1.5, 3.0)
        top = base + height * 0.75
        _pole(support, camera, foot, (0.16, top), z=z, colour=metal)
        rectangle(support, camera, (min(x, foot), top - 0.1), (abs(foot - x), 0.12), z=z, colour=metal)
    else:
        _pole(support, camera, x, (0.14, base + 0.1), z=z, colour=metal)
    housing = Sketch(z)
    shell = dice.weighted((((30, 32, 32), 0.62), ((44, 52, 48), 0.2), ((206, 164, 44), 0.18)))
    if dice.chance(0.25):
        rectangle(
            housing, camera, (x - 0.62 * width, base - 0.1), (1.24 * width, height + 0.2), z=z, colour=(226, 226, 222)
        )
        rectangle(
            housing, camera, (x - 0.56 * width, base - 0.05), (1.12 * width, height + 0.1), z=z, colour=(20, 20, 22)
        )
    rectangle(housing, camera, (x - width / 2, base), (width, height), z=z, colour=dice.near(shell, 8))
    on = dice.weighted(((0, 0.45), (1, 0.15), (2, 0.4)))
    scale = camera.scale(z)
    for lamp in range(3):
        centre = camera.point(x, base + height * (5 - 2 * lamp) / 6, z)
        radius = 0.36 * width * scale
        if lamp == on:
            housing.ellipse(centre, radius * 1.1, radius * 1.1, _LAMPS[lamp], shines=True)
            housing.halos.append(Halo(centre, radius * 1.1, _LAMPS[lamp]))
        else:
            housing.ellipse(centre, radius, radius, _UNLIT[lamp])
    return housing, support


def tree(camera: Camera, light: Light, dice: Dice, x: float, z: float) -> Sketch:
    """A tree: a trunk under a crown of leaves, or a conifer, or bare branches."""
    sketch = Sketch(z)
    s, trunk = camera.scale(z), dice.uniform(1.6, 3.0)
    bark = dice.near((84, 66, 50), 14)
    leaf = dice.near(dice.pick(((62, 104, 52), (84, 122, 56), (48, 84, 58), (150, 122, 52))), 18)
    _pole(sketch, camera, x, (dice.uniform(0.18, 0.36), trunk + 1), z=z, colour=bark)
    kind = dice.random()
    if kind < 0.2:
        for level in range(3):
            y, half = 1.2 + 1.4 * level, 1.5 - 0.4 * level
            points = ((x - half, y, z), (x + half, y, z), (x, y + 2.1, z))
            sketch.polygon(camera.points(points), shade(leaf, 0.7 + 0.08 * level))
    elif kind < 0.35:
        for _ in range(9):
            start, turn = dice.uniform(1.4, trunk + 0.6), dice.uniform(-1.2, 1.2)
            end = (x + 1.6 * math.sin(turn), start + 1.6 * math.cos(turn))
            sketch.line([camera.point(x, start, z), camera.point(*end, z)], bark, width=0.07 * s)
    else:
        size = dice.uniform(0.8, 1.3)
        for blob in range(9):
            centre = camera.point(x + dice.uniform(-1.2, 1.2) * size, trunk + dice.uniform(0.3, 2.6) * size, z)
            radius = dice.uniform(0.55, 1.0) * size * s
            sketch.ellipse(centre, radius, radius * 0.85, shade(leaf, 0.72 + 0.05 * blob))
    return sketch


def bush(camera: Camera, light: Light, dice: Dice, x: float, z: float) -> Sketch:
    """A bush or a piece of hedge, as high as a car."""
    sketch = Sketch(z)
    s, leaf = camera.scale(z), dice.near(dice.pick(((58, 96, 50), (76, 110, 60), (92, 96, 50))), 16)
    span, height = dice.uniform(0.4, 1.9), dice.uniform(0.5, 1.4)
    for blob in range(8):
        centre = camera.point(x + dice.uniform(-1, 1) * span, height * dice.uniform(0.35, 0.62), z)
        sketch.ellipse(centre, 0.5 * s, 0.42 * height * s, shade(leaf, 0.7 + 0.06 * blob))
    return sketch


def lamp_post(camera: Camera, light: Light, dice: Dice, x: float, z: float) -> Sketch:
    """A street lamp: near in shape to a traffic light's pole, but without housing or colours."""
    sketch = Sketch(z)
    height, s = dice.uniform(3.2, 5.5), camera.scale(z)
    metal = dice.near(_POLE, 16)
    _pole(sketch, camera, x, (0.13, height), z=z, colour=metal)
    bright: Colour = (255, 236, 184)
    if dice.chance(0.6):
        side = 1.0 if dice.chance(0.5) else -1.0
        head = x + side * 0.9
        sketch.line([camera.point(x, height, z), camera.point(head, height + 0.15, z)], metal, width=0.1 * s)
        lamp = (min(head, head + side * 0.5), height + 0.02)
        rectangle(sketch, camera, lamp, (0.5, 0.2), z=z, colour=metal)
        centre = camera.point(head + side * 0.25, height + 0.02, z)
    else:
        rectangle(sketch, camera, (x - 0.24, height), (0.48, dice.uniform(0.5, 0.9)), z=z, colour=(52, 54, 56))
        centre = camera.point(x, height + 0.3, z)
    glass = bright if light.lamps else (196, 196, 186)
    sketch.ellipse(centre, 0.2 * s, 0.2 * s, glass, shines=light.lamps)
    if light.lamps:
        sketch.halos.append(Halo(centre, 0.5 * s, bright))
    return sketch


def sign(camera: Camera, light: Light, dice: Dice, x: float, z: float) -> Sketch:
    """A traffic sign: a coloured disc, triangle, square or a dark board with dots, on a pole."""
    sketch = Sketch(z)
    s, height = camera.scale(z), dice.uniform(1.9, 3.0)
    _pole(sketch, camera, x, (0.08, height), z=z, colour=_POLE)
    colour = dice.near(dice.pick(_SIGNS), 14)
    centre, r = camera.point(x, height, z), dice.uniform(0.3, 0.45) * s
    shape = dice.random()
    if shape < 0.35:
        sketch.ellipse(centre, r, r, colour)
        sketch.ellipse(centre, r * 0.62, r * 0.62, dice.near(dice.pick(_SIGNS), 10))
    elif shape < 0.55:
        up = 1.0 if dice.chance(0.6) else -1.0
        for size, fill in ((1.2, colour), (0.7, (238.0, 238.0, 230.0))):
            a, (u, v) = r * size, centre
            sketch.polygon([(u - a, v + up * a * 0.7), (u + a, v + up * a * 0.7), (u, v - up * a)], fill)
    elif shape < 0.8:
        w, h = dice.uniform(0.5, 1.2), dice.uniform(0.4, 1.1)
        rectangle(sketch, camera, (x - w / 2, height - h / 2), (w, h), z=z, colour=colour)
        rectangle(sketch, camera, (x - w * 0.3, height - h * 0.1), (w * 0.6, h * 0.2), z=z, colour=shade(colour, 0.4))
    else:
        dark: Colour = (40, 44, 46)
        rectangle(sketch, camera, (x - 0.25, height - 0.6), (0.5, 1.2), z=z, colour=dark)
        for dot in range(dice.integer(1, 2)):
            grey = dice.near((150, 150, 144), 20)
            sketch.ellipse(camera.point(x, height + 0.3 - 0.6 * dot, z), 0.15 * s, 0.15 * s, grey)
    return sketch


def mailbox(camera: Camera, light: Light, dice: Dice, x: float, z: float) -> Sketch:
    """A letter box, bin, cabinet or hydrant: the size of a child."""
    sketch = Sketch(z)
    height, width = dice.uniform(0.7, 1.5), dice.uniform(0.35, 0.8)
    colour = dice.near(dice.pick(((190, 30, 34), (36, 70, 150), (222, 178, 40), (88, 96, 92), (60, 90, 60))), 16)
    rectangle(sketch, camera, (x - width / 2, 0.0), (width, height), z=z, colour=colour)
    rectangle(sketch, camera, (x - width * 0.4, 0.0), (width * 0.2, height), z=z, colour=shade(colour, 1.15))
    if dice.chance(0.5):
        s = camera.scale(z)
        sketch.ellipse(camera.point(x, height, z), width / 2 * s, 0.16 * s, shade(colour, 0.9))
    rectangle(sketch, camera, (x - width * 0.3, height * 0.68), (width * 0.6, 0.09), z=z, colour=shade(colour, 0.35))
    return sketch


def bollards(camera: Camera, light: Light, dice: Dice, x: float, z: float) -> Sketch:
    """A row of bollards or traffic cones."""
    sketch = Sketch(z)
    cones, colour = dice.chance(0.4), dice.near(dice.pick(((70, 72, 76), (200, 198, 190))), 16)
    for k in range(dice.integer(1, 5)):
        at = x + 1.1 * k
        if cones:
            sketch.polygon(camera.points(((at - 0.22, 0, z), (at + 0.22, 0, z), (at, 0.75, z))), (232, 98, 30))
            rectangle(sketch, camera, (at - 0.12, 0.28), (0.24, 0.14), z=z, colour=(236, 236, 230))
        else:
            _pole(sketch, camera, at, (0.16, 0.9), z=z, colour=colour)
    return sketch


def statue(camera: Camera, light: Light, dice: Dice, x: float, z: float) -> Sketch:
    """A stone or bronze figure on a pedestal: a person in one material."""
    sketch = Sketch(z)
    stone = dice.near(dice.pick(((150, 150, 144), (116, 122, 116), (92, 112, 98), (110, 88, 62))), 8)
    base = dice.uniform(0.5, 1.1)
    rectangle(sketch, camera, (x - 0.5, 0.0), (1.0, base), z=z, colour=shade(stone, 0.9))
    rectangle(sketch, camera, (x - 0.6, base - 0.1), (1.2, 0.12), z=z, colour=shade(stone, 1.1))
    place = stand(camera, dice, x, z, up=base)
    person(sketch, place, dice, Wardrobe.single(stone), dice.uniform(1.5, 1.9))
    return sketch


def billboard(camera: Camera, light: Light, dice: Dice, x: float, z: float) -> Sketch:
    """An advertisement on posts, sometimes with a printed person or car in two or three flat colours."""
    sketch = Sketch(z)
    w, h = dice.uniform(1.2, 3.6), dice.uniform(1.3, 2.2)
    base = dice.uniform(0.3, 1.8)
    for side in (-0.35, 0.35):
        _pole(sketch, camera, x + side * w, (0.12, base + 0.2), z=z, colour=(70, 70, 74))
    rectangle(sketch, camera, (x - w / 2, base), (w, h), z=z, colour=(60, 60, 64))
    paper = dice.any_colour(90, 240)
    rectangle(sketch, camera, (x - w / 2 + 0.07, base + 0.07), (w - 0.14, h - 0.14), z=z, colour=paper)
    motif, ink = dice.random(), shade(paper, 0.45)
    if motif < 0.3:
        place = stand(camera, dice, x + dice.uniform(-0.25, 0.25) * w, z, up=base + 0.1)
        person(sketch, place, dice, Wardrobe.single(ink), h * 0.88)
    elif motif < 0.55 and w > 2:
        lower = (
            (-0.4, 0.2),
            (-0.4, 0.42),
            (-0.2, 0.45),
            (-0.1, 0.65),
            (0.18, 0.65),
            (0.28, 0.45),
            (0.4, 0.4),
            (0.4, 0.2),
        )
        sketch.polygon(camera.points((x + a * w, base + b * h, z) for a, b in lower), ink)
    else:
        for line in range(dice.integer(2, 4)):
            long = w * dice.uniform(0.3, 0.8)
            rectangle(sketch, camera, (x - w * 0.42, base + h * (0.75 - 0.2 * line)), (long, h * 0.1), z=z, colour=ink)
        if dice.chance(0.4):
            s = camera.scale(z)
            sketch.ellipse(camera.point(x + 0.2 * w, base + 0.4 * h, z), 0.3 * h * s, 0.3 * h * s, dice.any_colour())
    return sketch


def container(camera: Camera, light: Light, dice: Dice, x: float, z: float) -> Sketch:
    """A shipping container, skip or site hut: a truck's box that stands on the ground."""
    sketch = Sketch(z)
    pose = Pose(x, z, dice.pick((0.0, math.pi / 2, dice.uniform(0, math.pi))))
    block = Block(camera, light, pose, sketch)
    colour = dice.near(dice.pick((*PAINTS, (150, 70, 50), (60, 100, 130))), 16)
    half, height, long = dice.uniform(0.9, 1.25), dice.uniform(1.2, 2.7), dice.uniform(1.6, 3.0)
    block.box((-long, long), half, (0.0, height), colour)
    side = block.side(half)
    if side:
        tone = 0.78 * side_light(pose, light, side)
        for k in range(1, 10):
            at = -long + 0.2 * long * k
            block.flank(side * half, (at, at + 0.1), (0.1, height - 0.1), shade(colour, tone))
        if dice.chance(0.3):
            block.flank(side * half, (-0.3 * long, 0.2 * long), (0.5 * height, 0.8 * height), (60, 72, 88))
    return sketch


def parked_bicycle(camera: Camera, light: Light, dice: Dice, x: float, z: float) -> Sketch:
    """A bicycle (or two) without a rider, which is no cyclist."""
    sketch = Sketch(z)
    for k in range(dice.integer(1, 2)):
        bicycle(sketch, stand(camera, dice, x + 0.5 * k, z), dice, dice.uniform(0.3, 1.0))
    return sketch


def shelter(camera: Camera, light: Light, dice: Dice, x: float, z: float) -> Sketch:
    """A bus shelter or kiosk: roof, posts, a pane, a bench."""
    sketch = Sketch(z)
    w, roof = dice.uniform(2.2, 3.6), dice.near((90, 96, 104), 24)
    if dice.chance(0.4):
        rectangle(sketch, camera, (x - w / 2, 0.0), (w, 2.2), z=z, colour=dice.near((170, 150, 120), 30))
        rectangle(sketch, camera, (x - w * 0.35, 0.95), (w * 0.7, 0.8), z=z, colour=(56, 62, 70))
    else:
        rectangle(sketch, camera, (x - w * 0.4, 0.4), (w * 0.3, 0.08), z=z, colour=(110, 84, 60))
        for at in (-0.48, 0.0, 0.46):
            rectangle(sketch, camera, (x + at * w, 0.0), (0.09, 2.2), z=z, colour=(70, 74, 80))
        rectangle(sketch, camera, (x + 0.2 * w, 0.5), (w * 0.25, 1.4), z=z, colour=dice.any_colour(60, 220))
    rectangle(sketch, camera, (x - w * 0.54, 2.15), (w * 1.08, 0.25), z=z, colour=roof)
    return sketch


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
