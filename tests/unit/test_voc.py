from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from detdistill.data.formats.voc import parse_voc
from detdistill.data.listing import Share, split_by_seed
from detdistill.data.sources import find_split, open_split
from detdistill.errors import ConfigError, DataError
from folders_by_hand import HEIGHT, OBJECTS, TRAIN, VAL, WIDTH, make_voc, picture, voc_object, voc_xml, write


def one(folder: Path, xml: str | bytes, *, good: bool = True):
    """Reads a folder with one given XML file, and one beside it that is fine."""
    make_voc(folder)
    write(folder / "ImageSets" / "Main" / "train.txt", "a\nb\n" if good else "a\n")
    path = folder / "Annotations" / "a.xml"
    path.write_bytes(xml if isinstance(xml, bytes) else xml.encode())
    return open_split(folder, "train")


def only(problems) -> str:
    found = list(problems)
    assert len(found) == 1, found
    return f"{found[0].kind} | {found[0].text()}"


def test_a_split_without_a_usable_image_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"train split .* must list at least one image that can be used, got none; 1"):
        one(tmp_path, b"", good=False)


def test_what_the_arrays_hold(tmp_path):
    make_voc(tmp_path)
    for split, stems in (("train", TRAIN), ("val", VAL)):
        annotations, problems = open_split(tmp_path, split)
        assert problems.summary() == []
        assert annotations.class_names == ("Car", "Van")
        assert annotations.category_ids.tolist() == [1, 2]
        assert annotations.image_ids.tolist() == list(range(1, len(stems) + 1))
        assert annotations.sizes.tolist() == [[HEIGHT, WIDTH]] * len(stems)
        for index, stem in enumerate(stems):
            mine = annotations.objects(index)
            assert annotations.path(index) == tmp_path / "JPEGImages" / f"{stem}.png"
            assert annotations.boxes[mine].tolist() == [list(box) for _, *box in OBJECTS[stem]]
            assert [annotations.class_names[label] for label in annotations.labels[mine]] == [
                name for name, *_ in OBJECTS[stem]
            ]
        sides = annotations.boxes[:, 2:] - annotations.boxes[:, :2]
        assert annotations.areas.tolist() == np.prod(sides, axis=1).tolist()
        assert not annotations.ignored.any()


def test_difficult_objects_are_ignored(tmp_path):
    objects = voc_object("Car", (1, 1, 5, 5), difficult=1) + voc_object("Car", (3, 3, 8, 8))
    annotations, _ = one(tmp_path, voc_xml(objects))
    assert annotations.ignored.tolist() == [True, False, False]


def test_words_for_difficult_and_for_not_difficult(tmp_path):
    yes, no = ["1", "1.0", " True ", "YES"], ["", "0", "0.0", "false", "False", "no", "Unspecified"]
    objects = "".join(voc_object("Car", (1, 1, 5, 5), difficult=word) for word in (*yes, *no))
    annotations, problems = one(tmp_path, voc_xml(objects))
    assert (annotations.ignored.tolist()[:-1], len(problems)) == ([True] * len(yes) + [False] * len(no), 0)


def test_another_word_for_difficult_is_told_with_its_line(tmp_path):
    annotations, problems = one(tmp_path, voc_xml(voc_object("Car", (1, 1, 5, 5), difficult="maybe")))
    assert annotations.ignored.tolist() == [False, False]
    place = f"{tmp_path / 'Annotations' / 'a.xml'}, line 6"
    assert only(problems) == f"difficult neither 0 nor 1 | {place}: difficult is 'maybe', taken as 0 (repaired)"


def test_pixels_count_from_one_and_a_zero_stays_zero(tmp_path):
    objects = voc_object("Car", (0, 0, 5, 5)) + voc_object("Car", (1, 1, 5, 5)) + voc_object("Car", (1.5, 3, 3, 3))
    annotations, problems = one(tmp_path, voc_xml(objects))
    assert annotations.boxes[:3].tolist() == [[0, 0, 5, 5], [0, 0, 5, 5], [0.5, 2, 3, 3]]
    assert len(problems) == 0


