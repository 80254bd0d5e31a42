"""What a run reads, and what happens to its samples beside augmentation: a recipe's change to them, and twins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate, islice, pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detdistill.data.annotations import Annotations
from detdistill.data.dataset import (
    DetectionDataset,
    Draw,
    FoundReader,
    KeptPlaces,
    SampleTransform,
    TwinReader,
    read_image,
)
from detdistill.data.decoded import Kept
from detdistill.data.held_out import hold_out
from detdistill.data.loader import Beside, collate, evaluation_loader, training_loader
from detdistill.data.mixture import Mixture
from detdistill.data.problems import Problems
from detdistill.data.sample_specific import SampleSpecific, shares
from detdistill.data.transforms import ImageSettings
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.detectors.load_report import LoadedDetector
from detdistill.detectors.predictions import says_of
from detdistill.distillation.constant import ConstantWeigh, with_constant_weights
from detdistill.distillation.recipe import Recipe
from detdistill.distillation.spread import with_spread_weights
from detdistill.distillation.twins import RepeatableMaker
from detdistill.distillation.view import CLEAN
from detdistill.errors import ConfigError, DataError
from detdistill.jobs.settings import DataSettings, RunConfig
from detdistill.jobs.start import Start
from detdistill.progress import Progress
from detdistill.store.layout import RunFolder
from detdistill.store.twins import open_twin_cache
from detdistill.training.launch import forks, own_device
from detdistill.training.result import Loader
from detdistill.training.settings import TrainSettings
from detdistill.types import Batch

_PROOF_IMAGES = 4


@dataclass(frozen=True, slots=True)
class OpenedData:
    """Both splits of a run's data, with the same classes, and the size the models see.

    Attributes:
        mixture: in which order training images of several sets are drawn; None for all equally often.
        told: what was repaired or skipped as the splits were read, by split.
    """

    train: Annotations
    val: Annotations
    image: ImageSettings
    mixture: Mixture | None = None
    told: Mapping[str, Problems] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Opened:
    """What a run reads.

    Attributes:
        resume: whether the run goes on from its latest checkpoint.
        teacher: None where none teaches; several are one that finds what any of the last of them finds.
        teacher_image: the size at which it sees the images; None where it is the student's.
        same_classes: whether the teacher knows all of the data's classes; only then its figures mean anything.
        alone: the same student trained alone, for the comparison; None where there is none.
        start: the detector that the run starts from; None for fresh weights.
        unlabelled: images for the distillation alone, without boxes yet; None for none.
        several: all teachers one by one, where there are several.
        found_at: the size at which a teacher that says boxes alone sees images as they are stored, before the training;
            None for any other.
    """

    config: RunConfig
    resume: bool
    data: OpenedData
    teacher: LoadedDetector | None
    same_classes: bool
    alone: LoadedDetector | None
    teacher_image: ImageSettings | None = None
    start: Start | None = None
    unlabelled: Annotations | None = None
    several: tuple[LoadedDetector, ...] = ()
    found_at: ImageSettings | None = None

    @property
    def teachers(self) -> tuple[LoadedDetector, ...]:
        """All teachers one by one."""
        return self.several or (() if self.teacher is None else (self.teacher,))

    @property
    def taught_at(self) -> ImageSettings:
        """The size at which the teacher sees the images."""
        return self.found_at or self.teacher_image or self.data.image

    @property
    def teacher_measures(self) -> bool:
        """Whether figures of the teacher on the validation images mean anything."""
        return self.teacher is not None and self.same_classes and says_of(self.teacher.detector, self.data.val)

    @property
    def first_device(self) -> torch.device:
        """Where the run computes before it trains: processes are forked from one that must not have touched a GPU."""
        train = self.config.train
        return torch.device("cpu") if forks(train) else own_device(train)

    def untaught(self) -> Opened:
        """The inputs of the same student without a teacher."""
        config = self.config.untaught()
        return replace(
            self,
            config=config,
            teacher=None,
            same_classes=True,
            alone=None,
            teacher_image=None,
            unlabelled=None,
            several=(),
            found_at=None,
        )


def held_out(opened: Opened, share: float, *, fold: int = 0) -> Opened:
    """The same inputs with a share of the training images as the validation images, others in every fold."""
    data, seed = opened.data, opened.config.seed
    learned, judged = hold_out(data.train, share, seed=seed, fold=fold)
    mixture = data.mixture
    if mixture is not None:
        edges = accumulate(mixture.sizes, initial=0)
        sizes = tuple(int(((learned >= a) & (learned < b)).sum()) for a, b in pairwise(edges))
        mixture = replace(mixture, sizes=sizes)
    parts = replace(data, train=data.train.of(learned), val=data.train.of(judged), mixture=mixture)
    return replace(opened, data=parts)


@dataclass(frozen=True, slots=True)
class SampleChanges:
    """What happens to training samples beside augmentation.

    Attributes:
        transform: a change before the resize; None for none.
        until: share of the run after which samples come plain: without transform and twins.
        twins: readers of further versions of every image, by name.
        found: reads what is learned of the teacher's finds in every image; None where nothing is.
        kept: where what the teachers showed is kept; None where it is not.
        decoded: where training images are kept once they were decoded; empty where they are not.
    """

    transform: SampleTransform | None = None
    until: float = 1.0
    twins: Mapping[str, TwinReader] = field(default_factory=lambda: MappingProxyType({}))
    found: FoundReader | None = None
    kept: KeptPlaces | None = None
    decoded: Kept = field(default_factory=lambda: MappingProxyType({}))

    def identity(self) -> dict[str, Any]:
        """What of it must be the same on resume."""
        if not isinstance(self.transform, SampleSpecific):
            return {}
        return {"sample_specific": {**asdict(self.transform.settings), "until": self.until}}


def own_changes(settings: DataSettings) -> SampleChanges:
    """The change to samples that a run's data section asks for."""
    if settings.sample_specific is None:
        return SampleChanges()
    return SampleChanges(transform=SampleSpecific(settings.sample_specific), until=settings.sample_specific_until)


