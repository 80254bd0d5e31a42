"""What `--init` is for, on drawn scenes over several seeds: a class more, longer training, alone and then distilled.

The sixth class is a warning sign, drawn into the scenes here; the five are the scenes' own. All students are
`fcos/tiny` with the demo's numbers, untuned for a start from something; a run that starts from another has a seed of
its own. Resumable: what is finished is not trained again.

    python benchmarks/init_study.py --seeds 0 1 2 --json benchmarks/results/init_study.json
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from detdistill.threads import quiet_threads

quiet_threads()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402

from detdistill.bench.machine import machine  # noqa: E402
from detdistill.files import read_json, write_json  # noqa: E402
from detdistill.jobs.config import read_run_config  # noqa: E402
from detdistill.jobs.run import DISTILLED, STUDENT, distill_job, train_job  # noqa: E402
from detdistill.progress import ScreenProgress  # noqa: E402
from detdistill.scenes import make_scenes  # noqa: E402

WIDTH, HEIGHT = 96, 64
SCENES, LABELLED, VAL = 1200, 300, 200
STEPS, FINE_STEPS, TEACHER_STEPS = 200, 100, 400
SIGN = "warning sign"
METHOD = "frs(feature_gain=0.02, class_gain=1.5, standardize=true, aligner=conv1x1)"
TRAINING = (
    "train.batch_size=16",
    "train.lr=0.008",
    "train.schedule=step",
    "train.warmup_steps=50",
    "train.ema_decay=0.98",
    "train.threads=1",
    "train.device=cpu",
    "data.augment.flip=0.5",
    f"data.image={{short_side: {HEIGHT}, long_side: {WIDTH}}}",
)
# Name, what it is compared for, data, steps, started from, taught.
ROWS = (
    ("five", "five classes, from scratch", "five", STEPS, None, False),
    ("six_scratch", "six classes, from scratch", "six", FINE_STEPS, None, False),
    ("six_init", "six classes, --init five", "six", FINE_STEPS, "five", False),
    ("twice_scratch", "five classes, from scratch, twice the steps", "five", 2 * STEPS, None, False),
    ("longer_init", "five classes, --init five", "five", STEPS, "five", False),
    ("distilled_scratch", "distilled from scratch", "five", STEPS, None, True),
    ("distilled_init", "distilled, --init five", "five", STEPS, "five", True),
)


def make_data(out: Path, seed: int) -> None:
    """The scenes with five classes, and the labelled ones of them with a sixth, which stands first in its files."""
    make_scenes(out / "all", train=SCENES, val=VAL, seed=seed, width=WIDTH, height=HEIGHT)
    for kind in ("five", "six"):
        if (out / kind / "train.json").is_file() and (out / kind / "val.json").is_file():
            continue
        shutil.rmtree(out / kind, ignore_errors=True)
        (out / kind / "images").mkdir(parents=True)
        for split, count in (("val", VAL), ("train", LABELLED)):
            content = read_json(out / "all" / f"{split}.json")
            images = content["images"][:count]
            kept = {image["id"] for image in images}
            boxes = [box for box in content["annotations"] if box["image_id"] in kept]
            categories = content["categories"]
            for image in images:
                source, target = (out / one / "images" / image["file_name"] for one in ("all", kind))
                signs = draw_signs(source, target, (seed, split == "val", image["id"])) if kind == "six" else []
                if kind == "five":
                    shutil.copyfile(source, target)
                boxes += [annotation(len(boxes) + 10**6, image["id"], box) for box in signs]
            if kind == "six":
                categories = [{"id": 99, "name": SIGN}, *categories]
            whole = {**content, "images": images, "annotations": boxes, "categories": categories}
            write_json(out / kind / f"{split}.json", whole)


def annotation(number: int, image: int, box: tuple[int, int, int, int]) -> dict[str, Any]:
    left, top, right, bottom = box
    size = [left, top, right - left, bottom - top]
    return {"id": number, "image_id": image, "category_id": 99, "bbox": size, "area": size[2] * size[3], "iscrowd": 0}


def draw_signs(source: Path, target: Path, numbers: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Writes the picture with up to two warning signs on poles in it, and returns their boxes."""
    dice = np.random.default_rng(numbers)
    picture, boxes = Image.open(source).convert("RGB"), []
    pen = ImageDraw.Draw(picture)
    for _ in range(int(dice.integers(0, 3))):
        side = int(dice.integers(7, 17))
        left, top = int(dice.integers(1, WIDTH - side - 1)), int(dice.integers(4, HEIGHT - side - 4))
        right, bottom, middle = left + side, top + side, left + side // 2
        shade = int(dice.integers(60, 140))
        pen.line(
            (middle, bottom, middle, min(HEIGHT - 1, bottom + 2 * side)), fill=(shade,) * 3, width=max(1, side // 8)
        )
        pen.polygon(((left, bottom), (right, bottom), (middle, top)), fill=(int(dice.integers(170, 240)), 30, 30))
        rim = max(1, side // 5)
        inner = ((left + 2 * rim, bottom - rim), (right - 2 * rim, bottom - rim), (middle, top + 2 * rim))
        pen.polygon(inner, fill=(int(dice.integers(210, 255)),) * 3)
        boxes.append((left, top, right + 1, bottom + 1))
    picture.save(target, compress_level=1)
    return boxes


def runs(out: Path, seed: int, watch: ScreenProgress) -> dict[str, Any]:
    """Makes all runs of a seed, and returns their figures."""
    options: dict[str, object] = {"data.folder": out / "all", "out": out / "teacher", "seed": seed}
    training = [*TRAINING, f"train.steps={TEACHER_STEPS}", "train.schedule=cosine", "train.ema_decay=0.99"]
    options |= {"student.detector": "fcos/small"}
    teacher = train_job(read_run_config(None, training, purpose="train", options=options), resume=True, progress=watch)
    found = {"teacher": figures(teacher.as_dict()[STUDENT])}
    for name, _, data, steps, start, taught in ROWS:
        options = {"data.folder": out / data, "out": out / name, "seed": seed if start is None else seed + 10}
        options |= {"student.detector": "fcos/tiny"} if start is None else {"init": out / start}
        options |= {"teacher.source": out / "teacher", "method.name": METHOD} if taught else {}
        purpose, job = ("distill", distill_job) if taught else ("train", train_job)
        training = [*TRAINING, f"train.steps={steps}"]
        config = read_run_config(None, training, purpose=purpose, options=options)  # type: ignore[arg-type]
        done = out / name / "results.json"
        content = read_json(done) if done.is_file() else job(config, resume=True, progress=watch).as_dict()
        found[name] = figures(content[DISTILLED if taught else STUDENT])
    return found


def figures(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: metrics[key] for key in ("AP", "AP50", "per_class")}


def summary(seeds: dict[str, Any]) -> dict[str, Any]:
    rows = {"teacher": (f"teacher, five classes, {SCENES} scenes", TEACHER_STEPS)}
    rows |= {name: (title, steps) for name, title, _, steps, _, _ in ROWS}
    told = {}
    for name, (title, steps) in rows.items():
        every = [run[name]["AP"] for run in seeds.values()]
        spread = round(stdev(every), 2) if len(every) > 1 else None
        told[name] = {"what": title, "steps": steps, "AP": round(mean(every), 2), "sd": spread, "all": every}
        if SIGN in next(iter(seeds.values()))[name]["per_class"]:
            told[name]["AP of the new class"] = [run[name]["per_class"][SIGN] for run in seeds.values()]
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/init_study"))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/init_study.json"))
    chosen = parser.parse_args()
    seeds: dict[str, Any] = {}
    for seed in chosen.seeds:
        out = chosen.out / f"seed_{seed}"
        make_data(out, seed)
        seeds[str(seed)] = runs(out, seed, ScreenProgress())
        settings = {"size": [WIDTH, HEIGHT], "scenes": [SCENES, LABELLED, VAL], "method": METHOD, "training": TRAINING}
        content = {"summary": summary(seeds), "seeds": seeds, "settings": settings}
        write_json(chosen.json, {**content, "machine": machine(torch.device("cpu"))})
    for name, row in summary(seeds).items():
        print(f"{name:<18} {row['steps']:>4} steps  {row['AP']:>6} ± {row['sd']}  {row['all']}  {row['what']}")


if __name__ == "__main__":
    main()
