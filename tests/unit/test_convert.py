from __future__ import annotations

import json
import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from detdistill.cli.app import main
from detdistill.data.annotations import Annotations, find_regions
from detdistill.data.formats.kitti import read_kitti_truths
from detdistill.data.sources import open_split
from detdistill.errors import ConfigError, DataError
from detdistill.jobs.data import check_data_job, convert_data_job
from folders_by_hand import make_coco, make_kitti, make_voc, make_yolo, picture, voc_object, voc_xml, write

MAKERS = {"coco": make_coco, "voc": make_voc, "yolo": make_yolo, "kitti": make_kitti}
FORMATS = tuple(MAKERS)
SPLITS = ("train", "val")
QUICK = {"coco_mini": "yolo"}


def objects(annotations: Annotations) -> dict[str, list[tuple[str, bool, list[float]]]]:
    """Class (spaces as KITTI has them), flag and box of every object by the image's name."""
    found = {}
    for index in range(len(annotations)):
        at = annotations.objects(index)
        names = [annotations.class_names[label].replace(" ", "_") for label in annotations.labels[at]]
        rows = zip(names, annotations.ignored[at].tolist(), annotations.boxes[at].tolist(), strict=True)
        found[Path(annotations.file_name(index)).stem] = sorted(rows)
    return found


def require_same(left: Annotations, right: Annotations, *, ignored: bool = True, atol: float = 1.0) -> None:
    mine, theirs = objects(left), objects(right)
    assert mine.keys() == theirs.keys()
    for stem, rows in mine.items():
        kept = [row for row in rows if ignored or not row[1]]
        others = [row for row in theirs[stem] if ignored or not row[1]]
        assert [row[:2] for row in kept] == [row[:2] for row in others]
        assert all(
            np.abs(np.subtract(box, other)).max() <= atol for (*_, box), (*_, other) in zip(kept, others, strict=True)
        )


def coco(folder: Path, images, annotations, categories=({"id": 4, "name": "car"}, {"id": 9, "name": "van"})) -> Path:
    for image in images:
        picture(folder / "images" / image["file_name"], width=image["width"], height=image["height"])
    content = {"images": images, "annotations": annotations, "categories": list(categories)}
    for split in SPLITS:
        write(folder / f"{split}.json", json.dumps(content))
    return folder


def image(own: int, name: str, **more) -> dict:
    return {"id": own, "file_name": name, "width": 40, "height": 30, **more}


def box(of: int, category: int, bbox: list[float], **more) -> dict:
    return {"image_id": of, "category_id": category, "bbox": bbox, "area": bbox[2] * bbox[3], **more}


# Every reader and every writer, over the one neutral form that is between all of them; a format into itself.
PAIRS = sorted({*product(FORMATS, ["coco"]), *product(["coco"], FORMATS), *((name, name) for name in FORMATS)})


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_every_format_becomes_every_other_and_comes_back(tmp_path, source, target):
    MAKERS[source](tmp_path / "in")
    outcome = convert_data_job(tmp_path / "in", to=target, out=tmp_path / "there")
    assert (dict(outcome.images), dict(outcome.boxes)) == ({"train": 3, "val": 2}, {"train": 3, "val": 3})
    assert [len(problems) for problems in outcome.problems.values()] == [0, 0]
    convert_data_job(tmp_path / "there", to=source, out=tmp_path / "back")
    for split in SPLITS:
        first = open_split(tmp_path / "in", split)[0]
        for folder in ("there", "back"):
            again, problems = open_split(tmp_path / folder, split)
            require_same(first, again, atol=0.01)
            assert problems.summary() == []
            assert first.image_ids.tolist() == again.image_ids.tolist() or "coco" in (source, target)
            assert again.path(0).read_bytes() == first.path(0).read_bytes()
            assert "kitti" in (source, target) or again.class_names == first.class_names


