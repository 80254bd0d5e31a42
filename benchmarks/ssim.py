"""SSIM of feature maps, forward and backward, beside what people would use instead: time and memory.

    python benchmarks/ssim.py --json benchmarks/results/ssim.json

Packages that are not installed are left out; `convolutions` computes as kornia does, five blurs by depthwise
convolutions along each axis and autograd through all of it. pytorch-msssim leaves a border of five cells out, at side
16 six cells in seven: it is also given maps that are padded before, so that it has as many cells as the others. Time is
the process's own.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from detdistill.bench.machine import machine, peak_mb
from detdistill.bench.rows import ROWS, row
from detdistill.files import write_json
from detdistill.methods.parts.structural import dissimilarity, gaussian_taps, mean_dissimilarity, ssim_map

SIDES, BATCH, CHANNELS = (128, 64, 32, 16), 2, 256
BANDS = "long maps blurred in bands, which pays from side 96 on; on an Intel Xeon ours gains more at side 64"
TRIED = {
    "kornia": BANDS,
    "convolutions": BANDS,
    "pytorch_msssim": (
        "it leaves out cells whose window is not whole, 86 % of them at side 16; padded before, it does what ours does"
    ),
    "pytorch_msssim, padded": BANDS,
}
Way = Callable[[Tensor, Tensor], Tensor]
OURS = "mean_dissimilarity"
GOAL, MEMORY_GOAL = 3.0, 0.5


def inside(maps: Tensor) -> Tensor:
    return torch.ones(maps.shape[0], 1, *maps.shape[2:], dtype=torch.bool)


def padded(maps: Tensor) -> Tensor:
    return functional.pad(maps, [5] * 4, mode="reflect")


def convolutions(x: Tensor, y: Tensor) -> Tensor:
    taps, channels = gaussian_taps(11), x.shape[1]
    kernels = [taps.view(shape).expand(channels, *shape[1:]) for shape in ((1, 1, -1, 1), (1, 1, 1, -1))]

    def blur(maps: Tensor) -> Tensor:
        columns = functional.conv2d(padded(maps), kernels[0], groups=channels)
        return functional.conv2d(columns, kernels[1], groups=channels)

    mean_x, mean_y = blur(x), blur(y)
    squares, product = (mean_x.square(), mean_y.square()), mean_x * mean_y
    variance_x, variance_y = blur(x * x) - squares[0], blur(y * y) - squares[1]
    covariance = blur(x * y) - product
    c1, c2 = 0.01**2, 0.03**2
    return ((2 * product + c1) * (2 * covariance + c2)) / ((sum(squares) + c1) * (variance_x + variance_y + c2))


def ways() -> dict[str, Way]:
    found: dict[str, Way] = {
        OURS: lambda x, y: mean_dissimilarity(x, y, inside(x), padded=False).mean(),
        "ssim_map": lambda x, y: dissimilarity(ssim_map(x, y, inside(x))).mean(),
        "convolutions": lambda x, y: dissimilarity(convolutions(x, y)).mean(),
    }
    known: dict[str, Callable[[object], Way]] = {
        "kornia.metrics": lambda module: lambda x, y: dissimilarity(module.ssim(x, y, 11)).mean(),
        "pytorch_msssim": lambda module: lambda x, y: (1 - module.ssim(x, y, data_range=1.0)) / 2,
        "pytorch_msssim, padded": lambda module: (
            lambda x, y: (1 - module.ssim(*(padded(one) for one in (x, y)), data_range=1.0)) / 2
        ),
        "torchmetrics.functional.image": lambda module: (
            lambda x, y: (1 - module.structural_similarity_index_measure(x, y, data_range=1.0)) / 2
        ),
    }
    for name, made in known.items():
        package = name.partition(".")[0]
        try:
            found[package] = made(importlib.import_module(name.partition(",")[0]))
        except ImportError:
            print(f"{package} is not installed: left out")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, dict[str, dict[str, object]]] = {}
    rows, hardware = [], machine(torch.device("cpu"))
    for side in SIDES:
        x, y = torch.rand(2, BATCH, CHANNELS, side, side, generator=torch.Generator().manual_seed(0))
        x.requires_grad_()

        def step(way: Way, x: Tensor = x, y: Tensor = y) -> None:
            x.grad = None
            way(x, y).backward()

        named = ways()
        times: dict[str, list[float]] = {name: [] for name in named}
        for round_number in range(-2, chosen.rounds):
            for name, way in named.items():
                began = time.process_time()
                step(way)
                if round_number >= 0:
                    times[name].append(1000 * (time.process_time() - began))
        table[str(side)], own = {}, 0.0
        for name, way in named.items():
            ratios = [other / ours for other, ours in zip(times[name], times[OURS], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            if name not in (OURS, "ssim_map"):
                what = f"{name}'s SSIM ÷ ours, {BATCH} × {CHANNELS} × {side} × {side}"
                rows.append(row(what, ratios, hardware=hardware, at_least=GOAL, tried=TRIED.get(name, "")))
            memory = peak_mb(lambda way=way: step(way))
            own = memory if name == OURS else own
            if name not in (OURS, "ssim_map"):
                what = f"peak memory: ours ÷ {name}'s SSIM, {BATCH} × {CHANNELS} × {side} × {side}"
                rows.append(row(what, [own / memory], hardware=hardware, at_most=MEMORY_GOAL))
            table[str(side)][name] = {
                "ms": round(statistics.median(times[name]), 2),
                "over_ours": [round(one, 2) for one in (low, middle, high)],
                "peak_mb": round(memory, 1),
            }
            print(
                f"{side:>3} {name:<20} {statistics.median(times[name]):8.1f} ms   {middle:5.2f} x ours "
                f"({low:.2f}-{high:.2f})   {memory:7.1f} MB"
            )
    if chosen.json is not None:
        shape = {"batch": BATCH, "channels": CHANNELS, "rounds": chosen.rounds, "threads": 1}
        write_json(chosen.json, {"machine": hardware, "settings": shape, "sides": table, ROWS: rows})


if __name__ == "__main__":
    main()
