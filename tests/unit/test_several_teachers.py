"""Several teachers in one step: who counts how much where, at once and one after the other."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from detdistill.detectors.base import Detector
from detdistill.detectors.boxes_alone import BoxesAlone
from detdistill.detectors.class_map import ClassMap
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.detectors.mapped import MappedDetector
from detdistill.detectors.united import UnitedDetector
from detdistill.distillation.calibration import WINDOW
from detdistill.distillation.recipe import Fade, Recipe, Strength, WarmUp, WeightedTerm, Window
from detdistill.distillation.several import together
from detdistill.distillation.step import DistillationStep
from detdistill.distillation.weigh import Choice
from detdistill.errors import CapabilityError, ConfigError
from detdistill.methods.catalogue import build_recipe
from detdistill.methods.parts.choose import ByLoss, build_choice
from detdistill.types import Batch, Clock, Detections, Knowledge, Observation, Pyramid, TaskLoss
from every_method import ALONE, CLOCK, families_of
from made_up_steps import Known, PixelTerm, Stub, lit
from observations import spec
from scenes_in_memory import CLASSES, TEACHER_CHANNELS, scene_batch, tiny_student, tiny_teacher

ALWAYS = Window()


def step_of_several(
    teachers: Sequence[FrozenTeacher], student: Detector, method: Any, *, choose: Any = "mean", windows: Any = None
) -> DistillationStep:
    recipes = [build_recipe(method, student.spec, one.spec, seed=3) for one in teachers]
    recipe = together(recipes, windows or [ALWAYS] * len(recipes))
    choice = build_choice(choose, student.spec, [one.spec for one in teachers])
    return DistillationStep(student, teachers, recipe, choice=choice)


@pytest.mark.parametrize(
    ("method", "choose"),
    [*((name, "mean") for name in (*ALONE, "aid(frs)")), *(("aid(frs)", choose) for choose in ("lowest", "softmax"))],
)
def test_a_teacher_twice_is_that_teacher(method: str, choose: str) -> None:
    """Whatever is shared out among equals is what one of them teaches, in the total and in every gradient."""
    family = families_of(method.partition("(")[0])[0] if method != "aid(frs)" else "fcos"
    batch, totals, gradients = scene_batch(), [], []
    for count in (1, 2):
        student = tiny_student(family)
        report = step_of_several([tiny_teacher(family)] * count, student, method, choose=choose)(batch, CLOCK)
        report.total.backward()
        totals.append(report.total.detach())
        gradients.append(torch.cat([one.grad.flatten() for one in student.parameters() if one.grad is not None]))
    torch.testing.assert_close(totals[0], totals[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)


def specialist(family: str, *classes: str, seed: int = 7) -> FrozenTeacher:
    detector = tiny_student(family, seed=seed, classes=classes, fpn_channels=TEACHER_CHANNELS)
    return FrozenTeacher(MappedDetector(detector, ClassMap.between(classes, CLASSES)))


def test_specialists_have_all_of_their_classes_and_share_what_both_know() -> None:
    """frs.classes is a sum over classes: of car alone 1, of truck 1/2 each, and features 1/2."""
    teachers = [specialist("fcos", "car", "truck"), specialist("fcos", "truck", "pedestrian", seed=8)]
    step, batch = step_of_several(teachers, tiny_student("fcos"), "frs"), scene_batch()
    report, alone = step(batch, CLOCK), []
    for teacher in teachers:
        alone.append(step_of_several([teacher], step.student, "frs")(batch, CLOCK).parts)
    for number, mark in enumerate(("", "@2")):
        for term, share in (("frs.features", 0.5), ("frs.classes", 0.75)):
            torch.testing.assert_close(report.parts[f"{term}{mark}"], share * alone[number][term])
    assert set(report.parts) == {
        "task",
        *(f"frs.{kind}{mark}" for kind in ("features", "classes") for mark in ("", "@2")),
    }


def lossy(classes: list[list[float]], boxes: list[list[float]], strides: tuple[int, ...] = (8, 16)) -> Observation:
    loss = TaskLoss(torch.zeros(()), strides, torch.tensor(classes), torch.tensor(boxes))
    return Observation(Pyramid(tuple(torch.zeros(1, 1, 1, 1) for _ in strides), strides), task_loss=loss)


def test_the_teacher_that_errs_least_is_followed() -> None:
    """Of features class and box loss count, 3, 4 against 2, 8; of class scores the class loss, 1, 4 against 2, 3."""
    teachers = [lossy([[1.0, 4.0]], [[2.0, 0.0]]), lossy([[2.0, 3.0]], [[0.0, 5.0]])]
    both = [(8, 16), (8, 16)]
    lowest, soft = ByLoss(soft=False), ByLoss(soft=True)
    first, second = lowest(teachers, both, knowledge=Knowledge.FEATURE)
    assert (first.tolist(), second.tolist()) == ([[0.0, 1.0]], [[1.0, 0.0]])
    first, second = lowest(teachers, both, knowledge=Knowledge.CLASSIFICATION)
    assert (first.tolist(), second.tolist()) == ([[1.0, 0.0]], [[0.0, 1.0]])
    first, second = soft(teachers, both, knowledge=Knowledge.FEATURE)
    odds = torch.tensor([[-1.0, 4.0]]).exp()
    torch.testing.assert_close(first, odds / (1 + odds))
    torch.testing.assert_close(first + second, torch.ones(1, 2))
    # On a level that one has alone it is followed, and an equal loss is the first one's.
    alone, less = lowest([teachers[0], teachers[0]], [(8, 16), (16,)], knowledge=Knowledge.FEATURE)
    assert (alone.tolist(), less.tolist()) == ([[1.0, 1.0]], [[0.0]])


def test_whom_one_cannot_choose_by_its_loss() -> None:
    student = spec()
    with pytest.raises(CapabilityError, match=r"know different classes, got lowest: not all know b.*choose=mean"):
        build_choice("lowest", student, [spec(), replace(spec(), unknown=("b",))])
    with pytest.raises(CapabilityError, match="no loss of its own on the strides"):
        build_choice("softmax", student, [spec(), replace(spec(), class_logits=None)])
    assert build_choice("lowest", student, [spec()]) is None


def one_after_the_other(**words: Any) -> DistillationStep:
    """Student 2, teachers 3 and 5 on light 1, the first until a quarter of the run."""
    terms = [WeightedTerm("m.pixels", PixelTerm(), 1.0, **words)]
    recipes = [Recipe("m", terms=tuple(replace(one, term=PixelTerm()) for one in terms)) for _ in range(2)]
    recipe = together(recipes, [Window(0.0, 0.25), Window(0.25, 1.0)])
    return DistillationStep(Stub(2.0), [FrozenTeacher(Stub(3.0)), FrozenTeacher(Stub(5.0))], recipe)


def test_a_sequence_gives_each_teacher_its_part_of_the_run() -> None:
    """Warm-up and fades are those of the part; nobody else looks."""
    step = one_after_the_other(warm_up=WarmUp(2), fades=(Fade(0.5),))
    for at, (first, second) in {0: (0.0, 0.0), 1: (0.5, 0.0), 2: (0, 0), 5: (0, 4.5), 6: (0, 9), 13: (0, 0)}.items():
        report = step(lit(1.0), Clock(step=at, total_steps=16))
        assert float(report.parts["m.pixels"]) == pytest.approx(first), at
        assert float(report.parts["m.pixels@2"]) == pytest.approx(second), at
    looked = [len(one._detector.asked) for one in step.teachers]  # type: ignore[attr-defined]
    assert looked == [2, 2]


def test_each_part_of_a_sequence_has_all_of_the_strength_measured_where_it_begins() -> None:
    """A term's gradient is 2 and then 6 times the task's: brought to 3, each in its own part."""
    step = one_after_the_other(strength=Strength("m", 3.0), member="m")
    total = 8 * WINDOW
    for at in (0, 1, total // 4, total // 4 + 1):
        step(lit(1.0), Clock(step=at, total_steps=total))
        step.calibration.settle()
    assert [step.calibration.scale(one) for one in step.recipe.terms] == pytest.approx([1.5, 0.5])
    assert not step.calibration.asks(Clock(total // 4 + 1, total))
    assert step.calibration.asks(Clock(total // 4 + 5, total))


def test_teachers_at_once_share_the_strength() -> None:
    """Two gradients of one direction and of half their length each are 3 together, not each."""
    terms = [WeightedTerm("m.pixels", PixelTerm(), 1.0, strength=Strength("m", 3.0), member="m")]
    recipe = together([Recipe("m", tuple(terms)), Recipe("m", (replace(terms[0], term=PixelTerm()),))], [ALWAYS] * 2)
    step = DistillationStep(Stub(2.0), [FrozenTeacher(Stub(3.0)), FrozenTeacher(Stub(5.0))], recipe)
    batch, clock = lit(1.0), Clock(0, 100)
    step(batch, clock)
    step.calibration.settle()
    # Half of 2 and half of 6, of which each is brought to 3 / 2.
    assert [step.calibration.scale(one) for one in step.recipe.terms] == pytest.approx([1.5, 0.5])


def test_a_method_that_looks_at_twins_has_one_teacher() -> None:
    student, teacher = tiny_student("fcos"), tiny_teacher("fcos")
    with pytest.raises(ConfigError, match=r"must look at the images as they are, got ikd\(hint\)"):
        step_of_several([teacher, copy.copy(teacher)], student, "ikd(hint)")


def test_what_several_detectors_find_is_what_any_finds() -> None:
    """Of one class the best of boxes that overlap; a class is unknown where nobody knows it."""

    class Boxes(BoxesAlone):
        def __init__(self, unknown: tuple[str, ...], boxes: list[list[float]], scores: list[float], label: int) -> None:
            super().__init__("boxes", CLASSES)
            self.spec = replace(self.spec, unknown=unknown)
            labels = torch.full((len(scores),), label)
            self.said = Detections(torch.tensor(boxes), torch.tensor(scores), labels)

        def detect(self, batch: Batch) -> tuple[Detections, ...]:
            return (self.said,) * len(batch)

    box, near = [8.0, 8.0, 98.0, 68.0], [9.0, 8.0, 98.0, 68.0]
    cars = Boxes(("truck", "pedestrian"), [box], [0.5], 0)
    both = Boxes(("pedestrian",), [near, [0.0, 0.0, 5.0, 5.0]], [0.8, 0.2], 0)
    trucks = Boxes(("car", "pedestrian"), [box], [0.4], 1)
    united = UnitedDetector([cars, both, trucks])
    found = united.detect(scene_batch())[0]
    assert found.scores.tolist() == pytest.approx([0.8, 0.4, 0.2])
    assert found.labels.tolist() == [0, 1, 0]
    assert united.spec.unknown == ("pedestrian",)


def test_known_costs_are_shared_by_level() -> None:
    """On a level that both have half each, on one that one has alone all."""
    recipes = [
        Recipe("m", (WeightedTerm("m.known", Known(costs, strides), 1.0),))
        for costs, strides in (([[1.0, 2.0]], (8, 16)), ([[10.0, 20.0]], (16, 32)))
    ]
    step = DistillationStep(
        Stub(2.0), [FrozenTeacher(Stub(3.0)), FrozenTeacher(Stub(5.0))], together(recipes, [ALWAYS] * 2)
    )
    report = step(lit(1.0), CLOCK)
    assert float(report.parts["m.known"]) == 1 + 2 / 2
    assert float(report.parts["m.known@2"]) == 10 / 2 + 20


def test_where_nobody_labelled_all_teachers_count_alike() -> None:
    """The first is chosen on the labelled image, of cost 4 and 8; on the other one both have half."""

    class First(Choice):
        needs = frozenset()

        def __call__(self, teachers: Any, strides: Any, *, knowledge: Knowledge) -> tuple[torch.Tensor, ...]:
            assert len(teachers) == 2
            return torch.ones(1, 1), torch.zeros(1, 1)

    recipes = [Recipe("m", (WeightedTerm("m.known", Known([[cost]], (8,)), 1.0),)) for cost in (4.0, 8.0)]
    teachers = [FrozenTeacher(Stub(3.0)), FrozenTeacher(Stub(5.0))]
    step = DistillationStep(Stub(2.0), teachers, together(recipes, [ALWAYS] * 2), choice=First())
    report = step(replace(lit(1.0), unlabelled=lit(1.0)), CLOCK)
    assert float(report.parts["m.known"]) == (4 + 2) / 2
    assert float(report.parts["m.known@2"]) == (0 + 4) / 2
