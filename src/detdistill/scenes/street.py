"""A drawn scene: light, ground and walls of a street, what stands where, and what of it is seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from detdistill.scenes.canvas import SUPERSAMPLING, Camera, Canvas, Light, Sketch, Span, Stand, Stroke
from detdistill.scenes.figures import FURNITURE, GREENERY, Maker, cyclist, pedestrian, traffic_light
from detdistill.scenes.solids import car, container, houses, truck
from detdistill.scenes.texture import Colour, Dice, develop, mix, shade, sky, skyline, textured

Split = Literal["train", "val"]
Rectangle = tuple[float, float, float, float]
SPLITS: Final[tuple[Split, ...]] = ("train", "val")
_LEAST_VISIBLE: Final = 0.25
_LEAST_SIDE_PX: Final = 5.0
# Metres: where the ground begins in front of the camera, and half the length of a street across the view.
_NEAR: Final = 0.9
_WIDE: Final = (-90.0, 90.0)


class _Kind(NamedTuple):
    """A class of annotated objects, and which `share` of the objects are of it.

    In a picture of 96 rows, `tall` metres of one are drawn as `pixels`; it keeps `nearest` metres in front of the
    camera, and is usually as large as `extent`: length, width and height in metres.
    """

    name: str
    share: float
    tall: float
    pixels: Span
    nearest: float
    extent: tuple[float, float, float]
    draw: Maker


_KINDS: Final = (
    _Kind("car", 0.33, 1.5, (9.0, 25.0), 5.5, (4.3, 1.8, 1.5), car),
    _Kind("truck", 0.16, 3.0, (15.0, 40.0), 9.0, (7.2, 2.4, 3.0), truck),
    _Kind("pedestrian", 0.24, 1.7, (16.0, 44.0), 3.6, (0.6, 0.6, 1.75), pedestrian),
    _Kind("cyclist", 0.15, 1.75, (15.0, 42.0), 3.6, (1.7, 0.6, 1.75), cyclist),
    _Kind("traffic light", 0.12, 1.25, (13.0, 28.0), 3.6, (0.5, 0.5, 1.25), traffic_light),
)
_CAR, _TRUCK, _PEDESTRIAN, _CYCLIST, _TRAFFIC_LIGHT = range(len(_KINDS))
SCENE_CLASSES: Final = tuple(kind.name for kind in _KINDS)
_Placed = tuple[int, Stand]
"""A label and where such a thing stands."""


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One annotated object.

    Attributes:
        label: index into `SCENE_CLASSES`.
        box: x1, y1, x2, y2 in pixels: the whole object, hidden parts included, clipped to the picture.
        area: square pixels of it that are seen.
        truncated: share of its full rectangle that lies outside the picture, in [0, 1].
        occluded: share of its shape inside the picture that other things hide, in [0, 1].
        instance: its number in `Scene.instances`.
    """

    label: int
    box: Rectangle
    area: float
    truncated: float
    occluded: float
    instance: int


@dataclass(frozen=True, slots=True)
class Scene:
    """A drawn picture and what is in it.

    Attributes:
        image: RGB picture.
        objects: the annotated objects, far ones first.
        instances: which object every pixel of the twice as large canvas shows, 0 for none; (2h, 2w).
    """

    image: Image.Image
    objects: tuple[SceneObject, ...]
    instances: NDArray[np.uint8]


class _Street(NamedTuple):
    """The plan, in metres: one road "along" or "across" the view, or an open "place".

    `road` are left and right edge (x) of a road along the view, near and far edge (z) of one across it; on either side
    is a pavement as wide as `walk`. At the distance `back` a wall closes the view.
    """

    kind: str
    road: Span
    walk: float
    back: float


