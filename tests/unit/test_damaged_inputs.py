"""Checkpoints, names and JSON files that are damaged or contradict themselves are refused in one sentence."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from detdistill.data.annotations import Annotations
from detdistill.data.dataset import read_image
from detdistill.data.formats.labelme import parse_labelme
from detdistill.data.label_text import FileFlaw
from detdistill.data.sources import open_split
from detdistill.detectors.backbones import read_state_dict
from detdistill.detectors.catalogue import build_detector, parse_detector
from detdistill.detectors.load_report import require_finite
from detdistill.errors import ConfigError, DistillError
from detdistill.evaluation.detect import detect_split
from detdistill.files import read_json, write_json
from detdistill.jobs.config import read_run_config
from detdistill.jobs.settings import StudentChoice
from detdistill.json_text import used_as
from detdistill.report.curves import read_curves
from detdistill.store.best import chosen_as
from detdistill.store.checkpoints import DamagedCheckpoint, read_checkpoint, read_record
from detdistill.store.layout import DESCRIPTION, LATEST, WEIGHTS
from detdistill.store.students import load_detector, save_detector, saved_settings
from detdistill.training.logs import read_rows
from folders_by_hand import make_coco, make_kitti, make_labelme, make_voc, make_yolo
from scenes_in_memory import SMALLEST, scene_batch

IMAGE = {"short_side": 96, "long_side": 160, "pad_multiple": 32}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "checkpoints" / "step_0000006"
    save_detector(build_detector(parse_detector("fcos/tiny"), ("car",), seed=3), folder, image=IMAGE)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "run" / "checkpoints" / saved.name))


def said_by(work: Any) -> str:
    with pytest.raises(DistillError) as refused:
        work()
    return str(refused.value)


# --- weights that are no numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "change", "said"),
    [
        ("running_var", lambda one: -one, "must hold variances of at least 0, got -1 in "),
        ("weight", lambda one: one.to(torch.int8), "must be of float32, got int8. Use the file as it was written."),
        ("weight", lambda one: one.to(torch.complex64), "or of whole numbers, got complex64 in "),
        ("weight", lambda one: one.to(torch.float8_e5m2), "or of whole numbers, got float8_e5m2 in "),
        ("weight", lambda one: one.double() + 1e300, "must hold finite weights, got NaN or infinity in "),
        ("num_batches_tracked", lambda one: one.float(), "must be of int64, got float32."),
    ],
)
def test_tensors_that_nobody_can_compute_with_name_file_and_tensor(
    copy: Path, ending: str, change: Any, said: str
) -> None:
    tensors = load_file(copy / WEIGHTS)
    name = next(name for name in tensors if name.endswith(ending))
    save_file({**tensors, name: change(tensors[name])}, copy / WEIGHTS)
    told = said_by(lambda: load_detector(copy))
    assert said in told
    assert name in told
    assert str(copy / WEIGHTS) in told


def test_half_precision_is_read_as_before(copy: Path) -> None:
    tensors = load_file(copy / WEIGHTS)
    save_file({name: one.half() if one.is_floating_point() else one for name, one in tensors.items()}, copy / WEIGHTS)
    assert load_detector(copy).report.fraction == 1
    require_finite({"a": torch.ones(2, dtype=torch.bfloat16)}, source="it")


@pytest.mark.parametrize(
    ("name", "value"), [*((name, 3e38) for name in SMALLEST), ("fcos/tiny", math.nan), ("gfl/tiny", -math.inf)]
)
def test_a_detector_that_computes_no_numbers_is_not_measured_as_bad(name: str, value: float) -> None:
    detector = build_detector(parse_detector(name), ("car",), seed=0)
    batch = scene_batch()
    assert len(detect_split(detector, [batch], device="cpu")) == 3
    last = [one for key, one in detector.named_parameters() if key.endswith("weight")][-1]
    with torch.no_grad():
        last.fill_(value)
    told = said_by(lambda: detect_split(detector, [batch], device="cpu"))
    assert told.startswith((f"What {detector.spec.name} computes for the images [", "Boxes and scores detected in"))
    assert "must be finite, got NaN or infinity" in told
    assert not any(part._forward_hooks for part in detector.modules())


# --- a name and settings that disagree ------------------------------------------------------------------------------

OPTIONS = {"data": "d", "out": "o", "student.detector": "fcos/tiny"}


@pytest.mark.parametrize(
    ("student", "setting", "said"),
    [
        ("fcos/tiny", "student.family=gfl", "got 'gfl'. Write student=gfl/tiny instead."),
        ("fcos/resnet18", "student.family=gfl", "got 'gfl'. Write student=gfl/resnet18 instead."),
        ("fcos/tiny", "student.family=faster_rcnn", "Write student=faster_rcnn/small instead."),
        ("fcos/resnet18", "student.backbone=resnet50", "got resnet50. Write student=fcos/resnet50 instead."),
        ("fcos/tiny", "student.backbone=resnet18", "got resnet18. Write student=fcos/resnet18 instead."),
    ],
)
def test_a_student_is_what_its_name_says(student: str, setting: str, said: str) -> None:
    options = {**OPTIONS, "student.detector": student}
    told = said_by(lambda: read_run_config(None, [setting], purpose="train", options=options))
    assert said in told
    assert told.startswith(f"The command line: {setting.partition('=')[0]} must be ")
    remedy = told.partition("Write ")[2].removesuffix(" instead.")
    again = read_run_config(None, [remedy], purpose="train", options=options)
    assert again.student.detector == remedy.removeprefix("student=")


def test_a_students_settings_made_in_python_and_saved_ones_are_of_one_family(copy: Path) -> None:
    with pytest.raises(ConfigError, match=r"student\.family must be fcos, .* Write student=gfl/tiny instead\."):
        StudentChoice("fcos/tiny", parse_detector("gfl/tiny"))
    described = read_json(copy / DESCRIPTION)
    described["detector"]["family"] = "gfl"
    write_json(copy / DESCRIPTION, described)
    assert "The settings of gfl must have known keys, got 'centre_radius'" in said_by(lambda: saved_settings(copy))
    tiny = parse_detector("fcos/tiny")
    assert StudentChoice("fcos/tiny", replace(tiny, fpn_channels=48)).settings.fpn_channels == 48


# --- descriptions and records ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("detector", "fpn_channels", "wide"),
        ("detector", "fpn_channels", 10**4000),
        ("detector", "fpn_channels", 32.0),
        ("detector", "strides", 8),
        ("detector", "strides", [8, "16"]),
        ("detector", "mean", [0.5, None, 0.5]),
        ("detector", "std", [float("nan")] * 3),
        ("detector", "head_depth", 10**6),
        ("detector", "backbone", ["resnet18"]),
        ("detector", "family", ["fcos"]),
        ("detector", "pretrained", {}),
        ("image", "short_side", "96"),
        ("image", "short_side", [96]),
        ("image", "long_side", 10**9),
        ("image", "tall_side", 1),
        ("class_names", None, ["car", 3]),
        ("class_names", None, ["car", "car"]),
        ("class_names", None, ["\ud800"]),
        ("extra", None, []),
        ("format", None, 7),
    ],
)
def test_a_description_of_another_kind_names_its_file(copy: Path, section: str, key: str | None, value: Any) -> None:
    described = read_json(copy / DESCRIPTION)
    described[section] = value if key is None else {**described[section], key: value}
    (copy / DESCRIPTION).write_text(json.dumps(described))
    for look in (load_detector, saved_settings):
        told = said_by(lambda look=look: look(copy))
        assert str(copy / DESCRIPTION) in told
        assert " must " in told
        assert ", got " in told
        assert len(told) < 600


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "recursion"),
        ('{"format": ' + "9" * 5000 + "}", "4300"),
        ('{"image": {"short_side": 1, "short_side": 2}}', "the key 'short_side' stands twice in an object"),
        ('{"format": 1, "format": 2}', "the key 'format' stands twice in an object"),
        ("\ufeff{}", "BOM"),
        ("", "Expecting value"),
    ],
)
def test_json_that_is_none_is_said_to_be_none(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "some.json"
    path.write_text(text)
    told = said_by(lambda: read_json(path))
    assert told.startswith(f"{path} must be JSON, got text that is none (")
    assert said in told


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"step": "6"}, "step and seconds"),
        ({"seconds": None}, "step and seconds"),
        ({"identity": []}, "identity and counters"),
        ({"identity": {"train": 3}}, "identity without train"),
        ({"counters": None}, "identity and counters"),
    ],
)
def test_a_record_of_another_kind_names_its_file(copy: Path, change: dict[str, Any], said: str) -> None:
    whole = {"format": 1, "step": 6, "seconds": 1.5, "identity": {"train": {}}, "counters": {}}
    write_json(copy / "training.json", whole)
    assert read_record(copy) is not None
    write_json(copy / "training.json", {**whole, **change})
    told = said_by(lambda: read_record(copy))
    assert told.startswith(f"{copy / 'training.json'} must be a record of how its student was trained")
    assert said in told


def test_results_and_choices_of_another_kind_are_no_traceback(copy: Path) -> None:
    write_json(
        copy / "training.json", {"format": 1, "step": 6, "seconds": 1.5, "identity": {"train": {}}, "counters": {}}
    )
    write_json(copy.parents[1] / "results.json", [1])
    assert "results.json must be a run's results" in said_by(lambda: read_record(copy))
    write_json(copy.parent / LATEST, {"step": "x", "metric": 1, "value": [], "evaluations": {}})
    assert chosen_as(copy) is None
    with (
        pytest.raises(ConfigError, match=r"^x must be figures as it was written, got .*KeyError"),
        used_as(Path("x"), "figures"),
    ):
        {}["AP"]
    (copy / "metrics.csv").write_text("step,AP\n1,much\n")
    assert "must be a metrics file" in said_by(lambda: read_rows(copy / "metrics.csv"))
    (copy / "metrics.csv").write_text(f"step,AP\n1,{'1' * 200_000}\n")
    assert "must be a metrics file" in said_by(lambda: read_rows(copy / "metrics.csv"))


# --- annotations ----------------------------------------------------------------------------------------------------

COCO: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25}],
    "categories": [{"id": 1, "name": "car"}],
}


def read(data: Path) -> Annotations:
    return open_split(data, "train")[0]


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_a_list_that_stands_twice_is_refused(tmp_path: Path, key: str) -> None:
    path = make_coco(tmp_path) / "train.json"
    text = json.dumps(COCO)
    path.write_text(f'{text[:-1]}, "{key}": {json.dumps(COCO[key])}}}')
    told = said_by(lambda: read(tmp_path))
    assert told == f'"{key}" of {path} must stand once, got it twice. Write one list of all its entries.'
    path.write_text(f'{text[:-1]}, "info": 1, "info": 2}}')
    assert len(read(tmp_path)) == 1


def test_a_key_that_stands_twice_in_an_entry_is_refused_with_its_place(tmp_path: Path) -> None:
    path = make_coco(tmp_path) / "train.json"
    path.write_text(json.dumps(COCO).replace('"bbox"', '"bbox": [0, 0, 1, 1], "bbox"'))
    told = said_by(lambda: read(tmp_path))
    assert told.startswith(f"{path} must be JSON, got text that is none: a value cannot be read (the key 'bbox' stands")
    assert 'before \'{"id": 1, "image_id": 1, ' in told


MAKERS = {"coco": make_coco, "voc": make_voc, "yolo": make_yolo, "kitti": make_kitti, "labelme": make_labelme}


@pytest.mark.parametrize("name", MAKERS)
def test_a_pipe_in_the_place_of_any_file_is_waited_for_by_nobody(name: str, tmp_path: Path) -> None:
    """Whatever file of a data set is one: images and annotations are read, or refused, at once."""
    whole = MAKERS[name](tmp_path / "whole")
    files = [path.relative_to(whole) for path in sorted(whole.rglob("*")) if path.is_file()]
    assert len(files) > 2
    for number, file in enumerate(files):
        folder = Path(shutil.copytree(whole, tmp_path / str(number)))
        (folder / file).unlink()
        os.mkfifo(folder / file)
        with suppress(DistillError):
            annotations = read(folder)
            for index in range(len(annotations)):
                size = int(annotations.sizes[index][0]), int(annotations.sizes[index][1])
                read_image(annotations.path(index), image_id=index, size=size)


def test_a_pipe_in_the_place_of_a_checkpoints_files_is_waited_for_by_nobody(copy: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    for work in (
        lambda: load_detector(pipe),
        lambda: read_state_dict(pipe),
        lambda: read_rows(pipe),
        lambda: read_curves(pipe),
        lambda: parse_labelme(pipe),
        lambda: read_image(pipe, image_id=1, size=(1, 1)),
    ):
        with pytest.raises((DistillError, FileFlaw)):
            work()
    (copy / DESCRIPTION).unlink()
    os.mkfifo(copy / DESCRIPTION)
    assert "must be a regular file, got a pipe, device or socket." in said_by(lambda: load_detector(copy))
    write_json(copy / "training.json", {"format": 1, "sha256": {}})
    with pytest.raises(DamagedCheckpoint, match="without the sums of the weights"):
        read_checkpoint(copy)


# --- too much -------------------------------------------------------------------------------------------------------


def test_many_classes_take_linear_time_and_more_than_anybody_has_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_coco(tmp_path) / "train.json"
    categories = [{"id": number, "name": f"c{number}"} for number in range(1, 20_001)]
    path.write_text(json.dumps({**COCO, "categories": categories}))
    start = time.process_time()
    annotations = read(tmp_path)
    again, _ = open_split(tmp_path, "train", class_names=annotations.class_names[::-1])
    # Looking every name up in a list took some 10 s.
    assert time.process_time() - start < 2
    assert (len(annotations.class_names), again.class_names[0]) == (20_000, "c20000")
    monkeypatch.setattr("detdistill.data.builder.MOST_CLASSES", 19_999)
    assert "must have at most 19999 classes, got 20000. Leave some out, or unite them." in said_by(
        lambda: read(tmp_path)
    )


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "coco"])
def test_a_label_file_of_more_boxes_than_an_image_has_is_told_and_passed_over(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = MAKERS[name](tmp_path)
    assert "a.png" in str(read(folder).file_name(0))
    monkeypatch.setattr("detdistill.data.label_text.MOST_BOXES", 1)
    annotations, problems = open_split(folder, "train")
    assert problems.counts["label file of too many boxes"] >= 1
    assert any("2 " in one.what and "at most 1 are read" in one.what for one in problems)
    assert not any(annotations.file_name(index).endswith("a.png") for index in range(len(annotations)))
    if name in ("yolo", "kitti"):
        monkeypatch.setattr("detdistill.data.label_text.MOST_BOXES", -1)
        assert said_by(lambda: read(folder)).endswith("Leave such images out, or take boxes out of their label files.")
