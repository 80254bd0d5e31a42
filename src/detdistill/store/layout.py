"""What lies where in a run's folder; nobody else spells these names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from detdistill.errors import ConfigError
from detdistill.files import read_json, write_json

# In the folder of a checkpoint, or of a detector saved alone: a plain student ...
WEIGHTS, DESCRIPTION = "student.safetensors", "student.json"
# ... and what its training needs to go on.
SIDECAR, COUNTERS = "training.safetensors", "training.json"
CHECKPOINTS, LATEST = "checkpoints", "latest.json"
_CHECKPOINT = re.compile(r"step_(\d{7,})")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of one run: what lies where in it.

    Attributes:
        path: the folder; it need not exist.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The run's settings, which run again as they are."""
        return self.path / "config.yaml"

    @property
    def results(self) -> Path:
        """What the run measured."""
        return self.path / "results.json"

    @property
    def metrics(self) -> Path:
        """Figures of the training, row by row."""
        return self.path / "metrics.csv"

    @property
    def evaluations(self) -> Path:
        """Figures of the evaluations during training, row by row."""
        return self.path / "evaluations.csv"

    @property
    def curves(self) -> Path:
        """The learning curves, drawn."""
        return self.path / "curves.png"

    @property
    def pictures(self) -> Path:
        """The same images as every detector of the run sees them."""
        return self.path / "pictures.png"

    @property
    def inherited(self) -> Path:
        """What the student took over from its teacher before the first step."""
        return self.path / "inherited.json"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's events."""
        return self.path / "tensorboard"

    @property
    def twins(self) -> Path:
        """The folder of the training images' twins, where the run keeps its own."""
        return self.path / "twins"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / CHECKPOINTS

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint after `step` steps."""
        return self.checkpoints / f"step_{step:07d}"

    def steps(self) -> list[int]:
        """After which steps there is a checkpoint, whole or not."""
        if not self.checkpoints.is_dir():
            return []
        names = (_CHECKPOINT.fullmatch(entry.name) for entry in self.checkpoints.iterdir() if entry.is_dir())
        return sorted(int(name[1]) for name in names if name)

    def latest(self) -> int | None:
        """The step of the checkpoint to go on from; None where nobody wrote it, or it cannot be read."""
        try:
            name = _CHECKPOINT.fullmatch(latest_of(self.checkpoints))
        except ConfigError:
            return None
        return int(name[1]) if name else None

    def name_latest(self, step: int) -> None:
        """Writes which checkpoint to go on from."""
        write_json(self.checkpoints / LATEST, {"checkpoint": self.checkpoint(step).name})


def latest_of(checkpoints: Path) -> str:
    """The name of the checkpoint that a folder of checkpoints calls its latest.

    Raises:
        ConfigError: the folder does not say, or what it says cannot be read.
    """
    pointer = checkpoints / LATEST
    content = read_json(pointer)
    name = content.get("checkpoint") if isinstance(content, dict) else None
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise ConfigError(
            f'{pointer} must name a checkpoint beside it as {{"checkpoint": "step_000600"}}, got {content!r}. '
            "Give one of the checkpoint folders instead."
        )
    return name
