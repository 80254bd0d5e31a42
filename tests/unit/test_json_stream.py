from __future__ import annotations

import json

import pytest

from coco_rows import CATEGORIES, box, image, write
from detdistill.data.formats import json_stream
from detdistill.data.formats.coco import read_coco
from detdistill.data.formats.coco_json import first_file_names
from detdistill.errors import ConfigError, DataError

# Files that are refused.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a COCO JSON file, got an empty file. Write"),
        (" \n ", "must be a COCO JSON file, got an empty file. Write"),
        ("{}", "with the lists images, annotations, categories, got no images and no annotations"),
        ("[]", 'must be a JSON object with the lists "images", "annotations" and "categories", got a list. Give'),
        ("3", "got a single value. Give"),
        ("images: []", "must be JSON, got text that is none: Expecting value before 'images: []'. Write"),
        ('{"images": [', "must be JSON, got text that is none: Expecting value before the end of the file. Write"),
        ('{"images": [{"id": 1}', "',' or ']' is missing before the end of the file"),
        ('{"images": [{"id": 1}]', "',' or '}' is missing before the end of the file"),
        ('{"images": [{"id": 1} {"id": 2}]}', "',' or ']' is missing before '{\"id\": 2}]}'"),
        ('{"images": []} more', "there is more text behind the end of the object"),
        ("{images: []}", "'\"' is missing before 'images: []}'"),
        ('{"images" []}', "':' is missing before '[]}'"),
        ('{"images": [' + "[" * 100_000, "it is nested too deeply"),
        ('{"images": [' + "1" * 5000 + "]}", "a value cannot be read"),
        ('{"images": {}}', "must be a list, got dict. Write"),
        ('{"images": [], "categories": []}', "got no annotations (its keys: images, categories). Give"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "must name at least one class, got none"),
    ],
)
def test_no_coco_file(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        read_coco(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_no_text_and_no_file(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"images": ["\xff\xfe"]}')
    with pytest.raises(DataError, match="must be JSON text in UTF-8, got a byte that is not"):
        read_coco(tmp_path / "a.json")
    with pytest.raises(
        ConfigError, match=r"must be a readable file, got: No such file or directory\. Did you mean .*a\.json\?"
    ):
        read_coco(tmp_path / "b.json")
    with pytest.raises(ConfigError, match=r"must be a regular file, got a folder"):
        read_coco(tmp_path)


# The stream.


@pytest.mark.parametrize(("chunk", "indent"), [(1, None), (1, 2), (3, None), (7, 2), (1000, None)])
def test_chunks_may_end_anywhere(tmp_path, monkeypatch, chunk, indent):
    rows = [
        box(1, 1, [1, 1, 2, 2], segmentation=[[1.5, 2, 3e-1, 4], [5, 6, 7, 8]]),
        box(2, 1, [1, 1, 3, 3], segmentation={"counts": [1, 20, 300], "size": [3, 4]}),
        box(3, 1, [1, 1, 4, 4], segmentation=[]),
        box(4, 1, [1, 1, 5, 5], note='a "segmentation": [1, 2], } {', segmentation=[{"counts": "a}b"}]),
    ]
    content = {
        "number": 1234567,
        "images": [image(1, file_name='ä "x" }{][.png'), image(22)],
        "annotations": rows,
        "categories": CATEGORIES,
    }
    path = tmp_path / "a.json"
    path.write_text("\ufeff" + json.dumps(content, indent=indent, ensure_ascii=False), encoding="utf-8")
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    annotations, problems = read_coco(path)
    assert annotations.boxes[:, 2:].tolist() == [[3, 3], [4, 4], [5, 5], [6, 6]]
    assert annotations.file_name(0) == 'ä "x" }{][.png'
    assert len(problems) == 0


def test_polygons_are_not_decoded_but_other_lists_are(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": [{"segmentation": [[1, 2], [3]], "bbox": [1, 2]}, {"bbox": [3], "segmentation":[]}]}')
    entries = [entry for _, entry in json_stream.walk(path, ["a"]) if entry is not json_stream.BEGIN]
    assert entries == [{"segmentation": 0, "bbox": [1, 2]}, {"bbox": [3], "segmentation": 0}]


def test_an_endless_entry_is_refused_before_memory_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK", 100)
    monkeypatch.setattr(json_stream, "LONGEST_ENTRY", 1000)
    path = write(tmp_path, images=[image(1, note="x" * 5000)])
    with pytest.raises(DataError, match="one entry is longer than"):
        read_coco(path)


def test_first_file_names_reads_no_further_than_needed(tmp_path):
    path = tmp_path / "a.json"
    names = [image(1), image(2, file_name="../x.png"), image(3), image(4)]
    path.write_text(f'{{"images": {json.dumps(names)[:-1]}, broken')
    assert first_file_names(path, count=3) == ["1.png", "../x.png", "3.png"]
    with pytest.raises(DataError, match="must be JSON"):
        first_file_names(path, count=5)
