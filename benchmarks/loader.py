"""Images a second of the training loader, with and without kept images, beside torchvision's reference loader.

    python benchmarks/loader.py --data FOLDER:160x240 ... --json benchmarks/results/loader.json

Each folder is a COCO one (train.json, images/), brought to that short and long side. Theirs is what torchvision's
references/detection train with: `CocoDetection` wrapped for its v2 transforms, `RandomShortestSize` of one size,
`RandomHorizontalFlip`, `ToDtype` and `SanitizeBoundingBoxes`, a tuple of images as the batch, with either of its back
ends, of which the faster one counts. It leaves padding to the model; ours is padded, and with the same
resize and flip. All keep their worker processes for the whole measurement and take turns; a turn is timed once what was
read ahead is used up. What is kept was read once before, as in the passes after a run's first.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from detdistill.threads import quiet_threads

quiet_threads()

import torch  # noqa: E402
from torch.utils.data import DataLoader, RandomSampler  # noqa: E402
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

from checkouts import quartiles  # noqa: E402
from detdistill.bench.machine import machine  # noqa: E402
from detdistill.bench.rows import ROWS, row  # noqa: E402
from detdistill.data.annotations import Annotations  # noqa: E402
from detdistill.data.dataset import DetectionDataset, Draw  # noqa: E402
from detdistill.data.decoded import InMemory, Kept, OnDisk  # noqa: E402
from detdistill.data.loader import training_loader  # noqa: E402
from detdistill.data.transforms import AugmentSettings, ImageSettings  # noqa: E402
from detdistill.files import write_json  # noqa: E402
from detdistill.jobs.opening import read_split  # noqa: E402
from detdistill.progress import Silence  # noqa: E402

AHEAD = 2  # batches that each worker reads ahead, as DataLoader has it
GOAL = 1.5
OURS = {"ours": "none", "ours, ram": "ram", "ours, disk": "disk", "ours, reduced": "reduced"}
THEIRS = {"torchvision, PIL": "pil", "torchvision, tensors": "tv_tensor"}
Batches = Iterator[Any]


def their_batches(folder: Path, image: ImageSettings, given: argparse.Namespace, backend: str) -> Batches:
    """Endless batches of torchvision's reference."""
    changes = [
        v2.RandomShortestSize(min_size=[image.short_side], max_size=image.long_side),
        v2.RandomHorizontalFlip(0.5),
    ]
    tensors = [v2.ToImage()]
    steps = [*tensors, *changes] if backend == "tv_tensor" else [*changes, *tensors]
    steps += [v2.ToDtype(torch.float32, scale=True), v2.ConvertBoundingBoxFormat("XYXY")]
    transforms = v2.Compose([*steps, v2.SanitizeBoundingBoxes(), v2.ToPureTensor()])
    data = CocoDetection(str(folder / "images"), str(folder / "train.json"), transforms=transforms)
    labelled = [number for number, one in enumerate(data.ids) if data.coco.getAnnIds(imgIds=one)]
    wrapped = wrap_dataset_for_transforms_v2(data, target_keys=("boxes", "labels"))
    images = torch.utils.data.Subset(wrapped, labelled)
    sampler = RandomSampler(images, num_samples=10**7)
    return iter(
        DataLoader(
            images,
            batch_size=given.batch_size,
            sampler=sampler,
            num_workers=given.workers,
            collate_fn=_zipped,
            prefetch_factor=AHEAD,
            worker_init_fn=lambda _: torch.set_num_threads(1),
        )
    )


def _zipped(batch: Any) -> Any:
    return tuple(zip(*batch, strict=True))


def our_dataset(train: Annotations, image: ImageSettings, how: str, home: Path) -> DetectionDataset:
    """The training view, as a run with data.cache or data.decode has it."""
    kept: Kept = {}
    if how == "ram":
        kept = {image: InMemory(train, image)}
    if how == "disk":
        kept = {image: OnDisk(train, image, home)}
    return DetectionDataset(train, image=image, augment=AugmentSettings(), decoded=kept, reduced=how == "reduced")


def our_batches(data: DetectionDataset, given: argparse.Namespace) -> Batches:
    """Batches of a training, as many as are asked for."""
    return iter(training_loader(data, batch_size=given.batch_size, steps=10**6, workers=given.workers))


def processor_seconds() -> float:
    """What this process and the workers of all loaders have computed; those that wait compute nothing."""
    tasks = Path("/proc/self/task").glob("*/children")
    workers = [one for task in tasks for one in task.read_text(encoding="ascii").split()]
    lines = (Path(f"/proc/{one}/schedstat").read_text(encoding="ascii") for one in workers)
    return time.process_time() + sum(int(line.split()[0]) for line in lines) / 1e9


