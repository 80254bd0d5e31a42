"""Runs that were made to have one fault each: the diagnosis names it, and its action can be typed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from coco_by_hand import CLASSES, draw_data
from detdistill import run_config
from detdistill.cli.app import build_app
from detdistill.cli.commands import Command
from detdistill.data.annotations import Annotations
from detdistill.detectors.base import DetectorSpec
from detdistill.distillation.pair import Pair
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.distillation.term import Term
from detdistill.evaluation.coco import ImageDetections, evaluate_coco
from detdistill.jobs import evidence, run, several, stages
from detdistill.jobs.config import read_run_config
from detdistill.jobs.diagnose import diagnose_job, explained
from detdistill.jobs.outcomes import ALONE, DISTILLED
from detdistill.jobs.run import distill_job, train_job
from detdistill.jobs.settings import RunConfig
from detdistill.jobs.stages import build, open_inputs
from detdistill.methods.method import METHODS, Method, StrengthSettings
from detdistill.proof.diagnosis import Diagnosis, diagnose
from detdistill.proof.evidence import Evidence, Span, put_together
from detdistill.store.students import save_detector
from detdistill.types import Clock, Cost, Knowledge, Need
from scenes_in_memory import tiny_student
from seeing_teachers import SEEING, SIZE, Eyes, seeing, settled

STEPS = 14
SMALL = ("student.head_depth=1", "student.strides=[8, 16, 32]", "student.fpn_channels=16", "seed=4")
SMALL += ("train.batch_size=10", f"train.steps={STEPS}", "train.warmup_steps=1", "train.device=cpu")
SMALL += ("train.log_every=1", "data.augment.flip=0")
# At this rate nobody learns anything.
STILL = "train.lr=1e-9"
NO_GAIN = Evidence(gain=Span(-1.0, -2.0, -0.2))


@dataclass(frozen=True, slots=True)
class OddSettings(StrengthSettings):
    """Numbers of a method that teaches nothing.

    Attributes:
        kind: what it does instead.
    """

    kind: str = "against"


class Odd(Term):
    """Rewards what the task punishes, or is no number at some steps."""

    knowledge = Knowledge.FEATURE
    student_needs = frozenset({Need.PYRAMID, Need.TASK_LOSS})
    teacher_needs = frozenset({Need.PYRAMID})

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, pair: Pair, clock: Clock) -> Cost:
        loss = pair.student.task_loss
        assert loss is not None
        cost = torch.exp(-0.1 * loss.total)
        if self.kind == "nan" and clock.step in (4, 7):
            cost = cost * float("nan")
        return Cost(cost.expand(len(pair.batch), 1), (None,))


def build_odd(student: DetectorSpec, teacher: DetectorSpec, settings: OddSettings) -> Recipe:
    """A method of one term that teaches nothing.

    Formula:
        L = exp(-task / 10)

    Needs:
        Nothing.

    Source:
        None.

    Differs from the source:
        Nothing.
    """
    return Recipe("odd", (WeightedTerm(name="odd.term", term=Odd(settings.kind), gain=1.0),))


@dataclass(frozen=True)
class Lab:
    """Data, a teacher that sees, a student alone that learned nothing, and runs that were compared with it."""

    folder: Path
    patch: pytest.MonkeyPatch
    found: dict[str, Diagnosis] = field(default_factory=dict)

    def config(self, name: str, *changes: str, **options: object) -> RunConfig:
        chosen: dict[str, Any] = {"data": self.folder / "data", "student": "fcos/test_resnet", "method": "hint"}
        chosen |= {"teacher": self.folder / "teacher", "out": self.folder / name, "alone": self.folder / "alone"}
        return read_run_config(None, [*SMALL, STILL, *changes], purpose="distill", options=chosen | options)

    def run(self, name: str, *changes: str, **options: object) -> Diagnosis:
        outcome = distill_job(self.config(name, *changes, **options))
        assert outcome.diagnosis is not None
        assert set(outcome.diagnosis.lines()) <= set(outcome.table())
        self.found[name] = outcome.diagnosis
        return outcome.diagnosis

    def sees(self, eyes: Eyes = SEEING, *, image: Mapping[str, int] = SIZE) -> None:
        """Whatever teacher is opened sees so from now on."""
        self.patch.setattr(several, "open_detector", partial(seeing, eyes=eyes, image=image))

    def setup(self, *changes: str, **options: object) -> Evidence:
        """What is known before the first step."""
        config = self.config("unused", *changes, **options)
        return evidence.of_setup(build(open_inputs(config)), config.out)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    with pytest.MonkeyPatch.context() as patch:
        draw_data(folder / "data", val=12)
        patch.setitem(METHODS._added, "odd", Method(name="odd", settings=OddSettings, build=build_odd))
        teacher = settled(tiny_student("fcos", seed=7, classes=CLASSES, fpn_channels=24), folder / "data")
        save_detector(teacher, folder / "teacher", image=SIZE)
        options = {"data": folder / "data", "student": "fcos/test_resnet", "out": folder / "alone"}
        train_job(read_run_config(None, [*SMALL, STILL], purpose="train", options=options))
        patch.setattr(run, "_costs", lambda *_: {})  # such a teacher's eyes cost nothing
        for drawn in ("draw_pictures", "count_confusion"):
            patch.setattr(stages, drawn, lambda *_: None)
        made = Lab(folder, patch)
        made.sees()
        yield made


def names(found: Diagnosis | None) -> set[str]:
    assert found is not None
    return {one.name for one in found.causes}


def told(found: Diagnosis, name: str) -> str:
    (cause,) = (one for one in found.causes if one.name == name)
    return cause.evidence


# What the runs here have in common: at their rate no student learns anything.
COMMON = {"terms did not fall"}
TRAINED = {"strength", "gradients in conflict", "steps not finite", "stopped early", "schedule too short", "no twin"}


def test_a_student_that_cannot_learn_imitates_nothing(lab: Lab) -> None:
    found = lab.run("plain")
    assert names(found) == COMMON
    assert told(found, "terms did not fall").startswith("no term's cost fell over the run (hint.features ")
    written = json.loads((lab.folder / "plain/results.json").read_text())
    assert written["diagnosis"] == json.loads(json.dumps(found.as_dict()))


LARGE = {"short_side": 128, "long_side": 192}
TEACHERS: dict[str, tuple[Eyes, Mapping[str, int], set[str]]] = {
    "blind": (Eyes(every=1000), SIZE, {"no headroom"}),
    "scaled": (Eyes(scale=255.0), SIZE, {"no headroom", "teacher's normalisation"}),
    "large": (Eyes(height=128), LARGE, {"no headroom", "teacher's image size"}),
}


@pytest.mark.parametrize("name", TEACHERS)
def test_a_teacher_that_cannot_see(lab: Lab, name: str) -> None:
    eyes, image, faults = TEACHERS[name]
    lab.sees(eyes, image=image)
    try:
        found = diagnose_job(lab.folder / "plain").diagnosis
    finally:
        lab.sees()
    assert names(found) == COMMON | faults
    assert found is not None
    assert "the teacher has 0.0 AP on these images, the student alone 0.0" in told(found, "no headroom")
    if name == "scaled":
        assert "by pixels from 0 to 255 without ImageNet's mean" in told(found, "teacher's normalisation")
        (cause,) = (one for one in found.causes if one.name == "teacher's normalisation")
        lab.setup(*cause.typed.split())
    if name == "large":
        assert "at most 192 and sees" in told(found, "teacher's image size")


def test_a_teacher_with_random_tensors(lab: Lab) -> None:
    path = lab.folder / "teacher/student.safetensors"
    before = path.read_bytes()
    tensors = load_file(path)
    first = next(name for name, one in tensors.items() if one.ndim == 4)
    save_file(
        tensors | {first: 5 * torch.randn(tensors[first].shape, generator=torch.Generator().manual_seed(0))}, path
    )
    found = diagnose_job(lab.folder / "plain").diagnosis
    path.write_bytes(before)
    assert found is not None
    assert found.causes[0].name == "teacher not whole"
    assert names(found) == COMMON | {"teacher not whole"}


def test_strength_at_the_end_is_measured_with_what_was_trained(lab: Lab) -> None:
    found = lab.run("strong", method="hint(strength=400)")
    assert names(found) & (COMMON | TRAINED) == COMMON | {"strength"}
    assert "so strong that the labels hardly count" in told(found, "strength")
    first, last = (one.pulls["hint"] for one in (of_run(lab, "strong"), of_run(lab, "strong", end=True)))
    assert first.first == pytest.approx(400, rel=0.3)
    assert first.last is None
    assert last.last == pytest.approx(first.first, rel=0.2)  # nothing was learned
    assert f"{first.first:.3g} times the task's in the first steps" in told(found, "strength")


def of_run(lab: Lab, name: str, *, end: bool = False) -> Evidence:
    """What the folder of a run says, and what can be measured with its last checkpoint."""
    place = lab.folder / name
    known = evidence.of_run(place, evidence.results_of(place), alone=lab.folder / "alone")
    if not end:
        return known
    config = read_run_config(place / "config.yaml", purpose="distill")
    return evidence.with_end(known, build(open_inputs(replace(config, out=lab.folder / "nowhere"))), place)


def test_a_method_against_the_task_that_is_no_number_at_times(lab: Lab) -> None:
    found = lab.run("against", "train.nan=skip", method="odd(kind=nan, strength=3)")
    assert names(found) & (COMMON | TRAINED) == COMMON | {"gradients in conflict", "steps not finite"}
    assert told(found, "gradients in conflict").endswith("-1.00 in the first steps and -1.00 at the end")
    assert told(found, "steps not finite") == f"2 of {STEPS} steps were left out, not finite"


def test_a_run_that_had_no_patience(lab: Lab) -> None:
    found = lab.run("early", "train.patience=1", "train.evaluate_every=1", "alone_differs=true")
    assert names(found) == {"stopped early", "no twin"}
    assert told(found, "stopped early") == f"it was stopped early, after 2 of {STEPS} steps"
    assert "train.patience 0 (here 1)" in told(found, "no twin")


def _everything(truth: Annotations, row: int) -> ImageDetections:
    at = truth.objects(row)
    count = len(truth.boxes[at])
    labels = truth.labels[at].astype(np.int64)
    return ImageDetections(int(truth.image_ids[row]), truth.boxes[at], np.ones(count, np.float32), labels)


def test_a_gain_is_not_explained(lab: Lab) -> None:
    """The student alone finds nothing, the distilled one everything."""
    built = build(open_inputs(lab.config("unused")))
    truth = built.opened.data.val
    found = [_everything(truth, row) for row in range(len(truth))]
    looks = {ALONE: [], DISTILLED: found}
    results = {name: evaluate_coco(truth, one) for name, one in looks.items()}
    (steps, time), why = explained(built, looks, results, {}, run=lab.folder, students={ALONE: lab.folder / "alone"})
    assert steps.figures["AP"].mean == pytest.approx(100.0)
    assert time is why is None


def test_a_run_that_lies_in_a_folder_is_explained_as_it_was(lab: Lab) -> None:
    again = diagnose_job(lab.folder / "plain")
    assert again.diagnosis == lab.found["plain"]
    assert again.table()[1:] == lab.found["plain"].lines()


SETUPS: dict[str, tuple[str, ...]] = {
    "class map partial": ("teacher.source={square}", "teacher.allow=[classes]"),
    "teacher not whole": ("teacher.source={broken}", "teacher.allow=[model.head]"),
    "validation images learned": ("data.val={data}/train.json",),
    "method mostly off": ("method.until=0.2",),
    "schedule too short": ("train.steps=4",),
    "no twin": ("train.weight_decay=0.1", "alone_differs=true"),
}


@pytest.fixture(scope="module")
def teachers(lab: Lab) -> dict[str, Path]:
    """Teachers with a fault each."""
    for name, classes in (("square", CLASSES[:1]), ("broken", CLASSES)):
        save_detector(tiny_student("fcos", classes=classes), lab.folder / name, image=SIZE)
    weights = lab.folder / "broken/student.safetensors"
    save_file({key: one for key, one in load_file(weights).items() if not key.startswith("model.head")}, weights)
    return {name: lab.folder / name for name in ("square", "broken", "data")}


@pytest.mark.parametrize("name", SETUPS)
def test_a_fault_that_is_there_before_the_first_step(lab: Lab, teachers: dict[str, Path], name: str) -> None:
    twin = () if name == "no twin" else ("alone=null",)
    known = lab.setup(*twin, *(one.format(**teachers) for one in SETUPS[name]))
    assert names(diagnose(put_together(NO_GAIN, known))) == {name}


def test_a_healthy_setup_is_nothing_to_speak_of(lab: Lab) -> None:
    assert names(diagnose(put_together(NO_GAIN, lab.setup("alone=null")))) == set()


def test_what_is_to_be_typed_can_be_typed(lab: Lab, teachers: dict[str, Path]) -> None:
    """Settings are those of a distillation of the run's own config file, and a command has these words."""
    causes = [one for found in lab.found.values() for one in found.causes]
    for settings in SETUPS.values():
        known = lab.setup("alone_differs=true", *(one.format(**teachers) for one in settings))
        known = replace(known, config=str(lab.folder / "plain/config.yaml"))
        causes += diagnose(put_together(NO_GAIN, known)).causes  # type: ignore[union-attr]
    assert {one.name for one in causes} >= {*SETUPS, *TRAINED, *COMMON}
    for cause in causes:
        words = shlex.split(cause.typed)
        if words[0] != "detdistill":
            words = ["detdistill", "distill", str(lab.folder / "plain/config.yaml"), "alone=null", *words]
        command, bound, _ = build_app().parse_args(words[1:], exit_on_error=False, print_error=False)
        assert isinstance(command, Command)
        if command.name in ("train", "distill", "prove"):
            purpose = "train" if command.name == "train" else "distill"
            given = {key: value for key, value in bound.kwargs.items() if key in ("method", "out")}
            assert run_config(*bound.args, purpose=purpose, **given).out
