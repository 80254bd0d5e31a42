"""Draws what a detector finds on images and videos, and writes it as JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detdistill.data.annotations import Annotations
from detdistill.data.dataset import read_image
from detdistill.data.image_files import settled_size
from detdistill.data.listing import IMAGE_SUFFIXES, is_companion
from detdistill.data.problems import Problems
from detdistill.data.sources import open_split, present_splits
from detdistill.data.videos import VIDEO_SUFFIXES, Video
from detdistill.errors import ConfigError, DataError, astray
from detdistill.evaluation.coco import ImageDetections
from detdistill.evaluation.shared import require_score
from detdistill.files import (
    DRAWING,
    figures_of,
    read_json,
    require_own,
    write_bytes,
    write_figures,
    write_json,
)
from detdistill.jobs.films import Film, film_places, require_pixels, watch
from detdistill.jobs.opening import acquainted, detect, open_detector, seen_size
from detdistill.progress import Progress, Silence, counted
from detdistill.report.draw import draw_detections
from detdistill.report.palette import drawn, png_of
from detdistill.report.tables import AGNOSTIC, Table

PREDICTIONS = "predictions.json"
_COMMAND = "predict --coco"


@dataclass(frozen=True, slots=True)
class PredictOutcome:
    """What was found above the score in every image that can be read, in the order given, and in every video.

    The drawings lie in `out`, where one was asked for.

    `problems` tells what was passed over in folders, what cannot be read, and how photos were turned; `coco` is the
    data set that was written, where one was asked for, with the scores of classes where `class_scores` asks for them.
    """

    out: Path | None
    images: tuple[Path, ...]
    found: tuple[ImageDetections, ...]
    class_names: tuple[str, ...]
    agnostic: bool = False
    problems: Problems = field(default_factory=Problems)
    coco: Path | None = None
    class_scores: bool = False
    films: tuple[Film, ...] = ()

    @property
    def failure(self) -> str | None:
        """Which files are no images; None where all are."""
        return _unreadable(self.problems, len(self.images))

    def table(self) -> list[str]:
        """One line per image and video, then where the drawings are."""
        rows = []
        seen = [(str(path), one.labels) for path, one in zip(self.images, self.found, strict=True)]
        for film in self.films:
            every = np.concatenate([one.labels for one in film.found])
            seen.append((f"{film.path}, {counted(len(film.found), 'frame')}", every))
        for name, every in seen:
            labels, counts = np.unique(every, return_counts=True)
            named = (f"{self.class_names[label]} {count}" for label, count in zip(labels, counts, strict=True))
            rows.append((name, len(every), ", ".join(named)))
        table = Table(("image", "boxes", "classes"), tuple(rows)).text(decimals=0)
        piled = [AGNOSTIC] if self.agnostic else []
        piled += [] if any(len(every) for _, every in seen) else ["nothing was found that surely: try a lower --score"]
        told = self.problems.summary()
        scored = any(one.probabilities is not None for one in self.found)
        note = f"; {'each' if scored else 'none'} with the score of every class" if self.class_scores else ""
        told += [] if self.coco is None else [f"the boxes as a data set: --data {self.coco}{note}"]
        told += [] if self.out is None else [f"drawings and {PREDICTIONS} in {self.out}"]
        return [*table.splitlines(), *piled, "", *told]

    def as_dict(self) -> Mapping[str, Any]:
        """Boxes (x1, y1, x2, y2 of the image, upright), scores and class names by file, of videos by FILE#FRAME."""
        entries = [(str(path), one) for path, one in zip(self.images, self.found, strict=True)]
        entries += [(f"{film.path}#{one.image_id}", one) for film in self.films for one in film.found]
        return {
            name: [
                {
                    "box": [round(float(edge), 2) for edge in box],
                    "score": float(score),
                    "class": self.class_names[label],
                }
                for box, score, label in zip(one.boxes, one.scores, one.labels, strict=True)
            ]
            for name, one in entries
        }


