"""Everything that decides how a run trains."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, Literal, get_args

from detdistill.errors import ConfigError, suggestion
from detdistill.settings.bounds import Factor, Gain, Images, Share, Steps, Within, require_bounds
from detdistill.settings.reading import renamed
from detdistill.settings.trees import TEXT, once

OptimizerName = Literal["sgd", "adamw"]
ScheduleName = Literal["cosine", "step", "constant"]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
Keep = Literal["last", "best"]
WhereNotFinite = Literal["stop", "skip"]
LoggerName = Literal["tensorboard", "mlflow", "wandb", "trackio"]
BestMetric = Literal["AP", "AP50", "AP75", "APs", "APm", "APl"]

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_WORDS = {"optimizer": OptimizerName, "schedule": ScheduleName, "precision": Precision}
_WORDS |= {"keep": Keep, "best_metric": BestMetric, "nan": WhereNotFinite}

_LEAST = dict.fromkeys(("steps", "batch_size", "accumulate", "processes", "log_every", "keep_checkpoints"), 1)
_LEAST |= dict.fromkeys(("warmup_steps", "seed", "workers", "threads", "checkpoint_every", "evaluate_every"), 0)
_LEAST |= {"patience": 0, "nan_skips": 1}

FREE_ON_RESUME = frozenset(
    {"workers", "log_every", "checkpoint_every", "keep_checkpoints", "evaluate_every", "tensorboard"}
    | {"loggers"}
    | {"nan", "nan_skips"}
)
"""Settings that a resumed run may change: none of them touches a weight of a run that ends, but `evaluate_every` where
an evaluation decides which student is kept or when to stop."""


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How a run trains; the same settings, data and seed give the same weights on a CPU.

    All but `FREE_ON_RESUME` must stay as they were when a run is resumed; `steps` too, since the schedule
    depends on it.

    Attributes:
        steps: optimiser steps of the whole run.
        batch_size: images of one optimiser step on each device.
        accumulate: micro-batches that one step is computed in; divides `batch_size`.
        optimizer: SGD with momentum, or AdamW.
        lr: the highest learning rate.
        backbone_lr_factor: times this the learning rate of the student's backbone; 0.1 is usual where it is pretrained
            and the rest is not. 0 leaves its weights as they are, while batch-norm statistics still follow the images.
        weight_decay: of weights with two or more axes; norms, biases and scales are never decayed.
        momentum: of SGD: how much of the step before it keeps, at least 0 and below 1.
        schedule: cosine to zero, ten times less at each milestone, or constant.
        milestones: where the step schedule drops, as fractions of `steps`.
        warmup_steps: first steps, over which the rate grows linearly; at most half of the run counts.
        clip_norm: largest norm of the whole gradient; 0 leaves it alone.
        ema_decay: of the average of the student's weights that is evaluated and saved; 0 turns it off.
        precision: 32-bit floats, or automatic mixed precision in bfloat16 or float16.
        seed: of everything random.
        workers: loader processes on each device.
        threads: CPU threads of each process; 0 leaves it to torch. Small networks are fastest with 1.
        processes: how many train together, each on a GPU of its own or on the CPU; not which GPU: that is `device`.
        device: where to train: `auto` (a GPU where there is one), `cpu`, `cuda`, or a certain GPU such as `cuda:1`.
        log_every: steps between two rows of ``metrics.csv``.
        checkpoint_every: steps between two checkpoints; 0 writes one at the end alone.
        keep_checkpoints: how many are kept; the one before the last stands in for a damaged one.
        evaluate_every: steps between two evaluations on the validation images, at the last step too; 0 for none.
        keep: which student the run ends with: the last, or that of the best evaluation. A figure that was picked on
            the validation images is better than the same student's on others.
        best_metric: COCO figure by which an evaluation is the best, for `keep` and `patience`.
        patience: evaluations in a row that are no better than the best before the run stops early; 0 never stops it.
        nan: what a step does whose loss or gradient is not finite: stop the run, or skip, that is change nothing.
        nan_skips: steps that are skipped at most where `nan` is skip; the next one stops the run.
        tensorboard: the same as tensorboard among the loggers.
        loggers: who is told the figures beside the CSV files: tensorboard, mlflow, wandb, trackio; any of them.

    Raises:
        ConfigError: a value is out of range.
    """

    steps: Annotated[int, Within(1, 1e9)]
    batch_size: Images
    accumulate: Images = 1
    optimizer: OptimizerName = "adamw"
    lr: Factor = 1e-3
    backbone_lr_factor: Factor = 1.0
    weight_decay: Factor = 0.05
    momentum: Share = 0.9
    schedule: ScheduleName = "cosine"
    milestones: tuple[Share, ...] = (2 / 3, 11 / 12)
    warmup_steps: Steps = 100
    clip_norm: Gain = 10.0
    ema_decay: Share = 0.998
    precision: Precision = "32-true"
    seed: Annotated[int, Within(0, 2**32 - 1)] = 0
    workers: Annotated[int, Within(0, 256)] = 0
    threads: Annotated[int, Within(0, 512)] = 0
    processes: Annotated[int, Within(1, 256)] = field(default=1, metadata=once("devices"))
    device: str = field(default="auto", metadata={**once("accelerator"), TEXT: True})
    log_every: Annotated[int, Within(1, 1e9)] = 10
    checkpoint_every: Steps = 500
    keep_checkpoints: Annotated[int, Within(1, 10000)] = 2
    evaluate_every: Steps = 0
    keep: Keep = "last"
    best_metric: BestMetric = "AP"
    patience: Steps = 0
    nan: WhereNotFinite = "stop"
    nan_skips: Annotated[int, Within(1, 1e9)] = 10
    tensorboard: bool = False
    loggers: tuple[LoggerName, ...] = ()

    def __post_init__(self) -> None:
        for name, bound in _LEAST.items():
            if getattr(self, name) < bound:
                raise ConfigError(f"train.{name} must be at least {bound}, got {getattr(self, name)}. Raise it.")
        for name in ("lr", "backbone_lr_factor", "weight_decay", "clip_norm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"train.{name} must be a finite number of at least 0, got {value}. Change it.")
        for name in ("momentum", "ema_decay"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ConfigError(f"train.{name} must be at least 0 and below 1, got {value}. Change it.")
        for name, words in _WORDS.items():
            value, known = getattr(self, name), get_args(words)
            if value not in known:
                raise ConfigError(
                    f"train.{name} must be one of {', '.join(known)}, got '{value}'. Choose one of these."
                )
        if strange := [name for name in self.loggers if name not in get_args(LoggerName)]:
            listed = ", ".join(get_args(LoggerName))
            raise ConfigError(f"train.loggers must be among {listed}, got {', '.join(strange)}. Choose of these.")
        self._check_device()
        if self.lr == 0:
            raise ConfigError("train.lr must be above 0, got 0. Set a learning rate such as 0.01.")
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"train.accumulate must divide train.batch_size ({self.batch_size}), got {self.accumulate}. "
                "Choose a divisor."
            )
        if list(self.milestones) != sorted(self.milestones) or not all(0 < m < 1 for m in self.milestones):
            raise ConfigError(
                f"train.milestones must be rising fractions between 0 and 1, got {list(self.milestones)}. "
                "Write for example [0.67, 0.92]."
            )
        self._check_selection()
        require_bounds(self, where="train")

    def _check_device(self) -> None:
        if not _DEVICE.fullmatch(self.device):
            remedy = suggestion(self.device, ("auto", "cpu", "cuda"), listed=True)
            if number := re.fullmatch(r"(?:gpu|cuda)? *:?(\d+)", self.device, flags=re.IGNORECASE):
                remedy = f"Write train.device=cuda:{number[1]} for the GPU of that number."
            raise ConfigError(
                f"train.device must be auto, cpu, cuda or a certain GPU such as cuda:1, got '{self.device}'. {remedy}"
            )
        if ":" in self.device and self.processes > 1:
            raise ConfigError(
                f"train.device must be auto, cpu or cuda where train.processes is {self.processes}, a GPU for each, "
                f"got {self.device}. Write train.processes=1."
            )

    def _check_selection(self) -> None:
        if self.selects and not self.evaluate_every:
            name, value, off = ("keep", "best", "last") if self.keep == "best" else ("patience", self.patience, 0)
            raise ConfigError(
                f"train.{name} must be {off} where train.evaluate_every is 0, so that nothing is evaluated during the "
                f"training, got {value}. Set train.evaluate_every, such as {max(1, self.steps // 10)}."
            )
        if self.best_metric != "AP" and not self.selects:
            raise ConfigError(
                f"train.best_metric must be AP where neither train.keep nor train.patience looks at it, got "
                f"{self.best_metric}. Set train.keep to best as well."
            )

    @property
    def told(self) -> tuple[LoggerName, ...]:
        """Who is told the figures, each once."""
        first: tuple[LoggerName, ...] = ("tensorboard",) if self.tensorboard else ()
        return tuple(dict.fromkeys((*first, *self.loggers)))

    @property
    def selects(self) -> bool:
        """Whether evaluations decide which student is kept, or when to stop."""
        return self.keep == "best" or self.patience > 0


def as_recorded(identity: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says that its run is, with the defaults of settings that came after it was written.

    Where it does not say yet which annotations the run learned from, these are taken for the `current` ones.
    """
    later = {one.name: one.default for one in fields(TrainSettings) if one.name not in FREE_ON_RESUME}
    later = {name: default for name, default in later.items() if default is not MISSING}
    train = json.loads(json.dumps(later)) | renamed(identity.get("train", {}), TrainSettings)
    return {"annotations": current.get("annotations"), **identity, "train": train}
