"""Distillations by methods made of others: twins on disk and on the fly, constant weights, inheriting, augmentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from coco_by_hand import TRAIN, draw_data
from detdistill.cli import main
from detdistill.errors import ConfigError
from detdistill.jobs import stages
from detdistill.jobs.config import read_run_config
from detdistill.jobs.run import distill_job, train_job
from detdistill.jobs.settings import RunConfig
from detdistill.store.students import load_detector
from detdistill.training.logs import read_rows
from watched_jobs import Watcher, Witness

SMALL = [
    "student.head_depth=1",
    "student.strides=[8, 16, 32]",
    "train.batch_size=4",
    "train.steps=3",
    "train.lr=0.002",
    "train.log_every=1",
    "train.ema_decay=0",
    "train.device=cpu",
]
NARROW, WIDE = ["student.fpn_channels=16", "seed=4"], ["student.fpn_channels=24", "seed=9"]
EVERYTHING = "aid(ikd(frs(warmup_steps=0) + ssim, attack_steps=1), control=true)"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and a teacher of the wide kind."""
    folder = tmp_path_factory.mktemp("methods")
    draw_data(folder / "data")
    options = {"data": folder / "data", "student": "fcos/test_resnet", "out": folder / "teacher"}
    train_job(read_run_config(None, [*SMALL, *WIDE], purpose="train", options=options))
    return folder


@pytest.fixture
def witness(monkeypatch: pytest.MonkeyPatch) -> Witness:
    seen = Witness()
    monkeypatch.setattr(stages, "train", seen.train)
    return seen


def distillation(home: Path, out: str, *changes: str, method: str) -> RunConfig:
    options = {"data": home / "data", "student": "fcos/test_resnet", "teacher": home / "teacher", "out": home / out}
    return read_run_config(None, [*SMALL, *NARROW, *changes], purpose="distill", options=options | {"method": method})


def results(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "results.json").read_text(encoding="utf-8"))
    return content


