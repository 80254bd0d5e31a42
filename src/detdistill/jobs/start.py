"""What a run starts from: `RunConfig.init`, a detector whose weights the student takes over before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detdistill.data.annotations import Annotations
from detdistill.data.transforms import ImageSettings
from detdistill.detectors.base import Detector
from detdistill.detectors.frozen import digest
from detdistill.detectors.inherit import initialise
from detdistill.detectors.load_report import LoadReport
from detdistill.errors import ConfigError, typed
from detdistill.files import read_json, write_json
from detdistill.jobs.opening import open_detector
from detdistill.jobs.paths import read_from
from detdistill.jobs.settings import RunConfig
from detdistill.jobs.sizes import same_size
from detdistill.progress import Progress
from detdistill.settings import build
from detdistill.settings.strict_yaml import load_yaml
from detdistill.store.layout import RunFolder
from detdistill.training.world import by_leader


@dataclass(frozen=True, slots=True)
class Start:
    """The detector that a run starts from.

    Attributes:
        source: as the run's settings name it.
        digest: of its weights, which a resumed run must have begun with.
        image: how its training images were prepared; empty where nobody said.
        detector: None where the run goes on from a checkpoint of its own, and needs it no more.
    """

    source: str
    digest: str
    image: Mapping[str, Any]
    detector: Detector | None

    def initialise(self, student: Detector, progress: Progress) -> LoadReport | None:
        """Copies its weights into the student; None where the run goes on from its own."""
        if self.detector is None:
            return None
        theirs, ours = self.detector.settings, student.settings
        if theirs is not None and ours is not None and (theirs.mean, theirs.std) != (ours.mean, ours.std):
            keys = (f"student.{key}={typed(getattr(theirs, key) or ())}" for key in ("mean", "std"))
            progress.say(f"init: {self.source} learnt from pixels normalised otherwise than here: set {' '.join(keys)}")
        return initialise(student, self.detector, name=self.source)

    def write(self, run: RunFolder, report: LoadReport) -> None:
        """Writes into the run's folder what was taken over, tensor by tensor, and what a resume asks for."""
        said = {"source": self.source, "digest": self.digest, "image": dict(self.image)}
        write_json(run.init, {**said, **report.as_dict()})

    def say_size(self, size: ImageSettings, annotations: Annotations, progress: Progress) -> None:
        """Says where the run's images come at another size than its own did."""
        own = ImageSettings(**self.image) if self.image else size
        if not same_size(own, size, annotations):
            progress.say(
                f"init: {self.source} learnt from images of {own.text()}; this run has them with {size.text()}"
            )


def open_start(config: RunConfig, *, resume: bool, progress: Progress) -> Start | None:
    """Opens the detector that a run starts from; None where it starts from fresh weights.

    A run that has a checkpoint goes on from that: its own record stands in for a detector that is there no more.

    Raises:
        ConfigError: there is no such detector, and the run needs it.
    """
    source = config.init
    if source is None:
        return None
    begun = by_leader(lambda: _recorded(RunFolder(config.out))) if resume else None
    try:
        loaded = open_detector(source, progress=progress)
    except ConfigError as error:
        if begun is None or Path(begun.source).resolve() != Path(source).resolve():
            raise
        progress.say(f"init: the run goes on from its own checkpoint without {source} ({error})")
        return begun
    return Start(
        source,
        digest=digest(loaded.detector),
        image=loaded.image if begun is None else begun.image,
        detector=loaded.detector if begun is None else None,
    )


def _recorded(run: RunFolder) -> Start | None:
    """What a run with checkpoints started from, by its own record; None without either."""
    if not run.steps() or not (run.init.is_file() and run.config.is_file()):
        return None
    content, settings = read_json(run.init), load_yaml(run.config)
    try:
        # The config file names the source as it is seen from here.
        image = content["image"] and asdict(build(ImageSettings, content["image"], where=f"{run.init}: image"))
        return Start(read_from(settings, run.config)["init"], str(content["digest"]), image, detector=None)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{run.init} must hold digest and image, and {run.config} init, got something else. Restore the files as "
            "they were written."
        ) from error
