"""How well `data audit` finds label errors that were planted at random, in drawn scenes and in photographs of blood.

One label in ten is wrong: a third of these are removed, a third have another class, each as likely, and a third are
moved (to IoU 0.1 to 0.5 with where they were, within the image). A planted error is found by the first finding, of
whatever kind, whose box has IoU 0.5 or more with the true box or, where it was moved, with the planted one; the best
match where several errors lie there. Every other finding counts as wrong, among them errors that were in the labels
before, and a second finding of one error. AP is the area under precision by recall over the ranking of all findings,
the greatest precision from a recall on; by kind, over the errors of a kind and the findings of the kind that it should
be.

Two kinds of teachers: one that learned from other images with their own labels, over several plantings; and one that
learned from the very labels that are audited, errors and all, as most users' teachers did.

    python benchmarks/audit_study.py --data FOLDER --json benchmarks/results/audit_study.json

FOLDER has `bccd` with `train.json`, `val.json` and `images/`. Trainings that are finished are taken from --runs.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from detdistill.threads import quiet_threads

quiet_threads()

import numpy as np  # noqa: E402
import torch  # noqa: E402

import detdistill  # noqa: E402
from detdistill.bench.machine import machine  # noqa: E402
from detdistill.evaluation.label_errors import BOX_OFF, MISSING, WRONG_CLASS  # noqa: E402
from detdistill.evaluation.shared import best_from_here, overlap  # noqa: E402
from detdistill.files import link_folder, make_folder, read_json, write_json  # noqa: E402
from detdistill.progress import ScreenProgress  # noqa: E402
from detdistill.scenes import make_scenes  # noqa: E402

SHARE, LEAST_IOU, FIRST = 0.1, 0.5, 100
SHOULD_BE = {"removed": MISSING, "swapped": WRONG_CLASS, "moved": BOX_OFF}
TRAINING = (
    "train.warmup_steps=100",
    "train.ema_decay=0.99",
    "train.threads=1",
    "train.device=cpu",
    "data.augment.flip=0.5",
)


@dataclass(frozen=True)
class Case:
    """A teacher and the labels that it looks at.

    Attributes:
        learned: the data that it learned from.
        audited: the data whose labels are audited, or those of `learned` with errors planted before the training.
        split: of `audited`.
        own: whether it learned from the planted errors; then there is one planting.
    """

    name: str
    learned: str
    audited: str
    split: str
    steps: int
    settings: tuple[str, ...]
    own: bool = False


DRAWN = ("train.lr=8e-3", "data.image.short_side=96", "data.image.long_side=160")
BCCD = ("train.lr=4e-3", "data.image.short_side=120", "data.image.long_side=160")
CASES = (
    Case("drawn scenes, teacher of others", "scenes_to_learn", "scenes", "train", 900, (*DRAWN, "train.processes=2")),
    Case("bccd, teacher of others", "bccd", "bccd", "val", 600, BCCD),
    Case("drawn scenes, teacher of these labels", "scenes", "scenes", "train", 400, DRAWN, own=True),
    Case("bccd, teacher of these labels", "bccd", "bccd", "train", 600, BCCD, own=True),
)


def corners(box: Sequence[float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y + height]


def overlap_of(one: Sequence[float], other: Sequence[float]) -> float:
    return float(overlap(np.array([corners(one)]), np.array([corners(other)]))[0, 0])


def planted(content: Mapping[str, Any], seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A COCO file's content with errors, and what they are: kind, image, true box and planted box."""
    dice = np.random.default_rng(seed)
    sizes = {image["id"]: np.array([image["width"], image["height"]]) for image in content["images"]}
    labels = [dict(label) for label in content["annotations"]]
    classes = [one["id"] for one in content["categories"]]
    rows = [row for row, label in enumerate(labels) if not label.get("iscrowd")]
    errors, gone = [], set()
    for place, row in enumerate(dice.permutation(rows)[: round(SHARE * len(rows))].tolist()):
        label, kind = labels[row], tuple(SHOULD_BE)[place % 3]
        true, false = list(label["bbox"]), None
        if kind == "removed":
            gone.add(row)
        elif kind == "swapped":
            label["category_id"] = int(dice.choice([one for one in classes if one != label["category_id"]]))
        elif (false := moved(true, sizes[label["image_id"]], dice)) is not None:
            label["bbox"] = false
        else:
            continue
        errors.append({"kind": kind, "image_id": label["image_id"], "true": true, "planted": false})
    return {**content, "annotations": [label for row, label in enumerate(labels) if row not in gone]}, errors


def moved(box: Sequence[float], size: np.ndarray, dice: np.random.Generator) -> list[float] | None:
    """The box somewhere else beside where it is; None where there is no room."""
    corner, extent = np.array(box[:2]), np.array(box[2:])
    for _ in range(1000):
        place = np.minimum(np.maximum(0, corner + dice.uniform(-0.8, 0.8, 2) * extent), size - extent)
        found = [*place.tolist(), *extent.tolist()]
        if 0.1 <= overlap_of(found, box) <= 0.5:
            return found
    return None


