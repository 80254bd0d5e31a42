"""Looks at videos with a detector, frame by frame, and draws what it finds on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from detdistill.data.dataset import Sample
from detdistill.data.loader import collate
from detdistill.data.resizing import transform_sample
from detdistill.data.transforms import ImageSettings
from detdistill.data.videos import Timed, Video, write_video
from detdistill.detectors.load_report import LoadedDetector
from detdistill.detectors.mapped import bare
from detdistill.detectors.predictions import Predictions
from detdistill.errors import ConfigError
from detdistill.evaluation.coco import ImageDetections
from detdistill.evaluation.detect import detect_split
from detdistill.files import DRAWING, atomic_folder, require_own, require_writable, write_bytes
from detdistill.jobs.opening import available_device
from detdistill.progress import Progress
from detdistill.report.draw import Mark, detection_marks, draw_marks, legend
from detdistill.report.palette import CLASS_COLOURS, drawn, marked, png_of
from detdistill.types import Targets

_AT_ONCE = 8
_UNLABELLED = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))


@dataclass(frozen=True, slots=True)
class Film:
    """What was found in a video, above the score, frame by frame in pixels of it.

    Attributes:
        path: the video.
        found: one entry a frame, whose image_id is its number, from 0.
    """

    path: Path
    found: tuple[ImageDetections, ...]


def film_places(videos: Sequence[Path], out: Path, *, frames: bool, given: Set[Path]) -> list[Path]:
    """Where each video's drawing goes, a file or a folder of frames; those of the same name get a number.

    Raises:
        ConfigError: something else lies there, or one of the files given.
        DiskError: the place cannot be written to.
    """
    places: dict[str, Path] = {}
    for path in videos:
        name, number = path.stem, 1
        while name.casefold() in places:
            number += 1
            name = f"{path.stem}_{number}"
        place = places[name.casefold()] = out / (name if frames else f"{name}.mp4")
        if place.resolve() in given:
            raise ConfigError(
                f"--out must be a folder whose videos are not predicted on, got {out}, where the drawing of {path} "
                f"would replace {place}. Give another folder."
            )
        if not frames:
            require_own(place, f"The drawing of {path}", marked(DRAWING).encode())
            continue
        require_writable(place, f"The drawings of {path}")
        if place.exists() and not place.is_dir():
            raise ConfigError(f"The drawings of {path} must go to a folder, got the file {place}. Give another folder.")
        for inside in place.iterdir() if place.is_dir() else ():
            require_own(inside, f"The drawings of {path}", drawn(DRAWING))
    return list(places.values())


def require_pixels(loaded: LoadedDetector, source: str) -> None:
    """Refuses a detector that looks at no pixels.

    Raises:
        ConfigError: it is a file of predictions.
    """
    if isinstance(bare(loaded.detector), Predictions):
        raise ConfigError(
            f"The detector that looks at videos must be one that sees pixels, got the predictions {source}. "
            "Give a run folder or a checkpoint."
        )


def watch(
    loaded: LoadedDetector,
    videos: Sequence[Video],
    places: Sequence[Path | None],
    size: ImageSettings,
    *,
    score: float,
    frames: bool,
    agnostic: bool,
    label: str,
    progress: Progress,
) -> tuple[Film, ...]:
    """Detects in every frame of all videos and draws them, under one bar; a video is written whole or not at all.

    Args:
        places: from `film_places`; None where nothing is to be drawn.
        size: that the detector sees.
        frames: whether PNGs are written instead of videos.
    """
    loaded.detector.to(available_device())
    films: list[Film] = []
    total, before = sum(one.frames for one in videos), 0
    progress.start(label, total, unit="frame")
    for video, place in zip(videos, places, strict=True):
        found: list[ImageDetections] = []

        def shown(video: Video = video, found: list[ImageDetections] = found, before: int = before) -> Iterator[Timed]:
            moments = iter(video)
            while some := list(islice(moments, _AT_ONCE)):
                pictures = [picture for _, picture in some]
                said = _detected(loaded, pictures, size, first=len(found), score=score, agnostic=agnostic)
                for (seconds, picture), one in zip(some, said, strict=True):
                    found.append(one)
                    yield seconds, np.asarray(_drawn(Image.fromarray(picture), one, loaded.class_names, score))
                progress.advance(min(before + len(found), total))

        if place is None:
            for _ in shown():
                pass
        elif frames:
            with atomic_folder(place, replace=True) as folder:
                for number, (_, picture) in enumerate(shown()):
                    write_bytes(folder / f"{number:06}.png", png_of(Image.fromarray(picture), DRAWING))
        else:
            write_video(place, shown(), rate=video.rate, comment=marked(DRAWING))
        films.append(Film(video.path, tuple(found)))
        before += video.frames
    progress.finish()
    return tuple(films)


def _detected(
    loaded: LoadedDetector,
    pictures: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]],
    size: ImageSettings,
    *,
    first: int,
    score: float,
    agnostic: bool,
) -> list[ImageDetections]:
    samples = []
    for number, picture in enumerate(pictures, start=first):
        image, _ = transform_sample(torch.from_numpy(picture).permute(2, 0, 1), _UNLABELLED, settings=size)
        seen, stored = (int(image.shape[1]), int(image.shape[2])), (picture.shape[0], picture.shape[1])
        samples.append(Sample(image, _UNLABELLED, seen, stored, image_id=number, seed=0))
    batch = collate(samples, pad_multiple=size.pad_multiple)
    found = detect_split(loaded.detector, [batch], device=available_device(), agnostic=agnostic)
    return [one.above(score) for one in found]


def _drawn(picture: Image.Image, found: ImageDetections, names: Sequence[str], score: float) -> Image.Image:
    """The frame with its boxes, and all classes' colours below where there are not too many: as high in every frame."""
    drawn = draw_marks(picture, detection_marks(found, score_threshold=score), class_names=names)
    every = [Mark((0, 0, 0, 0), label) for label in range(len(names) if len(names) <= len(CLASS_COLOURS) else 0)]
    strip = legend(every, class_names=names, width_px=drawn.width, note=f"score ≥ {score:g}")
    whole = Image.new("RGB", (drawn.width, drawn.height + strip.height))
    whole.paste(drawn, (0, 0))
    whole.paste(strip, (0, drawn.height))
    return whole
