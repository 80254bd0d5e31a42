from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from detdistill.data.formats.kitti import KITTI_TYPES, read_kitti_labels, read_kitti_truths
from detdistill.data.problems import Problems
from detdistill.data.sources import find_split, open_split
from detdistill.errors import ConfigError, DataError
from folders_by_hand import HEIGHT, OBJECTS, TRAIN, VAL, WIDTH, kitti_line, make_kitti, picture, write


def one(folder: Path, lines: str | bytes):
    """Reads a folder whose first label file has the given content."""
    make_kitti(folder)
    path = folder / "training" / "label_2" / "a.txt"
    path.write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    return open_split(folder, "train")


def only(problems) -> str:
    found = list(problems)
    assert len(found) == 1, found
    return f"{found[0].kind} | {found[0].text()}"


# Label files.


def test_an_empty_label_file(tmp_path):
    labels = read_kitti_labels(write(tmp_path / "a.txt", "\n \n"))
    assert len(labels) == 0
    assert (labels.types, labels.boxes.shape, labels.scores.shape) == ((), (0, 4), (0,))


def test_what_a_label_file_holds(tmp_path):
    text = kitti_line("Car", (1.5, 2, 3, 4), truncated=0.25, occluded=2) + "\n"
    text += kitti_line("DontCare", (5, 6, 7, 8), truncated=-1, occluded=-1)
    text += kitti_line("Van", (5, 6, 5, 6)).strip() + " 0.75\n"
    labels = read_kitti_labels(write(tmp_path / "a.txt", "\ufeff" + text.replace("\n", "\r\n")))
    assert labels.types == ("Car", "DontCare", "Van")
    assert labels.truncated.tolist() == [0.25, -1, 0]
    assert labels.occluded.tolist() == [2, -1, 0]
    assert labels.boxes.tolist() == [[1.5, 2, 3, 4], [5, 6, 7, 8], [5, 6, 5, 6]]
    np.testing.assert_equal(labels.scores, [np.nan, np.nan, 0.75])
    assert labels.lines.tolist() == [1, 3, 4]


COLUMNS = "wrong number of columns"
NUMBERS = "box not four finite numbers"
FLAGS = "truncated or occluded no number"
FLAWED = [
    ("Car 0 0 -10 1 2 3", COLUMNS, "15 columns (16 with a score), got 7"),
    (kitti_line("Car", (1, 2, 3, 4)).strip() + " .5 .5", COLUMNS, "15 columns (16 with a score), got 17"),
    (kitti_line("Car", ("nan", 2, 3, 4)), NUMBERS, "finite numbers in columns 5 to 8, got nan 2 3 4"),
    (kitti_line("Car", ("x", 2, 3, 4)), NUMBERS, "finite numbers in columns 5 to 8, got x 2 3 4"),
    (kitti_line("Car", ("1_0.0", 2, 30, 4)), NUMBERS, "finite numbers in columns 5 to 8, got 1_0.0 2 30 4"),
    (kitti_line("Car", ("\u0661", 2, 3, 4)), NUMBERS, "finite numbers in columns 5 to 8, got \u0661 2 3 4"),
    (kitti_line("Car", (3, 2, 1, 4)), "box without extent", "left, top, right, bottom in columns 5 to 8, got 3 2 1 4"),
    (kitti_line("Car", (1, 4, 3, 2)), "box without extent", "left, top, right, bottom in columns 5 to 8, got 1 4 3 2"),
    (kitti_line("Car", (1, 2, 3, 4), occluded="x"), FLAGS, "numbers in columns 2 and 3, got 0 x"),
    (kitti_line("Car", (1, 2, 3, 4)).strip() + " inf", "score no number", "a finite score in column 16, got inf"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "kind", "told"), FLAWED)
def test_a_flawed_line_is_refused_or_reported(tmp_path, line, kind, told):
    good = kitti_line("Van", (1, 2, 3, 4))
    path = write(tmp_path / "a.txt", f"{good}{line.strip()}\n{good}")
    with pytest.raises(DataError) as error:
        read_kitti_labels(path)
    assert str(error.value) == f"{path}, line 2 must have {told}. Correct the line."
    problems = Problems()
    assert read_kitti_labels(path, problems=problems).lines.tolist() == [1, 3]
    assert only(problems).startswith(f"{kind} | {path}, line 2: ")


