"""One process per device: joins those that torchrun started, or forks them on this machine, and ends them cleanly."""

from __future__ import annotations

import gc
import logging
import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.queues import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import distributed
from torch.distributed import distributed_c10d
from torch.distributed.distributed_c10d import PrefixStore
from torch.multiprocessing.spawn import ProcessException, ProcessExitedException

from detdistill.errors import ConfigError, DistillError
from detdistill.training.lifelines import LATE_AFTER_S
from detdistill.training.settings import Precision, TrainSettings
from detdistill.training.signals import Interrupted, forward_signals
from detdistill.training.world import launched_by_torchrun, lost, meet, store, world

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

Outcome = TypeVar("Outcome")
_BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
_set_timeout = getattr(distributed, "set_timeout", None) or distributed_c10d._set_pg_timeout
_COUNTED = {False: "train.processes", True: "torchrun's --nproc-per-node"}


def processes(settings: TrainSettings) -> int:
    """How many processes train together, on all machines."""
    return world().ranks if launched_by_torchrun() else settings.processes


def forks(settings: TrainSettings) -> bool:
    """Whether training forks this process, which must not have used CUDA until then."""
    return settings.processes > 1 and not launched_by_torchrun()


def local_devices(settings: TrainSettings) -> int:
    """Devices that train on this machine: one for each process of torchrun's, else as many as the settings say.

    Raises:
        ConfigError: the settings ask for several, and torchrun started another number of processes.
    """
    if not launched_by_torchrun():
        return settings.processes
    here = world()
    if settings.processes not in (1, here.local_ranks) or here.ranks % here.local_ranks:
        raise ConfigError(
            f"train.processes must be left out or be what torchrun started on each machine, {here.local_ranks} of "
            f"{here.ranks} processes in all, got {settings.processes}. Start torchrun with one --nproc-per-node on all "
            "machines, and leave train.processes out."
        )
    return here.local_ranks


def device_kind(settings: TrainSettings) -> str:
    """``"cuda"`` or ``"cpu"``: what the run's device setting means on this machine.

    Raises:
        ConfigError: a GPU that there is not, or more than there are, or others than torchrun has processes for.
    """
    present = torch.cuda.device_count()
    automatic = "cuda" if present else "cpu"
    kind, _, number = (automatic if settings.device == "auto" else settings.device).partition(":")
    wanted = local_devices(settings)
    if kind == "cuda" and not present:
        raise ConfigError(
            f"train.device must be auto or cpu on this machine, which has no CUDA device, got {settings.device}. "
            "Write train.device=auto."
        )
    if number and int(number) >= present:
        raise ConfigError(
            f"train.device must be one of the {present} CUDA devices of this machine, cuda:0 to cuda:{present - 1}, "
            f"got {settings.device}. Write train.device=cuda:{present - 1}."
        )
    if number and wanted > 1:
        raise ConfigError(
            f"train.device must be cuda where torchrun started {wanted} processes on this machine, a GPU for each, "
            f"got {settings.device}. Write train.device=cuda."
        )
    if kind == "cuda" and wanted > present:
        raise ConfigError(
            f"{_COUNTED[launched_by_torchrun()]} must be at most {present}, the CUDA devices of this machine, got "
            f"{wanted}. Set train.device=cpu, where any number can run."
        )
    return kind


