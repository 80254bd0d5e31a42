"""A student alone is compared with the distilled one only where teaching is all that differs, unless it is said."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from coco_by_hand import CLASSES, HEIGHT, WIDTH, draw_data
from detdistill.errors import ConfigError
from detdistill.jobs import stages
from detdistill.jobs.alone import Comparison
from detdistill.jobs.config import read_run_config
from detdistill.jobs.run import distill_job, train_job
from detdistill.jobs.settings import RunConfig
from detdistill.store.layout import RunFolder
from detdistill.store.students import save_detector
from scenes_in_memory import tiny_teacher

SMALL = ("student.head_depth=1", "student.strides=[8, 16, 32]", "student.fpn_channels=16", "seed=4")
SMALL += ("train.batch_size=2", "train.steps=2", "train.warmup_steps=1", "train.checkpoint_every=1")
SMALL += ("train.device=cpu", "data.image.short_side=64", "data.image.long_side=96")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a teacher, and the student alone."""
    folder = tmp_path_factory.mktemp("home")
    draw_data(folder / "data")
    teacher = tiny_teacher("fcos", classes=CLASSES)._detector
    save_detector(teacher, folder / "teacher", image={"short_side": HEIGHT, "long_side": WIDTH})
    options = {"data": folder / "data", "student": "fcos/test_resnet", "out": folder / "alone"}
    train_job(read_run_config(None, SMALL, purpose="train", options=options))
    return folder


def distillation(home: Path, *changes: str, **options: object) -> RunConfig:
    chosen = {"data": home / "data", "student": "fcos/test_resnet", "teacher": home / "teacher", "method": "hint"}
    chosen |= {"out": home / "distilled", "alone": home / "alone"}
    return read_run_config(None, [*SMALL, *changes], purpose="distill", options=chosen | options)


def comparison(config: RunConfig) -> Comparison:
    alone = stages.build(stages.open_inputs(replace(config, alone_differs=True))).alone
    assert alone is not None
    return alone


def refusal(config: RunConfig) -> str:
    with pytest.raises(ConfigError) as refused:
        stages.build(stages.open_inputs(config))
    assert not config.out.exists()
    return str(refused.value)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (["train.steps=3"], "got train.steps 2 (here 3). Train it"),
        (["train.lr=0.5"], "train.lr 0.001 (here 0.5)"),
        (["train.backbone_lr_factor=0.5"], "train.backbone_lr_factor 1.0 (here 0.5)"),
        (["train.batch_size=4"], "images of a step (train.batch_size of all processes) 2 (here 4)"),
        (["train.ema_decay=0.5"], "train.ema_decay 0.998 (here 0.5)"),
        (["train.precision=bf16-mixed"], "train.precision 32-true (here bf16-mixed)"),
        (["train.evaluate_every=1", "train.patience=1"], "train.patience 0 (here 1)"),
        (["seed=5"], "seed 4 (here 5)"),
        (["data.image.short_side=32"], "data.image.short_side 64 (here 32)"),
        (["data.augment.flip=0.25"], "data.augment.flip 0.5 (here 0.25)"),
        (["data.sample_specific={}"], "data.sample_specific nothing (here {"),
        (["student.fpn_channels=8"], "student.fpn_channels 16 (here 8)"),
        (["student.detector=retinanet/test_resnet"], "student.family fcos (here retinanet)"),
        (["student.norm=group"], "student.norm"),
        (["inherit=true", "student.fpn_channels=32"], "inherit nothing (here True)"),
    ],
)
def test_every_setting_that_touches_the_students_weights_counts(home: Path, changes: list[str], found: str) -> None:
    config = distillation(home, *changes)
    opened = stages.open_inputs(config)
    with pytest.raises(ConfigError) as refused:
        stages.build(opened)
    assert not config.out.exists()
    said = str(refused.value)
    assert said.startswith(
        f"The student alone in {home / 'alone'} must be trained as this run's student is but for the teacher, got "
    )
    assert found in said
    assert "pass --alone-differs" in said
    alone = stages.build(replace(opened, config=replace(config, alone_differs=True))).alone
    assert alone is not None
    assert not alone.twin


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["train.log_every=3", "train.workers=1", "train.checkpoint_every=7", "train.keep_checkpoints=1"],
        ["train.accumulate=2", "train.threads=1", "train.device=auto"],
        ["train.processes=2", "train.batch_size=1"],
        ["train.evaluate_every=1"],
        ["evaluate.batch_size=1"],
        ["method=ikd(hint, adversarial=false)"],
    ],
)
def test_what_touches_no_weight_does_not_count(home: Path, changes: list[str]) -> None:
    found = comparison(distillation(home, *changes))
    assert (found.twin, found.recorded, found.differences) == (True, True, ())
    assert found.text() == "alone: the same run but for the teacher"


