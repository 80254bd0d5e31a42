"""Code of a user's own, by its import path: when it is imported, and what is said where it cannot be."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import detdistill
from coco_by_hand import draw_data
from detdistill import outside
from detdistill.detectors import own_code
from detdistill.detectors.catalogue import parse_detector
from detdistill.detectors.own_code import OwnCode, names_code, taken_apart, with_arguments
from detdistill.errors import CapabilityError, ConfigError
from detdistill.jobs.config import read_run_config
from detdistill.jobs.doors import OWN, door_of
from detdistill.jobs.paths import PATHS_FROM, read_from, written_from
from detdistill.store.students import DESCRIPTION

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_detector.py"
CLASSES = ("car", "truck")
IMAGE = {"short_side": 64, "long_side": 96}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a detector in it, in a process that trusts nothing yet."""
    (tmp_path / "mine.py").write_text(EXAMPLE.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own_code, "_trusted", set())
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("mine", None)


def distrust() -> None:
    own_code._trusted.clear()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("mine:CenterNet", OwnCode("mine", "CenterNet")),
        ("my_pkg.my_module:Outer.Inner", OwnCode("my_pkg.my_module", "Outer.Inner")),
        ("some dir/mine.py:make(width=8)", OwnCode("some dir/mine.py", "make", "width=8")),
        ("a:B(names=[x, y])=runs/a (1)", OwnCode("a", "B", "names=[x, y]", "runs/a (1)")),
        ("a:B=w.pth", OwnCode("a", "B", "", "w.pth")),
    ],
)
def test_a_text_is_taken_apart(text: str, code: OwnCode) -> None:
    assert names_code(text)
    assert door_of(text) is OWN
    assert taken_apart(text) == code
    assert taken_apart(text).text() == text


@pytest.mark.parametrize("text", ["fcos/tiny", "runs/a", "torchvision:fcos=x", "hf:detr", "runs/a:b", "a:"])
def test_other_texts_name_no_code(text: str) -> None:
    assert not names_code(text)


def test_what_lies_on_the_disk_is_a_run(here: Path) -> None:
    (here / "mine:CenterNet").mkdir()
    assert not names_code("mine:CenterNet")


def test_arguments_are_added_and_win() -> None:
    text = with_arguments("mine:CenterNet(width=8, deep=true)", ["width=24", "names=[a, b]"])
    assert text == "mine:CenterNet(width=24, deep=true, names=[a, b])"
    assert taken_apart(text).keywords() == {"width": 24, "deep": True, "names": ["a", "b"]}
    for wrong, said in (
        (["width"], r"must have the form KEY=VALUE, got 'width'\. Write for example width=24"),
        (["train.lr=1"], r"got 'train\.lr=1'\. Write settings of the run before these"),
    ):
        with pytest.raises(ConfigError, match=said):
            with_arguments("mine:CenterNet", wrong)
    with pytest.raises(ConfigError, match=r"Arguments must be given with a detector of one's own, .* got 'fcos/tiny'"):
        with_arguments("fcos/tiny", ["width=24"])


@pytest.mark.parametrize("source", ["mine:CenterNet(width=8)", "mine.py:CenterNet(width=8)"])
def test_it_is_saved_and_read_on_the_users_word_alone(here: Path, source: str) -> None:
    detector = detdistill.build_detector(source, CLASSES)
    detdistill.save_detector(detector, "saved", image=IMAGE)
    described = json.loads((here / "saved" / DESCRIPTION).read_text())["detector"]
    assert described["source"] == source.replace("mine.py", str(here / "mine.py"))
    distrust()
    with pytest.raises(ConfigError, match=r"CenterNet, which a checkpoint or a run names, must be trusted"):
        detdistill.load_detector("saved")
    detdistill.trust_code(source)
    loaded = detdistill.load_detector("saved")
    assert loaded.class_names == CLASSES
    assert loaded.notes == ()
    assert all(torch.equal(a, b) for a, b in zip(loaded.detector.parameters(), detector.parameters(), strict=True))
    distrust()
    # A path that the user types is trusted, and stands for the one that was saved.
    (here / "moved.py").write_text(f"{EXAMPLE.read_text(encoding='utf-8')}\n", encoding="utf-8")
    moved = detdistill.load_detector("moved.py:CenterNet=saved")
    assert moved.notes == ("the file of moved.py:CenterNet has changed since these weights were saved",)
    assert moved.detector.settings.name == "moved.py:CenterNet(width=8)"


