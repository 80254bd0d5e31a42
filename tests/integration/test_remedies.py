"""What an error advises, typed as it stands there: it works, or what is said next is another true sentence."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from detdistill import build_detector, parse_detector, save_detector
from detdistill.cli import main
from detdistill.jobs import stages
from detdistill.scenes import SCENE_CLASSES, make_scenes


class ReachedTheTraining(Exception):
    """Everything that can be refused before the first step was accepted."""


@dataclass(frozen=True)
class Row:
    """One remedy.

    Attributes:
        wrong: what is typed after `detdistill`; {home} is the folder that `home` prepares.
        remedy: how the answer ends.
        right: what is typed then.
        then: part of what is said to that; empty where it works.
    """

    wrong: str
    remedy: str
    right: str
    then: str = ""


def train(*words: str) -> str:
    return shlex.join(["train", "--data", "{home}/scenes", "--out", "{home}/run", "--detector", "fcos/tiny", *words])


def distill(*words: str, teacher: str = "teacher", method: str = "frs") -> str:
    options = {"data": "{home}/scenes", "out": "{home}/run", "student": "fcos/tiny", "method": method}
    options["teacher"] = f"{{home}}/{teacher}"
    return shlex.join(["distill", *(word for key, value in options.items() for word in (f"--{key}", value)), *words])


FILES = "or name it: data.train=TRAIN.json data.val=VAL.json in a run, --data FILE.json elsewhere."
NO_CLASSES = "Write frs(class_gain=0) to imitate features only."
OTHERS = "teacher.allow=[classes]"

LARGE = "data.image.short_side=128", "data.image.long_side=256"
TINY = "data.image.short_side=20", "data.image.long_side=30"

ROWS = (
    Row(
        distill("student.strides=[8,16]", teacher="coarse"),
        "for example student.strides=[32,64].",
        distill("student.strides=[32,64]", teacher="coarse"),
    ),
    Row(train("student.strides=[64]"), "or set student.strides=[32,64].", train("student.strides=[32,64]")),
    Row(
        train("student.strides=[8,32]"),
        "student.strides must be powers of two, each twice the one before, got (8, 32). Write for example [8,16,32].",
        train("student.strides=[8,16,32]"),
    ),
    Row(
        train("student.detector=faster_rcnn/test_vit", "student.strides=[16,32,64]"),
        "Set student.strides=[16,32].",
        train("student.detector=faster_rcnn/test_vit", "student.strides=[16,32]"),
    ),
    Row(
        train("student.mean=[123.675,116.28,103.53]", "student.std=[58.395,57.12,57.375]"),
        "Divide by 255: student.mean=[0.485,0.456,0.406] student.std=[0.229,0.224,0.225].",
        train("student.mean=[0.485,0.456,0.406]", "student.std=[0.229,0.224,0.225]"),
    ),
    Row(
        train("student.detector=fcos/test_coatnet", *LARGE),
        "Set data.image.short_side=91 data.image.long_side=160 data.image.pad_multiple=32.",
        train(
            "student.detector=fcos/test_coatnet",
            *LARGE,
            *("data.image.short_side=91", "data.image.long_side=160", "data.image.pad_multiple=32"),
        ),
    ),
    Row(
        train(*TINY, "train.batch_size=1"),
        "Set train.batch_size=2.",
        train(*TINY, "train.batch_size=2"),
    ),
    Row(
        train(*TINY, "train.batch_size=4", "train.accumulate=4"),
        "Set train.accumulate=2.",
        train(*TINY, "train.batch_size=4", "train.accumulate=2"),
    ),
    Row(
        train("data.augment.scale_jitter=[2,1]"),
        "Give for example [0.8,1.25].",
        train("data.augment.scale_jitter=[0.8,1.25]"),
    ),
    Row(
        train("data.augment.short_sides=[2,1]"),
        "Give for example [480,800].",
        train("data.augment.short_sides=[480,800]"),
    ),
    Row(
        distill(teacher="others"),
        "or set teacher.allow=[classes] for a method that compares features alone.",
        distill(OTHERS, teacher="others", method="hint"),
    ),
    Row(
        distill(OTHERS, teacher="others"),
        NO_CLASSES,
        distill(OTHERS, teacher="others", method="frs(class_gain=0)"),
    ),
    Row(
        distill(OTHERS, teacher="others", method="aid(frs)"),
        NO_CLASSES,
        distill(OTHERS, teacher="others", method="aid(frs(class_gain=0))"),
        then="The teacher of aid must have the student's classes in the same order",
    ),
    Row(
        distill(OTHERS, teacher="others", method="aid(hint)"),
        "Take the method without aid.",
        distill(OTHERS, teacher="others", method="hint"),
    ),
    Row(
        distill(OTHERS, teacher="others", method="ikd(hint)"),
        "Write ikd(..., adversarial=false) to change the samples alone.",
        distill(OTHERS, teacher="others", method="ikd(hint, adversarial=false)"),
    ),
    Row(distill(method="ld"), "or imitate features, as with hint.", distill(method="hint")),
    Row(
        train("data.folder={home}/unnamed"),
        FILES,
        train("data.train={home}/unnamed/train.json", "data.val={home}/unnamed/seen.json"),
    ),
    Row(
        "evaluate {home}/teacher --data {home}/unnamed",
        FILES,
        "evaluate {home}/teacher --data {home}/unnamed/seen.json",
    ),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, again without a file for validation; a teacher for them, one of other classes, one of other strides."""
    folder = tmp_path_factory.mktemp("home")
    make_scenes(folder / "scenes", train=3, val=2, seed=0)
    shutil.copytree(folder / "scenes", folder / "unnamed")
    (folder / "unnamed/val.json").rename(folder / "unnamed/seen.json")
    for name, classes, strides in (
        ("teacher", SCENE_CLASSES, (8, 16, 32)),
        ("others", ("cat", "dog"), (8, 16, 32)),
        ("coarse", SCENE_CLASSES, (32, 64)),
    ):
        settings = parse_detector("fcos/tiny")
        changed = type(settings)(**(settings.to_dict() | {"strides": strides}))
        image = {"short_side": 96, "long_side": 160}
        save_detector(build_detector(changed, classes, seed=0), folder / name, image=image)
    return folder


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise ReachedTheTraining

    monkeypatch.setattr(stages, "fit", stop)


def said(typed: str, home: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The error that a command ends with; empty where it works, or gets as far as the training."""
    try:
        code = main(shlex.split(typed.format(home=home)))
    except ReachedTheTraining:
        code = 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert (code, len(lines)) in ((0, 0), (2, 1)), lines
    return lines[0].removeprefix("error: ") if lines else ""


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.wrong)
def test_a_remedy_does_what_it_says(row: Row, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = said(row.wrong, home, capsys)
    assert first.endswith(row.remedy)
    then = said(row.right, home, capsys)
    assert bool(then) == bool(row.then), then
    assert row.then in then
    assert then != first


@pytest.mark.usefixtures("stopped")
def test_a_run_that_is_measured_on_what_it_learns_from_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ReachedTheTraining):
        main(shlex.split(train("data.folder={home}/unnamed/seen.json").format(home=home)))
    assert "val data: 2 of 2 images are training images too: AP says little about new ones" in capsys.readouterr().err
    with pytest.raises(ReachedTheTraining):
        main(shlex.split(train().format(home=home)))
    assert "training images too" not in capsys.readouterr().err
