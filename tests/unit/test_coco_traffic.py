from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from detdistill.cli import main
from detdistill.data.sources import open_split
from detdistill.errors import ConfigError, DataError
from detdistill.papers.coco_traffic import make_coco_traffic_job
from detdistill.papers.traffic_filter import DECIDING_CLASSES, TRAFFIC_CLASSES, filter_traffic
from detdistill.progress import Silence

DECIDING_IDS = {2, 3, 4, 6, 7, 8, 10, 11, 13}
OTHERS = [{"id": 50 + k, "name": name, "supercategory": "thing"} for k, name in enumerate(TRAFFIC_CLASSES)]


def slow(source: Path) -> dict:
    """The filter with everything in memory, by COCO's own ids."""
    content = json.loads(source.read_text())
    names = {one["id"]: one["name"] for one in content["categories"]}
    kept = {one["image_id"] for one in content["annotations"] if one["category_id"] in DECIDING_IDS}
    return {
        "images": [one for one in content["images"] if one["id"] in kept],
        "annotations": [
            {
                **{key: value for key, value in one.items() if key != "segmentation"},
                "category_id": 1 + TRAFFIC_CLASSES.index(names[one["category_id"]]),
            }
            for one in content["annotations"]
            if one["image_id"] in kept and names[one["category_id"]] in TRAFFIC_CLASSES
        ],
    }


def native(real_data: Path, folder: Path) -> Path:
    """COCO's own layout around coco_mini's files."""
    (folder / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        source = real_data / "coco_mini" / "native_coco" / f"instances_{split}.json"
        (folder / "annotations" / source.name).symlink_to(source)
        (folder / split).symlink_to(real_data / "coco_mini" / "images")
    return folder


def write(path: Path, **changes: object) -> Path:
    content = {"images": [], "annotations": [], "categories": OTHERS} | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return path


class Watcher(Silence):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.totals: list[int] = []
        self.done: list[int] = []

    def start(self, what: str, total: int, *, unit: str = "step", done: int = 0) -> None:
        self.totals.append(total)

    def advance(self, done: int, note: str = "") -> None:
        self.done.append(done)


def test_the_preset_is_aids():
    assert DECIDING_CLASSES == (
        "bicycle", "car", "motorcycle", "bus", "train", "truck", "traffic light", "fire hydrant", "stop sign"
    )  # fmt: skip
    assert (TRAFFIC_CLASSES[0], TRAFFIC_CLASSES[10:]) == ("person", ("parking meter", "cat", "dog"))


def test_coco_mini_equals_the_slow_filter(real_data, tmp_path):
    coco, out = native(real_data, tmp_path / "coco"), tmp_path / "traffic"
    counts = make_coco_traffic_job(coco, out).splits
    for split, year in (("train", "train2017"), ("val", "val2017")):
        source = coco / "annotations" / f"instances_{year}.json"
        written = json.loads((out / "annotations" / source.name).read_text())
        expected = slow(source)
        assert written["images"] == expected["images"]
        assert written["annotations"] == expected["annotations"]
        assert [(one["id"], one["name"]) for one in written["categories"]] == list(enumerate(TRAFFIC_CLASSES, start=1))
        assert written["licenses"] == json.loads(source.read_text())["licenses"]
        shown = Counter(one["category_id"] for one in expected["annotations"])
        kept = counts[split]
        read: list[int] = []
        assert filter_traffic(source, tmp_path / "again.json", progress=read.append) == kept
        assert (tmp_path / "again.json").read_bytes() == (out / "annotations" / source.name).read_bytes()
        assert read == sorted(read)
        assert 0 < read[0] < read[-1] == 2 * source.stat().st_size
        assert kept.boxes == {name: shown[k] for k, name in enumerate(TRAFFIC_CLASSES, start=1)}
        assert kept.images == len(expected["images"]) < kept.images_in_source
        assert any(one["iscrowd"] for one in expected["annotations"])


def test_what_is_written_opens_like_coco(real_data, tmp_path):
    make_coco_traffic_job(native(real_data, tmp_path / "coco"), tmp_path / "traffic")
    for split in ("train", "val"):
        annotations, problems = open_split(tmp_path / "traffic", split, check_images=True)
        assert annotations.class_names == TRAFFIC_CLASSES
        assert len(problems) == 0
        assert annotations.path(0).is_file()
        # Every kept image shows something that decides.
        deciding = np.isin(annotations.labels, [TRAFFIC_CLASSES.index(name) for name in DECIDING_CLASSES])
        assert all(deciding[annotations.objects(i)].any() for i in range(len(annotations)))


def test_plain_layout_and_the_same_again(real_data, tmp_path):
    out = tmp_path / "traffic"
    first = make_coco_traffic_job(real_data / "coco_mini", out)
    before = (out / "annotations" / "instances_train.json").stat().st_mtime_ns
    watcher = Watcher()
    assert make_coco_traffic_job(real_data / "coco_mini", out, progress=watcher) == first
    assert watcher.done == watcher.totals
    assert (out / "annotations" / "instances_train.json").stat().st_mtime_ns == before
    assert len(open_split(out, "val")[0]) == first.splits["val"].images


def test_classes_go_by_name_whatever_their_ids_and_the_order_of_the_lists(tmp_path):
    """Person 50 alone does not qualify image 1; a crowd of bicycles (51) qualifies image 2 with its dog (62)."""
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 50, "bbox": [0, 0, 5, 5]},
        {
            "id": 2,
            "image_id": 2,
            "category_id": 51,
            "bbox": [0, 0, 5, 5],
            "iscrowd": 1,
            "segmentation": {"counts": [3]},
        },
        {"id": 3, "image_id": 2, "category_id": 62, "bbox": [0, 0, 5, 5], "segmentation": [[1, 2, 3, 4, 5, 6]]},
        {"id": 4, "image_id": 2, "category_id": 7, "bbox": [0, 0, 5, 5]},
        {"id": 5, "image_id": "two", "category_id": 51, "bbox": [0, 0, 5, 5]},
        "no object",
    ]
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg", "width": 9, "x": [1, {"y": None}]}, 3]
    content = {"annotations": annotations, "info": {"a": 1}, "categories": OTHERS[::-1], "images": images}
    (tmp_path / "a.json").write_text(json.dumps(content))
    counts = filter_traffic(tmp_path / "a.json", tmp_path / "b.json")
    written = json.loads((tmp_path / "b.json").read_text())
    assert written["images"] == [images[1]]
    assert written["annotations"] == [
        {"id": 2, "image_id": 2, "category_id": 2, "bbox": [0, 0, 5, 5], "iscrowd": 1},
        {"id": 3, "image_id": 2, "category_id": 13, "bbox": [0, 0, 5, 5]},
    ]
    assert written["categories"][1] == {"id": 2, "name": "bicycle", "supercategory": "thing"}
    assert (counts.images, counts.images_in_source, counts.boxes["bicycle"], counts.boxes["dog"]) == (1, 3, 1, 1)