def _weather(dice: Dice) -> tuple[Light, tuple[Colour, Colour, float], str]:
    """The light, the sky (top colour, bottom colour, cloud cover) and what falls: dry, rain or snow."""
    hour = dice.weighted((("day", 0.46), ("grey", 0.22), ("dusk", 0.16), ("night", 0.16)))
    fall = dice.weighted((("dry", 0.78), ("rain", 0.13), ("snow", 0.09)))
    sun, covered = (dice.uniform(-1.6, 1.6), dice.uniform(-0.4, 1.0)), (0.0, 0.0)
    sight = dice.log_uniform(45.0, 260.0) if fall == "dry" else dice.log_uniform(28.0, 90.0)
    left = 1.0 + max(-0.3, min(0.3, 0.25 * sun[0]))
    if hour == "day" and fall == "dry":
        blue, pale = dice.near((104, 150, 204), 22), dice.near((206, 216, 226), 12)
        warm = dice.uniform(0.96, 1.08)
        light = Light((1.04 * warm, 1.0, 0.98 / warm), sun, dice.uniform(0.35, 0.55), left, False, pale, sight)
        return light, (blue, pale, dice.uniform(0.0, 0.8)), fall
    if hour in ("day", "grey"):
        grey, level = dice.near((184, 188, 194), 16), dice.uniform(0.78, 1.0)
        light = Light((level, level, level * 1.03), covered, 0.28, 1.0, dice.chance(0.25), grey, sight)
        return light, (shade(grey, 0.86), grey, 0.6), fall
    if hour == "dusk":
        glow = dice.near((214, 138, 92), 24)
        light = Light((0.82, 0.66, 0.62), sun, 0.3, left, True, shade(glow, 0.8), sight)
        return light, (dice.near((66, 72, 118), 18), glow, dice.uniform(0.2, 0.9)), fall
    dark, level = dice.near((24, 26, 40), 8), dice.uniform(0.42, 0.6)
    light = Light((level * 1.06, level, level * 1.08), covered, 0.3, 1.0, True, dark, sight)
    return light, (shade(dark, 0.5), dark, 0.2), fall


def _plan_street(dice: Dice) -> _Street:
    kind = dice.weighted((("along", 0.45), ("across", 0.33), ("place", 0.22)))
    walk = dice.uniform(1.8, 4.0)
    if kind == "along":
        left = -dice.uniform(2.0, 9.0)
        return _Street(kind, (left, left + dice.uniform(6.5, 12.0)), walk, dice.uniform(32.0, 60.0))
    if kind == "across":
        near = dice.uniform(5.5, 9.0)
        far = near + dice.uniform(6.0, 11.0)
        return _Street(kind, (near, far), walk, far + walk + dice.uniform(0.0, 8.0))
    return _Street(kind, (0.0, 0.0), walk, dice.uniform(18.0, 42.0))


def _ground(canvas: Canvas, street: _Street, dice: Dice, fall: str) -> None:
    """Paints road, pavements, verges and markings."""
    if fall == "snow":
        verge, pave = dice.near((214, 218, 224), 10), dice.near((196, 198, 202), 12)
    else:
        verge, pave = dice.tint("6c7a4a 807862 86847e", 16), dice.tint("98928a 888684 a69682", 14)
    road, paint = dice.tint("545458 62605e 46484e", 14), dice.near((214, 212, 204), 10)
    (a, b), along = street.road, street.kind == "along"

    def strip(x: Span, z: Span, colour: Colour) -> None:
        corners = [canvas.camera.point(x[i], 0.0, z[k]) for i, k in ((0, 0), (1, 0), (1, 1), (0, 1))]
        canvas.paint(Sketch(min(z[0] * 2.5, (z[0] + z[1]) / 2), [Stroke("polygon", corners, colour)]))

    for z in ((_NEAR, 8.0), (8.0, 20.0), (20.0, 60.0), (60.0, 400.0)):
        strip((4 * _WIDE[0], 4 * _WIDE[1]), z, road if street.kind == "place" else verge)
    if street.kind == "place":
        row = dice.uniform(6.0, 12.0)
        for k in range(-8, 9):
            strip((2.6 * k, 2.6 * k + 0.12), (row, row + 5.0), paint)
        strip(_WIDE, (street.back - street.walk, street.back), pave)
        return
    lay = strip if along else lambda side, run, colour: strip(run, side, colour)
    # The ground near the camera is less hazy, so what runs along the view is painted in pieces.
    for run in ((_NEAR, 10.0), (10.0, 25.0), (25.0, 120.0)) if along else (_WIDE,):
        for beside, colour in ((street.walk, pave), (0.15 if along else 0.2, shade(pave, 0.75)), (0.0, road)):
            lay((a - beside, b + beside), run, colour)
    middle, start = (a + b) / 2, 2.0 if along else dice.uniform(0.0, 4.0)
    for dash in (start + 4.5 * k for k in (range(14) if along else range(-9, 9))):
        lay((middle - 0.08, middle + 0.08), (dash, dash + 2.2), paint)
    if along and dice.chance(0.5):
        for edge in (a + 0.3, b - 0.4):
            lay((edge, edge + 0.1), (_NEAR, 60.0), paint)
    if dice.chance(0.4):
        at = dice.uniform(5.0, 16.0) if along else dice.uniform(-5.0, 5.0)
        for k in range(int(b - a)):
            lay((a + 0.2 + k, a + 0.7 + k), (at, at + 2.6), paint)


