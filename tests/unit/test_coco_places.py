"""COCO files as people export them: which file is whose, where its images are, and one file for both splits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detdistill.api.pieces import run_config
from detdistill.data.sources import find_split, open_split, present_splits
from detdistill.errors import ConfigError, DataError
from detdistill.jobs.data import check_data_job, convert_data_job
from detdistill.jobs.stages import open_inputs
from folders_by_hand import HEIGHT, WIDTH, make_yolo, picture
from watched_jobs import Watcher


def coco(path: Path, *names: str, start: int = 1) -> Path:
    """A file with one box an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [
        {"id": own, "file_name": name, "width": WIDTH, "height": HEIGHT} for own, name in enumerate(names, start=start)
    ]
    boxes = [
        {"id": item["id"], "image_id": item["id"], "category_id": 1, "bbox": [2, 3, 10, 10], "area": 100}
        for item in images
    ]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "Car"}]}
    path.write_text(json.dumps(content))
    return path


TEN = tuple(f"{index}.png" for index in range(10))


def names_of(annotations) -> set[str]:
    return {annotations.file_name(index) for index in range(len(annotations))}


# One file for both splits.


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("annotations/instances_default.json", "images/default"),
        ("annotations/instances_default.json", "images"),
        ("_annotations.coco.json", "."),
        ("everything.json", "images"),
    ],
)
@pytest.mark.parametrize("by_file", [True, False])
def test_one_file_is_divided_by_a_seed_and_said(tmp_path, file, images, by_file):
    coco(tmp_path / file, *TEN)
    for name in TEN:
        picture(tmp_path / images / name)
    place = tmp_path / file if by_file else tmp_path
    said: list[str] = []
    assert present_splits(place) == ("train", "val")
    train, val = (open_split(place, split, say=said.append) for split in ("train", "val"))
    assert (len(train[0]), len(val[0])) == (8, 2)
    assert names_of(train[0]) | names_of(val[0]) == set(TEN)
    assert train[1].summary() == val[1].summary() == []
    assert len(train[0].boxes) == 8
    assert len(val[0].boxes) == 2
    assert "2 of every 10 images, drawn by seed 0" in said[1]
    other, _ = open_split(place, "val", split_seed=1)
    assert names_of(other) != names_of(val[0])
    # What is to be evaluated is named: all of it.
    assert len(open_split(tmp_path / file, "val", exact=True)[0]) == 10
    outcome = check_data_job(place)
    assert {name: own.images for name, own in outcome.splits.items()} == {"train": 8, "val": 2}


def test_dividing_one_file_as_data_convert_does(tmp_path):
    path = coco(tmp_path / "all.json", *TEN)
    for name in TEN:
        picture(tmp_path / name)
    written = convert_data_job(path, to="coco", out=tmp_path / "out", split_seed=3)
    assert written.images == {"train": 8, "val": 2}
    assert names_of(open_split(tmp_path / "out", "val")[0]) == names_of(open_split(path, "val", split_seed=3)[0])


def test_images_of_two_ids_stay_on_one_side(tmp_path):
    path = coco(tmp_path / "all.json", *TEN, *TEN)
    for name in TEN:
        picture(tmp_path / name)
    train, problems = open_split(path, "train")
    val, _ = open_split(path, "val")
    assert (len(train), len(val)) == (16, 4)
    assert not names_of(train) & names_of(val)
    assert problems.counts == {"image file of two ids": 10}


def test_a_stray_json_file_hides_no_other_format(tmp_path):
    make_yolo(tmp_path)
    coco(tmp_path / "export.json", "a.png")
    assert find_split(tmp_path, "train").text().startswith("YOLO")


# Which file is whose.


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("trainset.json", "valset.json"),
        ("coco_train.json", "coco_valid.json"),
        ("annotations/train_annotations.json", "annotations/validation_annotations.json"),
        ("training.json", "validation.json"),
        ("instances_train2017.json", "instances_val2017.json"),
    ],
)
def test_names_that_tell_the_split(tmp_path, train, val):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    files = {"train": coco(tmp_path / train, "a.png"), "val": coco(tmp_path / val, "b.png")}
    assert present_splits(tmp_path) == ("train", "val")
    for split, path in files.items():
        for place in (tmp_path, *files.values()):
            found = find_split(place, split)
            assert (found.source, found.drawn) == (path, False)


