"""Drawn scenes: the same bytes for the same seed, boxes that fit, files that other readers understand."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detdistill.errors import ConfigError
from detdistill.scenes import KITTI_TYPES, SCENE_CLASSES, Scene, draw_scene, make_scenes, write_kitti
from detdistill.scenes.canvas import SUPERSAMPLING, Camera, Canvas, Light, Sketch
from detdistill.scenes.texture import Dice

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
    far, near = Sketch(20.0), Sketch(10.0)
    far.polygon([(10, 10), (29, 10), (29, 29), (10, 29)], (200, 0, 0))
    near.polygon([(20, 0), (59, 0), (59, 59), (20, 59)], (0, 200, 0))
    canvas.paint(far, 1)
    canvas.paint(near, 0)
    # 20 columns of 20 pixels, of which the nearer thing covers ten.
    assert int((canvas.instances() == 1).sum()) == canvas.counts()[1] == 200
    shape = canvas.silhouette(far)
    assert shape is not None
    assert shape.box == (10, 10, 30, 30)
    assert shape.pixels == 400
    assert shape.truncated == 0


def test_truncation_is_the_share_of_the_rectangle_outside_the_picture() -> None:
    canvas = Canvas(CAMERA, LIGHT)
    sketch = Sketch(5.0)
    sketch.polygon([(-30, 10), (10, 10), (10, 30), (-30, 30)], (9, 9, 9))
    shape = canvas.silhouette(sketch)
    assert shape is not None
    assert shape.box[0] == 0
    assert shape.truncated == pytest.approx(0.75)


def test_a_thing_outside_the_picture_has_no_silhouette() -> None:
    sketch = Sketch(5.0)
    sketch.ellipse((300.0, 20.0), 4, 4, (9, 9, 9))
    assert Canvas(CAMERA, LIGHT).silhouette(sketch) is None


def test_distance_fades_into_haze_and_what_shines_ignores_the_ambient_light() -> None:
    dim = Light((0.5, 0.5, 0.5), (0.0, 0.0), 0.0, 1.0, lamps=True, haze=(100.0, 100.0, 100.0), sight=10.0)
    canvas = Canvas(CAMERA, dim)
    assert canvas.fill((200, 100, 0), 0.0) == (100, 50, 0)
    assert canvas.fill((200, 100, 0), 0.0, shines=True) == (200, 100, 0)
    # exp(-10 / 10) = 0.3679 of 100, the rest of the haze's 100: no change; black becomes 63.
    assert canvas.fill((200, 200, 0), 10.0) == (100, 100, 63)


def test_the_camera_puts_nearer_and_higher_points_where_they_belong() -> None:
    assert CAMERA.point(0.0, 2.0, 7.0) == (50.0, 30.0)
    assert CAMERA.point(1.0, 0.0, 10.0) == (60.0, 50.0)
    assert CAMERA.reach(10.0) == (-5.0, 5.0)


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
                assert (annotation["truncated"], annotation["occluded"]) == (item.truncated, item.occluded)
                assert annotation["iscrowd"] == 0


def test_the_kitti_labels_agree_with_the_coco_boxes(folder: Path) -> None:
    number = 0
    for split in ("train", "val"):
        content = json.loads((folder / f"{split}.json").read_text())
        stems = (folder / "kitti" / "ImageSets" / f"{split}.txt").read_text().split()
        assert stems == [f"{number + k:06d}" for k in range(len(content["images"]))]
        for stem, image in zip(stems, content["images"], strict=True):
            picture = folder / "kitti" / "training" / "image_2" / f"{stem}.png"
            assert picture.read_bytes() == (folder / "images" / image["file_name"]).read_bytes()
            lines = (folder / "kitti" / "training" / "label_2" / f"{stem}.txt").read_text().splitlines()
            mine = [a for a in content["annotations"] if a["image_id"] == image["id"]]
            assert len(lines) == len(mine)
            for line, annotation in zip(lines, mine, strict=True):
                columns = line.split(" ")
                assert len(columns) == 15
                assert columns[0] == KITTI_TYPES[annotation["category_id"] - 1]
                assert float(columns[1]) == pytest.approx(annotation["truncated"], abs=0.0051)
                hidden = annotation["occluded"]
                assert int(columns[2]) == (0 if hidden < 0.1 else 1 if hidden < 0.5 else 2)
                x, y, w, h = annotation["bbox"]
                assert [float(c) for c in columns[4:8]] == [x, y, x + w, y + h]
                assert columns[3] == "-10.00"
                assert columns[14] == "-10.00"
        number += len(stems)


def test_write_kitti_alone_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    write_kitti(folder, tmp_path / "kitti")
    assert contents(tmp_path / "kitti") == contents(folder / "kitti")
    with pytest.raises(ConfigError, match=r"must be new or empty, got one in use\. Give another folder\."):
        write_kitti(folder, tmp_path / "kitti")
    with pytest.raises(ConfigError, match=r"got one without scenes\.json\. Make it first\."):
        write_kitti(tmp_path, tmp_path / "other")


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


def test_an_interrupted_run_leaves_no_folder(tmp_path: Path) -> None:
    def stop(done: int, whole: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_scenes(tmp_path / "s", train=2, val=1, seed=0, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_drawing_needs_no_torch() -> None:
    code = "import sys, detdistill.scenes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