def _walls(canvas: Canvas, street: _Street, dice: Dice) -> None:
    """Paints the house fronts, or trees, that bound the street."""
    brightness, back, (low, high) = canvas.light.left, street.back, canvas.camera.reach(street.back)
    if street.kind == "along":
        left, right = street.road[0] - street.walk, street.road[1] + street.walk
        if dice.chance(0.75):
            houses(canvas, dice, (-36.0, back), (36.0, back), tone=0.85)
        for x, tone in ((left - dice.uniform(0, 3), 2 - brightness), (right + dice.uniform(0, 3), brightness)):
            if dice.chance(0.8):
                houses(canvas, dice, (x, back), (x, 2.0), tone=tone)
    elif dice.chance(0.85):
        houses(canvas, dice, (low - 6, back), (high + 6, back), tone=0.95)
    else:
        for _ in range(12):
            draw, _ = dice.pick(GREENERY)
            stand = canvas.stand(dice.uniform(low, high), back)
            draw(stand, dice)
            canvas.paint(stand.sketch)


def _precipitation(canvas: Canvas, fall: str, dice: Dice) -> None:
    """Draws rain or snow over the finished scene."""
    width, height = canvas.camera.width, canvas.camera.height
    if fall == "rain":
        slant = dice.uniform(-0.35, 0.35)
        for _ in range(dice.integer(40, 130)):
            x, y, long = dice.uniform(0, width), dice.uniform(0, height), dice.uniform(5, 16)
            canvas.glaze.line([(x, y), (x + slant * long, y + long)], fill=(200, 206, 216, 90))
    elif fall == "snow":
        for _ in range(dice.integer(60, 200)):
            x, y = dice.uniform(0, width), dice.uniform(0, height)
            canvas.glaze.line([(x, y), (x + 1, y)], fill=(244, 246, 250, 190), width=2)


def _heading(street: _Street, x: float, z: float, dice: Dice) -> float:
    if street.kind == "place":
        return dice.pick((0.0, math.pi, math.pi / 2, -math.pi / 2, dice.uniform(-math.pi, math.pi)))
    skew = dice.uniform(-0.12, 0.12) if dice.chance(0.7) else dice.uniform(-0.7, 0.7)
    middle = sum(street.road) / 2
    if street.kind == "across":
        return (math.pi / 2 if z < middle else -math.pi / 2) + skew
    if dice.chance(0.06):
        return dice.pick((-1.0, 1.0)) * math.pi / 2 + skew
    return (0.0 if x > middle else math.pi) + skew


