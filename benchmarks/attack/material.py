"""What is attacked: a small data set, a teacher, and runs that nobody disturbed, made anew at every start."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.attack.processes import Forked, command, undrawn
from PIL import Image

STEPS, EVERY = 6, 1
SMALL = ("student.head_depth=1", "student.strides=[8, 16]", "student.fpn_channels=8")
SMALL += ("train.optimizer=sgd", "train.lr=0.002", "train.warmup_steps=1", "train.ema_decay=0.9", "train.log_every=1")
SMALL += ("train.device=cpu", "train.threads=1", f"train.checkpoint_every={EVERY}", "train.keep_checkpoints=2")
SMALL += ("train.batch_size=2",)
_CLASSES, _HEIGHT, _WIDTH = ("square", "bar"), 32, 48


def draw_data(folder: Path, *, train: int = 6, val: int = 2) -> Path:
    """A COCO folder of noise with a bright rectangle or two on each image; every fourth has none."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    categories = [{"id": 3 * index + 1, "name": name} for index, name in enumerate(_CLASSES)]
    for split, count in (("train", train), ("val", val)):
        images, annotations = [], list[dict[str, Any]]()
        for index in range(count):
            pixels = rng.integers(0, 90, (_HEIGHT, _WIDTH, 3), dtype=np.uint8)
            for kind in range(0 if index % 4 == 3 else 2):
                width, height = ((12, 12), (24, 8))[kind]
                x, y = int(rng.integers(0, _WIDTH - width)), int(rng.integers(0, _HEIGHT - height))
                pixels[y : y + height, x : x + width] = (250, 60, 40) if kind == 0 else (40, 230, 250)
                box = {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0}
                ids = {"id": len(annotations) + 1, "image_id": 100 + index, "category_id": categories[kind]["id"]}
                annotations.append(ids | box)
            name = f"{split}_{index}.png"
            Image.fromarray(pixels).save(folder / "images" / name)
            images.append({"id": 100 + index, "file_name": name, "width": _WIDTH, "height": _HEIGHT})
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Material:
    """A folder with `data`, a `teacher`, and runs that nobody disturbed, made when they are first asked for."""

    home: Path
    runs: dict[str, Path] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def fresh(cls, home: Path) -> Material:
        """Begins anew in a folder that is ours alone."""
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        draw_data(home / "data")
        return cls(home)

    def rest(self) -> None:
        """Nothing is needed beside."""

    @property
    def teacher(self) -> Path:
        """The run of a detector that teaches."""
        words = ("train", "--detector", "fcos/test_resnet", "--data", str(self.home / "data"), *SMALL)
        return self.run("teacher", (*words, "--steps", "2", "--seed", "9", "--out", str(self.home / "teacher")))

    def run(self, name: str, words: Sequence[str]) -> Path:
        """The run that a command makes, made once."""
        if name not in self.runs:
            out = Path(words[words.index("--out") + 1])
            ended = Forked(undrawn(command(words)), self.home / f"{name}.said").wait()
            if ended.code != 0:
                raise RuntimeError(f"{name} must run undisturbed, got {ended.code}: {ended.said[-3000:]}")
            self.runs[name], self.seconds[name] = out, ended.seconds
        return self.runs[name]

    def spare(self, name: str) -> Path:
        """A folder of that name that is not there."""
        folder = self.home / "tries" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(exist_ok=True)
        return folder


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path in it; of a folder without files, of a link, its kind."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif not any(path.iterdir()):
            found[name] = "empty folder"
    return found


def weights(run: Path, *, step: int = STEPS) -> dict[str, str]:
    """Digests of a checkpoint's student and of all that its training needs to go on, and its counters."""
    place = run / "checkpoints" / f"step_{step:07d}"
    content = json.loads((place / "training.json").read_text(encoding="utf-8"))
    found = {name: digest for name, digest in digests(place).items() if name != "training.json"}
    kept = {key: content[key] for key in ("step", "identity", "counters")}
    return found | {"counters": json.dumps(kept, sort_keys=True)}


def metrics(run: Path) -> list[Mapping[str, float | None]]:
    """The figures of every step, but the time that it took."""
    from detdistill.training.logs import read_rows

    return [{name: value for name, value in row.items() if name != "seconds"} for row in read_rows(run / "metrics.csv")]


def leftovers(*folders: Path) -> list[str]:
    """Temporary names that are left below folders."""
    return [str(path) for folder in folders for path in folder.rglob("*.partial*")]
