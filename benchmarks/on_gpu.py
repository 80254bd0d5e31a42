"""What only a GPU can show: the tests marked cuda, a step of every method beside its floor, and its peak memory.

    python benchmarks/on_gpu.py --json FILE.json [--budget SECONDS]

The tests run first, several processes at a time, then two tables on one pair of detectors: R101 teaches R50 on 8 images
of 800 × 1333 pixels under bfloat16. All methods take turns, round after round; a step's floor is the student's own step
plus the teacher's observation of what the method reads. Each part ends within its share of the budget, and the file is
written after every round and row, so that a cut loses nothing. Without a GPU everything runs on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from detdistill.threads import quiet_threads

quiet_threads()

import torch  # noqa: E402
from torch import Tensor, nn, optim  # noqa: E402

from detdistill.bench.machine import machine  # noqa: E402
from detdistill.bench.rounds import noise_batch  # noqa: E402
from detdistill.bench.step import separate  # noqa: E402
from detdistill.detectors.catalogue import build_detector, parse_detector  # noqa: E402
from detdistill.detectors.frozen import FrozenTeacher  # noqa: E402
from detdistill.distillation.recipe import Recipe  # noqa: E402
from detdistill.distillation.step import DistillationStep, SupervisedStep  # noqa: E402
from detdistill.distillation.view import CLEAN  # noqa: E402
from detdistill.errors import CapabilityError  # noqa: E402
from detdistill.files import write_json  # noqa: E402
from detdistill.methods.catalogue import METHODS, build_recipe  # noqa: E402
from detdistill.types import Batch, Clock  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests" / "cuda"
STUDENT = "the student's own step"
# Of the budget: all tests, and all there is until the rounds must end; the memory table has what is left.
TESTED, TIMED = 0.5, 0.85
CLOCK = Clock(step=1000, total_steps=2000)
MIB = 2**20


def run_tests(seconds: float, *, processes: int, into: Path) -> dict[str, Any]:
    """The tests marked cuda in processes of their own: what passed and failed, and what they recorded."""
    report, log = into / "report.jsonl", into / "log.txt"
    command = [sys.executable, "-m", "pytest", str(TESTS), "-m", "cuda", "-n", str(processes), "-p", "no:cacheprovider"]
    command += ["-W", "default", "--tb=short", f"--rootdir={ROOT}"]
    began = time.perf_counter()
    with log.open("wb") as output:
        tests = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env={**os.environ, "DETDISTILL_GPU_REPORT": str(report)},
            start_new_session=True,
        )
        try:
            tests.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(tests.pid, signal.SIGKILL)  # the processes that it started are of its group
            tests.wait()
    rows = [json.loads(line) for line in report.read_text().splitlines()] if report.is_file() else []
    failed = {row["name"]: row["message"] for row in rows if row["outcome"] == "failed"}
    return {
        "exit": tests.returncode,
        "seconds": round(time.perf_counter() - began, 1),
        **{kind: sum(row["outcome"] == kind for row in rows) for kind in ("passed", "failed", "skipped")},
        "failures": failed,
        "recorded": {row["name"]: row["recorded"] for row in rows if row["recorded"]},
        "log": log.read_text(errors="replace")[-1500:],
    }


def planned() -> list[str]:
    """Every recipe, and what changes another one around `frs`."""
    alone = [name for name, method in METHODS.items() if not method.wraps]
    return [*alone, "frs + ssim", *(f"{name}(frs)" for name, method in METHODS.items() if method.wraps)]


class Table:
    """A student, a teacher and a batch, and the parts that are measured with them.

    Args:
        arguments: of the command line.
        device: where all of it is.
    """

    def __init__(self, arguments: argparse.Namespace, device: torch.device) -> None:
        self.device, self.half = device, torch.bfloat16
        names = tuple(f"class {index}" for index in range(arguments.classes))
        height, width = (int(side) for side in arguments.size.split("x"))
        self.batch = wide_batch(arguments.batch_size, height, width, classes=arguments.classes).to(device)
        teacher = build_detector(parse_detector(arguments.teacher), names, seed=0)
        self.teacher = FrozenTeacher(teacher, autocast=self.half).to(device)
        self.student = build_detector(parse_detector(arguments.student), names, seed=1)
        self.student.to(device).to(memory_format=torch.channels_last)
        self.parts: dict[str, Callable[[], object]] = {STUDENT: self._step(SupervisedStep(self.student))}
        self.refused: dict[str, str] = {}
        self.floors: dict[str, tuple[str, str]] = {}
        self.milliseconds: dict[str, list[float]] = {}
        for method in separate(arguments.methods) if arguments.methods else planned():
            try:
                recipe = build_recipe(method, self.student.spec, self.teacher.spec)
            except CapabilityError as error:
                self.refused[method] = str(error)
                continue
            step = DistillationStep(self.student, self.teacher, recipe).to(device)
            self.parts[f"observe: {method}"] = self._observation(recipe)
            self.parts[f"step: {method}"] = self._step(step)
            self.floors[method] = (STUDENT, f"observe: {method}")

    def _step(self, module: nn.Module) -> Callable[[], object]:
        module.train()
        # A rate of 0 keeps the weights: every round then computes the same, at the same cost.
        optimizer = optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.0, momentum=0.9)

        def run() -> None:
            optimizer.zero_grad()
            with torch.autocast(self.device.type, dtype=self.half):
                total: Tensor = module(self.batch, CLOCK).total
            total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return run

    def _observation(self, recipe: Recipe) -> Callable[[], object]:
        return lambda: self.teacher.observe(self.batch, recipe.teacher_needs(CLEAN))

    def time(self, run: Callable[[], object]) -> float:
        """Milliseconds between two events on the device, or of the clock on a CPU."""
        if self.device.type != "cuda":
            began = time.perf_counter()
            run()
            return 1000 * (time.perf_counter() - began)
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        first.record()
        run()
        last.record()
        torch.cuda.synchronize()
        return first.elapsed_time(last)

    def measure(self, rounds: int, until: float, tell: Callable[[Mapping[str, Any]], None]) -> None:
        """Rounds of all parts in turn, two more before them that do not count, until the time is up."""
        for number in range(-2, rounds):
            row = {}
            for name, run in list(self.parts.items()):
                if time.perf_counter() > until:
                    return
                try:
                    row[name] = self.time(run)
                except torch.OutOfMemoryError as error:
                    self.refused[name] = str(error)[:200]
                    del self.parts[name]
                    torch.cuda.empty_cache()
            if number >= 0:
                for name, elapsed in row.items():
                    self.milliseconds.setdefault(name, []).append(elapsed)
                tell(self.steps())

    def steps(self) -> dict[str, Any]:
        """Every part's median and quartiles, and every method's step ÷ its floor, taken round by round."""
        whole = {name: values for name, values in self.milliseconds.items() if len(values) >= 2}
        ratios = {
            method: [
                step / (own + seen)
                for step, own, seen in zip(whole[f"step: {method}"], *(whole[part] for part in floor), strict=False)
            ]
            for method, floor in self.floors.items()
            if {f"step: {method}", *floor} <= whole.keys()
        }
        return {
            "rounds": max((len(values) for values in self.milliseconds.values()), default=0),
            "milliseconds": {name: spread(values, 2) for name, values in whole.items()},
            "step ÷ floor": {name: spread(values, 4) for name, values in ratios.items()},
            "refused": self.refused,
        }

    def memory(self, until: float, tell: Callable[[Mapping[str, Any]], None]) -> None:
        """What each step holds at most beyond what stays: activations, gradients and the teacher's maps, in MiB."""
        if self.device.type != "cuda":
            tell({"refused": "the peak is counted on CUDA devices alone"})
            return
        found: dict[str, Any] = {}
        for name, run in self.parts.items():
            if time.perf_counter() > until:
                break
            if name.startswith("observe"):
                continue
            self.student.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            run()
            torch.cuda.synchronize()
            found[name] = round((torch.cuda.max_memory_allocated() - before) / MIB)
            own = found[STUDENT]
            beside = {one: round(peak / own, 3) for one, peak in found.items()}
            tell({"MiB": found, "÷ the student's own": beside, "staying MiB": round(before / MIB)})