def _spot(canvas: Canvas, street: _Street, label: int, dice: Dice) -> Stand | None:
    """A place for an object of this class that suits the street, or None where chance found none."""
    camera, kind, (a, b), walk = canvas.camera, _KINDS[label], street.road, street.walk
    z = camera.focal * kind.tall / (dice.log_uniform(*kind.pixels) * camera.height / 96.0)
    wheels = label in (_CAR, _TRUCK)
    if street.kind == "across":
        if wheels or (label == _CYCLIST and dice.chance(0.75)):
            z = a + (b - a) * dice.pick((0.22, 0.36, 0.64, 0.8))
        elif label == _PEDESTRIAN and dice.chance(0.6):
            z = dice.pick((a - walk * dice.random(), b + walk * dice.random()))
    if not kind.nearest < z < street.back - 1.0:
        return None
    left, right = camera.reach(z)
    edge = 0.04 * (right - left)
    x = dice.uniform(left - edge, right + edge)
    if street.kind == "along":
        if wheels:
            x = a + (b - a) * dice.pick((0.14, 0.27, 0.73, 0.86)) + dice.uniform(-0.25, 0.25)
        elif label == _CYCLIST:
            x = dice.uniform(a, a + 2.2) if dice.chance(0.5) else dice.uniform(b - 2.2, b)
        elif label == _PEDESTRIAN and dice.chance(0.75):
            x = dice.uniform(a - walk, a) if dice.chance(0.5) else dice.uniform(b, b + walk)
        elif label == _TRAFFIC_LIGHT:
            x = dice.pick((a - 0.5, b + 0.5, dice.uniform(a, b)))
        if not left - edge < x < right + edge:
            return None
    return canvas.stand(x, z, _heading(street, x, z, dice))


def _claim(label: int, stand: Stand) -> tuple[Rectangle, Rectangle]:
    """What an object of usual size would take up: the ground, and a rectangle of the canvas."""
    (long, wide, tall), x, z = _KINDS[label].extent, stand.x, stand.z
    s, c = abs(stand.axis[0]), abs(stand.axis[1])
    half_x, half_z = (long * s + wide * c) / 2, (long * c + wide * s) / 2
    up = 2.6 if label == _TRAFFIC_LIGHT else 0.0
    (x1, y2), (x2, y1) = stand.camera.point(x - half_x, up, z), stand.camera.point(x + half_x, up + tall, z)
    return (x - half_x, z - half_z, x + half_x, z + half_z), (x1, y1, x2, y2)


def _shared(a: Rectangle, b: Rectangle) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def _disputed(one: _Placed, other: _Placed) -> bool:
    """Whether two share ground, or one would lie nearly on top of the other in the picture."""
    (ground, shape), (ground_2, shape_2) = _claim(*one), _claim(*other)
    smaller = min(_shared(shape, shape), _shared(shape_2, shape_2))
    return _shared(ground, ground_2) > 0 or _shared(shape, shape_2) > 0.55 * smaller


def _populate(canvas: Canvas, street: _Street, dice: Dice) -> list[_Placed]:
    """Draws the objects to annotate."""
    placed: list[_Placed] = []
    frequencies = [(label, kind.share) for label, kind in enumerate(_KINDS)]
    for _ in range(0 if dice.chance(0.05) else dice.integer(2, 7)):
        label = dice.weighted(frequencies)
        for _ in range(14):
            stand = _spot(canvas, street, label, dice)
            if stand is not None and not any(_disputed((label, stand), other) for other in placed):
                _KINDS[label].draw(stand, dice)
                placed.append((label, stand))
                break
    return placed


def _clutter(canvas: Canvas, street: _Street, placed: list[_Placed], dice: Dice) -> list[Sketch]:
    """Draws what stands about and is not annotated, clear of the objects."""
    a, b = street.road
    pieces: list[Sketch] = []
    for _ in range(dice.integer(3, 9)):
        draw = dice.weighted(FURNITURE)
        z = dice.log_uniform(6.0, max(8.0, street.back - 1.0))
        x = dice.uniform(*canvas.camera.reach(z))
        if street.kind == "along" and a - 0.5 < x < b + 0.5:
            away = dice.uniform(0.6, street.walk + 1.0)
            x = a - away if dice.chance(0.5) else b + away
        if street.kind == "across" and a - 0.5 < z < b + 0.5:
            z = dice.uniform(b + 0.6, max(b + 0.7, street.back - 0.5))
        room = 3.2 if draw is container else 1.2
        if all(abs(x - thing.x) >= room or abs(z - thing.z) >= room for _, thing in placed):
            stand = canvas.stand(x, z)
            draw(stand, dice)
            pieces.append(stand.sketch)
    return pieces


