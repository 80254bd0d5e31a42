"""Makes a data set of drawn scenes: COCO JSON with PNG images, and the same in KITTI's layout."""

from __future__ import annotations

import io
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from detdistill.data.annotations import Annotations
from detdistill.data.formats.kitti import KITTI_TYPES
from detdistill.data.sources import find_split, open_split
from detdistill.data.summary import summarise
from detdistill.data.writable import place_image, write_plain
from detdistill.data.writing import write_data_set
from detdistill.errors import ConfigError
from detdistill.files import append_bytes, atomic_folder, read_json, scratch_folder, write_json
from detdistill.jobs.data import DataOutcome
from detdistill.progress import Progress, Silence
from detdistill.scenes.street import SCENE_CLASSES, SPLITS, SceneObject, Split, draw_scene

GENERATOR: Final = 1
"""Version of the drawing code: it rises with every change that alters a pixel or a box."""

KITTI_NAMES: Final = ("Car", "Truck", "Pedestrian", "Cyclist", "TrafficLight")
"""The words of the label files, in the order of `SCENE_CLASSES`."""

SCENES_MADE: Final = "scenes.json"
"""The file that says what scenes a folder holds."""

_CHUNK: Final = 25
_COUNT: Final = (0, 999_999)
_RANGES: Final = {"train": _COUNT, "val": _COUNT, "seed": (0, 2**63 - 1), "width": (64, 4096), "height": (48, 4096)}
_KITTI_UNKNOWN_3D: Final = "-1.00 -1.00 -1.00 -1000.00 -1000.00 -1000.00 -10.00"

Objects = tuple[SceneObject, ...]


def _draw(scene: tuple[Split, int, str], seed: int, size: tuple[int, int], images: Path) -> Objects:
    split, index, name = scene
    drawn = draw_scene(seed, split, index, width=size[0], height=size[1])
    # Run-length strategy (3) at level 1: noise hardly compresses, so more effort is time lost.
    content = io.BytesIO()
    drawn.image.save(content, format="PNG", compress_level=1, compress_type=3)
    append_bytes(images / name, content.getvalue())
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


def _drawn(
    draw: Callable[[tuple[Split, int, str]], Objects], scenes: Sequence[tuple[Split, int, str]], workers: int
) -> Generator[Objects]:
    workers = min(workers, math.ceil(len(scenes) / _CHUNK))
    if workers <= 1:
        yield from map(draw, scenes)
        return
    # Fresh processes rather than forks: the caller may have threads (torch, progress bars) running.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        yield from pool.map(draw, scenes, chunksize=_CHUNK)


def _annotations(images: Path, names: Sequence[str], scenes: Sequence[Objects], size: tuple[int, int]) -> Annotations:
    encoded, objects = [name.encode() for name in names], [item for scene in scenes for item in scene]
    return Annotations(
        images_dir=images,
        class_names=SCENE_CLASSES,
        category_ids=np.arange(1, len(SCENE_CLASSES) + 1, dtype=np.int64),
        image_ids=np.arange(1, len(names) + 1, dtype=np.int64),
        sizes=np.full((len(names), 2), size[::-1], dtype=np.int32),
        name_bytes=np.frombuffer(b"".join(encoded), dtype=np.uint8),
        name_offsets=np.cumsum([0, *map(len, encoded)], dtype=np.int64),
        offsets=np.cumsum([0, *map(len, scenes)], dtype=np.int64),
        boxes=np.array([item.box for item in objects], dtype=np.float32).reshape(-1, 4),
        labels=np.array([item.label for item in objects], dtype=np.int32),
        ignored=np.zeros(len(objects), dtype=np.bool_),
        areas=np.array([item.area for item in objects], dtype=np.float32),
    )


def _kitti_line(item: SceneObject) -> str:
    # KITTI's word for how much is hidden: 0 fully visible, 1 partly, 2 largely.
    level = 0 if item.occluded < 0.1 else 1 if item.occluded < 0.5 else 2
    box = " ".join(f"{edge:.2f}" for edge in item.box)
    return f"{KITTI_NAMES[item.label]} {item.truncated:.2f} {level} -10.00 {box} {_KITTI_UNKNOWN_3D}"


def _write_kitti(
    scenes: Mapping[Path, Objects], rows: Mapping[str, slice], out: Path, *, drawn: Path, size: tuple[int, int]
) -> None:
    """Writes KITTI's layout, numbered through both splits.

    Only label files tell what is truncated and occluded, so they are made here, and its writer copies them.
    """
    images, numbered = drawn / "image_2", [f"{number:06d}.png" for number in range(len(scenes))]
    for name, (source, objects) in zip(numbered, scenes.items(), strict=True):
        place_image(source, images / name)
        write_plain((drawn / "label_2" / name).with_suffix(".txt"), map(_kitti_line, objects))
    words = tuple(dict.fromkeys((*KITTI_TYPES, *KITTI_NAMES)))
    label_of, ids = np.array([words.index(name) for name in KITTI_NAMES]), np.arange(1, len(words) + 1)
    objects_of = list(scenes.values())
    splits = {split: _annotations(images, numbered[own], objects_of[own], size) for split, own in rows.items()}
    for split, own in splits.items():
        labels = label_of[own.labels].astype(np.int32)
        splits[split] = replace(own, class_names=words, category_ids=ids, labels=labels)
    write_data_set(splits, out, to="kitti", origin="kitti")


