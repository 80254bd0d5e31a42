"""Files that are written once: the first content stays, with or without hard links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from detdistill.files import write_once


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
