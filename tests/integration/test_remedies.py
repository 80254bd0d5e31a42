"""What an error advises, typed as it stands there: it works, or what is said next is another true sentence."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from detdistill import build_detector, convert_data, parse_detector, save_detector
from detdistill.cli import main
from detdistill.jobs import stages
from detdistill.scenes import SCENE_CLASSES, make_scenes
from films import film
from remedies_without_row import WITHOUT_ROW
from remedy_rows import ROWS
from remedy_words import Row, train
from source_trees import PACKAGE, SOURCES, nodes_below, nodes_of

# A sentence that tells to type something: an option, a command, a setting, a method.
TYPED = re.compile(
    r"(?<![\w-])--[a-z]|detdistill (?:train|distill|evaluate|predict|methods|settings|data|pictures|profile)|\bpip "
    r"|[a-z_]=|\w\(\.\.\."
)
# What says so without being an error.
NO_ERRORS = ("On the command line: ", "Join them by +")


class ReachedTheTraining(BaseException):
    """Everything that can be refused before the first step was accepted."""


def changed(folder: Path, name: str, source: str, change: Any) -> None:
    """The scenes again, with `train.json` changed."""
    shutil.copytree(folder / source, folder / name)
    content = json.loads((folder / name / "train.json").read_text())
    change(content)
    (folder / name / "train.json").write_text(json.dumps(content))


def without_extent(content: Any) -> None:
    for one in content["annotations"][1:]:
        one["bbox"][2] = 0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, well and spoiled; a teacher for them, and others that do not fit in one way each."""
    folder = tmp_path_factory.mktemp("home")
    make_scenes(folder / "scenes", train=3, val=2, seed=0)
    film(folder / "clip.mp4", frames=1)
    shutil.copytree(folder / "scenes", folder / "more")
    shutil.copytree(folder / "scenes", folder / "unnamed")
    (folder / "unnamed/train.json").rename(folder / "unnamed/one.json")
    (folder / "unnamed/val.json").rename(folder / "unnamed/seen.json")
    changed(folder, "bare", "scenes", lambda content: content["annotations"].clear())
    changed(folder, "lossy", "scenes", without_extent)
    shutil.copytree(folder / "scenes", folder / "resized")
    Image.new("RGB", (40, 40)).save(next((folder / "resized/images").rglob("*val*.png")))
    convert_data(folder / "scenes", to="voc", out=folder / "voc")
    told = json.loads((folder / "scenes/train.json").read_text())
    scored = [one | {"score": 0.9} for one in told["annotations"]]
    (folder / "told.json").write_text(json.dumps(told | {"annotations": scored}))
    for name, detector, classes, changes in (
        ("teacher", "fcos/tiny", SCENE_CLASSES, {}),
        ("others", "fcos/tiny", ("cat", "dog"), {}),
        ("some", "fcos/tiny", ("car", "traffic light"), {}),
        ("coarse", "fcos/tiny", SCENE_CLASSES, {"strides": (32, 64)}),
        ("renamed", "fcos/tiny", tuple(f"the {name}" for name in SCENE_CLASSES), {}),
        ("gfl_wide", "gfl/tiny", SCENE_CLASSES, {"fpn_channels": 64}),
        ("gfl_others", "gfl/tiny", ("cat", "dog"), {}),
        ("gfl_bins", "gfl/tiny", SCENE_CLASSES, {"box_bins": 9}),
    ):
        settings = parse_detector(detector)
        fitting = type(settings)(**(settings.to_dict() | changes))
        image = {"short_side": 96, "long_side": 160}
        save_detector(build_detector(fitting, classes, seed=0), folder / name, image=image)
    (folder / "begun").mkdir()
    (folder / "begun/config.yaml").write_text("paths_from: file\n")
    return folder


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise ReachedTheTraining

    monkeypatch.setattr(stages, "fit", stop)


def said(typed: str, home: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The error that a command ends with; empty where it works, or gets as far as the training."""
    try:
        code = main([word.format(home=home) for word in shlex.split(typed)])
    except ReachedTheTraining:
        code = 0
    shutil.rmtree(home / "run", ignore_errors=True)
    _, _, error = capsys.readouterr().err.partition("error: ")
    assert code == (2 if error else 0), error
    return error.rstrip()


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.wrong)
def test_a_remedy_does_what_it_says(row: Row, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if row.needs_cpu and torch.cuda.is_available():
        pytest.skip("this is said only where there is no CUDA device")
    first = said(row.wrong, home, capsys)
    assert first.endswith(row.remedy.replace("{home}", str(home)))
    then = said(row.right, home, capsys)
    assert bool(then) == bool(row.then), then
    assert row.then in then
    assert then != first


def remedies() -> Iterator[tuple[str, str]]:
    """Every sentence in the source that tells to type something, with {} for what is filled in, and where it is."""
    for path in SOURCES:
        nodes = nodes_of(path)
        texts = [node for node in nodes if isinstance(node, ast.JoinedStr | ast.Constant)]
        bodies = [body for node in nodes if isinstance(body := getattr(node, "body", None), list)]
        left_out = {id(one.value) for body in bodies for one in body if isinstance(one, ast.Expr)}
        for node in texts:
            if isinstance(node, ast.JoinedStr):
                left_out |= {id(part) for part in nodes_below(node) if part is not node}
        for node in texts:
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            if id(node) in left_out or not all(isinstance(one, ast.Constant | ast.FormattedValue) for one in parts):
                continue
            text = "".join(str(one.value) if isinstance(one, ast.Constant) else "{}" for one in parts)
            for sentence in re.split(r"(?<=[.?!]) ", text) if TYPED.search(text) else ():
                if re.match(r"[A-Z][a-z]+ ", sentence) and TYPED.search(sentence) and " must " not in sentence:
                    yield sentence, f"{path.relative_to(PACKAGE)}:{node.lineno}"


def test_every_remedy_that_can_be_typed_has_its_row() -> None:
    found = {sentence: where for sentence, where in remedies() if not sentence.startswith(NO_ERRORS)}
    followed, excused = "\n".join(row.remedy for row in ROWS), {one for group in WITHOUT_ROW.values() for one in group}
    missing = {
        where: sentence
        for sentence, where in found.items()
        if sentence not in excused and not re.search(re.sub(r"\\{\w*\\}", ".*", re.escape(sentence)), followed)
    }
    assert not missing, "add a row to tests/remedy_rows.py"
    assert not excused - found.keys()


@pytest.mark.usefixtures("stopped")
def test_a_run_that_is_measured_on_what_it_learns_from_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = ["data.train={home}/unnamed/seen.json", "data.val={home}/unnamed/seen.json"]
    for words, told in ((both, True), ([], False)):
        with pytest.raises(ReachedTheTraining):
            main([word.format(home=home) for word in shlex.split(train(*words))])
        line = "val data: 2 of 2 images are training images too: AP says little about new ones"
        assert (line in capsys.readouterr().err) == told