def turn(batches: Batches, given: argparse.Namespace) -> tuple[float, float]:
    """Images a second without what was read ahead, and processor milliseconds an image.

    Returns when as much is read ahead again.
    """
    computed = processor_seconds()
    for _ in range(AHEAD * given.workers):
        next(batches)
    began = time.perf_counter()
    for _ in range(given.batches):
        next(batches)
    seconds = time.perf_counter() - began
    time.sleep(1.2 * seconds * AHEAD * given.workers / given.batches)
    count = (given.batches + AHEAD * given.workers) * given.batch_size
    return given.batches * given.batch_size / seconds, 1000 * (processor_seconds() - computed) / count


def difference(train: Annotations, image: ImageSettings) -> dict[str, float]:
    """How far images decoded at a reduced scale are from those decoded fully, in pixel values of 0 to 255."""
    full, reduced = (DetectionDataset(train, image=image, reduced=way) for way in (False, True))
    means, most = [], 0
    for index in range(min(len(train), 100)):
        one, other = (data[Draw(0, index)].image.to(torch.int16) for data in (full, reduced))
        apart = (one - other).abs()
        means.append(float(apart.float().mean()))
        most = max(most, int(apart.max()))
    return {"mean": round(statistics.mean(means), 3), "largest_mean": round(max(means), 3), "largest": most}


def measured(folder: Path, image: ImageSettings, given: argparse.Namespace, home: Path) -> dict[str, Any]:
    """All loaders on one folder, in turns."""
    sides = f"{image.short_side} x {image.long_side}"
    train = read_split(folder, "train", progress=Silence())
    datasets = {name: our_dataset(train, image, how, home) for name, how in OURS.items()}
    for name in ("ours, ram", "ours, disk"):  # what the first pass of a run does
        for index in range(len(train)):
            datasets[name][Draw(0, index)]
    loaders: dict[str, Callable[[], Batches]] = {}
    for name, data in datasets.items():
        loaders[name] = lambda data=data: our_batches(data, given)  # type: ignore[misc]
    for name, backend in THEIRS.items():
        loaders[name] = lambda backend=backend: their_batches(folder, image, given, backend)  # type: ignore[misc]
    running = {name: begin() for name, begin in loaders.items()}
    rates: dict[str, list[float]] = {name: [] for name in running}
    costs: dict[str, list[float]] = {name: [] for name in running}
    for number in range(-1, given.rounds):
        for name, batches in running.items():
            rate, cost = turn(batches, given)
            if number >= 0:
                rates[name].append(rate)
                costs[name].append(cost)
    for name in OURS:
        with closing(running[name]):  # type: ignore[type-var]
            pass
    best = max((rates[name] for name in THEIRS), key=statistics.median)
    found: dict[str, Any] = {
        "images": len(train),
        "stored_px": [int(side) for side in torch.from_numpy(train.sizes[:]).median(0).values],
        "images_per_second": {name: quartiles(values, 1) for name, values in rates.items()},
        "processor_ms_per_image": {name: quartiles(values, 3) for name, values in costs.items()},
        "reduced_apart": difference(train, image),
        "ratios": {
            f"{name} ÷ torchvision's reference loader, {folder.name} at {sides}": [
                own / theirs for own, theirs in zip(rates[name], best, strict=True)
            ]
            for name in OURS
        },
    }
    print(f"{folder.name}: {len(train)} images, to {image.text()}, {given.workers} workers")
    for name, rate in found["images_per_second"].items():
        cost = found["processor_ms_per_image"][name][1]
        print(f"  {name:<22}{rate[1]:>9.1f} images/s ({rate[0]:.1f}-{rate[2]:.1f}), {cost:.2f} processor ms an image")
    for what, ratios in found["ratios"].items():
        low, middle, high = quartiles(ratios, 3)
        print(f"  {what}: {middle:.2f} ({low:.2f}-{high:.2f})")
    apart = found["reduced_apart"]
    print(f"  reduced: {apart['mean']} of 255 apart on average, at most {apart['largest']}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, metavar="FOLDER:SHORTxLONG")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batches", type=int, default=12, help="batches of a turn")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    found, rows, hardware = {}, [], machine(torch.device("cpu"))
    for text in given.data:
        folder, _, sides = text.rpartition(":")
        with tempfile.TemporaryDirectory() as home:
            one = measured(Path(folder), ImageSettings(*map(int, sides.split("x"))), given, Path(home))
        for name, ratios in one.pop("ratios").items():
            rows.append(row(f"images a second: {name}", ratios, hardware=hardware, at_least=GOAL))
        found[f"{Path(folder).name} at {sides}"] = one
        if given.json is not None:
            settings = {key: value for key, value in vars(given).items() if key not in ("json", "data")}
            write_json(given.json, {"machine": hardware, "settings": settings, "data": found, ROWS: rows})


if __name__ == "__main__":
    main()
