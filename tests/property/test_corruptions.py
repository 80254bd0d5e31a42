"""Thousands of damaged data sets: each is read with its flaws told, or refused in a sentence; nothing else happens."""

from __future__ import annotations

import contextlib
import random
import shutil
import warnings
from collections import Counter
from pathlib import Path
from typing import Literal

import pytest
from benchmarks.attack.mutations import DAMAGES

from detdistill.data.sources import open_split, present_splits
from detdistill.data.summary import summarise
from detdistill.errors import DataError, DistillError
from detdistill.jobs.data import convert_data_job
from folders_by_hand import MAKERS

SUFFIXES = (".json", ".xml", ".txt", ".yaml", ".png", ".data", ".names")
WRITTEN = ("coco", "voc", "yolo", "kitti")


def damage(folder: Path, draw: random.Random) -> dict[Path, bytes | None]:
    """Damages one to three files of a folder, or removes one.

    Returns:
        What the files held, to put it back.
    """
    before: dict[Path, bytes | None] = {}
    files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    # An image is damaged now and then, as reading text is what is tested here.
    chosen = [path for path in files if path.suffix != ".png" or draw.random() < 0.1]
    for path in draw.sample(chosen, min(len(chosen), draw.choice((1, 1, 2, 3)))):
        data = path.read_bytes()
        before[path] = data
        if draw.random() < 0.03:
            path.unlink()
        elif data:
            path.write_bytes(draw.choice(DAMAGES)(data, draw))
    return before


def read(folder: Path, *, check_images: bool) -> str:
    """Reads a folder as training and as `data check` does, and says how that ended."""
    try:
        names = None
        found = 0
        for split in present_splits(folder):
            annotations, problems = open_split(folder, split, class_names=names, check_images=check_images)
            names = annotations.class_names
            found += len(problems)
            shown = [
                *problems.summary(),
                *(f"{name} {value}" for name, value in summarise(annotations, problems).rows()),
            ]
            assert "\n".join(shown).encode()
            assert (annotations.boxes[:, 2:] > annotations.boxes[:, :2]).all()
            assert all(
                annotations.path(index).resolve().is_relative_to(folder.resolve()) for index in range(len(annotations))
            )
    except DistillError as error:
        message = str(error)
        assert " must " in message, message
        assert ", got" in message, message
        assert message.endswith("."), message
        assert len(message.encode()) < 4000, message
        assert str(folder) in message, message
        return "refused"
    return "told" if found else "unseen"


def rewrite(folder: Path, out: Path, *, to: Literal["coco", "voc", "yolo", "kitti"]) -> None:
    """Writes a damaged folder in a format; what is written is without a flaw."""
    try:
        convert_data_job(folder, to=to, out=out)
    except DistillError:
        assert not out.exists()
        return
    for split in present_splits(out):
        with contextlib.suppress(DataError):  # a split of which no image was left
            # KITTI's own label files are copied, flaws and all.
            assert open_split(out, split)[1].summary() == [] or (folder / "training").is_dir()
    shutil.rmtree(out)


def damage_and_read(folder: Path, *, seeds: range) -> Counter[str]:
    """Ends of so many readings over all formats in turn; the first that ends otherwise fails with its seed."""
    ends: Counter[str] = Counter()
    for name, make in MAKERS.items():
        make(folder / name)
    for seed in seeds:
        draw = random.Random(seed)
        name = tuple(MAKERS)[seed % len(MAKERS)]
        before = damage(folder / name, draw)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                ends[read(folder / name, check_images=seed % 3 == 0)] += 1
                if seed % 40 < len(MAKERS):
                    rewrite(folder / name, folder / "out", to=WRITTEN[seed // 40 % len(WRITTEN)])
            except Exception as error:
                kept = folder.parent / f"seed{seed}"
                shutil.copytree(folder / name, kept)
                raise AssertionError(f"corruption {seed} of {name}, kept in {kept}: {error!r}") from error
        for path, data in before.items():
            path.write_bytes(data)
    return ends


def test_damaged_folders(tmp_path):
    count = 160
    ends = damage_and_read(tmp_path / "data", seeds=range(count))
    assert ends.total() == count
    # Damage of every outcome is among them.
    assert min(ends["refused"], ends["told"], ends["unseen"]) > count / 10


@pytest.mark.slow
def test_more_damaged_folders(tmp_path):
    ends = damage_and_read(tmp_path / "data", seeds=range(1000, 1640))
    assert ends.total() == 640
