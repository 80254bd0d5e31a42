"""The search for a method and its strength: judged on images held out of training, going on where it was."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from coco_by_hand import CLASSES, HEIGHT, WIDTH, draw_data
from detdistill.errors import ConfigError
from detdistill.jobs.config import read_run_config
from detdistill.jobs.settings import RunConfig
from detdistill.jobs.tune import ALONE, Search, Trial, tune_job
from detdistill.methods.catalogue import parse_method
from detdistill.store.layout import RunFolder
from detdistill.store.students import save_detector
from scenes_in_memory import tiny_teacher
from watched_jobs import Watcher

SMALL = ("student.head_depth=1", "student.strides=[8, 16, 32]", "student.fpn_channels=16", "seed=4")
SMALL += (
    "train.batch_size=2",
    "train.steps=6",
    "train.warmup_steps=1",
    "train.device=cpu",
    "train.ema_decay=0",
    "train.threads=1",
)
SEARCH = Search((parse_method("hint"), parse_method("frs")), (3.0, 1.0), budget=4.0, held_out=0.5, jobs=1, folds=1)
NAMES = ["alone", "hint(strength=3)", "frs(strength=3)", "hint(strength=1)", "frs(strength=1)"]


def config_of(home: Path, out: Path, *changes: str) -> RunConfig:
    options = {"data": home / "data", "student": "fcos/test_resnet", "teacher": home / "teacher", "method": "hint"}
    return read_run_config(None, [*SMALL, *changes], purpose="distill", options=options | {"out": out})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose validation images nobody can read, and a teacher."""
    folder = tmp_path_factory.mktemp("tune")
    draw_data(folder / "data")
    shown = json.loads((folder / "data" / "val.json").read_text())
    for image in shown["images"]:
        (folder / "data" / "images" / image["file_name"]).write_bytes(b"no image")
    teacher = tiny_teacher("fcos", classes=CLASSES)._detector
    save_detector(teacher, folder / "teacher", image={"short_side": HEIGHT, "long_side": WIDTH})
    return folder


def pretend(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, float], *, dies_after: int = 1000
) -> list[tuple[str, int]]:
    """Trials that train nothing and measure `values`."""
    ran: list[tuple[str, int]] = []

    def run(trial: Trial, steps: int) -> float:
        if len(ran) == dies_after:
            raise KeyboardInterrupt
        ran.append((trial.name, steps))
        return values[trial.name]

    monkeypatch.setattr(Trial, "run", run)
    return ran


def test_a_search_trains_measures_and_leaves_what_distill_takes(home: Path, tmp_path: Path) -> None:
    watcher, out = Watcher(), tmp_path / "tuned"
    found = tune_job(config_of(home, out), SEARCH, progress=watcher)
    assert list(found.trials) == NAMES
    assert set(found.ap) == {ALONE, max(NAMES[1:], key=lambda name: found.ap.get(name, -1))}
    assert found.trainings == pytest.approx(sum(max(curve) for curve in found.trials.values()) / 6)
    assert found.trainings <= SEARCH.budget
    assert {path.name for path in out.iterdir()} == {
        *("search.json", "study.db", "trials", "trials.png", "tuned.yaml", "results.json")
    }
    chosen = read_run_config(out / "tuned.yaml", purpose="distill")
    assert (chosen.train.steps, chosen.out) == (6, out / "final")
    assert chosen.method is not None
    assert (chosen.method.strength == 0) == (found.winner is None)
    assert read_run_config(out / "tuned.yaml", purpose="train").method is None
    assert RunFolder(out / "trials" / "000").steps()[-1] == 6


def test_the_student_alone_wins_where_nothing_is_better(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, dict(zip(NAMES, (9.0, 1.0, 9.0, 8.0, 2.0), strict=True)))
    found = tune_job(config_of(home, tmp_path / "tuned"), SEARCH)
    assert found.winner is None
    assert found.sentence().startswith(
        "nothing helped: the best trial, frs(strength=3), has 9.0 AP against 9.0 alone on "
    )
    chosen = read_run_config(found.tuned, purpose="distill").method
    assert chosen == parse_method("frs(strength=0)")


