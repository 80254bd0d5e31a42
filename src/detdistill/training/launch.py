"""One process per device: starts them, hands back what rank 0 returns, and ends them cleanly."""

from __future__ import annotations

import gc
import logging
import multiprocessing
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.accelerators.cuda import CUDAAccelerator
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import distributed
from torch.multiprocessing.spawn import ProcessException

from detdistill.errors import ConfigError, DistillError
from detdistill.training.settings import Precision, TrainSettings
from detdistill.training.signals import Interrupted, forward_signals

Outcome = TypeVar("Outcome")


def device_kind(settings: TrainSettings) -> str:
    """``"cuda"`` or ``"cpu"``: what the run's accelerator setting means on this machine.

    Raises:
        ConfigError: CUDA, or more devices than there are, was asked for.
    """
    present = CUDAAccelerator.auto_device_count() if CUDAAccelerator.is_available() else 0
    kind = settings.accelerator
    if kind == "auto":
        kind = "cuda" if present else "cpu"
    if kind == "cuda" and settings.devices > present:
        raise ConfigError(
            f"train.devices must be at most the {present} CUDA devices of this machine, got {settings.devices}. "
            "Ask for fewer, or set train.accelerator to cpu."
        )
    return kind


def require_precision(precision: Precision, kind: str) -> None:
    """Refuses a precision that the hardware does not compute in.

    Raises:
        ConfigError: float16 on a CPU, or bfloat16 on a CUDA device without it.
    """
    if kind == "cpu" and precision == "16-mixed":
        raise ConfigError(
            "train.precision must be 32-true or bf16-mixed on a CPU, got 16-mixed. Use bf16-mixed or 32-true."
        )
    if kind == "cuda" and precision == "bf16-mixed" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(
            "train.precision must be 32-true or 16-mixed on a CUDA device without bfloat16, got bf16-mixed. "
            "Use 16-mixed."
        )


def make_fabric(settings: TrainSettings) -> Fabric:
    """The engine for a run's devices and precision.

    With several devices the processes are forked from this one, or are those that torchrun started. Parameters
    that a step leaves unused (a term in its warm-up) are allowed.

    Raises:
        ConfigError: the machine lacks what the settings ask for.
    """
    kind = device_kind(settings)
    if kind == "cpu":
        require_precision(settings.precision, kind)
    strategy: DDPStrategy | str = "auto"
    if settings.devices > 1:
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        strategy = DDPStrategy(
            start_method="popen" if distributed.is_torchelastic_launched() else "fork",
            process_group_backend="gloo" if kind == "cpu" else "nccl",
            find_unused_parameters=True,
        )
    return Fabric(
        accelerator=kind,
        devices=settings.devices,
        strategy=strategy,
        precision=settings.precision,
    )


def launch(main: Callable[[Fabric], Outcome], settings: TrainSettings) -> Outcome:
    """Runs `main` on every device and returns what rank 0's returned.

    With one device it runs here. With several it runs in forked processes: what it does to objects of this
    process stays there, so results belong on the disk, and nothing may have used CUDA here before. A
    Ctrl-C or SIGTERM that reaches this process reaches every rank.

    Args:
        main: called once on every rank; its objects must be local to it.
        settings: of the run.

    Raises:
        DistillError: what any rank raised.
        Interrupted: the ranks were asked to stop.
    """
    fabric = make_fabric(settings)
    if settings.devices == 1 or distributed.is_torchelastic_launched():
        fabric.launch()
        try:
            return main(fabric)
        finally:
            _leave_group()
    outcomes: SimpleQueue[Any] = multiprocessing.get_context("fork").SimpleQueue()
    crash: ProcessException | None = None
    with forward_signals():
        try:
            fabric.launch(lambda ranked: _rank(ranked, main, outcomes))
        except ProcessException as error:
            crash = error
    found: Any = None
    while not outcomes.empty():
        found = outcomes.get()
        if isinstance(found, (DistillError, Interrupted)):
            raise found
    if crash is not None:
        raise crash
    outcome: Outcome = found
    return outcome


def _rank(fabric: Fabric, main: Callable[[Fabric], object], outcomes: SimpleQueue[Any]) -> None:
    """One rank's life. An error ends the process, so that the parent ends the ranks that wait for it."""
    if fabric.device.type == "cpu":
        torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    try:
        outcome = main(fabric)
        if fabric.global_rank == 0:
            outcomes.put(outcome)
    except Interrupted as stop:
        if fabric.global_rank == 0:
            outcomes.put(stop)
    except DistillError as error:
        outcomes.put(error)
        raise
    finally:
        _leave_group()


def _leave_group() -> None:
    """Ends the process group after the model is gone: gloo can abort a process that exits with both alive."""
    if distributed.is_available() and distributed.is_initialized():
        gc.collect()
        distributed.destroy_process_group()
