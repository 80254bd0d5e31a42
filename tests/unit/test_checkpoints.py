from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from detdistill.errors import ConfigError, DataError, DistillError
from detdistill.store.checkpoints import (
    DamagedCheckpoint,
    Snapshot,
    find_checkpoint,
    read_checkpoint,
    remove_leftovers,
    require_same,
    write_checkpoint,
)
from detdistill.store.layout import CHECKPOINTS, LATEST, WEIGHTS, RunFolder
from thorough import THOROUGH


def save_student(folder: Path) -> None:
    save_file({"weight": torch.ones(3)}, folder / WEIGHTS)


def write(folder: Path, step: int, *, keep: int = 2) -> Path:
    snapshot = Snapshot(
        step=step,
        seconds=1.5,
        identity={"train": {"lr": 0.1}},
        counters={"ema_updates": None},
        tensors={"raw": torch.full((2,), float(step)), "scalar": torch.tensor(4.0)},
    )
    return write_checkpoint(folder, snapshot, save_student=save_student, keep=keep)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in (folder / CHECKPOINTS).iterdir())


def test_nothing_there(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path) == (None, ())
    assert RunFolder(tmp_path).steps() == []
    assert RunFolder(tmp_path).latest() is None
    remove_leftovers(tmp_path)


def test_no_tensors_at_all(tmp_path: Path) -> None:
    snapshot = Snapshot(step=0, seconds=0.0, identity={}, counters={}, tensors={})
    path = write_checkpoint(tmp_path, snapshot, save_student=save_student, keep=1)
    assert read_checkpoint(path).snapshot.tensors == {}


def test_round_trip(tmp_path: Path) -> None:
    path = write(tmp_path, 600)
    assert path == tmp_path / CHECKPOINTS / "step_0000600"
    assert {file.name for file in path.iterdir()} == {WEIGHTS, "training.safetensors", "training.json"}
    assert json.loads((tmp_path / CHECKPOINTS / LATEST).read_text())["checkpoint"] == "step_0000600"
    found, warnings = find_checkpoint(tmp_path)
    assert found is not None
    assert warnings == ()
    assert (found.path, found.snapshot.step, found.snapshot.seconds) == (path, 600, 1.5)
    assert found.snapshot.identity == {"train": {"lr": 0.1}}
    assert torch.equal(found.snapshot.tensors["raw"], torch.full((2,), 600.0))
    assert torch.equal(found.student["weight"], torch.ones(3))


def test_older_ones_go_and_so_do_later_ones_of_before_a_resume(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        write(tmp_path, step)
    assert names(tmp_path) == [LATEST, "step_0000010", "step_0000015"]
    write(tmp_path, 12)
    assert names(tmp_path) == [LATEST, "step_0000010", "step_0000012"]


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "sidecar", "json", "no keys"])
def test_a_damaged_latest_falls_back_with_a_warning(tmp_path: Path, damage: str) -> None:
    write(tmp_path, 5)
    path = write(tmp_path, 10)
    if damage == "cut":
        (path / WEIGHTS).write_bytes((path / WEIGHTS).read_bytes()[:-4])
    elif damage == "changed":
        content = bytearray((path / "training.safetensors").read_bytes())
        content[-1] ^= 1
        (path / "training.safetensors").write_bytes(content)
    elif damage == "missing":
        (path / WEIGHTS).unlink()
    elif damage == "sidecar":
        (path / "training.safetensors").write_bytes(b"")
    else:
        (path / "training.json").write_text("{" if damage == "json" else "{}")
    with pytest.raises(DamagedCheckpoint, match=r"step_0000010 must be a whole checkpoint, got .* earlier one\."):
        read_checkpoint(path)
    found, warnings = find_checkpoint(tmp_path)
    assert found is not None
    assert found.snapshot.step == 5
    assert len(warnings) == 1
    assert "step_0000010 must be a whole checkpoint" in warnings[0]


def test_only_damaged_ones_are_refused(tmp_path: Path) -> None:
    (write(tmp_path, 5) / WEIGHTS).unlink()
    with pytest.raises(DataError, match=r"must hold a whole checkpoint, got only damaged ones .* another folder\."):
        find_checkpoint(tmp_path)


def test_the_named_one_counts_and_not_a_later_one(tmp_path: Path) -> None:
    write(tmp_path, 5)
    write(tmp_path, 10)
    (tmp_path / CHECKPOINTS / LATEST).write_text('{"checkpoint": "step_0000005"}')
    found, _ = find_checkpoint(tmp_path)
    assert found is not None
    assert found.snapshot.step == 5