def test_a_label_file_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"a\.txt must be a readable text file in UTF-8, got: no such file\."):
        read_kitti_labels(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_bytes(b"\n\xe9")
    with pytest.raises(DataError, match=r"a\.txt, line 2 must be a readable text file in UTF-8, got: byte 0xe9 is no"):
        read_kitti_labels(tmp_path / "a.txt")
    with pytest.raises(DataError, match=r"must be a readable text file in UTF-8, got: Is a directory\."):
        read_kitti_labels(tmp_path)


# Splits.


@pytest.mark.parametrize("inner", [".", "training"])
def test_what_the_arrays_hold(tmp_path, inner):
    make_kitti(tmp_path)
    for split, stems in (("train", TRAIN), ("val", VAL)):
        annotations, problems = open_split(tmp_path / inner, split)
        assert problems.summary() == []
        assert annotations.class_names == KITTI_TYPES
        assert annotations.category_ids.tolist() == list(range(1, 9))
        assert annotations.sizes.tolist() == [[HEIGHT, WIDTH]] * len(stems)
        for index, stem in enumerate(stems):
            mine = annotations.objects(index)
            assert annotations.file_name(index) == f"{stem}.png"
            assert annotations.boxes[mine].tolist() == [list(box) for _, *box in OBJECTS[stem]]
            names = [annotations.class_names[label] for label in annotations.labels[mine]]
            assert names == [name for name, *_ in OBJECTS[stem]]
        truths = read_kitti_truths(annotations)
        assert list(truths) == annotations.image_ids.tolist()
        assert truths[1].types == tuple(name for name, *_ in OBJECTS[stems[0]])


def test_dont_care_is_ignored_for_every_class(tmp_path):
    annotations, problems = one(tmp_path, kitti_line("DontCare", (1, 2, 30, 20)) + kitti_line("Car", (1, 2, 3, 4)))
    mine = annotations.objects(0)
    assert sorted(annotations.labels[mine][annotations.ignored[mine]].tolist()) == list(range(8))
    assert annotations.boxes[mine][annotations.ignored[mine]].tolist() == [[1, 2, 30, 20]] * 8
    assert len(problems) == 0


def test_dont_care_in_any_case_of_letters(tmp_path):
    annotations, problems = one(tmp_path, kitti_line("dontcare", (1, 2, 30, 20)) + kitti_line("Car", (1, 2, 3, 4)))
    assert annotations.class_names == KITTI_TYPES
    mine = annotations.objects(0)
    assert annotations.ignored[mine].tolist().count(True) == 8
    assert len(problems) == 0


def test_classes(tmp_path):
    annotations, _ = one(tmp_path, kitti_line("bus", (1, 2, 3, 4)) + kitti_line("DontCare", (1, 2, 3, 4)))
    assert annotations.class_names == (*KITTI_TYPES, "bus")
    assert open_split(tmp_path, "val", class_names=("bus", "Van", "Car"))[0].class_names == ("bus", "Van", "Car")
    with pytest.raises(DataError, match=r"must be \['Van', 'Car'\], got"):
        open_split(tmp_path, "val", class_names=("Van", "Car"))
    for path in (tmp_path / "training" / "label_2").iterdir():
        path.write_text(path.read_text().replace("Car ", "car ").replace("Van", "person"))
    assert open_split(tmp_path, "train")[0].class_names == ("bus", "car", "person")
    write(tmp_path / "classes.txt", "person\ncar\n")
    annotations, problems = open_split(tmp_path, "train")
    assert annotations.class_names == ("person", "car")
    assert only(problems).startswith(
        f"box of an unknown class | {tmp_path / 'training' / 'label_2' / 'a.txt'}, line 1: 'bus' is none"
    )


def test_without_lists_the_images_are_divided(tmp_path):
    make_kitti(tmp_path)
    for split in ("train", "val"):
        (tmp_path / "ImageSets" / f"{split}.txt").unlink()
    assert find_split(tmp_path, "val").text() == (
        "KITTI: 2 of every 10 images, drawn by seed 0 as there are no split lists, images in training/image_2/"
    )
    assert [len(open_split(tmp_path, split)[0]) for split in ("train", "val")] == [4, 1]
    write(tmp_path / "ImageSets" / "all.txt", "a\n")
    with pytest.raises(ConfigError, match=r"ImageSets must hold train\.txt and val\.txt"):
        open_split(tmp_path, "train")
    assert len(open_split(tmp_path / "ImageSets" / "all.txt", "train")[0]) == 1


def test_without_lists_an_image_without_label_file_is_told(tmp_path):
    make_kitti(tmp_path)
    bare = picture(tmp_path / "training" / "image_2" / "bare.png")
    assert len(open_split(tmp_path, "train")[1]) == 0  # the lists do not name it
    for split in ("train", "val"):
        (tmp_path / "ImageSets" / f"{split}.txt").unlink()
    annotations, problems = open_split(tmp_path, "train")
    assert len(annotations) == 4
    assert only(problems) == f"image without label file | {bare}: no bare.txt (skipped)"


def test_missing_files_are_told(tmp_path):
    make_kitti(tmp_path)
    write(tmp_path / "ImageSets" / "train.txt", "a\nnone\n../b\nb\n")
    (tmp_path / "training" / "image_2" / "b.png").unlink()
    annotations, problems = open_split(tmp_path, "train")
    assert len(annotations) == 1
    assert {f"{problem.kind} | {problem.where}" for problem in problems} == {
        f"label file missing | {tmp_path / 'ImageSets' / 'train.txt'}, line 2",
        f"unusable file name | {tmp_path / 'ImageSets' / 'train.txt'}, line 3",
        f"image file missing | {tmp_path / 'training' / 'label_2' / 'b.txt'}",
    }


def test_flawed_lines_are_skipped(tmp_path):
    lines = [kitti_line("Van", (1, 2, 3, 4)), *(f"{line.strip()}\n" for line, *_ in FLAWED)]
    annotations, problems = one(tmp_path, "".join(lines))
    path = tmp_path / "training" / "label_2" / "a.txt"
    assert {f"{problem.kind} | {problem.where}" for problem in problems} == {
        f"{kind} | {path}, line {at}" for at, (_, kind, _) in enumerate(FLAWED, start=2)
    }
    assert len(annotations.boxes) == 2
    assert read_kitti_truths(annotations)[1].types == ("Van",)


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ((-5, 2, 30, 20), "box partly outside its image"),
        ((-5, 2, -1, 20), "box outside its image"),
        ((100, 2, 120, 20), "box outside its image"),
        ((5, 2, 5, 20), "box without extent"),
    ],
)
def test_boxes_are_held_against_their_image(tmp_path, box, kind):
    for name, word in (("Car", ""), ("DontCare", "ignore region ")):
        _, problems = one(tmp_path, "\n" + kitti_line(name, box))
        expected = kind.replace("box ", word, 1) if word else kind
        assert only(problems).startswith(f"{expected} | {tmp_path / 'training' / 'label_2' / 'a.txt'}, line 2: bbox [")


