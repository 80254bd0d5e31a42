"""The script of the evidence on a GPU, at a tiny size on the CPU: its order, one run after another, its table."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "evidence.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("evidence", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["evidence"] = module
    sys.path.insert(0, str(SCRIPT.parent))  # as for a script
    spec.loader.exec_module(module)
    sys.path.remove(str(SCRIPT.parent))
    return module


def test_teachers_come_first_and_every_run_has_its_own_place(script: Any) -> None:
    runs = script.planned(list(script.SETS), script.MORE_SEEDS)
    assert len({run.name for run in runs}) == len(runs)
    assert {sys.modules["evidence_plan"].teacher_of(run) for run in runs if run.method is not None} <= set(runs)
    firsts = [run.row == script.TEACHER for run in runs]
    assert firsts == sorted(firsts, reverse=True)
    alone = [run for run in runs if run.row == script.ALONE]
    assert {(run.set, run.seed) for run in alone} == {
        (script.SETS[run.set].alone or run.set, run.seed) for run in runs if run not in runs[: sum(firsts)]
    }


def test_an_interval_is_students(script: Any) -> None:
    assert script.interval([1.0, 2.0, 3.0]) == "-0.5 to +4.5"  # 2 ± 4.303 · 1 / √3
    assert script.interval([1.0]) == ""


def made_up(run: Any, places: Any) -> dict[str, Any]:
    ap = {"alone": 10.0, "hint": 12.5}.get(run.row, 30.0) + run.seed
    if run.row == "frs":
        raise ValueError("no such thing")
    (places.out / "runs" / run.name).mkdir(parents=True)  # which students of a teacher ask for
    return {**asdict(run), "AP": ap, "AP50": 2 * ap, "AP75": ap, "steps": places.steps(run), "seconds": 1.0}


def test_runs_are_made_once_side_by_side_and_a_failure_stops_none(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    making = sys.modules["evidence_runs"]
    monkeypatch.setattr(making, "make", made_up)  # in forked processes, which know it too
    monkeypatch.setattr(making, "prepare", lambda *_, **__: None)
    together = tmp_path / "together.json"
    options = ["--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results"), "--together", str(together)]
    options += ["--sets", "drawn", "--seeds", "0", "1", "--rows", "alone", "hint", "frs", "--jobs", "2"]
    script.main([*options, "--budget", "60"])
    first = capsys.readouterr().out
    done = json.loads(together.read_text())
    kinds = ("teacher", "alone", "hint", "frs")
    assert done.keys() == {f"drawn/{row}_{seed}" for row in kinds for seed in (0, 1)}
    order = [line.partition(":")[0] for line in first.splitlines() if " in 1 s" in line]
    assert set(order) == {name for name in done if "frs" not in name}
    assert order.index("drawn/hint_0") > order.index("drawn/teacher_0")
    assert "| drawn | `hint` | 13.0 | +2.5 | +2.5 to +2.5 | +2.5, +2.5 | 26.0 | 200 |" in first
    assert "drawn/frs_1: ValueError: no such thing" in first
    script.main([*options, "--budget", "0"])
    assert "6 of 8 runs are there" in (tmp_path / "results" / "table.md").read_text()
    script.main(["--table", "--unpack", str(together), "--results", str(tmp_path / "elsewhere"), "--sets", "drawn"])
    assert (tmp_path / "elsewhere" / "drawn" / "hint_0.json").is_file()


@pytest.mark.slow
def test_real_runs_at_a_tiny_size(tmp_path: Path) -> None:
    together = tmp_path / "together.json"
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    command += ["--together", str(together), "--sets", "drawn", "--seeds", "0", "--rows", "alone", "hint"]
    command += ["--share", "0.003", "--jobs", "1", "--budget", "400"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(together.read_text())
    assert found.keys() == {"drawn/teacher_0", "drawn/alone_0", "drawn/hint_0"}
    assert all("error" not in one for one in found.values()), found