def test_parts_of_an_object_are_passed_over(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>30</xmin><ymin>1</ymin><xmax>31</xmax><ymax>2</ymax></bndbox></part>"
    objects = voc_object("Car", (1, 1, 5, 5)).replace("</object>", f"{part}</object>")
    annotations, _ = one(tmp_path, voc_xml(objects))
    assert annotations.class_names == ("Car", "Van")
    assert annotations.boxes[0].tolist() == [0, 0, 5, 5]


def test_classes_come_from_both_splits_or_from_the_list(tmp_path):
    make_voc(tmp_path)
    write(tmp_path / "Annotations" / "e.xml", voc_xml(voc_object("A bus", (1, 1, 5, 5))))
    assert open_split(tmp_path, "train")[0].class_names == ("A bus", "Car", "Van")
    assert open_split(tmp_path, "val", class_names=("Van", "Car", "A bus", "Tram"))[0].class_names[0] == "Van"
    with pytest.raises(DataError, match=r"must be \['Car'\], got \['A bus', 'Car', 'Van'\]"):
        open_split(tmp_path, "train", class_names=("Car",))
    write(tmp_path / "classes.txt", "Van\n\nCar\n")
    annotations, problems = open_split(tmp_path, "val")
    assert annotations.class_names == ("Van", "Car")
    assert only(problems).startswith(f"box of an unknown class | {tmp_path / 'Annotations' / 'e.xml'}, line 4: 'A bus'")
    with pytest.raises(DataError, match=r"must be \['Van'\], got \['Van', 'Car'\]"):
        open_split(tmp_path, "val", class_names=("Van",))


def test_no_class_at_all_is_refused(tmp_path):
    make_voc(tmp_path)
    for path in (tmp_path / "Annotations").iterdir():
        path.write_text(voc_xml(""))
    with pytest.raises(DataError, match=r"must hold at least one object with a class, got none\. Check that"):
        open_split(tmp_path, "train")


# Layouts.


def test_folders_of_images_and_xml_files(tmp_path):
    for split, stem in (("train", "a"), ("valid", "b")):
        picture(tmp_path / split / f"{stem}.png")
        write(tmp_path / split / f"{stem}.xml", voc_xml(voc_object(stem, (1, 1, 5, 5))))
    picture(tmp_path / "train" / "bare.png")
    annotations, problems = open_split(tmp_path, "train")
    assert annotations.class_names == ("a", "b")
    assert annotations.path(0) == tmp_path / "train" / "a.png"
    bare = tmp_path / "train" / "bare.png"
    assert only(problems) == f"image without label file | {bare}: no bare.xml (skipped)"
    assert open_split(tmp_path, "val")[0].path(0) == tmp_path / "valid" / "b.png"


def test_one_folder_is_divided_by_a_seed(tmp_path):
    for number in range(10):
        picture(tmp_path / f"{number}.png")
        write(tmp_path / f"{number}.xml", voc_xml(voc_object("Car", (1, 1, 5, 5))))
    found = find_split(tmp_path, "train")
    assert found.text() == (
        "Pascal VOC: 8 of every 10 images, drawn by seed 0 as there are no split lists, images in the folder itself"
    )
    train, val = (open_split(tmp_path, split)[0] for split in ("train", "val"))
    assert (len(train), len(val)) == (8, 2)
    assert sorted([*train.image_ids.tolist(), *val.image_ids.tolist()]) == list(range(10))


def test_the_division_depends_on_names_and_seed_alone():
    names = [f"{number:03d}" for number in range(100)]
    train, val = split_by_seed(names, seed=3)
    assert (len(train), len(val)) == (80, 20)
    assert sorted(train + val) == names
    assert [set(part) for part in split_by_seed(names[::-1], seed=3)] == [set(train), set(val)]
    assert split_by_seed(names, seed=4)[0] != train
    assert [len(part) for part in split_by_seed(["a"])] == [1, 0]
    assert [len(part) for part in split_by_seed(["a", "b"])] == [1, 1]
    assert Share("val", Path("x"), 5).text().startswith("2 of every 10 images, drawn by seed 5")


def test_lists_without_a_pair_are_refused(tmp_path):
    make_voc(tmp_path)
    lists = tmp_path / "ImageSets" / "Main"
    (lists / "val.txt").rename(lists / "other.txt")
    with pytest.raises(ConfigError, match=r"train\.txt and val\.txt \(or .*\), got other\.txt, train\.txt\. Name"):
        open_split(tmp_path, "train")
    (lists / "other.txt").rename(lists / "test.txt")
    assert len(open_split(tmp_path, "val")[0]) == 2


def test_names_in_lists(tmp_path):
    make_voc(tmp_path)
    lines = "a.png\n\nb  1\n../a\nb\nabsent\n/c\n"
    write(tmp_path / "ImageSets" / "Main" / "train.txt", lines)
    annotations, problems = open_split(tmp_path, "train")
    assert [annotations.file_name(index) for index in range(len(annotations))] == ["a.png", "b.png"]
    place = f"{tmp_path / 'ImageSets' / 'Main' / 'train.txt'}, line"
    assert {f"{problem.kind} | {problem.where}" for problem in problems} == {
        f"unusable file name | {place} 4",
        f"image listed twice | {place} 5",
        f"label file missing | {place} 6",
        f"unusable file name | {place} 7",
    }


# Flawed files.


@pytest.mark.parametrize(
    ("xml", "told"),
    [
        (b"", "label file empty | {path}: a file without content"),
        (b"<annotation>\n<object>", "XML that cannot be read | {path}, line 2: no element found"),
        (b"<annotation>\n\n<a></b></annotation>", "XML that cannot be read | {path}, line 3: mismatched tag"),
        (b"<annotation>\n\xff\xfe</annotation>", "XML that cannot be read | {path}, line 2: not well-formed"),
        (b"<annotation>\n" + b"<a>" * 10**6, "XML nested too deep | {path}, line 2: elements more than 32 deep"),
        (b"<html></html>", "XML that is no Pascal VOC | {path}, line 1: its root is <html>, not <annotation>"),
        (b"<?xml version='1.0' encoding='none-such'?><annotation/>", "XML that cannot be read | {path}, line 1: "),
        (b"<?xml version='1.0' encoding='utf-32'?><annotation/>", "XML that cannot be read | {path}, line 1: "),
    ],
)
def test_a_file_that_cannot_be_read_skips_its_image(tmp_path, xml, told):
    annotations, problems = one(tmp_path, xml)
    assert [annotations.file_name(index) for index in range(len(annotations))] == ["b.png"]
    assert only(problems).startswith(told.format(path=tmp_path / "Annotations" / "a.xml"))


def test_entities_are_never_expanded_and_no_file_is_opened(tmp_path):
    bomb = "".join(f'<!ENTITY e{k} "{f"&e{k - 1};" * 10}">' for k in range(1, 12))
    for inside in (bomb, f'<!ENTITY e11 SYSTEM "file://{__file__}">', '<!ENTITY % p SYSTEM "http://127.0.0.1:9/x">%p;'):
        xml = f'<!DOCTYPE annotation [<!ENTITY e0 "x">{inside}]>\n' + voc_xml(voc_object("&e11;", (1, 1, 5, 5)))
        _, problems = one(tmp_path, xml)
        assert only(problems).startswith("XML with a document type | ")
        assert "line 1: a DOCTYPE is not read (skipped)" in only(problems)


@pytest.mark.parametrize(
    ("corners", "kind"),
    [
        (("nan", 1, 5, 5), "box not four finite numbers"),
        (("", 1, 5, 5), "box not four finite numbers"),
        (("1e999", 1, 5, 5), "box not four finite numbers"),
        (("one", 1, 5, 5), "box not four finite numbers"),
        (("1_0.0", 1, 25, 5), "box not four finite numbers"),
        (("\u0661", 1, 5, 5), "box not four finite numbers"),
        ((9, 1, 5, 5), "box without extent"),
        ((-9, -9, -5, -5), "box outside its image"),
        ((-9, 1, 5, 5), "box partly outside its image"),
        ((100, 1, 105, 5), "box outside its image"),
    ],
)
def test_boxes_are_told_by_file_and_line(tmp_path, corners, kind):
    annotations, problems = one(tmp_path, voc_xml(voc_object("Car", corners)))
    assert only(problems).startswith(f"{kind} | {tmp_path / 'Annotations' / 'a.xml'}, line 4: bbox [")
    assert len(annotations) == 2
    assert len(annotations.boxes) == 1 + problems.repaired


def test_an_object_without_name_or_box(tmp_path):
    xml = voc_xml("<object><name>Car</name></object>\n<object>\n</object>\n")
    _, problems = one(tmp_path, xml)
    assert problems.counts == {"box of an unknown class": 1, "box not four finite numbers": 1}


@pytest.mark.parametrize("size", [("", ""), (0, 0), ("nan", 30), (-4, 30), (1e300, 30), (40.5, 30)])
def test_a_missing_size_is_read_from_the_image(tmp_path, size):
    annotations, problems = one(tmp_path, voc_xml(voc_object("Car", (1, 1, 5, 5)), size=size))
    assert annotations.sizes[0].tolist() == [HEIGHT, WIDTH]
    assert only(problems).startswith("image without size | ")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "../../etc/passwd",
            "unusable file name | {path}: filename '../../etc/passwd' leads out of",
        ),
        ("/etc/passwd", "unusable file name | {path}: filename '/etc/passwd' is absolute"),
        ("x" * 300, "unusable file name | "),
        ("", "image file missing | {path}: "),
        ("elsewhere.png", "image file missing | {path}: "),
    ],
)
def test_an_image_that_no_file_may_name(tmp_path, name, told):
    make_voc(tmp_path)
    (tmp_path / "JPEGImages" / "a.png").unlink()
    annotations, problems = one_without_image(tmp_path, name)
    assert len(annotations) == 1
    assert only(problems).startswith(told.format(path=tmp_path / "Annotations" / "a.xml"))


