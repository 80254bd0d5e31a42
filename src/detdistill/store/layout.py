"""What lies where in a run's folder; nobody else spells these names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's events."""
        return self.path / "tensorboard"

    @property
    def twins(self) -> Path:
        """The folder of the training images' twins, where the run keeps its own."""
        return self.path / "twins"
