"""Every command that writes: its words, where it writes, and how it goes on after it was stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.attack.material import SMALL, Material, digests

_TRAFFIC = "person bicycle car motorcycle bus train truck,traffic light,fire hydrant,stop sign,parking meter,cat,dog"


@dataclass(frozen=True, slots=True)
class Writing:
    """A command that writes.

    Attributes:
        words: with `{out}` for where it writes, and `{data}`, `{run}`, `{coco}` for what it reads.
        resumes: whether ``--resume`` goes on with what was stopped; else the command is given once more.
        file: whether `{out}` is a file.
        varies: names of files whose content is not the same each time: times are in them.
    """

    words: tuple[str, ...]
    resumes: bool = False
    file: str = ""
    varies: tuple[str, ...] = ()

    def given(self, material: Material, out: Path) -> list[str]:
        """The words for a folder to write into."""
        target = out / self.file if self.file else out
        places = {"out": str(target), "data": str(material.home / "data"), "run": str(material.teacher)}
        return [word.format(**places, coco=str(material.home / "coco")) for word in self.words]

    def left(self, out: Path) -> dict[str, str]:
        """What it wrote, by name, as far as that is the same each time."""
        return {name: digest for name, digest in digests(out).items() if Path(name).name not in self.varies}


_TIMED = ("training.json", "metrics.csv", "results.json", "curves.png", "evaluations.csv", "config.yaml", "report.html")
_TRAIN = ("train", "--detector", "fcos/test_resnet", "--data", "{data}", "--steps", "2", "--seed", "4", *SMALL)
_DISTILL = (
    "distill",
    "--student",
    "fcos/test_resnet",
    "--teacher",
    "{run}",
    "--data",
    "{data}",
    "--steps",
    "2",
    *SMALL,
)
COMMANDS = {
    "train": Writing((*_TRAIN, "train.tensorboard=false", "--out", "{out}"), resumes=True, varies=_TIMED),
    "train, the best kept": Writing(
        (*_TRAIN, "train.evaluate_every=1", "train.keep=best", "--out", "{out}"), resumes=True, varies=_TIMED
    ),
    "distill": Writing((*_DISTILL, "--method", "aid(frs)", "--inherit", "--out", "{out}"), resumes=True, varies=_TIMED),
    "ikd with its cache": Writing((*_DISTILL, "--method", "ikd(frs)", "--out", "{out}"), resumes=True, varies=_TIMED),
    "prove": Writing(
        ("prove", *_DISTILL[1:], "--method", "hint", "--seeds", "1", "--out", "{out}"),
        resumes=True,
        varies=(*_TIMED, "verdict.json"),
    ),
    "evaluate": Writing(
        ("evaluate", "{run}", "--data", "{data}", "--confusion", "{out}/c.png", "--json", "{out}/f.json")
    ),
    "predict": Writing(("predict", "{run}", "{data}/images", "--score", "0.0001", "--out", "{out}")),
    "pictures": Writing(
        (
            "pictures",
            "--alone",
            "{run}",
            "--distilled",
            "{run}",
            "--teacher",
            "{run}",
            "--data",
            "{data}",
            "--out",
            "{out}",
        ),
        file="found.png",
    ),
    "data convert to yolo": Writing(("data", "convert", "{data}", "--to", "yolo", "--out", "{out}")),
    "data convert to voc": Writing(("data", "convert", "{data}", "--to", "voc", "--out", "{out}")),
    "data convert to kitti": Writing(("data", "convert", "{data}", "--to", "kitti", "--out", "{out}")),
    "data convert to coco": Writing(("data", "convert", "{data}", "--to", "coco", "--out", "{out}")),
    "data make scenes": Writing(("data", "make", "scenes", "--train", "2", "--val", "1", "--kitti", "--out", "{out}")),
    "data make coco-traffic": Writing(("data", "make", "coco-traffic", "--coco", "{coco}", "--out", "{out}")),
    "profile": Writing(
        ("profile", "fcos/test_resnet", "--size", "32", "48", "--json", "{out}"),
        file="cost.json",
        varies=("cost.json",),
    ),
    "methods": Writing(("methods", "frs", "--json", "{out}"), file="frs.json"),
}

# They train for minutes, and so are attacked on less of everything alone; see `shrunk`.
LONG_COMMANDS = {
    "demo": Writing(("demo", "--out", "{out}")),
    "reproduce": Writing(("reproduce", "aid", "--row", "traffic-gfl-r50", "--out", "{out}")),
}


def shrunk(work: Callable[[], int]) -> Callable[[], int]:
    """The work with few scenes, and trainings of a step, where `demo` and `reproduce` have many."""

    def small() -> int:
        from detdistill import demo
        from detdistill.papers import data, runs

        few, whole, training = {"steps": 1, "warmup_steps": 0, "workers": 0}, demo.DemoPlan(), runs._smoke_training
        plan = replace(
            whole,
            train_scenes=4,
            labelled_scenes=4,
            val_scenes=2,
            teacher_training=replace(whole.teacher_training, processes=1, **few),
            student_training=replace(whole.student_training, processes=1, **few),
        )
        changes = (
            (demo, "DemoPlan", lambda: plan),
            (data, "_SMOKE_TRAIN", 4),
            (data, "_SMOKE_VAL", 2),
            (runs, "_smoke_training", lambda model: replace(training(model), **few)),
        )
        for place, name, value in changes:
            setattr(place, name, value)
        os.environ.pop("DETDISTILL_TEST_DATA", None)
        return work()

    return small


def prepare(material: Material) -> None:
    """Makes what the commands read: the teacher, and a small folder laid out as COCO's own."""
    _ = material.teacher
    names = [name for part in _TRAFFIC.split(",") for name in (part.split() if part.startswith("person") else [part])]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    for split in ("train", "val"):
        content = json.loads((material.home / "data" / f"{split}.json").read_text(encoding="utf-8"))
        for one in content["annotations"]:
            one["category_id"] = 3
        target = material.home / "coco" / f"{split}2017"
        target.mkdir(parents=True)
        for image in content["images"]:
            (target / image["file_name"]).write_bytes((material.home / "data/images" / image["file_name"]).read_bytes())
        labels = material.home / "coco" / "annotations" / f"instances_{split}2017.json"
        labels.parent.mkdir(exist_ok=True)
        labels.write_text(json.dumps(content | {"categories": categories}), encoding="utf-8")


def resumed(command: Writing, words: Sequence[str]) -> list[str]:
    """The words that go on with what was stopped."""
    return [*words, "--resume"] if command.resumes else list(words)