def one_without_image(folder: Path, name: str):
    write(folder / "ImageSets" / "Main" / "train.txt", "a\nb\n")
    write(folder / "Annotations" / "a.xml", voc_xml(voc_object("Car", (1, 1, 5, 5)), name=name))
    return open_split(folder, "train")


def test_an_image_that_only_the_file_names(tmp_path):
    make_voc(tmp_path)
    os.rename(tmp_path / "JPEGImages" / "a.png", tmp_path / "JPEGImages" / "other.png")
    annotations, problems = one_without_image(tmp_path, "other.png")
    assert [annotations.file_name(0), len(problems)] == ["other.png", 0]


def test_images_are_decoded_where_asked(tmp_path):
    make_voc(tmp_path)
    picture(tmp_path / "JPEGImages" / "a.png", width=7)
    seen = []
    _, problems = open_split(tmp_path, "train", check_images=True, progress=lambda *at: seen.append(at))
    assert only(problems).startswith("image of another size | ")
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_list_that_is_no_text_is_refused(tmp_path):
    make_voc(tmp_path)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_bytes(b"a\nb\xff\n")
    with pytest.raises(DataError, match=r"train\.txt, line 2 must be a readable text file in UTF-8, got: byte 0xff"):
        open_split(tmp_path, "train")


