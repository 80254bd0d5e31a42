"""How much adversarial twins raise a teacher's class loss, and how far they are from their images.

Every validation image is attacked with the default numbers of `ikd`, at the size that the teacher sees. Measured are
the twins as made, and as they come back from the cache on disk, at the stored size and in whole pixel values.

    python benchmarks/attack_strength.py --teacher RUN --data DIR --json benchmarks/results/attack_strength.json
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from detdistill.threads import quiet_threads

quiet_threads()

from torch import Tensor  # noqa: E402

from detdistill.bench.machine import machine  # noqa: E402
from detdistill.data.annotations import Annotations  # noqa: E402
from detdistill.data.dataset import DetectionDataset, TwinReader  # noqa: E402
from detdistill.data.loader import evaluation_loader  # noqa: E402
from detdistill.data.transforms import ImageSettings  # noqa: E402
from detdistill.detectors.frozen import FrozenTeacher  # noqa: E402
from detdistill.files import write_json  # noqa: E402
from detdistill.jobs.opening import available_device, image_settings, open_detector, read_split  # noqa: E402
from detdistill.methods.attack import AdversarialTwins, AttackSettings  # noqa: E402
from detdistill.progress import ScreenProgress  # noqa: E402
from detdistill.store.twins import open_twin_cache  # noqa: E402
from detdistill.types import Batch  # noqa: E402

TWIN = "adversarial"


@dataclass
class Tally:
    """Class losses of images and of their twins, and the largest change of a pixel."""

    clean: list[float] = field(default_factory=list)
    twins: list[float] = field(default_factory=list)
    largest: float = 0.0

    def figures(self) -> dict[str, float | int]:
        """What is reported."""
        pairs = list(zip(self.clean, self.twins, strict=True))
        return {
            "images": len(pairs),
            "share_risen": sum(twin > clean for clean, twin in pairs) / len(pairs),
            "median_ratio": median(twin / max(clean, 1e-12) for clean, twin in pairs),
            "largest_change_255": self.largest,
        }


def class_loss(teacher: FrozenTeacher, batch: Batch) -> list[float]:
    """The loss that the attack raises, of every image alone."""
    losses: list[float] = teacher.input_gradient(batch)[1].tolist()
    return losses


def measure(
    teacher: FrozenTeacher,
    annotations: Annotations,
    image: ImageSettings,
    *,
    batch_size: int,
    twins_of: Callable[[Batch], Tensor],
    readers: Mapping[str, TwinReader],
) -> Tally:
    """Losses of all images and of what `twins_of` gives for them."""
    tally = Tally()
    dataset = DetectionDataset(annotations, image=image, twins=readers)
    for loaded in evaluation_loader(dataset, batch_size=batch_size):
        batch = loaded.to(teacher.device)
        twins = twins_of(batch)
        tally.clean += class_loss(teacher, batch)
        tally.twins += class_loss(teacher, replace(batch, images=twins))
        tally.largest = max(tally.largest, 255 * float((twins - batch.images).abs().max()))
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", required=True, help="a run, a checkpoint or torchvision:NAME")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", choices=("train", "val"), default="val")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/attack_strength.json"))
    chosen = parser.parse_args()
    progress, device = ScreenProgress(), available_device()
    loaded = open_detector(chosen.teacher, progress=progress)
    annotations = read_split(chosen.data, chosen.split, progress=progress)
    image = image_settings(loaded.image, annotations)
    teacher = FrozenTeacher(loaded.detector).to(device)
    maker, before = AdversarialTwins(AttackSettings()), teacher.digest()
    results: dict[str, Any] = {}

    def take(name: str, twins_of: Callable[[Batch], Tensor], readers: Mapping[str, TwinReader]) -> None:
        began = time.perf_counter()
        tally = measure(teacher, annotations, image, batch_size=chosen.batch_size, twins_of=twins_of, readers=readers)
        results[name] = {**tally.figures(), "seconds": round(time.perf_counter() - began, 2)}
        print(name, results[name])

    take("as made", lambda batch: maker(teacher, batch), {})
    with tempfile.TemporaryDirectory() as folder:
        for resize in ("perturbation", "twin"):
            reader = open_twin_cache(
                Path(folder),
                maker=maker,
                teacher=teacher,
                annotations=annotations,
                image=image,
                batch_size=chosen.batch_size,
                device=device,
                progress=progress,
                resize="perturbation" if resize == "perturbation" else "twin",
            )
            take(f"from the cache, {resize} resized", lambda batch: batch.twins[TWIN], {TWIN: reader})
    write_json(
        chosen.json,
        {
            "teacher": chosen.teacher,
            "data": chosen.data.name,
            "split": chosen.split,
            "image": asdict(image),
            "attack": asdict(maker.settings),
            "teacher_unchanged": teacher.digest() == before,
            "results": results,
            "machine": machine(device),
        },
    )


if __name__ == "__main__":
    main()
