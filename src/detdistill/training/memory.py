"""Memory that a training lacks, in one sentence, and what it takes at most."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from detdistill.errors import DistillError
from detdistill.outside import telling
from detdistill.training.settings import TrainSettings

# What a container may take and has taken, on Linux.
_GROUP = Path("/sys/fs/cgroup")
# How torch says it where the error has no class of its own: on the CPU, in cuDNN and in cuBLAS.
_NO_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)


@contextmanager
def needing_memory(what: str, *, remedy: str) -> Iterator[None]:
    """Says in a sentence where `what` does not fit into memory (DistillError)."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise DistillError(f"{what} must fit into memory at a time, got too little of it. {remedy}.") from error


@contextmanager
def explaining(settings: TrainSettings, *, where: Callable[[], str], kept: Callable[[], str]) -> Iterator[None]:
    """Says in a sentence, where a step does not fit into memory or runs code that fails, what is to be done.

    Args:
        where: such as ``"step 3 of 100"``.
        kept: what there is to go on from.

    Raises:
        DistillError: it does not fit.
        OutsideError: code from outside failed.
    """
    with telling(lambda error: error.during(where(), kept())):
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            size, parts = settings.batch_size, settings.accumulate
            more = next((number for number in range(parts + 1, size + 1) if size % number == 0), None)
            remedy = "Choose smaller images" if more is None else f"Set train.accumulate={more} in a new run"
            raise DistillError(
                f"{where()}: {size // parts} of {size} images (train.batch_size={size}, train.accumulate={parts}) must "
                "fit into memory at a time, got too little of it. "
                f"{remedy}, or free memory and go on by --resume; {kept()}."
            ) from error


def forget_peak() -> None:
    """Begins to measure anew what `peak_memory` tells of GPUs."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> tuple[int, int]:
    """Bytes that this process took of a device's memory at most, and all that there are; on the CPU since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device), torch.cuda.get_device_properties(device).total_memory
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return peak, min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), _group("memory.max", sys.maxsize))


def free_memory() -> int:
    """Bytes of memory that may still be taken, those that the system keeps of files included; the most that an integer
    holds where nobody says.
    """
    try:
        said = Path("/proc/meminfo").read_text(encoding="ascii").partition("MemAvailable:")[2].split()
        available = int(said[0]) * 1024
    except (OSError, ValueError, IndexError):
        available = sys.maxsize
    held = _group("memory.current") - _files_of_group()
    return max(0, min(available, _group("memory.max", sys.maxsize) - held))


def _files_of_group() -> int:
    """Bytes that the system keeps of files for a container, and gives away where somebody needs them."""
    try:
        rows = (row.split() for row in (_GROUP / "memory.stat").read_text(encoding="ascii").splitlines())
        return sum(int(count) for name, count in rows if name in ("inactive_file", "active_file"))
    except (OSError, ValueError):
        return 0


def _group(name: str, otherwise: int = 0) -> int:
    """A number of bytes that a container's group says, such as what it may take."""
    try:
        return int((_GROUP / name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return otherwise
