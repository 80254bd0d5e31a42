"""From the command `detdistill distill` to its first step, in several processes: the seconds of each phase.

    python benchmarks/start_up.py --teacher RUN --data SCENES [--alone RUN] --json benchmarks/results/start_up.json

The teacher is measured before the first step; where its finds are kept already it is not asked again. One process
before the others warms the disk's cache and that one. `--imports` prints the modules that take longest to import.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

PHASES = ("interpreter", "imports", "settings", "detectors", "data", "build", "proof", "plan", "evaluation", "step")
CLOCKS = {"wall": time.monotonic, "processor": time.process_time}
GOAL = 6.0
_BEGAN, _MARKS = "START_UP_BEGAN", "START_UP_MARKS"


def probe(arguments: Sequence[str]) -> None:
    """Runs a command in this process until its first step is done, and writes the seconds of each phase."""
    seconds = {clock: dict.fromkeys(PHASES, 0.0) for clock in CLOCKS}
    last = {"wall": float(os.environ[_BEGAN]), "processor": 0.0}

    def mark(phase: str) -> None:
        for clock, read in CLOCKS.items():
            now = read()
            seconds[clock][phase] += now - last[clock]
            last[clock] = now

    mark("interpreter")
    from detdistill.cli import main as command_line

    def marked(owner: Any, name: str, before: str, after: str) -> None:
        whole: Callable[..., Any] = getattr(owner, name)

        def run(*given: Any, **named: Any) -> Any:
            mark(before)
            found = whole(*given, **named)
            mark(after)
            return found

        setattr(owner, name, run)

    def watch() -> None:
        from detdistill.api import runs
        from detdistill.jobs import inputs, stages
        from detdistill.jobs import run as job
        from detdistill.training.run import _Run

        mark("imports")
        marked(runs, "run_config", "imports", "settings")
        marked(inputs, "open_teachers", "settings", "detectors")
        marked(inputs, "open_data_sets", "detectors", "data")
        marked(inputs, "load_detector", "data", "detectors")
        marked(stages, "open_inputs", "settings", "data")
        marked(stages, "build", "data", "build")
        marked(stages, "prove", "build", "proof")
        marked(stages, "measure", "plan", "evaluation")
        marked(job, "announce", "proof", "plan")
        advance = _Run._advance

        def advanced(*given: Any) -> Any:
            found = advance(*given)
            mark("step")
            Path(os.environ[_MARKS]).write_text(json.dumps(seconds))
            os._exit(0)
            return found

        _Run._advance = advanced  # type: ignore[method-assign]

    from detdistill.cli import commands

    call = commands.Command.__call__

    def called(self: commands.Command, bound: Any) -> None:
        watch()
        call(self, bound)

    commands.Command.__call__ = called  # type: ignore[method-assign]
    sys.exit(command_line(arguments))


def one(arguments: Sequence[str], *, imports: bool = False) -> tuple[dict[str, dict[str, float]], str]:
    """The seconds of each phase in a process of its own, and what it said on its standard error."""
    with tempfile.TemporaryDirectory() as folder:
        marks = Path(folder) / "marks.json"
        words = [*arguments, "--out", f"{folder}/run"]
        command = [sys.executable, *(["-X", "importtime"] if imports else []), __file__, "--probe", *words]
        environment = {**os.environ, _MARKS: str(marks), _BEGAN: str(time.monotonic())}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if not marks.is_file():
            sys.exit(f"the command must come to its first step, got {ended.stderr[-2000:]}")
        return json.loads(marks.read_text()), ended.stderr


def whole(command: Sequence[str]) -> dict[str, float]:
    """How long a command takes that ends by itself, by each clock."""

    def read() -> tuple[float, float]:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.monotonic(), used.ru_utime + used.ru_stime

    before = read()
    subprocess.run([sys.executable, "-m", "detdistill", *command], capture_output=True, check=True)
    return {clock: end - began for clock, began, end in zip(CLOCKS, before, read(), strict=True)}


def spreads(clocks: Mapping[str, Sequence[float]]) -> list[tuple[str, list[float]]]:
    """First quartile, median and third, by each clock."""
    return [(clock, [round(one, 3) for one in statistics.quantiles(runs, n=4)]) for clock, runs in clocks.items()]


def longest(said: str, count: int = 25) -> list[str]:
    """The packages and modules that took longest to import, with what they import in turn."""
    rows = [line.split("|") for line in said.splitlines() if line.startswith("import time:") and "[us]" not in line]
    ordered = sorted(((int(row[1]), row[2].strip()) for row in rows), reverse=True)
    return [f"{us / 1e6:7.3f} s  {name}" for us, name in ordered[:count]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--alone")
    parser.add_argument("--student", default="fcos/tiny")
    parser.add_argument("--method", default="frs")
    parser.add_argument("--settings", nargs="*", default=[], help="KEY=VALUE, such as teacher.cache_folder=FOLDER")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--imports", action="store_true")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    words = ["distill", "--teacher", chosen.teacher, "--student", chosen.student, "--data", chosen.data]
    words += ["--method", chosen.method, *(["--alone", chosen.alone] if chosen.alone else [])]
    words += chosen.settings
    if chosen.imports:
        print("\n".join(longest(one(words, imports=True)[1])))
        return
    one(words)
    measured = [one(words)[0] for _ in range(chosen.rounds)]
    known = {name: [whole([name]) for _ in range(chosen.rounds)] for name in ("--help", "--version")}
    seconds: dict[str, dict[str, list[float]]] = {}
    for clock in CLOCKS:
        rows = {phase: [run[clock][phase] for run in measured] for phase in PHASES}
        rows["command to first step"] = [sum(run[clock].values()) for run in measured]
        rows |= {name: [run[clock] for run in runs] for name, runs in known.items()}
        for name, values in rows.items():
            seconds.setdefault(name, {})[clock] = values
    for name, clocks in seconds.items():
        told = (f"{clock} {middle:6.2f} s ({low:.2f}-{high:.2f})" for clock, (low, middle, high) in spreads(clocks))
        print(f"{name:<24}{'   '.join(told)}")
    if chosen.json is not None:
        import torch

        from detdistill.bench.machine import machine
        from detdistill.bench.rows import ROWS, row
        from detdistill.files import write_json

        settings = {
            key: value for key, value in vars(chosen).items() if key in ("student", "method", "settings", "rounds")
        }
        told = {name: dict(spreads(clocks)) for name, clocks in seconds.items()}
        hardware, runs = machine(torch.device("cpu")), seconds["command to first step"]
        whats = {by: f"seconds from `distill` to its first step, {by}" for by in CLOCKS}
        rows = [row(what, runs[by], hardware=hardware, at_most=GOAL) for by, what in whats.items()]
        write_json(chosen.json, {"machine": hardware, "settings": settings, "seconds": told, ROWS: rows})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--probe"]:
        probe(sys.argv[2:])
    else:
        main()