def _found(out: Path, wanted: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Whether `out` already holds exactly these scenes; refuses anything else in it."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"The scenes' folder {out} must be a folder, got a file. Give another name.")
    if not out.exists() or not any(out.iterdir()):
        return False
    remedy = "Give another folder, or remove this one."
    if not (out / SCENES_MADE).is_file():
        raise ConfigError(f"The scenes' folder {out} must be new or empty, got one with other files. {remedy}")
    stored = read_json(out / SCENES_MADE)
    stored = stored if isinstance(stored, dict) else {}
    differing = [name for name in wanted if stored.get(name) != wanted[name]]
    if differing:
        asked, got = (", ".join(f"{name} {of.get(name)!r}" for name in differing) for of in (wanted, stored))
        raise ConfigError(f"The scenes in {out} must be made with {asked}, got {got}. {remedy}")
    parts = [*(f"{split}.json" for split in SPLITS), *(["kitti"] if wanted["kitti"] else [])]
    present = {entry.name for entry in os.scandir(out / "images")} if (out / "images").is_dir() else set()
    if not all((out / part).exists() for part in parts) or not present.issuperset(names):
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
    """Draws `train` and `val` street scenes into a folder, or leaves it alone where it already holds the same.

    Writes ``images/*.png``, ``train.json`` and ``val.json`` (COCO; file names relative to ``images/``) and
    ``scenes.json`` with the settings. A box encloses the whole object, hidden parts included, clipped to the
    image; objects of which less than a quarter is seen, and boxes under 5 pixels, are drawn but not annotated; areas
    count the pixels that are seen.

    Scene i depends on (seed, split, i) and the size alone, so a larger data set begins with the smaller one. The
    folder appears whole or not at all.

    Args:
        out: must be new, empty, or made with the same settings.
        seed: a whole number >= 0.
        width: of the images in pixels, as is `height`.
        kitti: also write the same scenes in KITTI's layout under ``kitti/``: images ``NNNNNN.png``, training scenes
            first, and label files that tell what is truncated and occluded, with KITTI's values for unknown in 3D.
        workers: processes that draw, 0 or 1 for this one; the result is the same with any number. Above 1, a
            script must keep its own start under ``if __name__ == "__main__":``.
        progress: called with (scenes done, scenes in all).

    Raises:
        ConfigError: a setting is out of range, or `out` holds something else.
    """
    settings = {"train": train, "val": val, "seed": seed, "width": width, "height": height, "kitti": kitti}
    for name, (least, most) in _RANGES.items():
        value = settings[name]
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ConfigError(
                f"The scenes' {name} must be a whole number from {least} to {most}, got {value!r}. Give another {name}."
            )
    settings = {"generator": GENERATOR, **settings}
    counts = zip(SPLITS, (train, val), strict=True)
    scenes = [(split, i, f"{split}_{i:06d}.png") for split, count in counts for i in range(count)]
    out, names, size = Path(out), [name for _, _, name in scenes], (width, height)
    tell = progress or (lambda done, total: None)
    if _found(out, settings, names):
        tell(len(names), len(names))
        return
    # The drawn pictures lie on the disk of the data set, so that its writers can link them.
    with scratch_folder(out, named=out / "images") as images, atomic_folder(out) as folder:
        objects = list[Objects]()
        # Closed before the place is cleared, so that no worker still draws there.
        with closing(_drawn(partial(_draw, seed=seed, size=size, images=images), scenes, workers)) as drawn:
            for found in drawn:
                objects.append(found)
                tell(len(objects), len(names))
        rows = {"train": slice(train), "val": slice(train, None)}
        splits = {split: _annotations(images, names[own], objects[own], size) for split, own in rows.items()}
        write_data_set(splits, folder, to="coco")
        if kitti:
            scenes_of = dict(zip(map(images.joinpath, names), objects, strict=True))
            _write_kitti(scenes_of, rows, folder / "kitti", drawn=images, size=size)
        write_json(folder / SCENES_MADE, settings)


def make_scenes_job(
    out: Path, *, train: int, val: int, seed: int, kitti: bool = False, progress: Progress | None = None
) -> DataOutcome:
    """Draws street scenes as `make_scenes` does, and tells what is in them."""
    watcher = progress or Silence()
    watcher.start("draw scenes", train + val, unit="image")
    make_scenes(out, train=train, val=val, seed=seed, kitti=kitti, progress=lambda done, total: watcher.advance(done))
    watcher.finish()
    opened = {split: open_split(out, split) for split in SPLITS}
    return DataOutcome(
        path=out,
        sources={split: find_split(out, split).text() for split in SPLITS},
        splits={split: summarise(*pair) for split, pair in opened.items()},
        problems={split: problems for split, (_, problems) in opened.items()},
    )
