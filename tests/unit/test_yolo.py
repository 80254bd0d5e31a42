from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from detdistill.data.formats.yolo import read_data_yaml
from detdistill.data.sources import find_split, open_split, present_splits
from detdistill.errors import ConfigError, DataError, DistillError
from folders_by_hand import HEIGHT, OBJECTS, TRAIN, VAL, WIDTH, make_yolo, picture, write


def one(folder: Path, lines: str | bytes):
    """Reads a folder whose first label file has the given content."""
    make_yolo(folder)
    path = folder / "labels" / "train" / "a.txt"
    path.write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    return open_split(folder, "train")


def only(problems) -> str:
    found = list(problems)
    assert len(found) == 1, found
    return f"{found[0].kind} | {found[0].text()}"


def data_yaml(folder: Path, text: str) -> Path:
    make_yolo(folder)
    return write(folder / "data.yaml", text)


# Nothing.


def test_an_empty_or_absent_label_file_is_an_image_without_boxes(tmp_path):
    annotations, problems = one(tmp_path, b"")
    (tmp_path / "labels" / "train" / "b.txt").unlink()
    annotations, problems = open_split(tmp_path, "train")
    assert annotations.offsets.tolist() == [0, 0, 0, 0]
    assert len(problems) == 0


def test_no_label_file_at_all_is_refused(tmp_path):
    make_yolo(tmp_path)
    (tmp_path / "labels").rename(tmp_path / "other")
    with pytest.raises(DataError, match=r"must have label files, got none for all 3 \(such as images/train/a\.png\)\."):
        open_split(tmp_path, "train")


def test_a_split_without_images_is_refused(tmp_path):
    make_yolo(tmp_path)
    for path in (tmp_path / "images" / "train").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"got none; 3 entries were skipped: label file without image"):
        open_split(tmp_path, "train")


# What stands where.


def test_what_the_arrays_hold(tmp_path):
    make_yolo(tmp_path)
    for split, stems in (("train", TRAIN), ("val", VAL)):
        annotations, problems = open_split(tmp_path, split)
        assert problems.summary() == []
        assert annotations.class_names == ("Car", "Van")
        assert annotations.category_ids.tolist() == [0, 1]
        assert annotations.sizes.tolist() == [[HEIGHT, WIDTH]] * len(stems)
        for index, stem in enumerate(stems):
            mine = annotations.objects(index)
            assert annotations.path(index) == tmp_path / "images" / split / f"{stem}.png"
            boxes = [list(box) for _, *box in OBJECTS[stem]]
            np.testing.assert_allclose(annotations.boxes[mine], np.array(boxes).reshape(-1, 4), atol=1e-4)
            assert [annotations.class_names[label] for label in annotations.labels[mine]] == [
                name for name, *_ in OBJECTS[stem]
            ]


@pytest.mark.parametrize("entry", ["./images/train/b.png", "images/train/b.png", "images\\train\\b.png", "{root}"])
def test_lists_of_images(tmp_path, entry):
    data_yaml(tmp_path, "train: lists/my.txt\nval: [images/val, images/train]\nnames: {0: Car, 1: Van}\n")
    line = entry.format(root=os.path.abspath(tmp_path / "images" / "train" / "b.png"))
    write(tmp_path / "lists" / "my.txt", f"{line}\n")
    annotations, problems = open_split(tmp_path, "train")
    assert [annotations.file_name(index) for index in range(len(annotations))] == ["images/train/b.png"]
    assert (len(annotations.boxes), len(problems)) == (1, 0)
    assert len(open_split(tmp_path, "val")[0]) == 5
    assert find_split(tmp_path, "val").text() == "YOLO: data.yaml, images of images/val/, images/train/"