def test_a_file_whose_sibling_is_missing_is_refused(tmp_path):
    picture(tmp_path / "a.png")
    path = coco(tmp_path / "trainset.json", "a.png")
    with pytest.raises(ConfigError, match=r"val split beside .*trainset\.json must be valset\.json, got no such file"):
        find_split(path, "val")
    with pytest.raises(ConfigError, match=r"must hold val\.json .*got trainset\.json\."):
        find_split(tmp_path, "val")


def test_two_files_that_tell_no_split_are_refused(tmp_path):
    for name in ("a", "b"):
        coco(tmp_path / f"{name}.json", "a.png")
    with pytest.raises(ConfigError, match=r"one JSON file of the train split, got a\.json, b\.json\. Rename a file"):
        find_split(tmp_path, "train")


@pytest.mark.parametrize("val", ["valid", "val", "validation"])
def test_roboflow(tmp_path, val):
    for folder, name in (("train", "a.jpg"), (val, "b.jpg"), ("test", "c.jpg")):
        coco(tmp_path / folder / "_annotations.coco.json", name)
        picture(tmp_path / folder / name)
    for split, name in (("train", "a.jpg"), ("val", "b.jpg"), ("test", "c.jpg")):
        for place in (tmp_path, tmp_path / "train" / "_annotations.coco.json"):
            annotations, problems = open_split(place, split)
            assert (names_of(annotations), problems.summary()) == ({name}, [])
    assert find_split(tmp_path, "val").text().startswith(f"COCO: {val}/_annotations.coco.json, images in")


# Names as other machines write them.


@pytest.mark.parametrize(
    "prefix",
    ["images\\", "C:\\elsewhere\\set\\images\\", "/elsewhere/set/images/", "data/obj/", ".\\images\\", "d:/set/"],
)
def test_names_of_another_machine_are_matched_by_their_tail_and_told(tmp_path, prefix):
    path = coco(tmp_path / "val.json", *(f"{prefix}{name}" for name in ("x/a.png", "b.png")))
    for name in ("x/a.png", "b.png"):
        picture(tmp_path / "images" / name)
    annotations, problems = open_split(path, "val", check_images=True)
    assert len(annotations) == len(annotations.boxes) == 2
    assert all(annotations.path(index).is_file() for index in range(2))
    assert problems.counts == {"file name of another machine": 2}
    assert problems.repaired == 2


def test_a_file_with_a_back_slash_in_its_own_name_is_left_as_it_is(tmp_path):
    path = coco(tmp_path / "val.json", "images\\a.png")
    picture(tmp_path / "images\\a.png")
    annotations, problems = open_split(path, "val")
    assert (names_of(annotations), problems.summary()) == ({"images\\a.png"}, [])


def test_names_that_are_nowhere_are_refused(tmp_path):
    path = coco(tmp_path / "val.json", "images\\a.png")
    with pytest.raises(DataError, match=r"must be in one of the folders .*such as images\\a\.png"):
        open_split(path, "val")


# What a run reads.


def opened(tmp_path, *settings, **words):
    watcher = Watcher()
    config = run_config(*settings, purpose="train", student="fcos/tiny", out=tmp_path / "run", steps=1, **words)
    return open_inputs(config, progress=watcher).data, watcher.lines


def test_a_run_never_takes_one_file_for_both_splits(tmp_path):
    path = coco(tmp_path / "instances_default.json", *TEN)
    other = coco(tmp_path / "b.json", *TEN[:3])
    for name in TEN:
        picture(tmp_path / name)
    data, said = opened(tmp_path, data=path)
    assert (len(data.train), len(data.val)) == (8, 2)
    assert not names_of(data.train) & names_of(data.val)
    # Files that are named for their splits are whole, and images in both are told.
    data, said = opened(tmp_path, f"data.train={path}", f"data.val={other}")
    assert (len(data.train), len(data.val)) == (10, 3)
    assert any("3 of 3 images are training images too" in line for line in said)
    data, said = opened(tmp_path, f"data.train={path}", f"data.val={path}")
    assert any("10 of 10 images are training images too" in line for line in said)