ALL_ROUND_TRIPS = [
    pytest.param(name, target, marks=[] if name.startswith("kitti") or target == QUICK.get(name) else pytest.mark.slow)
    for name, target in product(["bccd", "kitti33/native_kitti", "coco_mini"], FORMATS)
]


@pytest.mark.parametrize(("name", "target"), ALL_ROUND_TRIPS)
def test_real_data_makes_the_round_trip(tmp_path, real_data, name, target):
    convert_data_job(real_data / name, to=target, out=tmp_path / "there")
    convert_data_job(tmp_path / "there", to="coco", out=tmp_path / "back")
    for split in SPLITS:
        first, back = open_split(real_data / name, split)[0], open_split(tmp_path / "back", split)[0]
        # YOLO has no ignored boxes, and KITTI's DontCare is not of one class.
        require_same(first, back, ignored=target in ("coco", "voc"))
        if target == "kitti" and name == "kitti33/native_kitti":
            require_same(first, back)


def test_supervision_reads_what_is_written(tmp_path):
    supervision = pytest.importorskip("supervision")
    make_coco(tmp_path / "in")
    for target in ("voc", "yolo", "coco"):
        convert_data_job(tmp_path / "in", to=target, out=tmp_path / target)
    first = objects(open_split(tmp_path / "in", "train")[0])
    train = supervision.DetectionDataset.from_coco(
        str(tmp_path / "coco" / "images"), str(tmp_path / "coco" / "train.json")
    )
    yolo = supervision.DetectionDataset.from_yolo(
        str(tmp_path / "yolo" / "images" / "train"),
        str(tmp_path / "yolo" / "labels" / "train"),
        str(tmp_path / "yolo" / "data.yaml"),
    )
    voc = supervision.DetectionDataset.from_pascal_voc(
        str(tmp_path / "voc" / "JPEGImages"), str(tmp_path / "voc" / "Annotations")
    )
    for theirs in (train, yolo, voc):
        read = {
            Path(path).stem: sorted(
                (theirs.classes[label], False, corners)
                for label, corners in zip(found.class_id.tolist(), found.xyxy.tolist(), strict=True)
            )
            for path, found in theirs.annotations.items()
        }
        for stem, rows in first.items():
            assert [row[0] for row in rows] == [row[0] for row in read[stem]]
            for (*_, mine), (*_, other) in zip(rows, read[stem], strict=True):
                np.testing.assert_allclose(mine, other, atol=1)


# What is ignored.


