"""Several teachers of one student: specialists, ensembles, the one that errs least, and one after the other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from coco_by_hand import CLASSES, draw_data
from detdistill import run_config
from detdistill.cli import main
from detdistill.jobs import stages
from detdistill.store.students import find_weights, save_detector
from detdistill.training.logs import read_rows
from scenes_in_memory import tiny_student
from watched_jobs import Watcher

SMALL = ("student.head_depth=1", "data.image.short_side=32", "data.image.long_side=48", "train.batch_size=2")
SMALL += ("train.steps=4", "train.warmup_steps=1", "train.threads=1", "train.device=cpu", "evaluate.backend=faster")
SMALL += ("train.log_every=1", "train.checkpoint_every=1", "student.strides=[8,16,32]", "student.fpn_channels=16")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    draw_data(folder / "data")
    for name, classes, channels, seed in (
        ("squares", CLASSES[:1], 24, 1),
        ("bars", CLASSES[1:], 32, 2),
        ("one", CLASSES, 24, 3),
        ("other", CLASSES, 32, 4),
    ):
        teacher = tiny_student("fcos", seed=seed, classes=classes, fpn_channels=channels)
        save_detector(teacher, folder / name, image={"short_side": 32, "long_side": 48})
    return folder


def distill(home: Path, out: Path, *teachers: str, method: str = "frs", words: tuple[str, ...] = ()) -> list[str]:
    given = [word for name in teachers for word in ("--teacher", str(home / name))]
    line = ["distill", *given, "--student", "fcos/test_resnet", "--data", str(home / "data"), "--method", method]
    return [*line, "--out", str(out), *SMALL, *words]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(find_weights(run))


def test_two_specialists_teach_one_student(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each teaches its own classes, and what both find is measured as the teacher."""
    run = tmp_path / "run"
    assert main(distill(home, run, "squares", "bars")) == 0
    said = capsys.readouterr().err
    assert "squares: classes: by equal names square; the teacher does not know bar" in said
    assert "start-up proof: frs.classes@2" in said
    assert json.loads((run / "results.json").read_text())["teacher"]["AP"] is not None
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert [Path(one).name for one in config["teacher"]["source"]] == ["squares", "bars"]
    # The written settings are the run: nothing is left to do.
    assert main([str(word) for word in ("distill", run / "config.yaml", "--resume")]) == 0
    assert main(distill(home, run, "bars", "squares", words=("--resume",))) == 2
    assert "must be" in capsys.readouterr().err
    refused = distill(home, tmp_path / "other", "squares", "bars", words=("teacher.choose=lowest",))
    assert main(refused) == 2
    assert "teacher.choose must be mean where teachers know different classes" in capsys.readouterr().err


def test_one_after_the_other_and_resumed_across_the_switch(home: Path, tmp_path: Path) -> None:
    """The first teaches until step 1, the second from there on; a run that stopped on either side goes on the same."""
    words = {"data": home / "data", "student": "fcos/test_resnet", "method": "hint", "out": tmp_path / "whole"}
    sequence = {"teacher": home / "one", "then": home / "other"}
    config = run_config(*SMALL, "teacher.shares=[1,3]", purpose="distill", **sequence, **words)
    watcher = Watcher()

    def train(out: Path, *, until: int | None = None, resume: bool = False) -> None:
        opened = stages.open_inputs(replace(config, out=out), resume=resume, progress=watcher)
        stages.fit(stages.prove(stages.build(opened), progress=watcher), until=until)

    train(tmp_path / "whole")
    assert "one teaches from step 0 to 1: levels" in watcher.text()
    assert "other teaches from step 1 to 4: levels" in watcher.text()
    rows = read_rows(tmp_path / "whole/metrics.csv")
    first, second = ([float(row[f"hint.features{mark}"] or 0) > 0 for row in rows] for mark in ("", "@2"))
    assert first == [True, False, False, False]
    assert second == [False, True, True, True]
    for stop in (1, 2):
        train(tmp_path / f"cut_{stop}", until=stop)
        train(tmp_path / f"cut_{stop}", resume=True)
        for name, tensor in weights(tmp_path / "whole").items():
            assert torch.equal(tensor, weights(tmp_path / f"cut_{stop}")[name]), (stop, name)
