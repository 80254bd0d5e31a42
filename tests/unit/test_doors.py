"""A text names a detector in one of several ways, which every command knows from one table."""

from __future__ import annotations

from pathlib import Path

import pytest

from detdistill import load_detector
from detdistill.errors import ConfigError
from detdistill.jobs import doors
from detdistill.jobs.doors import DOORS, RUN, TORCHVISION, Door, door_of, kinds_of_source
from detdistill.jobs.paths import PATHS_FROM, read_from


def test_every_text_has_one_way() -> None:
    assert door_of("torchvision:fcos_resnet50_fpn") is TORCHVISION
    assert door_of("runs/teacher") is RUN
    assert DOORS[-1] is RUN


def test_a_new_row_is_opened_and_named_in_messages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(text: str, _: frozenset[str]) -> object:
        raise ConfigError(f"opened {text}")

    odd = Door("odd:FILE", lambda text: text.startswith("odd:"), open=refuse)  # type: ignore[arg-type]
    monkeypatch.setattr(doors, "DOORS", (TORCHVISION, odd, RUN))
    assert kinds_of_source() == "a run folder, a checkpoint, torchvision:NAME or odd:FILE"
    with pytest.raises(ConfigError, match=r"^opened odd:x$"):
        load_detector("odd:x")
    with pytest.raises(ConfigError, match=r"none must be a run folder, .* or odd:FILE, got nothing there\. Check"):
        load_detector(tmp_path / "none")


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("torchvision:fcos_resnet50_fpn=w.pth", "torchvision:fcos_resnet50_fpn=runs/w.pth"),
        ("torchvision:fcos_resnet50_fpn=~/w.pth", "torchvision:fcos_resnet50_fpn=~/w.pth"),
        ("torchvision:fcos_resnet50_fpn", "torchvision:fcos_resnet50_fpn"),
        ("teacher", "runs/teacher"),
        ("~/teacher", "~/teacher"),
    ],
)
def test_a_files_own_paths_are_counted_from_it(source: str, seen: str) -> None:
    read = read_from({PATHS_FROM: "file", "teacher": {"source": source}}, Path("runs/config.yaml"))
    assert read == {"teacher": {"source": seen}}
