"""Runs that start from another: fine-tuned to other classes, trained for longer, distilled after training alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from coco_by_hand import draw_data
from detdistill.cli import main
from detdistill.detectors.catalogue import build_detector
from detdistill.errors import ConfigError
from detdistill.jobs import stages
from detdistill.jobs.config import read_run_config
from detdistill.jobs.run import distill_job, generations_job, train_job
from detdistill.jobs.settings import RunConfig
from detdistill.store.students import load_detector
from detdistill.training.run import _Run
from detdistill.training.signals import Interrupted
from watched_jobs import Watcher, Witness

SMALL = [
    "train.batch_size=4",
    "train.steps=2",
    "train.lr=0.002",
    "train.log_every=1",
    "train.checkpoint_every=1",
    "train.device=cpu",
]
SIZE = "data.image={short_side: 48, long_side: 72}"
OWN = ["student.head_depth=1", "student.fpn_channels=16", "student.strides=[8, 16, 32]", SIZE]
CLASSES = "model.head.classification_head.cls_logits.weight"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of squares and bars, the same with a class more and in another order, and a run on the first."""
    folder = tmp_path_factory.mktemp("init")
    draw_data(folder / "data")
    shutil.copytree(folder / "data", folder / "more")
    for file in (folder / "more").glob("*.json"):
        content = json.loads(file.read_text())
        content["categories"] = [{"id": 9, "name": "disc"}, *content["categories"][::-1]]
        file.write_text(json.dumps(content))
    train_job(run(folder, "first", *OWN, "seed=9", **{"student.detector": "fcos/test_resnet"}))
    return folder


@pytest.fixture
def witness(monkeypatch: pytest.MonkeyPatch) -> Witness:
    seen = Witness()
    monkeypatch.setattr(stages, "train", seen.train)
    return seen


def run(home: Path, out: str, *changes: str, data: str = "data", **options: object) -> RunConfig:
    given = {"data.folder": home / data, "out": home / out} | options
    return read_run_config(None, [*SMALL, *changes], purpose="train", options=given)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_detector(folder).detector.state_dict()


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_starts_from_another_by_class_names(
    home: Path, capsys: pytest.CaptureFixture[str], witness: Witness
) -> None:
    """By the command line: architecture and image size are the source's, its class rows go where the names are."""
    first, out = home / "first", home / "fine"
    assert main(["train", "--init", str(first), "--data", str(home / "more"), "--out", str(out), *SMALL]) == 0
    said = " ".join(capsys.readouterr().err.split())
    begun, theirs = witness.begun["fine"], weights(first)
    settings = load_detector(first).detector.settings
    config = read_run_config(out / "config.yaml", purpose="train")
    assert config.student.settings == settings
    assert (config.data.image.short_side, config.data.image.long_side) == (48, 72)
    assert Path(config.init).resolve() == first.resolve()
    fresh = build_detector(settings, ("disc", "bar", "square"), seed=0).state_dict()
    assert torch.equal(begun[CLASSES], torch.stack([fresh[CLASSES][0], theirs[CLASSES][1], theirs[CLASSES][0]]))
    assert equal(
        {k: v for k, v in begun.items() if "cls_logits" not in k},
        {k: v for k, v in theirs.items() if "cls_logits" not in k},
    )
    total = len(begun)
    assert f"init: {first}: matched {total - 2} of {total} tensors" in said
    assert "by class (2): taken over bar, square; drawn anew disc" in said
    report = json.loads((out / "init.json").read_text())
    assert (report["source"], len(report["matched"])) == (str(first), total - 2)
    assert report["by_class"][CLASSES] == {"taken": ["bar", "square"], "drawn": ["disc"], "left": []}
    # Optimiser and schedule begin anew: the run has all its own steps.
    assert json.loads((out / "results.json").read_text())["steps"] == 2


