"""The commands `reproduce` and `pictures` hand what was typed to their jobs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from unittest.mock import create_autospec

import pytest

from detdistill.cli import main
from detdistill.jobs import pictures
from detdistill.papers import reproduce


class Found:
    def table(self) -> list[str]:
        return ["AP 12.5"]

    def as_dict(self) -> Mapping[str, object]:
        return {"AP": 12.5}


def test_reproduce_passes_on_what_was_typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = create_autospec(reproduce.reproduce_job, return_value=Found())
    monkeypatch.setattr(reproduce, "reproduce_job", job)
    assert main(["reproduce", "aid"]) == 0
    assert capsys.readouterr().out == "AP 12.5\n"
    plain = {"row": None, "data": None, "scale": "smoke", "out": None, "plan_only": False}
    assert job.call_args.args == ("aid",)
    assert {key: job.call_args.kwargs[key] for key in plain} == plain
    assert main(["reproduce", "ikd", "--row", "fcos-ikd", "--data", "d", "--scale", "full", "--plan", "--out=o"]) == 0
    given = {"row": "fcos-ikd", "data": Path("d"), "scale": "full", "out": Path("o"), "plan_only": True}
    assert {key: job.call_args.kwargs[key] for key in given} == given


def test_an_unknown_paper_or_scale_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "aids"]) == 2
    assert "aids" in capsys.readouterr().err
    assert main(["reproduce", "aid", "--scale", "tiny"]) == 2
    assert "tiny" in capsys.readouterr().err


def test_pictures_passes_on_what_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    job = create_autospec(pictures.pictures_job, return_value=Found())
    monkeypatch.setattr(pictures, "pictures_job", job)
    line = "pictures --alone a --distilled b --teacher torchvision:x --data d --out p.png --seed 3 --images 4"
    assert main(line.split()) == 0
    given = {"alone": Path("a"), "distilled": Path("b"), "teacher": "torchvision:x", "data": Path("d")}
    given |= {"out": Path("p.png"), "seed": 3, "images": 4, "score": 0.4}
    assert {key: job.call_args.kwargs[key] for key in given} == given
