"""A made-up paper of a few steps, at both scales, and the pictures of what it trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from detdistill.errors import ConfigError
from detdistill.jobs.pictures import pictures_job
from detdistill.papers import data as paper_data
from detdistill.papers.reproduce import reproduce_job
from detdistill.scenes import make_scenes

MODEL = "detector: fcos/tiny, train: {epochs: 1, drops: [], lr: 0.01, batch_size: 4, accumulate: 2, warmup_steps: 1}"
SHEETS = True
IMAGE = "image: {short_side: 48, long_side: 96}"
ROWS = {
    "01-alone": f"{{title: A, metric: VOC AP50, data: kitti, {IMAGE}, student: {{{MODEL}, published: 80.0}}}}",
    "02-taught": f"""
title: B
metric: VOC AP50
data: kitti
published: 85.0
against: alone
method: aid(hint)
{IMAGE}
teacher: {{{MODEL}, settings: {{fpn_channels: 48}}}}
student: {{{MODEL}}}
differences: [drawn]
""",
    "03-lacking": "{title: C, metric: AP, data: coco, published: 50.0, needs: RepPoints}",
}


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("papers")
    (folder / "aid").mkdir()
    (folder / "aid/paper.yaml").write_text("{title: A made-up paper, figures: nowhere}")
    for name, row in ROWS.items():
        (folder / f"aid/{name}.yaml").write_text(row)
    return folder


@pytest.mark.slow
def test_smoke_runs_on_drawn_scenes_and_goes_on_where_it_was(
    papers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DETDISTILL_TEST_DATA", raising=False)
    monkeypatch.setattr(paper_data, "_SMOKE_TRAIN", 8)
    monkeypatch.setattr(paper_data, "_SMOKE_VAL", 4)
    out = tmp_path / "out"
    found = reproduce_job("aid", out=out, papers=papers)
    assert [(line.row, line.model) for line in found.lines] == [
        ("alone", "alone"),
        ("taught", "aid(hint)"),
        ("lacking", "not covered: needs RepPoints"),
    ]
    for line in found.lines[:2]:
        assert line.ours is not None
        assert 0 <= line.ours <= 100
    assert found.lines[1].published_gain == 5.0
    assert "drawn street scenes stand for KITTI" in "\n".join(found.table())
    runs = [line.run for line in found.lines[:2] if line.run is not None]
    before = [(run / "results.json").stat().st_mtime_ns for run in runs]
    assert reproduce_job("aid", out=out, papers=papers).table() == found.table()
    assert [(run / "results.json").stat().st_mtime_ns for run in runs] == before
    assert json.loads((out / "aid.json").read_text())["note"].startswith("smoke: these figures test the code")

    drawn = pictures_job(
        alone=runs[0],
        distilled=runs[1],
        teacher=str(runs[0]),
        data=out / "data/kitti_ignored",
        out=tmp_path / "pictures.png",
        images=2,
        score=0.0,
    )
    with Image.open(tmp_path / "pictures.png") as picture:
        assert picture.width == 4 * 480 + 5 * 12
    assert len(drawn.names) == len(drawn.table()) - 5
    with pytest.raises(ConfigError, match=r"must be a file name that ends in \.png"):
        pictures_job(alone=runs[0], distilled=runs[1], teacher="x", data=out, out=tmp_path / "pictures")


@pytest.mark.slow
def test_full_checks_and_plans_before_it_trains(papers: Path, tmp_path: Path) -> None:
    make_scenes(tmp_path / "scenes", train=8, val=4, seed=0, kitti=True)
    out = tmp_path / "out"
    arguments = {"data": tmp_path / "scenes/kitti", "papers": papers, "out": out}
    planned = reproduce_job("aid", row="taught", scale="full", plan_only=True, **arguments)
    assert planned.plan is not None
    assert len(planned.plan.runs) == 3
    assert planned.plan.seconds is not None
    assert not (out / "runs").exists()
    found = reproduce_job("aid", row="taught", scale="full", **arguments)
    assert "figures cannot be compared" in "\n".join(found.table())
    for line in found.lines:
        assert line.ours is not None
        assert line.run is not None
        settings = (line.run / "config.yaml").read_text()
        assert "optimizer: sgd" in settings
        assert "steps: 2" in settings
    assert reproduce_job("aid", row="taught", scale="full", plan_only=True, **arguments).plan.runs == []
