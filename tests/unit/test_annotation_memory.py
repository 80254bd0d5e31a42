from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_memory_benchmark_at_a_small_size(tmp_path):
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "annotation_memory.py"
    out = tmp_path / "out.json"
    command = [sys.executable, str(script), "--images", "200", "--boxes", "1500", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert (result["images"], result["boxes"], result["problems"]) == (200, 1500, 0)
    assert result["within_limits"] == {"growth_mib": True, "peak_mib": True, "workers_private_mib": True}
    assert 0 < result["arrays_mib"] < 1