def test_a_state_dict_needs_the_classes(here: Path) -> None:
    detector = detdistill.build_detector("mine.py:CenterNet", CLASSES)
    torch.save(detector.state_dict(), here / "w.pth")
    with pytest.raises(ConfigError, match=r"classes of mine\.py:CenterNet must be given with w\.pth, .* none\."):
        detdistill.load_detector("mine.py:CenterNet=w.pth")
    loaded = detdistill.load_detector("mine.py:CenterNet(class_names=[car, truck])=w.pth")
    assert loaded.class_names == CLASSES
    assert loaded.detector.settings.name == "mine.py:CenterNet"
    with pytest.raises(ConfigError, match=r"with its weights where it is to look, got 'mine\.py:CenterNet'"):
        detdistill.load_detector("mine.py:CenterNet")


@pytest.mark.parametrize(
    ("code", "source", "said"),
    [
        (
            "import nothing_like_it",
            "odd.py:A",
            r"must be importable, got ModuleNotFoundError: .*\(odd\.py, line 1",
        ),
        ("def (", "odd.py:A", r"odd\.py must be importable, got SyntaxError"),
        (
            "class Centre: pass",
            "odd.py:Center",
            r"must hold Center, got no such name\. Did you mean 'Centre'\?",
        ),
        ("A = 3", "odd.py:A", r"odd\.py:A must be a class or a function, got int"),
        ("def A(class_names): return 3", "odd.py:A", r"must give a detdistill\.Detector, got int\. Derive it"),
        (
            "def A(class_names): 1 / 0",
            "odd.py:A",
            r"must give a detector, got ZeroDivision.*\(odd\.py, line 1\)",
        ),
        ("def A(names): pass", "odd.py:A", r"got class_names\. Give it the parameter class_names"),
        ("def A(class_names, width=1): pass", "odd.py:A(widht=2)", r"got widht\. Did you mean 'width'\?"),
        ("def A(class_names, width): pass", "odd.py:A", r"got no width\. Write odd\.py:A\(width=VALUE\)"),
        ("", "none.py:A", r"The file none\.py of the detector none\.py:A must be there, got nothing\. Write where"),
        (
            "",
            "no_such.module:A",
            r"'no_such'\. Give the command in the folder where no_such is, or write FILE\.py:A\.",
        ),
        ("import sys\nsys.exit(0)", "odd.py:A", r"importable, got SystemExit: 0 \(odd\.py, line 2\)\. Repair"),
        ("def A(class_names):\n    raise SystemExit", "odd.py:A", r"must give a detector, got SystemExit \(odd"),
        # The place is that of the user's own line, not of the library's below it.
        (
            "import torch\ndef A(class_names):\n    torch.zeros(-1)",
            "odd.py:A",
            r"got RuntimeError: .* \(odd\.py, line 3\)",
        ),
        (
            "from torch.nn import Conv2d\ndef A(class_names):\n    Conv2d(-1, 2, 3)",
            "odd.py:A",
            r"\(odd\.py, line 3\)",
        ),
        ("B = 3", "odd.py:A", r"got no such name\. Name the module or the file that holds it\."),
        (
            "import detdistill\nA = detdistill.BlackBox(lambda images: [], ['car'])",
            "odd.py:A",
            r"must be a class or a function, got BlackBox\. Distil from it by --method boxes\.",
        ),
        (
            "",
            "odd.py:A(24)",
            r"of odd\.py:A must be written KEY=VALUE .*, got '24'\. Write for example width=24",
        ),
        (
            "",
            "odd.py:A(class_names=[a])",
            r"must be the data's, got class_names among its arguments",
        ),
    ],
)
def test_what_cannot_be_built_is_said(here: Path, code: str, source: str, said: str) -> None:
    (here / "odd.py").write_text(code, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        detdistill.build_detector(source, CLASSES)


@pytest.mark.parametrize("text", ["mine.py", "mine.py:", "mine.py:CenterNet(width=8"])
def test_a_file_without_a_class_is_told_how_it_is_written(text: str) -> None:
    with pytest.raises(ConfigError, match=r"got 'mine\.py.*'\. Write mine\.py:CLASS, with the name of the class"):
        parse_detector(text)


def test_settings_that_nobody_reads_are_refused(here: Path) -> None:
    config = read_run_config(
        None,
        ["student.score_threshold=0.2"],
        purpose="train",
        options={"student.detector": "mine.py:CenterNet", "data": "d", "out": "o"},
        typed=True,
    )
    with pytest.raises(ConfigError, match=r"student\.score_threshold must be left out for mine\.py:C.* got 0\.2"):
        detdistill.build_detector(config.student.settings, CLASSES)
    taking = EXAMPLE.read_text(encoding="utf-8").replace("width=24):", "settings=None, width=24):")
    (here / "taking.py").write_text(taking.replace("min(100,", "min(settings.x,"), encoding="utf-8")
    detdistill.build_detector(parse_detector("taking.py:CenterNet"), CLASSES)


def test_a_config_file_means_the_same_from_everywhere(here: Path) -> None:
    options = {"student.detector": "mine.py:CenterNet(width=8)", "teacher.source": "mine.py:CenterNet=runs/t"}
    options |= {"method": "hint", "data": "d", "out": "runs/o"}
    config = read_run_config(None, [], purpose="distill", options=options)
    written = written_from(config.as_dict(), here / "runs/o")
    assert written["student"]["detector"] == written["student"]["source"] == "../../mine.py:CenterNet(width=8)"
    assert written["teacher"]["source"] == "../../mine.py:CenterNet=../t"
    read = read_from({**written, PATHS_FROM: "file"}, here / "runs/o/config.yaml")
    assert read["student"]["detector"] == read["student"]["source"] == "mine.py:CenterNet(width=8)"
    assert read["teacher"]["source"] == "mine.py:CenterNet=runs/t"


def test_only_words_that_a_user_gave_are_trusted() -> None:
    options = {"student.detector": "mine.py:CenterNet", "data": "d", "out": "o"}
    read_run_config(None, [], purpose="train", options=options)
    assert not own_code.trusted()
    config = detdistill.run_config(
        student="mine.py:CenterNet", student_args=["width=8"], data="d", out="o", purpose="train"
    )
    assert len(own_code.trusted()) == 1
    assert config.student.detector == config.student.settings.name == "mine.py:CenterNet(width=8)"


def test_one_behind_a_class_map_is_looked_at_too(here: Path) -> None:
    wrong = EXAMPLE.read_text(encoding="utf-8").replace("boxes).sum(1).mean()", "boxes).sum(1)")
    (here / "wrong.py").write_text(wrong, encoding="utf-8")
    draw_data(here / "data", train=2, val=1)
    for name in ("mine", "wrong"):
        detector = detdistill.build_detector(f"{name}.py:CenterNet", ("box", "bar", "other"))
        detdistill.save_detector(detector, here / name, image=IMAGE)
    words = {"student": "fcos/tiny", "method": "hint", "data": "data", "out": "run", "classes_map": "box=square"}
    stages = detdistill.stages
    for name, said in (("mine", ""), ("wrong", r"The task loss of wrong\.py:CenterNet must be a scalar, got \(2,\)")):
        teacher = f"{name}.py:CenterNet={name}"
        config = detdistill.run_config("train.batch_size=2", purpose="distill", teacher=teacher, **words)
        with pytest.raises(CapabilityError, match=said) if said else nullcontext():
            stages.build(stages.open_inputs(config))


def test_installed_code_is_from_outside_where_it_was_named_or_wrapped(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The innermost line of such code is where an error is told to be; a library's below it is not."""
    package = here / "lib" / "site-packages" / "some_nets"
    package.mkdir(parents=True)
    lines = ["from torch import nn, zeros", "class Net(nn.Sequential):", "    def fail(self):", "        zeros(-1)"]
    (package / "__init__.py").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(outside, "_packages", set())
    net = importlib.import_module("some_nets").Net(torch.nn.Conv2d(3, 4, 8, stride=8))

    def place() -> str:
        with pytest.raises(RuntimeError) as told:
            net.fail()
        return outside.place_of(told.value).rpartition(" (")[2]

    assert re.fullmatch(r"(.*/)?test_own_code\.py, line \d+\)", place())
    detdistill.wrap(net, class_names=CLASSES, pyramid={8: "0"}, loss=print, detect=print)
    assert place() == "lib/site-packages/some_nets/__init__.py, line 4)"
