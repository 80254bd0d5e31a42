"""What a run says of itself before its first step, and `--dry-run`, which stops there and leaves nothing behind."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from coco_by_hand import CLASSES, TRAIN, VAL, draw_data
from detdistill.cli import main
from detdistill.errors import ConfigError
from detdistill.jobs import stages
from detdistill.jobs.config import read_run_config
from detdistill.jobs.plan import plan_job, plan_of
from detdistill.jobs.run import train_job
from detdistill.jobs.settings import RunConfig
from detdistill.jobs.trial import tried
from detdistill.progress import in_bytes
from detdistill.store.layout import RunFolder
from detdistill.store.students import save_detector
from detdistill.training.pace import Pace
from scenes_in_memory import tiny_student
from watched_jobs import Watcher

SMALL = ["student.head_depth=1", "student.strides=[8, 16, 32]", "student.fpn_channels=16", "train.batch_size=4"]
SMALL += ["train.steps=6", "train.warmup_steps=1", "train.checkpoint_every=2", "train.device=cpu", "train.threads=1"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    draw_data(folder / "data")
    teacher = tiny_student("fcos", seed=7, classes=CLASSES, fpn_channels=24)
    save_detector(teacher, folder / "teacher", image={"short_side": 64, "long_side": 96})
    return folder


def configured(lab: Path, out: str, *changes: str, method: str | None = None) -> RunConfig:
    options: dict[str, object] = {"data": lab / "data", "student": "fcos/test_resnet", "out": lab / out}
    if method is not None:
        options |= {"teacher": lab / "teacher", "method": method}
    return read_run_config(None, [*SMALL, *changes], purpose="train" if method is None else "distill", options=options)


def entries(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_dry_run_prints_the_plan_and_writes_nothing(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = entries(lab)
    words = ["train", "--detector", "fcos/test_resnet", "--data", str(lab / "data"), "--out", str(lab / "dry"), *SMALL]
    for more in ([], ["--resume"]):
        assert main([*words, "--dry-run", *more]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert printed[0] == f"plan: train fcos/test_resnet, into {lab / 'dry'}"
        assert "  where: the CPU, 1 process with 1 thread, precision 32-true" in printed
        assert f"  images: {TRAIN} to train on, {VAL} to validate on, at most 64 x 96 pixels" in printed
        assert "  steps: 6 of 4 images, 2.4 epochs" in printed
        assert any(line.startswith("  disk: at most 3 checkpoints of ") and line.endswith(" free") for line in printed)
        assert printed[-1].startswith("  time: about 0:0")
        assert not (lab / "dry").exists()
    assert entries(lab) == before


def test_a_dry_run_of_a_distillation(lab: Path, tmp_path: Path) -> None:
    """With twins that a run would keep, and terms that end half-way."""
    before, state = entries(lab), torch.get_rng_state()
    config = configured(lab, "dry", "train.evaluate_every=2", "longer=3", method="ikd(frs(until=0.5), attack_steps=1)")
    watcher = Watcher()
    plan = plan_job(config, generations=3, progress=watcher)
    assert entries(lab) == before
    assert not (lab / "dry").exists()
    assert torch.equal(torch.get_rng_state(), state)
    assert plan.label == "distil fcos/test_resnet by ikd(frs)"
    assert (plan.steps, plan.batch, plan.start, plan.evaluations) == (6, 4, 0, 3)
    assert plan.step_seconds is not None
    assert 0 < plan.step_seconds < 20
    assert plan.seconds == 18 * plan.step_seconds
    assert "  generations: 3 such runs, each taught by the one before" in plan.table()
    assert "  then: the student alone for 3 times the steps" in plan.table()
    assert plan.table()[-1].endswith(" s a step; evaluations not counted")
    assert json.loads(json.dumps(plan.as_dict()))["out"] == str(lab / "dry")
    # Everything that a run says before its first step was said.
    assert "start-up proof: frs.features" in watcher.text()
    assert "frs.features: off after 3 of 6 steps" in watcher.text()


def test_measuring_leaves_the_run_as_it_was(lab: Path) -> None:
    config = configured(lab, "dry", method="hint")
    proved = stages.prove(stages.build(stages.open_inputs(config)))
    step = proved.built.step
    before = {name: tensor.clone() for name, tensor in step.state_dict().items()}
    digest = step.teacher.digest()
    trial = tried(proved, 2)
    assert trial.step_seconds > 0
    assert trial.skipped == 0
    assert trial.peak is not None
    assert trial.memory is not None
    assert 1e7 < trial.peak < trial.memory
    assert all(torch.equal(tensor, before[name]) for name, tensor in step.state_dict().items())
    assert all(parameter.grad is None for parameter in step.parameters())
    assert step.teacher.digest() == digest


@pytest.mark.parametrize(
    "changes", [[], ["train.optimizer=sgd", "train.ema_decay=0"]], ids=["adamw with an average", "sgd without"]
)
def test_a_run_begins_with_the_plan_that_holds(lab: Path, changes: list[str]) -> None:
    out, watcher = f"run{len(changes)}", Watcher()
    config = configured(lab, out, *changes)
    train_job(config, progress=watcher)
    place = next(index for index, line in enumerate(watcher.lines) if line.startswith("plan: train fcos/test_resnet"))
    assert watcher.lines[place + 1] == "train fcos/test_resnet: 6"
    assert "time:" not in watcher.lines[place]
    plan = plan_of(stages.prove(stages.build(stages.open_inputs(config, resume=True))))
    run = RunFolder(lab / out)
    taken = sum(path.stat().st_size for path in run.checkpoint(6).iterdir())
    # Names and counters are some kB, whatever the detector's size.
    assert 0 < taken - plan.checkpoint_bytes < 250_000
    assert plan.checkpoint_bytes > 100_000
    before = entries(lab / out)
    whole = plan_job(config, resume=True)
    assert (whole.start, whole.step_seconds) == (6, None)
    assert any("going on after 6" in line for line in whole.table())
    assert entries(lab / out) == before


def test_what_a_run_is_refused_for_a_dry_run_is_refused_for(lab: Path) -> None:
    (lab / "full").mkdir()
    (lab / "full" / "file").write_text("mine")
    with pytest.raises(ConfigError, match="must be new or empty"):
        plan_job(configured(lab, "full"))
    with pytest.raises(ConfigError, match=r"no CUDA device|one of the \d+ CUDA devices"):
        plan_job(configured(lab, "dry", "train.device=cuda:99"))


def test_a_run_that_the_disk_has_no_room_for_is_refused_before_it_writes(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, twins = configured(lab, "small"), configured(lab, "small", method="ikd(hint, attack_steps=1)")
    proved = {one: stages.prove(stages.build(stages.open_inputs(one))) for one in (plain, twins)}
    plan, taught = (plan_of(one) for one in proved.values())
    assert (plan.twin_bytes, plan.twins) == (0, None)
    assert taught.twin_bytes == TRAIN * 64 * 96  # these images are noise, which takes more than a byte a pixel
    assert f"  twins: at least {in_bytes(taught.twin_bytes)} to make in {lab / 'small' / 'twins'}" in taught.table()
    room = 0
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=room))
    for one, runs, needed, what in (
        (plan, 1, 3 * plan.checkpoint_bytes, "3 checkpoints, got"),
        (plan, 4, 9 * plan.checkpoint_bytes, "9 checkpoints, got"),
        (replace(plan, saves=1), 1, plan.checkpoint_bytes, "1 checkpoint, got"),
        (replace(plan, saves=0), 1, 0, ""),
        (taught, 1, 3 * taught.checkpoint_bytes + taught.twin_bytes, "3 checkpoints and twins, got"),
    ):
        room = needed
        one.require_room(runs)
        room -= 1
        if needed:
            said = f"The disk of {lab} must have at least {in_bytes(needed)} free for {what} {in_bytes(room)}."
            with pytest.raises(ConfigError, match=re.escape(said)):
                one.require_room(runs)
    room = plan.checkpoint_bytes
    for work in (train_job, plan_job):
        with pytest.raises(
            ConfigError, match=r"for 3 checkpoints, got .* Make room there, or name a folder on another"
        ):
            work(plain)
    assert not (lab / "small").exists()
    for step in (2, 4):  # two of the three are there
        (lab / "small" / "checkpoints" / f"step_{step:07d}").mkdir(parents=True)
    plan.require_room()


def test_a_long_run_says_how_long_it_takes_once_it_is_warm() -> None:
    pace = Pace(1000)
    # The first step takes 50 s, the others 1 s.
    said = [pace.sentence(done, 49.0 + done) for done in range(1, 30)]
    assert [(done, line) for done, line in enumerate(said, start=1) if line] == [(11, "989 steps to go: about 16:29")]
    slow = Pace(20)
    assert [slow.sentence(done, 40.0 * done) for done in (1, 2)] == [None, "18 steps to go: about 12:00"]
    assert not any(Pace(20).sentence(done, float(done)) for done in range(1, 21))
