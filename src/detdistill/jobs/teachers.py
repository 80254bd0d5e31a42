"""Which of several teachers is the best for one student, by trainings of the same few steps, and at what cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from detdistill.errors import ConfigError
from detdistill.evaluation.coco import ImageDetections
from detdistill.jobs import stages
from detdistill.jobs.doors import named_twice
from detdistill.jobs.examine import Sample
from detdistill.jobs.plan import MEASURED
from detdistill.jobs.samples import Opened, held_out
from detdistill.jobs.settings import RunConfig
from detdistill.jobs.trial import Bars, probed, tried
from detdistill.progress import Progress, counted
from detdistill.proof.differences import Difference
from detdistill.report.tables import Table

_SHARE = 0.25
_SECONDS, _LEAST = 180.0, 60


@dataclass(frozen=True, slots=True)
class Taught:
    """What a teacher did for the student.

    Attributes:
        teacher: where it is from.
        parameters: that it has.
        ap: its own AP in percent on the images held out.
        student: AP there of the student that it taught.
        gain: the student's AP over that of the student alone, with its 95 % interval over the images.
        seconds: that the training took.
    """

    teacher: str
    parameters: int
    ap: float
    student: float
    gain: Difference
    seconds: float

    @property
    def per_minute(self) -> float:
        """Points of AP a minute of training."""
        return 60.0 * self.gain.mean / self.seconds

    @property
    def gained(self) -> str:
        """In words."""
        return f"{self.gain.mean:+.1f} AP [{self.gain.low:+.1f}, {self.gain.high:+.1f}], {self.per_minute:.1f} a minute"


@dataclass(frozen=True, slots=True)
class TeachersOutcome:
    """Teachers, the best first.

    Attributes:
        ranked: by points of AP that their students gained a minute of training.
        ahead: by how much the first one's student is better than the second's.
        over_largest: likewise, than that of the teacher with the most parameters.
        alone: AP in percent of the student alone.
        steps: of every training.
        images: to learn from, and held out of training to judge by.
    """

    ranked: tuple[Taught, ...]
    ahead: Difference
    over_largest: Difference
    alone: float
    steps: int
    images: tuple[int, int]

    def sentences(self) -> list[str]:
        """Which is the best, how sure that is, and whether it is the largest."""
        best, second = self.ranked[:2]
        after = f"over the student alone after {counted(self.steps, 'equal step')}"
        if best.gain.mean <= 0:
            return [f"no teacher helped: the best, {best.teacher}, gained {best.gained} {after}"]
        told = [f"{best.teacher} teaches this student best: {best.gained}, {after}"]
        if not self.ahead.excludes_zero:
            told.append(f"so few steps and images do not tell it from {second.teacher}: gained {second.gained}")
        largest = max(self.ranked, key=lambda one: one.parameters)
        if largest.parameters > best.parameters > 0:
            times = largest.parameters / best.parameters
            word = "not measurably better"
            if self.over_largest.excludes_zero:
                word = "not the better teacher so far" if self.over_largest.mean > 0 else "better, but not for its time"
            told.append(
                f"the largest, {largest.teacher}, is {word}: with {times:.1f} times as many parameters it gained "
                f"{largest.gained}"
            )
        return told

    def table(self) -> list[str]:
        """A row for each teacher, and the sentences."""
        rows = tuple(
            (
                one.teacher,
                round(one.parameters / 1e6, 2),
                one.ap,
                one.student,
                one.gain.mean,
                one.gain.low,
                one.gain.high,
                one.seconds / 60,
                one.per_minute,
            )
            for one in self.ranked
        )
        columns = (
            "teacher",
            "M parameters",
            "its AP",
            "student's AP",
            "gain",
            "from",
            "to",
            "minutes",
            "gain a minute",
        )
        judged = f"judged on {counted(self.images[1], 'image')} held out of training, {self.images[0]} to learn from"
        table = Table(columns, rows, signed=("gain", "from", "to", "gain a minute")).text(decimals=2)
        alone = f"the student alone has {self.alone:.1f} AP after {counted(self.steps, 'step')}; {judged}"
        return [*table.splitlines(), "", alone, *self.sentences()]

    def as_dict(self) -> Mapping[str, Any]:
        """The same for JSON."""
        return {
            "ranked": [{**asdict(one), "per_minute": one.per_minute} for one in self.ranked],
            "ahead": self.ahead.as_dict(),
            "over_largest": self.over_largest.as_dict(),
            "alone": self.alone,
            "steps": self.steps,
            "images": {"learned": self.images[0], "held_out": self.images[1]},
            "sentences": self.sentences(),
        }


def teachers_job(config: RunConfig, teachers: Sequence[str], *, progress: Progress | None = None) -> TeachersOutcome:
    """Trains the student alone and with each teacher, from the same weights on the same images in the same order.

    All trainings have the same steps, so many as some minutes allow, with a schedule of that length; a part of the
    training images is held out to judge by, so that the validation images stay unseen. Nothing is left behind.

    Args:
        config: of the distillation; whatever teacher it names is passed over.
        teachers: run folders, checkpoints or torchvision:NAME.

    Raises:
        ConfigError: fewer than two, or one of them twice.
        DistillError: one of them cannot teach this student on this data.
    """
    if len(teachers) < 2 or named_twice(teachers):
        raise ConfigError(
            f"--teachers must be at least two different ones, got {', '.join(teachers) or 'none'}. Name them one by "
            "one, as --teachers runs/small --teachers runs/large."
        )
    watcher = Bars(progress)
    taught = dict(_opened(config, teachers, watcher))
    first = taught[teachers[0]]
    bare = first.untaught()
    every = {**taught, "": bare}
    watcher.start("try a few steps", len(every) * MEASURED)
    each = 0.0
    for number, opened in enumerate(every.values(), start=1):
        each += tried(stages.prove(stages.build(opened)), MEASURED).step_seconds
        watcher.advance(number * MEASURED)
    watcher.finish()
    steps = min(config.train.steps, max(_LEAST, int(_SECONDS / max(each, 1e-9))))
    sample = Sample(bare, bare.data.val, watcher)
    found, seconds = dict[str, list[ImageDetections]](), dict[str, float]()
    for source, opened in every.items():
        label = f"distil from {source}" if source else "train the student alone"
        student, seconds[source] = probed(opened, steps, label=label, progress=watcher)
        found[source] = sample.found_by(student, bare.data.image, label="what the student finds")
    ranked = []
    for source, opened in taught.items():
        assert opened.teacher is not None
        teacher = opened.teacher.detector
        own = sample.ap(sample.found_by(teacher, opened.taught_at, label=f"what {source} finds"))
        gain = _gap(sample, found[source], found[""])
        parameters = sum(one.numel() for one in teacher.parameters())
        ranked.append(Taught(source, parameters, own or 0.0, sample.ap(found[source]) or 0.0, gain, seconds[source]))
    ranked.sort(key=lambda one: one.per_minute if one.gain.mean > 0 else one.gain.mean, reverse=True)
    largest = max(ranked, key=lambda one: one.parameters)
    ahead, over = (_gap(sample, found[ranked[0].teacher], found[one.teacher]) for one in (ranked[1], largest))
    images = len(bare.data.train), len(bare.data.val)
    return TeachersOutcome(tuple(ranked), ahead, over, sample.ap(found[""]) or 0.0, steps, images)


def _opened(config: RunConfig, teachers: Sequence[str], progress: Progress) -> Iterator[tuple[str, Opened]]:
    """The same data for each teacher, a part of it held out, at the image size that the first one decides."""
    assert config.teacher is not None
    for source in teachers:
        one = replace(config, teacher=replace(config.teacher, source=source), alone=None, alone_differs=False)
        opened = stages.open_inputs(one, progress=progress)
        config = replace(config, data=replace(config.data, image=opened.data.image))
        yield source, held_out(opened, _SHARE)


def _gap(sample: Sample, better: Sequence[ImageDetections], worse: Sequence[ImageDetections]) -> Difference:
    gap = sample.gap(better, worse)
    if gap is None:
        raise ConfigError(
            f"The images held out to judge teachers by must hold objects in enough of {len(sample.images)} images for "
            "an interval, got too few. Give more training images."
        )
    return gap