def make_wrong(source: Path, out: Path, seed: int) -> None:
    """The data set with errors in both splits, and what they are."""
    if (out / "val_errors.json").is_file():
        return
    make_folder(out)
    if not (out / "images").exists():
        link_folder(out / "images", (source / "images").resolve())
    for split, own_seed in (("train", seed), ("val", seed + 1000)):
        content, errors = planted(read_json(source / f"{split}.json"), own_seed)
        write_json(out / f"{split}.json", content)
        write_json(out / f"{split}_errors.json", errors)


def average_precision(findings: Sequence[Any], errors: Sequence[Mapping[str, Any]]) -> tuple[float, np.ndarray]:
    """AP of a ranking, and which findings are right; see the top of this file."""
    by_image: dict[int, list[tuple[int, np.ndarray]]] = defaultdict(list)
    for number, error in enumerate(errors):
        places = [corners(error["true"]), *([corners(error["planted"])] if error["planted"] else [])]
        by_image[error["image_id"]].append((number, np.array(places)))
    found, right = set[int](), []
    for finding in findings:
        box = np.array([finding.box or finding.label])
        fits = [(overlap(box, places).max(), number) for number, places in by_image[finding.image_id]]
        fit, number = max(fits, default=(0.0, -1))
        right.append(fit >= LEAST_IOU and number not in found)
        if right[-1]:
            found.add(number)
    hits = np.array(right, dtype=bool)
    precision = best_from_here(np.cumsum(hits) / np.arange(1, len(hits) + 1))
    return float((precision * hits).sum() / max(len(errors), 1)), hits


def measured(data: Path, teacher: Path, split: str, out: Path, watch: ScreenProgress) -> dict[str, Any]:
    """How well a teacher finds the errors of a data set."""
    outcome = detdistill.audit_data(data, teacher=teacher, out=out, split=split, score=0, images=0, progress=watch)
    errors = read_json(data / f"{split}_errors.json")
    whole, hits = average_precision(outcome.findings, errors)
    by_kind = {
        kind: average_precision(
            [one for one in outcome.findings if one.kind == should],
            [error for error in errors if error["kind"] == kind],
        )[0]
        for kind, should in SHOULD_BE.items()
    }
    first = hits[:FIRST]
    return {
        "labels": outcome.labels,
        "errors": len(errors),
        "AP": whole,
        "AP_by_kind": by_kind,
        "right_of_first": [int(first.sum()), len(first)],
        "found": float(hits.sum() / len(errors)),
    }


def taught(case: Case, data: Path, out: Path, watch: ScreenProgress) -> Path:
    """The case's teacher, trained unless it is there."""
    if not (out / "results.json").is_file():
        words: dict[str, Any] = {"data": data, "out": out, "steps": case.steps, "resume": out.exists()}
        detdistill.train(*TRAINING, *case.settings, detector="fcos/small", progress=watch, **words)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/audit_study"))
    parser.add_argument("--data", type=Path, help="has bccd; without it, drawn scenes alone")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=[case.name for case in CASES], help="names of cases")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    runs: Path = chosen.runs
    make_scenes(runs / "scenes_to_learn", train=3000, val=300, seed=0)
    make_scenes(runs / "scenes", train=1000, val=100, seed=7)
    results: dict[str, Any] = {} if chosen.json is None or not chosen.json.exists() else read_json(chosen.json)
    results |= {"machine": machine(torch.device("cpu")), "share": SHARE}
    watch = ScreenProgress()
    for case in CASES:
        if case.name not in chosen.only or ("bccd" in (case.learned, case.audited) and chosen.data is None):
            continue
        sources = {name: runs / name for name in ("scenes", "scenes_to_learn")}
        sources |= {"bccd": chosen.data / "bccd"} if chosen.data is not None else {}
        rows = []
        for seed in chosen.seeds[:1] if case.own else chosen.seeds:
            wrong = runs / f"{case.audited}_wrong_{seed}"
            make_wrong(sources[case.audited], wrong, seed)
            learned, name = (wrong, wrong.name) if case.own else (sources[case.learned], case.learned)
            teacher = taught(case, learned, runs / f"{name}_teacher", watch)
            rows.append({"seed": seed, **measured(wrong, teacher, case.split, runs / "audit" / case.name, watch)})
        teachers = {key: read_json(teacher / "results.json")["student"][key] for key in ("AP", "AP50")}
        aps = [row["AP"] for row in rows]
        results[case.name] = {"teacher": teachers, "AP": mean(aps), "plantings": rows}
        print(f"{case.name}: AP {mean(aps):.3f} ({', '.join(f'{ap:.3f}' for ap in aps)})")
        if chosen.json is not None:
            write_json(chosen.json, results)


if __name__ == "__main__":
    main()
