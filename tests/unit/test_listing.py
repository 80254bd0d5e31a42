from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from detdistill.data.listing import files_below
from detdistill.data.problems import Problems
from detdistill.data.sources import open_split, present_splits
from detdistill.errors import DataError
from detdistill.jobs.data import check_data_job
from folders_by_hand import make_kitti, make_voc, make_yolo, picture, write

PNG = frozenset({".png"})


def told(problems: Problems) -> list[str]:
    return [f"{problem.kind} | {problem.text()}" for problem in problems]


# Images in both splits.


@pytest.mark.parametrize(("make", "lists"), [(make_voc, "ImageSets/Main"), (make_kitti, "ImageSets")])
def test_an_image_in_both_lists_is_told_with_the_val_split(tmp_path, make, lists):
    make(tmp_path)
    write(tmp_path / lists / "train.txt", "a.png\nb\nc\n")
    path = write(tmp_path / lists / "val.txt", "d\na\ne\nc.png\n")
    annotations, problems = open_split(tmp_path, "val")
    assert len(annotations) == 4
    assert told(problems) == [
        f"image in both splits | {path}, line 2: 'a' is in the train split too (kept)",
        f"image in both splits | {path}, line 4: 'c' is in the train split too (kept)",
    ]
    assert len(open_split(tmp_path, "train")[1]) == 0
    outcome = check_data_job(tmp_path)
    assert outcome.splits["val"].problems == {"image in both splits": 2}
    assert "  image in both splits: 2 kept" in outcome.table()


@pytest.mark.parametrize("val", ["images/train", "my.txt"])
def test_an_image_in_both_splits_of_yolo(tmp_path, val):
    make_yolo(tmp_path)
    write(tmp_path / "data.yaml", f"train: images/train\nval: {val}\nnames: [Car, Van]\n")
    path = write(tmp_path / "my.txt", "images/val/d.png\nimages/train/a.png\n")
    _, problems = open_split(tmp_path, "val")
    if val == "my.txt":
        what = "'images/train/a.png' is in the train split too"
        assert told(problems) == [f"image in both splits | {path}, line 2: {what} (kept)"]
    else:
        assert problems.counts == {"image in both splits": 3}
    assert len(open_split(tmp_path, "train")[1]) == 0


def test_the_val_split_of_yolo_can_be_read_without_the_train_split(tmp_path):
    make_yolo(tmp_path)
    shutil.rmtree(tmp_path / "images" / "train")
    annotations, problems = open_split(tmp_path, "val")
    assert (len(annotations), len(problems)) == (2, 0)


# Empty lists.


@pytest.mark.parametrize(("make", "lists"), [(make_voc, "ImageSets/Main"), (make_kitti, "ImageSets")])
def test_a_split_with_an_empty_list_is_none(tmp_path, make, lists):
    make(tmp_path)
    write(tmp_path / lists / "val.txt", "\n \n")
    assert present_splits(tmp_path) == ("train",)
    with pytest.raises(DataError, match=r"the val split .* must list at least one image"):
        open_split(tmp_path, "val")
    write(tmp_path / lists / "train.txt", "")
    assert present_splits(tmp_path) == ("train", "val")
    failures = check_data_job(tmp_path).failures
    assert list(failures) == ["train", "val"]
    assert all("at least one" in failure for failure in failures.values())


# The walk through folders.


def test_nothing_below_an_empty_or_absent_folder(tmp_path):
    assert files_below(tmp_path, PNG) == files_below(tmp_path / "absent", PNG) == []


def test_names_that_cannot_be_used_are_told(tmp_path):
    for name in ("a.png", "sub/b.PNG", "c.txt", "b:1.png", "..\\d.png"):
        write(tmp_path / name, "")
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).touch()
    except OSError:
        pytest.skip("this disk takes names in UTF-8 alone")
    problems = Problems()
    assert files_below(tmp_path, PNG, problems) == ["a.png", "sub/b.PNG"]
    assert told(problems) == [
        f"unusable file name | {tmp_path}: '..\\\\d.png' leads out of the images' folder (skipped)",
        f"unusable file name | {tmp_path}: 'b:1.png' is absolute (skipped)",
        f"unusable file name | {tmp_path}: '\\udcff.png' holds characters that no file name has (skipped)",
    ]
    assert "\n".join(told(problems)).encode()


def test_the_image_of_a_name_that_cannot_be_used_is_told_on_reading(tmp_path):
    make_yolo(tmp_path)
    picture(tmp_path / "images" / "train" / "b:1.png")
    write(tmp_path / "labels" / "train" / "b:1.txt", "0 .5 .5 .5 .5\n")
    annotations, problems = open_split(tmp_path, "train")
    assert len(annotations) == 3
    place = tmp_path / "images" / "train"
    assert told(problems) == [f"unusable file name | {place}: 'b:1.png' is absolute (skipped)"]


@pytest.mark.parametrize(
    ("make", "images", "labels"),
    [
        (make_voc, "JPEGImages", "Annotations"),
        (make_kitti, "training/image_2", "training/label_2"),
        (make_yolo, "images/train", "labels/train"),
    ],
)
def test_linked_folders_are_followed(tmp_path, make, images, labels):
    make(tmp_path / "data")
    for folder, name in ((images, "a.png"), (labels, "a.xml" if "Ann" in labels else "a.txt")):
        outside = tmp_path / "disk" / folder
        outside.mkdir(parents=True)
        os.rename(tmp_path / "data" / folder / name, outside / name)
        (tmp_path / "data" / folder / "linked").symlink_to(outside, target_is_directory=True)
    for path in (tmp_path / "data").rglob("train.txt"):
        path.write_text("linked/a\nb\nc\n")
    annotations, problems = open_split(tmp_path / "data", "train")
    assert problems.summary() == []
    names = [annotations.file_name(index).removeprefix("images/train/") for index in range(len(annotations))]
    assert sorted(names) == ["b.png", "c.png", "linked/a.png"]
    assert len(annotations.boxes) == 3


def test_links_in_circles_end_and_are_told(tmp_path):
    for name in ("top/a.png", "top/z/b.png", "other/c.png"):
        write(tmp_path / name, "")
    top = tmp_path / "top"
    (top / "back").symlink_to(top, target_is_directory=True)
    (top / "far").symlink_to(tmp_path / "other", target_is_directory=True)
    (tmp_path / "other" / "back").symlink_to(top, target_is_directory=True)
    (top / "alias").symlink_to(top / "z", target_is_directory=True)
    (top / "gone.png").symlink_to(tmp_path / "absent")
    problems = Problems()
    assert files_below(top, PNG, problems) == ["a.png", "far/c.png", "gone.png", "z/b.png"]
    what = "is a folder that is read already (skipped)"
    assert told(problems) == [f"folder linked twice | {top}: {name!r} {what}" for name in ("alias", "back", "far/back")]