def draw_scene(seed: int, split: Split, index: int, *, width: int = 160, height: int = 96) -> Scene:
    """Draws one street scene; it depends on (seed, split, index) and the size in pixels alone.

    `index` is the number of the scene in its split.
    """
    dice = Dice((seed, SPLITS.index(split), index))
    light, (top, bottom, clouds), fall = _weather(dice)
    w, h = width * SUPERSAMPLING, height * SUPERSAMPLING
    focal, centre = dice.uniform(0.72, 1.02) * w * min(1.0, 1.67 * height / width), w * dice.uniform(0.22, 0.78)
    camera = Camera(w, h, focal, centre, horizon=h * dice.uniform(0.36, 0.52), eye=dice.uniform(1.4, 2.9))
    canvas = Canvas(camera, light)
    backdrop = sky(dice, w, int(camera.horizon) + 2, colours=(top, bottom), clouds=clouds)
    skyline(dice, backdrop, camera.horizon, mix(shade((96, 104, 110), light.ambient[1]), light.haze, 0.6))
    canvas.image.paste(backdrop)
    street = _plan_street(dice)
    _ground(canvas, street, dice, fall)
    _walls(canvas, street, dice)
    canvas.image.paste(textured(dice, canvas.image))
    placed = _populate(canvas, street, dice)
    painted = [(stand.sketch, number) for number, (_, stand) in enumerate(placed, start=1)]
    for sketch, _ in sorted(painted, key=lambda entry: -entry[0].z):
        for points, alpha in sketch.shadows:
            canvas.glaze.polygon(points, fill=(0, 0, 8, alpha))
    painted += [(sketch.carrier, 0) for sketch, _ in painted if sketch.carrier is not None]
    painted += [(piece, 0) for piece in _clutter(canvas, street, placed, dice)]
    for sketch, number in sorted(painted, key=lambda entry: -entry[0].z):
        canvas.paint(sketch, number)
    bloom = canvas.bloom() if light.lamps else None
    _precipitation(canvas, fall, dice)
    night = light.haze[0] < 60
    picture = textured(dice, canvas.image.reduce(SUPERSAMPLING))
    grain = dice.uniform(3.0, 9.0) if night else dice.uniform(1.5, 6.0)
    blur = dice.uniform(0.3, 0.7) if dice.chance(0.3) else 0.0
    exposure = dice.uniform(1.0, 1.4) if night else dice.uniform(0.85, 1.25)
    picture = ImageChops.add(picture, bloom) if bloom else picture
    picture = develop(dice, picture, grain=grain, blur=blur, exposure=exposure)
    return Scene(picture, _annotate(canvas, placed), np.asarray(canvas.ids, dtype=np.uint8))


def _annotate(canvas: Canvas, placed: list[_Placed]) -> tuple[SceneObject, ...]:
    counts = canvas.ids.histogram()
    kept: list[SceneObject] = []
    for number, (label, stand) in sorted(enumerate(placed, start=1), key=lambda entry: -entry[1][1].z):
        if shape := canvas.silhouette(stand.sketch):
            box, pixels, truncated = shape
            x1, y1, x2, y2 = (edge / SUPERSAMPLING for edge in box)
            area, shown = counts[number] / SUPERSAMPLING**2, counts[number] / pixels
            # What is cut off counts as unseen too: a sliver at the edge of the picture teaches nothing.
            if shown * (1.0 - truncated) >= _LEAST_VISIBLE and min(x2 - x1, y2 - y1) >= _LEAST_SIDE_PX:
                hidden = round(max(0.0, 1.0 - shown), 3)
                kept.append(SceneObject(label, (x1, y1, x2, y2), area, round(truncated, 3), hidden, number))
    return tuple(kept)
