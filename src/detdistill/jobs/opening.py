"""Opens what a job works with, data and detectors from anywhere, and looks at images with a detector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from detdistill.data.annotations import Annotations, Reading
from detdistill.data.dataset import DetectionDataset
from detdistill.data.loader import BatchLoader, evaluation_loader, training_loader
from detdistill.data.problems import Lost, Problems
from detdistill.data.sources import find_split, read_found
from detdistill.data.transforms import AugmentSettings, ImageSettings
from detdistill.detectors.base import Detector
from detdistill.detectors.class_map import OPTION, ClassMap, Merge, read_pairs
from detdistill.detectors.load_report import LoadedDetector
from detdistill.detectors.mapped import bare, in_classes_of
from detdistill.detectors.predictions import Predictions, looking
from detdistill.errors import ConfigError, DataError
from detdistill.evaluation.coco import ImageDetections
from detdistill.evaluation.detect import detect_split
from detdistill.jobs.doors import door_of
from detdistill.progress import Progress, Silence
from detdistill.training.memory import needing_memory
from detdistill.types import Batch

if TYPE_CHECKING:  # predicting imports no method
    from detdistill.jobs.settings import TeacherSettings

LARGEST_SHORT_SIDE, LARGEST_LONG_SIDE = 800, 1333
CLASSES = "classes"


@dataclass(frozen=True, slots=True)
class OpenedSplit:
    """One split of a data set, to look at and to learn from; `image` is the size to which `batches` brings images."""

    annotations: Annotations
    image: ImageSettings

    def __len__(self) -> int:
        """How many images."""
        return len(self.annotations)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in label order."""
        return self.annotations.class_names

    def batches(
        self,
        batch_size: int = 8,
        *,
        steps: int | None = None,
        seed: int = 0,
        augment: AugmentSettings | None = None,
        teacher_image: Mapping[str, Any] | ImageSettings | None = None,
        workers: int = 0,
    ) -> BatchLoader:
        """Batches to train on, or every image once.

        Args:
            batch_size: images at a time.
            steps: so many batches of shuffled and augmented images; None for every image once, in order, as it is.
            seed: decides order and augmentation of those `steps` batches.
            augment: how their images are varied; None for flips alone.
            teacher_image: the size at which a teacher sees the same images, where it has one of its own.
            workers: processes that read ahead, to the same result.
        """
        theirs = ImageSettings(**teacher_image) if isinstance(teacher_image, Mapping) else teacher_image
        seen = partial(DetectionDataset, self.annotations, image=self.image, teacher_image=theirs)
        if steps is None:
            return evaluation_loader(seen(), batch_size=batch_size, workers=workers)
        varied = seen(augment=augment or AugmentSettings(), seed=seed)
        return training_loader(varied, batch_size=batch_size, steps=steps, workers=workers)


def read_split(
    data: Path,
    split: Literal["train", "val", "test"],
    *,
    class_names: tuple[str, ...] | None = None,
    exact: bool = False,
    allow_problems: bool = False,
    whole: bool = False,
    title: str | None = None,
    told: Problems | None = None,
    progress: Progress,
) -> Annotations:
    """Reads one split and tells what was repaired or skipped in it, calling it `title`; else as `open_split`.

    What was is added to `told`, too. Refused where most of the images or of the boxes were skipped, unless
    `allow_problems`; if `whole`, where a single image was.
    """
    title = title or f"{split} data"
    found = find_split(data, split, exact=exact)
    progress.say(f"{title} read as {found.text()}")
    annotations, problems = read_found(found, split, Reading(class_names))
    for line in problems.summary():
        progress.say(f"{title}: {line}")
    if told is not None:
        told.extend(problems)
    if whole and (gone := problems.lost("images")):
        raise DataError(
            f"The {split} images of {data} must be all {len(annotations) + gone}, got {gone} that cannot be used "
            "(the lines above say which). Put them there."
        )
    left: dict[Lost, int] = {"images": len(annotations), "boxes": int((~annotations.ignored).sum())}
    for what, number in left.items():
        if (lost := problems.lost(what)) > number and not allow_problems:
            raise DataError(
                f"The {split} split of {data} must keep at least half of its {what}, got {number} of {lost + number} "
                "(the lines above say why). Mend them, or go on with what is left by --allow-problems."
            )
    return annotations


def image_settings(image: Mapping[str, Any] | None, annotations: Annotations) -> ImageSettings:
    """The image size a checkpoint describes; where there is none the images' own median size, at most 800 x 1333."""
    if image:
        return ImageSettings(**image)
    short, long = (int(np.median(sides)) for sides in (annotations.sizes[:].min(1), annotations.sizes[:].max(1)))
    scale = min(1.0, LARGEST_SHORT_SIDE / short, LARGEST_LONG_SIDE / long)
    return ImageSettings(short_side=max(1, round(short * scale)), long_side=max(1, round(long * scale)))


