"""What a run is made of: the settings that `train_job` and `distill_job` take, and that `config.yaml` holds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from detdistill.data.sample_specific import SampleSpecificSettings
from detdistill.data.transforms import AugmentSettings, ImageSettings
from detdistill.data.unlabelled import UnlabelledSettings
from detdistill.detectors.catalogue import namesake, parse_detector
from detdistill.detectors.class_map import Merge, read_pairs
from detdistill.detectors.settings import DetectorSettings
from detdistill.errors import ConfigError, typed
from detdistill.jobs.doors import named_twice
from detdistill.methods.composition import MethodSettings
from detdistill.methods.parts.choose import Choose
from detdistill.settings import PLACE, as_tree, given, once
from detdistill.settings.bounds import Factor, Gain, Images, Share
from detdistill.settings.strict_yaml import dump_yaml
from detdistill.training.settings import TrainSettings

# How a config file is laid out.
_ORDER: tuple[str, ...] = ("data", "student", "teacher", "method", "twins", "inherit", "init")
_ORDER += ("seed", "train", "evaluate", "out", "alone", "alone_differs", "equal_time", "longer", "report")

TAUGHT_KEYS: tuple[str, ...] = ("teacher", "method", "alone", "alone_differs", "equal_time", "longer", "twins")
TAUGHT_KEYS += ("inherit", "data.unlabelled", "report")
"""What of a run `train` passes over: only teaching reads it."""


@dataclass(frozen=True, slots=True)
class DataSettings:
    """Which images a run learns from and is measured on.

    Attributes:
        folder: a data set folder (train.json, val.json, images/) or a COCO JSON; used for every split not given. A list
            of them is several data sets in one, with their classes united by name.
        train: the training split's own folder or JSON, or a list of them; None for what `folder` holds.
        val: the validation split's own folder or JSON, or a list of them; None for what `folder` holds.
        classes: names of the classes to keep, in the order of their labels; boxes of others are dropped, in train and
            val. None keeps all.
        weights: for each of several training sets, how often its images are drawn, whatever the set's size; only the
            ratios count. None draws every image equally often.
        image: to what size images are brought. None: the teacher's size where there is a teacher without a size of its
            own, else that of the detector that the run starts from, else the training images' own median size, at most
            800 x 1333.
        allow_problems: train even where most of a split's images or boxes had to be skipped.
        augment: how training images are varied: none, light (as without this key), medium (few images, many passes),
            strong (such in long training), or numbers of its own.
        sample_specific: noise or a crop for training images by the size of their objects, without a method that
            brings this along (`ikd` does); None for none, ``{}`` for the published numbers.
        sample_specific_until: share of the run after which that is off, as it is in `ikd`, whose control it is.
        unlabelled: images without labels for the distillation; None for none.
        cache: where training images are kept once they were decoded, for the passes that follow: ``ram``, which all
            loader processes of a machine share; ``disk``, for other runs too; or ``none``. The pixels are the same.
        cache_folder: folder in which ``disk`` keeps them, once for all runs that name it; None where nothing is.
        decode: ``reduced`` decodes JPEG files at a half, a quarter or an eighth of their sides where training needs no
            more pixels, which is faster and shows slightly other ones; ``full`` decodes all.
    """

    folder: Path | tuple[Path, ...] | None = None
    train: Path | tuple[Path, ...] | None = None
    val: Path | tuple[Path, ...] | None = None
    classes: tuple[str, ...] | None = None
    weights: tuple[Gain, ...] | None = None
    image: ImageSettings | None = None
    allow_problems: bool = False
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    sample_specific: SampleSpecificSettings | None = None
    sample_specific_until: Share = 2 / 3
    unlabelled: UnlabelledSettings | None = None
    cache: Literal["none", "ram", "disk"] = "none"
    cache_folder: Path | None = None
    decode: Literal["full", "reduced"] = "full"

    def __post_init__(self) -> None:
        if (self.cache == "disk") != (self.cache_folder is not None):
            needed, example = ("a folder", "FOLDER") if self.cache == "disk" else ("null", "null")
            raise ConfigError(
                f"data.cache_folder must be {needed} where data.cache is {self.cache}, got "
                f"{self.cache_folder or 'nothing'}. Write data.cache_folder={example}."
            )
        if not (self.sources("train") and self.sources("val")):
            raise ConfigError(
                "data.folder must be a data set folder or a COCO JSON, got nothing. "
                "Pass --data FOLDER, or give data.train and data.val."
            )
        for split in ("train", "val"):
            places = self.sources(split)
            known = [path.resolve() for path in places]
            if repeated := [path for number, path in enumerate(places) if known[number] in known[:number]]:
                raise ConfigError(
                    f"The {split} data must be different data sets, got {repeated[0]} twice. "
                    "Leave one out; data.weights draws a set more often."
                )
        if self.classes is not None and len(set(self.classes)) < max(len(self.classes), 1):
            raise ConfigError(
                f"data.classes must be the names of classes, each once, got {list(self.classes)}. "
                "Write for example data.classes=[car,truck], or null for all."
            )
        sets = len(self.sources("train"))
        usable = self.weights is None or (
            1 < sets == len(self.weights) and all(0 < weight < math.inf for weight in self.weights)
        )
        if not usable:
            example = typed([1] * sets) if sets > 1 else "null"
            raise ConfigError(
                f"data.weights must be a number above 0 for each of several training sets, here {sets}, got "
                f"{list(self.weights or ())}. Write for example data.weights={example}."
            )
        if not 0 <= self.sample_specific_until <= 1:
            raise ConfigError(
                "data.sample_specific_until must be between 0 and 1, the share of the run, got "
                f"{self.sample_specific_until}. Give one such as 0.667."
            )

    def sources(self, split: Literal["train", "val"]) -> tuple[Path, ...]:
        """The paths to open for `split`: its own, else the folders."""
        given = (self.train if split == "train" else self.val) or self.folder or ()
        return (given,) if isinstance(given, Path) else given


@dataclass(frozen=True, slots=True)
class StudentChoice:
    """The detector that is trained.

    Attributes:
        detector: FAMILY/PRESET or FAMILY/BACKBONE, such as fcos/tiny, or one's own, MODULE:CLASS or FILE.py:CLASS.
        settings: what it stands for, changed where the user did so.
    """

    detector: str
    settings: DetectorSettings

    def __post_init__(self) -> None:
        named, own = parse_detector(self.detector), self.settings
        for key in named.named_by:
            said, got = getattr(named, key), getattr(own, key)
            if said != got:
                meant = namesake(self.detector, got) if key == "family" else own.name
                raise ConfigError(
                    f"student.{key} must be {said}, as student.detector={self.detector} says, got {got}. "
                    f"Write student={meant} instead."
                )


@dataclass(frozen=True, slots=True)
class TeacherSettings:
    """The detector that teaches.

    Attributes:
        source: a run folder or checkpoint of ours, ``"torchvision:NAME[=FILE]"``, or one's own, MODULE:CLASS=WEIGHTS.
        then: teachers that follow, one after the other, each in a part of the run of its own.
        shares: how long those of `source` and each that follows teach; only the ratios count. None: equally long.
        choose: which of several teachers the student follows: ``mean`` all alike; on each image and level the one whose
            loss on the labels is ``lowest``, or all by the ``softmax`` of minus that loss.
        allow: names of tensors that may be missing or left over when its weights are loaded.
        image: to what size images are brought for it: ``own``, the size that it was trained at, or a section as in
            `data.image`. None: the student's size.
        mean: of the pixels, red, green and blue in [0, 1], as in its training elsewhere; None for what it came with.
        std: of the pixels, likewise; 1 / 255 stands for pixels from 0 to 255.
        classes_map: which of the data's classes its classes are, such as ``car=vehicle, truck=vehicle``, an empty name
            for none; classes that it does not name go by equal names. None: all go by equal names.
        classes_merge: how class scores are merged where several of its classes are one of the data's: ``sum`` their
            odds, or ``max``.
        cache: what is kept of it for every image, instead of asking it again: ``boxes`` that it found, where a run
            reads them, or ``maps`` too, what it showed of the image as stored and flipped, in half precision.
        cache_folder: folder in which that is kept, once for all runs that name it; None for ``finds`` in the run's
            folder.
        fold: whether its batch norms are computed within its convolutions, which is faster on a CPU and the same but
            for rounding.
    """

    source: str | tuple[str, ...] = field(metadata={PLACE: True})
    then: tuple[str, ...] = field(default=(), metadata={PLACE: True})
    shares: tuple[Gain, ...] | None = None
    choose: Choose = "mean"
    allow: tuple[str, ...] = ()
    image: ImageSettings | Literal["own"] | None = None
    mean: tuple[Share, Share, Share] | None = None
    std: tuple[Share, Share, Share] | None = None
    classes_map: str | None = None
    classes_merge: Merge = "sum"
    cache: Literal["boxes", "maps"] = "boxes"
    cache_folder: Path | None = field(default=None, metadata=once("cache"))
    fold: bool = False

    def __post_init__(self) -> None:
        read_pairs(self.classes_map or "")
        if not isinstance(self.source, str) and len(self.source) == 1:
            object.__setattr__(self, "source", self.source[0])
        parts, shares, named = self.parts, self.shares, [self.source] if isinstance(self.source, str) else self.source
        repeated = named_twice(self.sources)
        if not named or repeated is not None:
            raise ConfigError(
                f"teacher.source and teacher.then must name teachers, each once, got {repeated or 'none'}"
                f"{' twice' if repeated else ''}. Leave one of them out, or name one by --teacher."
            )
        if shares is not None and len(parts) == 1:
            raise ConfigError(
                f"teacher.shares must be left out where one teaches alone or all at once, got {typed(shares)}. Name "
                "who follows by --then, or leave it out."
            )
        if shares is not None and not (len(shares) == len(parts) and min(shares) > 0):
            raise ConfigError(
                f"teacher.shares must be {len(parts)} numbers above 0, one for the first teachers and one for each "
                f"that follows, got {typed(shares)}. Write for example teacher.shares={typed([1] * len(parts))}."
            )
        if self.std is not None and not min(self.std) > 0:
            raise ConfigError(
                f"teacher.std must be three numbers above 0 to 1, as pixels are, got {typed(self.std)}. "
                "Set teacher.std=null for what the teacher came with."
            )

    @property
    def parts(self) -> tuple[tuple[str, ...], ...]:
        """Who teaches together, one part of the run after the other."""
        first = (self.source,) if isinstance(self.source, str) else self.source
        return (first, *((one,) for one in self.then))

    @property
    def sources(self) -> tuple[str, ...]:
        """All teachers in order."""
        return tuple(one for part in self.parts for one in part)

    @property
    def text(self) -> str:
        """All of them in words."""
        return ", then ".join(" and ".join(part) for part in self.parts)


@dataclass(frozen=True, slots=True)
class TwinSettings:
    """Where the twins of the training images come from, for a method that looks at such (`ikd`).

    Attributes:
        folder: of the cache on disk, which several runs may share; None for ``twins`` in the run's folder.
        on_the_fly: make them anew at every step instead of keeping them.
    """

    folder: Path | None = None
    on_the_fly: bool = False


@dataclass(frozen=True, slots=True)
class EvaluateSettings:
    """How a run is measured.

    Attributes:
        backend: what computes COCO's figures; all agree.
        batch_size: images at a time; no figure depends on it.
        agnostic: suppress boxes across classes, for classes that look alike and pile up on one object; false suppresses
            boxes of the same class alone.
    """

    backend: Literal["hotcoco", "faster", "pycocotools"] = "hotcoco"
    batch_size: Images = 8
    agnostic: bool = False


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Everything that decides what a run does; `yaml` writes it so that the command line runs it again as it is.

    Attributes:
        data: which images it learns from and is measured on.
        student: the detector that is trained.
        train: how it is trained.
        out: folder of the run.
        evaluate: how it is measured.
        twins: where the twins of the training images come from, for a method that looks at such.
        teacher: the detector that teaches; None for plain training.
        method: settings of the method that distils; None for plain training.
        inherit: whether the student's neck and heads start from the teacher's, where names and shapes match.
        init: the detector whose weights the student starts from, class layers by the names of classes: a run folder or
            checkpoint of ours, or ``"torchvision:NAME[=FILE]"``; None for fresh weights.
        alone: run folder of the same student trained alone, for the comparison; None where there is none.
        alone_differs: whether `alone` may have been trained otherwise, which then stands beside the figures.
        equal_time: train the student alone as well, for as long as its distillation took.
        longer: train the student alone as well, for so many times the steps, such as 2; None for no such run.
        report: whether a distillation leaves report.html at its end, a page of all that it came to.
    """

    data: DataSettings = field(metadata=given("Pass --data FOLDER, or write it in the config file"))
    student: StudentChoice
    train: TrainSettings
    out: Path = field(metadata=given("Pass --out FOLDER, or write it in the config file"))
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    teacher: TeacherSettings | None = None
    method: MethodSettings | None = None
    twins: TwinSettings = field(default_factory=TwinSettings)
    inherit: bool = False
    init: str | None = field(default=None, metadata={PLACE: True})
    alone: Path | None = None
    alone_differs: bool = False
    equal_time: bool = False
    longer: Factor | None = None
    report: bool = True

    def __post_init__(self) -> None:
        if self.alone_differs and self.alone is None:
            raise ConfigError(
                "alone_differs must be false where there is no student alone to compare with, got true. "
                "Pass --alone RUN as well."
            )
        if self.longer is not None and self.longer <= 1:
            raise ConfigError(f"longer must be above 1, times the steps of the run, got {self.longer:g}. Give 2.")
        if self.inherit and self.teacher is not None and len(self.teacher.sources) > 1:
            raise ConfigError(
                f"inherit must be false with several teachers, got true with {self.teacher.text}. Leave out --inherit, "
                "or start from one of them by --init."
            )
        if self.inherit and self.init is not None:
            raise ConfigError(
                f"inherit must be false for a student that starts from {self.init}, got true. Leave out --inherit, or "
                "--init."
            )

    @property
    def seed(self) -> int:
        """The one seed of the run."""
        return self.train.seed

    def untaught(self) -> RunConfig:
        """The run of the same student without a teacher."""
        no_alone: dict[str, Any] = {"alone": None, "alone_differs": False, "equal_time": False, "longer": None}
        data = replace(self.data, unlabelled=None)
        return replace(self, data=data, teacher=None, method=None, inherit=False, **no_alone)

    def as_dict(self) -> dict[str, Any]:
        """The run as nested dictionaries, laid out as in a config file; what is None at the top is left out."""
        tree: dict[str, Any] = as_tree(self)
        tree |= {"student": {"detector": self.student.detector, **tree["student"]["settings"]}}
        tree |= {"seed": tree["train"].pop("seed"), "out": self.out, "alone": self.alone}
        if self.method is None:
            tree |= {"twins": None, "inherit": None, "equal_time": None, "report": None}
        if self.alone is None:
            tree |= {"alone_differs": None}
        return {key: tree[key] for key in _ORDER if tree[key] is not None}

    def yaml(self) -> str:
        """The run as the text of a config file."""
        return dump_yaml(self.as_dict())
