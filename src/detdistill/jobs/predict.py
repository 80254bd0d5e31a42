"""Draws what a detector finds on images, and writes it as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detdistill.data.annotations import Annotations
from detdistill.data.image_files import as_rgb
from detdistill.errors import ConfigError, DataError
from detdistill.evaluation.coco import ImageDetections
from detdistill.evaluation.shared import require_score
from detdistill.files import atomic_file, write_json
from detdistill.jobs.opening import detect, open_detector, seen_size
from detdistill.progress import Progress, Silence
from detdistill.report.draw import draw_detections
from detdistill.report.tables import AGNOSTIC, Table

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})
PREDICTIONS = "predictions.json"


@dataclass(frozen=True, slots=True)
class PredictOutcome:
    """What was found above the score in every image, in the order given; drawings lie in `out`."""

    out: Path
    images: tuple[Path, ...]
    found: tuple[ImageDetections, ...]
    class_names: tuple[str, ...]
    agnostic: bool = False

    def table(self) -> list[str]:
        """One line per image, then where the drawings are."""
        rows = []
        for path, one in zip(self.images, self.found, strict=True):
            labels, counts = np.unique(one.labels, return_counts=True)
            named = (f"{self.class_names[label]} {count}" for label, count in zip(labels, counts, strict=True))
            rows.append((str(path), len(one.labels), ", ".join(named)))
        table = Table(("image", "boxes", "classes"), tuple(rows)).text(decimals=0)
        note = [AGNOSTIC] if self.agnostic else []
        return [*table.splitlines(), *note, "", f"drawings and {PREDICTIONS} in {self.out}"]

    def as_dict(self) -> Mapping[str, Any]:
        """Boxes (x1, y1, x2, y2 in pixels of the stored image), scores and class names by file."""
        return {
            str(path): [
                {
                    "box": [round(float(edge), 2) for edge in box],
                    "score": float(score),
                    "class": self.class_names[label],
                }
                for box, score, label in zip(one.boxes, one.scores, one.labels, strict=True)
            ]
            for path, one in zip(self.images, self.found, strict=True)
        }


def predict_job(
    checkpoint: str,
    images: Sequence[Path],
    *,
    out: Path,
    score: float = 0.3,
    agnostic: bool = False,
    progress: Progress | None = None,
) -> PredictOutcome:
    """Runs a detector on images, draws and writes what it finds; the words are those of `detdistill.predict`."""
    if not images:
        raise ConfigError(
            "predict must be given an image or a folder of images, got none. "
            "Write detdistill predict CHECKPOINT IMAGE --out DIR."
        )
    require_score(score)
    watcher = progress or Silence()
    files = _image_files(images)
    loaded = open_detector(checkpoint, progress=watcher)
    annotations = _unannotated(files, loaded.class_names)
    size = seen_size(loaded, annotations, source=checkpoint, progress=watcher)
    everything = detect(
        loaded.detector, annotations, size, label=f"detect with {checkpoint}", agnostic=agnostic, progress=watcher
    )
    found = tuple(one.above(score) for one in everything)
    outcome = PredictOutcome(out, tuple(files), found, class_names=loaded.class_names, agnostic=agnostic)
    used: Counter[str] = Counter()
    for path, one in zip(files, found, strict=True):
        # Images of the same name in different folders get a number.
        used[path.stem] += 1
        name = path.stem if used[path.stem] == 1 else f"{path.stem}_{used[path.stem]}"
        with Image.open(path) as opened:
            picture = as_rgb(opened)
        drawn = draw_detections(picture, one, class_names=loaded.class_names, score_threshold=score)
        with atomic_file(out / f"{name}.png") as partial:
            drawn.save(partial, format="PNG")
    write_json(out / PREDICTIONS, outcome.as_dict())
    return outcome


def _image_files(given: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = sorted(one for one in path.iterdir() if one.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise ConfigError(f"Folder {path} must hold images to predict on, got none. Give another folder.")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise ConfigError(f"{path} must be an image or a folder of images, got nothing there. Check the path.")
    return files


def _unannotated(files: Sequence[Path], class_names: tuple[str, ...]) -> Annotations:
    encoded = [str(path.resolve()).encode() for path in files]
    return Annotations(
        images_dir=Path("/"),
        class_names=class_names,
        category_ids=np.arange(len(class_names)),
        image_ids=np.arange(len(files)),
        sizes=np.array([_stored_size(path) for path in files], dtype=np.int32),
        name_bytes=np.frombuffer(b"".join(encoded), dtype=np.uint8),
        name_offsets=np.cumsum([0, *map(len, encoded)]),
        offsets=np.zeros(len(files) + 1, dtype=np.int64),
        boxes=np.zeros((0, 4), dtype=np.float32),
        labels=np.zeros(0, dtype=np.int32),
        ignored=np.zeros(0, dtype=bool),
        areas=np.zeros(0, dtype=np.float32),
    )


def _stored_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as opened:
            return opened.height, opened.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} must be an image, got a file that cannot be read as one ({error}). Leave it out."
        ) from error
