"""Teachers that say boxes alone, from the command line: a file of predictions, an ONNX file, a Python function."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import detdistill
from coco_by_hand import draw_data
from detdistill import build_detector, save_detector
from detdistill.cli import main
from detdistill.detectors import own_code
from detdistill.errors import ConfigError
from detdistill.scenes import SCENE_CLASSES, make_scenes
from onnx_models import OUTPUTS, Seeing, exported

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["train.steps=2", "train.batch_size=2", "train.warmup_steps=1", "train.checkpoint_every=1", "train.device=cpu"]
SMALL = ["data.image.short_side=48", "data.image.long_side=80", "train.threads=1"]


@pytest.mark.slow
def test_the_guide_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(own_code, "_trusted", set())
    guide = (ROOT / "docs" / "black_box.md").read_text(encoding="utf-8")
    make_scenes(tmp_path / "my_data", train=4, val=2, seed=0)
    image = {"short_side": 96, "long_side": 160}
    save_detector(build_detector("fcos/small", SCENE_CLASSES), tmp_path / "runs/teacher", image=image)
    exported(Seeing(), tmp_path / "detector.onnx", outputs=OUTPUTS["detections"], said={})
    for language, name, text in re.findall(r"```(yaml|python)\n# (\w+\.\w+)\n(.*?)```", guide, flags=re.DOTALL):
        Path(name).write_text(text, encoding="utf-8")
        assert language in ("yaml", "python")
    for line in re.findall(r"^detdistill (.*)$", guide, flags=re.MULTILINE):
        command, *words = shlex.split(line)
        short = [*SHORT, *SMALL] if command in ("distill", "doctor") else []
        code = main([command, *short, *words])
        said = capsys.readouterr()
        assert code == 0, f"{line}: {said.err}"
        if command == "doctor":
            assert "teacher's boxes: " in said.out or "does not know" in said.out


def labels_as_found(data: Path) -> dict[str, Any]:
    """Both splits' labels as one data set of what somebody found."""
    found = {split: json.loads((data / f"{split}.json").read_text()) for split in ("train", "val")}
    for number, content in enumerate(found.values()):
        for one in (*content["images"], *content["annotations"]):
            one["id"] += 1000 * number
        for one in content["annotations"]:
            one |= {"image_id": one["image_id"] + 1000 * number, "score": 0.9}
    both = {key: [one for content in found.values() for one in content[key]] for key in ("images", "annotations")}
    return both | {"categories": found["train"]["categories"]}


def test_a_run_by_predictions_goes_on_by_the_same_file_alone(tmp_path: Path) -> None:
    data = draw_data(tmp_path / "data", train=6, val=2)
    both = labels_as_found(data)
    (tmp_path / "found.json").write_text(json.dumps(both))
    words = {"data": data, "student": "fcos/test_resnet", "method": "boxes", "out": tmp_path / "run"}
    small = (*SHORT, *SMALL, "student.head_depth=1", "student.strides=[8,16,32]", "student.fpn_channels=16")
    outcome = detdistill.distill(*small, teacher=tmp_path / "found.json", **words)
    assert outcome.results["teacher"].ap == pytest.approx(100)
    assert outcome.costs == {}
    assert detdistill.distill(*small, teacher=tmp_path / "found.json", resume=True, **words).steps == 2
    both["annotations"][0]["score"] = 0.4
    (tmp_path / "found.json").write_text(json.dumps(both))
    with pytest.raises(ConfigError, match="teacher"):
        detdistill.distill(*small, teacher=tmp_path / "found.json", resume=True, **words)


@pytest.mark.slow
def test_a_file_of_boxes_is_searched_with_and_proved(tmp_path: Path) -> None:
    data = draw_data(tmp_path / "data", train=8, val=4)
    (tmp_path / "found.json").write_text(json.dumps(labels_as_found(data)))
    words = {"data": data, "student": "fcos/test_resnet", "teacher": tmp_path / "found.json"}
    small = (*SHORT, *SMALL, "student.head_depth=1", "student.strides=[8,16,32]", "student.fpn_channels=16")
    tuned = detdistill.tune(*small, methods=["boxes"], strengths=[3.0], budget=4.0, out=tmp_path / "tuned", **words)
    assert set(tuned.trials) >= {"alone", "boxes(strength=3)"}
    proved = detdistill.prove(*small, method="boxes", seeds=1, jobs=1, out=tmp_path / "proof", **words)
    assert proved.as_dict()


def test_torchscript_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Conv2d(3, 4, 1).state_dict(), tmp_path / "weights.pt")
    (tmp_path / "net.torchscript").write_bytes(b"anything")
    for name, said in (
        ("net.torchscript", "got TorchScript. Export the detector to ONNX"),
        ("weights.pt", "must be a st"),
    ):
        with pytest.raises(ConfigError, match=said):
            detdistill.load_detector(tmp_path / name)


def test_a_box_by_its_import_path_and_what_checks_say_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(own_code, "_trusted", set())
    monkeypatch.setattr(sys, "path", [*sys.path])
    data = draw_data(tmp_path / "data", train=1, val=6)
    shutil.copy(Path(__file__).parents[1] / "unit" / "test_called.py", tmp_path / "finder.py")
    with (tmp_path / "finder.py").open("a") as file:
        file.write("\nteacher = detdistill.BlackBox(find, CLASSES)\n")
    assert main(["evaluate", f"{tmp_path / 'finder.py'}:teacher", "--data", str(data)]) == 0
    assert "the function find, classes square, bar" in capsys.readouterr().err
    words = ["--self", "--data", str(data), "--method", "boxes", "--out", str(tmp_path / "run")]
    assert main(["distill", "--teacher", f"{tmp_path / 'finder.py'}:teacher", *words]) == 2
    assert re.search(
        r"must be a model, got .*finder\.py:teacher, a function that says boxes alone\. Choose a student by --student",
        capsys.readouterr().err,
    )
    box = detdistill.load_detector(f"{tmp_path / 'finder.py'}:teacher").detector
    batch = next(iter(detdistill.open_data(data, split="val").batches(2)))
    assert detdistill.check_detector(box, batch).problems == ()