def recipe_changes(recipe: Recipe, settings: DataSettings) -> SampleChanges:
    """The change to samples that a recipe asks for, else that of the data section; twins are not opened yet."""
    own = own_changes(settings)
    if recipe.sample_transform is None:
        until = max((weighted.until for weighted in recipe.terms if weighted.view != CLEAN), default=own.until)
        if own.transform is not None and own.until != until:
            raise ConfigError(
                f"data.sample_specific_until must be the share of the run for which {recipe.name} looks at its twins, "
                f"{until:g}, got {own.until:g}. Set both to the same share."
            )
        return replace(own, until=until)
    if own.transform is not None:
        raise ConfigError(
            f"data.sample_specific must be left out with a method that changes the samples itself, got both it and "
            f"{recipe.name}. Set the method's own numbers, such as method.small_px=32."
        )
    return SampleChanges(transform=recipe.sample_transform, until=recipe.transform_until)


def training_data(opened: Opened, changes: SampleChanges) -> DetectionDataset:
    """The training view of the data, with what a recipe changes about samples and the twins it looks at."""
    return DetectionDataset(
        opened.data.train,
        image=opened.data.image,
        teacher_image=opened.teacher_image,
        augment=opened.config.data.augment,
        seed=opened.config.seed,
        sample_transform=changes.transform,
        twins=changes.twins,
        found=changes.found,
        kept=changes.kept,
        decoded=changes.decoded,
        reduced=opened.config.data.decode == "reduced",
    )


def batches_for(
    opened: Opened, changes: SampleChanges, settings: TrainSettings, *, beside: Beside | None = None
) -> Loader:
    """What a training with these settings reads, from any step on, and the unlabelled images beside that."""
    dataset = training_data(opened, changes)
    return lambda start, rank, ranks: training_loader(
        dataset,
        batch_size=settings.batch_size,
        steps=settings.steps,
        start_step=start,
        plain_from=round(changes.until * settings.steps),
        mixture=opened.data.mixture,
        beside=beside,
        workers=settings.workers,
        rank=rank,
        ranks=ranks,
    )


def batch_with_boxes(opened: Opened, changes: SampleChanges) -> Batch:
    """The first training images that have something to teach; refused where there is none."""
    dataset, train = training_data(opened, changes), opened.data.train
    with_boxes = (index for index in range(len(train)) if (~train.ignored[train.objects(index)]).any())
    drawn = (dataset[Draw(epoch=0, index=index)] for index in with_boxes)
    samples = list(islice((sample for sample in drawn if len(sample.targets.taught().labels)), _PROOF_IMAGES))
    if not samples:
        raise DataError(
            "The training images must have at least one box to learn, got none. "
            "Check the annotations with `detdistill data check DATA`."
        )
    multiples = opened.data.image.pad_multiple, opened.taught_at.pad_multiple
    return collate(samples, pad_multiple=multiples[0], teachers_multiple=multiples[1])


def twins_folder(recipe: Recipe, opened: Opened) -> Path | None:
    """Where the twins lie that a recipe looks at; None where it looks at none, or they are made on the fly."""
    if opened.config.twins.on_the_fly or not any(isinstance(one, RepeatableMaker) for one in recipe.twins.values()):
        return None
    return opened.config.twins.folder or RunFolder(opened.config.out).twins


