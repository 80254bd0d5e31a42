"""`data check`: why nothing can be used, and what stands in two splits or in none."""

from __future__ import annotations

import json
import shutil

import pytest

from detdistill.cli.app import main
from detdistill.data.sources import open_split
from detdistill.errors import DataError
from detdistill.jobs.data import check_data_job
from folders_by_hand import VAL, coco_text, make_coco, make_kitti, make_roboflow, make_voc, make_yolo

IN_BOTH = "image in both splits"


def changed(folder, **fields):
    """Changes fields of every image of both COCO files; a callable makes the new value of the old one."""
    for split in ("train", "val"):
        path = folder / f"{split}.json"
        content = json.loads(path.read_text())
        for image in content["images"]:
            for key, value in fields.items():
                image[key] = value(image) if callable(value) else value
        path.write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("fields", "kind", "remedy"),
    [
        ({"file_name": lambda image: f"/nowhere/{image['id']}.png"}, "unusable file name", "Write names relative to"),
        ({"width": 30, "height": 40}, "image of another size", "Swap width and height in the annotations."),
        ({"width": 31}, "image of another size", "Write the images' own sizes"),
        ({"id": "seven"}, "bad entry in images", "Give every image a whole number"),
    ],
)
def test_why_every_image_fails(tmp_path, capsys, fields, kind, remedy):
    changed(make_coco(tmp_path / "d"), **fields)
    assert main(["data", "check", str(tmp_path / "d"), "--json", str(tmp_path / "found.json")]) == 2
    said = capsys.readouterr()
    assert said.err.count("error: ") == 1
    assert "must list at least one image that can be used, got none" in said.err
    assert remedy in said.err
    # Every split with its first examples, and the rest in the file.
    for split in ("train", "val"):
        assert f"({split}), read as COCO: {split}.json" in said.out
    assert f"  {kind}: 3 skipped\n" in said.out
    assert f"  {kind}: 2 skipped\n" in said.out
    content = json.loads((tmp_path / "found.json").read_text())["splits"]
    assert content["train"]["problems"][kind] == 3
    assert sum(kind_line.startswith(str(tmp_path)) for kind_line in content["train"]["problem_list"]) >= 3
    assert remedy in content["val"]["failure"]


def test_training_says_the_same(tmp_path):
    changed(make_coco(tmp_path), width=30, height=40, file_name=lambda image: f"/{image['id']}")
    with pytest.raises(DataError, match=r"such as .*train\.json, image 0: file_name '/0' is absolute\. Write names"):
        open_split(tmp_path, "train")


def test_a_split_that_cannot_be_found_leaves_the_other(tmp_path):
    make_coco(tmp_path)
    for stem in VAL:
        (tmp_path / "images" / f"{stem}.png").unlink()
    outcome = check_data_job(tmp_path)
    assert list(outcome.splits) == ["train"]
    assert "got none of the first 2" in outcome.failures["val"]
    assert outcome.failure == outcome.failures["val"]
    assert "cannot be used" in "\n".join(outcome.table())


# Leaks.


@pytest.mark.parametrize("make", [make_coco, make_voc, make_kitti, make_yolo, make_roboflow])
def test_the_same_content_in_two_splits_is_told_in_every_format(tmp_path, make):
    make(tmp_path)
    images = {path.stem: path for path in tmp_path.rglob("*.png")}
    assert IN_BOTH not in check_data_job(tmp_path).splits["val"].problems
    shutil.copy(images["a"], images["d"])
    found = check_data_job(tmp_path).problems["val"]
    assert found.counts == {IN_BOTH: 1}
    item = next(iter(found))
    assert (item.where, item.action) == (str(images["d"]), "kept")
    assert item.what == f"the same content as {images['a']} of the train split"


def test_the_same_name_and_length_is_told(tmp_path):
    make_roboflow(tmp_path)
    first, second = tmp_path / "train" / "a.png", tmp_path / "valid" / "d.png"
    first.write_bytes(first.read_bytes() + b"a length of its own")
    (tmp_path / "valid" / "_annotations.coco.json").write_text(coco_text(VAL).replace("d.png", "a.png"))
    second = second.rename(second.with_name("a.png"))
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    second.write_bytes(bytes(content))
    assert check_data_job(tmp_path).problems["val"].counts == {"image of one name and length in both splits": 1}


def test_the_same_file_in_both_jsons_is_told_once(tmp_path):
    make_coco(tmp_path)
    (tmp_path / "val.json").write_text(coco_text(("a", "d")))
    outcome = check_data_job(tmp_path)
    assert outcome.problems["val"].counts == {IN_BOTH: 1}
    assert "the file is in the train split too" in next(iter(outcome.problems["val"])).what
    # Nothing names e.png.
    assert outcome.problems["train"].counts == {"image in no split": 1}
    assert next(iter(outcome.problems["train"])).where == str(tmp_path / "images" / "e.png")
