"""What a distillation step costs in one checkout of the library beside another, method by method, interleaved.

    python benchmarks/step_before_after.py --before OTHER/src --after src --json benchmarks/results/before_after.json

Each checkout has a process of its own that stays; in every round both take one step of every method, and which goes
first alternates. What is printed is the median over the rounds of after ÷ before, with its quartiles.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

METHODS = ("hint", "frs", "ssim", "attention", "aid(frs)", "fgd")
FEWEST_ROUNDS = 20


def serve(arguments: argparse.Namespace) -> None:
    """Takes a step of the method that each line of the input names, and answers with its seconds."""
    import torch

    import detdistill

    torch.set_num_threads(1)
    torch.manual_seed(0)
    classes, size = ("a", "b", "c", "d", "e"), arguments.image_px
    student = detdistill.build_detector(detdistill.parse_detector(arguments.student), classes, seed=0)
    teacher = detdistill.build_detector(detdistill.parse_detector(arguments.teacher), classes, seed=1)
    frozen = detdistill.FrozenTeacher(teacher)
    corners = torch.rand(arguments.batch_size, 6, 2) * size * 0.5
    targets = tuple(
        detdistill.Targets(
            boxes=torch.cat([low, low + size * 0.3], dim=1),
            labels=torch.arange(6) % len(classes),
            ignored=torch.zeros(6, dtype=torch.bool),
        )
        for low in corners
    )
    whole = ((size, size),) * arguments.batch_size
    ids = tuple(range(arguments.batch_size))
    images = torch.rand(arguments.batch_size, 3, size, size)
    batch = detdistill.Batch(images=images, sizes=whole, stored_sizes=whole, targets=targets, image_ids=ids, seeds=ids)
    steps = {}
    for method in METHODS:
        recipe = detdistill.build_recipe(method, student.spec, teacher.spec)
        steps[method] = detdistill.DistillationStep(student, frozen, recipe).train()
    clock = detdistill.Clock(step=50, total_steps=100)
    for line in sys.stdin:
        step = steps[line.strip()]
        step.zero_grad()
        began = time.perf_counter()
        step(batch, clock).total.backward()
        sys.stdout.write(f"{time.perf_counter() - began}\n")
        sys.stdout.flush()


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Seconds of every method's step in both checkouts, over the rounds, as medians and ratios."""
    servers = {}
    for name in ("before", "after"):
        environment = {
            **os.environ,
            "PYTHONPATH": str(getattr(arguments, name).resolve()),
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        servers[name] = subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ask(name: str, method: str) -> float:
        server = servers[name]
        assert server.stdin is not None and server.stdout is not None  # noqa: PT018
        server.stdin.write(f"{method}\n")
        server.stdin.flush()
        return float(server.stdout.readline())

    seconds: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    for turn in range(arguments.rounds + 1):
        for method in METHODS:
            order = ("before", "after") if turn % 2 else ("after", "before")
            taken = {name: ask(name, method) for name in order}
            if turn > 0:  # the first round warms up
                seconds[method].append(taken)
        sys.stderr.write(f"\rround {turn} of {arguments.rounds}")
    for server in servers.values():
        server.communicate()
    return {method: summary(rows) for method, rows in seconds.items()}


def summary(rows: list[dict[str, float]]) -> dict[str, float]:
    """Median seconds of both, and the quartiles of their ratio."""
    first, median, third = statistics.quantiles([row["after"] / row["before"] for row in rows], n=4)
    return {
        "before_seconds": round(statistics.median(row["before"] for row in rows), 4),
        "after_seconds": round(statistics.median(row["after"] for row in rows), 4),
        "ratio": round(median, 4),
        "ratio_quartiles": [round(first, 4), round(third, 4)],
    }


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="src folder of a checkout")
    parser.add_argument("--after", type=Path, required=True, help="src folder of the other one")
    parser.add_argument("--student", default="retinanet/resnet18")
    parser.add_argument("--teacher", default="retinanet/resnet50")
    parser.add_argument("--image-px", type=int, default=192)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=FEWEST_ROUNDS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments)
        return
    found = measure(arguments)
    settings = {key: getattr(arguments, key) for key in ("student", "teacher", "image_px", "batch_size", "rounds")}
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "threads": 1}
    print()
    for method, figures in found.items():
        print(f"{method:<10} {figures}")
    if arguments.json is not None:
        content = {"settings": settings, "machine": machine, "methods": found}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _main()