def seen_size(loaded: LoadedDetector, annotations: Annotations, *, source: str, progress: Progress) -> ImageSettings:
    """The image size that `image_settings` gives a detector, said."""
    size = image_settings(loaded.image, annotations)
    whose = "its own size" if loaded.image else "the images' median size, as its checkpoint names none"
    progress.say(f"{source} sees images with {size.text()}: {whose}")
    return size


def open_detector(source: str, *, allow: Sequence[str] = (), progress: Progress | None = None) -> LoadedDetector:
    """A detector from wherever the text says (`doors`), with its load report told.

    Refused where a tensor is missing or left over whose name does not begin with one of `allow`.
    """
    loaded = door_of(source).open(source, frozenset(allow) - {CLASSES})
    for line in (loaded.report.text(), *loaded.notes):
        (progress or Silence()).say(f"{source}: {line}")
    return loaded


def acquainted(
    loaded: LoadedDetector, splits: Mapping[str, Annotations], *, sets: int = 1, progress: Progress | None = None
) -> LoadedDetector:
    """The detector beside the images that it will be shown, by what messages call them; the first decide its classes.

    A detector of a predictions file is told which of them the file knows, and has the data's classes where the file
    names none; any other is as it was.

    Args:
        loaded: left as it is.
        splits: by what messages call them.
        sets: of how many data sets they are.
        progress: told.

    Raises:
        ConfigError: there are several sets, and the file has the ids of one.
        DataError: the file says nothing of the first, or is of other images.
    """
    detector, (first, images) = loaded.detector, next(iter(splits.items()))
    if not isinstance(detector, Predictions):
        return loaded
    if sets > 1 and not loaded.class_names:
        raise ConfigError(
            f"The data of {detector.found.path}, plain results with the ids of one data set, must be one, got {sets}. "
            "Give a file with categories and file names."
        )
    named = detector.with_classes_of(images)
    for title, one in splits.items():
        tell_known(named, one, title=title, some=title == first, progress=progress or Silence())
    return replace(loaded, detector=named, class_names=named.spec.class_names)


def tell_known(detector: Detector, images: Annotations, *, title: str, some: bool, progress: Progress) -> None:
    """Says of how many images the predictions files behind a detector say something.

    Raises:
        DataError: it is to be some, and one says nothing of any.
    """
    for part in detector.modules():
        if isinstance(part, Predictions):
            progress.say(part.match_note(images, title=title))
            if some and not part.knows(images):
                raise DataError(
                    f"{part.found.path} must say what is in the {title}, got none of {len(images)}, such as "
                    f"{images.file_name(0)}. {part.remedy}"
                )


def in_data_classes(
    loaded: LoadedDetector, names: tuple[str, ...], *, source: str, choice: TeacherSettings | None, progress: Progress
) -> tuple[LoadedDetector, bool]:
    """A detector shown in the data's classes `names`, said, and whether it knows all of them.

    Args:
        choice: the map that somebody wrote, and whether a teacher of other classes is taken as it is; None for a
            detector that is compared alone.

    Raises:
        ConfigError: no class of the data's is among its.
    """
    pairs = () if choice is None else read_pairs(choice.classes_map or "")
    if choice is not None and CLASSES in choice.allow and not pairs:
        return loaded, loaded.class_names == names
    merge: Merge = "sum" if choice is None else choice.classes_merge
    classes = ClassMap.between(loaded.class_names, names, pairs=pairs, merge=merge)
    if not classes.known:
        remedy = "Take one of these classes."
        if choice is not None:
            example = f'{OPTION} "{loaded.class_names[0]}={names[0]}"'
            remedy = f"Say which is which, as by {example}, or set teacher.allow=[classes] for a method on features."
        raise ConfigError(
            f"The teacher {source} must know one of the data's classes, {', '.join(names)}, got "
            f"{', '.join(loaded.class_names)}. {remedy}"
        )
    mapped = in_classes_of(loaded, classes)
    if mapped is not loaded:
        progress.say(f"{source}: {classes.text()}")
    return mapped, not classes.unknown


def detect(
    detector: Detector,
    annotations: Annotations,
    image: ImageSettings,
    *,
    label: str,
    batch_size: int = 8,
    agnostic: bool = False,
    device: torch.device | None = None,
    progress: Progress,
) -> list[ImageDetections]:
    """What a detector finds in the images of a split at the size that it is to see; it is left on the device.

    Args:
        agnostic: whether boxes suppress each other across classes.
        device: where to run; None for CUDA where there is one, else the CPU.
    """
    where = device or available_device()
    loader: Iterable[Batch] = evaluation_loader(DetectionDataset(annotations, image=image), batch_size=batch_size)
    if isinstance(by_file := bare(detector), Predictions):
        loader = by_file.batches(annotations, batch_size=batch_size)
    progress.start(label, len(annotations), unit="image")
    what = f"{label or 'evaluate'}: {batch_size} images"
    memory = needing_memory(what, remedy="Free memory; a run takes a lower evaluate.batch_size")
    with memory, looking(detector, annotations):
        found = detect_split(detector.to(where), loader, device=where, agnostic=agnostic, progress=progress.advance)
    progress.finish()
    return found


def available_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
