"""Whether a run may use a folder: what a kill leaves of a run that had made nothing yet is nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from detdistill.errors import ConfigError
from detdistill.jobs.inputs import require_free

LEFT = ("run.lock", "config.yaml.0123456789ab.partial", "unlabelled.json.ba9876543210.partial")


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("left", [LEFT[:1], LEFT[1:2], LEFT])
def test_a_run_that_was_killed_before_it_made_anything_can_begin_again(
    tmp_path: Path, left: tuple[str, ...], resume: bool
) -> None:
    for name in left:
        (tmp_path / name).write_text("paths_fr")
    require_free(tmp_path, resume=resume)


@pytest.mark.parametrize("name", ["notes.txt", "mine.partial", "config.yaml.0123456789AB.partial", "config.yaml"])
def test_anything_else_is_somebodys(tmp_path: Path, name: str) -> None:
    for own in (*LEFT, name):
        (tmp_path / own).write_text("something")
    for resume in (False, True):
        with pytest.raises(ConfigError, match=r"Choose another --out\."):
            require_free(tmp_path, resume=resume)
