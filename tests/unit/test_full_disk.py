"""A disk that is full, or refuses: one sentence that names the file, and everything that was there is there."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from detdistill import files
from detdistill.errors import DiskError
from detdistill.jobs import measuring
from detdistill.jobs.outcomes import RunOutcome
from full_disk import DiskFull
from run_files import contents
from tiny_training import TinyStep, checkpoint_tensors, differing, run_tiny, tiny_settings

SAYS = {
    errno.ENOSPC: ("No space left on device, ", "Make room there, then give the same command again; "),
    errno.EDQUOT: ("Disk quota exceeded, ", "Make room there, then"),
    errno.EIO: ("Input/output error.", "Check the disk, then"),
    errno.EROFS: ("Read-only file system.", "Give write access, or name another place, then"),
    errno.EACCES: ("Permission denied.", "Give write access, or name another place, then"),
}


def in_a_folder(write: Callable[[Path], object], name: str) -> Callable[[Path], object]:
    def written(path: Path) -> None:
        with files.atomic_folder(path.parent / "made") as folder:
            files.write_text(folder / "first", "first")
            write(folder / name)

    return written


def streamed(path: Path) -> None:
    with files.text_stream(path) as add:
        for number in range(5000):
            add(f"{number}\n")


WAYS: dict[str, tuple[Callable[[Path], object], str, int]] = {
    "bytes": (lambda path: files.write_bytes(path, bytes(3000)), "new", 3000),
    "text": (lambda path: files.write_text(path, "a" * 3000), "new", 3000),
    "json": (lambda path: files.write_json(path, ["a" * 3000]), "new", 3000),
    "once": (lambda path: files.write_once(path, bytes(3000)), "new", 3000),
    "append": (lambda path: files.append_bytes(path, bytes(3000)), "new", 3000),
    "folder": (in_a_folder(lambda path: files.write_bytes(path, bytes(3000)), "one"), "made/one", 3005),
    "stream": (in_a_folder(streamed, "one"), "made/one", 3005),
    "copy": (in_a_folder(lambda path: files.copy_file(Path(__file__), path), "sub/one"), "made/sub/one", 3005),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("code", SAYS, ids=errno.errorcode.get)
def test_what_the_disk_refuses_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, code: int
) -> None:
    write, name, least = WAYS[way]
    (tmp_path / "made").mkdir()
    (tmp_path / "there").write_text("before")
    before = contents(tmp_path)
    for at in range(2) if "/" in name else range(1):
        monkeypatch.setattr(files, "_write", DiskFull(at=at, code=code))
        with pytest.raises(DiskError) as refused:
            write(tmp_path / "new")
        assert {path: text for path, text in contents(tmp_path).items() if path != "new"} == before
        assert not (tmp_path / "new").exists() or (way == "append" and not (tmp_path / "new").stat().st_size)
    why, remedy = SAYS[code]
    said = str(refused.value)
    assert said.startswith(f"{tmp_path / name} must be written, which takes at least ")
    assert f", got: {why}" in said
    assert f". {remedy}" in said
    assert said.endswith("give the same command again; nothing that was there is lost.")
    assert refused.value.size >= least
    assert str(pickle.loads(pickle.dumps(refused.value.of_run()))) == said.replace("again;", "again with --resume;")


def test_a_file_that_is_replaced_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    for write in (files.write_text, lambda path, text: files.append_bytes(path, text.encode())):
        path.write_text("before")
        monkeypatch.setattr(files, "_write", DiskFull(at=0))
        with pytest.raises(DiskError):
            write(path, "a" * 1000)
        assert contents(tmp_path) == {"file": b"before"}


@pytest.mark.parametrize("step", ["fsync", "replace", "mkdir"])
def test_it_need_not_be_the_writing_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, step, refuse)
    for way, name in (("bytes", "new/file"), ("folder", "new")):
        with pytest.raises(DiskError, match=r"must be written, .*got: Input/output error\. Check the disk, then give"):
            WAYS[way][0](tmp_path / name)
    assert [path for path in tmp_path.rglob("*") if path.name != "new"] == []


def test_what_was_read_is_not_blamed_on_what_is_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.atomic_folder(tmp_path / "out"):
        (tmp_path / "missing").read_text()
    with pytest.raises(DiskError, match="out must be written"), files.atomic_folder(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")  # of a writer that has its own way, in another package
    assert not list(tmp_path.iterdir())


def test_a_folder_in_which_somebody_put_something_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    made = in_a_folder(lambda _: (tmp_path / "made" / "theirs").write_text("theirs"), "ours")
    with pytest.raises(DiskError, match=r"made must be written, got: Directory not empty.*Name a new folder"):
        made(tmp_path / "made")
    assert contents(tmp_path) == {"made/theirs": b"theirs"}


def test_an_image_that_is_linked_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "image").touch()
    (tmp_path / "image").chmod(0o440)
    with files.atomic_folder(tmp_path / "out") as partial:
        os.link(tmp_path / "image", partial / "image")
    assert (tmp_path / "image").stat().st_mode & 0o777 == 0o440


def test_a_training_goes_on_after_every_write_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny_settings(steps=4, checkpoint_every=2, log_every=1, keep_checkpoints=1)
    full = DiskFull(at=None)
    monkeypatch.setattr(files, "_write", full)
    run_tiny(tmp_path / "whole", settings)
    whole = checkpoint_tensors(tmp_path / "whole", 4)
    named = set()
    for at in range(full.writes):
        folder, failing = tmp_path / str(at), DiskFull(at=at)
        monkeypatch.setattr(files, "_write", failing)
        try:
            run_tiny(folder, settings)
            named.add("metrics.csv")
        except DiskError as refused:
            named.add(Path(refused.path).name)
        assert not list(folder.rglob("*.partial"))
        monkeypatch.setattr(files, "_write", DiskFull(at=None))
        run_tiny(folder, settings, step=TinyStep(), resume=True)
        assert not differing(checkpoint_tensors(folder, 4), whole)
    written = {"student.safetensors", "student.json", "training.safetensors", "training.json", "latest.json"}
    assert named == {*written, "metrics.csv"}


def test_a_picture_that_cannot_be_drawn_keeps_back_no_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(runs: object, out: Path, **_: object) -> None:
        raise files.refused(out, OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(measuring, "learning_curves", refuse)
    undrawn = measuring.report(tmp_path, {"steps": 4}, curves={"student": tmp_path})
    assert contents(tmp_path) == {"results.json": b'{\n  "steps": 4\n}\n'}
    assert RunOutcome(tmp_path, {}, 4, 1.0).failure is None
    failure = RunOutcome(tmp_path, {}, 4, 1.0, undrawn=undrawn).failure
    assert failure is not None
    assert failure.startswith(f"{tmp_path}/curves.png must be written, got: No space left on device, ")
    assert failure.endswith("then give the same command again with --resume; nothing that was there is lost.")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(place)], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no disk of a given size can be mounted: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    settings = tiny_settings(steps=4, checkpoint_every=2)
    filler = small_disk / "filler"
    filler.write_bytes(np.random.default_rng(0).bytes(232 << 10))
    with pytest.raises(DiskError, match=r"/run/\S+ must be written, which takes at least .* free\."):
        run_tiny(small_disk / "run", settings)
    assert not list(small_disk.rglob("*.partial"))
    filler.unlink()
    run_tiny(small_disk / "run", settings, resume=True)
    run_tiny(small_disk / "whole", settings)
    assert not differing(checkpoint_tensors(small_disk / "run", 4), checkpoint_tensors(small_disk / "whole", 4))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(DiskError, match=r"new must be written, .*Read-only file system\. Give write access"):
        files.write_text(small_disk / "new", "text")
