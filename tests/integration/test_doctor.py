"""What `detdistill doctor` sees before a run: each fault that a run can have, and a pair that is well."""

from __future__ import annotations

import json
import random
import shutil
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import detdistill
from coco_by_hand import CLASSES, draw_data
from detdistill.cli import main
from detdistill.data.dataset import DetectionDataset
from detdistill.data.loader import evaluation_loader
from detdistill.data.transforms import ImageSettings
from detdistill.detectors.base import Detector
from detdistill.detectors.drift import norm_drifts
from detdistill.detectors.load_report import LoadedDetector
from detdistill.evaluation.coco import CocoMetrics, evaluate_coco
from detdistill.jobs import doctor, inputs, plan, samples, several, stages, teachers
from detdistill.jobs.config import read_run_config
from detdistill.jobs.doctor import doctor_job
from detdistill.jobs.opening import detect, read_split
from detdistill.jobs.settings import RunConfig
from detdistill.jobs.trial import Trial
from detdistill.progress import Silence
from detdistill.proof.checks import FAIL, LOOK, OK, SCALE, SHIFT, Check
from detdistill.store.students import load_detector, save_detector
from scenes_in_memory import tiny_student
from seeing_teachers import SEEING, SIZE, Eyes, seeing, settled
from thorough import cases
from watched_jobs import Watcher

SMALL = ["student.head_depth=1", "student.strides=[8,16,32]", "student.fpn_channels=16", "train.batch_size=4"]
SMALL += ["train.steps=2", "train.device=cpu", "train.threads=1", "train.warmup_steps=1"]
Pixels = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Lab:
    """Data, teachers that see, and what the doctor says of a distillation with them."""

    folder: Path
    patch: pytest.MonkeyPatch

    def config(self, *changes: str, method: str = "hint", **options: Any) -> RunConfig:
        words = {"data": self.folder / "data", "student": "fcos/test_resnet", "out": self.folder / "run"}
        words |= {"teacher": self.folder / "teacher", "method": method, **options}
        return read_run_config(None, [*SMALL, *changes], purpose="distill", options=words)

    def sees(self, eyes: Eyes = SEEING, *, image: Mapping[str, int] = SIZE) -> None:
        """Whatever is opened sees so from now on."""

        self.patch.setattr(several, "open_detector", partial(seeing, eyes=eyes, image=image))

    def said(self, last: str, *changes: str, **options: Any) -> dict[str, Check]:
        """The doctor's checks until that of a name, which what comes after it does not change."""
        found: dict[str, Check] = {}
        for one in doctor._found(self.config(*changes, **options), resume=False, generations=1, progress=Silence()):
            found[one.name] = one
            if one.name == last:
                break
        return found

    def check(self, name: str, *changes: str, **options: Any) -> Check:
        return self.said(name, *changes, **options)[name]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor")
    draw_data(folder / "data", train=24, val=18)
    teacher = settled(tiny_student("fcos", seed=7, classes=CLASSES, fpn_channels=24), folder / "data")
    save_detector(teacher, folder / "teacher", image=SIZE)
    return folder