def test_a_label_file_that_is_no_text_skips_its_image(tmp_path):
    annotations, problems = one(tmp_path, b"\xff")
    assert len(annotations) == 2
    assert only(problems).startswith(f"label file not UTF-8 | {tmp_path / 'training' / 'label_2' / 'a.txt'}, line 1: ")


def test_images_are_decoded_where_asked(tmp_path):
    make_kitti(tmp_path)
    path = picture(tmp_path / "training" / "image_2" / "a.png", width=900)
    path.write_bytes(path.read_bytes()[:-30])
    assert len(open_split(tmp_path, "train")[0]) == 3
    annotations, problems = open_split(tmp_path, "train", check_images=True)
    assert (len(annotations), problems.counts) == (2, {"image file unreadable": 1})


# Real data.


@pytest.mark.parametrize("split", ["train", "val"])
def test_real_data_agrees_with_its_coco_form(real_data, split):
    coco, _ = open_split(real_data / "kitti33", split)
    kitti, problems = open_split(real_data / "kitti33" / "native_kitti", split)
    # Some pictures are crops of the originals that the labels belong to.
    assert set(problems.counts) <= {"box partly outside its image", "ignore region partly outside its image"}
    assert kitti.class_names == coco.class_names
    assert [Path(kitti.file_name(index)).stem for index in range(len(kitti))] == [
        Path(coco.file_name(index)).stem for index in range(len(coco))
    ]
    for index in range(len(coco)):
        mine, theirs = kitti.objects(index), coco.objects(index)
        # The JSON is of pictures made smaller.
        scale = coco.sizes[index][::-1] / kitti.sizes[index][::-1]
        np.testing.assert_allclose(kitti.boxes[mine] * np.tile(scale, 2), coco.boxes[theirs], atol=1)
        assert kitti.labels[mine].tolist() == coco.labels[theirs].tolist()
        assert kitti.ignored[mine].tolist() == coco.ignored[theirs].tolist()


def test_real_labels_say_more_than_boxes(real_data):
    folder = real_data / "kitti33"
    content = json.loads((folder / "train.json").read_text())
    kitti, _ = open_split(folder / "native_kitti", "train")
    truths = read_kitti_truths(kitti)
    stems = {int(Path(image["file_name"]).stem): image["id"] for image in content["images"]}
    for number, labels in truths.items():
        rows = [row for row in content["annotations"] if row["image_id"] == stems[number]]
        real = [index for index, kind in enumerate(labels.types) if kind != "DontCare"]
        assert labels.occluded[real].tolist() == [row["occluded"] for row in rows]
        assert labels.truncated[real].tolist() == pytest.approx([row["truncated"] for row in rows])
