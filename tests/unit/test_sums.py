"""A bit that changed in a run's student, or in what describes or names it, is never taken for what was written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from detdistill.errors import ConfigError
from detdistill.store.best import Best, chosen_as, name_best, write_candidate
from detdistill.store.checkpoints import DamagedCheckpoint, Snapshot, read_record, write_checkpoint
from detdistill.store.layout import BEST, CHECKPOINTS, COUNTERS, DESCRIPTION, LATEST, SUMS, WEIGHTS
from detdistill.store.students import load_detector, save_detector
from detdistill.store.sums import is_whole, sealed
from scenes_in_memory import tiny_student

STEP = "step_0000002"


def save(place: Path) -> None:
    save_detector(tiny_student("fcos"), place, image={"short_side": 32, "long_side": 48})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint, and its best student."""
    folder = tmp_path_factory.mktemp("run")
    counters = Snapshot(2, 1.0, {"train": {"lr": 0.1}}, {}, {"raw": torch.zeros(2)})
    write_checkpoint(folder, counters, save_student=save, keep=2)
    write_candidate(folder, 2, save)
    name_best(folder, Best(2, "AP", 1.0, 1), needed=())
    return folder


def flipped(path: Path, place: int) -> Callable[[], object]:
    """Flips the lowest bit of one byte; returns what undoes it."""
    before = path.read_bytes()
    changed = bytearray(before)
    changed[place] ^= 1
    path.write_bytes(changed)
    return lambda: path.write_bytes(before)


@pytest.mark.parametrize(
    ("place", "file", "where"),
    [
        (BEST, f"{STEP}/{WEIGHTS}", -3),
        (BEST, f"{STEP}/{DESCRIPTION}", 200),
        (BEST, f"{STEP}/{SUMS}", 40),
        (BEST, LATEST, 25),
        (CHECKPOINTS, f"{STEP}/{WEIGHTS}", -3),
        (CHECKPOINTS, f"{STEP}/{DESCRIPTION}", 200),
        (CHECKPOINTS, f"{STEP}/{COUNTERS}", 100),
        (CHECKPOINTS, LATEST, 25),
    ],
)
def test_a_flipped_bit_is_refused(run: Path, place: str, file: str, where: int) -> None:
    source = run if place == BEST else run / CHECKPOINTS
    assert load_detector(source).class_names
    undo = flipped(run / place / file, where)
    try:
        with pytest.raises(ConfigError, match=rf"{re.escape(str(run / place))}.* must .*, got .*\."):
            load_detector(source)
    finally:
        undo()


def test_what_else_is_read_of_a_run_is_refused_or_unsaid(run: Path) -> None:
    assert chosen_as(run) == Best(2, "AP", 1.0, 1)
    undo = flipped(run / BEST / LATEST, 60)
    assert chosen_as(run) is None
    undo()
    record = read_record(run / CHECKPOINTS)
    assert record is not None
    assert record.identity == {"train": {"lr": 0.1}}
    path = run / CHECKPOINTS / STEP / COUNTERS
    text = path.read_text()
    path.write_text(text.replace('"lr": 0.1', '"lr": 0.3'))
    with pytest.raises(DamagedCheckpoint, match=r"must be a whole checkpoint, got a changed training\.json"):
        read_record(run / CHECKPOINTS)
    path.write_text(text)


def test_a_student_that_was_moved_alone_is_taken(run: Path, tmp_path: Path) -> None:
    for name in (WEIGHTS, DESCRIPTION):
        (tmp_path / name).write_bytes((run / CHECKPOINTS / STEP / name).read_bytes())
    assert load_detector(tmp_path).class_names


def test_a_file_that_is_gone_is_told(run: Path, tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).write_bytes((run / CHECKPOINTS / STEP / WEIGHTS).read_bytes())
    (tmp_path / SUMS).write_text(json.dumps(sealed({"sha256": {WEIGHTS: "0", DESCRIPTION: "0"}})))
    with pytest.raises(ConfigError, match=r"must hold every file that .*sums\.json names, got: .* Copy it anew\."):
        load_detector(tmp_path)


def test_seals_of_an_earlier_version_are_not_asked_for() -> None:
    assert is_whole({"a": 1})
    assert is_whole(sealed({"a": [1, 2.5, "x"]}))
    assert not is_whole(sealed({"a": 1}) | {"a": 2})