def test_everything_at_once_and_again_from_its_config(home: Path, witness: Witness) -> None:
    """A control of aid around ikd around a sum: measured, cached, scheduled, reported; again with the cache ready."""
    watcher = Watcher()
    run = home / "everything"
    outcome = distill_job(distillation(home, "everything", "train.steps=4", method=EVERYTHING), progress=watcher)
    said = watcher.text()
    assert outcome.method == results(run)["method"] == "aid(ikd(frs + ssim))"
    assert "distil fcos/test_resnet by aid(ikd(frs + ssim)): 4" in said
    for name in ("frs.features", "frs.classes", "ssim.features", "ikd.adversarial"):
        assert f"start-up proof: {name}: loss " in said
    # The mean weight of aid's control, on the teacher's every level, measured once over the training images.
    assert f"measure constant weights: {TRAIN}" in said
    for name in ("frs.features", "frs.classes", "ssim.features"):
        (line,) = [one for one in watcher.lines if one.startswith(f"{name}: constant weight ")]
        weights = [float(word) for word in line.split() if word.startswith(("0.", "1."))]
        assert len(weights) == 4
        assert all(0 < weight <= 1 for weight in weights)
    # Two of three images have objects; one 20 x 20 and one 48 x 12, both less than 32 x 32 px.
    shares = results(run)["sample_specific"]
    assert shares == pytest.approx({"noise_eligible": 0.7, "noised_expected": 0.21, "cropped": 0.0})
    assert "70.0% hold small boxes alone" in said
    # Two thirds of 4 steps are 3: then no twins and no augmentation.
    assert f"{TRAIN} twins to make" in said
    assert len(list((run / "twins").rglob("*.png"))) == TRAIN
    assert [list(batch.twins) for batch in witness.fed["everything"]] == [["adversarial"]] * 3 + [[]]
    for batch in witness.fed["everything"][:3]:
        assert not torch.equal(batch.twins["adversarial"], batch.images)
    rows = read_rows(run / "metrics.csv")
    assert [float(row["ikd.adversarial"]) > 0 for row in rows] == [True] * 3 + [False]
    assert len({row["frs.features/weight"] for row in rows}) == 1

    again = read_run_config(run / "config.yaml", ["train.steps=4", f"out={home / 'again'}"], purpose="distill")
    assert again.method == distillation(home, "x", method=EVERYTHING).method
    watcher = Watcher()
    shared = read_run_config(
        run / "config.yaml", [f"out={home / 'again'}", f"twins.folder={run / 'twins'}"], purpose="distill"
    )
    distill_job(shared, progress=watcher)
    assert "twins to make" not in watcher.text()
    assert f"check twins: {TRAIN}" in watcher.text()
    assert not (home / "again" / "twins").exists()
    first, second = (load_detector(folder).detector.state_dict() for folder in (run, home / "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_twins_made_on_the_fly_leave_no_folder(home: Path, witness: Witness) -> None:
    config = distillation(home, "fly", "twins.on_the_fly=true", method="ikd(hint, attack_steps=1, augment=false)")
    distill_job(config)
    assert not (home / "fly" / "twins").exists()
    assert [list(batch.twins) for batch in witness.fed["fly"]] == [[], [], []]
    rows = read_rows(home / "fly" / "metrics.csv")
    # Two thirds of 3 steps are 2.
    assert [float(row["ikd.adversarial"]) > 0 for row in rows] == [True, True, False]
    assert "sample_specific" not in results(home / "fly")


def test_other_twins_are_another_run(home: Path) -> None:
    method = "ikd(hint, attack_steps=1, augment=false)"
    distill_job(distillation(home, "kept", "train.steps=1", method=method))
    with pytest.raises(ConfigError, match=r"twins must be \['adversarial'\] to resume from"):
        distill_job(distillation(home, "kept", "train.steps=1", "twins.on_the_fly=true", method=method), resume=True)


def test_sample_specific_augmentation_without_a_method_that_brings_it(home: Path, witness: Witness) -> None:
    given = [*SMALL, *NARROW, "data.sample_specific={small_px: 16, smallest_crop: 0.5}"]
    for out, changes in (("plain", [*SMALL, *NARROW]), ("cropped", given)):
        options = {"data": home / "data", "student": "fcos/test_resnet", "out": home / out}
        train_job(read_run_config(None, changes, purpose="train", options=options))
    plain, cropped = witness.fed["plain"], witness.fed["cropped"]
    assert [one.image_ids for one in plain] == [one.image_ids for one in cropped]
    # Two thirds of 3 steps are 2.
    assert [torch.equal(one.images, other.images) for one, other in zip(plain, cropped, strict=True)] == [
        False,
        False,
        True,
    ]
    assert results(home / "cropped")["sample_specific"] == pytest.approx(
        {"noise_eligible": 0.0, "noised_expected": 0.0, "cropped": 0.7}
    )
    assert "sample_specific" not in results(home / "plain")
    again = read_run_config(home / "cropped" / "config.yaml", ["data.sample_specific.small_px=8"], purpose="train")
    with pytest.raises(ConfigError, match=r"sample_specific\.small_px must be 16\.0 to resume"):
        train_job(again, resume=True)
    # Beside a method that does not change samples it is welcome, beside one that does it is not.
    distill_job(distillation(home, "hinted", "train.steps=1", "data.sample_specific={}", method="hint"))
    assert "sample_specific" in results(home / "hinted")
    with pytest.raises(ConfigError) as caught:
        distill_job(distillation(home, "both", "data.sample_specific={}", method="ikd(hint)"))
    assert str(caught.value) == (
        "data.sample_specific must be left out with a method that changes the samples itself, got both it and "
        "ikd(hint). Set the method's own numbers, such as method.small_px=32."
    )
    assert not (home / "both").exists()


def test_an_inheriting_student_starts_from_its_teachers_neck_and_heads(home: Path, witness: Witness) -> None:
    watcher = Watcher()
    config = distillation(home, "heir", "train.steps=1", "student.fpn_channels=24", "inherit=true", method="hint")
    distill_job(config, progress=watcher)
    teacher = load_detector(home / "teacher").detector.state_dict()
    begun = witness.begun["heir"]
    assert begun.keys() == teacher.keys()
    for name, tensor in begun.items():
        if ".body." not in name:
            assert torch.equal(tensor, teacher[name]), name
    assert any(not torch.equal(begun[name], teacher[name]) for name in begun if ".body." in name)
    report = json.loads((home / "heir" / "inherited.json").read_text(encoding="utf-8"))
    assert sorted(report["inherited"]) == sorted(name for name in begun if ".body." not in name)
    assert f"inherited {len(report['inherited'])} of {len(report['inherited'])} tensors" in watcher.text()
    assert watcher.text().count("\n  inherited: ") == len(report["inherited"])
    assert read_run_config(home / "heir" / "config.yaml", purpose="distill").inherit is True
    config = distillation(home, "heir", "train.steps=1", "student.fpn_channels=24", method="hint")
    with pytest.raises(ConfigError, match="inherit must be True to resume"):
        distill_job(config, resume=True)


def test_a_run_goes_on_with_its_own_augmentation_alone(home: Path) -> None:
    distill_job(distillation(home, "flipped", "train.steps=1", method="hint"))
    changed = distillation(home, "flipped", "train.steps=1", "data.augment.flip=0.25", method="hint")
    with pytest.raises(ConfigError, match=r"augment\.flip must be 0\.5 to resume"):
        distill_job(changed, resume=True)


def test_a_composition_that_cannot_work_is_one_sentence_and_leaves_nothing(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, data = str(home / "teacher"), str(home / "data")
    line = ["distill", "--teacher", teacher, "--data", data, "--out", str(tmp_path / "run"), "--steps", "1"]
    for student, method, said in (
        ("faster_rcnn/small", "aid(ssim + frs)", "must have the same"),
        ("fcos/tiny", "ikd(ikd(frs))", "Wrap with ikd once."),
        ("fcos/tiny", "aid(ld)", "box distributions"),
        ("fcos/tiny", "aid(frs, alpha=-1)", "must be from 0 to 1000000000, got -1.0. Give at least 0."),
    ):
        assert main([*line, "--student", student, "--method", method]) == 2
        (error,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("error: ")]
        assert said in error
    assert not (tmp_path / "run").exists()
