"""What a new user gets wrong: one clear sentence with the remedy, exit 2, no traceback, nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detdistill import build_detector, parse_detector, save_detector
from detdistill.cli import main
from detdistill.scenes import SCENE_CLASSES, make_scenes

IMAGE = {"short_side": 96, "long_side": 160}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, a teacher for them, a teacher of other classes and one of other strides."""
    folder = tmp_path_factory.mktemp("home")
    make_scenes(folder / "scenes", train=3, val=2, seed=0)
    for name, classes, strides in (
        ("teacher", SCENE_CLASSES, (8, 16, 32)),
        ("others", ("cat", "dog"), (8, 16, 32)),
        ("coarse", SCENE_CLASSES, (32, 64)),
    ):
        settings = parse_detector("fcos/tiny")
        changed = type(settings)(**(settings.to_dict() | {"strides": strides}))
        save_detector(build_detector(changed, classes, seed=0), folder / name, image=IMAGE)
    return folder


def complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in shown.err
    assert lines[0].rstrip().endswith((".", "?"))
    return lines[0]


def distil(home: Path, out: Path, **changes: str) -> list[str]:
    options = {
        "teacher": str(home / "teacher"),
        "student": "fcos/tiny",
        "data": str(home / "scenes"),
        "method": "frs",
        "out": str(out),
        "steps": "1",
    } | changes
    return ["distill", *(word for key, value in options.items() for word in (f"--{key}", value))]


