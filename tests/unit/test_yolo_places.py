"""YOLO data sets as people have them: `path:`, darknet's and labelImg's files, lists of other machines, stray files."""

from __future__ import annotations

import os
import shutil

import pytest

from detdistill.data.sources import find_split, open_split, present_splits
from detdistill.errors import ConfigError
from folders_by_hand import make_darknet, make_yolo, picture, write


def files_of(annotations) -> set[str]:
    return {str(annotations.path(index)) for index in range(len(annotations))}


# path:


@pytest.mark.parametrize("path", ["../set", "../set/", "{absolute}", "./../set/."])
@pytest.mark.parametrize("also_beside", [False, True])
def test_path_is_honoured(tmp_path, path, also_beside):
    make_yolo(tmp_path / "set")
    if also_beside:  # never another data set
        make_yolo(tmp_path / "cfg")
        (tmp_path / "cfg" / "data.yaml").unlink()
    text = f"path: {path.format(absolute=tmp_path / 'set')}\ntrain: images/train\nval: images/val\nnames: [Car, Van]\n"
    file = write(tmp_path / "cfg" / "mine.yaml", text)
    for place in (file, file.parent):
        assert present_splits(place) == ("train", "val")
        annotations, problems = open_split(place, "train")
        assert len(annotations) == 3
        assert all(name.startswith(str(tmp_path / "set")) for name in files_of(annotations))
        assert problems.summary() == []
        assert "mine.yaml with path" in find_split(place, "train").text()


def test_a_path_that_is_not_there_is_refused_by_name_or_said(tmp_path):
    for path in ("a" * 300, "[1]", "''"):
        file = write(tmp_path / "odd" / "data.yaml", f"path: {path}\ntrain: images/train\nnames: [Car]\n")
        with pytest.raises(ConfigError, match=r"'path' of|must name a folder"):
            open_split(file, "train")
    text = "path: /content/set\ntrain: images/train\nval: images/val\nnames: [Car, Van]\n"
    file = write(tmp_path / "cfg" / "data.yaml", text)
    with pytest.raises(ConfigError, match=r"'path' of .*data\.yaml must be .*, got '/content/set', and .* not exist"):
        open_split(file, "train")
    make_yolo(tmp_path / "cfg")
    write(file, text)
    assert len(open_split(file, "train")[0]) == 3
    assert "(its path /content/set is not there: its own folder taken)" in find_split(file, "train").text()


def test_places_are_of_the_folder_that_path_names_alone(tmp_path):
    make_yolo(tmp_path)
    (tmp_path / "sub").mkdir()
    write(tmp_path / "data.yaml", "path: sub\ntrain: images/train\nval: images/val\nnames: [Car, Van]\n")
    with pytest.raises(ConfigError, match=r"got 'images/train', and .*sub/images/train does not exist"):
        open_split(tmp_path, "train")


# Splits to test on.


def test_a_test_split_is_one_where_it_is_there(tmp_path):
    make_yolo(tmp_path)
    text = (tmp_path / "data.yaml").read_text() + "test: ../test/images\n"
    write(tmp_path / "data.yaml", text)
    assert present_splits(tmp_path) == ("train", "val")
    shutil.copytree(tmp_path / "images" / "val", tmp_path / "test" / "images")
    shutil.copytree(tmp_path / "labels" / "val", tmp_path / "test" / "labels")
    assert present_splits(tmp_path) == ("train", "val", "test")
    annotations, problems = open_split(tmp_path, "test")
    assert (len(annotations), len(annotations.boxes), problems.summary()) == (2, 3, [])


# Lists of other machines.


def test_listed_names_are_matched_by_their_tail_and_told(tmp_path):
    make_yolo(tmp_path)
    write(tmp_path / "data.yaml", "train: lists/my.txt\nnames: [Car, Van]\n")
    lines = [
        "/elsewhere/set/images/train/a.png",
        "data\\obj\\images\\train\\b.png",
        "images/train/c.png",
        "/x/none.png",
    ]
    path = write(tmp_path / "lists" / "my.txt", "\n".join(lines))
    annotations, problems = open_split(tmp_path, "train")
    assert [annotations.file_name(index) for index in range(3)] == [f"images/train/{stem}.png" for stem in "abc"]
    assert problems.counts == {"file name of another machine": 2, "unusable file name": 1}
    assert [item.where for item in problems] == [f"{path}, line {line}" for line in (1, 2, 4)]