def test_no_traffic_at_all_is_a_file_without_images(tmp_path):
    counts = filter_traffic(write(tmp_path / "a.json"), tmp_path / "b.json")
    written = json.loads((tmp_path / "b.json").read_text())
    assert (counts.images, written["images"], written["annotations"]) == (0, [], [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "must be a COCO file with the lists images, annotations, categories, got no images. Give"),
        ({"annotations": None, "categories": None}, "got no annotations and no categories. Give"),
        ({"categories": OTHERS[:-1]}, "must include person, bicycle, .*, dog, got no dog. Give COCO's own file"),
        ({"images": {}}, '"images" of .* must be a list, got dict'),
    ],
)
def test_files_that_are_refused_leave_nothing(tmp_path, changes, message):
    source = write(tmp_path / "a.json", **changes)
    with pytest.raises(DataError, match=message):
        filter_traffic(source, tmp_path / "out" / "b.json")
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_a_folder_with_something_else_is_refused(real_data, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(
        ConfigError, match="must be a new or an empty folder, or COCO traffic made from the same files, got"
    ):
        make_coco_traffic_job(real_data / "coco_mini", tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "precious"
    out = tmp_path / "traffic"
    make_coco_traffic_job(real_data / "coco_mini", out)
    with pytest.raises(ConfigError, match=r"got something else\. Give another folder, or delete that one"):
        make_coco_traffic_job(native(real_data, tmp_path / "coco"), out)


def test_the_command_tells_what_was_kept(real_data, tmp_path, capsys):
    coco, out = native(real_data, tmp_path / "coco"), tmp_path / "traffic"
    watcher = Watcher()
    made = make_coco_traffic_job(coco, out, progress=watcher)
    assert watcher.done[-1] == watcher.totals[0] == max(watcher.done) > 0
    assert len(watcher.totals) == 1
    line = ["data", "make", "coco-traffic", "--coco", str(coco), "--out", str(out), "--json", str(tmp_path / "r.json")]
    assert main(line) == 0
    assert capsys.readouterr().out.splitlines() == made.table()
    written = json.loads((tmp_path / "r.json").read_text())
    assert written.pop("written_by") == "detdistill data make coco-traffic"
    assert written == json.loads(json.dumps(made.as_dict()))
    train = made.splits["train"]
    assert written["splits"]["train"]["boxes"]["person"] == train.boxes["person"] > 0
    table = made.table()
    assert table[0] == f"train: {train.images} of {train.images_in_source} images kept"
    rows = {row.rsplit(maxsplit=2)[0]: row.split()[-2:] for row in table[5:-2]}
    assert list(rows) == [*TRAFFIC_CLASSES, "all"]
    assert rows["traffic light"] == [str(kept.boxes["traffic light"]) for kept in made.splits.values()]
    assert rows["all"] == [str(sum(kept.boxes.values())) for kept in made.splits.values()]
    assert table[-1] == f"written to {out}"


def test_the_command_refuses_what_is_no_coco_in_a_sentence(tmp_path, capsys):
    line = ["data", "make", "coco-traffic", "--coco", str(tmp_path / "coco"), "--out", str(tmp_path / "out")]
    assert main(line) == 2
    assert f"data {tmp_path / 'coco'} must be a data set folder or file, got no such path" in capsys.readouterr().err
    (tmp_path / "coco").mkdir()
    write(tmp_path / "coco" / "train.json")
    assert main(line) == 2
    said = capsys.readouterr().err
    assert f"error: {tmp_path / 'coco'} must hold val.json or annotations/instances_val*.json, got train.json" in said
    assert not (tmp_path / "out").exists()


def test_a_failure_leaves_no_folder(tmp_path):
    write(tmp_path / "train.json")
    write(tmp_path / "val.json", categories=[])
    with pytest.raises(DataError, match="got no person, bicycle"):
        make_coco_traffic_job(tmp_path, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.json", "val.json"]


def test_the_memory_benchmark_at_a_small_size(tmp_path):
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "coco_traffic_memory.py"
    command = [sys.executable, str(script), "--images", "200", "--boxes", "1500", "--json", str(tmp_path / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["within_limits"] == {"peak_mib": True}
    assert 0 < result["images"] < result["images_in_source"] == 200
    assert 10 < result["peak_mib"] < 1024
