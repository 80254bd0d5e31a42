"""A drawn scene: what stands where in a street, painted from far to near, and what of it is seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from detdistill.scenes.canvas import SUPERSAMPLING, Canvas
from detdistill.scenes.furniture import FURNITURE, container, furnish, traffic_light
from detdistill.scenes.people import cyclist, pedestrian
from detdistill.scenes.setting import Street, camera_for, ground, plan_street, precipitation, walls, weather
from detdistill.scenes.sketch import Camera, Light, Pose, Sketch, Span, Thing
from detdistill.scenes.texture import Dice, develop, mix, shade, sky, skyline, textured
from detdistill.scenes.vehicles import car, truck

Split = Literal["train", "val"]
Rectangle = tuple[float, float, float, float]
SPLITS: Final[tuple[Split, ...]] = ("train", "val")
_LEAST_VISIBLE: Final = 0.25
_LEAST_SIDE_PX: Final = 5.0


class Kind(NamedTuple):
    """A class of annotated objects.

    Attributes:
        name: of the class.
        share: of the objects.
        tall: metres that are drawn as `pixels`.
        pixels: the heights it is drawn at in a picture of 96 rows.
        nearest: metres in front of the camera that it keeps.
        extent: usual length, width and height in metres.
        draw: draws one.
    """

    name: str
    share: float
    tall: float
    pixels: Span
    nearest: float
    extent: tuple[float, float, float]
    draw: Callable[[Camera, Light, Dice, Pose], Thing]


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


def _spot(camera: Camera, street: Street, label: int, dice: Dice) -> Pose | None:
    """A place for an object of this class that suits the street, or None where chance found none."""
    kind, (a, b), walk = KINDS[label], street.road, street.walk
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
    return Pose(x, z, _heading(street, x, z, dice))


def _claim(camera: Camera, label: int, pose: Pose) -> tuple[Rectangle, Rectangle]:
    """What an object of usual size would take up at a pose: the ground, and a rectangle of the canvas."""
    long, wide, tall = KINDS[label].extent
    s, c = abs(math.sin(pose.yaw)), abs(math.cos(pose.yaw))
    half_x, half_z = (long * s + wide * c) / 2, (long * c + wide * s) / 2
    up = 2.6 if label == _TRAFFIC_LIGHT else 0.0
    (x1, y2), (x2, y1) = camera.points(((pose.x - half_x, up, pose.z), (pose.x + half_x, up + tall, pose.z)))
    return (pose.x - half_x, pose.z - half_z, pose.x + half_x, pose.z + half_z), (x1, y1, x2, y2)


def _disputed(one: tuple[Rectangle, Rectangle], other: tuple[Rectangle, Rectangle]) -> bool:
    """Whether two claims share ground, or one would lie nearly on top of the other in the picture."""
    smaller = min(_shared(one[1], one[1]), _shared(other[1], other[1]))
    return _shared(one[0], other[0]) > 0 or _shared(one[1], other[1]) > 0.55 * smaller


def _shared(a: Rectangle, b: Rectangle) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


class _Placed(NamedTuple):
    """An object to annotate, and where it stands."""

    label: int
    x: float
    thing: Thing


def _populate(canvas: Canvas, street: Street, dice: Dice) -> list[_Placed]:
    placed: list[_Placed] = []
    claims: list[tuple[Rectangle, Rectangle]] = []
    frequencies = [(label, kind.share) for label, kind in enumerate(KINDS)]
    for _ in range(0 if dice.chance(0.05) else dice.integer(2, 7)):
        label = dice.weighted(frequencies)
        for _ in range(14):
            pose = _spot(canvas.camera, street, label, dice)
            if pose is None:
                continue
            claim = _claim(canvas.camera, label, pose)
            if any(_disputed(claim, other) for other in claims):
                continue
            claims.append(claim)
            placed.append(_Placed(label, pose.x, KINDS[label].draw(canvas.camera, canvas.light, dice, pose)))
            break
    return placed


def _clutter(canvas: Canvas, street: Street, placed: list[_Placed], dice: Dice) -> list[Sketch]:
    camera, (a, b) = canvas.camera, street.road
    pieces: list[Sketch] = []
    for _ in range(dice.integer(3, 9)):
        maker = dice.weighted(FURNITURE)
        z = dice.log_uniform(6.0, max(8.0, street.back - 1.0))
        x = dice.uniform(*camera.reach(z))
        if street.kind == "along" and a - 0.5 < x < b + 0.5:
            away = dice.uniform(0.6, street.walk + 1.0)
            x = a - away if dice.chance(0.5) else b + away
        if street.kind == "across" and a - 0.5 < z < b + 0.5:
            z = dice.uniform(b + 0.6, max(b + 0.7, street.back - 0.5))
        room = 3.2 if maker is container else 1.2
        if all(abs(x - other.x) >= room or abs(z - other.thing.sketch.z) >= room for other in placed):
            pieces.append(furnish(maker, camera, canvas.light, dice, (x, z)))
    return pieces


def _shadows(canvas: Canvas, things: list[Thing]) -> None:
    camera, (sx, sz) = canvas.camera, canvas.light.sun
    for thing in sorted(things, key=lambda thing: -thing.sketch.z):
        base, reach = thing.footprint, thing.height * 0.8
        if not base:
            continue
        canvas.shadow(camera.points((x, 0.0, z) for x, z in base), 1.1)
        if not (sx or sz):
            continue
        moved = [(x + sx * reach, max(1.0, z + sz * reach)) for x, z in base]
        for i in range(4):
            side = (base[i], base[i - 1], moved[i - 1], moved[i])
            canvas.shadow(camera.points((x, 0.0, z) for x, z in side), 0.4)


def draw_scene(seed: int, split: Split, index: int, *, width: int = 160, height: int = 96) -> Scene:
    """Draws one street scene; it depends on (seed, split, index) and the size alone.

    Args:
        seed: of the data set.
        split: "train" or "val".
        index: number of the scene in its split.
        width: of the picture in pixels.
        height: of the picture in pixels.
    """
    dice = Dice((seed, SPLITS.index(split), index))
    light, (top, bottom, clouds), fall = weather(dice)
    canvas = Canvas(camera_for(dice, width, height), light)
    camera = canvas.camera
    backdrop = sky(dice, camera.width, int(camera.horizon) + 2, colours=(top, bottom), clouds=clouds)
    skyline(dice, backdrop, camera.horizon, mix(shade((96, 104, 110), light.ambient[1]), light.haze, 0.6))
    canvas.image.paste(backdrop)
    street = plan_street(dice)
    ground(canvas, street, dice, fall)
    walls(canvas, street, dice)
    canvas.image.paste(textured(dice, canvas.image))
    placed = _populate(canvas, street, dice)
    _shadows(canvas, [item.thing for item in placed])
    painted: list[tuple[Sketch, int]] = []
    for number, (_, _, thing) in enumerate(placed, start=1):
        painted.append((thing.sketch, number))
        if thing.carrier is not None:
            painted.append((thing.carrier, 0))
    painted.extend((piece, 0) for piece in _clutter(canvas, street, placed, dice))
    for sketch, number in sorted(painted, key=lambda entry: -entry[0].z):
        canvas.paint(sketch, number)
    bloom = canvas.bloom() if light.lamps else None
    precipitation(canvas, fall, dice)
    objects = _annotate(canvas, placed)
    night = light.haze[0] < 60
    picture = textured(dice, canvas.image.reduce(SUPERSAMPLING))
    picture = develop(
        dice,
        picture if bloom is None else ImageChops.add(picture, bloom),
        grain=dice.uniform(3.0, 9.0) if night else dice.uniform(1.5, 6.0),
        blur=dice.uniform(0.3, 0.7) if dice.chance(0.3) else 0.0,
        exposure=dice.uniform(1.0, 1.4) if night else dice.uniform(0.85, 1.25),
    )
    return Scene(picture, objects, canvas.instances())


def _annotate(canvas: Canvas, placed: list[_Placed]) -> tuple[SceneObject, ...]:
    counts = canvas.ids.histogram()
    kept: list[SceneObject] = []
    for number, item in sorted(enumerate(placed, start=1), key=lambda entry: -entry[1].thing.sketch.z):
        shape = canvas.silhouette(item.thing.sketch)
        if shape is None:
            continue
        x1, y1, x2, y2 = (edge / SUPERSAMPLING for edge in shape.box)
        shown = counts[number] / shape.pixels
        # What is cut off counts as unseen too: a sliver at the edge of the picture teaches nothing.
        if shown * (1.0 - shape.truncated) < _LEAST_VISIBLE or min(x2 - x1, y2 - y1) < _LEAST_SIDE_PX:
            continue
        kept.append(
            SceneObject(
                label=item.label,
                box=(x1, y1, x2, y2),
                area=counts[number] / SUPERSAMPLING**2,
                truncated=round(shape.truncated, 3),
                occluded=round(max(0.0, 1.0 - shown), 3),
                instance=number,
            )
        )
    return tuple(kept)
