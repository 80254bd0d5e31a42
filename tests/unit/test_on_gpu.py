"""The script for a GPU, exercised at a tiny size on whatever is here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "on_gpu.py"


@pytest.mark.slow
def test_every_method_is_timed_beside_its_floor(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    tiny = ["--teacher", "retinanet/tiny", "--student", "retinanet/tiny", "--size", "64x90", "--batch-size", "2"]
    few = [
        "--classes",
        "3",
        "--rounds",
        "2",
        "--budget",
        "300",
        "--without-tests",
        "--methods",
        "frs,ld,ikd(frs, attack_steps=1)",
    ]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", str(out), *tiny, *few], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(out.read_text())
    ratios = told["steps"]["step ÷ floor"]
    assert list(ratios) == ["frs", "ikd(frs, attack_steps=1)"]
    assert told["steps"]["rounds"] == 2
    assert "ld" in told["steps"]["refused"]  # RetinaNet has no distributions over boxes
    assert all(ratio["median"] > 0 for ratio in ratios.values())
    assert told["machine"]["torch"]
    assert told["memory"]
