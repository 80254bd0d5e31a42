"""A file of boxes teaches: a whole run, on labelled and unlabelled images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from coco_by_hand import draw_data
from detdistill.detectors.torchvision_dense import DenseDetector
from detdistill.errors import ConfigError
from detdistill.jobs import stages
from detdistill.jobs.config import read_run_config
from detdistill.jobs.run import distill_job
from detdistill.jobs.settings import RunConfig
from detdistill.store.layout import RunFolder
from watched_jobs import Watcher

SMALL = ("data.image.short_side=48", "data.image.long_side=64", "train.batch_size=4", "train.device=cpu")
SMALL += ("train.steps=4", "train.checkpoint_every=2", "train.log_every=1", "data.augment=strong")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Data of whose labels most are gone, others without any, and what a teacher says of both by file name."""
    draw_data(tmp_path / "data")
    known = json.loads((tmp_path / "data/train.json").read_text())
    shutil.copytree(tmp_path / "data/images", tmp_path / "others")
    images = known["images"] + [
        one | {"id": one["id"] + 1000, "file_name": f"others/{one['file_name']}"} for one in known["images"]
    ]
    says = [one | {"score": 0.6 + 0.05 * (number % 6)} for number, one in enumerate(known["annotations"])]
    says += [one | {"id": one["id"] + 1000, "image_id": one["image_id"] + 1000} for one in says]
    for path in (tmp_path / "others").iterdir():
        path.write_bytes(path.read_bytes() + b" ")  # images of their own
    (tmp_path / "says.json").write_text(json.dumps(known | {"images": images, "annotations": says}))
    (tmp_path / "data/train.json").write_text(json.dumps(known | {"annotations": known["annotations"][:3]}))
    return tmp_path


def config_of(place: Path, out: str, *settings: str) -> RunConfig:
    options = {
        "student": "fcos/tiny",
        "teacher.source": place / "says.json",
        "data": place / "data",
        "out": place / out,
        "method": "boxes",
        "data.unlabelled.source": place / "others",
    }
    return read_run_config(None, [*SMALL, *settings], purpose="distill", options=options)


def run(place: Path, out: str, *settings: str, resume: bool = False) -> Watcher:
    watcher = Watcher()
    outcome = distill_job(config_of(place, out, *settings), resume=resume, progress=watcher)
    assert outcome.method == "boxes"
    return watcher


def test_a_file_of_boxes_teaches_from_the_start_up_proof_to_the_results(place: Path) -> None:
    said = run(place, "run").text()
    assert "start-up proof: boxes.objects: loss" in said
    assert "training images: what the teacher finds in 10 images" in said
    assert len(list(RunFolder(place / "run").finds.glob("*/*.safetensors"))) >= 2
    assert (place / "run/results.json").is_file()
    assert "weighs no object" not in said
    with pytest.raises(ConfigError, match=r"method\.score must be 0\.3 to resume"):
        run(place, "run", "method.score=0.5", resume=True)


def test_a_loss_that_weighs_no_object_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DenseDetector, "weighs_objects", False)
    watcher, config = Watcher(), config_of(place, "told")
    stages.prove(stages.build(stages.open_inputs(config, progress=watcher), progress=watcher), progress=watcher)
    assert "boxes: the loss of fcos/test_resnet weighs no object by its score: each counts fully" in watcher.text()
