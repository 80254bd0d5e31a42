"""A run is trained, resumed, run again and evaluated from working directories that know nothing of each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from coco_by_hand import draw_data
from detdistill.cli import main
from detdistill.store.layout import RunFolder

SMALL = [
    "student.head_depth=1",
    "student.strides=[8, 16, 32]",
    "student.fpn_channels=16",
    "train.batch_size=2",
    "train.warmup_steps=1",
    "train.checkpoint_every=1",
    "train.device=cpu",
]


def weights(run: Path) -> dict[str, torch.Tensor]:
    folder = RunFolder(run)
    return load_file(folder.checkpoint(folder.steps()[-1]) / "student.safetensors")


@pytest.mark.slow
def test_a_run_goes_on_runs_again_and_is_evaluated_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project, elsewhere = tmp_path / "project", tmp_path / "else/where"
    draw_data(project / "data")
    elsewhere.mkdir(parents=True)
    with torch.random.fork_rng([]):
        torch.manual_seed(5)
        save_file(timm.create_model("test_resnet").state_dict(), project / "body.safetensors")
    monkeypatch.chdir(project)
    common = ["--data", "data", *SMALL]
    assert main(["train", "--detector", "fcos/test_resnet", "--out", "runs/teacher", "--steps", "1", *common]) == 0
    line = ["distill", "--student", "fcos/test_resnet", "--teacher", "runs/teacher", "--method", "hint"]
    line += ["--steps", "2", *common, "student.pretrained=body.safetensors"]
    assert main([*line, "--out", "runs/whole"]) == 0, capsys.readouterr().err
    whole = weights(project / "runs/whole")
    written = (project / "runs/whole/config.yaml").read_text(encoding="utf-8")
    assert str(tmp_path) not in written

    # The last step is taken away, as if the run had been killed before it.
    run = RunFolder(project / "runs/whole")
    for file in run.checkpoint(2).iterdir():
        file.unlink()
    run.checkpoint(2).rmdir()
    run.name_latest(1)
    monkeypatch.chdir(elsewhere)
    file = "../../project/runs/whole/config.yaml"
    assert main(["distill", file, "--resume"]) == 0, capsys.readouterr().err
    assert all(torch.equal(tensor, whole[name]) for name, tensor in weights(project / "runs/whole").items())
    # Run again as it is, from elsewhere, into a folder of this place.
    assert main(["distill", file, "--out", "again"]) == 0, capsys.readouterr().err
    assert all(torch.equal(tensor, whole[name]) for name, tensor in weights(elsewhere / "again").items())
    # And that run's own file from the first place.
    monkeypatch.chdir(project)
    assert main(["train", str(elsewhere / "again/config.yaml"), "--out", "runs/alone"]) == 0, capsys.readouterr().err
    assert main(["evaluate", str(elsewhere / "again"), "--data", "data", "--json", "found.json"]) == 0
    results = json.loads((project / "runs/whole/results.json").read_text(encoding="utf-8"))
    assert json.loads((project / "found.json").read_text(encoding="utf-8"))["AP"] == results["distilled"]["AP"]
    # The student is rebuilt from what its teacher's checkpoint says, and finds the backbone's weights.
    monkeypatch.chdir(elsewhere)
    line = [
        "distill",
        "--self",
        "--teacher",
        "again",
        "--data",
        str(project / "data"),
        "--method",
        "hint",
        "--out",
        "own",
    ]
    assert main([*line, "--steps", "1", *(word for word in SMALL if word.startswith("train"))]) == 0, (
        capsys.readouterr().err
    )
