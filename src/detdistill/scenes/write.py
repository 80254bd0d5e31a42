"""Makes a data set of drawn scenes: COCO JSON with PNG images, and the same in KITTI's layout."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from detdistill.errors import ConfigError
from detdistill.files import atomic_folder, read_json, write_json, write_text
from detdistill.scenes.street import SCENE_CLASSES, SceneObject, Split, draw_scene

GENERATOR: Final = 1
"""Version of the drawing code: it rises with every change that alters a pixel or a box."""

KITTI_TYPES: Final = ("Car", "Truck", "Pedestrian", "Cyclist", "TrafficLight")
"""The words of the label files, in the order of `SCENE_CLASSES`."""

_SPLITS: Final[tuple[Split, ...]] = ("train", "val")
_CHUNK: Final = 25
_KITTI_UNKNOWN_3D: Final = "-1.00 -1.00 -1.00 -1000.00 -1000.00 -1000.00 -10.00"


@dataclass(frozen=True, slots=True)
class _Settings:
    train: int
    val: int
    seed: int
    width: int
    height: int
    kitti: bool

    def require_sound(self) -> None:
        for name, least, most in (
            ("train", 0, 999_999),
            ("val", 0, 999_999),
            ("seed", 0, 2**63 - 1),
            ("width", 64, 4096),
            ("height", 48, 4096),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ConfigError(
                    f"The scenes' {name} must be a whole number from {least} to {most}, got {value!r}. "
                    f"Give another {name}."
                )


def _file_name(split: Split, index: int) -> str:
    return f"{split}_{index:06d}.png"


@dataclass(frozen=True, slots=True)
class _Job:
    """Scenes `start` to `stop` of a split, and where their images go."""

    split: Split
    start: int
    stop: int
    seed: int
    width: int
    height: int
    images: Path


def _draw_job(job: _Job) -> list[tuple[SceneObject, ...]]:
    drawn = []
    for index in range(job.start, job.stop):
        scene = draw_scene(job.seed, job.split, index, width=job.width, height=job.height)
        # Run-length strategy (3) at level 1: noise hardly compresses, so more effort is time lost.
        scene.image.save(job.images / _file_name(job.split, index), compress_level=1, compress_type=3)
        drawn.append(scene.objects)
    return drawn


def _start_worker() -> None:
    """Leaves Ctrl-C to the parent, and ends with the parent even where that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()


def _results(jobs: list[_Job], workers: int) -> Iterator[list[tuple[SceneObject, ...]]]:
    if workers <= 1:
        yield from map(_draw_job, jobs)
        return
    # Fresh processes rather than forks: the caller may have threads (torch, progress bars) running.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        futures: list[Future[list[tuple[SceneObject, ...]]]] = [pool.submit(_draw_job, job) for job in jobs]
        try:
            for future in futures:
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _coco(split: Split, scenes: list[tuple[SceneObject, ...]], settings: _Settings) -> dict[str, Any]:
    images = [
        {
            "id": index + 1,
            "file_name": _file_name(split, index),
            "width": settings.width,
            "height": settings.height,
        }
        for index in range(len(scenes))
    ]
    annotations: list[dict[str, Any]] = []
    for index, objects in enumerate(scenes):
        for item in objects:
            x1, y1, x2, y2 = item.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": item.label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": item.area,
                    "iscrowd": 0,
                    "truncated": item.truncated,
                    "occluded": item.occluded,
                }
            )
    return {
        "info": {"description": f"detdistill drawn street scenes, {split}", "seed": settings.seed},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(SCENE_CLASSES)],
    }


def _occlusion_level(occluded: float) -> int:
    """KITTI's word for how much is hidden: 0 fully visible, 1 partly, 2 largely."""
    if occluded < 0.1:
        return 0
    return 1 if occluded < 0.5 else 2


def _kitti_line(annotation: Mapping[str, Any]) -> str:
    x, y, w, h = annotation["bbox"]
    kind = KITTI_TYPES[annotation["category_id"] - 1]
    level = _occlusion_level(annotation["occluded"])
    return (
        f"{kind} {annotation['truncated']:.2f} {level} -10.00 "
        f"{x:.2f} {y:.2f} {x + w:.2f} {y + h:.2f} {_KITTI_UNKNOWN_3D}"
    )


