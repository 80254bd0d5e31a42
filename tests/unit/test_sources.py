from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from detdistill.data.formats.coco import CocoSplit
from detdistill.data.formats.coco_places import Images, Naming, candidate_folders, find_images
from detdistill.data.image_files import Header, read_header
from detdistill.data.sources import find_split, open_split, present_splits
from detdistill.errors import ConfigError, DataError
from folders_by_hand import make_coco, make_kitti, make_voc, make_yolo
from folders_by_hand import write as write_text


def write(path: Path, *names: str, category: str = "car") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": own, "file_name": name, "width": 4, "height": 3} for own, name in enumerate(names)]
    categories = [{"id": 1, "name": category}, {"id": 2, "name": "van"}]
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    return path


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3)).save(path)


# Layouts.


def test_folder_with_images_beside_the_files(tmp_path):
    train = write(tmp_path / "train.json", "a.png")
    val = write(tmp_path / "val.json", "sub/b.png")
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "sub" / "b.png")
    assert find_split(tmp_path, "train") == CocoSplit(train, tmp_path / "images")
    assert find_split(tmp_path, "val") == CocoSplit(val, tmp_path / "images")


@pytest.mark.parametrize("name", ["a.png", "images/a.png"])
def test_names_that_resolve_in_the_own_folder(tmp_path, name):
    path = write(tmp_path / "train.json", name)
    picture(tmp_path / name)
    (tmp_path / "images").mkdir(exist_ok=True)
    assert find_split(tmp_path, "train") == CocoSplit(path, tmp_path)
    assert find_split(path, "train") == CocoSplit(path, tmp_path)


@pytest.mark.parametrize("folder", ["train2017", "images/train2017", "train", "images/train", "images", "."])
@pytest.mark.parametrize("by_file", [True, False])
def test_layout_of_coco(tmp_path, folder, by_file):
    path = write(tmp_path / "annotations" / "instances_train2017.json", "a.png")
    write(tmp_path / "annotations" / "instances_val2017.json", "a.png")
    (tmp_path / "val2017").mkdir()
    picture(tmp_path / folder / "a.png")
    assert find_split(path if by_file else tmp_path, "train") == CocoSplit(path, tmp_path / folder)


def test_val_of_coco_takes_its_own_images(tmp_path):
    path = write(tmp_path / "annotations" / "instances_val.json", "a.png")
    for folder in ("train2017", "val2017"):
        picture(tmp_path / folder / "a.png")
    assert find_split(tmp_path, "val") == CocoSplit(path, tmp_path / "val2017")


def test_a_missing_first_image_does_not_mislead(tmp_path):
    write(tmp_path / "train.json", "a.png", "b.png", "c.png")
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "b.png")
    picture(tmp_path / "c.png")
    assert find_split(tmp_path, "train").images_dir == tmp_path
    picture(tmp_path / "images" / "b.png")
    assert find_split(tmp_path, "train").images_dir == tmp_path / "images"


def test_a_json_file_is_the_split_asked_for_unless_its_name_says_another(tmp_path):
    picture(tmp_path / "a.png")
    for name in ("mine.json", "traffic_train.json", "traffic_val.json", "evaluation.json", "train_val.json"):
        write(tmp_path / name, "a.png")
    expected = {
        ("mine.json", "val"): "mine.json",
        ("mine.json", "train"): "mine.json",
        ("traffic_train.json", "train"): "traffic_train.json",
        ("traffic_train.json", "val"): "traffic_val.json",
        ("traffic_val.json", "train"): "traffic_train.json",
        ("evaluation.json", "train"): "evaluation.json",
        ("train_val.json", "val"): "train_val.json",
    }
    assert {key: find_split(tmp_path / key[0], key[1]).json.name for key in expected} == expected
    assert find_split(tmp_path / "traffic_train.json", "val", exact=True).json.name == "traffic_train.json"
    assert len(open_split(tmp_path / "traffic_train.json", "val", exact=True)[0]) == 1


# Formats.


