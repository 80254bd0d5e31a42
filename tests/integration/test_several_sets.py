"""One run on two data sets of different classes, and on some classes of one: trained, resumed, distilled, evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from coco_by_hand import TRAIN, draw_data
from detdistill.cli import main
from detdistill.store.layout import RunFolder
from detdistill.store.students import load_detector

SMALL = [
    "student.head_depth=1",
    "student.strides=[8, 16, 32]",
    "student.fpn_channels=16",
    "data.weights=[1, 3]",
    "train.batch_size=3",
    "train.warmup_steps=1",
    "train.checkpoint_every=2",
    "train.device=cpu",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares and bars; the same pictures with the bars called rods and in another order; a run on both."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("one", "two"):
        draw_data(folder / name)
    for split in ("train", "val"):
        path = folder / "two" / f"{split}.json"
        content = json.loads(path.read_text())
        content["categories"][1]["name"] = "rod"
        content["categories"].reverse()
        path.write_text(json.dumps(content))
    assert main([*train(folder, "both"), "--steps", "4"]) == 0
    return folder


def train(home: Path, out: str) -> list[str]:
    data = ["--data", str(home / "one"), "--data", str(home / "two")]
    return ["train", "--detector", "fcos/test_resnet", *data, "--out", str(home / out), *SMALL]


def weights(run: Path) -> dict[str, torch.Tensor]:
    folder = RunFolder(run)
    return load_file(folder.checkpoint(folder.steps()[-1]) / "student.safetensors")


def test_a_run_on_two_sets_resumes_to_the_same_bits(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = weights(home / "both")
    run = RunFolder(home / "both")
    assert load_detector(home / "both").class_names == ("square", "bar", "rod")
    for file in run.checkpoint(4).iterdir():
        file.unlink()
    run.checkpoint(4).rmdir()
    run.name_latest(2)
    config = str(home / "both/config.yaml")
    before = Path(config).read_bytes()
    assert main(["train", config, "--resume", "data.weights=[1, 2]"]) == 2
    assert Path(config).read_bytes() == before
    assert "data.weights must be [1.0, 3.0] to resume" in capsys.readouterr().err
    assert main(["train", config, "--resume"]) == 0
    said = capsys.readouterr().err
    assert f"train data {home / 'two'} read as COCO: train.json" in said
    assert f"train data {home / 'two'}: {TRAIN} images; square 7, rod 7" in said
    assert f"class bar is annotated in {home / 'one'} alone" in said
    assert all(torch.equal(tensor, whole[name]) for name, tensor in weights(home / "both").items())


def test_it_is_measured_on_each_set_alone(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, lacking in (("one", "rod"), ("two", "bar")):
        file = home / f"{name}.json"
        assert main(["evaluate", str(home / "both"), "--data", str(home / name), "--json", str(file)]) == 0
        assert f"val data: no class {lacking}, whose figures stay unknown" in capsys.readouterr().err
        found = json.loads(file.read_text())
        assert {key: value is None for key, value in found["per_class"].items()} == {
            key: key == lacking for key in ("square", "bar", "rod")
        }


def test_twins_belong_to_their_images_in_both_sets(home: Path) -> None:
    line = ["distill", str(home / "both/config.yaml"), "--teacher", str(home / "both"), "--method", "ikd(hint)"]
    out = home / "taught"
    assert main([*line, "--out", str(out), "--steps", "2", "method.attack_steps=1"]) == 0
    assert len(list((out / "twins").glob("*/*.png"))) == 2 * TRAIN


@pytest.mark.slow
def test_a_run_of_some_classes_is_trained_taught_and_measured(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["train", str(home / "both/config.yaml"), "--data", str(home / "one"), "data.weights=null", "--steps", "1"]
    assert main([*line, "data.classes=[bar]", "--out", str(home / "bars")]) == 0
    assert f"train data {home / 'one'}: left out square (7 boxes)" in capsys.readouterr().err
    assert load_detector(home / "bars").class_names == ("bar",)
    assert main(["evaluate", str(home / "bars"), "--data", str(home / "one")]) == 0
    assert "val data: left out square (2 boxes)" in capsys.readouterr().err
    # It teaches a student of all classes its own, and one that is told so those alone.
    line = ["distill", *line[1:], "--teacher", str(home / "bars"), "--method", "frs(warmup_steps=0)"]
    assert main([*line, "--out", str(home / "taught_both")]) == 0
    assert "classes: by equal names bar; the teacher does not know square" in capsys.readouterr().err
    assert load_detector(home / "taught_both").class_names == ("square", "bar")
    told = ["data.classes=[bar]", "--alone", str(home / "bars")]
    assert main([*line, "--out", str(home / "taught_bars"), *told]) == 0
    runs = [
        word
        for name in ("bars", "taught_bars")
        for word in (f"--{'alone' if name == 'bars' else 'distilled'}", str(home / name))
    ]
    line = ["pictures", *runs, "--teacher", str(home / "bars"), "--data", str(home / "one")]
    assert main([*line, "--out", str(home / "found.png")]) == 0
