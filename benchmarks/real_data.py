"""Teacher, student alone and distilled students on real (bccd) and rendered (carla_sim) photographs.

Teacher and student start from ImageNet backbones (`benchmarks/imagenet_backbones.py` writes them); on bccd a small
student is also trained from scratch. Every recipe runs with its default numbers. Every run is its own folder and is
not repeated; the table is rewritten after each and says what is missing.

    python benchmarks/imagenet_backbones.py --out runs/backbones
    python benchmarks/real_data.py --data FOLDER_OF_DATA_SETS --json benchmarks/results/real_data.json
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from detdistill.threads import quiet_threads

quiet_threads()

import torch  # noqa: E402

from detdistill.bench.machine import machine  # noqa: E402
from detdistill.files import read_json, write_json  # noqa: E402
from detdistill.jobs.config import read_run_config  # noqa: E402
from detdistill.jobs.run import (  # noqa: E402
    DISTILLED,
    distill_job,
    train_job,
)
from detdistill.progress import ScreenProgress  # noqa: E402

METHODS = ("hint", "frs", "ssim")
IMAGES = {"bccd": (120, 160), "carla_sim": (120, 208)}
TEACHER, ALONE = "teacher", "alone"
COMMON = (
    "train.batch_size=8",
    "train.lr=1e-3",
    "train.warmup_steps=30",
    "train.threads=1",
    "train.ema_decay=0.98",
    "data.augment.flip=0.5",
)
LITE = ("student.mean=[0.5,0.5,0.5]", "student.std=[0.5,0.5,0.5]", "student.strides=[8,16,32]")


@dataclass(frozen=True)
class Group:
    """A data set with a teacher and one kind of student."""

    name: str
    data: str
    student: tuple[str, ...]
    student_steps: int


GROUPS = (
    Group("bccd, ImageNet student", "bccd", ("fcos/tf_efficientnet_lite0", "student.fpn_channels=64", *LITE), 120),
    Group("bccd, student from scratch", "bccd", ("fcos/tiny",), 200),
    Group(
        "carla_sim, ImageNet student",
        "carla_sim",
        ("fcos/tf_efficientnet_lite0", "student.fpn_channels=64", *LITE),
        120,
    ),
)
TEACHER_STUDENT = ("fcos/tf_efficientnet_lite2", "student.fpn_channels=128", *LITE)
TEACHER_STEPS = 200


@dataclass(frozen=True)
class Run:
    """One training of the study."""

    group: Group
    model: str
    seed: int
    out: Path


def runs(out: Path, seeds: list[int]) -> Iterator[Run]:
    for group in GROUPS:
        for seed in seeds:
            yield Run(group, TEACHER, seed, out / f"{group.data}_teacher_{seed}")
            folder = out / f"{group.data}_{'scratch' if 'scratch' in group.name else 'imagenet'}"
            for model in (ALONE, *METHODS):
                yield Run(group, model, seed, folder / f"{model}_{seed}")


def settings_of(group: Group, *, teacher: bool, backbones: Path) -> list[str]:
    """The settings that every run of a group shares, for its teacher or its students."""
    short, long = IMAGES[group.data]
    detector, *numbers = TEACHER_STUDENT if teacher else group.student
    settings = [*COMMON, *numbers, f"data.image.short_side={short}", f"data.image.long_side={long}"]
    backbone = detector.partition("/")[2]
    if backbone.startswith("tf_"):
        settings += [f"student.pretrained={backbones / backbone}.safetensors", "student.head_depth=2"]
    return settings


def train(run: Run, *, data: Path, backbones: Path) -> None:
    if (run.out / "results.json").is_file():
        return
    teacher = run.model == TEACHER
    options: dict[str, object] = {
        "student.detector": TEACHER_STUDENT[0] if teacher else run.group.student[0],
        "data.folder": data / run.group.data,
        "out": run.out,
        "seed": run.seed,
        "train.steps": TEACHER_STEPS if teacher else run.group.student_steps,
    }
    settings = settings_of(run.group, teacher=teacher, backbones=backbones)
    if run.model in METHODS:
        folder = run.out.parent
        options |= {
            "method.name": run.model,
            "method.strength": "published",
            "teacher.source": folder.parent / f"{run.group.data}_teacher_{run.seed}",
            "alone": folder / f"alone_{run.seed}",
        }
        config = read_run_config(None, settings, purpose="distill", options=options)
        distill_job(config, resume=True, progress=ScreenProgress())
    else:
        config = read_run_config(None, settings, purpose="train", options=options)
        train_job(config, resume=True, progress=ScreenProgress())


def figures_of(run: Run) -> dict[str, Any] | None:
    """What a finished run measured; None where it is still to be made."""
    results = run.out / "results.json"
    if not results.is_file():
        return None
    content = read_json(results)
    figures = content[DISTILLED] if run.model in METHODS else content["student"]
    return {"AP": figures["AP"], "AP50": figures["AP50"], "steps": content["steps"]}


def table(done: dict[str, dict[str, Any]], planned: list[Run]) -> list[str]:
    lines = [f"{'group':<30}{'model':<10}{'AP':>7}{'AP50':>7}{'AP vs alone':>13}  seeds"]
    for group in GROUPS:
        for model in (TEACHER, ALONE, *METHODS):
            keys = [key(run) for run in planned if run.group is group and run.model == model]
            have = [done[one] for one in keys if one in done]
            if not have:
                lines.append(f"{group.name:<30}{model:<10}{'missing':>7}")
                continue
            alone = [one.replace(f"/{model}/", f"/{ALONE}/") for one in keys]
            pairs = [
                (done[a]["AP"], done[b]["AP"]) for a, b in zip(keys, alone, strict=True) if a in done and b in done
            ]
            gain = f"{mean(a - b for a, b in pairs):+.1f}" if pairs and model != ALONE else ""
            ap, ap50 = mean(one["AP"] for one in have), mean(one["AP50"] for one in have)
            each = ", ".join(f"{one['AP']:.1f}" for one in have)
            lines.append(f"{group.name:<30}{model:<10}{ap:>7.1f}{ap50:>7.1f}{gain:>13}  {each}")
    return lines


def key(run: Run) -> str:
    return f"{run.group.name}/{run.model}/{run.seed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("DETDISTILL_TEST_DATA"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", type=int, help="train this seed alone, such as beside another process")
    parser.add_argument("--out", type=Path, default=Path("runs/real"))
    parser.add_argument("--backbones", type=Path, default=Path("runs/backbones"))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/real_data.json"))
    chosen = parser.parse_args()
    if chosen.data is None:
        parser.error("give --data FOLDER_OF_DATA_SETS, or set DETDISTILL_TEST_DATA")
    planned = list(runs(chosen.out, chosen.seeds))
    for run in planned:
        if chosen.only is None or run.seed == chosen.only:
            train(run, data=Path(chosen.data), backbones=chosen.backbones)
        done = {key(one): figures for one in planned if (figures := figures_of(one)) is not None}
        lines = table(done, planned)
        write_json(chosen.json, {"table": lines, "runs": done, "machine": machine(torch.device("cpu"))})
    print("\n".join(lines))


if __name__ == "__main__":
    main()
