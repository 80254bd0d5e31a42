"""Memory and time of indexing annotations of COCO's size: `python benchmarks/annotation_memory.py --json FILE`.

Three processes, so that none measures another's memory: this one writes a COCO file with segmentations into a
temporary folder; a second one imports everything, notes its size, and reads the file; two loader workers that it
forks then touch every array. Figures are MiB from /proc, Linux only.

Growth is resident memory after reading minus resident memory after the imports. A worker's private memory is what
it holds alone (Private_Clean + Private_Dirty). What the annotations add is that figure after touching every array
minus the same worker's figure before, and, as a check, minus that of a worker whose data set holds none.

Seconds are given on the wall and of processor time, with the machine's load average right after: on a machine that
others use too, only the processor time says what indexing costs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

MIB = 1024 * 1024
LIMITS = {"growth_mib": 300.0, "peak_mib": 1024.0, "workers_private_mib": 50.0}


CLASS_NAMES = tuple(f"class {k}" for k in range(80))


def write_coco(
    path: Path, *, images: int, boxes: int, seed: int = 0, class_names: tuple[str, ...] = CLASS_NAMES
) -> int:
    """Writes a COCO file of that many images and boxes with polygons and a few run-length crowds; its bytes."""
    draw = random.Random(seed)
    pool = [f"{draw.random() * 640:.2f}" for _ in range(200_000)]
    with path.open("w", encoding="utf-8") as out:
        categories = [{"supercategory": "thing", "id": k + 1 + k // 9, "name": class_names[k]} for k in range(80)]
        out.write('{"info": {"description": "made by annotation_memory.py"}, "licenses": [], "images": [')
        for i in range(images):
            name = f"{(i * 581_869) % 10**12:012d}.jpg"
            out.write(
                f'{", " if i else ""}{{"license": 3, "file_name": "{name}", '
                f'"coco_url": "http://images.example.org/train2017/{name}", "height": 480, "width": 640, '
                f'"date_captured": "2013-11-14 11:18:45", '
                f'"flickr_url": "http://farm9.example.org/8186/8119368305_4e622c8349_z.jpg", "id": {7 * i + 9}}}'
            )
        out.write('], "annotations": [')
        for i in range(boxes):
            w, h = draw.uniform(4, 300), draw.uniform(4, 250)
            x, y = draw.uniform(0, 639 - w), draw.uniform(0, 479 - h)
            category = draw.randrange(80)
            crowd = draw.random() < 0.01
            if crowd:
                counts = ", ".join(str(draw.randrange(1, 400)) for _ in range(400))
                segmentation = f'{{"counts": [{counts}], "size": [480, 640]}}'
            else:
                numbers = 2 * min(400, max(3, int(draw.lognormvariate(2.75, 0.85))))
                start = draw.randrange(len(pool) - numbers)
                segmentation = f"[[{', '.join(pool[start : start + numbers])}]]"
            out.write(
                f'{", " if i else ""}{{"segmentation": {segmentation}, "area": {w * h * 0.6:.4f}, '
                f'"iscrowd": {int(crowd)}, "image_id": {7 * draw.randrange(images) + 9}, '
                f'"bbox": [{x:.2f}, {y:.2f}, {w:.2f}, {h:.2f}], '
                f'"category_id": {category + 1 + category // 9}, "id": {i + 1}}}'
            )
        out.write(f'], "categories": {json.dumps(categories)}}}\n')
    return path.stat().st_size


def _memory(*fields: str) -> float:
    """Sum of fields of this process in /proc/self/smaps_rollup, in MiB."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.split(":")[0] in fields) / 1024


def _private() -> float:
    return _memory("Private_Clean", "Private_Dirty")


