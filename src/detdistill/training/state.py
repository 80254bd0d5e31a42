"""What a run's memory holds that the disk must hold too, the running average among it, and the way there and back."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn, optim

from detdistill.errors import ConfigError
from detdistill.store.checkpoints import Checkpoint

_STUDENT, _STEP, _OPTIMIZER = "student.", "step_module.", "optimizer."


@final
class Ema:
    """An exponential moving average of a student's parameters and float buffers, which is evaluated and saved.

    average ← d · average + (1 - d) · student, with d = min(decay, (1 + t) / (10 + t)) at update t, so that the random
    weights of the beginning are soon forgotten. Other buffers (counters) are copied.

    Attributes:
        student: the averaged student, in eval mode; no gradients.
        updates: how often it was updated.
    """

    def __init__(self, student: nn.Module, *, decay: float) -> None:
        self.student = copy.deepcopy(student).requires_grad_(False).eval()
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Moves the average towards `student`."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        current, averages = student.state_dict(), self.student.state_dict()
        floats = [name for name, average in averages.items() if average.is_floating_point()]
        torch._foreach_lerp_([averages[name] for name in floats], [current[name] for name in floats], 1.0 - decay)
        for name in averages.keys() - floats:
            averages[name].copy_(current[name])


@final
class TrainingState:
    """The step, its optimiser, the average and the loss scaler as flat tensors and JSON counters.

    Where an average is kept it is the plain student of a checkpoint, and the raw student goes into the sidecar; where
    none is kept, the raw student is the plain one and is not written twice.
    """

    def __init__(
        self, step: nn.Module, optimizer: optim.Optimizer, *, ema: Ema | None, scaler: torch.amp.GradScaler | None
    ) -> None:
        self._step, self._optimizer, self._ema, self._scaler = step, optimizer, ema, scaler
        self._parameters = dict(step.named_parameters())
        self._names = {id(parameter): name for name, parameter in self._parameters.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Copies of all tensors of the sidecar, on the CPU."""
        found = {
            f"{_STEP}{name}": tensor
            for name, tensor in self._step.state_dict().items()
            if self._ema is not None or not name.startswith(_STUDENT)
        }
        for parameter, figures in self._optimizer.state.items():
            for key, value in figures.items():
                if isinstance(value, Tensor):
                    found[f"{_OPTIMIZER}{key}.{self._names[id(parameter)]}"] = value
        return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in found.items()}

    def counters(self) -> dict[str, Any]:
        """Small figures, as JSON."""
        figures = {
            self._names[id(parameter)]: {k: v for k, v in values.items() if v is not None and not isinstance(v, Tensor)}
            for parameter, values in self._optimizer.state.items()
        }
        return {
            "ema_updates": None if self._ema is None else self._ema.updates,
            "optimizer_groups": self._groups(),
            "optimizer_figures": {name: values for name, values in figures.items() if values},
            "scaler": None if self._scaler is None else self._scaler.state_dict(),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Puts everything back as it was; refuses the checkpoint of another model (ConfigError)."""
        snapshot = checkpoint.snapshot
        if snapshot.counters["optimizer_groups"] != self._groups():
            raise ConfigError(
                f"the trained parameters must be those of {checkpoint.path}, got others. "
                "Use the student and the method that the run began with."
            )
        own = {k.removeprefix(_STEP): t for k, t in snapshot.tensors.items() if k.startswith(_STEP)}
        averaged = snapshot.counters["ema_updates"]
        if averaged is None:
            own |= {f"{_STUDENT}{name}": tensor for name, tensor in checkpoint.student.items()}
        elif self._ema is not None:
            _load(self._ema.student, checkpoint.student, checkpoint)
            self._ema.updates = averaged
        _load(self._step, own, checkpoint)
        state = {name: dict(figures) for name, figures in snapshot.counters["optimizer_figures"].items()}
        for full, tensor in snapshot.tensors.items():
            if full.startswith(_OPTIMIZER):
                key, name = full.removeprefix(_OPTIMIZER).split(".", 1)
                state.setdefault(name, {})[key] = _laid_out(tensor, like=self._parameters[name])
        names = [name for group in self._groups() for name in group]
        content = self._optimizer.state_dict()
        content["state"] = {names.index(name): figures for name, figures in state.items()}
        self._optimizer.load_state_dict(content)
        if self._scaler is not None:
            self._scaler.load_state_dict(snapshot.counters["scaler"])

    def _groups(self) -> list[list[str]]:
        return [[self._names[id(p)] for p in group["params"]] for group in self._optimizer.param_groups]


def _laid_out(figure: Tensor, *, like: Tensor) -> Tensor:
    """A figure of a parameter in its order in memory, which optimisers that step in one operation go by."""
    if figure.shape != like.shape:
        return figure
    return torch.empty_like(like, dtype=figure.dtype, device=figure.device).copy_(figure)


def _load(module: nn.Module, tensors: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    current = module.state_dict()
    expected, found = ({name: tuple(t.shape) for name, t in side.items()} for side in (current, tensors))
    if expected != found:
        name = min(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        raise ConfigError(
            f"tensor {name} must have the shape {expected.get(name)} to resume from {checkpoint.path}, "
            f"got {found.get(name)}. Use the student and the method that the run began with."
        )
    # With the module's own version marks, no layer takes these names for those of an older release.
    current.update(tensors)
    module.load_state_dict(current)


@contextmanager
def plain(student: nn.Module, ema: Ema | None) -> Iterator[nn.Module]:
    """The student that counts, in eval mode; the trained one gets every mode back as it was."""
    if ema is not None:
        yield ema.student
        return
    modes = [(module, module.training) for module in student.modules()]
    student.eval()
    try:
        yield student
    finally:
        for module, mode in modes:
            module.training = mode
