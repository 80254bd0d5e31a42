"""Memory and time of making COCO traffic from a file of train2017's size: `python benchmarks/coco_traffic_memory.py`.

One process writes a COCO file with segmentations into a temporary folder, a second one filters it and notes its peak
resident memory, imports included. Every class is as frequent as any other there, so that more images are kept than of
the real file: what is measured is an upper bound.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from annotation_memory import write_coco

LIMITS = {"peak_mib": 1024.0}


def measure(path: Path) -> dict[str, Any]:
    """Filters the file in this process; MiB and seconds."""
    from detdistill.papers.traffic_filter import filter_traffic

    start, start_cpu = time.perf_counter(), time.process_time()
    kept = filter_traffic(path, path.with_name("traffic.json"))
    return {
        "images": kept.images,
        "images_in_source": kept.images_in_source,
        "boxes": sum(kept.boxes.values()),
        "written_bytes": path.with_name("traffic.json").stat().st_size,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - start_cpu,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def class_names() -> tuple[str, ...]:
    """80 names, the 13 of COCO traffic among them."""
    from detdistill.papers.traffic_filter import TRAFFIC_CLASSES

    return (*TRAFFIC_CLASSES, *(f"class {k}" for k in range(80 - len(TRAFFIC_CLASSES))))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--boxes", type=int, default=860_001)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--filter", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.filter is not None:
        print(json.dumps(measure(given.filter)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances_train2017.json"
        size = write_coco(path, images=given.images, boxes=given.boxes, class_names=class_names())
        print(f"wrote {size / 1e6:.0f} MB", flush=True)
        command = [sys.executable, __file__, "--filter", str(path)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures = json.loads(done.stdout)
    if figures["images_in_source"] != given.images:
        raise RuntimeError(f"all images must have been read, got {figures}")
    kept = {name: figures[name] <= limit for name, limit in LIMITS.items()}
    result = {"file_bytes": size, **figures, "limits": LIMITS, "within_limits": kept}
    result["versions"] = {"python": platform.python_version()}
    result["hardware"] = {"cpus": os.cpu_count(), "machine": platform.machine()}
    for name, value in figures.items():
        print(f"{name:20} {value:.1f}" if isinstance(value, float) else f"{name:20} {value}")
    if given.json is not None:
        from detdistill.files import write_json

        write_json(given.json, result)
    for name, limit in LIMITS.items():
        print(f"{name} at most {limit:g}: {'yes' if kept[name] else 'NO'}")
    return 0 if all(kept.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
