"""Every public function's example runs as its documentation has it, and so do the stages of a run."""

from __future__ import annotations

import doctest
import inspect
import shutil
from pathlib import Path
from types import FunctionType

import pytest

import detdistill
from detdistill.scenes import SCENE_CLASSES, make_scenes

IMAGE = {"short_side": 96, "long_side": 160}
RUNS = ("teacher", "alone", "distilled")
# Their examples are packages of their own: tests/integration/test_plugin.py.
ELSEWHERE = {"register_method", "register_detector", "register_format"}
# They train several students, or wait for torch's exporter.
LONG = {"prove", "tune", "export_detector"}
OURS = {
    name: value
    for name in detdistill.__all__
    if isinstance(value := getattr(detdistill, name), FunctionType) and name not in ELSEWHERE
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, a photo, and untrained detectors in the place of runs."""
    folder = tmp_path_factory.mktemp("examples")
    make_scenes(folder / "my_data", train=4, val=2, seed=0)
    (folder / "photos").mkdir()
    shutil.copy(min((folder / "my_data/images").rglob("*.png")), folder / "photos/street.png")
    detector = detdistill.build_detector("fcos/tiny", SCENE_CLASSES, seed=0)
    for name in RUNS:
        detdistill.save_detector(detector, folder / "runs" / name, image=IMAGE)
    words = {"student": "fcos/tiny", "teacher": folder / "runs/teacher", "data": folder / "my_data", "method": "hint"}
    run = detdistill.run_config(purpose="distill", out=folder / "runs/distilled", **words)
    (run.out / "config.yaml").write_text(run.yaml())
    return folder


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in OURS])
def test_the_example_of_a_public_function(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, name: str
) -> None:
    text = inspect.getdoc(OURS[name]) or ""
    (tmp_path / "runs").mkdir()
    for shared in ("my_data", "photos", *(f"runs/{run}" for run in RUNS if f'out="runs/{run}"' not in text)):
        (tmp_path / shared).symlink_to(home / shared)
    monkeypatch.chdir(tmp_path)
    example = doctest.DocTestParser().get_doctest(text, {"detdistill": detdistill}, name, None, None)
    assert example.examples, f"{name} has no example"
    said: list[str] = []
    found = doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert found.failed == 0, "".join(said)
