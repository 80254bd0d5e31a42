"""The demo on a plan of a few steps: every part of it runs, and it goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detdistill import write_report
from detdistill.data.sources import open_split
from detdistill.demo import LABELLED, SCENES, DemoPlan, demo_job
from detdistill.detectors.catalogue import parse_detector
from detdistill.jobs.longer import equal_time_config
from detdistill.jobs.settings import DataSettings, RunConfig, StudentChoice
from detdistill.training.settings import TrainSettings
from in_a_browser import background, opened, seen

SHORT = {"steps": 2, "batch_size": 2, "workers": 0, "warmup_steps": 1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "run"
    plan = DemoPlan()
    small = replace(
        plan,
        train_scenes=6,
        labelled_scenes=3,
        val_scenes=2,
        teacher="fcos/tiny",
        teacher_training=replace(plan.teacher_training, **SHORT),
        student_training=replace(plan.student_training, **SHORT, processes=1),
    )
    demo_job(out=out, seed=3, plan=small)
    before = (out / "distilled/checkpoints/latest.json").stat().st_mtime_ns
    again = demo_job(out=out, seed=3, plan=small)
    assert again.table()[-1] == f"{out / 'report.html'} shows it all in a browser"
    assert (out / "distilled/checkpoints/latest.json").stat().st_mtime_ns == before
    return out


def test_results_name_the_four_detectors(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert set(results) == {"teacher", "alone", "alone_equal_time", "distilled", "training"}
    for name in ("teacher", "alone", "alone_equal_time", "distilled"):
        assert {"AP", "AP50"} <= set(results[name])
        assert results["training"][name]["seconds"] > 0
    for name in ("report.html", "pictures.png", "curves.png", "teacher/config.yaml", "distilled/results.json"):
        assert (finished / name).is_file()


def test_its_page_in_a_browser(finished: Path, tmp_path: Path, browser: Any) -> None:
    with opened(browser, write_report(finished, out=tmp_path / "page.html").out) as page:
        for who in ("alone", "distilled"):
            assert seen(page, f'.panel-of[data-who="{who}"]') > 0
        labels = seen(page, ".box.label")
        page.uncheck('[data-class="0"]')
        assert 0 < seen(page, ".box.label") < labels
        page.uncheck('[data-who="labels"]')
        assert seen(page, ".box.label") == 0
        light = background(page)
        page.click("#theme")
        assert background(page) != light


def test_the_student_sees_the_first_scenes_and_the_teacher_all(finished: Path) -> None:
    few, _ = open_split(finished / LABELLED, "train", exact=True)
    everything, _ = open_split(finished / SCENES, "train")
    assert (len(few), len(everything)) == (3, 6)
    for index in range(3):
        assert few.path(index).read_bytes() == everything.path(index).read_bytes()
        ours, theirs = few.boxes[few.objects(index)], everything.boxes[everything.objects(index)]
        assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize(("distilled", "steps"), [(150.0, 150), (123.4, 123), (80.0, 100)])
def test_equal_time_is_never_less_than_equal_steps(distilled: float, steps: int) -> None:
    config = RunConfig(
        data=DataSettings(folder=Path("x")),
        student=StudentChoice("fcos/tiny", parse_detector("fcos/tiny")),
        train=TrainSettings(steps=100, batch_size=2),
        out=Path("alone"),
    )
    longer = equal_time_config(config, out=Path("demo"), alone=100.0, distilled=distilled)
    assert longer.train.steps == steps
    assert longer.out == Path("demo/alone_equal_time")
