"""The seed that divides a data set without lists, from the command line to the lists that are written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from detdistill.cli import main
from detdistill.data.listing import split_by_seed
from detdistill.errors import ConfigError
from detdistill.files import read_json
from detdistill.jobs.data import convert_data_job
from detdistill.scenes import make_scenes

NAMES = [f"{number:06d}" for number in range(6)]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "drawn"
    make_scenes(folder, train=4, val=2, seed=0, kitti=True)
    return folder


@pytest.fixture
def unlisted(drawn: Path, tmp_path: Path) -> Path:
    """KITTI without lists."""
    shutil.copytree(drawn / "kitti", tmp_path / "kitti")
    shutil.rmtree(tmp_path / "kitti/ImageSets")
    return tmp_path / "kitti"


def listed(folder: Path) -> tuple[list[str], list[str]]:
    train, val = ((folder / f"{name}.txt").read_text().split() for name in ("train", "val"))
    return train, val


def test_the_seed_decides_the_division_of_kitti(unlisted: Path, tmp_path: Path) -> None:
    for seed in (None, 0, 3):
        outcome = convert_data_job(unlisted, to="kitti", out=tmp_path / f"{seed}", split_seed=seed)
        assert listed(tmp_path / f"{seed}/ImageSets") == split_by_seed(NAMES, seed=seed or 0)
        assert f"drawn by seed {seed or 0}" in outcome.sources["val"]
    assert split_by_seed(NAMES, seed=3) != split_by_seed(NAMES, seed=0)


@pytest.mark.parametrize("layout", ["Annotations", "one folder"])
def test_the_seed_decides_the_division_of_voc(unlisted: Path, layout: str, tmp_path: Path) -> None:
    voc, out = tmp_path / "voc", tmp_path / "out"
    convert_data_job(unlisted, to="voc", out=voc)
    shutil.rmtree(voc / "ImageSets")
    if layout == "one folder":
        for place in ("Annotations", "JPEGImages"):
            for path in sorted((voc / place).iterdir()):
                path.rename(voc / path.name)
            (voc / place).rmdir()
    convert_data_job(voc, to="voc", out=out, split_seed=3)
    assert listed(out / "ImageSets/Main") == split_by_seed(NAMES, seed=3)


def test_the_command_hands_the_seed_on(unlisted: Path, tmp_path: Path) -> None:
    out, record = tmp_path / "out", tmp_path / "record.json"
    line = ["data", "convert", str(unlisted), "--to", "kitti", "--out", str(out), "--split-seed", "3"]
    assert main([*line, "--json", str(record)]) == 0
    assert listed(out / "ImageSets") == split_by_seed(NAMES, seed=3)
    assert "drawn by seed 3" in read_json(record)["splits"]["train"]["read_as"]


def test_a_seed_that_decides_nothing_is_refused(drawn: Path, unlisted: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for place, text in ((drawn / "kitti", r"the list ImageSets/train\.txt"), (drawn, r"COCO: train\.json")):
        with pytest.raises(ConfigError, match=rf"must come with a data set that has no splits.*{text}.*Leave it out"):
            convert_data_job(place, to="voc", out=out, split_seed=0)
    with pytest.raises(ConfigError, match=r"--split-seed must be a whole number from 0, got -1\. Leave it out"):
        convert_data_job(unlisted, to="voc", out=out, split_seed=-1)
    assert not out.exists()