def test_other_training_data_counts_even_where_as_many_boxes_are_in_it(home: Path, tmp_path: Path) -> None:
    fewer, moved = (json.loads((home / "data/train.json").read_text()) for _ in range(2))
    moved["annotations"][0]["bbox"][0] += 1
    fewer["annotations"].pop()
    for name, content in (("fewer", fewer), ("moved", moved)):
        shutil.copytree(home / "data", tmp_path / name)
        (tmp_path / name / "train.json").write_text(json.dumps(content))
    said = refusal(distillation(home, data=tmp_path / "fewer", out=tmp_path / "out"))
    boxes = len(fewer["annotations"])
    assert f"got the training boxes {boxes + 1} (here {boxes}). Train it" in said
    assert "the digest of the training annotations" in refusal(distillation(home, data=tmp_path / "moved"))
    # The same data in another place is the same.
    shutil.copytree(home / "data", tmp_path / "copy")
    assert comparison(distillation(home, data=tmp_path / "copy")).twin


def test_a_control_of_the_methods_own_samples_is_a_twin(home: Path, tmp_path: Path) -> None:
    options = {"data": home / "data", "student": "fcos/test_resnet", "out": tmp_path / "control"}
    train_job(read_run_config(None, [*SMALL, "data.sample_specific={}"], purpose="train", options=options))
    method = "ikd(hint, adversarial=false)"
    assert comparison(distillation(home, method=method, alone=tmp_path / "control")).twin
    assert not comparison(distillation(home, method="hint", alone=tmp_path / "control")).twin


def test_a_distilled_run_an_unfinished_one_and_a_bare_checkpoint_are_no_twins(home: Path, tmp_path: Path) -> None:
    distill_job(distillation(home, out=tmp_path / "taught"))
    said = refusal(distillation(home, alone=tmp_path / "taught"))
    assert "got method hint (here nothing). Train it" in said
    assert len(comparison(distillation(home, alone=tmp_path / "taught")).differences) == 1
    first = RunFolder(home / "alone").checkpoint(1)
    assert "got steps done 1 (here 2). Train it" in refusal(distillation(home, alone=first))
    shutil.copytree(RunFolder(home / "alone").checkpoint(2), tmp_path / "bare")
    assert comparison(distillation(home, alone=tmp_path / "bare")).twin
    for name in ("training.json", "training.safetensors"):
        (tmp_path / "bare" / name).unlink()
    assert "got a checkpoint without a record of how it was trained. Train it" in refusal(
        distillation(home, alone=tmp_path / "bare")
    )


def test_a_run_that_kept_its_best_student_is_recorded_too(home: Path, tmp_path: Path) -> None:
    choice = ("train.evaluate_every=1", "train.keep=best", "train.patience=1")
    options = {"data": home / "data", "student": "fcos/test_resnet", "out": tmp_path / "best"}
    outcome = train_job(read_run_config(None, [*SMALL, *choice], purpose="train", options=options))
    assert comparison(distillation(home, *choice, alone=tmp_path / "best")).twin
    assert "train.keep best (here last)" in refusal(distillation(home, alone=tmp_path / "best"))
    assert outcome.steps <= 2


def test_allowed_differences_stand_beside_the_figures(home: Path, tmp_path: Path) -> None:
    config = distillation(home, "train.lr=0.5", "alone_differs=true", out=tmp_path / "out")
    outcome = distill_job(config)
    told = "alone: NOT the same run but for the teacher: train.lr 0.001 (here 0.5)"
    assert told in outcome.table()
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["alone_run"] == {
        "run": str(home / "alone"),
        "twin": False,
        "recorded": True,
        "differences": [{"setting": "train.lr", "here": 0.5, "there": 0.001}],
    }
    assert read_run_config(tmp_path / "out/config.yaml", purpose="distill").alone_differs


def test_nothing_to_differ_is_refused(home: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"alone_differs must be false where there is no student alone .* --alone RUN"
    ):
        distillation(home, "alone_differs=true", alone=None)