def predict_job(
    checkpoint: str,
    images: Sequence[Path],
    *,
    data: Path | None = None,
    out: Path | None = None,
    score: float = 0.3,
    agnostic: bool = False,
    coco: Path | None = None,
    class_scores: bool = False,
    frames: bool = False,
    progress: Progress | None = None,
) -> PredictOutcome:
    """Runs a detector, draws and writes what it finds; the words are those of `detdistill.predict`."""
    _require_asked(images, data, out, coco, class_scores=class_scores)
    require_score(score)
    watcher = progress or Silence()
    problems = Problems()
    given = _given_files(images, problems)
    files = [path for path in given if not _is_video(path)]
    clips = [path for path in given if _is_video(path)]
    _require_fitting(clips, coco, frames=frames)
    videos = [Video.of(path) for path in clips]
    loaded = open_detector(checkpoint, progress=watcher)
    if videos:
        require_pixels(loaded, checkpoint)
    sizes = {path: upright for path in files if (upright := _size(path, problems)) is not None}
    sizes |= {} if data is None else _data_images(data, watcher)
    files = list(sizes)
    if not files and not videos:
        raise DataError(_unreadable(problems, 0))
    inputs = {path.resolve() for path in (*given, *files)}
    drawings = [] if out is None else _drawings(files, out, given=inputs)
    places = [None] * len(clips) if out is None else film_places(clips, out, frames=frames, given=inputs)
    if coco is not None:
        _require_beside(coco, files)
        require_own(coco, "--coco", figures_of(_COMMAND))
    if out is not None:
        _require_own_predictions(out / PREDICTIONS)
    resolved = {str(path.resolve()): size for path, size in sizes.items()}
    annotations = Annotations.without_boxes(Path("/"), resolved, loaded.class_names)
    loaded = acquainted(loaded, {"images": annotations}, progress=watcher)
    looked_at = Annotations.without_boxes(
        Path("/"), {**resolved, **{str(one.path.resolve()): one.size for one in videos}}, loaded.class_names
    )
    size, label = seen_size(loaded, looked_at, source=checkpoint, progress=watcher), f"detect with {checkpoint}"
    everything: list[ImageDetections] = []
    if files:
        everything = detect(loaded.detector, annotations, size, label=label, agnostic=agnostic, progress=watcher)
    found = tuple(one.above(score) for one in everything)
    outcome = PredictOutcome(
        out, tuple(files), found, loaded.class_names, agnostic, problems, coco, class_scores=class_scores
    )
    for path, drawing, one in zip(files if drawings else (), drawings, found if drawings else (), strict=True):
        picture = Image.fromarray(read_image(path, image_id=one.image_id, size=sizes[path]).permute(1, 2, 0).numpy())
        shown = draw_detections(picture, one, class_names=loaded.class_names, score_threshold=score)
        write_bytes(drawing, png_of(shown, DRAWING))
    if videos:
        said: dict[str, Any] = {"score": score, "frames": frames, "agnostic": agnostic, "label": label}
        outcome = replace(outcome, films=watch(loaded, videos, places, size, **said, progress=watcher))
    if out is not None:
        write_json(out / PREDICTIONS, outcome.as_dict())
    if coco is not None:
        content = _data_set(outcome, coco.resolve().parent, sizes, class_scores=class_scores)
        write_figures(coco, content, command=_COMMAND, option="--coco")
    return outcome


def _require_asked(
    images: Sequence[Path], data: Path | None, out: Path | None, coco: Path | None, *, class_scores: bool
) -> None:
    """Refuses to look at nothing, or for nothing."""
    if not images and data is None:
        raise ConfigError(
            "predict must be given an image or a folder of images, got none. "
            "Write detdistill predict CHECKPOINT IMAGE --out DIR."
        )
    if out is None and coco is None:
        raise ConfigError("predict must be told where to write what it finds, got no --out. Pass --out DIR.")
    if class_scores and coco is None:
        raise ConfigError("--class-scores must come with the file that they are for, got none. Pass --coco FILE.")


def _require_fitting(clips: Sequence[Path], coco: Path | None, *, frames: bool) -> None:
    """Refuses what is asked of videos alone where there is none, and what there is for images alone."""
    if coco is not None and clips:
        raise ConfigError(
            f"--coco must come with images alone, got the video {clips[0]}. Leave it out, and pass --out DIR."
        )
    if frames and not clips:
        raise ConfigError("--frames must come with a video, got none. Leave it out.")


def _data_images(data: Path, progress: Progress) -> dict[Path, tuple[int, int]]:
    """Every image of a data set with its height and width, upright."""
    found: dict[Path, tuple[int, int]] = {}
    for split in present_splits(data):
        images, flaws = open_split(data, split, exact=data.is_file(), say=progress.say)
        for line in flaws.summary():
            progress.say(f"{split} data: {line}")
        found |= {images.path(row): (int(size[0]), int(size[1])) for row, size in enumerate(images.sizes)}
    return found


