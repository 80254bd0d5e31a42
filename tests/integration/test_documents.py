"""The README's example and the example scripts run as they stand."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from detdistill import Batch, Targets, build_detector, load_detector, parse_detector, save_detector
from detdistill.scenes import make_scenes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the teacher that the demo would leave."""
    teacher = build_detector(
        parse_detector("fcos/small"), ("car", "truck", "pedestrian", "cyclist", "traffic light"), seed=0
    )
    save_detector(teacher, tmp_path / "runs/demo/teacher", image={"short_side": 96, "long_side": 160})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def batch(seed: int) -> Batch:
    target = Targets(
        boxes=torch.tensor([[20.0, 20.0, 60.0, 70.0]]),
        labels=torch.tensor([1]),
        ignored=torch.tensor([False]),
    )
    return Batch(
        images=torch.rand(2, 3, 96, 160, generator=torch.Generator().manual_seed(seed)),
        sizes=((96, 160), (96, 160)),
        stored_sizes=((96, 160), (96, 160)),
        targets=(target, target),
        image_ids=(2 * seed, 2 * seed + 1),
        seeds=(2 * seed, 2 * seed + 1),
    )


def test_the_readme_example_trains_and_saves_a_plain_student(here: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 1
    names: dict[str, object] = {"batches": [batch(0), batch(1)]}
    exec(compile(blocks[0], "README.md", "exec"), names)
    assert torch.isfinite(names["report"].total)
    saved = load_detector(here / "runs/mine").detector
    student = names["student"]
    for name, tensor in student.state_dict().items():
        assert torch.equal(saved.state_dict()[name], tensor), name
    untrained = build_detector(parse_detector("fcos/tiny"), student.spec.class_names, seed=0)
    assert any(not torch.equal(a, b) for a, b in zip(untrained.parameters(), student.parameters(), strict=True))


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_plain_loop_example_learns(here: Path) -> None:
    make_scenes(here / "scenes", train=8, val=1, seed=0)
    losses = script("plain_loop").distil(here / "runs/demo/teacher", here / "scenes", here / "runs/mine", steps=6)
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    assert (here / "runs/mine/student.safetensors").is_file()
