"""Makes a data set of drawn scenes: COCO JSON with PNG images, and the same in KITTI's layout."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from detdistill.data.annotations import Annotations
from detdistill.data.formats.kitti import KITTI_TYPES
from detdistill.data.writable import place_image
from detdistill.data.writing import write_data_set
from detdistill.errors import ConfigError
from detdistill.files import PARTIAL, atomic_folder, read_json, write_json
from detdistill.scenes.street import SCENE_CLASSES, SPLITS, SceneObject, Split, draw_scene

GENERATOR: Final = 1
"""Version of the drawing code: it rises with every change that alters a pixel or a box."""

KITTI_NAMES: Final = ("Car", "Truck", "Pedestrian", "Cyclist", "TrafficLight")
"""The words of the label files, in the order of `SCENE_CLASSES`."""

_CHUNK: Final = 25
_RANGES: Final = {
    "train": (0, 999_999),
    "val": (0, 999_999),
    "seed": (0, 2**63 - 1),
    "width": (64, 4096),
    "height": (48, 4096),
}
_KITTI_UNKNOWN_3D: Final = "-1.00 -1.00 -1.00 -1000.00 -1000.00 -1000.00 -10.00"

Objects = tuple[SceneObject, ...]
Classes = tuple[tuple[str, ...], tuple[str, ...]]
"""The classes that a data set has, and those of them that stand for `SCENE_CLASSES`."""


def _file_name(split: Split, index: int) -> str:
    return f"{split}_{index:06d}.png"


@dataclass(frozen=True, slots=True)
class _Settings:
    train: int
    val: int
    seed: int
    width: int
    height: int
    kitti: bool

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ConfigError(
                    f"The scenes' {name} must be a whole number from {least} to {most}, got {value!r}. "
                    f"Give another {name}."
                )

    def scenes(self) -> list[tuple[Split, int]]:
        """Split and number of every scene, those of training first."""
        counts = {"train": self.train, "val": self.val}
        return [(split, index) for split in SPLITS for index in range(counts[split])]

    def names(self) -> list[str]:
        return [_file_name(*scene) for scene in self.scenes()]

    def stored(self) -> dict[str, Any]:
        return {"generator": GENERATOR, **asdict(self)}


def _draw(scene: tuple[Split, int], settings: _Settings, images: Path) -> Objects:
    """Draws a scene into a folder."""
    drawn = draw_scene(settings.seed, *scene, width=settings.width, height=settings.height)
    # Run-length strategy (3) at level 1: noise hardly compresses, so more effort is time lost.
    drawn.image.save(images / _file_name(*scene), compress_level=1, compress_type=3)
    return drawn.objects


def _start_worker() -> None:
    """Leaves Ctrl-C to the parent, and ends with the parent even where that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()


def _drawn(settings: _Settings, images: Path, workers: int) -> Generator[Objects]:
    """Draws all scenes into a folder, in order."""
    draw, scenes = partial(_draw, settings=settings, images=images), settings.scenes()
    workers = min(workers, math.ceil(len(scenes) / _CHUNK))
    if workers <= 1:
        yield from map(draw, scenes)
        return
    # Fresh processes rather than forks: the caller may have threads (torch, progress bars) running.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        yield from pool.map(draw, scenes, chunksize=_CHUNK)


def _annotations(
    images: Path, names: Sequence[str], scenes: Sequence[Objects], settings: _Settings, *, classes: Classes
) -> dict[str, Annotations]:
    """Both splits, from the names of all images in a folder and what is on them."""
    written, words = classes
    labels = [written.index(word) for word in words]
    splits = {}
    for split, rows in (("train", slice(0, settings.train)), ("val", slice(settings.train, None))):
        encoded = [name.encode() for name in names[rows]]
        objects = [item for scene in scenes[rows] for item in scene]
        splits[split] = Annotations(
            images_dir=images,
            class_names=written,
            category_ids=np.arange(1, len(written) + 1, dtype=np.int64),
            image_ids=np.arange(1, len(encoded) + 1, dtype=np.int64),
            sizes=np.full((len(encoded), 2), (settings.height, settings.width), dtype=np.int32),
            name_bytes=np.frombuffer(b"".join(encoded), dtype=np.uint8),
            name_offsets=np.cumsum([0, *map(len, encoded)], dtype=np.int64),
            offsets=np.cumsum([0, *map(len, scenes[rows])], dtype=np.int64),
            boxes=np.array([item.box for item in objects], dtype=np.float32).reshape(-1, 4),
            labels=np.array([labels[item.label] for item in objects], dtype=np.int32),
            ignored=np.zeros(len(objects), dtype=np.bool_),
            areas=np.array([item.area for item in objects], dtype=np.float32),
        )
    return splits


def _kitti_line(item: SceneObject) -> str:
    # KITTI's word for how much is hidden: 0 fully visible, 1 partly, 2 largely.
    level = 0 if item.occluded < 0.1 else 1 if item.occluded < 0.5 else 2
    box = " ".join(f"{edge:.2f}" for edge in item.box)
    return f"{KITTI_NAMES[item.label]} {item.truncated:.2f} {level} -10.00 {box} {_KITTI_UNKNOWN_3D}\n"


