"""What lies where in a run's folder; nobody else spells these names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import final

from detdistill.errors import ConfigError
from detdistill.files import read_json, write_json
from detdistill.store.sums import is_whole, sealed

# In the folder of a checkpoint, or of a detector saved alone: a plain student ...
WEIGHTS, DESCRIPTION = "student.safetensors", "student.json"
# ... and what its training needs to go on.
SIDECAR, COUNTERS = "training.safetensors", "training.json"
# ... and SHA-256 of its files, where training needs no more of it.
SUMS = "sums.json"
CHECKPOINTS, BEST, LATEST = "checkpoints", "best", "latest.json"
# Says which process works in a folder; `store.lock` alone opens it.
LOCK = "run.lock"
PAGE = "report.html"
# The run of the student alone for longer, in the folder of the distillation that it stands beside.
ALONE_LONGER = "alone_longer"
# The run of a student in the folder of a chain, by its number from 1.
GENERATION = "generation_{}"
_CHECKPOINT = re.compile(r"step_(\d{7,})")
# The runs of one seed in the folder of a study.
_SEED = re.compile(r"seed_(\d+)")


@final
class _Inside:
    """A path in the folder of a run, or of a study."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, run: RunFolder | StudyFolder, kind: type[RunFolder | StudyFolder]) -> Path:
        return run.path / self._name


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of one run: what lies where in it.

    Attributes:
        path: the folder; it need not exist.
        config: the run's settings, which run again as they are.
        results: what the run measured.
        metrics: figures of the training, row by row.
        evaluations: figures of the evaluations during training, row by row.
        curves: the learning curves, drawn.
        pictures: the same images as every detector of the run sees them.
        page: all of it for a browser.
        init: what the student took over from the detector that the run started from.
        confusion: which class each detector of the run takes for which, drawn; `confusion_counts` has the numbers.
        inherited: what the student took over from its teacher before the first step.
        tensorboard: the folder of TensorBoard's events.
        loggers: the folder of what the other loggers keep, and by what name each is gone on with.
        twins: the folder of the training images' twins, where the run keeps its own.
        unlabelled: from which scores on the teacher's boxes count in the images without labels.
        finds: the folder of what the teacher found in the images, where the run keeps its own.
        checkpoints: the folder of checkpoints.
        best: the folder of the best evaluation's student, where the run keeps that one.
    """

    path: Path
    config = _Inside("config.yaml")
    results = _Inside("results.json")
    metrics = _Inside("metrics.csv")
    evaluations = _Inside("evaluations.csv")
    curves = _Inside("curves.png")
    pictures = _Inside("pictures.png")
    page = _Inside(PAGE)
    init = _Inside("init.json")
    confusion = _Inside("confusion.png")
    confusion_counts = _Inside("confusion.json")
    inherited = _Inside("inherited.json")
    tensorboard = _Inside("tensorboard")
    loggers = _Inside("loggers")
    twins = _Inside("twins")
    unlabelled = _Inside("unlabelled.json")
    finds = _Inside("finds")
    checkpoints = _Inside(CHECKPOINTS)
    best = _Inside(BEST)

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint after `step` steps."""
        return self.checkpoints / _after(step)

    def candidate(self, step: int) -> Path:
        """The folder of the student that an evaluation after `step` steps found to be the best so far."""
        return self.best / _after(step)

    def steps(self) -> list[int]:
        """After which steps there is a checkpoint, whole or not."""
        return _steps_in(self.checkpoints)

    def candidates(self) -> list[int]:
        """After which steps a student was found to be the best so far, and is there, whole or not."""
        return _steps_in(self.best)

    def latest(self) -> int | None:
        """The step of the checkpoint to go on from; None where nobody wrote it, or it cannot be read."""
        try:
            name = _CHECKPOINT.fullmatch(latest_of(self.checkpoints))
        except ConfigError:
            return None
        return int(name[1]) if name else None

    def name_latest(self, step: int) -> None:
        """Writes which checkpoint to go on from."""
        write_json(self.checkpoints / LATEST, sealed({"checkpoint": self.checkpoint(step).name}))


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """The folder of a study of several seeds: what lies where in it.

    Attributes:
        path: the folder; it need not exist.
        verdict: what was found.
        picture: the same, drawn.
        page: all of it for a browser.
        twins: the folder of the training images' twins, which its runs share.
        finds: the folder of what the teacher found in the images, which they share too.
    """

    path: Path
    verdict = _Inside("verdict.json")
    picture = _Inside("verdict.png")
    page = _Inside(PAGE)
    twins = _Inside("twins")
    finds = _Inside("finds")

    def run(self, seed: int, name: str) -> Path:
        """The run folder of a student of one seed."""
        return self._of(seed) / name

    def found(self, seed: int, name: str) -> Path:
        """What a detector of one seed found in the validation images."""
        return self._of(seed) / "found" / f"{name}.safetensors"

    def _of(self, seed: int) -> Path:
        return self.path / f"seed_{seed}"

    def owns(self, name: str) -> bool:
        """Whether a study has something of that name in its folder."""
        own = {one.name for one in (self.verdict, self.picture, self.page, self.twins, self.finds)}
        return name in own or _SEED.fullmatch(name) is not None


def _after(step: int) -> str:
    return f"step_{step:07d}"


def _steps_in(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    names = (_CHECKPOINT.fullmatch(entry.name) for entry in folder.iterdir() if entry.is_dir())
    return sorted(int(name[1]) for name in names if name)


def latest_of(checkpoints: Path) -> str:
    """The name of the checkpoint that a folder of checkpoints calls its latest; ConfigError where it calls none so."""
    pointer = checkpoints / LATEST
    content = read_json(pointer)
    name = content.get("checkpoint") if isinstance(content, dict) and is_whole(content) else None
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise ConfigError(
            f'{pointer} must name a checkpoint beside it as {{"checkpoint": "step_000600"}}, got {content!r}. '
            "Give one of the checkpoint folders instead."
        )
    return name