@pytest.mark.parametrize("content", [None, "{", "[]", '{"checkpoint": "best"}'])
def test_without_a_readable_pointer_the_newest_whole_one_counts(tmp_path: Path, content: str | None) -> None:
    write(tmp_path, 5)
    write(tmp_path, 10)
    pointer = tmp_path / CHECKPOINTS / LATEST
    if content is None:
        pointer.unlink()
    else:
        pointer.write_text(content)
    found, warnings = find_checkpoint(tmp_path)
    assert found is not None
    assert found.snapshot.step == 10
    assert len(warnings) == (content is not None)


def test_a_pointer_to_a_checkpoint_that_is_gone(tmp_path: Path) -> None:
    for step in (5, 10):
        write(tmp_path, step)
    for gone in (20, 7):
        (tmp_path / CHECKPOINTS / LATEST).write_text(f'{{"checkpoint": "step_{gone:07d}"}}')
        found, warnings = find_checkpoint(tmp_path)
        assert found is not None
        assert found.snapshot.step == 10
        assert len(warnings) == 1
        assert warnings[0].endswith("says, is gone.")


def test_no_flipped_bit_of_the_counters_is_accepted(tmp_path: Path) -> None:
    path = write(tmp_path, 5)
    counters = path / "training.json"
    content, before = counters.read_bytes(), read_checkpoint(path).snapshot
    # In steps of 7 every place of a byte is met.
    for bit in range(0, 8 * len(content), 1 if THOROUGH else 7):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        counters.write_bytes(flipped)
        try:
            after = read_checkpoint(path).snapshot
        except DamagedCheckpoint:
            continue
        assert (after.step, after.seconds, after.identity, after.counters) == (
            before.step,
            before.seconds,
            before.identity,
            before.counters,
        )
    counters.write_bytes(content)
    assert read_checkpoint(path).snapshot.step == 5


def test_checksums_name_files_of_the_checkpoint_alone(tmp_path: Path) -> None:
    path = write(tmp_path, 5)
    os.mkfifo(tmp_path / "pipe")
    for name in ("../../pipe", str(tmp_path / "pipe")):
        content = json.loads((path / "training.json").read_text())
        content |= {"format": 1, "sha256": {name: "0"}}
        content.pop("checksum", None)
        (path / "training.json").write_text(json.dumps(content))
        with pytest.raises(DamagedCheckpoint):
            read_checkpoint(path)


def test_counters_of_the_first_version_are_still_read(tmp_path: Path) -> None:
    path = write(tmp_path, 5)
    content = json.loads((path / "training.json").read_text()) | {"format": 1}
    del content["checksum"]
    (path / "training.json").write_text(json.dumps(content))
    assert read_checkpoint(path).snapshot.step == 5


def test_leftovers_are_removed_and_nothing_of_anyone_else(tmp_path: Path) -> None:
    write(tmp_path, 5)
    mine = ("anything.partial", "metrics.csv.77.partial", "notes.0123456789ab.partial.txt")
    for name in mine:
        (tmp_path / name).write_text("mine")
    (tmp_path / CHECKPOINTS / "step_0000010.0123456789ab.partial").mkdir()
    (tmp_path / CHECKPOINTS / "step_0000010.0123456789ab.partial" / WEIGHTS).write_text("half")
    (tmp_path / CHECKPOINTS / "latest.json.0123456789ab.partial").write_text("half")
    (tmp_path / "metrics.csv.0123456789ab.partial").write_text("half")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [LATEST, "step_0000005"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == sorted(mine)


def test_a_differing_key_is_named(tmp_path: Path) -> None:
    stored = {"train": {"lr": 0.1, "steps": 5}, "data": "a"}
    require_same(stored, json.loads(json.dumps(stored)), where=tmp_path)
    with pytest.raises(ConfigError, match=r"train\.lr must be 0\.1 to resume from .*, got 0\.2\. Set it back"):
        require_same(stored, {"train": {"lr": 0.2, "steps": 5}, "data": "a"}, where=tmp_path)
    with pytest.raises(ConfigError, match=r"teachers\.choose must be .* Give --teacher, --then, teacher\.shares and"):
        require_same({"teachers": {"choose": "mean"}}, {"teachers": {"choose": "lowest"}}, where=tmp_path)
    with pytest.raises(ConfigError, match=r"data must be 'a' to resume from .*, got nothing\."):
        require_same(stored, {"train": {"lr": 0.1, "steps": 5}}, where=tmp_path)


def test_a_disk_that_refuses(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINTS).write_text("a file where the folder should be")
    with pytest.raises(DistillError, match=r"step_0000005 must be written, got: File exists .*Check the path, then"):
        write(tmp_path, 5)


def test_a_student_that_was_not_written(tmp_path: Path) -> None:
    snapshot = Snapshot(step=1, seconds=0.0, identity={}, counters={}, tensors={})
    with pytest.raises(ConfigError, match=r"save_student must write student\.safetensors, got no such file\."):
        write_checkpoint(tmp_path, snapshot, save_student=lambda folder: None, keep=1)
    assert names(tmp_path) == []