def least_of_twins(recipe: Recipe, opened: Opened) -> int:
    """Bytes that the twins still to be made take at least: with its noise, none is smaller than its image's file."""
    folder = twins_folder(recipe, opened)
    if folder is None:
        return 0
    images = [opened.data.train, *([] if opened.unlabelled is None else [opened.unlabelled])]
    makers = sum(isinstance(one, RepeatableMaker) for one in recipe.twins.values())
    made = sum(path.stat().st_size for path in folder.glob("*/*.png"))
    return max(0, makers * sum(map(_file_bytes, images)) - made)


def _file_bytes(images: Annotations) -> int:
    """Bytes of the files of images, of each at most one for every pixel: one without compression says nothing."""
    pixels = images.sizes[:].prod(1, dtype=np.int64)
    paths = (images.path(row) for row in range(len(images)))
    return sum(min(path.stat().st_size, int(size)) for path, size in zip(paths, pixels, strict=True) if path.is_file())


def open_twins(
    recipe: Recipe, teacher: FrozenTeacher, opened: Opened, images: Annotations, progress: Progress
) -> dict[str, TwinReader]:
    """Readers of the twins of images that a recipe looks at, made where they are not on the disk yet; none where a run
    makes them on the fly.
    """
    config, folder = opened.config, twins_folder(recipe, opened)
    if folder is None:
        return {}
    return {
        name: open_twin_cache(
            folder,
            maker=maker,
            teacher=teacher,
            annotations=images,
            image=opened.taught_at,
            batch_size=config.train.batch_size,
            device=opened.first_device,
            progress=progress,
        )
        for name, maker in kept_twins(recipe, opened).items()
    }


def kept_twins(recipe: Recipe, opened: Opened) -> dict[str, RepeatableMaker]:
    """The makers of the twins of a recipe that are kept on the disk, by name."""
    makers = {} if opened.config.twins.on_the_fly else recipe.twins
    return {name: maker for name, maker in makers.items() if isinstance(maker, RepeatableMaker)}


def standing_in(recipe: Recipe, opened: Opened, images: Annotations) -> dict[str, TwinReader]:
    """Readers that show each image as its own twin: a step then takes as long as with twins from the cache."""

    def itself(index: int) -> Tensor:
        height, width = map(int, images.sizes[index])
        return read_image(images.path(index), image_id=int(images.image_ids[index]), size=(height, width))

    return dict.fromkeys(kept_twins(recipe, opened), itself)


def weighed(recipe: Recipe, teacher: FrozenTeacher, opened: Opened, progress: Progress) -> Recipe:
    """The recipe with every plan of a weight measured on the training images as they are, without augmentation.

    The teacher looks at each of them once for alphas and once for constants, or at none where the recipe has neither.
    """

    def batches(what: str) -> Iterator[Batch]:
        device, train = opened.first_device, opened.data.train
        teacher.to(device)
        progress.start(f"measure {what}", len(train), unit="image")
        seen = 0
        plain = DetectionDataset(train, image=opened.taught_at)
        for batch in evaluation_loader(plain, batch_size=opened.config.evaluate.batch_size):
            yield batch.to(device)
            seen += len(batch)
            progress.advance(seen)
        progress.finish()

    spread, alphas = with_spread_weights(recipe, teacher, batches("how far weights differ"))
    for name, (alpha, reached) in alphas.items():
        progress.say(f"{name}: alpha {alpha:.3g}, at which the weights of the training images differ by {reached:.2f}")
    measured = with_constant_weights(spread, teacher, batches("constant weights"))
    for before, after in zip(spread.terms, measured.terms, strict=True):
        if before.weigh is not after.weigh and isinstance(after.weigh, ConstantWeigh):
            weights = (
                f"{value:.4f} {'off the levels' if stride is None else f'at stride {stride}'}"
                for (knowledge, stride), value in after.weigh.weights.items()
                if knowledge is after.term.knowledge
            )
            progress.say(f"{after.name}: constant weight {', '.join(weights)}")
    return measured


def reached(changes: SampleChanges, data: OpenedData, progress: Progress) -> dict[str, float] | None:
    """Which shares of the training images sample-specific augmentation reaches, said and by name; None without it."""
    if not isinstance(changes.transform, SampleSpecific):
        return None
    found = shares(data.train, changes.transform.settings)
    progress.say(
        f"sample-specific augmentation: {found.cropped:.1%} of the training images are cropped, "
        f"{found.noise_eligible:.1%} hold small boxes alone and noise reaches {found.noised_expected:.1%} in an epoch"
    )
    return asdict(found)