@pytest.mark.parametrize(
    ("make", "format_name"),
    [(make_coco, "COCO"), (make_voc, "Pascal VOC"), (make_yolo, "YOLO"), (make_kitti, "KITTI")],
)
def test_the_format_is_recognised_and_said(tmp_path, make, format_name):
    make(tmp_path)
    said = []
    assert present_splits(tmp_path) == ("train", "val")
    for split, images in (("train", 3), ("val", 2)):
        annotations, problems = open_split(tmp_path, split, say=said.append)
        assert (len(annotations), problems.summary()) == (images, [])
        assert {"Car", "Van"} <= set(annotations.class_names)
    assert [line.split(":")[0] for line in said] == [
        f"{split} data read as {format_name}" for split in ("train", "val")
    ]


def test_coco_wins_where_a_folder_holds_several_formats_and_a_file_names_another(tmp_path):
    make_coco(tmp_path)
    make_yolo(tmp_path)
    make_voc(tmp_path)
    assert find_split(tmp_path, "train").text().startswith("COCO: train.json")
    assert find_split(tmp_path / "data.yaml", "train").text().startswith("YOLO: data.yaml")
    listed = tmp_path / "ImageSets" / "Main" / "train.txt"
    assert find_split(listed, "train").text().startswith("Pascal VOC: the list ImageSets/Main/train.txt")
    assert find_split(listed, "val").text().startswith("Pascal VOC: the list ImageSets/Main/val.txt")
    assert find_split(listed, "val", exact=True).text().startswith("Pascal VOC: the list ImageSets/Main/train.txt")
    assert present_splits(tmp_path / "data.yaml") == ("train", "val")
    assert present_splits(listed) == ("val",)


@pytest.mark.parametrize("make", [make_voc, make_kitti])
def test_a_yaml_file_that_lists_no_classes_is_passed_over(tmp_path, make):
    make(tmp_path)
    for text in ("site_name: x\n", "- names\n", "a: [\n", "a: \0\n", ""):
        for name in ("mkdocs.yml", "dataset.yaml"):
            path = write_text(tmp_path / name, text)
            assert present_splits(tmp_path) == ("train", "val")
            assert len(open_split(tmp_path, "train")[0]) == 3
            path.unlink()


def test_which_yaml_file_counts_as_a_data_yaml(tmp_path):
    make_yolo(tmp_path)
    (tmp_path / "mkdocs.yml").write_text("site_name: x\n")
    assert find_split(tmp_path, "train").text().startswith("YOLO: data.yaml")
    (tmp_path / "data.yaml").rename(tmp_path / "dataset.yaml")
    assert find_split(tmp_path, "train").text().startswith("YOLO: dataset.yaml")
    (tmp_path / "dataset.yaml").rename(tmp_path / "mine.yaml")
    with pytest.raises(ConfigError, match=r"got none of them"):
        present_splits(tmp_path)
    (tmp_path / "mkdocs.yml").unlink()
    assert find_split(tmp_path, "train").text().startswith("YOLO: mine.yaml")
    (tmp_path / "mine.yaml").rename(tmp_path / "data.yaml")
    (tmp_path / "data.yaml").write_text("train: images/train\n")
    with pytest.raises(DataError, match=r"'names' of .*data\.yaml must list the classes"):
        present_splits(tmp_path)


def test_a_folder_of_no_known_format_names_them_all(tmp_path):
    with pytest.raises(ConfigError, match=r"\(COCO\), data\.yaml .* \(YOLO\), .* \(KITTI\) or .* \(Pascal VOC\), got"):
        present_splits(tmp_path)
    with pytest.raises(ConfigError, match=r"absent must be a data set folder or file"):
        present_splits(tmp_path / "absent")
    (tmp_path / "list.txt").write_text("a\n")
    with pytest.raises(
        ConfigError,
        match=r"list\.txt must be a JSON .* \(Pascal VOC\), got a file that is none of them",
    ):
        find_split(tmp_path / "list.txt", "train")


# What cannot be found.


