"""What a command that is refused leaves of a folder: all of it; and two processes that work in one."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from coco_by_hand import CLASSES, draw_data
from detdistill.cli import main
from detdistill.settings.strict_yaml import load_yaml
from detdistill.store import cache
from detdistill.store.layout import ALONE_LONGER, COUNTERS, GENERATION, LOCK, RunFolder
from detdistill.store.lock import hold
from detdistill.store.students import save_detector
from detdistill.training.logs import read_rows
from scenes_in_memory import tiny_student
from tiny_training import fork

SMALL = ("student.head_depth=1", "student.strides=[8,16,32]", "student.fpn_channels=16", "train.batch_size=2")
SMALL += ("train.steps=2", "train.warmup_steps=1", "train.checkpoint_every=1", "train.log_every=1", "train.threads=1")
# The default one has threads, which do not survive a fork.
SMALL += ("train.device=cpu", "evaluate.backend=faster")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a teacher, one that knows other classes, and a distillation beside which the student trained for longer."""
    folder = tmp_path_factory.mktemp("lab")
    draw_data(folder / "data")
    for name, classes in (("teacher", CLASSES), ("others", ("cat", "dog"))):
        teacher = tiny_student("fcos", seed=7, classes=classes, fpn_channels=24)
        save_detector(teacher, folder / name, image={"short_side": 64, "long_side": 96})
    best = ("train.evaluate_every=1", "train.keep=best")
    assert main([*distill(folder, out="begun"), "--longer", "2", *best]) == 0
    return folder


def distill(lab: Path, *, out: str, teacher: str = "teacher", method: str = "hint") -> list[str]:
    words = ["distill", "--teacher", str(lab / teacher), "--student", "fcos/test_resnet", "--data", str(lab / "data")]
    return [*words, "--method", method, "--out", str(lab / out), *SMALL]


def train(lab: Path, *, out: str) -> list[str]:
    return ["train", "--detector", "fcos/test_resnet", "--data", str(lab / "data"), "--out", str(lab / out), *SMALL]


