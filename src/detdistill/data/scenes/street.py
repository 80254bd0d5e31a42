"""The world of a drawn scene: weather, street layout, and where things stand in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from detdistill.data.scenes.buildings import houses
from detdistill.data.scenes.canvas import SUPERSAMPLING, Camera, Canvas, Light, Point, Sketch
from detdistill.data.scenes.furniture import FURNITURE, container, traffic_light
from detdistill.data.scenes.people import cyclist, pedestrian
from detdistill.data.scenes.texture import Colour, Dice, develop, mix, shade, sky, skyline, texture
from detdistill.data.scenes.vehicles import Pose, Solid, car, footprint, truck

SCENE_CLASSES: Final = ("car", "truck", "pedestrian", "cyclist", "traffic light")
Split = Literal["train", "val"]
_SPLIT_NUMBER: Final = {"train": 0, "val": 1}
_FREQUENCY: Final = ((0, 0.33), (1, 0.16), (2, 0.24), (3, 0.15), (4, 0.12))
# Height in metres that stands for a class, and the heights in pixels of a 96-pixel picture it is drawn at.
_SIZES: Final = ((1.5, 8.0, 24.0), (3.0, 14.0, 40.0), (1.7, 13.0, 42.0), (1.75, 14.0, 40.0), (1.25, 10.0, 24.0))
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


@dataclass(frozen=True, slots=True)
class _Street:
    """The plan: one road along or across the view, or an open place.

    Attributes:
        kind: which of the three.
        road: left and right edge (x) of a road along the view; near and far edge (z) of one across it.
        walk: metres of pavement on either side.
        back: distance of the wall that closes the view.
    """

    kind: Literal["along", "across", "place"]
    road: tuple[float, float]
    walk: float
    back: float


def _weather(dice: Dice) -> tuple[Light, tuple[Colour, Colour, float], str]:
    hour = dice.weighted((("day", 0.46), ("grey", 0.22), ("dusk", 0.16), ("night", 0.16)))
    fall = dice.weighted((("dry", 0.78), ("rain", 0.13), ("snow", 0.09)))
    sun = (dice.uniform(-1.6, 1.6), dice.uniform(-0.4, 1.0))
    sight = dice.log_uniform(45.0, 260.0) if fall == "dry" else dice.log_uniform(28.0, 90.0)
    left = 1.0 + max(-0.3, min(0.3, 0.25 * sun[0]))
    if hour == "day" and fall == "dry":
        blue = dice.near((104, 150, 204), 22)
        pale = dice.near((206, 216, 226), 12)
        warm = dice.uniform(0.96, 1.08)
        light = Light((1.04 * warm, 1.0, 0.98 / warm), sun, dice.uniform(0.35, 0.55), left, False, pale, sight)
        return light, (blue, pale, dice.uniform(0.0, 0.8)), fall
    if hour in ("day", "grey"):
        grey = dice.near((184, 188, 194), 16)
        level = dice.uniform(0.78, 1.0)
        light = Light((level, level, level * 1.03), (0.0, 0.0), 0.28, 1.0, dice.chance(0.25), grey, sight)
        return light, (shade(grey, 0.86), grey, 0.6), fall
    if hour == "dusk":
        glow = dice.near((214, 138, 92), 24)
        light = Light((0.82, 0.66, 0.62), sun, 0.3, left, True, shade(glow, 0.8), sight)
        return light, (dice.near((66, 72, 118), 18), glow, dice.uniform(0.2, 0.9)), fall
    dark = dice.near((24, 26, 40), 8)
    level = dice.uniform(0.38, 0.56)
    light = Light((level * 1.06, level, level * 1.08), (0.0, 0.0), 0.3, 1.0, True, dark, sight)
    return light, (shade(dark, 0.5), dark, 0.2), fall


def _camera(dice: Dice, width: int, height: int) -> Camera:
    w, h = width * SUPERSAMPLING, height * SUPERSAMPLING
    return Camera(
        width=w,
        height=h,
        focal=dice.uniform(0.72, 1.02) * w * min(1.0, 1.67 * height / width),
        centre=w * dice.uniform(0.22, 0.78),
        horizon=h * dice.uniform(0.36, 0.52),
        eye=dice.uniform(1.4, 2.9),
    )


def _plan(dice: Dice) -> _Street:
    kind: Literal["along", "across", "place"] = dice.weighted((("along", 0.45), ("across", 0.33), ("place", 0.22)))
    walk = dice.uniform(1.8, 4.0)
    if kind == "along":
        left = -dice.uniform(2.0, 9.0)
        return _Street(kind, (left, left + dice.uniform(6.5, 12.0)), walk, dice.uniform(32.0, 60.0))
    if kind == "across":
        near = dice.uniform(5.5, 9.0)
        far = near + dice.uniform(6.0, 11.0)
        return _Street(kind, (near, far), walk, far + walk + dice.uniform(0.0, 8.0))
    return _Street(kind, (0.0, 0.0), walk, dice.uniform(18.0, 42.0))


def _strip(canvas: Canvas, x: Point, z: Point, colour: Colour) -> None:
    corners = ((x[0], 0.0, z[0]), (x[1], 0.0, z[0]), (x[1], 0.0, z[1]), (x[0], 0.0, z[1]))
    canvas.ground(canvas.camera.points(corners), colour, z=min(z[0] * 2.5, (z[0] + z[1]) / 2))


def _ground(canvas: Canvas, street: _Street, dice: Dice, fall: str) -> None:
    near = 0.9
    if fall == "snow":
        verge, pave = dice.near((214, 218, 224), 10), dice.near((196, 198, 202), 12)
    else:
        verge = dice.near(dice.pick(((108, 122, 74), (128, 120, 98), (134, 132, 126))), 16)
        pave = dice.near(dice.pick(((152, 146, 138), (136, 134, 132), (166, 150, 130))), 14)
    road = dice.near(dice.pick(((84, 84, 88), (98, 96, 94), (70, 72, 78))), 14)
    paint = dice.near((214, 212, 204), 10)
    wide = 90.0
    for z0, z1 in ((near, 8.0), (8.0, 20.0), (20.0, 60.0), (60.0, 400.0)):
        _strip(canvas, (-wide * 4, wide * 4), (z0, z1), verge if street.kind != "place" else road)
    a, b = street.road
    walk = street.walk
    if street.kind == "along":
        for z0, z1 in ((near, 10.0), (10.0, 25.0), (25.0, 120.0)):
            _strip(canvas, (a - walk, b + walk), (z0, z1), pave)
            _strip(canvas, (a - 0.15, b + 0.15), (z0, z1), shade(pave, 0.75))
            _strip(canvas, (a, b), (z0, z1), road)
        middle = (a + b) / 2
        for k in range(14):
            _strip(canvas, (middle - 0.08, middle + 0.08), (2.0 + 4.5 * k, 4.2 + 4.5 * k), paint)
        if dice.chance(0.5):
            for edge in (a + 0.3, b - 0.4):
                _strip(canvas, (edge, edge + 0.1), (near, 60.0), paint)
        if dice.chance(0.4):
            at = dice.uniform(5.0, 16.0)
            for k in range(int((b - a) / 1.0)):
                _strip(canvas, (a + 0.2 + k, a + 0.7 + k), (at, at + 2.6), paint)
    elif street.kind == "across":
        _strip(canvas, (-wide, wide), (a - walk, b + walk), pave)
        _strip(canvas, (-wide, wide), (a - 0.2, b + 0.2), shade(pave, 0.75))
        _strip(canvas, (-wide, wide), (a, b), road)
        middle, start = (a + b) / 2, dice.uniform(0.0, 4.0)
        for k in range(-9, 9):
            _strip(canvas, (start + 4.5 * k, start + 4.5 * k + 2.2), (middle - 0.08, middle + 0.08), paint)
        if dice.chance(0.4):
            at = dice.uniform(-5.0, 5.0)
            for k in range(int((b - a) / 1.0)):
                _strip(canvas, (at, at + 2.6), (a + 0.2 + k, a + 0.7 + k), paint)
    else:
        row = dice.uniform(6.0, 12.0)
        for k in range(-8, 9):
            _strip(canvas, (2.6 * k, 2.6 * k + 0.12), (row, row + 5.0), paint)
        _strip(canvas, (-wide, wide), (street.back - walk, street.back), pave)


def _walls(canvas: Canvas, street: _Street, dice: Dice) -> None:
    camera, light = canvas.camera, canvas.light
    if street.kind == "along":
        left, right = street.road[0] - street.walk, street.road[1] + street.walk
        if dice.chance(0.75):
            for sketch in houses(camera, light, dice, (-36.0, street.back), (36.0, street.back), 0.85):
                canvas.scenery(sketch)
        for x, tone in ((left - dice.uniform(0, 3), 2 - light.left), (right + dice.uniform(0, 3), light.left)):
            if dice.chance(0.8):
                for sketch in houses(camera, light, dice, (x, street.back), (x, 2.0), tone):
                    canvas.scenery(sketch)
        return
    low, high = camera.reach(street.back)
    if dice.chance(0.85):
        for sketch in houses(camera, light, dice, (low - 6, street.back), (high + 6, street.back), 0.95):
            canvas.scenery(sketch)
    else:
        for _ in range(12):
            maker = FURNITURE[dice.integer(0, 1)][0]
            canvas.scenery(maker(camera, light, dice, dice.uniform(low, high), street.back))


def _heading(street: _Street, label: int, x: float, z: float, dice: Dice) -> float:
    if street.kind == "place":
        return dice.pick((0.0, math.pi, math.pi / 2, -math.pi / 2, dice.uniform(-math.pi, math.pi)))
    skew = dice.uniform(-0.12, 0.12) if dice.chance(0.7) else dice.uniform(-0.7, 0.7)
    if street.kind == "along":
        if dice.chance(0.06):
            return dice.pick((-1.0, 1.0)) * math.pi / 2 + skew
        return (0.0 if x > sum(street.road) / 2 else math.pi) + skew
    return (math.pi / 2 if z < sum(street.road) / 2 else -math.pi / 2) + skew


def _spot(canvas: Canvas, street: _Street, label: int, dice: Dice) -> tuple[float, float] | None:
    """A place (x, z) for an object of this class that suits the street, or None where chance found none."""
    camera, (metres, low, high) = canvas.camera, _SIZES[label]
    unit = camera.height / 96.0
    z = camera.focal * metres / (dice.log_uniform(low, high) * unit)
    a, b = street.road
    wheels = label in (0, 1)
    if street.kind == "across":
        if wheels or (label == 3 and dice.chance(0.75)):
            lane = dice.pick((0.22, 0.36, 0.64, 0.8))
            z = a + (b - a) * lane
        elif label == 2 and dice.chance(0.6):
            z = dice.pick((a - street.walk * dice.random(), b + street.walk * dice.random()))
    nearest = (5.5, 9.0, 3.6, 3.6, 3.6)[label]
    if not nearest < z < street.back - 1.0:
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
    return x, z


@dataclass(frozen=True, slots=True)
class _Thing:
    sketch: Sketch
    label: int
    x: float
    carrier: Sketch | None = None


def _object(canvas: Canvas, street: _Street, label: int, dice: Dice) -> tuple[_Thing, Solid | None] | None:
    spot = _spot(canvas, street, label, dice)
    if spot is None:
        return None
    x, z = spot
    camera, light = canvas.camera, canvas.light
    if label in (0, 1):
        maker = car if label == 0 else truck
        solid = maker(camera, light, dice, Pose(x, z, _heading(street, label, x, z, dice)))
        return _Thing(solid.sketch, label, x), solid
    if label == 2:
        height = dice.uniform(1.55, 1.9) if dice.chance(0.85) else dice.uniform(1.1, 1.4)
        sketch = pedestrian(camera, dice, x, z, height)
        return _Thing(sketch, label, x), Solid(sketch, footprint(Pose(x, z, 0.0), 0.4, 0.5), height)
    if label == 3:
        turn = abs(math.sin(_heading(street, label, x, z, dice) + math.atan2(x, z)))
        turn = max(0.16, turn)
        sketch = cyclist(camera, dice, x, z, turn)
        return _Thing(sketch, label, x), Solid(sketch, footprint(Pose(x, z, 0.0), 0.3, 1.7 * turn), 1.7)
    housing, carrier = traffic_light(camera, dice, x, z)
    return _Thing(housing, label, x, carrier), None


def _crowds(box: tuple[float, float, float, float], others: list[tuple[float, float, float, float]]) -> bool:
    """Whether a new rectangle would lie nearly on top of another one."""
    for other in others:
        w = min(box[2], other[2]) - max(box[0], other[0])
        h = min(box[3], other[3]) - max(box[1], other[1])
        if w > 0 and h > 0:
            smaller = min((box[2] - box[0]) * (box[3] - box[1]), (other[2] - other[0]) * (other[3] - other[1]))
            if w * h > 0.55 * smaller:
                return True
    return False


def _collide(first: Solid, second: Solid) -> bool:
    """Whether two solids would stand in the same place of the ground."""
    (ax, az), (bx, bz) = (tuple(zip(*solid.footprint, strict=True)) for solid in (first, second))
    return max(ax) > min(bx) and max(bx) > min(ax) and max(az) > min(bz) and max(bz) > min(az)


def _populate(canvas: Canvas, street: _Street, dice: Dice) -> tuple[list[_Thing], list[Solid]]:
    things: list[_Thing] = []
    solids: list[Solid] = []
    wanted = 0 if dice.chance(0.05) else dice.integer(2, 7)
    boxes: list[tuple[float, float, float, float]] = []
    for _ in range(wanted):
        label = dice.weighted(_FREQUENCY)
        for _ in range(8):
            found = _object(canvas, street, label, dice)
            if found is None:
                continue
            thing, solid = found
            box = thing.sketch.bounds()
            if _crowds(box, boxes) or (solid is not None and any(_collide(solid, other) for other in solids)):
                continue
            things.append(thing)
            boxes.append(box)
            if solid is not None:
                solids.append(solid)
            break
    return things, solids


def _clutter(canvas: Canvas, street: _Street, things: list[_Thing], dice: Dice) -> list[Sketch]:
    camera, light, pieces = canvas.camera, canvas.light, []
    for _ in range(dice.integer(3, 9)):
        maker = dice.weighted(FURNITURE)
        z = dice.log_uniform(6.0, max(8.0, street.back - 1.0))
        left, right = camera.reach(z)
        x = dice.uniform(left, right)
        a, b = street.road
        if street.kind == "along" and a - 0.5 < x < b + 0.5:
            x = a - dice.uniform(0.6, street.walk + 1.0) if dice.chance(0.5) else b + dice.uniform(0.6, street.walk + 1)
        if street.kind == "across" and a - 0.5 < z < b + 0.5:
            z = dice.uniform(b + 0.6, max(b + 0.7, street.back - 0.5))
        room = 3.2 if maker is container else 1.2
        if any(abs(x - thing.x) < room and abs(z - thing.sketch.z) < room for thing in things):
            continue
        pieces.append(maker(camera, light, dice, x, z))
    return pieces


def _shadows(canvas: Canvas, solids: list[Solid]) -> None:
    camera, (sx, sz) = canvas.camera, canvas.light.sun
    for solid in sorted(solids, key=lambda s: -s.sketch.z):
        base = solid.footprint
        canvas.shadow(camera.points((x, 0.0, z) for x, z in base), 1.1)
        if sx or sz:
            reach = solid.height * 0.8
            moved = [(x + sx * reach, max(1.0, z + sz * reach)) for x, z in base]
            for (p, q), (r, s) in zip(zip(base, base[1:] + base[:1], strict=True), zip(moved, moved[1:] + moved[:1], strict=True), strict=True):
                canvas.shadow(camera.points((x, 0.0, z) for x, z in (p, q, s, r)), 0.4)


def _precipitation(canvas: Canvas, fall: str, dice: Dice) -> None:
    width, height = canvas.camera.width, canvas.camera.height
    if fall == "rain":
        slant = dice.uniform(-0.35, 0.35)
        lines = []
        for _ in range(dice.integer(40, 130)):
            x, y, long = dice.uniform(0, width), dice.uniform(0, height), dice.uniform(5, 16)
            lines.append([(x, y), (x + slant * long, y + long)])
        canvas.streaks(lines, (200, 206, 216, 90))
    elif fall == "snow":
        flakes = []
        for _ in range(dice.integer(60, 200)):
            x, y = dice.uniform(0, width), dice.uniform(0, height)
            flakes.append([(x, y), (x + 1, y)])
        canvas.streaks(flakes, (244, 246, 250, 190), 2)


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
    light, (top, bottom, clouds), fall = _weather(dice)
    canvas = Canvas(_camera(dice, width, height), light)
    camera = canvas.camera
    backdrop = sky(dice, camera.width, camera.height, top, bottom, clouds)
    skyline(dice, backdrop, camera.horizon, mix(shade((96, 104, 110), light.ambient[1]), light.haze, 0.6))
    canvas.background(backdrop)
    street = _plan(dice)
    _ground(canvas, street, dice, fall)
    _walls(canvas, street, dice)
    canvas.multiply(texture(dice, camera.width, camera.height))
    things, solids = _populate(canvas, street, dice)
    _shadows(canvas, solids)
    painted: list[tuple[float, Sketch, int]] = []
    for number, thing in enumerate(things, start=1):
        painted.append((thing.sketch.z, thing.sketch, number))
        if thing.carrier is not None:
            painted.append((thing.carrier.z, thing.carrier, 0))
    painted.extend((piece.z, piece, 0) for piece in _clutter(canvas, street, things, dice))
    for _, sketch, number in sorted(painted, key=lambda entry: -entry[0]):
        canvas.paint(sketch, number)
    if light.lamps:
        canvas.glow()
    _precipitation(canvas, fall, dice)
    objects = _annotate(canvas, things)
    night = light.ambient[1] < 0.58 and light.haze[0] < 60
    picture = develop(
        dice,
        ImageChops.multiply(canvas.image.reduce(SUPERSAMPLING), texture(dice, width, height)),
        grain=dice.uniform(3.0, 9.0) if night else dice.uniform(1.5, 6.0),
        blur=dice.uniform(0.3, 0.7) if dice.chance(0.3) else 0.0,
        exposure=dice.uniform(1.0, 1.4) if night else dice.uniform(0.85, 1.25),
    )
    return Scene(picture, objects, canvas.instances())


def _annotate(canvas: Canvas, things: list[_Thing]) -> tuple[SceneObject, ...]:
    counts = np.bincount(canvas.instances().ravel(), minlength=len(things) + 1)
    kept: list[SceneObject] = []
    order = sorted(range(len(things)), key=lambda i: -things[i].sketch.z)
    scale = SUPERSAMPLING
    for i in order:
        shape = canvas.silhouette(things[i].sketch)
        if shape is None:
            continue
        x1, y1, x2, y2 = (edge / scale for edge in shape.box)
        seen = int(counts[i + 1])
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
