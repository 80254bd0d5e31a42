"""A drawn scene: what stands where in a street, painted from far to near, and what of it is seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from detdistill.scenes.canvas import SUPERSAMPLING, Camera, Canvas, Sketch, Span, Stand
from detdistill.scenes.figures import FURNITURE, Maker, cyclist, pedestrian, traffic_light
from detdistill.scenes.setting import Street, ground, plan_street, precipitation, walls, weather
from detdistill.scenes.solids import car, container, truck
from detdistill.scenes.texture import Dice, develop, mix, shade, sky, skyline, textured

Split = Literal["train", "val"]
Rectangle = tuple[float, float, float, float]
SPLITS: Final[tuple[Split, ...]] = ("train", "val")
_LEAST_VISIBLE: Final = 0.25
_LEAST_SIDE_PX: Final = 5.0


class Kind(NamedTuple):
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


KINDS: Final = (
    Kind("car", 0.33, 1.5, (9.0, 25.0), 5.5, (4.3, 1.8, 1.5), car),
    Kind("truck", 0.16, 3.0, (15.0, 40.0), 9.0, (7.2, 2.4, 3.0), truck),
    Kind("pedestrian", 0.24, 1.7, (16.0, 44.0), 3.6, (0.6, 0.6, 1.75), pedestrian),
    Kind("cyclist", 0.15, 1.75, (15.0, 42.0), 3.6, (1.7, 0.6, 1.75), cyclist),
    Kind("traffic light", 0.12, 1.25, (13.0, 28.0), 3.6, (0.5, 0.5, 1.25), traffic_light),
)
_CAR, _TRUCK, _PEDESTRIAN, _CYCLIST, _TRAFFIC_LIGHT = range(len(KINDS))
SCENE_CLASSES: Final = tuple(kind.name for kind in KINDS)


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


def _heading(street: Street, x: float, z: float, dice: Dice) -> float:
    if street.kind == "place":
        return dice.pick((0.0, math.pi, math.pi / 2, -math.pi / 2, dice.uniform(-math.pi, math.pi)))
    skew = dice.uniform(-0.12, 0.12) if dice.chance(0.7) else dice.uniform(-0.7, 0.7)
    if street.kind == "along":
        if dice.chance(0.06):
            return dice.pick((-1.0, 1.0)) * math.pi / 2 + skew
        return (0.0 if x > sum(street.road) / 2 else math.pi) + skew
    return (math.pi / 2 if z < sum(street.road) / 2 else -math.pi / 2) + skew


def _spot(canvas: Canvas, street: Street, label: int, dice: Dice) -> Stand | None:
    """A place for an object of this class that suits the street, or None where chance found none."""
    camera, kind, (a, b), walk = canvas.camera, KINDS[label], street.road, street.walk
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
    (long, wide, tall), x, z = KINDS[label].extent, stand.x, stand.z
    s, c = abs(stand.axis[0]), abs(stand.axis[1])
    half_x, half_z = (long * s + wide * c) / 2, (long * c + wide * s) / 2
    up = 2.6 if label == _TRAFFIC_LIGHT else 0.0
    (x1, y2), (x2, y1) = stand.camera.point(x - half_x, up, z), stand.camera.point(x + half_x, up + tall, z)
    return (x - half_x, z - half_z, x + half_x, z + half_z), (x1, y1, x2, y2)


def _shared(a: Rectangle, b: Rectangle) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def _disputed(one: tuple[Rectangle, Rectangle], other: tuple[Rectangle, Rectangle]) -> bool:
    """Whether two claims share ground, or one would lie nearly on top of the other in the picture."""
    smaller = min(_shared(one[1], one[1]), _shared(other[1], other[1]))
    return _shared(one[0], other[0]) > 0 or _shared(one[1], other[1]) > 0.55 * smaller


def _populate(canvas: Canvas, street: Street, dice: Dice) -> list[tuple[int, Stand]]:
    """Draws the objects to annotate; labels and places."""
    placed: list[tuple[int, Stand]] = []
    claims: list[tuple[Rectangle, Rectangle]] = []
    frequencies = [(label, kind.share) for label, kind in enumerate(KINDS)]
    for _ in range(0 if dice.chance(0.05) else dice.integer(2, 7)):
        label = dice.weighted(frequencies)
        for _ in range(14):
            stand = _spot(canvas, street, label, dice)
            claim = stand and _claim(label, stand)
            if stand and claim and not any(_disputed(claim, other) for other in claims):
                KINDS[label].draw(stand, dice)
                claims.append(claim)
                placed.append((label, stand))
                break
    return placed


def _clutter(canvas: Canvas, street: Street, things: list[Stand], dice: Dice) -> list[Sketch]:
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
        if all(abs(x - thing.x) >= room or abs(z - thing.z) >= room for thing in things):
            stand = canvas.stand(x, z)
            draw(stand, dice)
            pieces.append(stand.sketch)
    return pieces


def draw_scene(seed: int, split: Split, index: int, *, width: int = 160, height: int = 96) -> Scene:
    """Draws one street scene; it depends on (seed, split, index) and the size in pixels alone.

    `index` is the number of the scene in its split.
    """
    dice = Dice((seed, SPLITS.index(split), index))
    light, (top, bottom, clouds), fall = weather(dice)
    w, h = width * SUPERSAMPLING, height * SUPERSAMPLING
    focal, centre = dice.uniform(0.72, 1.02) * w * min(1.0, 1.67 * height / width), w * dice.uniform(0.22, 0.78)
    camera = Camera(w, h, focal, centre, horizon=h * dice.uniform(0.36, 0.52), eye=dice.uniform(1.4, 2.9))
    canvas = Canvas(camera, light)
    backdrop = sky(dice, w, int(camera.horizon) + 2, colours=(top, bottom), clouds=clouds)
    skyline(dice, backdrop, camera.horizon, mix(shade((96, 104, 110), light.ambient[1]), light.haze, 0.6))
    canvas.image.paste(backdrop)
    street = plan_street(dice)
    ground(canvas, street, dice, fall)
    walls(canvas, street, dice)
    canvas.image.paste(textured(dice, canvas.image))
    placed = _populate(canvas, street, dice)
    painted = [(stand.sketch, number) for number, (_, stand) in enumerate(placed, start=1)]
    for sketch, _ in sorted(painted, key=lambda entry: -entry[0].z):
        for points, alpha in sketch.shadows:
            canvas.glaze.polygon(points, fill=(0, 0, 8, alpha))
    painted += [(sketch.carrier, 0) for sketch, _ in painted if sketch.carrier is not None]
    painted += [(piece, 0) for piece in _clutter(canvas, street, [stand for _, stand in placed], dice)]
    for sketch, number in sorted(painted, key=lambda entry: -entry[0].z):
        canvas.paint(sketch, number)
    bloom = canvas.bloom()
    precipitation(canvas, fall, dice)
    night = light.haze[0] < 60
    picture = textured(dice, canvas.image.reduce(SUPERSAMPLING))
    picture = develop(
        dice,
        ImageChops.add(picture, bloom) if light.lamps else picture,
        grain=dice.uniform(3.0, 9.0) if night else dice.uniform(1.5, 6.0),
        blur=dice.uniform(0.3, 0.7) if dice.chance(0.3) else 0.0,
        exposure=dice.uniform(1.0, 1.4) if night else dice.uniform(0.85, 1.25),
    )
    return Scene(picture, _annotate(canvas, placed), np.asarray(canvas.ids, dtype=np.uint8))


def _annotate(canvas: Canvas, placed: list[tuple[int, Stand]]) -> tuple[SceneObject, ...]:
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
