"""Every teacher beside every student: each method teaches, or is refused by one sentence whose remedy works."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import detdistill as dd
from detdistill.detectors.boxes_alone import BoxesAlone
from detdistill.detectors.catalogue import parse_detector
from detdistill.distillation.found import FoundTerm, as_found
from detdistill.errors import ConfigError
from detdistill.jobs.pairs import Verdict, verdicts
from detdistill.methods.attack import AdversarialTwins, AttackSettings
from detdistill.methods.ikd import ADVERSARIAL
from detdistill.types import Detections, Need, Observation
from scenes_in_memory import BOXES, CLASSES, SHALLOW_D_FINE, scene_batch, tiny_student
from thorough import THOROUGH

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pairs.md"
STRIDES = (8, 16, 32)


class Module(nn.Module):
    """Three levels of different channels, with a score of each class and four sides at each of their cells."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList([nn.Conv2d(3, 6, 8, 8), nn.Conv2d(6, 8, 2, 2), nn.Conv2d(8, 10, 2, 2)])
        self.heads = nn.ModuleList(nn.Conv2d(channels, len(CLASSES) + 4, 1) for channels in (6, 8, 10))

    def forward(self, images: Tensor) -> list[Tensor]:
        said, maps = [], images
        for level, head in zip(self.levels, self.heads, strict=True):
            maps = level(maps)
            said.append(head(maps.relu()))
        return said


def module_loss(said: list[Tensor], batch: dd.Batch) -> dd.TaskLoss:
    count = len(CLASSES)
    classes = torch.stack([functional.softplus(one[:, :count]).mean((1, 2, 3)) for one in said], 1)
    boxes = torch.stack([one[:, count:].square().mean((1, 2, 3)) for one in said], 1)
    return dd.TaskLoss((classes + boxes).sum(1).mean(), STRIDES, classes, boxes)


def module_boxes(said: list[Tensor], batch: dd.Batch) -> list[tuple[Tensor, Tensor, Tensor]]:
    box = torch.tensor([[2.0, 2.0, 30.0, 30.0]])
    return [(box, one[: len(CLASSES)].amax().sigmoid()[None], torch.zeros(1).long()) for one in said[0]]


def module(seed: int) -> dd.Detector:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        made = Module()
    return dd.wrap(
        made,
        class_names=CLASSES,
        pyramid={stride: f"levels.{at}" for at, stride in enumerate(STRIDES)},
        loss=module_loss,
        detect=module_boxes,
        class_logits=lambda said: [one[:, : len(CLASSES)] for one in said],
    )


class BlackBox(BoxesAlone):
    def __init__(self) -> None:
        super().__init__("a black box", CLASSES)
        self.register_buffer("content", torch.zeros(1))

    def detect(self, batch: dd.Batch) -> tuple[Detections, ...]:
        boxes = [torch.tensor(BOXES[at % len(BOXES)]).reshape(-1, 4) for at in range(len(batch))]
        return tuple(Detections(one, torch.ones(len(one)), torch.arange(len(one)) % len(CLASSES)) for one in boxes)


class Remembering(dd.FrozenTeacher):
    """Sees the one batch once for each kind of question, as nothing that it is asked changes it."""

    def __init__(self, detector: dd.Detector) -> None:
        super().__init__(detector)
        self.seen: dict[frozenset[Need], Observation] = {}

    def observe(self, batch: dd.Batch, needs: Set[Need]) -> Observation:
        if batch.images is not BATCH.images or batch.targets is not BATCH.targets:
            return super().observe(batch, needs)
        asked = frozenset(needs)
        if asked not in self.seen:
            self.seen[asked] = super().observe(batch, needs)
        return self.seen[asked]


def shallow_d_fine(seed: int) -> dd.Detector:
    settings: Any = parse_detector("hf:d_fine_tiny")
    return dd.build_detector(replace(settings, config=SHALLOW_D_FINE), CLASSES, seed=seed)


BUILT: dict[str, Callable[[int], dd.Detector]] = {
    **{
        name: functools.partial(lambda seed, name: tiny_student(name, seed=seed), name=name) for name in ("fcos", "gfl")
    },
    "retinanet": lambda seed: tiny_student("retinanet", seed=seed),
    "faster_rcnn": lambda seed: tiny_student("faster_rcnn", seed=seed),
    "rtdetr_v2": lambda seed: dd.build_detector("hf:rtdetr_v2_tiny", CLASSES, seed=seed),
    "d_fine": shallow_d_fine,
    "detr": lambda seed: dd.build_detector("hf:detr_tiny", CLASSES, seed=seed),
    "own module": module,
    "black box": lambda _: BlackBox(),
}
STUDENTS = tuple(name for name in BUILT if name != "black box")
FEW = (("fcos", "own module"), ("rtdetr_v2", "fcos"), ("detr", "own module"), ("black box", "detr"))
PAIRS = tuple((teacher, student) for teacher in BUILT for student in STUDENTS) if THOROUGH else FEW