def _write_kitti(drawn: Path, scenes: Sequence[Objects], settings: _Settings, out: Path) -> None:
    """Writes KITTI's layout, numbered through both splits.

    Only label files tell what is truncated and occluded, so they are made here and handed to the writer, as those
    of a data set in KITTI's layout are.
    """
    images, labels = drawn / "image_2", drawn / "label_2"
    labels.mkdir()
    names = [f"{number:06d}.png" for number in range(len(scenes))]
    for name, source, objects in zip(names, settings.names(), scenes, strict=True):
        place_image(drawn / source, images / name)
        (labels / name).with_suffix(".txt").write_text("".join(map(_kitti_line, objects)), encoding="ascii")
    classes = (tuple(dict.fromkeys((*KITTI_TYPES, *KITTI_NAMES))), KITTI_NAMES)
    splits = _annotations(images, names, scenes, settings, classes=classes)
    write_data_set(splits, out, to="kitti", origin="kitti")


def _found(out: Path, settings: _Settings) -> bool:
    """Whether `out` already holds exactly these scenes.

    Raises:
        ConfigError: `out` holds anything else.
    """
    if not out.exists():
        return False
    if not out.is_dir():
        raise ConfigError(f"The scenes' folder {out} must be a folder, got a file. Give another name.")
    if not any(out.iterdir()):
        return False
    remedy = "Give another folder, or remove this one."
    if not (out / "scenes.json").is_file():
        raise ConfigError(f"The scenes' folder {out} must be new or empty, got one with other files. {remedy}")
    wanted, stored = settings.stored(), read_json(out / "scenes.json")
    stored = stored if isinstance(stored, dict) else {}
    differing = [name for name in wanted if stored.get(name) != wanted[name]]
    if differing:
        asked, got = (", ".join(f"{name} {of.get(name)!r}" for name in differing) for of in (wanted, stored))
        raise ConfigError(f"The scenes in {out} must be made with {asked}, got {got}. {remedy}")
    parts = [out / f"{split}.json" for split in SPLITS] + ([out / "kitti"] if settings.kitti else [])
    present = {entry.name for entry in os.scandir(out / "images")} if (out / "images").is_dir() else set()
    if not all(part.exists() for part in parts) or not present.issuperset(settings.names()):
        raise ConfigError(f"The scenes in {out} must be complete, got a folder with files missing. {remedy}")
    return True


def make_scenes(
    out: Path,
    *,
    train: int,
    val: int,
    seed: int,
    width: int = 160,
    height: int = 96,
    kitti: bool = False,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Draws a data set of street scenes into a folder, or leaves it alone where it already holds the same.

    Writes ``images/*.png``, ``train.json`` and ``val.json`` (COCO; file names relative to ``images/``) and
    ``scenes.json`` with the settings. A box encloses the whole object, hidden parts included, clipped to the
    image; objects of which less than a quarter is seen, and boxes under 5 pixels, are drawn but not annotated; areas
    count the pixels that are seen.

    Scene i depends on (seed, split, i) and the size alone, so a larger data set begins with the smaller one. The
    folder appears whole or not at all.

    Args:
        out: the data set's folder; must be new, empty, or made with the same settings.
        train: number of training scenes.
        val: number of validation scenes.
        seed: a whole number >= 0.
        width: of the images in pixels.
        height: of the images in pixels.
        kitti: also write the same scenes in KITTI's layout under ``kitti/``: images ``NNNNNN.png``, training scenes
            first, and label files that tell what is truncated and occluded, with KITTI's values for unknown in 3D.
        workers: processes that draw, 0 or 1 for this one; the result is the same with any number. Above 1, a
            script must keep its own start under ``if __name__ == "__main__":``.
        progress: called with (scenes done, scenes in all).

    Raises:
        ConfigError: a setting is out of range, or `out` holds something else.
    """
    out = Path(out)
    settings = _Settings(train=train, val=val, seed=seed, width=width, height=height, kitti=kitti)
    tell = progress or (lambda done, total: None)
    if _found(out, settings):
        tell(train + val, train + val)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    # The drawn pictures lie on the disk of the data set, so that its writers can link them.
    with (
        TemporaryDirectory(prefix=f"{out.name}.", suffix=PARTIAL, dir=out.parent) as place,
        atomic_folder(out) as folder,
    ):
        drawn, scenes = Path(place), []
        # Closed before the place is cleared, so that no worker still draws there.
        with closing(_drawn(settings, drawn, workers)) as found:
            for objects in found:
                scenes.append(objects)
                tell(len(scenes), train + val)
        classes = (SCENE_CLASSES, SCENE_CLASSES)
        write_data_set(_annotations(drawn, settings.names(), scenes, settings, classes=classes), folder, to="coco")
        if kitti:
            _write_kitti(drawn, scenes, settings, folder / "kitti")
        write_json(folder / "scenes.json", settings.stored())