def test_list_entries_that_cannot_be_used(tmp_path):
    data_yaml(tmp_path, "train: my.txt\nnames: [Car, Van]\n")
    picture(tmp_path.parent / "outside.png")
    lines = ["images/train/a.png", "../outside.png", "/etc/passwd", "images/train/a.png", "images/none.png", "x" * 300]
    write(tmp_path / "my.txt", "\n".join(lines))
    annotations, problems = open_split(tmp_path, "train")
    assert len(annotations) == 1
    assert [f"{problem.kind} | {problem.where}" for problem in problems] == [
        f"unusable file name | {tmp_path / 'my.txt'}, line 2",
        f"unusable file name | {tmp_path / 'my.txt'}, line 3",
        f"unusable file name | {tmp_path / 'my.txt'}, line 6",
        f"image listed twice | {tmp_path / 'my.txt'}, line 4",
        f"image file missing | {tmp_path / 'my.txt'}, line 5",
    ]
    assert present_splits(tmp_path) == ("train",)
    with pytest.raises(ConfigError, match=r"must say where the val images are, got no 'val'\. Add a line such as"):
        open_split(tmp_path, "val")


def test_labels_beside_the_images_and_the_last_folder_named_images(tmp_path):
    data_yaml(tmp_path, "train: pictures\nval: images/images\nnames: [Car, Van]\n")
    picture(tmp_path / "pictures" / "a.png")
    write(tmp_path / "pictures" / "a.txt", "0 .5 .5 .5 .5\n")
    picture(tmp_path / "images" / "images" / "b.png")
    write(tmp_path / "images" / "labels" / "b.txt", "1 .5 .5 .5 .5\n")
    assert open_split(tmp_path, "train")[0].labels.tolist() == [0]
    assert open_split(tmp_path, "val")[0].labels.tolist() == [1]


def test_images_bear_the_numbers_they_are_named_by(tmp_path):
    data_yaml(tmp_path, "train: numbered\nnames: [Car]\n")
    for name in ("000000000025", "000000000030"):
        picture(tmp_path / "numbered" / f"{name}.png")
        write(tmp_path / "numbered" / f"{name}.txt", "0 .5 .5 .5 .5\n")
    assert open_split(tmp_path, "train")[0].image_ids.tolist() == [25, 30]


@pytest.mark.parametrize("where", ["../train/images", "../../train/images", "train/images", "{root}/train/images"])
def test_places_that_many_files_write(tmp_path, where):
    picture(tmp_path / "train" / "images" / "a.png")
    write(tmp_path / "train" / "labels" / "a.txt", "0 .5 .5 .5 .5\n")
    write(tmp_path / "data.yaml", f"path: ../datasets/mine\ntrain: {where.format(root=tmp_path)}\nnames: [Car]\n")
    assert len(open_split(tmp_path, "train")[0].boxes) == 1


@pytest.mark.parametrize("where", ["../../../etc", "/etc", "..", "images/../../x", "a\\..\\..\\b"])
def test_places_outside_the_data_set_are_refused(tmp_path, where):
    path = data_yaml(tmp_path / "data", f"train: '{where}'\nnames: [Car, Van]\n")
    with pytest.raises(DataError, match=r"must name places inside .*, got '.*', which (leads|is absolute)"):
        open_split(path, "train")


def test_a_place_that_is_not_there(tmp_path):
    path = data_yaml(tmp_path, "train: images/trian\nnames: [Car, Van]\n")
    with pytest.raises(ConfigError, match=r"must name a folder of images or a list of them, got 'images/trian', and"):
        open_split(path, "train")