def test_a_run_that_has_begun_goes_on_without_its_source(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the same bits, from its own checkpoint; another source is refused."""
    shutil.copytree(home / "first", home / "source")
    start = {"init": home / "source", "data": "more"}
    whole, stopped = run(home, "whole", **start), run(home, "stopped", **start)
    train_job(whole)
    save = _Run._save

    def interrupting(one: _Run, done: int) -> None:
        save(one, done)
        if done == 1:
            raise Interrupted(done, one.folder)

    with monkeypatch.context() as patch:
        patch.setattr(_Run, "_save", interrupting)
        with pytest.raises(Interrupted):
            train_job(stopped)
    record = (home / "stopped" / "init.json").read_text()
    with pytest.raises(ConfigError, match=r"init must be '[0-9a-f]{64}' to resume from .*, got '[0-9a-f]{64}'\."):
        train_job(run(home, "stopped", init=home / "whole", data="more"), resume=True)
    with pytest.raises(ConfigError, match=r"init must be '[0-9a-f]{64}' to resume from .*, got nothing\."):
        train_job(run(home, "stopped", *OWN, data="more", **{"student.detector": "fcos/test_resnet"}), resume=True)
    with pytest.raises(ConfigError, match=r"gone must be a run folder, .*, got nothing there\."):
        train_job(
            run(home, "stopped", init=home / "gone", data="more", **{"student.detector": "fcos/tiny"}), resume=True
        )
    (home / "stopped" / "init.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"init\.json must hold digest and image, and .*config\.yaml init, got some"):
        train_job(stopped, resume=True)
    (home / "stopped" / "init.json").write_text(record)
    (home / "source").rename(home / "moved")
    # Both by the run's own config file and by the words that it was begun with.
    for config in (read_run_config(home / "stopped" / "config.yaml", purpose="train"), run(home, "stopped", **start)):
        watcher = Watcher()
        train_job(config, resume=True, progress=watcher)
        assert f"init: the run goes on from its own checkpoint without {home / 'source'}" in watcher.text()
        assert "matched" not in watcher.text()
    assert equal(weights(home / "stopped"), weights(home / "whole"))
    assert (home / "stopped" / "init.json").read_text() == record
    with pytest.raises(ConfigError, match=r"source must be a run folder, .*, got nothing there\."):
        run(home, "new", **start)


@pytest.mark.slow
def test_distillation_goes_on_from_the_student_alone(home: Path, witness: Witness) -> None:
    """A chain too: every generation begins with the same weights."""
    words = {"data.folder": home / "data", "teacher.source": home / "first", "method.name": "hint"}
    short = ["train.steps=1", "train.lr=1e-9", "seed=3"]
    train_job(run(home, "trained", *short, init=home / "first"))
    options = {**words, "init": home / "first", "out": home / "taught"}
    first, trained = (
        read_run_config(None, [*SMALL, *short], purpose="distill", options=options | {"alone": home / name})
        for name in ("first", "trained")
    )
    with pytest.raises(ConfigError, match=r"trained as this run's student .*\binit nothing \(here [0-9a-f]{64}\)"):
        distill_job(first)
    distill_job(trained)
    # What was trained on for as long is the twin.
    assert json.loads((home / "taught" / "results.json").read_text())["alone_run"]["twin"] is True
    assert equal(witness.begun["taught"], weights(home / "first"))
    # The average that is saved began there too.
    after = load_detector(home / "taught").detector
    for name, parameter in after.named_parameters():
        torch.testing.assert_close(parameter.detach(), witness.begun["taught"][name], rtol=0, atol=1e-7)
    options = {**words, "init": home / "taught", "out": home / "chain"}
    chain = read_run_config(None, [*SMALL, "train.steps=1"], purpose="distill", options=options, itself=True)
    generations_job(chain, generations=2)
    for name in ("generation_1", "generation_2"):
        assert equal(witness.begun[name], weights(home / "taught"))
        assert (home / "chain" / name / "init.json").is_file()


def test_what_does_not_fit_leaves_no_folder(home: Path) -> None:
    watcher = Watcher()
    other = run(
        home,
        "none",
        "data.image={short_side: 24, long_side: 36}",
        "student.mean=[0.5, 0.5, 0.5]",
        init=home / "first",
        **{"student.detector": "fcos/resnet18"},
    )
    with pytest.raises(
        ConfigError, match="must have the student's backbone and at least half of its tensors, got fcos"
    ):
        train_job(other, progress=watcher)
    assert not (home / "none").exists()
    assert f"init: {home / 'first'} learnt from images of short side 48" in watcher.text()
    assert "normalised otherwise than here: set student.mean=[0.485,0.456,0.406] student.std=[0.229" in watcher.text()