class Touching:
    """A data set of which every item reads all annotations; None instead of annotations reads nothing."""

    def __init__(self, annotations: Any, items: int = 2) -> None:
        self.annotations = annotations
        self.items = items

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> tuple[int, float, float, float]:
        before = _private()
        total = 0.0
        if self.annotations is not None:
            found = self.annotations
            for values in (found.boxes, found.labels, found.areas, found.ignored, found.image_ids, found.sizes):
                total += float(values.sum(dtype="float64"))
            for row in range(len(found)):
                total += len(found.file_name(row)) + len(found.boxes[found.objects(row)])
        time.sleep(0.5)
        return os.getpid(), before, _private(), total


def _workers(annotations: Any, workers: int) -> list[tuple[int, float, float, float]]:
    from torch.utils.data import DataLoader

    dataset: Any = Touching(annotations, workers)
    loader = DataLoader(
        dataset, batch_size=1, num_workers=workers, collate_fn=_first, multiprocessing_context="fork", prefetch_factor=1
    )
    return list(loader)


def _first(items: list[Any]) -> Any:
    return items[0]


def measure(path: Path, workers: int) -> dict[str, Any]:
    """Reads the file in this process, then in forked workers; MiB and seconds."""
    import torch

    from detdistill.data.formats.coco import read_coco

    torch.set_num_threads(1)
    rss_before = _memory("Rss")
    start, start_cpu = time.perf_counter(), time.process_time()
    annotations, problems = read_coco(path, images_dir=path.parent)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    load = os.getloadavg()[0]
    rss_after = _memory("Rss")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    names = ("category_ids", "image_ids", "sizes", "name_bytes", "name_offsets", "offsets", "boxes", "labels")
    arrays = sum(getattr(annotations, name).nbytes for name in (*names, "ignored", "areas"))
    empty, touched = _workers(None, workers), _workers(annotations, workers)
    distinct = len({row[0] for row in touched})
    if distinct != workers:
        raise RuntimeError(f"each of {workers} workers must have read once, got {distinct}")
    return {
        "images": len(annotations),
        "boxes": len(annotations.boxes),
        "problems": len(problems),
        "arrays_mib": arrays / MIB,
        "index_seconds": seconds,
        "index_cpu_seconds": cpu_seconds,
        "load_average": load,
        "after_imports_mib": rss_before,
        "growth_mib": rss_after - rss_before,
        "peak_mib": peak,
        "workers": workers,
        "workers_private_mib": sum(row[2] - row[1] for row in touched),
        "workers_private_over_empty_mib": sum(row[2] for row in touched) - sum(row[2] for row in empty),
        "worker_private_total_mib": [row[2] for row in touched],
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--boxes", type=int, default=860_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.read is not None:
        print(json.dumps(measure(given.read, given.workers)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances_train.json"
        start = time.perf_counter()
        size = write_coco(path, images=given.images, boxes=given.boxes)
        print(f"wrote {size / 1e6:.0f} MB in {time.perf_counter() - start:.0f} s", flush=True)
        command = [sys.executable, __file__, "--read", str(path), "--workers", str(given.workers)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures = json.loads(done.stdout)
    if (figures["images"], figures["boxes"], figures["problems"]) != (given.images, given.boxes, 0):
        raise RuntimeError(f"all images and boxes must have been read, got {figures}")
    kept = {name: figures[name] <= limit for name, limit in LIMITS.items()}
    versions = {"python": platform.python_version(), "numpy": version("numpy"), "torch": version("torch")}
    result = {"file_bytes": size, **figures, "limits": LIMITS, "within_limits": kept, "versions": versions}
    result["hardware"] = {"cpus": os.cpu_count(), "machine": platform.machine()}
    for name, value in figures.items():
        print(f"{name:32} {value:.1f}" if isinstance(value, float) else f"{name:32} {value}")
    if given.json is not None:
        from detdistill.files import write_json

        write_json(given.json, result)
    for name, limit in LIMITS.items():
        print(f"{name} at most {limit:g}: {'yes' if kept[name] else 'NO'}")
    return 0 if all(kept.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
