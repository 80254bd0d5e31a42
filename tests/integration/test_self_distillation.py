"""Self-distillation: fresh students of the teacher's own architecture, each taught by the one before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from coco_by_hand import draw_data
from detdistill.cli import main
from detdistill.detectors.catalogue import build_detector
from detdistill.errors import ConfigError
from detdistill.jobs import stages
from detdistill.jobs.config import read_run_config
from detdistill.jobs.run import generations_job, train_job
from detdistill.store.students import load_detector
from detdistill.training.run import _Run
from detdistill.training.signals import Interrupted

SMALL = [
    "train.batch_size=4",
    "train.steps=2",
    "train.lr=0.002",
    "train.log_every=1",
    "train.checkpoint_every=1",
    "train.ema_decay=0",
    "train.device=cpu",
]
CHAIN = ("generation_1", "generation_2")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a teacher, and a chain of two generations by the command line."""
    folder = tmp_path_factory.mktemp("self")
    draw_data(folder / "data")
    options = {"data": folder / "data", "student": "fcos/test_resnet", "out": folder / "teacher"}
    own = ["student.head_depth=1", "student.fpn_channels=16", "student.strides=[8, 16, 32]", "seed=9"]
    train_job(read_run_config(None, [*SMALL, *own], purpose="train", options=options))
    line = ["--data", str(folder / "data"), "--teacher", str(folder / "teacher"), "--out", str(folder / "chain")]
    more = ["--method", "frs(warmup_steps=0)", "--seed", "4", "--generations", "2", "--alone", str(folder / "teacher")]
    more += ["--alone-differs"]  # in its seed
    assert main(["distill", "--self", *line, *more, *SMALL]) == 0
    return folder


def weights(folder: Path) -> dict[str, Tensor]:
    return load_detector(folder).detector.state_dict()


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_chain_leaves_a_run_per_generation_and_one_table(home: Path) -> None:
    chain = home / "chain"
    results = json.loads((chain / "results.json").read_text(encoding="utf-8"))
    told = ("method", "steps", "seconds", "alone_run", "climb", "diagnosis")
    assert list(results) == ["teacher", "alone", "distilled", "generations", *told]
    assert list(results["climb"]) == ["alone", *CHAIN]
    own = [json.loads((chain / name / "results.json").read_text(encoding="utf-8")) for name in CHAIN]
    assert results["generations"] == [one["distilled"] for one in own]
    assert results["distilled"] == own[1]["distilled"]
    assert results["diagnosis"] == own[1]["diagnosis"]
    assert results["teacher"] == own[0]["teacher"]
    # The student alone is the same run as the teacher here, and no twin of the students: their seed is another.
    assert results["alone"] == own[0]["alone"] == results["teacher"]
    assert [one["setting"] for one in results["alone_run"]["differences"]] == ["seed"]
    # The first student is the second one's teacher.
    assert own[1]["teacher"] == own[0]["distilled"]
    assert (results["method"], results["steps"]) == ("frs", 2)
    assert (chain / "curves.png").is_file()


def test_every_generation_is_the_teachers_architecture_taught_by_the_one_before(home: Path) -> None:
    chain = home / "chain"
    loaded = load_detector(home / "teacher").detector
    configs = [yaml.safe_load((chain / name / "config.yaml").read_text(encoding="utf-8")) for name in CHAIN]
    assert [config["teacher"]["source"] for config in configs] == [str(home / "teacher"), str(chain / CHAIN[0])]
    for name, config in zip(CHAIN, configs, strict=True):
        student = load_detector(chain / name).detector
        assert student.settings == loaded.settings
        assert config["seed"] == 4
        assert not equal(student.state_dict(), loaded.state_dict())
    assert not equal(weights(chain / CHAIN[0]), weights(chain / CHAIN[1]))


def test_every_generation_begins_with_the_same_fresh_weights(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[dict[str, Tensor]] = []

    def stopped(step: object, *_rest: object, **_options: object) -> None:
        begun.append({name: tensor.clone() for name, tensor in step.student.state_dict().items()})  # type: ignore[attr-defined]
        raise Interrupted(0, home)

    monkeypatch.setattr(stages, "train", stopped)
    for name in CHAIN:
        config = read_run_config(home / "chain" / name / "config.yaml", [f"out={home / 'none'}"], purpose="distill")
        with pytest.raises(Interrupted):
            generations_job(config, generations=1)
    fresh = build_detector(config.student.settings, ("square", "bar"), seed=4).state_dict()
    assert all(equal(one, fresh) for one in begun)
    assert len(begun) == 2


def test_an_interrupted_chain_goes_on_to_the_same_bits(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the second generation, after its first step."""
    options = {"data": home / "data", "teacher": home / "teacher", "out": home / "stopped", "seed": 4}
    config = read_run_config(
        None, SMALL, purpose="distill", options=options | {"method": "frs(warmup_steps=0)"}, itself=True
    )
    save = _Run._save

    def interrupting(run: _Run, done: int) -> None:
        save(run, done)
        if run.folder.name == CHAIN[1] and done == 1:
            raise Interrupted(done, run.folder)

    with monkeypatch.context() as patch:
        patch.setattr(_Run, "_save", interrupting)
        with pytest.raises(Interrupted):
            generations_job(config, generations=2)
    assert not (home / "stopped" / "results.json").exists()
    with pytest.raises(ConfigError, match="must be new or empty, got one with files in it"):
        generations_job(config, generations=2)
    # A chain may also be made longer.
    outcome = generations_job(config, generations=3, resume=True)
    for name in CHAIN:
        assert equal(weights(home / "stopped" / name), weights(home / "chain" / name))
    rows = [line.split()[0] for line in outcome.table() if line.startswith(("teacher", "alone", "generation_"))]
    assert rows == ["teacher", "alone", *CHAIN, "generation_3"]
    assert outcome.table()[-2].startswith("frs: 3 generations of 2 steps in ")
    finished = json.loads((home / "chain" / "results.json").read_text(encoding="utf-8"))
    assert outcome.as_dict()["generations"][:2] == finished["generations"]


def test_a_chain_of_none_is_refused(home: Path) -> None:
    config = read_run_config(home / "chain" / CHAIN[0] / "config.yaml", [f"out={home / 'no'}"], purpose="distill")
    with pytest.raises(ConfigError, match=r"generations must be at least 1, got 0\. Give --generations 2\."):
        generations_job(config, generations=0)
    assert not (home / "no").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--student", "fcos/tiny"], "must be its teacher's architecture, got a student of its own."),
        (["--generations", "0"], "The number of generations must be at least 1, got 0."),
    ],
)
def test_self_distillation_refuses_what_does_not_fit(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: list[str], said: str
) -> None:
    line = ["--data", str(home / "data"), "--teacher", str(home / "teacher"), "--out", str(tmp_path / "run")]
    assert main(["distill", "--self", *line, "--method", "frs", *changes]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
