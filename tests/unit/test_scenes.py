"""Drawn scenes: the same bytes for the same seed, boxes that fit, files that other readers understand."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detdistill.data.sources import open_split
from detdistill.errors import ConfigError
from detdistill.scenes import KITTI_NAMES, SCENE_CLASSES, Scene, Split, draw_scene, make_scenes
from detdistill.scenes.canvas import SUPERSAMPLING, Camera, Canvas, Light, Sketch, Stand, Stroke
from detdistill.scenes.texture import Dice, palette

LIGHT = Light((1.0, 1.0, 1.0), (0.0, 0.0), 0.3, 1.0, lamps=False, haze=(0.0, 0.0, 0.0), sight=1e9)
CAMERA = Camera(width=100, height=60, focal=100.0, centre=50.0, horizon=30.0, eye=2.0)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(0, "train", index) for index in range(120)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes") / "made"
    make_scenes(out, train=9, val=4, seed=3, kitti=True)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    ("seed", "split", "size", "count", "pixels", "maps", "objects"),
    [
        (
            *(0, "train", (160, 96), 40),
            "1986c41b1d70051c492915bf5d506eff6af9ac403f1a267af673dae2df276c77",
            "b9967676e87a720759ed415c52aa102513d35a9415fc7a18eb4f9b946ddbfd45",
            "7a736c783d76e36f73fd10844a57d334e2f68e70e71d91f805bf708f867420fc",
        ),
        (
            *(1, "val", (160, 96), 20),
            "4b49c5763345dd55165334ba915b8a1088c447c920a8c0a88a7b052b0b1cc53b",
            "a655a5f113f4a657e0cea7b496cb424ec7391d0f70512e137658fb8506cf142c",
            "b81a1a679122311d5751e25651be9dfa66ebe1d1481fa9350a3b6ee41ddbbcf8",
        ),
        (
            *(7, "train", (321, 187), 20),
            "84ef6d5122dd3338d68ec3074620abdc44b11c72f69cd06ff46ddffd9cf157aa",
            "8ecc4a17dcb8d266811242860b9688b7a795d38833ba5babf7ab64dd050cd51e",
            "2bd8f77887890ed0db1ed74965a0783e0e385596f21aafdf7832b0bb6e0b5445",
        ),
    ],
)
def test_scenes_are_the_very_pixels_they_were(  # noqa: PLR0917
    seed: int, split: Split, size: tuple[int, int], count: int, pixels: str, maps: str, objects: str
) -> None:
    """Golden: SHA-256 over the first scenes of a split, taken before the drawing code was last rewritten.

    How to read a failure: `objects` alone differs where labels, boxes or areas are measured in another way; `maps`
    too where a shape moved, or a random draw was added, left out or exchanged with another (everything after it in
    the scene changes); `pixels` alone where colours, light, texture or noise changed. If no drawing code was
    touched, numpy or Pillow is another version than requirements/ pins. A wanted change raises `write.GENERATOR`.
    """
    picture, instance_map, told = hashlib.sha256(), hashlib.sha256(), []
    for index in range(count):
        scene = draw_scene(seed, split, index, width=size[0], height=size[1])
        picture.update(scene.image.tobytes())
        instance_map.update(scene.instances.tobytes())
        told += [(o.label, *o.box, o.area, o.truncated, o.occluded, o.instance) for o in scene.objects]
    found = (picture.hexdigest(), instance_map.hexdigest(), hashlib.sha256(repr(told).encode()).hexdigest())
    assert found == (pixels, maps, objects)


def test_a_scene_is_a_function_of_seed_split_and_index() -> None:
    first, again = draw_scene(5, "val", 7), draw_scene(5, "val", 7)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.objects == again.objects
    others = (draw_scene(6, "val", 7), draw_scene(5, "train", 7), draw_scene(5, "val", 8))
    assert len({first.image.tobytes(), *(other.image.tobytes() for other in others)}) == 4


@pytest.mark.parametrize(("width", "height"), [(160, 96), (96, 96), (321, 187), (64, 48)])
def test_any_size_gives_a_picture_of_that_size_with_boxes_inside(width: int, height: int) -> None:
    for index in range(6):
        scene = draw_scene(1, "train", index, width=width, height=height)
        assert scene.image.size == (width, height)
        assert scene.image.mode == "RGB"
        for item in scene.objects:
            x1, y1, x2, y2 = item.box
            assert 0 <= x1 < x2 <= width
            assert 0 <= y1 < y2 <= height


def test_boxes_are_large_enough_and_what_is_seen_lies_inside(scenes: list[Scene]) -> None:
    for scene in scenes:
        for item in scene.objects:
            x1, y1, x2, y2 = item.box
            assert min(x2 - x1, y2 - y1) >= 5
            assert 0 <= item.occluded <= 0.75
            assert 0 <= item.truncated <= 0.75
            rows, columns = np.nonzero(scene.instances == item.instance)
            assert item.area == len(rows) / SUPERSAMPLING**2 > 0
            assert x1 * SUPERSAMPLING <= columns.min() <= columns.max() < x2 * SUPERSAMPLING
            assert y1 * SUPERSAMPLING <= rows.min() <= rows.max() < y2 * SUPERSAMPLING


def test_the_box_of_an_object_that_nothing_hides_is_exactly_around_its_pixels(scenes: list[Scene]) -> None:
    tight: list[int] = []
    for scene in scenes:
        for item in scene.objects:
            if item.occluded == 0:
                rows, columns = np.nonzero(scene.instances == item.instance)
                around = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                assert tuple(edge / SUPERSAMPLING for edge in around) == item.box
                tight.append(item.label)
    assert set(tight) == set(range(len(SCENE_CLASSES)))


def test_scenes_hold_every_class_in_number_size_and_difficulty(scenes: list[Scene]) -> None:
    objects = [item for scene in scenes for item in scene.objects]
    counts = np.bincount([item.label for item in objects], minlength=len(SCENE_CLASSES))
    assert counts.min() >= 0.06 * len(objects)
    per_scene = np.array([len(scene.objects) for scene in scenes])
    assert 0 < (per_scene == 0).sum() < 0.15 * len(scenes)
    assert per_scene.max() <= 7
    assert 3 <= per_scene.mean() <= 5
    long = np.array([max(i.box[2] - i.box[0], i.box[3] - i.box[1]) for i in objects])
    assert (long < 10).mean() < 0.05
    assert np.percentile(long, 10) < 18
    assert 32 < np.percentile(long, 90) < 80
    assert 0.1 < np.mean([i.truncated > 0 for i in objects]) < 0.5
    assert 0.1 < np.mean([i.occluded > 0.1 for i in objects]) < 0.6


def test_pictures_differ_in_brightness_and_are_not_flat(scenes: list[Scene]) -> None:
    means = [np.asarray(scene.image).mean() for scene in scenes]
    assert min(means) < 50
    assert max(means) > 130
    assert min(np.asarray(scene.image).std() for scene in scenes) > 6


def test_a_nearer_thing_hides_a_farther_one_on_the_instance_map() -> None:
    canvas = Canvas(CAMERA, LIGHT)
    far = Sketch(20.0, [Stroke("polygon", [(10, 10), (29, 10), (29, 29), (10, 29)], (200, 0, 0))])
    near = Sketch(10.0, [Stroke("polygon", [(20, 0), (59, 0), (59, 59), (20, 59)], (0, 200, 0))])
    canvas.paint(far, 1)
    canvas.paint(near, 0)
    # 20 columns of 20 pixels, of which the nearer thing covers ten.
    assert int((np.asarray(canvas.ids) == 1).sum()) == canvas.ids.histogram()[1] == 200
    assert canvas.silhouette(far) == ((10, 10, 30, 30), 400, 0)


def test_truncation_is_the_share_of_the_rectangle_outside_the_picture() -> None:
    canvas = Canvas(CAMERA, LIGHT)
    sketch = Sketch(5.0, [Stroke("polygon", [(-30, 10), (10, 10), (10, 30), (-30, 30)], (9, 9, 9))])
    shape = canvas.silhouette(sketch)
    assert shape is not None
    box, _, truncated = shape
    assert box[0] == 0
    assert truncated == pytest.approx(0.75)


def test_a_thing_outside_the_picture_has_no_silhouette() -> None:
    sketch = Sketch(5.0, [Stroke("ellipse", [(296, 16), (304, 24)], (9, 9, 9))])
    assert Canvas(CAMERA, LIGHT).silhouette(sketch) is None


def test_distance_fades_into_haze_and_what_shines_ignores_the_ambient_light() -> None:
    dim = Light((0.5, 0.5, 0.5), (0.0, 0.0), 0.0, 1.0, lamps=True, haze=(100.0, 100.0, 100.0), sight=10.0)
    canvas = Canvas(CAMERA, dim)
    assert canvas.ink(0.0)((200, 100, 0), False) == (100, 50, 0)
    assert canvas.ink(0.0)((200, 100, 0), True) == (200, 100, 0)
    # exp(-10 / 10) = 0.3679 of 100, the rest of the haze's 100: no change; black becomes 63.
    assert canvas.ink(10.0)((200, 200, 0), False) == (100, 100, 63)


def test_the_camera_puts_nearer_and_higher_points_where_they_belong() -> None:
    assert CAMERA.point(0.0, 2.0, 7.0) == (50.0, 30.0)
    assert CAMERA.point(1.0, 0.0, 10.0) == (60.0, 50.0)
    assert CAMERA.reach(10.0) == (-5.0, 5.0)


def test_a_stand_draws_in_its_own_units_and_its_mirror_looks_the_other_way() -> None:
    stand = Stand(CAMERA, LIGHT, Sketch(10.0), 1.0, 10.0, height=0.5, unit=2.0, axis=(-1.0, 0.0))
    # 10 canvas pixels a metre; the foot stands at x = 60 and 1.5 m below the eye.
    assert stand.at(0.0, 0.0) == (60.0, 45.0)
    assert stand.at(0.5, 1.0) == (50.0, 25.0)
    stand.ellipse((0.0, 0.0), (0.5, 0.25), (9, 9, 9), glow=1.0)
    stand.line(((0.0, 0.0), (0.0, 1.0)), (9, 9, 9), width=0.01)
    ellipse, line = stand.sketch.strokes
    assert ellipse.points == [(50.0, 40.0), (70.0, 50.0)]
    assert ellipse.shines
    assert line.width == 1
    assert [radius for _, radius, _ in stand.sketch.halos] == [20.0]


@pytest.mark.parametrize(("yaw", "near_end"), [(0.0, -1.5), (np.pi, 1.5)])
def test_only_the_faces_of_a_box_that_the_camera_sees_are_drawn(yaw: float, near_end: float) -> None:
    # Right in front of the camera, 1 m high and below the eye: its top and the end that is nearer.
    stand = Canvas(CAMERA, LIGHT).stand(0.0, 10.0, float(yaw))
    stand.box((-1.5, 1.5), 1.0, (0.0, 1.0), (100, 100, 100))
    assert len(stand.sketch.strokes) == 2
    assert stand.sketch.strokes[1].points[0] == pytest.approx(stand.at(near_end, 0.0, -1.0))
    assert stand.flank(1.0) == 0
    # Far to the right and looking away: its left flank too.
    aside = Canvas(CAMERA, LIGHT).stand(5.0, 10.0, 0.0)
    aside.box((-1.5, 1.5), 1.0, (0.0, 1.0), (100, 100, 100))
    assert len(aside.sketch.strokes) == 3
    assert aside.flank(1.0) == 1.0


def test_palettes_are_hexadecimal_colours() -> None:
    assert palette("ff8000 000010") == ((255, 128, 0), (0, 0, 16))


def test_dice_weights_and_ranges() -> None:
    dice = Dice((1,))
    assert {dice.integer(2, 4) for _ in range(200)} == {2, 3, 4}
    drawn = [dice.weighted((("a", 3.0), ("b", 1.0))) for _ in range(4000)]
    assert drawn.count("a") == pytest.approx(3000, abs=150)
    assert all(2.0 <= dice.log_uniform(2.0, 8.0) < 8.0 for _ in range(100))


def test_the_coco_files_agree_with_the_scenes(folder: Path) -> None:
    for split, count in (("train", 9), ("val", 4)):
        content = json.loads((folder / f"{split}.json").read_text())
        assert [c["name"] for c in content["categories"]] == list(SCENE_CLASSES)
        assert [image["id"] for image in content["images"]] == list(range(1, count + 1))
        assert [a["id"] for a in content["annotations"]] == list(range(1, len(content["annotations"]) + 1))
        for index, image in enumerate(content["images"]):
            scene = draw_scene(3, "train" if split == "train" else "val", index)
            with Image.open(folder / "images" / image["file_name"]) as stored:
                assert stored.size == (image["width"], image["height"]) == (160, 96)
                assert stored.tobytes() == scene.image.tobytes()
            mine = [a for a in content["annotations"] if a["image_id"] == image["id"]]
            assert len(mine) == len(scene.objects)
            for annotation, item in zip(mine, scene.objects, strict=True):
                x, y, w, h = annotation["bbox"]
                assert (x, y, x + w, y + h) == item.box
                assert annotation["category_id"] == item.label + 1
                assert annotation["area"] == item.area
                assert annotation["iscrowd"] == 0


def test_the_kitti_labels_agree_with_the_scenes(folder: Path) -> None:
    number = 0
    splits: tuple[tuple[Split, int], ...] = (("train", 9), ("val", 4))
    for split, count in splits:
        stems = (folder / "kitti" / "ImageSets" / f"{split}.txt").read_text().split()
        assert stems == [f"{number + k:06d}" for k in range(count)]
        for index, stem in enumerate(stems):
            picture = folder / "kitti" / "training" / "image_2" / f"{stem}.png"
            assert picture.read_bytes() == (folder / "images" / f"{split}_{index:06d}.png").read_bytes()
            lines = (folder / "kitti" / "training" / "label_2" / f"{stem}.txt").read_text().splitlines()
            objects = draw_scene(3, split, index).objects
            assert len(lines) == len(objects)
            for line, item in zip(lines, objects, strict=True):
                columns = line.split(" ")
                assert len(columns) == 15
                assert columns[0] == KITTI_NAMES[item.label]
                assert float(columns[1]) == pytest.approx(item.truncated, abs=0.0051)
                assert int(columns[2]) == (0 if item.occluded < 0.1 else 1 if item.occluded < 0.5 else 2)
                assert tuple(float(c) for c in columns[4:8]) == item.box
                assert columns[3] == "-10.00"
                assert columns[14] == "-10.00"
        number += count


@pytest.mark.parametrize("split", ["train", "val"])
def test_both_layouts_are_read_as_the_same_boxes(folder: Path, split: str) -> None:
    (coco, flaws), (kitti, others) = open_split(folder, split), open_split(folder / "kitti", split)
    assert not dict(flaws.counts)
    assert not dict(others.counts)
    assert coco.class_names == SCENE_CLASSES
    assert len(kitti.class_names) == 9
    assert [kitti.class_names[label] for label in kitti.labels] == [KITTI_NAMES[label] for label in coco.labels]
    assert np.array_equal(kitti.boxes, coco.boxes)
    assert np.array_equal(kitti.offsets, coco.offsets)
    assert np.array_equal(kitti.sizes, coco.sizes)


def test_two_workers_write_the_same_bytes(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    make_scenes(tmp_path / "one", train=30, val=4, seed=9, progress=lambda done, whole: calls.append((done, whole)))
    make_scenes(tmp_path / "two", train=30, val=4, seed=9, workers=2)
    first = contents(tmp_path / "one")
    assert first == contents(tmp_path / "two")
    assert len(first) == 34 + 3
    assert calls[-1] == (34, 34)
    assert all(a[0] < b[0] for a, b in pairwise(calls))


def test_a_larger_data_set_begins_with_the_smaller_one(folder: Path, tmp_path: Path) -> None:
    make_scenes(tmp_path / "s", train=2, val=0, seed=3)
    for name in ("train_000000.png", "train_000001.png"):
        assert (tmp_path / "s" / "images" / name).read_bytes() == (folder / "images" / name).read_bytes()
    assert json.loads((tmp_path / "s" / "val.json").read_text())["images"] == []


def test_the_same_settings_leave_the_folder_alone_and_others_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "s"
    out.mkdir()
    make_scenes(out, train=3, val=1, seed=0)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    calls: list[tuple[int, int]] = []
    make_scenes(out, train=3, val=1, seed=0, progress=lambda done, whole: calls.append((done, whole)))
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    assert calls == [(4, 4)]
    with pytest.raises(ConfigError, match=r"must be made with train 4, seed 1, got train 3, seed 0\. Give another"):
        make_scenes(out, train=4, val=1, seed=1)
    (out / "images" / "train_000001.png").unlink()
    with pytest.raises(ConfigError, match=r"must be complete, got a folder with files missing\. Give another"):
        make_scenes(out, train=3, val=1, seed=0)


def test_a_folder_with_other_files_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"must be new or empty, got one with other files\. Give another folder"):
        make_scenes(tmp_path, train=1, val=1, seed=0)
    with pytest.raises(ConfigError, match=r"must be a folder, got a file\. Give another name\."):
        make_scenes(tmp_path / "mine.txt", train=1, val=1, seed=0)
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("train", "val", "seed", "width", "message"),
    [
        (-1, 1, 0, 160, r"train must be a whole number from 0 to 999999, got -1\. Give another train\."),
        (1, -2, 0, 160, r"val must be a whole number from 0 to 999999, got -2\."),
        (1, 1, -3, 160, r"seed must be a whole number from 0 to \d+, got -3\."),
        (1, 1, 0, 8, r"width must be a whole number from 64 to 4096, got 8\."),
    ],
)
def test_settings_out_of_range_are_refused(  # noqa: PLR0917
    tmp_path: Path, train: int, val: int, seed: int, width: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_scenes(tmp_path / "s", train=train, val=val, seed=seed, width=width)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_run_leaves_no_folder(tmp_path: Path, workers: int) -> None:
    def stop(done: int, whole: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_scenes(tmp_path / "s", train=12, val=1, seed=0, workers=workers, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_drawing_needs_no_torch() -> None:
    code = "import sys, detdistill.scenes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