def _lay_out_kitti(scenes: Path, out: Path) -> None:
    pictures, labels = out / "training" / "image_2", out / "training" / "label_2"
    for folder in (pictures, labels, out / "ImageSets"):
        folder.mkdir(parents=True)
    number = 0
    for split in _SPLITS:
        content = read_json(scenes / f"{split}.json")
        lines: dict[int, list[str]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            lines[annotation["image_id"]].append(_kitti_line(annotation) + "\n")
        stems = []
        for image in content["images"]:
            stem = f"{number:06d}"
            _link(scenes / "images" / image["file_name"], pictures / f"{stem}.png")
            (labels / f"{stem}.txt").write_text("".join(lines[image["id"]]), encoding="ascii")
            stems.append(f"{stem}\n")
            number += 1
        write_text(out / "ImageSets" / f"{split}.txt", "".join(stems))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without hard links
        shutil.copyfile(source, target)


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
    wanted: dict[str, Any] = {"generator": GENERATOR, **asdict(settings)}
    stored = read_json(out / "scenes.json")
    stored = stored if isinstance(stored, dict) else {}
    differing = [f"{name} {stored.get(name)!r}" for name in wanted if stored.get(name) != wanted[name]]
    if differing:
        asked = ", ".join(f"{name} {wanted[name]!r}" for name in wanted if stored.get(name) != wanted[name])
        raise ConfigError(f"The scenes in {out} must be made with {asked}, got {', '.join(differing)}. {remedy}")
    names = {_file_name(split, i) for split in _SPLITS for i in range(_count(settings, split))}
    parts = [out / f"{split}.json" for split in _SPLITS] + ([out / "kitti"] if settings.kitti else [])
    images = out / "images"
    present = {entry.name for entry in os.scandir(images)} if images.is_dir() else set()
    if not names <= present or not all(part.exists() for part in parts):
        raise ConfigError(f"The scenes in {out} must be complete, got a folder with files missing. {remedy}")
    return True


def _count(settings: _Settings, split: Split) -> int:
    return settings.train if split == "train" else settings.val


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
    image; objects of which less than a quarter is seen, and boxes under 5 pixels, are drawn but not annotated. Each
    annotation has ``truncated`` (share of its full rectangle outside the image) and ``occluded`` (share of its
    shape inside the image that other things hide), both in [0, 1]; ``area`` counts the pixels that are seen.

    Scene i depends on (seed, split, i) and the size alone, so a larger data set begins with the smaller one. The
    folder appears whole or not at all.

    Args:
        out: the data set's folder; must be new, empty, or made with the same settings.
        train: number of training scenes.
        val: number of validation scenes.
        seed: a whole number >= 0.
        width: of the images in pixels.
        height: of the images in pixels.
        kitti: also write the same scenes in KITTI's layout under ``kitti/``.
        workers: processes that draw, 0 or 1 for this one; the result is the same with any number. Above 1, a
            script must keep its own start under ``if __name__ == "__main__":``.
        progress: called with (scenes done, scenes in all).

    Raises:
        ConfigError: a setting is out of range, or `out` holds something else.
    """
    out = Path(out)
    settings = _Settings(train=train, val=val, seed=seed, width=width, height=height, kitti=kitti)
    settings.require_sound()
    if _found(out, settings):
        if progress is not None:
            progress(train + val, train + val)
        return
    with atomic_folder(out) as folder:
        images = folder / "images"
        images.mkdir()
        jobs = [
            _Job(split, start, min(start + _CHUNK, _count(settings, split)), seed, width, height, images)
            for split in _SPLITS
            for start in range(0, _count(settings, split), _CHUNK)
        ]
        drawn: dict[Split, list[tuple[SceneObject, ...]]] = {split: [] for split in _SPLITS}
        for job, scenes in zip(jobs, _results(jobs, min(workers, len(jobs))), strict=True):
            drawn[job.split].extend(scenes)
            if progress is not None:
                progress(sum(map(len, drawn.values())), train + val)
        for split in _SPLITS:
            write_json(folder / f"{split}.json", _coco(split, drawn[split], settings))
        if kitti:
            _lay_out_kitti(folder, folder / "kitti")
        write_json(folder / "scenes.json", {"generator": GENERATOR, **asdict(settings)})


def write_kitti(scenes: Path, out: Path) -> None:
    """Writes a folder of `make_scenes` once more in KITTI's object layout.

    ``training/image_2/NNNNNN.png``, ``training/label_2/NNNNNN.txt`` with 15 columns (type, truncated, occluded
    0 to 2, alpha, box, dimensions, location, rotation; what belongs to 3D holds KITTI's values for unknown) and
    ``ImageSets/train.txt`` and ``val.txt``. Training scenes are numbered first. Images are hard links where the
    disk allows it.

    Args:
        scenes: folder that `make_scenes` made.
        out: folder to write; must be new or empty.

    Raises:
        ConfigError: `scenes` holds no drawn scenes, or `out` is in use.
    """
    scenes, out = Path(scenes), Path(out)
    if not (scenes / "scenes.json").is_file():
        raise ConfigError(
            f"{scenes} must be a folder that make_scenes made, got one without scenes.json. Make it first."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"The KITTI folder {out} must be new or empty, got one in use. Give another folder.")
    with atomic_folder(out) as folder:
        _lay_out_kitti(scenes, folder)