student_of = functools.cache(lambda name: BUILT[name](0).train())
teacher_of = functools.cache(lambda name: Remembering(BUILT[name](1)))
BATCH = scene_batch()
# A teacher that learned nothing is sure of nothing.
TEXTS = {"boxes": "boxes(score=0.001, doubtful=0)", "aid": "aid(hint)", "ikd": "ikd(hint, attack_steps=1)"}


def require_taught(method: str, student: dd.Detector, teacher: dd.FrozenTeacher) -> None:
    """One step: all that it says is finite, and what the method adds reaches the student."""
    recipe, batch = dd.build_recipe(method, student.spec, teacher.spec), BATCH
    if recipe.twins:
        twin = AdversarialTwins(AttackSettings(steps=1))(teacher, batch)
        batch = replace(batch, twins={ADVERSARIAL: twin})
    for found in (one.term for one in recipe.terms if isinstance(one.term, FoundTerm)):
        seen = teacher.detect(batch)
        batch = as_found(seen, batch, found.learnable, classes=len(CLASSES), seen=batch)
    student.zero_grad()
    report = dd.DistillationStep(student, teacher, recipe)(batch, dd.Clock(step=0, total_steps=1))
    assert all(torch.isfinite(one).all() for one in (report.total, *report.parts.values())), method
    (report.total - report.task).backward()
    gradients = [one.grad for one in student.parameters() if one.grad is not None]
    assert all(torch.isfinite(one).all() for one in gradients), method
    assert any(one.any() for one in gradients), method


def follow(one: Verdict, student: dd.Detector, teacher: dd.FrozenTeacher) -> None:
    """Does what a refusal says, literally, and that works."""
    assert re.match(r"^[A-Z].* must .*, got .*\. [A-Z].*\.$", one.refused), one.refused
    remedy = one.refused.rpartition(", got ")[2].partition(". ")[2]
    if strides := re.search(r"student\.strides=\[([\d,]+)\]", remedy):
        family = student.settings.family
        other = tiny_student(family, strides=tuple(map(int, strides[1].split(","))))
        require_taught("hint", other, teacher)
    elif "--method boxes" in remedy:
        require_taught(TEXTS["boxes"], student, teacher)
    elif "granularity=image" in remedy:
        require_taught("aid(hint, granularity=image)", student, teacher)
    elif "frs(class_gain=0)" in remedy:
        require_taught("frs(class_gain=0)", student, teacher)
    else:
        assert re.search(r"(as with|such as) hint\.$", remedy), one.refused
        require_taught("hint", student, teacher)


@pytest.mark.filterwarnings("ignore:.*:UserWarning:transformers.*")
@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_each_method_teaches_or_says_what_does(teacher: str, student: str) -> None:
    pupil, shown = student_of(student), teacher_of(teacher)
    remedies = dict[str, Verdict]()
    for one in verdicts(pupil.spec, shown.spec):
        if one.refused:
            remedies[one.refused.rpartition(", got ")[2]] = one
        else:
            require_taught(TEXTS.get(one.method, one.method), pupil, shown)
    for one in remedies.values():
        follow(one, pupil, shown)


def test_a_black_box_cannot_be_a_student() -> None:
    with pytest.raises(ConfigError, match=r"must be written FAMILY/BACKBONE, .*, got 'found\.json'\. Write"):
        dd.run_config(student="found.json", data="d", out="o", purpose="train")


@pytest.mark.slow
def test_the_page_is_that_of_today() -> None:
    made = "\n".join(dd.describe_methods(markdown=True).table()) + "\n"
    assert PAGE.read_text(encoding="utf-8") == made, "docs/pairs.md is not that of today's methods: run `make pairs`"


def test_two_detectors_are_asked_by_their_names(tmp_path: Path) -> None:
    dd.save_detector(tiny_student("fcos"), tmp_path / "run", image={"short_side": 64, "long_side": 64})
    (row,) = dd.describe_methods(pair=(str(tmp_path / "run"), "gfl/tiny")).as_dict()["pairs"]
    assert row["methods"]["hint"] is None
    assert row["methods"]["boxes"] is None  # of the run's classes
    assert row["methods"]["ld"].endswith("Take the family gfl on both sides, or imitate features, as with hint.")
