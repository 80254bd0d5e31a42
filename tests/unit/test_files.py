"""Files that are written once: the first content stays, with or without hard links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from detdistill.errors import ConfigError
from detdistill.files import atomic_folder, read_json, write_bytes, write_once


def refuse(*_paths: object) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_the_first_content_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "new" / "file"
    assert write_once(path, b"first") == b"first"
    assert write_once(path, b"second") == b"first"
    assert path.read_bytes() == b"first"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_files_can_be_read_by_whom_the_umask_allows(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "a", b"1")
        with atomic_folder(tmp_path / "b") as folder:
            write_bytes(folder / "c", b"2")
    finally:
        os.umask(before)
    for name in ("a", "b/c"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~mask


def test_json_that_is_no_file_or_too_deep_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="pipe must be a regular file, got a pipe, device or socket"):
        read_json(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="must be a regular file, got a folder"):
        read_json(tmp_path)
    for text in ("[" * 100_000, "9" * 5000):
        (tmp_path / "deep.json").write_text(text)
        with pytest.raises(ConfigError, match=r"deep\.json must be JSON, got text that is none"):
            read_json(tmp_path / "deep.json")
