"""How pedestrians, cyclists, bicycles and statues are drawn: flat figures that face the camera."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from detdistill.scenes.canvas import Camera, Point, Sketch
from detdistill.scenes.texture import Colour, Dice, shade

_SKIN: Final[tuple[Colour, ...]] = ((236, 196, 168), (214, 168, 136), (168, 118, 84), (112, 76, 56), (78, 52, 40))
_HAIR: Final[tuple[Colour, ...]] = ((28, 22, 20), (70, 46, 30), (140, 100, 56), (186, 184, 180), (96, 40, 24))
_CLOTHES: Final[tuple[Colour, ...]] = (
    (30, 32, 40),
    (52, 58, 84),
    (196, 44, 40),
    (228, 226, 220),
    (64, 110, 170),
    (236, 190, 60),
    (78, 128, 80),
    (150, 80, 140),
    (120, 92, 66),
    (232, 124, 60),
    (130, 134, 140),
)
_TROUSERS: Final[tuple[Colour, ...]] = ((34, 38, 58), (26, 26, 28), (96, 88, 76), (62, 78, 110), (110, 112, 116))


@dataclass(frozen=True, slots=True)
class Stand:
    """A place on the canvas where a flat figure stands.

    Attributes:
        foot: canvas point of the ground below it.
        scale: canvas pixels per metre.
        mirror: 1 or -1, which way it looks.
    """

    foot: Point
    scale: float
    mirror: float

    def at(self, x: float, y: float) -> Point:
        """Canvas point x metres to its front and y metres up."""
        return self.foot[0] + self.mirror * x * self.scale, self.foot[1] - y * self.scale


@dataclass(frozen=True, slots=True)
class Wardrobe:
    """The colours of a figure."""

    skin: Colour
    hair: Colour
    coat: Colour
    trousers: Colour
    shoes: Colour

    @staticmethod
    def drawn(dice: Dice) -> Wardrobe:
        """Everyday clothes."""
        return Wardrobe(
            skin=dice.near(dice.pick(_SKIN), 10),
            hair=dice.near(dice.pick(_HAIR), 8),
            coat=dice.near(dice.pick(_CLOTHES), 22),
            trousers=dice.near(dice.pick(_TROUSERS), 16),
            shoes=dice.near((40, 34, 32), 16),
        )

    @staticmethod
    def single(colour: Colour) -> Wardrobe:
        """One material from head to foot, as a statue has it."""
        return Wardrobe(shade(colour, 1.1), shade(colour, 0.95), colour, shade(colour, 0.88), shade(colour, 0.8))


def stand(camera: Camera, dice: Dice, x: float, z: float, *, up: float = 0.0) -> Stand:
    """The place of a figure at (x, z) of the world, `up` metres above the ground."""
    return Stand(camera.point(x, up, z), camera.scale(z), 1.0 if dice.chance(0.5) else -1.0)


def person(sketch: Sketch, place: Stand, dice: Dice, wardrobe: Wardrobe, height: float) -> None:
    """Draws a standing or walking figure of `height` metres."""
    h, s, at = height, place.scale * height, place.at
    sideways = dice.chance(0.6)
    stride = dice.uniform(0.02, 0.15) if sideways else dice.uniform(0.03, 0.06)
    chest = dice.uniform(0.085, 0.105) if sideways else dice.uniform(0.115, 0.14)
    hip_y, neck_y = 0.49 * h, 0.845 * h
    swing = dice.uniform(-0.1, 0.1) if sideways else 0.0
    legs = ((-0.035, -stride, 0.8), (0.035, stride, 1.0))
    arm_far, arm_near = (swing, -swing) if sideways else (-chest - 0.03, chest + 0.03)
    hand = dice.uniform(0.44, 0.5) * h
    if dice.chance(0.14):
        pack = [at(-0.06 * h, 0.8 * h), at(-0.19 * h, 0.77 * h), at(-0.19 * h, 0.56 * h), at(-0.06 * h, 0.54 * h)]
        sketch.polygon(pack, dice.near(dice.pick(_CLOTHES), 20))
    shoulder = 0.0 if sideways else chest * 0.9
    sketch.line([at(-shoulder * h, 0.8 * h), at(arm_far * h, hand)], shade(wardrobe.coat, 0.75), width=0.06 * s)
    for hip, foot, tone in legs:
        knee = (hip + foot) / 2 + 0.02
        trousers = shade(wardrobe.trousers, tone)
        sketch.line(
            [at(hip * h, hip_y + 0.02), at(knee * h, 0.26 * h), at(foot * h, 0.02 * h)], trousers, width=0.08 * s
        )
        toe = foot + (0.055 if sideways else 0.02)
        sketch.line([at((foot - 0.025) * h, 0.018 * h), at(toe * h, 0.018 * h)], wardrobe.shoes, width=0.036 * s)
    hem = hip_y - dice.pick((0.0, 0.0, 0.02, 0.14, 0.2)) * h
    flare = chest * (1.0 + (hip_y - hem) / h * 1.6)
    torso = [(-chest, neck_y - 0.02 * h), (-chest * 0.6, neck_y), (chest * 0.6, neck_y), (chest, neck_y - 0.02 * h)]
    torso += [(chest * 0.92, 0.6 * h), (flare * 0.98, hem), (-flare * 0.98, hem), (-chest * 0.92, 0.6 * h)]
    sketch.polygon([at(x * h, y) for x, y in torso], wardrobe.coat)
    near = [at(shoulder * h, 0.8 * h), at((arm_near + (shoulder if sideways else 0)) * h, hand)]
    sketch.line(near, shade(wardrobe.coat, 0.86), width=0.062 * s)
    sketch.ellipse(near[1], 0.028 * s, 0.028 * s, wardrobe.skin)
    sketch.line([at(0, 0.83 * h), at(0, 0.9 * h)], shade(wardrobe.skin, 0.85), width=0.06 * s)
    sketch.ellipse(at(-0.008 * h, 0.937 * h), 0.06 * s, 0.063 * s, wardrobe.hair)
    face = 0.016 if sideways else 0.0
    sketch.ellipse(at(face * h, 0.922 * h), 0.048 * s, 0.056 * s, wardrobe.skin)
    if dice.chance(0.15):
        bag = at((arm_near + shoulder) * h, hand - 0.07 * h)
        sketch.ellipse(bag, 0.055 * s, 0.07 * s, dice.near(dice.pick(_CLOTHES), 25))


def pedestrian(camera: Camera, dice: Dice, x: float, z: float, height: float) -> Sketch:
    """A person on foot; about one in fourteen holds an umbrella."""
    sketch = Sketch(z)
    place = stand(camera, dice, x, z)
    person(sketch, place, dice, Wardrobe.drawn(dice), height)
    if dice.chance(0.07):
        h, colour = height, dice.near(dice.pick(_CLOTHES), 20)
        sketch.line(
            [place.at(0.1 * h, 0.62 * h), place.at(0.1 * h, 1.12 * h)], (60, 60, 60), width=0.02 * place.scale * h
        )
        rim = ((-0.22, 1.0), (-0.14, 1.1), (0.0, 1.16), (0.1, 1.17), (0.2, 1.16), (0.34, 1.1), (0.42, 1.0))
        sketch.polygon([place.at(a * h, b * h) for a, b in rim], colour)
    return sketch


def bicycle(sketch: Sketch, place: Stand, dice: Dice, turn: float) -> None:
    """Draws a bicycle; `turn` in (0, 1] is 1 seen from the side and small from the front."""
    s, at = place.scale, place.at
    frame = dice.near(dice.pick(_CLOTHES), 26)
    tyre: Colour = (30, 30, 32)
    hub_y = 0.34
    for x in (-0.53, 0.53):
        sketch.ring(at(x * turn, hub_y), max(0.34 * turn, 0.035) * s, 0.34 * s, tyre, width=max(0.06 * s, 1.0))
    bars = (
        ((-0.53, hub_y), (-0.17, 0.84), (0.36, 0.86), (0.53, hub_y)),
        ((-0.53, hub_y), (-0.08, 0.3), (0.37, 0.84)),
        ((-0.08, 0.3), (-0.2, 0.94)),
        ((0.53, hub_y), (0.35, 1.02), (0.44, 1.06)),
    )
    for bar in bars:
        sketch.line([at(x * turn, y) for x, y in bar], frame, width=0.05 * s)
    sketch.line([at(-0.3 * turn, 0.95), at(-0.1 * turn, 0.95)], tyre, width=0.06 * s)
    if turn < 0.5:
        sketch.line([at(0.4 * turn - 0.26, 1.05), at(0.4 * turn + 0.26, 1.05)], tyre, width=0.04 * s)


def cyclist(camera: Camera, dice: Dice, x: float, z: float, turn: float) -> Sketch:
    """A rider on a bicycle; `turn` in (0, 1] is 1 seen from the side and small from the front."""
    sketch = Sketch(z)
    place = stand(camera, dice, x, z)
    wear = Wardrobe.drawn(dice)
    s, at = place.scale, place.at
    size, lean = dice.uniform(0.92, 1.06), dice.uniform(0.0, 0.2)
    hip = (-0.18 * turn, 0.98 * size)
    neck = ((0.08 + lean) * turn, (1.5 - 0.25 * lean) * size)
    head = ((0.15 + lean) * turn, (1.64 - 0.3 * lean) * size)
    grip = (0.42 * turn, 1.04)
    pedal = dice.uniform(-0.15, 0.15)
    apart = 0.1 * (1 - turn)

    def leg(sign: float, tone: float) -> None:
        foot = (-0.08 * turn + sign * pedal * turn - sign * apart, 0.3 + sign * dice.uniform(0.02, 0.14))
        knee = (0.2 * turn - sign * apart, 0.68 + sign * 0.08)
        trousers = shade(wear.trousers, tone)
        sketch.line([at(hip[0] - sign * apart * 0.6, hip[1]), at(*knee), at(*foot)], trousers, width=0.13 * s)
        sketch.line([at(foot[0] - 0.06, foot[1]), at(foot[0] + 0.12, foot[1] - 0.02)], wear.shoes, width=0.07 * s)

    leg(-1.0, 0.75)
    bicycle(sketch, place, dice, turn)
    leg(1.0, 1.0)
    wide = 0.12 + 0.09 * (1 - turn)
    sketch.polygon(
        [
            at(hip[0] - wide, hip[1] - 0.06),
            at(neck[0] - wide, neck[1] - 0.06),
            at(neck[0] + wide * 0.7, neck[1]),
            at(hip[0] + wide, hip[1] - 0.02),
        ],
        wear.coat,
    )
    for sign in (-1.0, 1.0):
        wrist = at(grip[0] + sign * 0.2 * (1 - turn), grip[1])
        elbow = at((neck[0] + grip[0]) / 2 + sign * 0.24 * (1 - turn), 1.18)
        sketch.line(
            [at(neck[0] + sign * wide * (1 - turn), neck[1] - 0.1), elbow, wrist], shade(wear.coat, 0.82), width=0.1 * s
        )
    sketch.ellipse(at(*head), 0.1 * s, 0.125 * s, wear.skin)
    cap = dice.near(dice.pick(_CLOTHES), 20) if dice.chance(0.6) else wear.hair
    sketch.ellipse(at(head[0] - 0.015, head[1] + 0.055), 0.115 * s, 0.085 * s, cap)
    return sketch
