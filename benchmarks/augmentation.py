"""What the named strengths of augmentation do to AP, for few images with many passes and for many with few.

A small student from scratch on photographs of blood cells (bccd): 60 of its training images, and all of them. All
strengths of a seed see the same images in the same order from the same weights. A run that is finished is not repeated.

    python benchmarks/augmentation.py --data FOLDER_OF_DATA_SETS --json benchmarks/results/augmentation.json
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from detdistill.threads import quiet_threads

quiet_threads()

import torch  # noqa: E402

from detdistill.bench.machine import machine  # noqa: E402
from detdistill.data.transforms import STRENGTHS  # noqa: E402
from detdistill.files import read_json, write_json  # noqa: E402
from detdistill.jobs.config import read_run_config  # noqa: E402
from detdistill.jobs.run import train_job  # noqa: E402
from detdistill.progress import ScreenProgress  # noqa: E402

DATA = "bccd"
# Training images (None: all) and steps of 8 images.
GROUPS = {"60 images, 33 passes": (60, 250), "292 images, 2 passes": (None, 80)}
COMMON = (
    "data.image.short_side=96",
    "data.image.long_side=128",
    "train.batch_size=8",
    "train.lr=1e-3",
    "train.warmup_steps=20",
    "train.ema_decay=0.95",
    "train.threads=1",
    "train.device=cpu",
)


def part_of(data: Path, images: int | None, out: Path) -> Path:
    """The training split, or a data set of its first images, linked."""
    if images is None:
        return data
    folder = out / f"first_{images}"
    if not (folder / "train.json").is_file():
        content = read_json(data / "train.json")
        content["images"] = content["images"][:images]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [one for one in content["annotations"] if one["image_id"] in kept]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "images").symlink_to((data / "images").resolve())
        (folder / "val.json").symlink_to((data / "val.json").resolve())
        write_json(folder / "train.json", content)
    return folder


def runs(out: Path, seeds: int) -> Iterator[tuple[str, str, int, Path]]:
    for seed in range(seeds):
        for group, (images, _) in GROUPS.items():
            for strength in STRENGTHS:
                yield group, strength, seed, out / f"{images or 'all'}_{strength}_{seed}"


def summary(out: Path, seeds: int) -> dict[str, Any]:
    """Figures of every finished run, and their means beside those of light."""
    found = {}
    for group, strength, seed, folder in runs(out, seeds):
        if (folder / "results.json").is_file():
            figures = read_json(folder / "results.json")["student"]
            found[f"{group}/{strength}/{seed}"] = {key: round(figures[key], 2) for key in ("AP", "AP50")}
    table = [f"{'group':<22}{'strength':<10}{'AP':>6}{'AP50':>7}{'vs light':>10}  AP by seed"]
    for group in GROUPS:
        own = {
            strength: [found[key] for seed in range(seeds) if (key := f"{group}/{strength}/{seed}") in found]
            for strength in STRENGTHS
        }
        for strength, figures in own.items():
            if not figures:
                continue
            ap, ap50 = (mean(one[key] for one in figures) for key in ("AP", "AP50"))
            paired = [one["AP"] - other["AP"] for one, other in zip(figures, own["light"], strict=False)]
            difference = f"{mean(paired):+.1f}" if paired and strength != "light" else ""
            each = ", ".join(f"{one['AP']:.1f}" for one in figures)
            table.append(f"{group:<22}{strength:<10}{ap:>6.1f}{ap50:>7.1f}{difference:>10}  {each}")
    return {"table": table, "runs": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=f"folder that holds {DATA}")
    parser.add_argument("--out", type=Path, default=Path("runs/augmentation"))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    for group, strength, seed, folder in runs(given.out, given.seeds):
        if (folder / "results.json").is_file():
            continue
        images, steps = GROUPS[group]
        options = {
            "student.detector": "fcos/tiny",
            "data.folder": part_of(given.data / DATA, images, given.out),
            "out": folder,
            "seed": seed,
            "train.steps": steps,
        }
        config = read_run_config(None, [*COMMON, f"data.augment={strength}"], purpose="train", options=options)
        train_job(config, resume=True, progress=ScreenProgress())
        content = summary(given.out, given.seeds)
        print("\n".join(content["table"]), flush=True)
        if given.json is not None:
            settings = {"data": DATA, "detector": "fcos/tiny", "settings": list(COMMON)}
            write_json(given.json, {**content, **settings, "groups": GROUPS, "machine": machine(torch.device("cpu"))})


if __name__ == "__main__":
    main()