# data.yaml.


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "must hold the keys train, val and names, got no keys"),
        ("train: images/train\n", r"'names' of .* must list the classes, got None\. Add names"),
        ("names: []\n", "must list the classes"),
        ("names: {a: Car}\n", "must give a text for every class number, got 'Car' for 'a'"),
        ("names: {-1: Car}\n", "must give a text for every class number"),
        ("names: [[Car]]\n", "must give a text for every class number"),
        ('names: ["\\ud800"]\n', "must give a text for every class number"),
        ("a: &a [[b, b], [b, b]]\nnames: &n [*a, *n]\n", "aliases must be left out"),
        ("names: ['']\n", "must give a text for every class number"),
        ("names: [Car]\nnc: 2\n", r"must list the nc = 2 classes, got 1\. Correct"),
        ("names: [Car]\ntrain: {a: b}\n", "'train' of .* must be a place or places, got a dict"),
        ("names: [Car]\nnames: [Van]\n", "'names' must stand once in its section"),
        ("names: {0: x, 1: y, 01: z}\n", r"'01' must stand once in its section, got it on line 1 \(as '1'\) and on"),
        ("names: [Car\n", "must be YAML, got"),
        ("names: !!int x\n", r"must be plain YAML, got: invalid literal for int"),
        ("[" * 1200, r"must be (plain )?YAML, got"),
        ("names: !!python/object/apply:os.system [ls]\n", "must be YAML, got: could not determine a constructor"),
    ],
)
def test_a_data_yaml_that_is_refused(tmp_path, text, told):
    path = data_yaml(tmp_path, text)
    with pytest.raises(DistillError, match=told):
        open_split(path, "train")


def test_a_data_yaml_as_read(tmp_path):
    path = data_yaml(
        tmp_path, "path: images\ntrain: train\nvalidation: val\ntest:\nnames: {7: no, 2: 1}\nnc: 2\nx: 1\n"
    )
    data = read_data_yaml(path)
    assert data.names == {7: "no", 2: "1"}
    assert data.places("train") == (tmp_path / "images" / "train",)
    assert data.places("val") == (tmp_path / "images" / "val",)
    with pytest.raises(DataError, match=r"must be \['Car', 'Van'\], got \['no', '1'\]"):
        open_split(path, "train", class_names=("Car", "Van"))


def test_another_yaml_file_counts_where_it_is_the_only_one(tmp_path):
    path = data_yaml(tmp_path, "train: images/train\nnames: [Car, Van]\n")
    path.rename(tmp_path / "coco128.yaml")
    assert find_split(tmp_path, "train").text() == "YOLO: coco128.yaml, images of images/train/"


# Lines.


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("0 .5 .5 .5", "wrong number of columns"),
        ("0 .5 .5 .5 .5 .9", "wrong number of columns"),
        ("0", "wrong number of columns"),
        ("2 .5 .5 .5 .5", "box of an unknown class"),
        ("-1 .5 .5 .5 .5", "box of an unknown class"),
        ("0.5 .5 .5 .5 .5", "box of an unknown class"),
        ("Car .5 .5 .5 .5", "box of an unknown class"),
        ("nan .5 .5 .5 .5", "box of an unknown class"),
        ("inf .5 .5 .5 .5", "box of an unknown class"),
        ("0 nan .5 .5 .5", "box not four finite numbers"),
        ("0 x .5 .5 .5", "box not four finite numbers"),
        ("0 0_0.5 .5 .5 .5", "box not four finite numbers"),
        ("\u0660 .5 .5 .5 .5", "box of an unknown class"),
        ("0 1e308 .5 1e308 .5", "box not four finite numbers"),
        ("0 .5 .5 -.5 .5", "box without extent"),
        ("0 .5 .5 0 .5", "box without extent"),
        ("0 5 5 .5 .5", "box outside its image"),
        ("0 .1 .5 .5 .5", "box partly outside its image"),
        ("0 .1 .1 .2 .2 .3 nan", "box not four finite numbers"),
    ],
)
def test_lines_are_told_by_file_and_line(tmp_path, line, kind):
    annotations, problems = one(tmp_path, f"\n{line}\n1 .5 .5 .25 .5\n")
    assert only(problems).startswith(f"{kind} | {tmp_path / 'labels' / 'train' / 'a.txt'}, line 2: ")
    assert annotations.boxes[problems.repaired].tolist() == [15, 7.5, 25, 22.5]
    assert len(annotations) == 3


def test_polygons_become_the_box_around_them(tmp_path):
    annotations, problems = one(tmp_path, "1 .25 .5 .5 .1 .75 .5\n0.0 .25 .5 .5 .1 .75 .5 .5 .9\n")
    assert len(problems) == 0
    np.testing.assert_allclose(annotations.boxes[:2], [[10, 3, 30, 15], [10, 3, 30, 27]], atol=1e-4)
    assert annotations.labels.tolist()[:2] == [1, 0]