def test_an_interrupted_search_goes_on(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = dict(zip(NAMES, (1.0, 5.0, 4.0, 3.0, 9.0), strict=True))
    config = config_of(home, tmp_path / "tuned")
    pretend(monkeypatch, values, dies_after=3)
    with pytest.raises(KeyboardInterrupt):
        tune_job(config, SEARCH)
    with pytest.raises(ConfigError, match="or go on with that search by --resume"):
        tune_job(config, SEARCH)
    with pytest.raises(ConfigError, match=r"got other budget\. Give those, or choose another --out"):
        tune_job(config, replace(SEARCH, budget=5.0), resume=True)
    ran = pretend(monkeypatch, values)
    found = tune_job(config, SEARCH, resume=True)
    assert ran[:2] == [(NAMES[3], ran[0][1]), (NAMES[4], ran[0][1])]
    assert found.winner == "frs(strength=1)"
    again = pretend(monkeypatch, values)
    assert tune_job(config, SEARCH, resume=True).as_dict() == found.as_dict()
    assert again == []


def test_few_held_out_images_are_judged_in_folds_and_an_interrupted_search_goes_on_in_them(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best trial of the first fold loses where other images are held out, and the student alone wins."""
    search = replace(SEARCH, budget=None, folds=None, held_out=0.25)
    config, ran = config_of(home, tmp_path / "tuned"), list[tuple[str, int, int]]()

    def run(trial: Trial, steps: int) -> float:
        ran.append((trial.name, trial.fold, steps))
        if len(ran) == dies_at:
            raise KeyboardInterrupt
        return {ALONE: 5.0}.get(trial.name, 9.0 if trial.fold == 0 else 3.0)

    monkeypatch.setattr(Trial, "run", run)
    watcher, dies_at = Watcher(), 12
    with pytest.raises(KeyboardInterrupt):
        tune_job(config, search)
    cut, dies_at = ran[-1], 0
    found = tune_job(config, search, resume=True, progress=watcher)
    assert search.folds_of(sum(found.images)) == 4
    assert len(found.folds[ALONE]) == 4
    best = next(name for name in found.folds if name != ALONE)
    assert found.folds == {ALONE: (5.0,) * 4, best: (9.0, 3.0, 3.0, 3.0)}
    assert (found.winner, found.ap[best]) == (None, 4.5)
    assert found.trainings <= 4 + 6
    assert f"on {4 * found.images[1]} images held out of training, {found.images[1]} of them in each of 4 runs" in (
        found.sentence()
    )
    again = [one for one in ran if one[1]]
    assert again.count(cut) == 2
    assert sorted(set(again)) == sorted((name, fold, 6) for name in (ALONE, best) for fold in (1, 2, 3))


@pytest.mark.parametrize(
    ("budget", "images", "folds"),
    [(None, 40, 3), (None, 120, 1), (4.0, 40, 1), (7.0, 40, 3), (6.0, 40, 2), (None, 3, 3)],
)
def test_folds_are_what_makes_thirty_images_within_the_budget(budget: float | None, images: int, folds: int) -> None:
    assert replace(SEARCH, budget=budget, folds=None, held_out=0.25).folds_of(images) == folds


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"folds": 3}, "--folds must be 1 to 2, since each holds out 0.5 of the images, got 3"),
        ({"folds": 2}, "--budget must be above 4 and at most 1000"),
        ({"budget": 2.0}, "--budget must be above 2"),
        ({"held_out": 1.0}, "--held-out must be a share"),
        ({"jobs": 0}, "--jobs must be 1 to 64"),
        ({"strengths": (0.0, 1.0)}, "--strengths must be numbers above 0"),
        ({"strengths": (1.0, 1.0)}, "must each be named once"),
        ({"methods": (parse_method("hint"), parse_method("hint"))}, "must each be named once"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_anything_is_written(
    home: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        tune_job(config_of(home, tmp_path / "tuned"), replace(SEARCH, **change))
    assert not (tmp_path / "tuned").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("forking")
def test_trials_side_by_side_are_those_one_by_one(home: Path, tmp_path: Path) -> None:
    one = tune_job(config_of(home, tmp_path / "one"), SEARCH)
    two = tune_job(config_of(home, tmp_path / "two"), replace(SEARCH, jobs=2))
    assert two.trials == {name: pytest.approx(curve, rel=1e-12) for name, curve in one.trials.items()}
    shutil.rmtree(tmp_path / "two" / "trials")
