"""The papers' tables, on runs that only pretend to train."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from detdistill.errors import ConfigError
from detdistill.files import read_json, write_json
from detdistill.jobs.run import DISTILLED
from detdistill.jobs.settings import RunConfig
from detdistill.papers import reproduce
from detdistill.papers.data import PreparedData
from detdistill.papers.reproduce import reproduce_job
from detdistill.papers.rows import PAPERS, PaperRow, read_paper
from detdistill.papers.table import SMOKE_HEADLINE, ComplexityLine

DATA = PreparedData(Path("data/coco"), "coco", train_images=1000, val_images=10, size=(480, 640))


def rows_of(paper: str) -> dict[str, PaperRow]:
    return {row.name: row for row in read_paper(paper)[1]}


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[RunConfig]:
    """Jobs that write the results 10, 20, 30, ... in the order in which they are called."""
    made: list[RunConfig] = []

    def job(config: RunConfig, *, resume: bool, progress: object) -> SimpleNamespace:
        assert resume
        made.append(config)
        name = DISTILLED if config.method else "student"
        figures = {"AP": 10.0 * len(made), "AP50": 5.0, "per_class": {}}
        write_json(config.out / "results.json", {name: figures, "steps": 1})
        return SimpleNamespace(undrawn=None)

    monkeypatch.setattr(reproduce, "train_job", job)
    monkeypatch.setattr(reproduce, "distill_job", job)
    monkeypatch.setattr(
        reproduce, "smoke_data", lambda *_, **__: replace(DATA, notes=("drawn scenes stand for COCO.",))
    )
    monkeypatch.setattr(reproduce, "_voc", lambda config, _: {"mAP": 1.5})
    return made


def test_the_table_is_filled_with_ours_beside_the_published(pretended: list[RunConfig], tmp_path: Path) -> None:
    outcome = reproduce_job("ikd", row="retinanet-ikd", out=tmp_path)
    # teacher 10, alone 20, fgd 30, ikd 40; the teacher of both is one.
    assert len(pretended) == 4
    expected = [
        ("retinanet-fgd", "teacher", 41.0, 10.0, None, None),
        ("retinanet-fgd", "alone", 37.4, 20.0, None, None),
        ("retinanet-fgd", "fgd", 40.7, 30.0, pytest.approx(3.3), 10.0),
        ("retinanet-ikd", "ikd(fgd)", None, 40.0, "at most +1.0", 10.0),
    ]
    assert [line.cells()[:2] for line in outcome.lines] == [one[:2] for one in expected]
    figures = [(line.published, line.ours, line.published_gain, line.our_gain) for line in outcome.lines]
    assert figures == [one[2:] for one in expected]
    text = outcome.table()
    assert text[0] == SMOKE_HEADLINE
    assert any("drawn scenes stand for COCO" in line for line in text)
    assert any("+3.3" in line and "+10.0" in line and "40.7" in line for line in text)
    assert [config.inherit for config in pretended] == [False, False, True, True]
    assert json.loads((tmp_path / "ikd-retinanet-ikd.json").read_text())["lines"][0]["published"] == 41.0
    assert (tmp_path / "ikd-retinanet-ikd.txt").read_text().splitlines() == text


def test_finished_runs_are_not_made_again_and_papers_share_them(pretended: list[RunConfig], tmp_path: Path) -> None:
    before = reproduce_job("ssim", out=tmp_path)
    # A teacher, three students alone and one as wide as the teacher, eight methods.
    assert len(pretended) == 13
    assert [line.ours for line in reproduce_job("ssim", out=tmp_path).lines] == [line.ours for line in before.lines]
    assert len(pretended) == 13
    reproduce_job("frs", row="retinanet-2x", out=tmp_path)
    # Its teacher and its student alone are SSIM's.
    assert len(pretended) == 14


def test_every_row_of_every_paper_gets_a_line(
    pretended: list[RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What its detectors cost is counted in tests/unit/test_profile.py.
    monkeypatch.setattr(
        reproduce, "count_complexity", lambda paper: tuple(ComplexityLine(said, 1.0, 2.0) for said in paper.complexity)
    )
    for paper in PAPERS:
        outcome = reproduce_job(paper, out=tmp_path / paper)
        assert [line.published for line in outcome.complexity] == list(read_paper(paper)[0].complexity)
        rows = rows_of(paper)
        assert {line.row for line in outcome.lines} == set(rows)
        for line in outcome.lines:
            if rows[line.row].needs is None:
                assert line.ours is not None
            else:
                assert line.model == f"not covered: needs {rows[line.row].needs}"
                assert (line.ours, line.published) == (None, rows[line.row].published)
    assert len(pretended) == 24 + 14 + 13 + 12


def test_kittis_rows_have_vocs_figure(pretended: list[RunConfig], tmp_path: Path) -> None:
    (line,) = reproduce_job("aid", row="kitti-gfl-r50", out=tmp_path).lines
    assert (line.metric, line.ours) == ("VOC AP50", 1.5)
    assert read_json(pretended[0].out / "voc.json") == {"mAP": 1.5}


def test_differences_say_whose_they_are(pretended: list[RunConfig], tmp_path: Path) -> None:
    outcome = reproduce_job("frs", out=tmp_path)
    assert outcome.differences["One seed."] == ()
    about_fcos = [rows for sentence, rows in outcome.differences.items() if "FCOS" in sentence]
    assert about_fcos == [("fcos-2x",)] * 2
    assert any(line.endswith("[fcos-2x]") for line in outcome.table())


def test_wrong_arguments_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--plan must come with --scale full, got --scale smoke"):
        reproduce_job("frs", plan_only=True)
    with pytest.raises(ConfigError, match="must be a folder of data sets, got no such folder"):
        reproduce_job("frs", data=tmp_path / "none")
    with pytest.raises(ConfigError, match="--data must be the folder of the data sets at --scale full, got none"):
        reproduce_job("frs", scale="full")
