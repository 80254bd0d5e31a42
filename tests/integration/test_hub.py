"""A pushed detector of ours teaches by the folder that it was pushed to: ``--teacher hf:FOLDER``."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import detdistill
from coco_by_hand import CLASSES, draw_data
from detdistill import files
from detdistill.cli import main
from detdistill.store.students import load_detector, save_detector
from scenes_in_memory import tiny_student

SMALL = ["data.image.short_side=32", "data.image.long_side=48", "train.batch_size=2", "train.steps=1"]
SMALL += ["train.warmup_steps=1", "train.threads=1", "train.device=cpu", "evaluate.backend=faster"]


def test_a_pushed_folder_teaches_another_student_and_its_own_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    draw_data(tmp_path / "data", train=4, val=2)
    teacher = tiny_student("fcos", seed=7, classes=CLASSES, fpn_channels=24)
    save_detector(teacher, tmp_path / "trained", image={"short_side": 32, "long_side": 48})
    files.write_text(tmp_path / "trained/config.yaml", "data: {folder: data}\n")
    detdistill.push("trained", "hf:me/street", to_folder="hub")
    line = ["distill", "--teacher", "hf:hub", "--data", "data", "--method", "hint", *SMALL]
    other = ["--student", "fcos/test_resnet", "student.head_depth=1", "student.fpn_channels=16"]
    other += ["student.strides=[8,16,32]", "--out", "taught"]
    assert main([*line, *other]) == 0
    assert "hf:hub: matched " in capsys.readouterr().err
    run = yaml.safe_load((tmp_path / "taught/config.yaml").read_text())
    assert run["teacher"]["source"] == "hf:../hub"
    monkeypatch.chdir(tmp_path / "data")
    assert main(["distill", "../taught/config.yaml", "--resume"]) == 0
    monkeypatch.chdir(tmp_path)
    assert main([*line, "--self", "--out", "again"]) == 0
    assert load_detector(Path("again")).detector.settings == load_detector(Path("hub")).detector.settings