def _require_beside(coco: Path, files: Sequence[Path]) -> None:
    """Refuses a data set file from whose folder an image cannot be named."""
    home = coco.resolve().parent
    outside = next((path for path in files if not path.resolve().is_relative_to(home)), None)
    if outside is not None:
        above = Path(os.path.commonpath([path.resolve().parent for path in files]))
        raise ConfigError(
            f"--coco must be a file in a folder with all images in or below it, got {coco}, which {outside} is not "
            f"below. Write --coco {above / coco.name}."
        )


def _data_set(
    outcome: PredictOutcome, home: Path, sizes: Mapping[Path, tuple[int, int]], *, class_scores: bool
) -> dict[str, Any]:
    """What was found as COCO has labels, each with its score; file names are relative to `home`."""
    images, annotations = [], list[dict[str, Any]]()
    for number, (path, one) in enumerate(zip(outcome.images, outcome.found, strict=True), start=1):
        height, width = sizes[path]
        name = path.resolve().relative_to(home).as_posix()
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        said = one.probabilities if class_scores else None
        every = [None] * len(one.labels) if said is None else said.round(6).tolist()
        for (x1, y1, x2, y2), sure, label, classes in zip(
            one.boxes.tolist(), one.scores.tolist(), one.labels.tolist(), every, strict=True
        ):
            if x2 > x1 and y2 > y1:
                box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0, "score": sure}
                at = {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1}
                annotations.append(at | box | ({} if classes is None else {"scores": classes}))
    categories = [{"id": label, "name": name} for label, name in enumerate(outcome.class_names, start=1)]
    return {"categories": categories, "images": images, "annotations": annotations}


def _drawings(files: Sequence[Path], out: Path, *, given: Set[Path]) -> list[Path]:
    """Where each image's drawing goes; images of the same name in different folders get a number."""
    drawings: dict[str, Path] = {}
    for path in files:
        names = chain([path.stem], (f"{path.stem}_{number}" for number in count(2)))
        # Some disks do not tell capitals from small letters.
        name = next(one for one in names if one.casefold() not in drawings)
        drawing = drawings[name.casefold()] = out / f"{name}.png"
        if drawing.resolve() in given:
            raise ConfigError(
                f"--out must be a folder whose images are not predicted on, got {out}, where the drawing of {path} "
                f"would replace {drawing}. Give another folder."
            )
        require_own(drawing, f"The drawing of {path}", drawn(DRAWING))
    return list(drawings.values())


def _require_own_predictions(path: Path) -> None:
    """Refuses to write over a file that holds something else than `PredictOutcome.as_dict`."""
    try:
        content = read_json(path) if path.exists() else {}
    except ConfigError:
        content = None
    found = [content] if not isinstance(content, dict) else [one for boxes in content.values() for one in boxes or ()]
    if not all(isinstance(one, dict) and one.keys() == {"box", "score", "class"} for one in found):
        raise ConfigError(
            f"{path} must be a new file, or one that this command wrote, got another. Give another folder, or move "
            "that file away."
        )


def _given_files(given: Sequence[Path], problems: Problems) -> list[Path]:
    files: dict[Path, None] = {}
    for path in given:
        if path.is_dir():
            inside = sorted(path.iterdir())
            images = [one for one in inside if _is_image(one) or _is_video(one)]
            if not images:
                below = (one for one in inside if one.is_dir() and any(map(_is_image, one.iterdir())))
                raise ConfigError(
                    f"Folder {path} must hold images or videos to predict on, got none. "
                    f"Give {next(below, 'another folder')}."
                )
            for one in sorted({*inside} - {*images}):
                what = "a folder; name it to predict on its images" if one.is_dir() else "no image by its name"
                problems.add("passed over", str(one), what=what, action="kept")
            files |= dict.fromkeys(images)
        elif path.is_file():
            files[path] = None
        else:
            raise ConfigError(
                f"{path} must be an image, a video or a folder of these, got nothing there. {astray(path)}"
            )
    return list(files)


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and not is_companion(path.name) and path.is_file()


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_companion(path.name) and path.is_file()


def _size(path: Path, problems: Problems) -> tuple[int, int] | None:
    """Height and width of an image, upright; None for a file that cannot be decoded, which is told."""
    return settled_size(path, None, decode=True, problems=problems, where=str(path))


def _unreadable(problems: Problems, read: int) -> str | None:
    """The sentence about files that are no images; None where there is none."""
    if not problems.skipped:
        return None
    first = next(item for item in problems if item.action == "skipped")
    more = f" (and {problems.skipped - 1} more of {problems.skipped + read} files)" if problems.skipped > 1 else ""
    return (
        f"{first.where} must be an image that can be decoded, got: {first.what}{more}. Leave it out, or write it anew."
    )
