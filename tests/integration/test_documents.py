"""The README's examples, for fewer steps, and the example scripts run as they stand."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from detdistill import build_detector, load_detector, save_detector
from detdistill.cli import main
from detdistill.detectors import own_code
from detdistill.scenes import SCENE_CLASSES, make_scenes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with scenes and a teacher, as the demo would leave them."""
    make_scenes(tmp_path / "runs/demo/scenes", train=8, val=2, seed=0)
    teacher = build_detector("fcos/small", SCENE_CLASSES)
    save_detector(teacher, tmp_path / "runs/demo/teacher", image={"short_side": 96, "long_side": 160})
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_readme_trains_and_saves_a_plain_student(here: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    run, loop = (re.sub(r"steps=\d+", "steps=2", block) for block in blocks)
    names: dict[str, Any] = {}
    exec(compile(run, "README.md", "exec"), names)
    assert names["outcome"].steps == 2
    exec(compile(loop, "README.md", "exec"), names)
    assert torch.isfinite(names["report"].total)
    student = names["student"]
    saved = load_detector("runs/plain").detector
    for name, tensor in student.state_dict().items():
        assert torch.equal(saved.state_dict()[name], tensor), name
    untrained = build_detector("fcos/tiny", student.spec.class_names)
    assert any(not torch.equal(a, b) for a, b in zip(untrained.parameters(), student.parameters(), strict=True))


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_plain_loop_example_learns(here: Path) -> None:
    losses = script("plain_loop").distil(
        here / "runs/demo/teacher", here / "runs/demo/scenes", here / "runs/mine", steps=6
    )
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    assert (here / "runs/mine/student.safetensors").is_file()


@pytest.mark.slow
def test_the_guide_to_a_detector_of_ones_own(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(own_code, "_trusted", set())
    guide = (ROOT / "docs" / "own_detector.md").read_text(encoding="utf-8")
    shutil.copy(ROOT / "examples" / "own_detector.py", here)
    Path("my_data").symlink_to("runs/demo/scenes")
    shutil.copytree("runs/demo/teacher", "runs/teacher")
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", guide, flags=re.DOTALL):
        Path(name).write_text(code, encoding="utf-8")
    short = [
        "train.steps=2",
        "train.batch_size=2",
        "train.threads=1",
        "data.image.short_side=48",
        "data.image.long_side=80",
    ]
    for line in re.findall(r"^detdistill (.*)$", guide, flags=re.MULTILINE):
        words = shlex.split(line)
        assert main([words[0], *(short if words[0] in {"train", "distill"} else []), *words[1:]]) == 0, (
            capsys.readouterr().err
        )
    told = capsys.readouterr()
    assert "yolo_like:yolo: Yolo shows maps of stride 8 (16 channels), 16 (32 channels)" in told.err + told.out
    exec(compile(Path("look.py").read_text(encoding="utf-8"), "look.py", "exec"), {})
    assert "nothing is wrong with it" in capsys.readouterr().out


@pytest.mark.slow
def test_the_commands_about_teachers_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of docs/teachers.md, for two steps, on scenes whose classes have the names of the page."""
    make_scenes(tmp_path / "my_data", train=6, val=2, seed=0)
    for split in ("train", "val"):
        file = tmp_path / f"my_data/{split}.json"
        content = json.loads(file.read_text())
        for one, name in zip(content["categories"], ("vehicle", "bus", "pedestrian", "cyclist", "light"), strict=True):
            one["name"] = name
        file.write_text(json.dumps(content))
    image = {"short_side": 96, "long_side": 160}
    every = ("vehicle", "bus", "pedestrian", "cyclist", "light")
    for name, classes in (
        ("teacher", ("bus", "car", "truck", "person", "dog")),
        ("vehicles", every[:2]),
        ("people", every[2:]),
        ("middle", every),
        ("large", every),
    ):
        save_detector(build_detector("fcos/small", classes), tmp_path / "runs" / name, image=image)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/teachers.md").read_text(encoding="utf-8")
    commands = [one for one in re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL) if one.startswith("detdistill")]
    assert len(commands) == 3
    for command in commands:
        words = shlex.split(command.replace("\\\n", " "))[1:]
        assert main([*words, "--steps", "2", "train.batch_size=2", "train.device=cpu", "train.threads=1"]) == 0, command