# Darknet and labelImg.


SPLITS = {"train": "abc", "val": "de"}


@pytest.mark.parametrize("by_file", [False, True])
def test_darknet_as_cvat_exports_it(tmp_path, by_file):
    make_darknet(tmp_path, valid=True)
    place = tmp_path / "obj.data" if by_file else tmp_path
    assert present_splits(place) == ("train", "val")
    train, val = (open_split(place, split)[0] for split in ("train", "val"))
    assert (len(train), len(train.boxes), len(val), len(val.boxes)) == (3, 3, 2, 3)
    assert train.class_names == ("Car", "Van")
    with pytest.raises(ConfigError, match=r"must hold the test split as test = test\.txt in obj\.data"):
        open_split(place, "test")


def test_darknet_with_one_list_is_divided_and_said(tmp_path):
    make_darknet(tmp_path, valid=False)
    said: list[str] = []
    train, val = (open_split(tmp_path, split, say=said.append)[0] for split in ("train", "val"))
    assert (len(train), len(val)) == (4, 1)
    assert not files_of(train) & files_of(val)
    assert "2 of every 10 images, drawn by seed 0" in said[1]
    picture(tmp_path / "obj_train_data" / "z.png")
    found = open_split(tmp_path, "train")[1]
    assert [item.where for item in found if item.kind == "image in no split"] == [
        str(tmp_path / "obj_train_data" / "z.png")
    ]


@pytest.mark.parametrize("layout", ["beside", "folders", "splits"])
def test_labelimg(tmp_path, layout):
    make_yolo(tmp_path / "made")
    for split, stems in SPLITS.items():
        for stem in stems:
            image, label = {
                "beside": ("", ""),
                "folders": ("images", "labels"),
                "splits": (f"images/{split}", f"labels/{split}"),
            }[layout]
            for source, place, ending in (("images", image, ".png"), ("labels", label, ".txt")):
                target = tmp_path / "set" / place / f"{stem}{ending}"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(tmp_path / "made" / source / split / f"{stem}{ending}", target)
    write(tmp_path / "set" / ("labels/" if layout == "folders" else "") / "classes.txt", "Car\nVan\n")
    read = {split: open_split(tmp_path / "set", split) for split in ("train", "val")}
    assert {split: len(own[0]) for split, own in read.items()} == (
        {"train": 3, "val": 2} if layout == "splits" else {"train": 4, "val": 1}
    )
    assert sum(len(own[0].boxes) for own in read.values()) == 6
    assert [own[1].summary() for own in read.values()] == [[], []]
    assert find_split(tmp_path / "set", "val").drawn == (layout != "splits")


# Nothing vanishes untold.


def test_label_files_without_image_and_images_of_unknown_endings(tmp_path):
    make_yolo(tmp_path)
    images, labels = tmp_path / "images" / "train", tmp_path / "labels" / "train"
    (images / "a.png").rename(images / "a.heic")
    (images / "b.png").unlink()
    write(labels / "classes.txt", "Car\nVan\n")
    write(labels / "deep" / "z.txt", "0 .5 .5 .5 .5\n")
    annotations, problems = open_split(tmp_path, "train")
    assert len(annotations) == 1
    told = {(item.kind, item.where) for item in problems}
    assert told == {
        ("image of unknown ending", str(images / "a.heic")),
        ("label file without image", str(labels / "b.txt")),
        ("label file without image", str(labels / "deep" / "z.txt")),
    }
    assert problems.lost("images") == 3


def test_label_files_in_capitals_and_two_images_of_one(tmp_path):
    make_yolo(tmp_path)
    os.rename(tmp_path / "labels" / "train" / "a.txt", tmp_path / "labels" / "train" / "a.TXT")
    picture(tmp_path / "images" / "train" / "a.jpg")
    annotations, problems = open_split(tmp_path, "train")
    assert (len(annotations), len(annotations.boxes)) == (4, 5)
    assert problems.counts == {"several images of one label file": 1}


def test_files_of_macos_are_passed_over_and_told(tmp_path):
    make_yolo(tmp_path)
    for name in ("images/train/._a.png", "images/train/.DS_Store", "labels/train/._a.txt"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    annotations, problems = open_split(tmp_path, "train")
    assert len(annotations) == 3
    assert problems.counts == {"files of macOS passed over": 1}
    assert problems.skipped == 0
