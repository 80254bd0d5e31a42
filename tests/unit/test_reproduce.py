"""The papers' row files, the runs that they stand for, and the table, without any training."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from detdistill.errors import ConfigError
from detdistill.files import read_json, write_json
from detdistill.jobs import reproduce
from detdistill.jobs.distill import ALONE, DISTILLED, TEACHER
from detdistill.jobs.papers.data import PreparedData
from detdistill.jobs.papers.rows import PAPERS, PaperRow, chosen_rows, papers_folder, read_paper
from detdistill.jobs.papers.runs import in_order, row_runs, smoke_detector
from detdistill.jobs.papers.table import SMOKE_HEADLINE
from detdistill.jobs.reproduce import reproduce_job
from detdistill.jobs.settings import RunConfig

# The poster's tables: no distillation, Zhang and Ma, AID with a student R50; the same with R101.
AID = {
    "kitti-gfl": (85.1, 86.4, 88.0, 89.4, 88.2, 89.7),
    "kitti-faster": (88.9, 89.0, 89.6, 89.6, 89.7, 89.8),
    "traffic-gfl": (67.6, 69.7, 70.1, 71.0, 72.5, 72.6),
    "traffic-faster": (65.3, 67.9, 68.7, 67.1, 67.8, 68.1),
}
AID_ORDER = ("r50", "r50-attention", "r50-aid", "r101", "r101-attention", "r101-aid")
DATA = PreparedData(Path("data/coco"), "coco", train_images=1000, val_images=10, size=(480, 640))


def rows_of(paper: str) -> dict[str, PaperRow]:
    return {row.name: row for row in read_paper(paper)[1]}


def own_figure(row: PaperRow) -> float | None:
    return row.published if row.method is not None or row.student is None else row.student.published


def test_aids_24_rows_are_the_posters_and_need_four_teachers(tmp_path: Path) -> None:
    rows = rows_of("aid")
    assert {name: own_figure(row) for name, row in rows.items()} == {
        f"{table}-{row}": figure
        for table, figures in AID.items()
        for row, figure in zip(AID_ORDER, figures, strict=True)
    }
    runs = [row_runs(row, DATA, scale="full", out=tmp_path) for row in rows.values()]
    kitti = [one for one in runs if one.row.data == "kitti"]
    # The made-up data is one for KITTI and COCO traffic: two detectors, hence two teachers, on each.
    assert len({one.runs[TEACHER].name for one in kitti if TEACHER in one.runs}) == 2
    assert len(in_order(kitti)) == 12
    for one in runs:
        if one.row.name.endswith("-r101"):
            aid = next(other for other in runs if other.row.name == f"{one.row.name}-aid")
            assert one.runs[ALONE].name == aid.runs[TEACHER].name


@pytest.mark.parametrize(
    ("paper", "published"),
    [
        (
            "frs",
            {
                "retinanet-2x": (38.9, 37.4, 39.7),
                "gfl-1x": (44.9, 40.2, 43.6),
                "gfl-2x": (44.9, 42.9, 44.7),
                "faster-1x": (39.4, 37.4, 39.5),
                "fcos-2x": (40.8, 38.5, 40.9),
            },
        ),
        (
            "ssim",
            {
                "retinanet-r50-1x-ssim": (None, 36.4, 40.1),
                "retinanet-r50-1x-l1": (None, 36.4, 38.7),
                "retinanet-r50-1x-l2": (None, 36.4, 39.0),
                "retinanet-r50-1x-s": (None, 36.4, 39.6),
                "retinanet-r50-1x-sc": (None, 36.4, 40.0),
                "retinanet-r18-1x-ssim": (None, 32.6, 36.1),
                "retinanet-r50-2x-ssim": (None, 37.4, 40.6),
            },
        ),
        (
            "ikd",
            {
                "retinanet-fgd": (41.0, 37.4, 40.7),
                "retinanet-ikd": (None, None, None),
                "fcos-fgd": (40.8, 38.5, None),
                "fcos-ikd": (None, None, None),
                "faster-fgd": (39.8, 38.4, None),
                "faster-ikd": (None, None, None),
            },
        ),
    ],
)
def test_the_other_papers_rows_are_the_published_ones(paper: str, published: dict[str, tuple[float | None]]) -> None:
    covered = {name: row for name, row in rows_of(paper).items() if row.needs is None}
    assert {
        name: (row.teacher and row.teacher.published, row.student and row.student.published, row.published)
        for name, row in covered.items()
    } == published


def test_rows_that_we_lack_a_detector_for_are_kept_and_never_substituted() -> None:
    lacking = {(paper, name) for paper in PAPERS for name, row in rows_of(paper).items() if row.needs is not None}
    assert {name for paper, name in lacking if paper == "ikd"} == {"reppoints", "mask"}
    assert {"cascade-faster-1x", "fsaf", "reppoints"} <= {name for paper, name in lacking if paper == "ssim"}
    assert not {paper for paper, _ in lacking} & {"aid", "frs"}
    for paper, name in lacking:
        row = rows_of(paper)[name]
        assert row.student is row.teacher is row.method is None


def test_a_full_run_is_the_papers_schedule(tmp_path: Path) -> None:
    runs = row_runs(rows_of("frs")["gfl-1x"], DATA, scale="full", out=tmp_path).runs
    assert list(runs) == [TEACHER, ALONE, DISTILLED]
    teacher, student = runs[TEACHER].config, runs[DISTILLED].config
    # 1000 images in batches of 16 are 63 steps an epoch.
    assert (teacher.train.steps, student.train.steps) == (24 * 63, 12 * 63)
    assert student.train.milestones == pytest.approx((8 / 12, 11 / 12))
    assert (student.train.optimizer, student.train.lr, student.train.ema_decay) == ("sgd", 0.01, 0)
    assert student.train.batch_size / student.train.accumulate == 2
    assert teacher.data.augment.scale_jitter == (0.6, 1.0)
    assert (student.data.image and (student.data.image.short_side, student.data.image.long_side)) == (800, 1333)
    settings = student.student.settings
    assert (settings.backbone, settings.norm, settings.freeze_stages) == ("resnet50.tv_in1k", "frozen", 1)
    assert student.teacher is not None
    assert student.teacher.source == str(runs[TEACHER].config.out)
    assert runs[DISTILLED].needs == runs[TEACHER].name
    alone = runs[ALONE].config
    assert alone == replace(student, out=alone.out, teacher=None, method=None, twins=alone.twins)


def test_a_run_is_named_by_what_decides_it(tmp_path: Path) -> None:
    row = rows_of("frs")["gfl-1x"]
    here = row_runs(row, DATA, scale="full", out=tmp_path / "a").runs[DISTILLED].name
    moved = replace(DATA, folder=Path("/elsewhere/coco"))
    assert row_runs(row, moved, scale="full", out=tmp_path / "b").runs[DISTILLED].name == here
    others = [
        row_runs(row, replace(DATA, identity="other"), scale="full", out=tmp_path),
        row_runs(replace(row, method="frs(class_gain=0.0)"), DATA, scale="full", out=tmp_path),
        row_runs(rows_of("frs")["gfl-2x"], DATA, scale="full", out=tmp_path),
        row_runs(row, DATA, scale="smoke", out=tmp_path),
    ]
    assert len({here, *(one.runs[DISTILLED].name for one in others)}) == 5


@pytest.mark.parametrize("paper", PAPERS)
def test_smoke_detectors_are_of_the_same_family_and_learn_from_scratch(paper: str, tmp_path: Path) -> None:
    for row in rows_of(paper).values():
        if row.student is None:
            continue
        settings = smoke_detector(row.student)
        assert settings.family == row.student.resolved().family
        assert (settings.pretrained, settings.freeze_stages, settings.backbone) == (None, 0, "test_resnet")
        train = (
            row_runs(row, DATA, scale="smoke", out=tmp_path)
            .runs[ALONE if row.method is None else DISTILLED]
            .config.train
        )
        assert train.steps == 3 * row.student.train.epochs
        if row.teacher is not None and "r101-" not in row.name:
            assert smoke_detector(row.teacher).fpn_channels > settings.fpn_channels


STUDENT = "student: {detector: fcos/tiny, train: {epochs: 2, drops: [1], lr: 0.01, batch_size: 2}, published: 30.0}\n"
ROW = f"""
title: made up
metric: AP
data: coco
published: 40.0
method: frs
teacher: {{detector: fcos/small, train: {{epochs: 2, drops: [1], lr: 0.01, batch_size: 2}}, published: 50}}
{STUDENT}"""


def papers(folder: Path, *rows: str) -> Path:
    (folder / "frs").mkdir(parents=True)
    (folder / "frs/paper.yaml").write_text("title: T\nfigures: F\ndifferences: [one seed]\n")
    for number, row in enumerate(rows):
        (folder / f"frs/0{number}-row-{number}.yaml").write_text(row)
    return folder


def test_numbers_may_be_written_without_a_point(tmp_path: Path) -> None:
    _, (row,) = read_paper("frs", folder=papers(tmp_path, ROW))
    assert row.name == "row-0"
    assert row.teacher is not None
    assert row.teacher.published == 50.0
    assert isinstance(row.teacher.published, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("title: made up\n", ""), "must have the key 'title', got none. Add it."),
        (("published: 40.0", "publishd: 40.0"), "known keys, got 'publishd'. Did you mean 'published'?"),
        (("metric: AP", "metric: mAP"), "metric must be one of AP, AP50, VOC AP50, got 'mAP'. Change the value."),
        (("published: 40.0", "published: high"), "published must be a number, got 'high'. Change the value."),
        (("published: 40.0", "inherit: 1"), "inherit must be true or false, got 1."),
        (("title: made up", "title: 7"), "title must be text, got 7."),
        (("epochs: 2", "epochs: 2.5"), "epochs must be a whole number, got 2.5."),
        (("drops: [1]", "drops: 1"), "drops must be a list, got 1."),
        (("drops: [1]", "drops: [2]"), "train.drops must be rising epochs between 1 and 1, got [2]."),
        (("epochs: 2, drops: [1]", "epochs: 0, drops: []"), "must be at least 1, got 0 and 2. Raise them."),
        (("lr: 0.01", "scale_jitter: [1.0], lr: 0.01"), "scale_jitter must be a list of 2, got [1.0]."),
        (("{detector: fcos/tiny", "{settings: 3, detector: fcos/tiny"), "settings must be a section of keys, got 3."),
        (("fcos/tiny", "fcos/tini"), "The detector's backbone must be a preset or a timm model, got 'tini'."),
        (("{detector: fcos/tiny", "{settings: {nrm: 1}, detector: fcos/tiny"), "known keys, got 'nrm'."),
        (("method: frs", "method: frz"), "The method must be one of"),
        (("method: frs", ""), "A row must have a teacher and a method, or neither, got a teacher alone. Give both."),
        (("metric: AP", "metric: AP\nneeds: RepPoints"), "either a student or needs (what we lack for it), got both."),
        (("title: made up", "title: made up\nname: x"), "a row is named by its file, got the key name. Leave it out."),
        (("metric: AP", "metric: AP\nagainst: row-1"), "row 'row-0', must be a row beside it, got 'row-1'. Did you"),
        ((ROW, "just words"), "must be a section with the keys title"),
        ((ROW, "{title: T, metric: AP, data: coco}"), "either a student or needs (what we lack for it), got neither."),
        (("student: {", "needs: X\nstudnt: {"), "known keys, got 'studnt'."),
        ((STUDENT, "needs: X\n"), "A row that is not covered must have no method, got one. Leave it out."),
    ],
)  # fmt: skip
def test_a_wrong_row_file_is_told_by_name_and_key(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    text = ROW.replace(*change)
    assert text != ROW
    with pytest.raises(ConfigError) as raised:
        read_paper("frs", folder=papers(tmp_path, text))
    assert message in str(raised.value)
    assert "frs" in str(raised.value)


def test_unknown_papers_rows_and_empty_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must be one of aid, frs, ssim, ikd, got 'aids'. Did you mean 'aid'\?"):
        read_paper("aids")
    with pytest.raises(ConfigError, match=r"got 'retinanet-2'. Did you mean 'retinanet-2x'\?"):
        chosen_rows(read_paper("frs")[1], "retinanet-2")
    with pytest.raises(ConfigError, match="must hold a YAML file for every row, got none"):
        read_paper("frs", folder=papers(tmp_path / "empty"))
    twice = papers(tmp_path / "twice", ROW)
    shutil.copy(twice / "frs/00-row-0.yaml", twice / "frs/01-row-0.yaml")
    with pytest.raises(ConfigError, match="must have different names, got 'row-0' twice"):
        read_paper("frs", folder=twice)


def test_one_row_brings_the_row_that_it_is_measured_against() -> None:
    rows = read_paper("ikd")[1]
    assert [row.name for row in chosen_rows(rows, "fcos-ikd")] == ["fcos-fgd", "fcos-ikd"]
    assert [row.name for row in chosen_rows(rows, "fcos-fgd")] == ["fcos-fgd"]
    assert chosen_rows(rows, None) == rows


def test_the_row_files_are_found_in_an_installed_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert papers_folder().name == "papers"
    package = tmp_path / "site/detdistill"
    package.mkdir(parents=True)
    monkeypatch.setattr("detdistill.__file__", str(package / "__init__.py"))
    with pytest.raises(ConfigError, match=r"got neither folder\. Install detdistill anew"):
        papers_folder()
    (package / "papers").mkdir()
    assert papers_folder() == package / "papers"


# The table, on runs that only pretend to train.


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[RunConfig]:
    """Jobs that write the results 10, 20, 30, ... in the order in which they are called."""
    made: list[RunConfig] = []

    def job(config: RunConfig, *, resume: bool, progress: object) -> None:
        assert resume
        made.append(config)
        name = DISTILLED if config.method else "student"
        figures = {"AP": 10.0 * len(made), "AP50": 5.0, "per_class": {}}
        write_json(config.out / "results.json", {name: figures, "steps": 1})

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
    # A teacher, three students alone, seven methods.
    assert len(pretended) == 11
    assert [line.ours for line in reproduce_job("ssim", out=tmp_path).lines] == [line.ours for line in before.lines]
    assert len(pretended) == 11
    reproduce_job("frs", row="retinanet-2x", out=tmp_path)
    # Its teacher and its student alone are SSIM's.
    assert len(pretended) == 12


def test_every_row_of_every_paper_gets_a_line(pretended: list[RunConfig], tmp_path: Path) -> None:
    for paper in PAPERS:
        outcome = reproduce_job(paper, out=tmp_path / paper)
        rows = rows_of(paper)
        assert {line.row for line in outcome.lines} == set(rows)
        for line in outcome.lines:
            if rows[line.row].needs is None:
                assert line.ours is not None
            else:
                assert line.model == f"not covered: needs {rows[line.row].needs}"
                assert (line.ours, line.published) == (None, rows[line.row].published)
    assert len(pretended) == 24 + 14 + 11 + 12


def test_kittis_rows_have_vocs_figure(pretended: list[RunConfig], tmp_path: Path) -> None:
    (line,) = reproduce_job("aid", row="kitti-gfl-r50", out=tmp_path).lines
    assert (line.metric, line.ours) == ("VOC AP50", 1.5)
    assert read_json(pretended[0].out / "voc.json") == {"mAP": 1.5}


def test_differences_say_whose_they_are(pretended: list[RunConfig], tmp_path: Path) -> None:
    outcome = reproduce_job("frs", out=tmp_path)
    assert outcome.differences["One seed."] == ()
    about_fcos = [rows for sentence, rows in outcome.differences.items() if "FCOS" in sentence]
    assert about_fcos == [("fcos-2x",)]
    assert any(line.endswith("[fcos-2x]") for line in outcome.table())


def test_wrong_arguments_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--plan must come with --scale full, got --scale smoke"):
        reproduce_job("frs", plan_only=True)
    with pytest.raises(ConfigError, match="must be a folder of data sets, got no such folder"):
        reproduce_job("frs", data=tmp_path / "none")
    with pytest.raises(ConfigError, match="--data must be the folder of the data sets at --scale full, got none"):
        reproduce_job("frs", scale="full")
