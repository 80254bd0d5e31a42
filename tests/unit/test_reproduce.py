"""The papers' row files and the runs that they stand for, without any training."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from detdistill.detectors.base import DetectorSpec
from detdistill.detectors.catalogue import build_detector
from detdistill.detectors.settings import DetectorSettings
from detdistill.errors import ConfigError
from detdistill.jobs.run import ALONE, DISTILLED, TEACHER
from detdistill.methods.catalogue import build_recipe
from detdistill.papers.data import PreparedData
from detdistill.papers.rows import PAPERS, PaperRow, chosen_rows, papers_folder, read_paper
from detdistill.papers.runs import PaperRun, in_order, row_runs, smoke_detector
from detdistill.papers.table import table_lines

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
                "retinanet-r50-1x-ssim-no-adapter": (None, 36.4, 40.1),
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
    assert {name for paper, name in lacking if paper == "ikd"} == {"reppoints-fgd", "reppoints", "mask-fgd", "mask"}
    assert {"cascade-faster-1x", "fsaf", "reppoints"} <= {name for paper, name in lacking if paper == "ssim"}
    assert not {paper for paper, _ in lacking} & {"aid", "frs"}
    for paper, name in lacking:
        row = rows_of(paper)[name]
        assert row.student is row.teacher is row.method is None


@pytest.mark.parametrize(
    ("paper", "row", "figure", "gain"),
    [
        ("ssim", "cascade-faster-1x", 40.9, "+3.5"),
        ("ssim", "cascade-faster-1x-l1", 38.6, "2.3 below SSIM"),
        ("ssim", "cascade-faster-1x-no-adapter", 39.8, None),
        ("ssim", "cascade-faster-other-configuration", 41.0, None),
        ("ssim", "fsaf", None, "+2.3"),
        ("ssim", "reppoints", None, "+3.3"),
        ("ikd", "reppoints-fgd", 42.0, "+3.4"),
        ("ikd", "reppoints", 43.0, "at most +1.0"),
        ("ikd", "mask-fgd", 42.1, "+2.9 (masks: AP 37.8)"),
        ("ikd", "mask", None, "at most +1.0"),
    ],
)
def test_rows_that_we_lack_a_detector_for_show_their_published_figures(
    paper: str, row: str, figure: float | None, gain: str | None
) -> None:
    rows = read_paper(paper)[1]
    (line,) = table_lines([rows_of(paper)[row]], {}, {})
    assert (line.published, line.published_gain) == (figure, gain)
    assert line.model.startswith("not covered: needs")
    for one in rows:
        assert one.needs is None or one.published is not None or one.published_gain is not None


def test_ssim_without_adapter_is_the_row_with_its_own_method(tmp_path: Path) -> None:
    rows = rows_of("ssim")
    plain, bare = rows["retinanet-r50-1x-ssim"], rows["retinanet-r50-1x-ssim-no-adapter"]
    assert (plain.method, bare.method) == ("ssim", "ssim(aligner=identity)")
    one, other = (row_runs(row, DATA, scale="full", out=tmp_path).runs for row in (plain, bare))
    assert (one[TEACHER], one[ALONE]) == (other[TEACHER], other[ALONE])
    assert one[DISTILLED].name != other[DISTILLED].name


def test_a_full_run_is_the_papers_schedule(tmp_path: Path) -> None:
    runs = row_runs(rows_of("frs")["gfl-1x"], DATA, scale="full", out=tmp_path).runs
    assert list(runs) == [TEACHER, ALONE, DISTILLED]
    teacher, student = runs[TEACHER].config, runs[DISTILLED].config
    # 1000 images in batches of 16 are 63 steps an epoch.
    assert (teacher.train.steps, student.train.steps) == (24 * 63, 12 * 63)
    assert student.train.milestones == pytest.approx((8 / 12, 11 / 12))
    assert (student.train.optimizer, student.train.lr, student.train.ema_decay) == ("sgd", 0.01, 0)
    assert student.train.batch_size / student.train.accumulate == 2
    assert (teacher.data.augment.short_sides, student.data.augment.short_sides) == ((480, 800), None)
    assert teacher.data.augment.scale_jitter == (1.0, 1.0)
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
        row_runs(row, replace(DATA, digest="other"), scale="full", out=tmp_path),
        row_runs(replace(row, method="frs(class_gain=0.0)"), DATA, scale="full", out=tmp_path),
        row_runs(rows_of("frs")["gfl-2x"], DATA, scale="full", out=tmp_path),
        row_runs(row, DATA, scale="smoke", out=tmp_path),
    ]
    assert len({here, *(one.runs[DISTILLED].name for one in others)}) == 6


def test_several_scales_do_nothing_to_kittis_wide_images(tmp_path: Path) -> None:
    row = rows_of("aid")["kitti-gfl-r101"]
    run = row_runs(row, DATA, scale="full", out=tmp_path).runs[ALONE].config
    assert run.data.image is not None
    assert run.data.augment.short_sides == (480, 800)
    sizes = {run.data.image.resized(375, 1242, short_side=side) for side in run.data.augment.short_sides or ()}
    assert sizes == {(402, 1333)}
    smoke = row_runs(row, DATA, scale="smoke", out=tmp_path).runs[ALONE].config.data
    # A test's short side is 96 where the paper's is 800.
    assert smoke.augment.short_sides == (58, 96)


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


@pytest.mark.parametrize("paper", PAPERS)
def test_every_method_fits_its_detectors_at_smoke_scale(paper: str, tmp_path: Path) -> None:
    specs: dict[DetectorSettings, DetectorSpec] = {}

    def spec_of(run: PaperRun) -> DetectorSpec:
        settings = run.config.student.settings
        if settings not in specs:
            specs[settings] = build_detector(settings, ("a", "b", "c"), seed=0).spec
        return specs[settings]

    for row in rows_of(paper).values():
        if row.method_settings is not None:
            runs = row_runs(row, DATA, scale="smoke", out=tmp_path).runs
            assert build_recipe(row.method_settings, spec_of(runs[DISTILLED]), spec_of(runs[TEACHER])).terms


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
        (("title: made up\n", ""), "title must be given, got nothing. Give title a value."),
        (("published: 40.0", "publishd: 40.0"), "key of a row, got the unknown 'publishd'. Did you mean 'published'?"),
        (("metric: AP", "metric: mAP"), "metric must be AP or AP50 or 'VOC AP50', got 'mAP'. Did you mean 'AP'?"),
        (("published: 40.0", "published: high"), "published must be a number or null, got 'high'. Change the value."),
        (("published: 40.0", "inherit: 1"), "inherit must be true or false, got 1."),
        (("title: made up", "title: 7"), "title must be text, got 7."),
        (("epochs: 2", "epochs: 2.5"), "epochs must be a whole number, got 2.5."),
        (("drops: [1]", "drops: 1"), "drops must be a list, got 1."),
        (("drops: [1]", "drops: [2]"), "train.drops must be rising epochs between 1 and 1, got [2]."),
        (("epochs: 2, drops: [1]", "epochs: 0, drops: []"), "must be at least 1, got 0 and 2. Raise them."),
        (("lr: 0.01", "short_sides: [480], lr: 0.01"), "short_sides must be a list of 2 values or null, got [480]."),
        (("lr: 0.01", "short_sides: [1.5, 2], lr: 0.01"), "short_sides.0 must be a whole number, got 1.5."),
        (("{detector: fcos/tiny", "{settings: 3, detector: fcos/tiny"), "settings must be a section of keys, got 3."),
        (("fcos/tiny", "fcos/tini"), "The detector's backbone must be a preset or a timm model, got 'tini'."),
        (("{detector: fcos/tiny", "{settings: {nrm: 1}, detector: fcos/tiny"), "of fcos/tiny, got the unknown 'nrm'"),
        (("method: frs", "method: frz"), "The method must be one of"),
        (("method: frs", ""), "A row must have a teacher and a method, or neither, got a teacher alone. Give both."),
        (("metric: AP", "metric: AP\nneeds: RepPoints"), "either a student or needs (what we lack for it), got both."),
        (("title: made up", "title: made up\nname: x"), "a row is named by its file, got the key name. Leave it out."),
        (("metric: AP", "metric: AP\nagainst: row-1"), "row 'row-0', must be a row beside it, got 'row-1'. Did you"),
        ((ROW, "just words"), "must be a section of keys, got 'just words'. Write `key: value` lines."),
        ((ROW, "{title: T, metric: AP, data: coco}"), "either a student or needs (what we lack for it), got neither."),
        (("student: {", "needs: X\nstudnt: {"), "key of a row, got the unknown 'studnt'. Did you"),
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
    (package / "papers/rows").mkdir(parents=True)
    assert papers_folder() == package / "papers/rows"