def test_folder_without_the_split(tmp_path):
    with pytest.raises(ConfigError, match=r"must hold train\.json, .*, got none of them in an empty folder\. Give"):
        find_split(tmp_path, "val")
    write(tmp_path / "train.json")
    write(tmp_path / "deep" / "valid.json")
    with pytest.raises(
        ConfigError, match=r"got deep/valid\.json, train\.json\. Rename a file, or name it: data\.train="
    ):
        find_split(tmp_path, "val")


def test_folder_with_several_years(tmp_path):
    for year in (2014, 2017):
        write(tmp_path / "annotations" / f"instances_val{year}.json")
    with pytest.raises(ConfigError, match=r"one instances_val\*\.json, got instances_val2014.*2017\.json\. Rename"):
        find_split(tmp_path, "val")


def test_no_sibling_for_the_split(tmp_path):
    path = write(tmp_path / "my_train.json")
    with pytest.raises(ConfigError, match=r"beside .*my_train\.json must be my_val\.json, got no such file\."):
        find_split(path, "val")


def test_no_image_anywhere_says_where_it_looked(tmp_path):
    write(tmp_path / "train.json", "a.png", "b.png")
    with pytest.raises(DataError, match=r"got none of the first 2 \(such as a\.png\)\. Put them there") as error:
        find_split(tmp_path, "train")
    assert f"{tmp_path / 'images'}, {tmp_path}" in str(error.value)


def test_no_json(tmp_path):
    (tmp_path / "train.json").write_text("hello")
    with pytest.raises(DataError, match="must be JSON, got text that is none"):
        open_split(tmp_path, "train")


# Opening.


def test_open_split(tmp_path):
    write(tmp_path / "val.json", "a.png")
    picture(tmp_path / "images" / "a.png")
    annotations, problems = open_split(tmp_path, "val", class_names=("van", "car"))
    assert annotations.class_names == ("van", "car")
    assert annotations.path(0) == tmp_path / "images" / "a.png"
    assert len(problems) == 0
    with pytest.raises(DataError, match=r"must be \['car'\], got \['car', 'van'\]"):
        open_split(tmp_path, "val", class_names=("car",))


def test_open_split_without_images(tmp_path):
    write(tmp_path / "val.json")
    with pytest.raises(
        DataError,
        match=r"val\.json must list at least one image that can be used, got none\.",
    ):
        open_split(tmp_path, "val")
    write(tmp_path / "val.json", "/a.png")
    with pytest.raises(DataError, match=r"got none; 1 entries .*: unusable file name, such as .* is absolute\. Write"):
        open_split(tmp_path, "val")


def test_open_split_checks_images_where_asked(tmp_path):
    write(tmp_path / "val.json", "a.png", "b.png")
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    seen = []
    assert len(open_split(tmp_path, "val")[0]) == 2
    annotations, problems = open_split(tmp_path, "val", check_images=True, progress=lambda *at: seen.append(at))
    assert (len(annotations), problems.counts, seen) == (1, {"image file unreadable": 1}, [(1, 2), (2, 2)])


@pytest.mark.parametrize("name", ["bccd", "carla_sim", "coco_mini", "kitti33", "microcontrollers"])
def test_real_data(real_data, name):
    for split in ("train", "val"):
        found = find_split(real_data / name, split)
        assert found == CocoSplit(real_data / name / f"{split}.json", real_data / name / "images")


# The parts.


def test_candidate_folders_hold_no_repeats(tmp_path):
    (tmp_path / "train2017").mkdir()
    folders = candidate_folders(tmp_path / "annotations" / "instances_train2017.json")
    assert folders[0] == tmp_path / "train2017"
    assert len(folders) == len(set(folders))
    assert candidate_folders(tmp_path / "x.json") == [tmp_path / "images", tmp_path]


def test_images_folder_without_names(tmp_path):
    assert find_images(tmp_path / "x.json", []) == Images(tmp_path, Naming(), 0)
    (tmp_path / "images").mkdir()
    assert find_images(tmp_path / "x.json", []) == Images(tmp_path / "images", Naming(), 0)


def test_read_header(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"none")
    assert read_header(tmp_path / "a.png") == Header((3, 4), 1)
    assert read_header(tmp_path / "b.png") is None
    assert read_header(tmp_path / "c.png") is None
