"""A distillation from a teacher of other classes: what is told, what is measured, and what a resumed run must have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from coco_by_hand import draw_data
from detdistill.cli import main
from detdistill.store.students import save_detector
from scenes_in_memory import tiny_student

SMALL = ("student.head_depth=1", "student.fpn_channels=16", "data.image.short_side=32", "data.image.long_side=48")
SMALL += ("train.batch_size=2", "train.steps=2", "train.warmup_steps=1", "train.threads=1")
SMALL += ("train.device=cpu", "evaluate.backend=faster")


def test_a_run_with_a_class_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_data(tmp_path / "data")
    teacher = tiny_student("fcos", seed=7, classes=("box", "brick", "Bar", "cat"), fpn_channels=24)
    save_detector(teacher, tmp_path / "teacher", image={"short_side": 32, "long_side": 48})
    words = ["distill", "--teacher", str(tmp_path / "teacher"), "--student", "fcos/test_resnet", "--method", "aid(frs)"]
    words += ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), *SMALL, "--classes-map"]
    both = "box=square, brick=square"
    assert main([*words, both]) == 0
    told = "classes: as box=square, brick=square, Bar=bar; the student lacks cat; merged by the sum of their odds"
    assert told in capsys.readouterr().err
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["teacher"]["AP"] is not None
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["teacher"]["classes_map"] == both
    again = [*words, "box=square", "--resume"]
    assert main(again) == 2
    assert "classes_map" in capsys.readouterr().err
    assert main([*words, both, "--resume"]) == 0