@pytest.fixture
def lab(home: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(doctor, "_PROBE_SECONDS", 0.0)
    made = Lab(home, monkeypatch)
    made.sees()
    return made


def test_a_healthy_pair_is_ok(lab: Lab, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    lab.patch.setattr(doctor, "_PROBE_SECONDS", 30.0)
    words = ["--student", "fcos/test_resnet", "--teacher", str(lab.folder / "teacher"), "--method", "frs"]
    words += [
        "--data",
        str(lab.folder / "data"),
        "--out",
        str(tmp_path / "run"),
        "--json",
        str(tmp_path / "found.json"),
    ]
    assert main(["doctor", *SMALL, *words]) == 0
    printed = capsys.readouterr().out.splitlines()
    found = json.loads((tmp_path / "found.json").read_text())
    assert [one["name"] for one in found["checks"]] == [
        *("labels", "splits", "teacher's weights", "teacher's AP", "classes", "image size", "normalisation"),
        *("validation images", "levels", "term frs.features", "term frs.classes", "strength", "disk", "precision"),
        *("memory", "time", "headroom"),
    ]
    assert {one["state"] for one in found["checks"]} == {OK}, printed
    assert not found["fails"]
    assert len(printed) == len(found["checks"]) + 2
    assert printed[-1].endswith(": all ok")
    assert not (tmp_path / "run").exists()


def test_random_tensors_of_a_teacher_are_seen(lab: Lab, home: Path) -> None:
    """Any 5 % of them that a batch-norm layer comes after or holds; what is random elsewhere only AP can tell."""
    healthy = load_detector(home / "teacher").detector
    assert max(one.shift for one in drifts(healthy, home)) < 0.2
    assert max(one.scale for one in drifts(healthy, home)) < 1.3
    generator, seen = torch.Generator().manual_seed(0), 0
    for draw in range(cases(4, 12)):
        spoiled = load_detector(home / "teacher").detector
        tensors = {name: one for name, one in spoiled.state_dict().items() if one.is_floating_point()}
        for name in random.Random(draw).sample(sorted(tensors), round(0.05 * len(tensors))):
            spread = float(tensors[name].std(correction=0)) or 1.0
            noise = spread * torch.randn(tensors[name].shape, generator=generator)
            tensors[name].copy_(noise.abs() if name.endswith("running_var") else noise)
        seen += any(one.shift > SHIFT or one.scale > SCALE for one in drifts(spoiled, home))
    assert seen == cases(4, 12)
    save_detector(spoiled, home / "spoiled", image=SIZE)
    check = lab.check("teacher's weights", teacher=home / "spoiled")
    assert check.state == LOOK
    assert "see what they never saw in training, the first " in check.said
    assert check.remedy.startswith(f"Copy {home / 'spoiled'} anew")


def drifts(detector: Detector, home: Path) -> Any:
    split = read_split(home / "data", "train", progress=Silence())
    return norm_drifts(detector, evaluation_loader(DetectionDataset(split, image=ImageSettings(**SIZE)), batch_size=8))


def test_labels_in_another_order_are_seen(lab: Lab) -> None:
    lab.sees(Eyes(swapped=True))
    check = lab.check("classes")
    assert check.state == LOOK
    assert "what the teacher calls 'square' is labelled 'bar', 'bar' is labelled 'square'" in check.said
    assert check.figures["ap_reordered"] > 80
    assert check.figures["ap"] < 10


def test_class_names_in_another_order_are_known_by_name(lab: Lab, home: Path) -> None:
    save_detector(tiny_student("fcos", classes=CLASSES[::-1]), home / "other", image=SIZE)
    lab.sees(Eyes(swapped=True))
    assert lab.check("classes", teacher=home / "other").state == OK


def test_pixels_up_to_255_are_seen_and_the_remedy_helps(lab: Lab) -> None:
    lab.sees(Eyes(scale=255.0))
    check = lab.check("normalisation")
    assert check.state == LOOK
    assert "99.3 by pixels from 0 to 255 without ImageNet's mean" in check.said
    remedy = check.remedy.removeprefix("Set ").removesuffix(".").split()
    mended = lab.said("normalisation", *remedy)
    assert mended["normalisation"].state == mended["teacher's AP"].state == OK
    assert mended["teacher's AP"].figures["ap"] > 90


def test_another_image_size_is_seen_and_the_remedy_helps(lab: Lab) -> None:
    lab.sees(Eyes(height=64))
    smaller = ["data.image.short_side=32", "data.image.long_side=48"]
    check = lab.check("image size", *smaller)
    assert check.state == LOOK
    assert check.said.endswith("(0.0 AP here, 99.3 there)")
    mended = lab.said("image size", *smaller, "teacher.image=own")
    assert mended["image size"].state == OK
    assert mended["teacher's AP"].figures["ap"] > 90


def test_no_shared_stride_is_refused(lab: Lab, home: Path) -> None:
    save_detector(tiny_student("fcos", classes=CLASSES, strides=(4,)), home / "fine", image=SIZE)
    outcome = doctor_job(lab.config(teacher=home / "fine"))
    assert outcome.failure is not None
    assert "must share at least one stride" in outcome.failure
    assert outcome.checks[-1].remedy == "Build the student with the teacher's strides, for example student.strides=[4]."
    assert "teacher's AP" in {one.name for one in outcome.checks}


def test_a_term_without_gradient_is_refused(lab: Lab) -> None:
    real = samples.weighed

    def cut(recipe: Any, *rest: Any) -> Any:
        made = real(recipe, *rest)
        for one in made.terms:
            one.term.measure = lambda level, pair: level.teacher.square().mean((1, 2, 3))
        return made

    lab.patch.setattr(samples, "weighed", cut)
    check = lab.check("terms")
    assert check.state == FAIL
    assert "to the student must be finite and not zero" in check.said


def test_validation_on_training_images_is_seen(lab: Lab, home: Path) -> None:
    copied = home / "copied"
    shutil.copytree(home / "data", copied)
    for path in copied.glob("images/*.png"):
        path.rename(path.with_name(f"copy_{path.name}"))
    content = json.loads((copied / "train.json").read_text())
    for image in content["images"]:
        image["file_name"] = f"copy_{image['file_name']}"
    (copied / "val.json").write_text(json.dumps(content))
    check = lab.check("splits", f"data.val={copied / 'val.json'}")
    assert check.state == LOOK
    assert check.said.startswith("24 of 24 validation images are training images too")


def test_a_strength_out_of_range_is_seen(lab: Lab) -> None:
    check = lab.check("strength", method="hint(strength=100)")
    assert check.state == LOOK
    assert check.said == "hint at 100 times the task is so strong that the labels hardly count"
    assert check.remedy.endswith("such as --strength 3.")


def test_too_small_a_disk_is_refused(lab: Lab) -> None:
    lab.patch.setattr(plan.shutil, "disk_usage", lambda place: types.SimpleNamespace(free=1000))
    outcome = doctor_job(lab.config())
    assert outcome.failure is not None
    assert "got 1000 bytes. Make room there" in outcome.failure
    assert [one.name for one in outcome.checks if one.state == FAIL] == ["disk"]


def test_a_teacher_worse_than_the_student_is_seen(lab: Lab, home: Path) -> None:
    lab.sees(Eyes(every=3))

    def better(path: Path, **_: Any) -> LoadedDetector:
        loaded = load_detector(path)
        loaded.detector.detect = types.MethodType(Eyes().detect, loaded.detector)  # type: ignore[method-assign]
        return loaded

    lab.patch.setattr(inputs, "load_detector", better)
    check = lab.check("headroom", "alone_differs=true", alone=home / "teacher")
    assert check.state == LOOK
    assert check.said.startswith("the teacher is worse than the student: -")
    assert "train the student alone: `detdistill train --detector fcos/test_resnet" in check.remedy


@pytest.fixture
def three(lab: Lab, home: Path) -> tuple[str, ...]:
    """Teachers of three sizes, the first the largest."""
    found = tuple(str(home / f"of_{channels}") for channels in (48, 24, 16))
    for place in found:
        if not Path(place).exists():
            teacher = tiny_student("fcos", seed=7, classes=CLASSES, fpn_channels=int(place.rpartition("_")[2]))
            save_detector(teacher, Path(place), image=SIZE)
    return found


def test_teachers_are_ranked_by_what_their_students_gain_a_minute(lab: Lab, three: tuple[str, ...]) -> None:
    """Each student here sees one image in so many, and took so many seconds."""
    students = {three[0]: (4, 120.0), three[1]: (1, 30.0), three[2]: (4, 60.0), "": (6, 10.0)}

    def taught(opened: samples.Opened, steps: int, **_: Any) -> tuple[Detector, float]:
        student = tiny_student("fcos", classes=CLASSES)
        every, seconds = students["" if opened.teacher is None else opened.config.teacher.source]  # type: ignore[union-attr]
        student.detect = types.MethodType(Eyes(every=every).detect, student)  # type: ignore[method-assign]
        return student, seconds

    lab.patch.setattr(teachers, "probed", taught)
    lab.patch.setattr(teachers, "tried", lambda *_: types.SimpleNamespace(step_seconds=1.0))
    lab.patch.setattr(teachers, "_SHARE", 0.5)
    words = {"student": "fcos/test_resnet", "data": lab.folder / "data", "method": "hint", "out": lab.folder / "run"}
    outcome = detdistill.doctor(*SMALL, teachers=[",".join(three)], **words)
    assert isinstance(outcome, teachers.TeachersOutcome)
    assert [one.teacher for one in outcome.ranked] == [three[1], three[2], three[0]]
    assert outcome.images == (12, 12)
    gains = [one.gain.mean for one in outcome.ranked]
    assert gains[1] == gains[2] < gains[0]
    assert outcome.ranked[0].per_minute == pytest.approx(2 * gains[0])
    best, largest = outcome.sentences()
    assert best.startswith(f"{three[1]} teaches this student best: +")
    assert largest.startswith(f"the largest, {three[0]}, is not the better teacher so far: with ")
    assert json.loads(json.dumps(outcome.as_dict()))["ranked"][0]["teacher"] == three[1]
    students[three[2]] = (1, 31.0)
    students[three[0]] = (1, 300.0)
    unsure = detdistill.doctor(*SMALL, teachers=three, **words).sentences()  # type: ignore[union-attr]
    assert unsure[2].startswith(f"the largest, {three[0]}, is not measurably better: with ")
    assert unsure[1].startswith(f"so few steps and images do not tell it from {three[2]}: gained +")
    students |= dict.fromkeys(three, (6, 10.0))
    (none,) = detdistill.doctor(*SMALL, teachers=three[:2], **words).sentences()  # type: ignore[union-attr]
    assert none.startswith(f"no teacher helped: the best, {three[0]}, gained +0.0 AP")


def test_the_trainings_of_teachers_differ_in_the_teacher_alone(
    lab: Lab, three: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    real, begun = stages.train, []

    def train(step: Any, settings: Any, **options: Any) -> Any:
        first = step.student.state_dict()["model.backbone.body.conv1.0.weight"].clone()
        batches = options["loader"](0, 0, 1)
        begun.append((settings.steps, first, [batch.image_ids for batch, _ in zip(batches, range(3), strict=False)]))
        return real(step, settings, **options)

    lab.patch.setattr(stages, "train", train)
    words = ["--student", "fcos/test_resnet", "--data", str(lab.folder / "data"), "--out", str(lab.folder / "run")]
    several = [word for place in three[:2] for word in ("--teachers", place)]
    assert main(["doctor", *SMALL, *words, "--method", "hint", *several]) == 0
    assert len(begun) == 3
    for steps, first, images in begun[1:]:
        assert (steps, images) == (begun[0][0], begun[0][2])
        assert torch.equal(first, begun[0][1])
    assert "over the student alone after 2 equal steps" in capsys.readouterr().out
    assert not (lab.folder / "run").exists()
    assert main(["doctor", *SMALL, *words, "--method", "hint", "--teachers", three[0]]) == 2
    assert capsys.readouterr().err.endswith("Name them one by one, as --teachers runs/small --teachers runs/large.\n")


def test_a_distillation_says_at_its_start_what_costs_nothing_to_know(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = stages.open_inputs(lab.config(method="hint(strength=100)"))
    proved = stages.prove(stages.build(opened))
    said = Watcher()
    doctor.tell(doctor.early_checks(proved), said)
    assert [line.partition(":")[0] for line in said.lines] == ["look at this  strength"]
    good, bad = (evaluate_coco(opened.data.val, seen_by(opened, every=every)) for every in (1, 3))
    # Of torchrun's processes the leader alone has figures, and would meet the others for ever.
    monkeypatch.setattr(doctor, "by_leader", lambda _: pytest.fail("the others do not come"))
    doctor.tell(doctor.measured_checks(opened, good, bad), said)
    assert len(said.lines) == 1
    doctor.tell(doctor.measured_checks(opened, bad, good), said)
    assert said.lines[-1].startswith("look at this  headroom: the teacher is worse than the student: -")


def seen_by(opened: samples.Opened, *, every: int) -> Any:
    assert opened.teacher is not None
    student = opened.teacher.detector
    student.detect = types.MethodType(Eyes(every=every).detect, student)  # type: ignore[method-assign]
    return detect(student, opened.data.val, opened.data.image, label="", progress=Silence())


def test_a_teacher_that_found_more_in_its_own_run_is_seen(lab: Lab, home: Path) -> None:
    shutil.copytree(home / "teacher", home / "recorded")
    (home / "recorded/config.yaml").write_text(f"data:\n  folder: {home / 'data'}\n  val: null\n")
    (home / "recorded/results.json").write_text(json.dumps({"student": {"AP": 90.0}}))
    lab.sees(Eyes(every=4))
    opened = stages.open_inputs(lab.config(teacher=home / "recorded"))
    measured = CocoMetrics(30.0, *[None] * 5, per_class={})
    (check,) = doctor.measured_checks(opened, measured, None)
    assert check.state == LOOK
    assert check.said == "30.0 AP on 18 of 18 validation images, where its own run measured 90.0"
    (home / "recorded/config.yaml").write_text(f"data:\n  folder: {home}\n  val: null\n")
    assert doctor.measured_checks(opened, measured, None)[0].state == OK


def test_what_computes_no_number_is_refused_or_told(lab: Lab, home: Path) -> None:
    teacher = tiny_student("fcos", classes=CLASSES)
    with torch.no_grad():
        next(teacher.parameters()).fill_(1e38)
    save_detector(teacher, home / "huge", image=SIZE)
    lab.patch.undo()
    check = lab.check("teacher's AP", teacher=home / "huge")
    assert check.state == FAIL
    assert "must be finite, got NaN or infinity from its layer" in check.said
    lab.patch.setattr(doctor, "_PROBE_SECONDS", 30.0)
    lab.patch.setattr(doctor, "tried", lambda *_: Trial(({"seconds": 0.1, "total": 1.0},), None, None))
    lab.sees()
    diverging = ["train.optimizer=sgd", "train.lr=1000", "train.steps=12", "train.warmup_steps=0", "train.clip_norm=0"]
    check = lab.check("headroom", *diverging)
    assert check.state == LOOK
    assert "must be finite" in check.said
