"""KITTI's tracking layout, labelme, VIA's projects, and VOC's development kit."""

from __future__ import annotations

import json

import pytest

from detdistill.data.sources import find_split, open_split, present_splits, recognise
from detdistill.errors import ConfigError, DataError
from folders_by_hand import (
    OBJECTS,
    TRAIN,
    VAL,
    kitti_line,
    labelme_text,
    make_labelme,
    make_tracking,
    make_voc,
    picture,
    write,
)


def both(folder):
    return {split: open_split(folder, split) for split in ("train", "val")}


def boxes_of(annotations) -> set[tuple[str, tuple[float, ...]]]:
    return {
        (annotations.class_names[label], tuple(box))
        for label, box in zip(annotations.labels.tolist(), annotations.boxes.tolist(), strict=True)
    }


EXPECTED = {(name, tuple(map(float, box))) for stem in (*TRAIN, *VAL) for name, *box in OBJECTS[stem]}


def test_tracking_is_divided_by_sequences(tmp_path):
    make_tracking(tmp_path)
    assert present_splits(tmp_path) == ("train", "val")
    for place in (tmp_path, tmp_path / "training"):
        read = both(place)
        assert sorted(len(own[0]) for own in read.values()) == [2, 3]
        assert boxes_of(read["train"][0]) | boxes_of(read["val"][0]) == EXPECTED
        assert [own[1].summary() for own in read.values()] == [[], []]
        folders = [{own[0].file_name(index)[:4] for index in range(len(own[0]))} for own in read.values()]
        assert not folders[0] & folders[1]
    assert "8 of every 10 sequences, drawn by seed 0" in find_split(tmp_path, "train").text()
    with pytest.raises(ConfigError, match="must hold the test split"):
        find_split(tmp_path, "test")


def test_what_is_wrong_in_tracking_is_told_by_line(tmp_path):
    make_tracking(tmp_path)
    for sequence in ("0000", "0001"):
        path = tmp_path / "training" / "label_02" / f"{sequence}.txt"
        lines = [
            "x 0 " + kitti_line("Car", (1, 1, 5, 5)),
            "0 1 Car 0 0\n",
            "1 -1 " + kitti_line("DontCare", (1, 1, 5, 5)),
        ]
        write(path, "".join([*lines, "77 0 " + kitti_line("Car", (1, 1, 5, 5))]))
    for found, problems in both(tmp_path).values():
        assert problems.counts == {"wrong number of columns": 1, "frame no number": 1, "image file missing": 1}
        assert all("label_02/000" in item.where for item in problems)
        assert found.ignored.all()


def test_labelme(tmp_path):
    make_labelme(tmp_path / "one")
    for split, stems in (("train", TRAIN), ("valid", VAL)):
        for stem in stems:
            write(tmp_path / "two" / split / f"{stem}.json", labelme_text(stem))
            picture(tmp_path / "two" / split / f"{stem}.png")
    for name, counts in (("one", [4, 1]), ("two", [3, 2])):
        read = both(tmp_path / name)
        assert [len(own[0]) for own in read.values()] == counts
        assert boxes_of(read["train"][0]) | boxes_of(read["val"][0]) == EXPECTED
        assert [own[1].summary() for own in read.values()] == [[], []]
    assert recognise(tmp_path / "one").title == "labelme"


def test_shapes_of_labelme(tmp_path):
    shapes = [
        {"label": "Car", "points": [[1, 2], [11, 2], [6, 12]], "shape_type": "polygon"},
        {"label": "Car", "points": [[20, 10], [23, 14]], "shape_type": "circle"},
        {"label": "Car", "points": [[20, 20], [10, 5]], "shape_type": "rectangle"},
        {"label": "Car", "points": [[1, 2]], "shape_type": "point"},
        {"label": "", "points": [[1, 2], [3, 4]], "shape_type": "rectangle"},
        {"label": "Car", "points": [[1, 2], [3, None]], "shape_type": "rectangle"},
        7,
    ]
    content = json.dumps({"version": "5", "shapes": shapes, "imagePath": "..\\a.png"})
    for split in ("train", "val"):
        picture(tmp_path / split / "a.png")
        write(tmp_path / split / "a.json", content)
    annotations, problems = open_split(tmp_path, "train")
    assert annotations.boxes.tolist() == [[1, 2, 11, 12], [15, 5, 25, 15], [10, 5, 20, 20]]
    assert problems.counts == {"image without size": 1, "shape without a box": 2, "box of an unknown class": 2}
    wheres = [item.where for item in problems if item.kind == "shape without a box"]
    assert wheres == [f"{tmp_path / 'train' / 'a.json'}, shape {number}" for number in (4, 6)]


@pytest.mark.parametrize("content", ["{", "[1]", '{"a": ' * 100, '{"shapes": 1}', ""])
def test_broken_files_of_labelme_skip_their_image(tmp_path, content):
    make_labelme(tmp_path)
    write(tmp_path / "a.json", content)
    read = both(tmp_path)
    assert sum(len(own[0]) for own in read.values()) == 4
    assert sum(own[1].skipped for own in read.values()) == 1


def test_labelme_given_by_a_file_names_its_folder(tmp_path):
    make_labelme(tmp_path)
    with pytest.raises(DataError, match=r"got labelme's file of one image\. Give its folder"):
        open_split(tmp_path / "a.json", "val", exact=True)


@pytest.mark.parametrize(
    "content",
    [
        {"_via_settings": {}, "_via_img_metadata": {}},
        {"a.jpg7": {"filename": "a.jpg", "size": 7, "regions": [], "file_attributes": {}}},
    ],
)
def test_projects_of_via_are_named_with_their_export(tmp_path, content):
    path = write(tmp_path / "via.json", json.dumps(content))
    with pytest.raises(ConfigError, match=r"VGG Image Annotator \(VIA\)\. Export it there by Annotation, Export"):
        present_splits(tmp_path)
    with pytest.raises(DataError, match=r"VIA|must be a COCO file"):
        open_split(path, "val", exact=True)


def test_voc_development_kit(tmp_path):
    make_voc(tmp_path / "VOCdevkit" / "VOC2007")
    for place in (tmp_path, tmp_path / "VOCdevkit"):
        assert present_splits(place) == ("train", "val")
        assert len(open_split(place, "train")[0]) == 3
    make_voc(tmp_path / "VOCdevkit" / "VOC2012")
    with pytest.raises(ConfigError, match=r"must hold one data set of Pascal VOC, got VOC2007, VOC2012\. Give one"):
        present_splits(tmp_path / "VOCdevkit")
    # A list to test on is a split where its images are labelled.
    year = tmp_path / "VOCdevkit" / "VOC2012"
    write(year / "ImageSets" / "Main" / "test.txt", "none\n")
    assert present_splits(year) == ("train", "val")
    write(year / "ImageSets" / "Main" / "test.txt", "none\nd\n")
    assert present_splits(year) == ("train", "val", "test")
    assert open_split(year, "test")[1].counts == {"label file missing": 1}
