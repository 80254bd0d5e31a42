"""A detector of one's own, by its import path alone, through every command that trains, measures and finds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import detdistill
from coco_by_hand import CLASSES, draw_data
from detdistill.cli import main
from detdistill.detectors import own_code
from detdistill.store.students import load_detector

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "examples" / "own_detector.py"
OWN = "own_detector.py:CenterNet"
QUICK = ["train.batch_size=2", "train.threads=1", "train.device=cpu", "train.ema_decay=0.5", "train.log_every=1"]
QUICK += ["data.image.short_side=64", "data.image.long_side=96", "train.checkpoint_every=2", "--data", "data"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of somebody's own, with their detector, data, and a run of it."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(FILE, folder)
    draw_data(folder / "data", train=4, val=2)
    return folder


@pytest.fixture(autouse=True)
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process of its own that starts in the folder."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(own_code, "_trusted", set())


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """What a command says, after it ended as expected."""
    got = main(list(words))
    printed = capsys.readouterr()
    assert got == code, printed.err
    return printed.out + printed.err


@pytest.fixture(scope="module")
def alone(project: Path) -> str:
    """A run of it."""
    words = ["--detector", OWN, "--detector-args", "width=16", "--steps", "4", "--out", "own"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        assert main(["train", *QUICK, *words]) == 0
    return f"{OWN}=own"


def taught(alone: str) -> list[str]:
    return ["--teacher", alone, "--student", OWN, "--student-args", "width=8", "--method", "aid(hint)", *QUICK]


def test_it_learns_teaches_and_is_measured_by_its_import_path(alone: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = said(capsys, "distill", *taught(alone), "--steps", "2", "--out", "distilled")
    assert "own_detector.py:CenterNet(width=8): centernet shows maps of stride 8 (8 channels)" in told
    assert "own_detector.py:CenterNet(width=16): centernet shows maps of stride 8 (16 channels)" in told
    # A checkpoint's word is not enough to import what it names: the user gives it by the path, or by a flag.
    own_code._trusted.clear()
    refused = said(capsys, "evaluate", "own", "--data", "data", code=2)
    assert "own_detector.py:CenterNet, which a checkpoint or a run names, must be trusted" in refused
    assert "Look at it, then add --trust-code" in refused
    said(capsys, "evaluate", "own", "--data", "data", "--trust-code", "--json", "first.json")
    own_code._trusted.clear()
    said(capsys, "evaluate", alone, "--data", "data", "--json", "second.json")
    assert json.loads(Path("first.json").read_text())["AP"] == json.loads(Path("second.json").read_text())["AP"]
    said(capsys, "predict", f"{OWN}=distilled", "data/images/val_0.png", "--out", "drawn", "--score", "0")
    assert list(Path("drawn").iterdir())


@pytest.mark.slow  # torch's exporter
def test_it_is_exported_and_proved_on_its_runs_own_data(alone: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused = said(capsys, "export", "own", "--out", "own.onnx", code=2)
    assert "own_detector.py:CenterNet, which a checkpoint or a run names, must be trusted" in refused
    assert "boxes matched; largest difference of a box" in said(capsys, "export", alone, "--out", "own.onnx")
    proof = json.loads(Path("own.parity.json").read_text())
    assert (proof["images"], proof["bits"], abs(proof["ap_lost"]) < 0.1) == (2, 32, True)
    for told in (proof["agreement"], proof["at_once"]):
        assert (told["one_alone"], told["other_alone"], told["box"] < 0.05) == (0, 0, True)
        assert told["matched"] > 50


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("limits", "no_limits"),
            "must be a graph of tensors, got centernet, whose class has none. Give its class the",
        ),
        (
            ("dd.Normaliser", "Scaled"),
            "must normalise its pixels by mean and std, got centernet, which does so in a way",
        ),
    ],
)
def test_what_an_export_lacks_of_it_is_one_sentence(
    words: tuple[str, str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scaled = "\n\nclass Scaled(nn.Module):\n    def __init__(self, mean, std):\n        super().__init__()\n"
    scaled += "\n    def forward(self, batch):\n        return batch.images\n"
    Path(f"{words[1]}.py").write_text(FILE.read_text(encoding="utf-8").replace(*words) + scaled, encoding="utf-8")
    detector = detdistill.build_detector(f"{words[1]}.py:CenterNet(width=8)", CLASSES)
    detdistill.save_detector(detector, "lacking", image={"short_side": 64, "long_side": 96})
    told = said(capsys, "export", f"{words[1]}.py:CenterNet=lacking", "--data", "data", "--out", "no.onnx", code=2)
    assert f"error: A detector to export {sentence}" in told
    assert not Path("no.onnx").exists()


def test_settings_with_a_dot_may_follow_its_arguments(project: Path) -> None:
    arguments = ["width=8", "train.lr=0.5", "train.steps=7"]
    config = detdistill.run_config(purpose="train", student=OWN, student_args=arguments, data="data", out="unused")
    assert config.student.detector == "own_detector.py:CenterNet(width=8)"
    assert config.train.lr == 0.5
    assert config.train.steps == 7


@pytest.mark.slow
def test_a_resumed_run_of_it_is_the_same_run(alone: str, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "distill", *taught(alone), "--steps", "4", "--out", "whole", "--alone", "own", "--alone-differs")
    config = detdistill.run_config("whole/config.yaml", purpose="distill", out="parts")
    stages = detdistill.stages
    stages.fit(stages.prove(stages.build(stages.open_inputs(config))), until=2)
    file = Path("own_detector.py")
    before = file.read_text(encoding="utf-8")
    file.write_text(f"{before}# another line\n", encoding="utf-8")
    told = said(capsys, "distill", "parts/config.yaml", "--resume")
    file.write_text(before, encoding="utf-8")
    assert "the file of own_detector.py:CenterNet has changed since these weights were saved" in told
    whole, parts = (load_detector(Path(run)).detector.state_dict() for run in ("whole", "parts"))
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())


@pytest.mark.slow
def test_two_processes_train_it(alone: str, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "distill", *taught(alone), "train.processes=2", "--steps", "2", "--out", "two")
    weights = load_detector(Path("two")).detector.state_dict()
    assert all(torch.isfinite(one).all() for one in weights.values())


@pytest.mark.slow
def test_what_looks_at_many_runs_takes_it_too(alone: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "AP" in said(
        capsys, "prove", *taught(alone), "--steps", "2", "--seeds", "1", "--jobs", "2", "--out", "study"
    )
    assert "fail" not in said(capsys, "doctor", *taught(alone), "--steps", "2", "--out", "new")
    words = ["--teacher", alone, "--student", OWN, "--student-args", "width=8"]
    short = ["--methods", "hint", "--strengths", "3", "--steps", "2", "--budget", "4", "--held-out", "0.5"]
    assert "tuned" in said(capsys, "tune", *QUICK, *words, *short, "--out", "tuned")


def test_a_mistake_is_said_before_anything_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = FILE.read_text(encoding="utf-8").replace("boxes).sum(1).mean()", "boxes).sum(1)")
    Path("wrong.py").write_text(wrong, encoding="utf-8")
    told = said(capsys, "train", *QUICK, "--detector", "wrong.py:CenterNet", "--out", "nothing", code=2)
    assert "The task loss of wrong.py:CenterNet must be a scalar, got (2,). Add it up, or take its mean." in told
    assert not Path("nothing").exists()


FLAWS = {
    "def loss(self, heat, size, batch):": (
        "self.calls = getattr(self, 'calls', 0) + self.training",
        "if self.calls == 3 and Path('early').exists():",
        "    raise ValueError('no third time')",
    ),
    "def detect(self, batch):": (
        "if Path('late').exists() and Path('broken/checkpoints/step_0000004').is_dir():",
        "    [].pop()",
    ),
}


def test_a_mistake_that_shows_later_is_told_with_its_place_and_the_run_goes_on(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = FILE.read_text(encoding="utf-8").replace("import torch\n", "from pathlib import Path\n\nimport torch\n", 1)
    for head, lines in FLAWS.items():
        code = code.replace(f"{head}\n", "\n        ".join((head, *lines)) + "\n")
    Path("broken.py").write_text(code, encoding="utf-8")
    places = {what: code[: code.index(what)].count("\n") + 1 for what in ("raise ValueError", "[].pop()")}
    often = [word for word in QUICK if "checkpoint_every" not in word]
    command = ["train", *often, "--detector", "broken.py:CenterNet", "--steps", "4", "--out", "broken"]
    command += ["train.checkpoint_every=1", "train.evaluate_every=4"]
    Path("early").touch()
    told = said(capsys, *command, code=2)
    assert told.endswith(
        "error: step 3 of 4: code from outside detdistill must run without an error, got ValueError: no third time "
        f"(broken.py, line {places['raise ValueError']}). Repair it and go on by --resume; the last checkpoint is "
        "broken/checkpoints/step_0000002. --traceback shows the calls.\n"
    )
    assert "Traceback" not in told
    Path("early").unlink()
    Path("late").touch()
    told = said(capsys, *command, "--resume", "--traceback", code=2)
    place = f"got IndexError: pop from empty list (broken.py, line {places['[].pop()']}). Repair it and"
    assert (
        f"error: the evaluation after step 4 of 4: code from outside detdistill must run without an error, {place}"
        in told
    )
    assert (
        told.index("Traceback (most recent call last)") < told.index("in detect") < told.index("error: the evaluation")
    )
    told = said(capsys, "evaluate", "broken.py:CenterNet=broken", "--data", "data", code=2)
    assert (
        f"error: Code from outside detdistill must run without an error, {place} give the same command again. --"
        in told
    )
    Path("late").unlink()
    said(capsys, *command, "--resume")
