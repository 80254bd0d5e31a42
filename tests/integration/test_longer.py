"""What stands beside a distilled student: its change by class, its cost, and the student alone for longer."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from coco_by_hand import CLASSES, HEIGHT, WIDTH, draw_data
from detdistill.errors import ConfigError
from detdistill.jobs.alone import compare_alone
from detdistill.jobs.config import read_run_config
from detdistill.jobs.longer import ALONE_EQUAL_TIME, ALONE_LONGER, longer_configs
from detdistill.jobs.run import RunOutcome, distill_job, generations_job, train_job
from detdistill.jobs.settings import RunConfig
from detdistill.jobs.stages import build, open_inputs
from detdistill.store.checkpoints import read_record
from detdistill.store.layout import RunFolder
from detdistill.store.students import load_detector, save_detector
from scenes_in_memory import tiny_teacher
from watched_jobs import Watcher

SMALL = ("student.head_depth=1", "student.strides=[8, 16, 32]", "student.fpn_channels=16", "seed=4")
SMALL += ("train.batch_size=2", "train.steps=2", "train.warmup_steps=1", "train.checkpoint_every=1", "train.device=cpu")


@dataclass(frozen=True)
class Lab:
    """A distillation with the student alone, for equal time and for twice the steps."""

    folder: Path
    outcome: RunOutcome
    watcher: Watcher


def distillation(folder: Path, *changes: str, **options: object) -> RunConfig:
    chosen = {"data": folder / "data", "student": "fcos/test_resnet", "teacher": folder / "teacher", "method": "hint"}
    chosen |= {"out": folder / "distilled", "alone": folder / "alone"}
    return read_run_config(None, [*SMALL, *changes], purpose="distill", options=chosen | options)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("lab")
    draw_data(folder / "data")
    teacher = tiny_teacher("fcos", classes=CLASSES)._detector
    save_detector(teacher, folder / "teacher", image={"short_side": HEIGHT, "long_side": WIDTH})
    options = {"data": folder / "data", "student": "fcos/test_resnet", "out": folder / "alone"}
    watcher = Watcher()
    train_job(read_run_config(None, SMALL, purpose="train", options=options))
    outcome = distill_job(distillation(folder, "equal_time=true", "longer=2"), progress=watcher)
    return Lab(folder, outcome, watcher)


def test_both_further_runs_of_the_student_alone_are_runs_of_their_own(lab: Lab) -> None:
    out, alone = lab.folder / "distilled", read_record(lab.folder / "alone")
    assert alone is not None
    fits = max(2, round(2 * lab.outcome.seconds / alone.seconds))
    for name, steps in ((ALONE_EQUAL_TIME, fits), (ALONE_LONGER, 4)):
        written = json.loads((RunFolder(out / name).results).read_text())
        assert written["steps"] == steps == lab.outcome.longer[name][0]
        record = read_record(out / name)
        assert record is not None
        assert (record.step, record.identity["method"]) == (steps, None)
        again = read_run_config(out / name / "config.yaml", purpose="train")
        assert (again.equal_time, again.longer, again.train.steps) == (False, None, steps)
        assert load_detector(out / name).class_names == CLASSES
    config = distillation(lab.folder, "train.steps=4", out=lab.folder / "unused", alone=out / ALONE_LONGER)
    built = build(open_inputs(config))
    assert built.alone is not None
    assert compare_alone(out / ALONE_LONGER, built.opened, built.changes).twin
    assert f"(as {lab.folder / 'alone'} took): {fits:,} steps in " in lab.watcher.text()


def test_the_table_has_them_and_the_change_by_class_and_the_cost(lab: Lab) -> None:
    lines, results = lab.outcome.table(), lab.outcome.results
    assert list(results) == ["teacher", "alone", ALONE_EQUAL_TIME, ALONE_LONGER, "distilled"]
    assert lines[0].split()[-9:] == ["AP", "vs", "alone", "AP", "vs", ALONE_EQUAL_TIME, "AP", "vs", ALONE_LONGER]
    text = "\n".join(lines)
    (header,) = (line for line in lines if line.startswith("class"))
    assert header.split() == ["class", "teacher", "alone", "distilled", "distilled", "vs", "alone"]
    assert all(any(line.startswith(name) for line in lines) for name in CLASSES)
    costs = lab.outcome.costs
    share = costs["distilled"].complexity.parameters / costs["teacher"].complexity.parameters
    assert f"student ÷ teacher: {share:.2f} of the parameters (" in text
    assert "The student alone is not known" not in text


def test_the_results_have_the_same(lab: Lab) -> None:
    written = json.loads((lab.folder / "distilled/results.json").read_text())
    ours, theirs = (written[name]["per_class"] for name in ("distilled", "alone"))
    assert written["change_by_class"] == {
        "against": "alone",
        "points": {name: ours[name] - theirs[name] for name in CLASSES},
    }
    assert list(written["training"]) == [ALONE_EQUAL_TIME, ALONE_LONGER, "distilled"]
    cost = written["cost"]
    student = load_detector(lab.folder / "distilled").detector
    assert cost["distilled"]["parameters"] == sum(parameter.numel() for parameter in student.parameters())
    assert (cost["distilled"]["height"], cost["distilled"]["width"]) == (HEIGHT, WIDTH)
    ratio = cost["distilled"]["seconds_per_image"] / cost["teacher"]["seconds_per_image"]
    assert cost["student_over_teacher"]["seconds_per_image"] == pytest.approx(ratio)
    assert "gain paid for by time" in written["diagnosis"]["checked"]
    # Several processes hand it to each other.
    assert pickle.loads(pickle.dumps(lab.outcome)).costs == lab.outcome.costs


def test_a_resumed_run_keeps_the_steps_that_it_chose(lab: Lab) -> None:
    watcher, resumed = Watcher(), distillation(lab.folder, "equal_time=true", "longer=2")
    again = distill_job(resumed, resume=True, progress=watcher)
    assert {name: steps for name, (steps, _) in again.longer.items()} == {
        name: steps for name, (steps, _) in lab.outcome.longer.items()
    }


def test_without_a_student_alone_a_step_of_it_is_measured(lab: Lab, tmp_path: Path) -> None:
    config, watcher = distillation(lab.folder, "equal_time=true", alone=None, out=tmp_path / "out"), Watcher()
    built = build(open_inputs(config))
    found = longer_configs(built, seconds=1000.0, progress=watcher)
    assert list(found) == [ALONE_EQUAL_TIME]
    assert found[ALONE_EQUAL_TIME].train.steps > 1000
    assert "(measured now): " in watcher.text()
    assert not (tmp_path / "out").exists()


def test_by_default_there_is_neither(lab: Lab, tmp_path: Path) -> None:
    config = distillation(lab.folder, alone=None, out=tmp_path / "out")
    assert longer_configs(build(open_inputs(config)), seconds=9.0, progress=Watcher()) == {}


@pytest.mark.parametrize("longer", [1, 0.5, -1])
def test_longer_is_longer(lab: Lab, longer: float) -> None:
    with pytest.raises(ConfigError, match=r"longer must be above 1, times the steps of the run, got"):
        distillation(lab.folder, f"longer={longer}")


def test_a_chain_of_generations_has_no_such_runs(lab: Lab) -> None:
    config = replace(distillation(lab.folder, alone=None, out=lab.folder / "chain"), longer=2.0)
    with pytest.raises(ConfigError, match="equal_time and longer must be left out of a chain of generations"):
        generations_job(config, generations=2)
