"""What was measured of exported files stands on the pages as it is in the results, and holds what is promised."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from detdistill.detectors.hf.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def study() -> Any:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    found = import_module("export_study")
    sys.path.remove(str(ROOT / "benchmarks"))
    return found


@pytest.fixture(scope="module")
def rows(study: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(study.RESULTS.read_text())["rows"]
    return found


def test_the_tables_are_the_results(study: Any, rows: list[dict[str, Any]]) -> None:
    page = (ROOT / "docs/export.md").read_text(encoding="utf-8")
    _, _, rest = page.partition(study.BEGIN)
    assert rest.partition(study.END)[0].strip().splitlines() == study.overview(rows)
    assert study.TABLE.read_text(encoding="utf-8").splitlines()[2:] == study.whole(rows)


def test_every_family_finds_what_pytorch_finds(study: Any, rows: list[dict[str, Any]]) -> None:
    whole = {(row["model"], row["form"]): row for row in rows if row.get("bits") == 32}
    for row in whole.values():
        assert abs(row["ap_lost"]) <= 0.1
        assert row["agreement"]["box"] <= 0.05
        assert row["agreement"]["matched"] > 0
        if "at_once" in row:
            assert (row["at_once"]["images"], row["at_once"]["box"] <= 0.05) == (4, True)
    four = {key for key, row in whole.items() if "at_once" in row}
    assert four >= {(model, "ONNX") for model in study.MODELS}
    assert four >= {(model, "ONNX, nms inside") for model in study.DENSE}
    assert {row["model"] for row in rows if row.get("bits") == 8} == {*study.MODELS}
    assert study.MODELS[len(study.DENSE) :] == tuple(f"hf:{name}" for name in PRESETS if name.endswith("_tiny"))


def test_what_is_refused_is_told_once(study: Any) -> None:
    same = {"box": 2e-5, "matched": 9, "one_alone": 0, "other_alone": 0}
    sides = {"pytorch": {"AP": 1.0}, "exported": {"AP": 0.96}}
    of_one = {"bits": 32, "size": None, "agreement": same, "at_once": same | {"one_alone": 1, "images": 4}}
    rows = [
        {"model": "a/b", "form": "ONNX", **of_one},
        {"model": "a/b", "form": "ONNX, 8 bits", **of_one, **sides, "bits": 8, "size": [96, 160]},
        {"model": "a/b", "form": "OpenVINO", "refused": "First.", "refused_in_one_size": "Never."},
        {"model": "a/b", "form": "ExecuTorch", "refused": "Never."},
    ]
    assert study.overview(rows) == [
        "|  | ONNX | ONNX, 8 bits | OpenVINO | ExecuTorch |",
        "| --- | --- | --- | --- | --- |",
        "| `a/b` | 2e-05 px, 1 of 18 apart | 1.00 → 0.96, `--size` | refused | refused |",
        "",
        "Refused, as it is said:",
        "",
        "- Never.",
    ]