def spoiled(home: Path, tmp_path: Path, change: Callable[[dict[str, list[dict[str, object]]]], None]) -> Path:
    """The scenes with another val.json."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "images").symlink_to(home / "scenes/images")
    (data / "train.json").write_text((home / "scenes/train.json").read_text())
    content = json.loads((home / "scenes/val.json").read_text())
    change(content)
    (data / "val.json").write_text(json.dumps(content))
    return data


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": "no_such_folder"}, r"no_such_folder must be a data set folder or file, got no such path"),
        ({"teacher": "no_such_run"}, r"no_such_run must be a run folder, a checkpoint"),
        ({"teacher": "torchvision:retinanet_resnet5"}, r"Did you mean 'retinanet_resnet50_fpn"),
        ({"student": "fcso/tiny"}, r"Did you mean 'fcos'\?"),
        ({"student": "fcos/resnet81"}, r"Did you mean 'resnet"),
        ({"method": "fsr"}, r"Did you mean 'frs'\?"),
        ({"alone": "no_such_run"}, r"no_such_run must be a run folder"),
    ],
    ids=lambda value: next(iter(value.items()))[1] if isinstance(value, dict) else "",
)
def test_a_wrong_option(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], said: str
) -> None:
    out = tmp_path / "run"
    message = complaint(distil(home, out, **changes), capsys)
    assert __import__("re").search(said, message), message
    assert not out.exists()


def test_a_json_that_is_no_coco(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.json").write_text('{"shapes": []}')
    (data / "val.json").write_text("{}")
    assert "train.json" in complaint(distil(home, tmp_path / "run", data=str(data)), capsys)


def test_a_teacher_of_other_classes(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = complaint(distil(home, tmp_path / "run", teacher=str(home / "others")), capsys)
    assert "must know one of the data's classes" in message
    assert "--classes-map" in message
    assert "teacher.allow=[classes]" in message


def test_no_common_stride(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*distil(home, tmp_path / "run", teacher=str(home / "coarse")), "student.strides=[8,16]"]
    message = complaint(arguments, capsys)
    assert "must share at least one stride, got [8, 16]" in message
    assert "student.strides=[32,64]" in message


def test_an_empty_validation_set(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def empty(content: dict[str, list[dict[str, object]]]) -> None:
        content["images"], content["annotations"] = [], []

    data = spoiled(home, tmp_path, empty)
    assert "val.json must list at least one image" in complaint(distil(home, tmp_path / "run", data=str(data)), capsys)


def test_an_image_that_is_no_image(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.png").write_text("not a picture")

    def broken(content: dict[str, list[dict[str, object]]]) -> None:
        for image in content["images"]:
            image["file_name"] = "bad.png"

    data = spoiled(home, tmp_path, broken)
    (data / "images").unlink()
    (data / "images").mkdir()
    for path in (home / "scenes/images").rglob("*.png"):
        link = data / "images" / path.relative_to(home / "scenes/images")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    (data / "images/bad.png").write_text("not a picture")
    message = complaint(["evaluate", str(home / "teacher"), "--data", str(data)], capsys)
    assert "bad.png" in message
    assert "must be an image that can be decoded" in message
    assert "bad.png must be an image" in complaint(
        ["predict", str(home / "teacher"), str(tmp_path / "bad.png"), "--out", str(tmp_path / "drawn")], capsys
    )


def test_an_output_folder_that_exists(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    message = complaint(distil(home, out), capsys)
    assert "must be new or empty, got one with files in it" in message
    assert "--resume" not in message
    assert [path.name for path in out.iterdir()] == ["precious.txt"]


def unreachable(home: Path, tmp_path: Path, left: int) -> Path:
    """The scenes with a train.json all but `left` of whose boxes name an image that there is not."""
    data = spoiled(home, tmp_path, lambda content: None)
    content = json.loads((data / "train.json").read_text())
    for row in content["annotations"][left:]:
        row["image_id"] = 10**6
    (data / "train.json").write_text(json.dumps(content))
    return data


def trained(data: Path, out: Path) -> list[str]:
    small = ["data.image.short_side=32", "data.image.long_side=48"]
    return ["train", *small, "--detector", "fcos/tiny", "--data", str(data), "--steps", "1", "--out", str(out)]


def test_training_on_nothing_is_refused(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = unreachable(home, tmp_path, left=0)
    arguments = trained(data, tmp_path / "run")
    assert f"The train split of {data} must keep at least half of its boxes, got 0 of" in complaint(arguments, capsys)
    said = complaint([*arguments, "--allow-problems"], capsys)
    assert said.startswith(f"error: The training data {data} must hold at least one box to learn, got none in 3 images")
    assert not (tmp_path / "run").exists()


def test_data_that_lost_most_of_its_boxes_is_used_only_if_allowed(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = unreachable(home, tmp_path, left=1)
    arguments = trained(data, tmp_path / "run")
    assert "or go on with what is left by --allow-problems." in complaint(arguments, capsys)
    assert main([*arguments, "--allow-problems"]) == 0
    assert "allow_problems: true" in (tmp_path / "run/config.yaml").read_text()


def test_missing_images_are_told_before_the_first_step(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rename(content: dict[str, list[dict[str, object]]]) -> None:
        content["images"][0]["file_name"] = "gone.png"

    data = spoiled(home, tmp_path, rename)
    assert main([*trained(data, tmp_path / "run"), "--allow-problems"]) == 0
    said = capsys.readouterr().err
    assert said.index("val data: image file missing: 1 skipped") < said.index("train fcos/tiny")
    assert "gone.png does not exist" in said


def test_deep_images_are_drawn_as_they_are_seen(home: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((64, 96), 2048, dtype=np.uint16)).save(tmp_path / "deep.png")
    drawn = tmp_path / "drawn"
    arguments = ["predict", str(home / "teacher"), str(tmp_path / "deep.png"), "--out", str(drawn), "--score", "1"]
    assert main(arguments) == 0
    assert np.asarray(Image.open(drawn / "deep.png"))[:32].mean() == pytest.approx(128, abs=30)


@pytest.mark.parametrize(
    "files", [("notes.txt",), ("config.yaml", "results.json", "a.partial", "b.0123456789ab.partial")]
)
def test_resume_leaves_a_folder_alone_that_is_no_run(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], files: tuple[str, ...]
) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    for name in files:
        (out / name).write_text("mine")
    for command in (trained(home / "scenes", out), distil(home, out)):
        said = complaint([*command, "--resume"], capsys)
        assert f"The run folder {out} must hold a run to go on with, or nothing, got other files." in said
    assert {path.name: path.read_text() for path in out.iterdir()} == dict.fromkeys(files, "mine")


def test_a_path_that_is_not_quite_there(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    (home / "mine.py").touch()
    own = ["train", "--detector", "mein.py:Net", "--data", "scenes", "--out", "run"]
    for line, meant in (
        (own, "got nothing. Did you mean mine.py?"),
        (["data", "check", "scnes"], "Did you mean scenes?"),
        (["data", "check", "scnes/train.json"], "Did you mean scenes/train.json?"),
        (["data", "check", "scenes\\val.json.bak"], "Did you mean scenes/val.json?"),
        (["data", "check", "scenes/images"], "Give scenes instead."),
        (["data", "check", "nowhere/near"], "got no such path. Check the path."),
        (["evaluate", "teecher", "--data", "scenes"], "Did you mean teacher?"),
        (["evaluate", "teacher\\", "--data", "scenes"], "got nothing there. Did you mean teacher?"),
        (["predict", "teacher", "scene", "--out", "drawn"], "Did you mean scenes?"),
        (["predict", "teacher", "scenes", "--out", "drawn"], "Give scenes/images."),
    ):
        assert complaint(line, capsys).endswith(meant), line


def test_a_training_alone_is_no_distillation_to_diagnose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("paths_from: file\nstudent: fcos/tiny\n")
    assert "got one without a teacher. Give the distilled student's." in complaint(["diagnose", str(tmp_path)], capsys)


def test_a_detector_that_finds_nothing_says_what_to_try(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = str(min((home / "scenes/images").rglob("*.png")))
    assert main(["predict", str(home / "teacher"), photo, "--out", str(tmp_path / "drawn"), "--score", "1"]) == 0
    assert "nothing was found that surely: try a lower --score" in capsys.readouterr().out
