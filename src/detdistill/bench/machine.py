"""What a figure was measured on, and how much memory tensors hold."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


def machine(device: torch.device) -> dict[str, str | int]:
    """Hardware and versions, as a benchmark's JSON names them.

    Args:
        device: where the benchmark computes.
    """
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "detdistill": version("detdistill"),
    }


def peak_mb(run: Callable[[], object]) -> float:
    """The most memory in MB that tensors made meanwhile on the CPU hold at a time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    held = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most / 1e6


def _processor() -> str:
    described = Path("/proc/cpuinfo")
    if described.is_file():
        for line in described.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
