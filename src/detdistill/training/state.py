"""What a run's memory holds that the disk must hold too, and the way there and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn, optim

from detdistill.errors import ConfigError
from detdistill.store.checkpoints import Checkpoint
from detdistill.training.ema import Ema

_STUDENT = "student."
_STEP = "step_module."
_OPTIMIZER = "optimizer."


@final
class TrainingState:
    """The step, its optimiser, the average and the loss scaler as flat tensors and JSON counters.

    Where an average is kept it is the plain student of a checkpoint, and the raw student goes into the
    sidecar; where none is kept, the raw student is the plain one and is not written twice.
    """

    def __init__(
        self,
        step: nn.Module,
        optimizer: optim.Optimizer,
        *,
        ema: Ema | None,
        scaler: torch.amp.GradScaler | None,
    ) -> None:
        self._step = step
        self._optimizer = optimizer
        self._ema = ema
        self._scaler = scaler

    def tensors(self) -> dict[str, Tensor]:
        """Copies of all tensors of the sidecar, on the CPU."""
        found = {
            f"{_STEP}{name}": tensor
            for name, tensor in self._step.state_dict().items()
            if self._ema is not None or not name.startswith(_STUDENT)
        }
        for name, figures in self._optimizer_state().items():
            for key, value in figures.items():
                if isinstance(value, Tensor):
                    found[f"{_OPTIMIZER}{key}.{name}"] = value
        return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in found.items()}

    def counters(self) -> dict[str, Any]:
        """Small figures, as JSON."""
        state = self._optimizer_state()
        figures = {
            name: {key: v for key, v in values.items() if v is not None and not isinstance(v, Tensor)}
            for name, values in state.items()
        }
        return {
            "ema_updates": None if self._ema is None else self._ema.updates,
            "optimizer_groups": self._groups(),
            "optimizer_figures": {name: values for name, values in figures.items() if values},
            "scaler": None if self._scaler is None else self._scaler.state_dict(),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Puts everything back as it was.

        Raises:
            ConfigError: the checkpoint is of another model.
        """
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
        self._restore_optimizer(checkpoint)
        if self._scaler is not None:
            self._scaler.load_state_dict(snapshot.counters["scaler"])

    def _restore_optimizer(self, checkpoint: Checkpoint) -> None:
        snapshot = checkpoint.snapshot
        names = [name for group in self._groups() for name in group]
        state: dict[str, dict[str, Any]] = {
            name: dict(figures) for name, figures in snapshot.counters["optimizer_figures"].items()
        }
        for full, tensor in snapshot.tensors.items():
            if full.startswith(_OPTIMIZER):
                key, name = full.removeprefix(_OPTIMIZER).split(".", 1)
                state.setdefault(name, {})[key] = tensor
        content = self._optimizer.state_dict()
        content["state"] = {names.index(name): figures for name, figures in state.items()}
        self._optimizer.load_state_dict(content)

    def _groups(self) -> list[list[str]]:
        names = {id(parameter): name for name, parameter in self._step.named_parameters()}
        return [[names[id(p)] for p in group["params"]] for group in self._optimizer.param_groups]

    def _optimizer_state(self) -> dict[str, dict[str, Any]]:
        names = {id(parameter): name for name, parameter in self._step.named_parameters()}
        return {names[id(parameter)]: figures for parameter, figures in self._optimizer.state.items()}


def _load(module: nn.Module, tensors: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        name = min(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        raise ConfigError(
            f"tensor {name} must have the shape {expected.get(name)} to resume from {checkpoint.path}, "
            f"got {found.get(name)}. Use the student and the method that the run began with."
        )
    # With the module's own version marks, no layer takes these names for those of an older release.
    current = module.state_dict()
    for name, tensor in tensors.items():
        current[name] = tensor
    module.load_state_dict(current)
