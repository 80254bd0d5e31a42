"""What a full reproduction takes, and the data sets that it checks, without any training."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from detdistill.detectors.settings import DetectorSettings
from detdistill.errors import ConfigError, DataError
from detdistill.files import read_json
from detdistill.papers import data as paper_data
from detdistill.papers import plan as paper_plan
from detdistill.papers.data import PreparedData, full_data, smoke_data
from detdistill.papers.plan import Cost, make_plan, require_room
from detdistill.papers.rows import PaperRow, read_paper
from detdistill.papers.runs import PaperRun, in_order, row_runs
from detdistill.progress import Silence
from detdistill.scenes import make_scenes

DATA = PreparedData(Path("data/coco"), "coco", train_images=1000, val_images=10, size=(480, 640))


def rows_of(paper: str) -> dict[str, PaperRow]:
    return {row.name: row for row in read_paper(paper)[1]}


def costing(step: float | None, observe: float | None) -> Callable[[DetectorSettings, int], Cost]:
    return lambda settings, side: Cost(parameters=10**6, step=step, observe=observe)


def frs_runs(tmp_path: Path) -> tuple[list[PaperRun], dict[str, PreparedData]]:
    runs = in_order([row_runs(rows_of("frs")["gfl-1x"], DATA, scale="full", out=tmp_path)])
    return runs, {run.name: DATA for run in runs}


def test_a_plan_counts_steps_teachers_and_checkpoints(tmp_path: Path) -> None:
    runs, data = frs_runs(tmp_path)
    plan = make_plan(runs, data, measure=costing(2.0, 0.5), progress=Silence())
    # Images: teacher 24 · 63 · 16, student alone and distilled 12 · 63 · 16 each; only the last one has a teacher.
    epoch = 63 * 16
    assert plan.seconds == pytest.approx(2.0 * 48 * epoch + 0.5 * 12 * epoch)
    # Two checkpoints of three tensors a parameter, with 20 % of room.
    assert plan.bytes == pytest.approx(3 * 2 * 3 * 4 * 10**6 * 1.2)
    rest = make_plan(runs, data, finished={runs[0].name}, measure=costing(2.0, 0.5), progress=Silence())
    assert rest.seconds == pytest.approx(2.0 * 24 * epoch + 0.5 * 12 * epoch)
    assert "plan: 2 trainings" in rest.lines()


def test_a_plan_with_twins_has_room_and_time_for_them(tmp_path: Path) -> None:
    runs = in_order([row_runs(rows_of("ikd")["retinanet-ikd"], DATA, scale="full", out=tmp_path)])
    plan = make_plan(runs, {run.name: DATA for run in runs}, measure=costing(1.0, 0.0), progress=Silence())
    epoch = 63 * 16
    # The teacher's 12 epochs; the student's 24 with half a step more for the twin; six passes of the teacher a twin.
    assert plan.seconds == pytest.approx(12 * epoch + 24 * epoch * 1.5 + 6 * 1000)
    assert plan.bytes == pytest.approx(2 * 2 * 3 * 4 * 10**6 * 1.2 + 1000 * 480 * 640 * 2.5)


def test_a_plan_that_cannot_be_measured_says_so(tmp_path: Path) -> None:
    runs, data = frs_runs(tmp_path)
    plan = make_plan(runs, data, measure=costing(None, None), progress=Silence())
    assert plan.seconds is None
    assert any("time cannot be estimated" in line for line in plan.lines())


def test_a_full_disk_is_told_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs, data = frs_runs(tmp_path)
    plan = make_plan(runs, data, measure=costing(1.0, 1.0), progress=Silence())
    require_room(plan, tmp_path / "not/there/yet")
    monkeypatch.setattr(paper_plan.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    with pytest.raises(ConfigError, match=r"must have 0\.1 GiB free, got 0\.0 GiB"):
        require_room(plan, tmp_path)


# The data.


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """COCO and KITTI of a few drawn scenes, under the names that a full run looks for."""
    root = tmp_path / "root"
    make_scenes(root / "coco", train=4, val=2, seed=0, kitti=True)
    (root / "coco/kitti").rename(root / "kitti")
    return root


def test_full_kitti_gets_the_papers_classes_and_keeps_its_lists(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepared = full_data("kitti", "ignored", root=scenes, out=out, progress=Silence())
    assert (prepared.train_images, prepared.val_images, prepared.size) == (4, 2, (96, 160))
    assert "has 6 images, the paper's 7481: figures cannot be compared" in prepared.notes[1]
    content = read_json(prepared.folder / "annotations/instances_train.json")
    assert [one["name"] for one in content["categories"]] == ["Car", "Pedestrian", "Cyclist"]
    assert (prepared.folder / "val.txt").read_text().split() == ["000004", "000005"]
    assert full_data("kitti", "ignored", root=scenes / "kitti", out=out, progress=Silence()) == prepared
    shutil.copytree(scenes / "kitti", tmp_path / "copy")
    with pytest.raises(ConfigError, match=r"got one made from other data\. Give another --out, or delete it"):
        full_data("kitti", "ignored", root=tmp_path / "copy", out=out, progress=Silence())


def divide(kitti: Path, train: str, val: str) -> None:
    """Other lists, one digit an image."""
    for name, numbers in (("train", train), ("val", val)):
        (kitti / f"ImageSets/{name}.txt").write_text("".join(f"00000{number}\n" for number in numbers))


def test_a_division_that_is_not_ours_is_told(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper_data, "_PUBLISHED_IMAGES", {"kitti": 6})

    def notes(name: str) -> tuple[str, ...]:
        return full_data("kitti", "ignored", root=scenes, out=tmp_path / name, progress=Silence()).notes

    divide(scenes / "kitti", "012", "345")
    assert notes("half") == (
        "KITTI is divided by the folder's own lists, 3 training and 3 validation images, the paper's 8 : 2: figures "
        "cannot be compared.",
    )
    monkeypatch.setattr(paper_data, "_SHARE_SLACK", 0.05)
    divide(scenes / "kitti", "01234", "5")
    assert notes("fifths") == ("KITTI is divided by the folder's own lists, 5 training and 1 validation images.",)
    # A second run of the same data says it again.
    assert len(notes("fifths")) == 1
    shutil.rmtree(scenes / "kitti/ImageSets")
    assert notes("drawn") == ()


def test_changed_lists_or_labels_are_not_taken_for_the_data_made_before(scenes: Path, tmp_path: Path) -> None:
    out, kitti = tmp_path / "out", scenes / "kitti"

    def prepared() -> PreparedData:
        return full_data("kitti", "ignored", root=scenes, out=out, progress=Silence())

    def refused() -> None:
        with pytest.raises(ConfigError, match=r"got one made before its lists or labels changed\. Give another --out"):
            prepared()

    before = prepared()
    assert prepared() == before
    divide(kitti, "0124", "35")
    refused()
    divide(kitti, "0123", "45")
    assert prepared() == before
    label = kitti / "training/label_2/000004.txt"
    text = label.read_text()
    label.write_text(text + "Car 0 0 -10 10 10 40 40 -1 -1 -1 -1000 -1000 -1000 -10\n")
    refused()
    # Made anew, it is other data, and its runs are other runs.
    shutil.rmtree(before.folder)
    assert prepared().digest != before.digest
    label.write_text(text)
    shutil.rmtree(before.folder)
    assert prepared() == before


def test_an_image_in_both_splits_is_refused_before_anything_is_written(scenes: Path, tmp_path: Path) -> None:
    out, kitti = tmp_path / "out", scenes / "kitti"
    divide(kitti, "01234", "345")
    with pytest.raises(DataError, match=r"must share no image, got 2 in both, such as 000003\.png\. Take them out"):
        full_data("kitti", "ignored", root=scenes, out=out, progress=Silence())
    divide(kitti, "01234", "5")
    assert full_data("kitti", "ignored", root=scenes, out=out, progress=Silence()).val_images == 1
    shutil.copyfile(scenes / "coco/train.json", scenes / "coco/val.json")
    with pytest.raises(DataError, match="must share no image, got 4 in both"):
        full_data("coco", "ignored", root=scenes, out=out, progress=Silence())


def test_full_data_is_checked_for_layout_and_images(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must hold kitti/ with training/image_2 and training/label_2, or be that"):
        full_data("kitti", "ignored", root=tmp_path, out=tmp_path / "out", progress=Silence())
    with pytest.raises(ConfigError, match=r"must hold coco/ with annotations/instances_train2017\.json"):
        full_data("coco", "ignored", root=tmp_path, out=tmp_path / "out", progress=Silence())
    (scenes / "coco/images/train_000002.png").unlink()
    with pytest.raises(
        DataError,
        match=r"train images of .* must be all 4, got 1 that cannot be used",
    ):
        full_data("coco", "ignored", root=scenes, out=tmp_path / "out", progress=Silence())


def test_smoke_data_is_a_few_images_with_objects(scenes: Path, tmp_path: Path) -> None:
    prepared = smoke_data("coco", "ignored", root=scenes, out=tmp_path / "out", progress=Silence())
    content = read_json(prepared.folder / "annotations/instances_train.json")
    shown = {box["image_id"] for box in content["annotations"]}
    assert {image["id"] for image in content["images"]} == shown
    assert prepared.train_images == len(shown)
    assert "training and" in prepared.notes[0]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match="must hold one of bccd, coco_mini, coco, or be such a data set, got none"):
        smoke_data("coco", "ignored", root=empty, out=tmp_path / "other", progress=Silence())


def test_smoke_data_of_the_real_sets(real_data: Path, tmp_path: Path) -> None:
    kitti = smoke_data("kitti", "merged", root=real_data, out=tmp_path, progress=Silence())
    assert (kitti.folder.name, kitti.train_images, kitti.val_images) == ("kitti_merged", 25, 8)
    traffic = smoke_data("coco_traffic", "ignored", root=real_data, out=tmp_path, progress=Silence())
    content = read_json(traffic.folder / "annotations/instances_val.json")
    assert len(content["categories"]) == 13
    assert "coco_mini" in traffic.notes[0]