def test_key_points_are_passed_over(tmp_path):
    path = data_yaml(tmp_path, "train: images/train\nnames: [Car, Van]\nkpt_shape: [2, 3]\n")
    write(
        tmp_path / "labels" / "train" / "a.txt",
        "0 .5 .5 .5 .5 .1 .1 2 .9 .9 2\n0 .5 .5 .5 .5 .9 .9 .9 .9\n0 .5 .5 .5\n",
    )
    annotations, problems = open_split(path, "train")
    assert annotations.boxes[:2].tolist() == [[10, 7.5, 30, 22.5]] * 2
    assert only(problems).startswith("wrong number of columns")


@pytest.mark.parametrize("content", [b"0 .5 .5 .5 .5\n\xff\n", b"0 .5 .5 .5 .5\n\0\n"])
def test_a_label_file_that_is_no_text_skips_its_image(tmp_path, content):
    annotations, problems = one(tmp_path, content)
    assert len(annotations) == 2
    assert only(problems).startswith(f"label file not UTF-8 | {tmp_path / 'labels' / 'train' / 'a.txt'}, line 2: ")


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_an_image_that_cannot_be_read_is_skipped(tmp_path, content):
    make_yolo(tmp_path)
    path = tmp_path / "images" / "train" / "a.png"
    path.write_bytes(path.read_bytes()[:20] if content is None else content)
    annotations, problems = open_split(tmp_path, "train")
    assert len(annotations) == 2
    assert only(problems).startswith(f"image file unreadable | {path}: ")


def test_an_image_bomb_is_skipped(tmp_path):
    make_yolo(tmp_path)
    path = tmp_path / "images" / "train" / "a.png"
    content = bytearray(path.read_bytes())
    # Width and height in the header of a PNG file.
    content[16:24] = (60000).to_bytes(4, "big") * 2
    path.write_bytes(bytes(content))
    annotations, problems = open_split(tmp_path, "train")
    assert len(annotations) == 2
    assert only(problems).startswith("image file unreadable | ")


# Real data.


@pytest.mark.parametrize("split", ["train", "val"])
def test_real_data_agrees_with_its_coco_form(real_data, split):
    folder = real_data / "coco_mini"
    parts = [open_split(folder, name)[0] for name in ("train", "val")]
    yolo, problems = open_split(folder / "data.yaml", split, class_names=None)
    assert problems.summary() == []
    assert len(yolo) == {"train": 70, "val": 68}[split]
    rows = {Path(coco.file_name(index)).stem: (coco, index) for coco in parts for index in range(len(coco))}
    for index in range(len(yolo)):
        coco, row = rows[Path(yolo.file_name(index)).stem]
        mine, theirs = yolo.objects(index), coco.objects(row)
        # YOLO has no crowd boxes.
        good = ~coco.ignored[theirs]
        np.testing.assert_allclose(yolo.boxes[mine], coco.boxes[theirs][good], atol=1)
        expected = [coco.class_names[label] for label in coco.labels[theirs][good]]
        assert [yolo.class_names[label] for label in yolo.labels[mine]] == expected


def test_supervision_agrees(real_data):
    supervision = pytest.importorskip("supervision")
    folder = real_data / "coco_mini"
    theirs = supervision.DetectionDataset.from_yolo(
        images_directory_path=str(folder / "images"),
        annotations_directory_path=str(folder / "labels"),
        data_yaml_path=str(folder / "data.yaml"),
    )
    mine, _ = open_split(folder / "data.yaml", "val")
    for index in range(len(mine)):
        found = theirs.annotations[str(mine.path(index))]
        at = mine.objects(index)
        np.testing.assert_allclose(mine.boxes[at], found.xyxy.reshape(-1, 4), atol=1)
        assert mine.labels[at].tolist() == found.class_id.tolist()