def everything(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


REFUSED = {
    "no teacher": ({"teacher": "nowhere"}, (), "nowhere"),
    "a teacher of other classes": ({"teacher": "others"}, (), "must know one of the data's classes"),
    "a method for other detectors": ({"method": "ld"}, (), "ld"),
    "a term for other detectors": ({"method": "hint + ld"}, (), "ld"),
    "an alone that is no twin": ({}, ("--alone", "{lab}/teacher"), "The student alone in"),
    "no alone": ({}, ("--alone", "{lab}/nowhere"), "nowhere"),
    "no init": ({}, ("--init", "{lab}/nowhere"), "nowhere"),
    "no data": ({}, ("data.train={lab}/nowhere.json",), "nowhere"),
    "no class": ({}, ("data.classes=[cat]",), "data.classes must be classes of the data"),
    "a size": (
        {},
        ("data.image.short_side=4", "data.image.long_side=8", "train.batch_size=1"),
        "train.batch_size must be 2",
    ),
    "no such device": ({}, ("train.device=cuda:9",), "train.device"),
    "no room for twins": ({"method": "ikd(hint, attack_steps=1)"}, (), "MB free for the twins, got 0.0 MB"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_run_leaves_its_folder_as_it_was(
    name: str, lab: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options, words, sentence = REFUSED[name]
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(cache, "shutil", SimpleNamespace(disk_usage=lambda _: usage(1, 1, 0)))
    before = everything(lab)
    given = [word.format(lab=lab) for word in words]
    for out, more in (("new/run", []), ("begun", ["--resume"])):
        assert main([*distill(lab, out=out, **options), *given, *more]) == 2
        error = capsys.readouterr().err.partition("error: ")[2]
        assert sentence in error or (more and " to resume from " in error), error
        assert everything(lab) == before


@pytest.mark.parametrize(
    ("spoil", "words", "sentence"),
    [
        (None, ("train.lr=0.5",), "train.lr must be 0.001 to resume from "),
        (None, ("--method", "frs"), "method"),
        (None, ("--method", "ikd(hint, attack_steps=1)"), "method"),
        (None, ("--longer", "3"), "--longer must be 2 to resume from "),
        (None, ("--longer", "3", "--dry-run"), "--longer must be 2 to resume from "),
        (None, ("train.lr=0.5", "--dry-run"), "train.lr must be 0.001 to resume from "),
        ("metrics.csv", (), "must be a metrics file"),
        ("evaluations.csv", (), "must be a metrics file"),
        ("best", (), "must hold the student of the best evaluation"),
        ("checkpoints", (), "must hold a whole checkpoint"),
    ],
)
def test_a_refused_resume_leaves_the_run_as_it_was(
    spoil: str | None, words: tuple[str, ...], sentence: str, lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = lab / "spoilt"
    shutil.copytree(lab / "begun", folder)
    (folder / ".x.partial").touch()
    (folder / "metrics.csv.0123456789ab.partial").touch()
    if spoil == "best":
        shutil.rmtree(folder / spoil)
    elif spoil == "checkpoints":
        for one in folder.glob(f"checkpoints/*/{COUNTERS}"):
            one.write_text("{}")
    elif spoil is not None:
        (folder / spoil).write_text("a,b\n1,2\n")
    before = everything(folder)
    best = ("train.evaluate_every=1", "train.keep=best")
    assert main([*distill(lab, out="spoilt"), *best, *words, "--resume"]) == 2
    after = everything(folder)
    shutil.rmtree(folder)
    assert sentence in capsys.readouterr().err
    assert after == before


def test_a_dry_run_of_a_resume_looks_at_the_identity_and_the_longer_run(lab: Path) -> None:
    assert (lab / "begun" / ALONE_LONGER).is_dir()
    best = ("train.evaluate_every=1", "train.keep=best")
    before = everything(lab)
    assert main([*distill(lab, out="begun"), *best, "--longer", "2", "--resume", "--dry-run"]) == 0
    assert everything(lab) == before


def test_a_dry_run_looks_at_the_first_run_of_a_chain(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = lab / "chain" / GENERATION.format(1)
    shutil.copytree(lab / "begun", first)
    words = ["distill", "--teacher", str(lab / "teacher"), "--data", str(lab / "data"), "--out", str(lab / "chain")]
    words += ["--method", "hint", *(word for word in SMALL if word.startswith("train."))]
    before = everything(lab)
    assert main([*words, "--self", "--generations", "2", "--resume", "--dry-run"]) == 2
    assert f" to resume from {first}/checkpoints/" in capsys.readouterr().err
    assert everything(lab) == before
    shutil.rmtree(lab / "chain")


@pytest.mark.parametrize("words", [["demo"], ["reproduce", "frs"]])
def test_a_demo_and_a_reproduction_have_their_folder_to_themselves(
    words: list[str], lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = lab / "kept"
    ready = multiprocessing.get_context("fork").Event()

    def keep() -> None:
        with hold(folder):
            ready.set()
            time.sleep(60)

    other = fork(keep)
    assert ready.wait(20)
    assert main([*words, "--out", str(folder)]) == 2
    assert f"{folder} must be worked in by one process at a time, got process {other.pid} on" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == [LOCK]
    other.kill()
    other.join()
    shutil.rmtree(folder)


def commanded(words: list[str]) -> Callable[[], None]:
    """A command as the work of a process that ends with its exit code."""

    def work() -> None:
        os._exit(main(words))

    return work


def test_of_two_that_start_at_once_one_wins(lab: Path) -> None:
    both = [fork(commanded([*train(lab, out="shared"), "--seed", str(seed)])) for seed in (1, 2)]
    for one in both:
        one.join(60)
    assert sorted(one.exitcode or 0 for one in both) == [0, 2]
    winner = 1 + [one.exitcode for one in both].index(0)
    run = RunFolder(lab / "shared")
    assert load_yaml(run.config)["seed"] == winner
    identity = json.loads((run.checkpoint(2) / COUNTERS).read_text())["identity"]
    assert identity["train"]["seed"] == winner
    assert [row["step"] for row in read_rows(run.metrics)] == [1, 2]
    assert not [path for path in run.path.iterdir() if path.name.endswith((".partial", ".lock"))]


@pytest.mark.parametrize("more", [[], ["--resume"]])
def test_whoever_comes_while_a_run_is_at_work_is_told_so(
    more: list[str], lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*train(lab, out=f"busy{len(more)}"), "train.steps=500", "train.schedule=constant"]
    run = RunFolder(lab / f"busy{len(more)}")
    first = fork(commanded(words))
    while not run.steps():
        time.sleep(0.02)
        assert first.is_alive()
    assert main([*words, *more]) == 2
    assert f"got process {first.pid} on " in capsys.readouterr().err
    os.kill(first.pid or 0, signal.SIGTERM)
    first.join(30)
    assert first.exitcode == 130
    steps = [row["step"] for row in read_rows(run.metrics)]
    assert steps == list(range(1, len(steps) + 1))


def test_a_run_whose_folder_is_gone_saves_beside_it_and_says_so(lab: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = [*train(lab, out="lost"), "train.steps=500", "train.schedule=constant", "train.checkpoint_every=0"]
    run = RunFolder(lab / "lost")
    first = fork(commanded(words))
    while not run.metrics.is_file():
        time.sleep(0.02)
    run.path.rename(lab / "elsewhere")
    first.join(30)
    assert first.exitcode == 2
    saved = RunFolder(lab / "lost_saved")
    (step,) = saved.steps()
    assert f"moved, removed or emptied; step {step} is saved in {saved.path}." in capfd.readouterr().err
    assert not run.path.exists()
    assert step - len(read_rows(RunFolder(lab / "elsewhere").metrics)) <= 1
    words[words.index("train.steps=500")] = f"train.steps={step + 1}"
    words[words.index(str(run.path))] = str(saved.path)
    # With another number of steps it is another run.
    assert main([*words, "--resume"]) == 2
    assert f"train.steps must be 500 to resume from {saved.checkpoint(step)}" in capfd.readouterr().err