def own_device(settings: TrainSettings) -> torch.device:
    """Where this process computes, before and after the training as well."""
    kind = device_kind(settings)
    if ":" in settings.device:
        return torch.device(settings.device)
    return torch.device(kind, world().local_rank) if kind == "cuda" and launched_by_torchrun() else torch.device(kind)


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

    Parameters that a step leaves unused (a term in its warm-up) are allowed.

    Raises:
        ConfigError: the machine lacks what the settings ask for.
    """
    # Takes a second or more to import, which only a training should pay.
    from lightning_fabric import Fabric

    from detdistill.training.ranks import Ranks

    kind, local, together = device_kind(settings), local_devices(settings), processes(settings)
    if kind == "cpu":
        require_precision(settings.precision, kind)
    strategy: DDPStrategy | str = "auto"
    if together > 1:
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        method: Literal["fork", "popen"] = "fork" if forks(settings) else "popen"
        strategy = Ranks(start_method=method, backend=_BACKENDS[kind])
    nodes, precision = together // local, settings.precision
    devices = [int(settings.device.partition(":")[2])] if ":" in settings.device else local
    return Fabric(accelerator=kind, devices=devices, num_nodes=nodes, strategy=strategy, precision=precision)


def launch(main: Callable[[Fabric], Outcome], settings: TrainSettings) -> Outcome:
    """Runs `main` on every device and returns what rank 0's returned.

    With one device, and under torchrun, it runs here; under torchrun each process returns what its own `main` did.
    With several devices it runs in forked processes: what it does to objects of this process stays there, so results
    belong on the disk, and nothing may have used CUDA here before. A Ctrl-C or SIGTERM that reaches this process
    reaches every rank. The objects of `main` must be local to it.

    Raises:
        DistillError: what any rank raised, or the loss of a process: another one, or one that reads images.
        Interrupted: the ranks were asked to stop.
    """
    fabric = make_fabric(settings)
    if forks(settings):
        return _forked(fabric, main)
    together = processes(settings)
    try:
        if together > 1:
            # A group for each training: names that the one before left in the store would be taken for this one's.
            group, backend = PrefixStore(f"training_{meet()}", store()), _BACKENDS[fabric.device.type]
            # Gloo connects at once, and would wait as long for one that died since then as for one that computes.
            soon = timedelta(seconds=LATE_AFTER_S) if backend == "gloo" else None
            distributed.init_process_group(backend, store=group, rank=world().rank, world_size=together, timeout=soon)
            if soon is not None:
                _set_timeout(distributed_c10d.default_pg_timeout)
        fabric.launch()
        return main(fabric)
    except RuntimeError as error:
        raise _told(error) from error
    finally:
        _leave_group()


def _told(error: RuntimeError) -> Exception:
    """The sentence about a process that is lost, as torch notices it; another error as it is."""
    if isinstance(error, distributed.DistError) or "gloo" in str(error):
        return lost(error)
    if "DataLoader worker" in str(error):
        return _died(
            str(error).splitlines()[0].strip(" ."), "by --resume, where memory ran short with fewer train.workers"
        )
    return error


def _died(how: str, remedy: str) -> DistillError:
    return DistillError(f"The run's processes must all live until its end, got: {how}. Go on {remedy}.")


def _forked(fabric: Fabric, main: Callable[[Fabric], Outcome]) -> Outcome:
    outcomes: SimpleQueue[Any] = multiprocessing.get_context("fork").SimpleQueue()
    crash: ProcessException | None = None
    with forward_signals():
        try:
            fabric.launch(lambda ranked: _rank(ranked, main, outcomes))
        except ProcessException as error:
            crash = error
    if isinstance(crash, ProcessExitedException) and crash.signal_name is not None:
        # The others notice its loss, and say no more than that.
        how = f"process {crash.error_index + 1} was ended by {crash.signal_name}"
        raise _died(how, "by --resume, where memory ran short once there is more") from crash
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
    """One forked rank's life. An error ends the process, so that the parent ends the ranks that wait for it."""
    gc.freeze()  # what was there before the fork needs no look: each would copy every page of it
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
    except RuntimeError as error:
        if isinstance(told := _told(error), DistillError):
            outcomes.put(told)
        raise told from error
    finally:
        _leave_group()


def _leave_group() -> None:
    """Ends the process group after the model is gone: gloo can abort a process that exits with both alive."""
    if distributed.is_available() and distributed.is_initialized():
        gc.collect()
        distributed.destroy_process_group()