def test_what_each_format_can_say_of_ignored_boxes(tmp_path):
    rows = [
        box(1, 4, [1, 1, 5, 5], iscrowd=1),
        box(1, 4, [9, 9, 5, 5]),
    ]
    coco(tmp_path / "in", [image(1, "a.png", ignore_regions=[[20, 20, 5, 5], [2, 2, 3, 3]]), image(2, "b.png")], rows)
    first = open_split(tmp_path / "in", "train")[0]
    assert len(find_regions(first).boxes) == 2
    for target in ("coco", "voc"):
        outcome = convert_data_job(tmp_path / "in", to=target, out=tmp_path / target)
        assert len(outcome.problems["train"]) == 0
        require_same(first, open_split(tmp_path / target, "train")[0], atol=0)
    content = json.loads((tmp_path / "coco" / "train.json").read_text())
    assert content["images"][0]["ignore_regions"] == [[20, 20, 5, 5], [2, 2, 3, 3]]
    assert [row["iscrowd"] for row in content["annotations"]] == [1, 0]
    assert content["categories"] == [{"id": 4, "name": "car"}, {"id": 9, "name": "van"}]

    outcome = convert_data_job(tmp_path / "in", to="yolo", out=tmp_path / "yolo")
    assert outcome.problems["train"].summary()[0] == "ignored boxes left out: 1 skipped"
    assert "3 ignored boxes or regions, which YOLO has no word for" in outcome.problems["train"].summary()[1]
    assert len(open_split(tmp_path / "yolo", "train")[0].boxes) == 1

    outcome = convert_data_job(tmp_path / "in", to="kitti", out=tmp_path / "kitti")
    assert outcome.problems["train"].summary()[0] == "ignored boxes widened: 1 repaired"
    lines = (tmp_path / "kitti" / "training" / "label_2" / "a.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["DontCare", "car", "DontCare", "DontCare"]


def test_regions_are_told_from_boxes_of_one_class(tmp_path):
    rows = [box(1, 4, [1, 1, 5, 5], iscrowd=1), box(1, 9, [1, 1, 5, 5]), box(2, 9, [1, 1, 5, 5], iscrowd=1)]
    coco(tmp_path, [image(1, "a.png"), image(2, "b.png"), image(3, "c.png", ignore_regions=[[1, 1, 5, 5]] * 2)], rows)
    regions = find_regions(open_split(tmp_path, "train")[0])
    assert regions.images.tolist() == [2]
    assert regions.boxes.tolist() == [[1, 1, 6, 6]]
    assert regions.members.tolist() == [False, False, False, True, True, True, True]
    one = coco(tmp_path / "one", [image(1, "a.png", ignore_regions=[[1, 1, 5, 5]])], [], [{"id": 1, "name": "car"}])
    assert len(find_regions(open_split(one, "train")[0]).boxes) == 0


def test_kitti_written_as_kitti_keeps_its_label_files_and_the_division(tmp_path):
    make_kitti(tmp_path / "in")
    for split in SPLITS:
        (tmp_path / "in" / "ImageSets" / f"{split}.txt").unlink()
    label = tmp_path / "in" / "training" / "label_2" / "a.txt"
    label.write_text(label.read_text().replace(" 0 0 -10", " 0.35 2 1.5", 1))
    convert_data_job(tmp_path / "in", to="kitti", out=tmp_path / "out")
    assert (tmp_path / "out" / "training" / "label_2" / "a.txt").read_text() == label.read_text()
    assert not (tmp_path / "out" / "classes.txt").exists()
    for split, count in (("train", 4), ("val", 1)):
        stems = (tmp_path / "out" / "ImageSets" / f"{split}.txt").read_text().split()
        annotations, _ = open_split(tmp_path / "out", split)
        assert len(stems) == len(annotations) == count
        require_same(open_split(tmp_path / "in", split)[0], annotations, atol=0)
        assert len(read_kitti_truths(annotations)) == count


# Names.


@pytest.mark.parametrize("target", FORMATS)
def test_names_stay_apart_and_readable(tmp_path, target):
    names = [
        "x/a.png",
        "x/a.jpg",
        "x/A.png",
        "x/ü & <b>.png",
        "x/deep/a b .png",
        "x/t\tb.png",
        "x/images/c.v1.png",
    ]
    rows = [box(own, 4, [own, 1, 5, 5]) for own in range(len(names))]
    coco(tmp_path / "in", [image(own, name) for own, name in enumerate(names)], rows)
    convert_data_job(tmp_path / "in", to=target, out=tmp_path / "out")
    found = {}
    for split in SPLITS:
        annotations, problems = open_split(tmp_path / "out", split)
        assert problems.summary() == []
        assert sorted(annotations.boxes[:, 0].tolist()) == list(range(len(names)))
        found[split] = [annotations.file_name(index) for index in range(len(annotations))]
        assert all(annotations.path(index).is_file() for index in range(len(annotations)))
    ends = {name.removeprefix("images/train/") for name in found["train"]}
    expected = {"a.png", "a-2.jpg", "A-3.png", "ü & <b>.png", "deep/a b.png", "t_b.png", "images/c.v1.png"}
    assert ends == expected
    assert not ends & {name.removeprefix("images/val/") for name in found["val"]}


@pytest.mark.parametrize("target", ["voc", "yolo", "kitti"])
def test_class_names_are_kept_as_far_as_the_format_can(tmp_path, target):
    categories = [{"id": 1, "name": "traffic  light"}, {"id": 2, "name": "<no> & ü"}, {"id": 3, "name": "1e5"}]
    rows = [box(1, 1, [1, 1, 5, 5]), box(1, 2, [1, 1, 5, 5]), box(1, 3, [1, 1, 5, 5])]
    coco(tmp_path / "in", [image(1, "a.png")], rows, categories)
    convert_data_job(tmp_path / "in", to=target, out=tmp_path / "out")
    annotations, problems = open_split(tmp_path / "out", "train")
    expected = ("traffic light", "<no> & ü", "1e5")
    assert annotations.class_names == tuple(name.replace(" ", "_") if target == "kitti" else name for name in expected)
    assert (annotations.labels.tolist(), len(problems)) == ([0, 1, 2], 0)


def test_class_names_that_cannot_be_written(tmp_path):
    categories = [{"id": 1, "name": "a b"}, {"id": 2, "name": "a_b"}]
    coco(tmp_path / "in", [image(1, "a.png")], [], categories)
    with pytest.raises(DataError, match=r"got 'a b' and 'a_b', which both become 'a_b'\. Rename one of them"):
        convert_data_job(tmp_path / "in", to="kitti", out=tmp_path / "out")
    coco(tmp_path / "care", [image(1, "a.png")], [], [{"id": 1, "name": "dontCare"}])
    with pytest.raises(DataError, match=r"must differ from KITTI's DontCare, got 'dontCare'\."):
        convert_data_job(tmp_path / "care", to="kitti", out=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["care", "in"]


# Boxes, images, folders.


@pytest.mark.parametrize("target", FORMATS)
def test_the_thinnest_box_survives(tmp_path, target):
    boxes = [[39.9375, 1, 0.0625, 5], [5, 29.99, 5, 0.01], [0.123, 0.456, 0.004, 0.004], [0, 0, 40, 30]]
    coco(tmp_path / "in", [image(1, "a.png")], [box(1, 4, bbox) for bbox in boxes])
    convert_data_job(tmp_path / "in", to=target, out=tmp_path / "out")
    annotations, problems = open_split(tmp_path / "out", "train")
    assert problems.summary() == []
    np.testing.assert_allclose(annotations.boxes[:, :2], np.array(boxes)[:, :2], atol=0.01)
    np.testing.assert_allclose((annotations.boxes[:, 2:] - annotations.boxes[:, :2]), np.array(boxes)[:, 2:], atol=0.01)


def test_images_are_linked_and_never_moved(tmp_path):
    make_coco(tmp_path / "in")
    convert_data_job(tmp_path / "in", to="yolo", out=tmp_path / "out")
    old, new = tmp_path / "in" / "images" / "a.png", tmp_path / "out" / "images" / "train" / "a.png"
    assert old.is_file()
    assert os.path.samefile(old, new)


def test_where_no_link_is_possible_images_are_copied(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", refuse)
    make_coco(tmp_path / "in")
    convert_data_job(tmp_path / "in", to="voc", out=tmp_path / "out")
    old, new = tmp_path / "in" / "images" / "a.png", tmp_path / "out" / "JPEGImages" / "a.png"
    assert not os.path.samefile(old, new)
    assert old.read_bytes() == new.read_bytes()


def test_images_that_are_not_as_annotated_are_left_out_and_told(tmp_path):
    coco(tmp_path / "in", [image(1, "a.png"), image(2, "b.png"), image(3, "c.png"), image(4, "d.data.png")], [])
    (tmp_path / "in" / "images" / "b.png").unlink()
    picture(tmp_path / "in" / "images" / "c.png", width=7)
    for split in SPLITS:
        path = tmp_path / "in" / f"{split}.json"
        path.write_text(path.read_text().replace("d.data.png", "d.data"))
    os.rename(tmp_path / "in" / "images" / "d.data.png", tmp_path / "in" / "images" / "d.data")
    outcome = convert_data_job(tmp_path / "in", to="yolo", out=tmp_path / "out")
    assert dict(outcome.images) == {"train": 1, "val": 1}
    assert outcome.problems["val"].counts == {
        "image file missing": 1,
        "image of another size": 1,
        "image of unknown ending": 1,
    }


def test_a_folder_in_use_is_refused_and_nothing_half_made_is_left(tmp_path):
    make_coco(tmp_path / "in")
    write(tmp_path / "out" / "mine.txt", "x")
    with pytest.raises(ConfigError, match=r"out, must be new or empty, got one in use\. Give another folder\."):
        convert_data_job(tmp_path / "in", to="voc", out=tmp_path / "out")
    with pytest.raises(ConfigError, match=r"must be new or empty"):
        convert_data_job(tmp_path / "in", to="voc", out=tmp_path / "out" / "mine.txt")
    assert (tmp_path / "out" / "mine.txt").read_text() == "x"
    (tmp_path / "empty").mkdir()
    convert_data_job(tmp_path / "in", to="voc", out=tmp_path / "empty")
    assert len(open_split(tmp_path / "empty", "train")[0]) == 3


def test_a_single_split(tmp_path):
    make_coco(tmp_path / "in")
    (tmp_path / "in" / "val.json").unlink()
    for target in FORMATS:
        outcome = convert_data_job(tmp_path / "in", to=target, out=tmp_path / target)
        assert dict(outcome.images) == {"train": 3}
        assert len(open_split(tmp_path / target, "train")[0]) == 3
        assert list(check_data_job(tmp_path / target).splits) == ["train"]
        back = convert_data_job(tmp_path / target, to="coco", out=tmp_path / f"{target}_back")
        assert dict(back.images) == {"train": 3}


# The commands.


def test_the_command_says_what_it_read_and_wrote(tmp_path, capsys):
    make_voc(tmp_path / "in")
    out, record = tmp_path / "out", tmp_path / "record.json"
    assert (
        main(["data", "convert", str(tmp_path / "in"), "--to", "yolo", "--out", str(out), "--json", str(record)]) == 0
    )
    said = capsys.readouterr()
    told = "Pascal VOC: the list ImageSets/Main/train.txt, images in JPEGImages/"
    assert f"train data read as {told}" in said.err
    assert f"train: 3 images and 3 boxes, read as {told}\n" in said.out
    assert f"written to {out} (--to yolo)" in said.out
    content = json.loads(record.read_text())
    assert content["format"] == "yolo"
    assert content["splits"]["val"] == {
        "read_as": "Pascal VOC: the list ImageSets/Main/val.txt, images in JPEGImages/",
        "images": 2,
        "boxes": 3,
        "problems": {},
        "problem_list": [],
    }
    assert main(["data", "convert", str(tmp_path / "in"), "--to", "yolo", "--out", str(out)]) == 2
    assert capsys.readouterr().err.endswith("must be new or empty, got one in use. Give another folder.\n")


@pytest.mark.parametrize("make", MAKERS.values())
def test_every_format_is_checked(tmp_path, capsys, make):
    make(tmp_path)
    outcome = check_data_job(tmp_path)
    assert [(item.images, item.boxes, item.images_without_boxes) for item in outcome.splits.values()] == [
        (3, 3, 1),
        (2, 3, 0),
    ]
    assert main(["data", "check", str(tmp_path)]) == 0
    assert f"{tmp_path} (train), read as {outcome.sources['train']}" in capsys.readouterr().out


def test_check_tells_problems_with_file_and_line(tmp_path, capsys):
    make_voc(tmp_path)
    path = write(tmp_path / "Annotations" / "a.xml", voc_xml(voc_object("Car", (9, 1, 5, 5))))
    assert main(["data", "check", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "  box without extent: 1 skipped\n" in said
    assert f"    {path}, line 4: bbox [8.0, 0.0, -3.0, 5.0] in image 1 (40x30)\n" in said
