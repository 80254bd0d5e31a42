from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "backbones_sweep.py"


@pytest.fixture(scope="module")
def sweep() -> ModuleType:
    spec = importlib.util.spec_from_file_location("backbones_sweep", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("offers", "strides"),
    [("2 4 8 16 32", (8, 16, 32)), ("16 32 64", (16, 32, 64)), ("4 8 16", (8, 16)), ("12 17", (8, 16, 32))],
)
def test_strides_are_chosen_from_what_a_model_has(sweep: ModuleType, offers: str, strides: tuple[int, ...]) -> None:
    assert sweep.chosen(offers) == strides


def test_a_sweep_goes_on_where_it_was(
    sweep: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sweep.json"
    words = ["sweep", "--json", str(file), "--only", "test_resnet", "test_coatnet", "crossvit_tiny", "vit_tiny_r_s16"]
    monkeypatch.setattr(sys, "argv", [*words, "--parameters", "400000"])
    sweep.main()
    content = json.loads(file.read_text())
    outcomes = {name: one["outcome"] for name, one in content["models"].items()}
    assert outcomes == {"crossvit_tiny_240": "refused", "test_coatnet": "shapes", "test_resnet": "runs"}
    assert content["models"]["crossvit_tiny_240"]["says"].endswith("Take another backbone.")
    assert (content["pyramids"], content["runs"], content["timm"] > "") == (3, 1, True)
    assert "vit_tiny_r_s16_p8_224" in content["one_stride"].split()
    monkeypatch.setattr(sweep, "run", lambda _name, _strides: None)
    monkeypatch.setattr(sys, "argv", [*words, "--again", "shapes"])
    sweep.main()
    assert json.loads(file.read_text())["runs"] == 2
    assert "'runs': 2" in capsys.readouterr().err
