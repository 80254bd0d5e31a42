"""A drawn scene: what stands where in a street, painted from far to near, and what of it is seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from detdistill.scenes.canvas import SUPERSAMPLING, Camera, Canvas, Sketch
from detdistill.scenes.furniture import FURNITURE, container, traffic_light
from detdistill.scenes.people import cyclist, pedestrian
from detdistill.scenes.setting import Street, camera_for, ground, plan_street, precipitation, walls, weather
from detdistill.scenes.texture import Dice, develop, mix, shade, sky, skyline, texture
from detdistill.scenes.vehicles import Pose, Solid, car, footprint, truck

SCENE_CLASSES: Final = ("car", "truck", "pedestrian", "cyclist", "traffic light")
Split = Literal["train", "val"]
_SPLIT_NUMBER: Final = {"train": 0, "val": 1}
_FREQUENCY: Final = ((0, 0.33), (1, 0.16), (2, 0.24), (3, 0.15), (4, 0.12))
# Height in metres that stands for a class, and the heights in pixels of a 96-pixel picture it is drawn at.
_SIZES: Final = ((1.5, 9.0, 25.0), (3.0, 15.0, 40.0), (1.7, 16.0, 44.0), (1.75, 15.0, 42.0), (1.25, 13.0, 28.0))
# Metres in front of the camera that an object of the class keeps, and its usual length, width and height.
_NEAREST: Final = (5.5, 9.0, 3.6, 3.6, 3.6)
_EXTENTS: Final = ((4.3, 1.8, 1.5), (7.2, 2.4, 3.0), (0.6, 0.6, 1.75), (1.7, 0.6, 1.75), (0.5, 0.5, 1.25))
_LEAST_VISIBLE: Final = 0.25
_LEAST_SIDE_PX: Final = 5.0


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
    box: tuple[float, float, float, float]
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
    metres, low, high = _SIZES[label]
    z = camera.focal * metres / (dice.log_uniform(low, high) * camera.height / 96.0)
    a, b = street.road
    wheels = label in (0, 1)
    if street.kind == "across":
        if wheels or (label == 3 and dice.chance(0.75)):
            z = a + (b - a) * dice.pick((0.22, 0.36, 0.64, 0.8))
        elif label == 2 and dice.chance(0.6):
            z = dice.pick((a - street.walk * dice.random(), b + street.walk * dice.random()))
    if not _NEAREST[label] < z < street.back - 1.0:
        return None
    left, right = camera.reach(z)
    edge = 0.04 * (right - left)
    x = dice.uniform(left - edge, right + edge)
    if street.kind == "along":
        walk = street.walk
        if wheels:
            x = a + (b - a) * dice.pick((0.14, 0.27, 0.73, 0.86)) + dice.uniform(-0.25, 0.25)
        elif label == 3:
            x = dice.uniform(a, a + 2.2) if dice.chance(0.5) else dice.uniform(b - 2.2, b)
        elif label == 2 and dice.chance(0.75):
            x = dice.uniform(a - walk, a) if dice.chance(0.5) else dice.uniform(b, b + walk)
        elif label == 4:
            x = dice.pick((a - 0.5, b + 0.5, dice.uniform(a, b)))
        if not left - edge < x < right + edge:
            return None
    return Pose(x, z, _heading(street, x, z, dice))


@dataclass(frozen=True, slots=True)
class _Claim:
    """What an object of usual size would take up at a pose: the ground, and a rectangle of the canvas."""

    ground: tuple[float, float, float, float]
    box: tuple[float, float, float, float]

    @staticmethod
    def of(camera: Camera, label: int, pose: Pose) -> _Claim:
        long, wide, tall = _EXTENTS[label]
        s, c = abs(math.sin(pose.yaw)), abs(math.cos(pose.yaw))
        half_x, half_z = (long * s + wide * c) / 2, (long * c + wide * s) / 2
        up = 2.6 if label == 4 else 0.0
        (x1, y2), (x2, y1) = (
            camera.point(pose.x - half_x, up, pose.z),
            camera.point(pose.x + half_x, up + tall, pose.z),
        )
        ground = (pose.x - half_x, pose.z - half_z, pose.x + half_x, pose.z + half_z)
        return _Claim(ground, (x1, y1, x2, y2))

    def disputes(self, other: _Claim) -> bool:
        """Whether both stand in the same place, or one would lie nearly on top of the other in the picture."""
        if _shared(self.ground, other.ground) > 0:
            return True
        smaller = min(_shared(self.box, self.box), _shared(other.box, other.box))
        return _shared(self.box, other.box) > 0.55 * smaller


def _shared(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


@dataclass(frozen=True, slots=True)
class _Thing:
    """An object to annotate, what carries it, and what throws its shadow."""

    sketch: Sketch
    label: int
    x: float
    carrier: Sketch | None = None
    solid: Solid | None = None


def _thing(canvas: Canvas, label: int, pose: Pose, dice: Dice) -> _Thing:
    camera, x, z = canvas.camera, pose.x, pose.z
    if label in (0, 1):
        solid = (car if label == 0 else truck)(camera, canvas.light, dice, pose)
        return _Thing(solid.sketch, label, x, solid=solid)
    if label == 2:
        height = dice.uniform(1.55, 1.9) if dice.chance(0.85) else dice.uniform(1.1, 1.4)
        sketch = pedestrian(camera, dice, x, z, height)
        ground = footprint(Pose(x, z, 0.0), 0.4, 0.5)
        return _Thing(sketch, label, x, solid=Solid(sketch, ground, height))
    if label == 3:
        turn = max(0.16, abs(math.sin(pose.yaw - math.atan2(x, z))))
        sketch = cyclist(camera, dice, x, z, turn)
        ground = footprint(Pose(x, z, 0.0), 0.3, 1.7 * turn)
        return _Thing(sketch, label, x, solid=Solid(sketch, ground, 1.7))
    housing, carrier = traffic_light(camera, dice, x, z)
    return _Thing(housing, label, x, carrier=carrier)


def _populate(canvas: Canvas, street: Street, dice: Dice) -> list[_Thing]:
    things: list[_Thing] = []
    claims: list[_Claim] = []
    for _ in range(0 if dice.chance(0.05) else dice.integer(2, 7)):
        label = dice.weighted(_FREQUENCY)
        for _ in range(14):
            pose = _spot(canvas.camera, street, label, dice)
            if pose is None:
                continue
            claim = _Claim.of(canvas.camera, label, pose)
            if any(claim.disputes(other) for other in claims):
                continue
            claims.append(claim)
            things.append(_thing(canvas, label, pose, dice))
            break
    return things


def _clutter(canvas: Canvas, street: Street, things: list[_Thing], dice: Dice) -> list[Sketch]:
    camera, light = canvas.camera, canvas.light
    pieces: list[Sketch] = []
    for _ in range(dice.integer(3, 9)):
        maker = dice.weighted(FURNITURE)
        z = dice.log_uniform(6.0, max(8.0, street.back - 1.0))
        x = dice.uniform(*camera.reach(z))
        a, b = street.road
        if street.kind == "along" and a - 0.5 < x < b + 0.5:
            away = dice.uniform(0.6, street.walk + 1.0)
            x = a - away if dice.chance(0.5) else b + away
        if street.kind == "across" and a - 0.5 < z < b + 0.5:
            z = dice.uniform(b + 0.6, max(b + 0.7, street.back - 0.5))
        room = 3.2 if maker is container else 1.2
        if all(abs(x - thing.x) >= room or abs(z - thing.sketch.z) >= room for thing in things):
            pieces.append(maker(camera, light, dice, x, z))
    return pieces


def _shadows(canvas: Canvas, things: list[_Thing]) -> None:
    camera, (sx, sz) = canvas.camera, canvas.light.sun
    for thing in sorted(things, key=lambda thing: -thing.sketch.z):
        if thing.solid is None:
            continue
        base = thing.solid.footprint
        canvas.shadow(camera.points((x, 0.0, z) for x, z in base), 1.1)
        if not (sx or sz):
            continue
        reach = thing.solid.height * 0.8
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
    dice = Dice((seed, _SPLIT_NUMBER[split], index))
    light, (top, bottom, clouds), fall = weather(dice)
    canvas = Canvas(camera_for(dice, width, height), light)
    camera = canvas.camera
    backdrop = sky(dice, camera.width, int(camera.horizon) + 2, top=top, bottom=bottom, clouds=clouds)
    skyline(dice, backdrop, camera.horizon, mix(shade((96, 104, 110), light.ambient[1]), light.haze, 0.6))
    canvas.background(backdrop)
    street = plan_street(dice)
    ground(canvas, street, dice, fall)
    walls(canvas, street, dice)
    canvas.multiply(texture(dice, camera.width, camera.height))
    things = _populate(canvas, street, dice)
    _shadows(canvas, things)
    painted: list[tuple[float, Sketch, int]] = []
    for number, thing in enumerate(things, start=1):
        painted.append((thing.sketch.z, thing.sketch, number))
        if thing.carrier is not None:
            painted.append((thing.carrier.z, thing.carrier, 0))
    painted.extend((piece.z, piece, 0) for piece in _clutter(canvas, street, things, dice))
    for _, sketch, number in sorted(painted, key=lambda entry: -entry[0]):
        canvas.paint(sketch, number)
    bloom = canvas.bloom() if light.lamps else None
    precipitation(canvas, fall, dice)
    objects = _annotate(canvas, things)
    night = light.haze[0] < 60
    picture = ImageChops.multiply(canvas.image.reduce(SUPERSAMPLING), texture(dice, width, height))
    picture = develop(
        dice,
        picture if bloom is None else ImageChops.add(picture, bloom),
        grain=dice.uniform(3.0, 9.0) if night else dice.uniform(1.5, 6.0),
        blur=dice.uniform(0.3, 0.7) if dice.chance(0.3) else 0.0,
        exposure=dice.uniform(1.0, 1.4) if night else dice.uniform(0.85, 1.25),
    )
    return Scene(picture, objects, canvas.instances())


def _annotate(canvas: Canvas, things: list[_Thing]) -> tuple[SceneObject, ...]:
    counts = canvas.counts()
    kept: list[SceneObject] = []
    order = sorted(range(len(things)), key=lambda i: -things[i].sketch.z)
    scale = SUPERSAMPLING
    for i in order:
        shape = canvas.silhouette(things[i].sketch)
        if shape is None:
            continue
        x1, y1, x2, y2 = (edge / scale for edge in shape.box)
        seen = counts[i + 1]
        # What is cut off counts as unseen too: a sliver at the edge of the picture teaches nothing.
        visible = seen / shape.pixels * (1.0 - shape.truncated)
        if visible < _LEAST_VISIBLE or min(x2 - x1, y2 - y1) < _LEAST_SIDE_PX:
            continue
        kept.append(
            SceneObject(
                label=things[i].label,
                box=(x1, y1, x2, y2),
                area=seen / scale**2,
                truncated=round(shape.truncated, 3),
                occluded=round(max(0.0, 1.0 - seen / shape.pixels), 3),
                instance=i + 1,
            )
        )
    return tuple(kept)
