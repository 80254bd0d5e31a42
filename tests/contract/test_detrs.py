"""DETRs and dense detectors teach each other: every method works, or is refused by one sentence with a remedy."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch

from detdistill.detectors.base import Detector
from detdistill.detectors.catalogue import build_detector, parse_detector
from detdistill.detectors.class_map import ClassMap
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.detectors.mapped import MappedDetector
from detdistill.distillation.sizes import in_students_frame
from detdistill.distillation.startup import prove
from detdistill.distillation.step import DistillationStep
from detdistill.errors import CapabilityError
from detdistill.methods.catalogue import build_recipe
from detdistill.types import Batch, ClassKind, Clock, Need
from scenes_in_memory import CLASSES, scene_batch, tiny_student
from thorough import covering

pytest.importorskip("transformers")

CLOCK = Clock(step=1, total_steps=4)
DENSE, RTDETR, D_FINE, DETR = "fcos", "rtdetr_v2_tiny", "d_fine_tiny", "detr_tiny"
ON_FEATURES = ("hint", "pkd", "cwd", "attention", "mgd", "ssim", "fgd", "aid(hint)", "ikd(hint, attack_steps=1)")
QUERIES = frozenset({Need.QUERIES})


@functools.cache
def detector(name: str, seed: int = 0) -> Detector:
    """Of random weights; what a test changes is its own copy's."""
    if name == DENSE:
        return tiny_student(name, seed=seed)
    return build_detector(parse_detector(f"hf:{name}"), CLASSES, seed=seed)


def seasoned(name: str) -> FrozenTeacher:
    """A teacher whose batch-norms have seen a batch."""
    made = detector(name, 7)
    with torch.no_grad():
        made.train()(scene_batch(), frozenset({Need.TASK_LOSS}))
    return FrozenTeacher(made)


def works(method: str, student: str, teacher: str) -> None:
    """Its terms are proved, and a step of it reaches the student."""
    ours, theirs = detector(student).train(), seasoned(teacher)
    recipe = build_recipe(method, ours.spec, theirs.spec)
    step = DistillationStep(ours, theirs, recipe)
    prove(step, scene_batch())
    report = step(scene_batch(), CLOCK)
    assert report.total.isfinite()
    ours.zero_grad()
    report.total.backward()
    assert sum(float(one.grad.abs().sum()) for one in ours.parameters() if one.grad is not None) > 0


@pytest.mark.parametrize(
    ("method", "student", "teacher"),
    covering(
        [
            *((method, RTDETR, DENSE) for method in ("hint", "frs", "pkd", "aid(hint)")),
            *((method, DENSE, RTDETR) for method in ("hint", "frs", "cwd", "attention", "aid(hint)")),
            ("crosskd", RTDETR, DENSE),
            ("queries", RTDETR, D_FINE),
            ("queries", RTDETR, DETR),
            ("aid(queries)", DETR, RTDETR),
            ("aid(hint, granularity=image)", RTDETR, DETR),
        ]
    ),
)
def test_pairs_of_different_kinds_work(method: str, student: str, teacher: str) -> None:
    works(method, student, teacher)


@pytest.mark.slow
@pytest.mark.parametrize("method", ON_FEATURES)
@pytest.mark.parametrize(("student", "teacher"), [(RTDETR, DENSE), (DENSE, RTDETR), (D_FINE, RTDETR)])
def test_every_method_on_features_works(method: str, student: str, teacher: str) -> None:
    works(method, student, teacher)


@pytest.mark.parametrize(
    ("method", "student", "teacher", "said"),
    [
        ("queries", RTDETR, DENSE, "must get a set of queries from both detectors, got none from fcos"),
        ("queries", DENSE, RTDETR, "must get a set of queries from both detectors, got none from fcos"),
        ("frs", RTDETR, DETR, r"'frs' must get class logits from the teacher, got none from hf:detr_tiny"),
        ("ld", RTDETR, DENSE, "box distributions"),
        ("crosskd", DENSE, RTDETR, "crosskd"),
        ("aid(hint)", RTDETR, DETR, r"must have a loss on every level that is weighed.*granularity=image"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(method: str, student: str, teacher: str, said: str) -> None:
    with pytest.raises(CapabilityError, match=said):
        build_recipe(method, detector(student).spec, detector(teacher).spec)


def test_a_teachers_boxes_are_in_the_students_pixels() -> None:
    """A teacher that sees images twice as large says the same boxes there, in shares of the image."""
    small = scene_batch()
    large = replace(
        small,
        images=torch.nn.functional.interpolate(small.images, scale_factor=2),
        sizes=tuple((2 * height, 2 * width) for height, width in small.sizes),
    )
    ours, theirs = detector(RTDETR).train(), FrozenTeacher(detector(RTDETR, 7), ratio=2.0)
    both = replace(small, teacher=large)
    with torch.no_grad():
        own = ours(small, QUERIES)
        seen = theirs.observe(large, QUERIES)
        brought = in_students_frame(seen, own, both, factor=2.0)
    torch.testing.assert_close(brought.queries.boxes * 2, seen.queries.boxes)


@pytest.mark.parametrize("name", [RTDETR, DETR])
def test_queries_of_other_classes_are_shown_in_the_students(name: str) -> None:
    own = ("dog", "car", "truck")
    made: Any = build_detector(parse_detector(f"hf:{name}"), own, seed=7).eval()
    batch: Batch = scene_batch()
    mapped = MappedDetector(made, ClassMap.between(student=("truck", "tram", "car"), teacher=own))
    with torch.no_grad():
        before = made(batch, QUERIES).queries
        after = mapped.eval()(batch, QUERIES).queries
    assert mapped.spec.queries.classes == ("truck", "car")
    assert torch.equal(after.logits[..., :2], before.logits[..., [2, 1]])
    if before.kind is ClassKind.SOFTMAX:
        shares = before.logits.softmax(-1)
        torch.testing.assert_close(after.logits.softmax(-1)[..., 2], shares[..., 0] + shares[..., 3])