def test_a_file_as_parsed(tmp_path):
    path = write(tmp_path / "a.xml", voc_xml(voc_object(" A \n car ", (1, 2, 3, 4)), name="x.png"))
    file = parse_voc(path)
    assert (file.image, file.size, len(file.boxes)) == ("x.png", (HEIGHT, WIDTH), 1)
    assert (file.boxes[0].kind, file.boxes[0].line, file.boxes[0].box) == ("A car", 4, (0, 1, 3, 4))


# Real data.


@pytest.mark.parametrize(("split", "listed"), [("train", "trainval"), ("val", "test")])
def test_real_data_agrees_with_its_coco_form(real_data, split, listed):
    coco, _ = open_split(real_data / "bccd", split)
    path = real_data / "bccd" / "native_voc" / "ImageSets" / "Main" / f"{listed}.txt"
    voc, problems = open_split(path, split, class_names=coco.class_names)
    assert problems.summary() == []
    rows = {Path(voc.file_name(index)).stem: index for index in range(len(voc))}
    assert len(rows) == len(coco)
    for index in range(len(coco)):
        mine, theirs = voc.objects(rows[Path(coco.file_name(index)).stem]), coco.objects(index)
        np.testing.assert_allclose(voc.boxes[mine], coco.boxes[theirs], atol=1)
        assert voc.labels[mine].tolist() == coco.labels[theirs].tolist()
        assert voc.ignored[mine].tolist() == coco.ignored[theirs].tolist()


def test_supervision_agrees(real_data):
    supervision = pytest.importorskip("supervision")
    folder = real_data / "bccd" / "native_voc"
    theirs = supervision.DetectionDataset.from_pascal_voc(
        images_directory_path=str(folder / "JPEGImages"), annotations_directory_path=str(folder / "Annotations")
    )
    mine, _ = open_split(folder / "ImageSets" / "Main" / "test.txt", "val")
    by_name = {Path(path).name: found for path, found in theirs.annotations.items()}
    for index in range(len(mine)):
        found = by_name[mine.path(index).name]
        at = mine.objects(index)
        np.testing.assert_allclose(mine.boxes[at], found.xyxy, atol=1)
        assert [mine.class_names[label] for label in mine.labels[at]] == [theirs.classes[c] for c in found.class_id]