def spread(values: list[float], digits: int) -> dict[str, float | list[float]]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": round(middle, digits), "quartiles": [round(low, digits), round(high, digits)]}


def wide_batch(count: int, height: int, width: int, *, classes: int) -> Batch:
    """Images of noise with boxes, padded on the right to a multiple of 32 pixels."""
    side = max(height, -(-width // 32) * 32)
    square = noise_batch(count, side, boxes=8, classes=classes)
    reach = torch.tensor([width / side, height / side] * 2)
    return replace(
        square,
        images=square.images[:, :, :height].contiguous(),
        sizes=((height, width),) * count,
        stored_sizes=((height, width),) * count,
        targets=tuple(replace(target, boxes=target.boxes * reach) for target in square.targets),
    )


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=400.0, help="seconds for everything")
    parser.add_argument("--processes", type=int, default=min(8, max(1, (os.cpu_count() or 2) // 2)))
    parser.add_argument("--teacher", default="retinanet/resnet101")
    parser.add_argument("--student", default="retinanet/resnet50")
    parser.add_argument("--size", default="800x1333", help="height and width in pixels")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--methods", default="", help="texts of methods, separated by commas; all where left out")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--without-tests", action="store_true")
    arguments = parser.parse_args()
    began = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = {name: str(value) for name, value in vars(arguments).items() if name != "json"}
    said: dict[str, Any] = {"machine": machine(device), "settings": settings}

    def keep(**parts: Mapping[str, Any]) -> None:
        said.update(parts, seconds=round(time.perf_counter() - began, 1))
        write_json(arguments.json, said)

    keep()
    if not arguments.without_tests:
        with tempfile.TemporaryDirectory() as folder:
            limit = TESTED * arguments.budget
            keep(tests=run_tests(limit, processes=arguments.processes, into=Path(folder)))
        counts = {name: value for name, value in said["tests"].items() if name != "recorded"}
        print(json.dumps(counts, indent=1), flush=True)
    table = Table(arguments, device)
    table.measure(arguments.rounds, began + TIMED * arguments.budget, lambda steps: keep(steps=steps))
    print(json.dumps(said.get("steps"), indent=1), flush=True)
    table.memory(began + arguments.budget, lambda memory: keep(memory=memory))
    print(json.dumps(said.get("memory"), indent=1), flush=True)


if __name__ == "__main__":
    main()
