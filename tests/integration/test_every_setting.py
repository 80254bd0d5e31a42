"""Every setting of every command does what it names, or is refused: nothing is accepted and dropped.

A row names a setting, another value than its default, and what that changes: something of a run of 4 steps, compared
with the same run without it. Settings are found from the dataclasses; one without a row fails.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

import pytest
import torch
from safetensors.torch import load_file

from coco_by_hand import CLASSES, draw_data
from detdistill import build_detector, load_detector, save_detector
from detdistill.cli import main
from detdistill.cli.app import build_app
from detdistill.detectors.catalogue import FAMILIES
from detdistill.distillation import calibration
from detdistill.jobs import doctor, stages
from detdistill.jobs.settings import RunConfig
from detdistill.methods.catalogue import METHODS
from detdistill.settings.calls import written
from detdistill.settings.meanings import OPTION_NAMES
from detdistill.settings.reading import hints_of
from detdistill.settings.trees import default_of
from detdistill.store.layout import RunFolder
from detdistill.store.students import find_weights
from films import film
from scenes_in_memory import scene_batch
from setting_rows import (
    DETECTORS,
    FILES,
    FOUND,
    METHOD_ROWS,
    METRICS,
    PLACE,
    RESULTS,
    ROWS,
    SAID,
    WEIGHTS,
    Row,
)
from spoilt_method import SPOILT
from word_rows import SHOWN_ELSEWHERE, WORDS

IMAGE = {"short_side": 32, "long_side": 48}
SMALL = ("data.image.short_side=32", "data.image.long_side=48", "train.batch_size=4", "train.log_every=4")
# Families whose smallest preset takes seconds to train.
_ROI = (*("fpn_channels=16", "roi_channels=64", "strides=[8,16,32]"), *("roi_samples=16", "proposals_train=40"))
SMALLER = {"faster_rcnn": ("faster_rcnn/test_resnet", tuple(f"student.{one}" for one in _ROI))}
# Shown after the training.
LATE = ("report", "evaluate.", "data.unlabelled.precision", "data.unlabelled.doubtful")
# What is never the same twice: times, rates and free space.
_PASSING = r"\b[\d.,:]+ ?(s|GB|MB|images/s|/s|left)\b|in \d+:\d+"


@dataclass(frozen=True)
class Home:
    """What runs start from; texts in rows name its parts in braces."""

    folder: Path

    def place(self, text: str) -> str:
        """The text with its places filled in."""
        names = re.findall(r"\{(\w+)\}", text)
        for name in names:
            text = text.replace(f"{{{name}}}", str(self.folder if name == "home" else self.folder / name))
        return text


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("home")
    draw_data(folder / "data")
    draw_data(folder / "other")
    draw_data(folder / "more")
    film(folder / "clip.mp4", frames=1)
    content = json.loads((folder / "other/train.json").read_text())
    for name, kept in (("other", 0.5), ("broken", 0.1)):
        (folder / name).mkdir(exist_ok=True)
        rows = content["annotations"]
        last = max(1, round(kept * len(rows)))
        changed = [row if index < last else row | {"image_id": 10**6} for index, row in enumerate(rows)]
        some = content | {"annotations": rows[:last] if name == "other" else changed}
        (folder / name / "train.json").write_text(json.dumps(some))
    (folder / "broken/images").symlink_to(folder / "data/images")
    fewer = json.loads((folder / "other/train.json").read_text())
    fewer["images"] = fewer["images"][:8]
    (folder / "other/train.json").write_text(json.dumps(fewer))
    val = json.loads((folder / "other/val.json").read_text())
    val["annotations"] = val["annotations"][:1]
    (folder / "other/val.json").write_text(json.dumps(val))
    for name, classes, seed in (("teacher", CLASSES, 1), ("tutor", CLASSES, 2), ("stranger", ("cat", "dog"), 1)):
        save_detector(build_detector("fcos/tiny", classes, seed=seed), folder / name, image=IMAGE)
    for family, name in (("gfl", "gfl/tiny"), ("hf", "hf/rtdetr_v2_tiny")):
        save_detector(build_detector(name, CLASSES, seed=1), folder / family, image=IMAGE)
    made = Home(folder)
    assert run(made, "train", out=folder / "alone")["code"] == 0
    assert run(made, "distill", out=folder / "taught")["code"] == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "_PROBE_SECONDS", 0.0)
        patch.setattr(METHODS, "_added", {})
        METHODS.register(SPOILT)
        yield made


class Trained(BaseException):
    """A run is trained, and the rest of it is not asked for."""


@contextmanager
def ended_after_training() -> Iterator[None]:
    """Neither the others are measured before a training nor anything after it, which takes longer than 4 steps."""
    fit = stages.fit

    def fitted(proved: stages.Proved, **options: Any) -> NoReturn:
        fit(proved, **options)
        raise Trained

    with pytest.MonkeyPatch.context() as patch, suppress(Trained):
        patch.setattr(stages, "measure", lambda *_, **__: {})
        patch.setattr(stages, "fit", fitted)
        yield


def run(
    home: Home,
    command: str,
    *settings: str,
    out: Path,
    method: str = "hint",
    family: str = "fcos",
    whole: bool = True,
    finds: bool = False,
) -> dict[str, Any]:
    """Runs a command for 4 steps and tells what it left, without what time and place change."""
    own = {one.partition("=")[0] for one in settings}
    preset, small = SMALLER.get(family, (f"{family}/{next(iter(FAMILIES[family].presets))}", ()))
    given = [one for one in (*SMALL, *small) if one.partition("=")[0] not in own]
    words = [command, *given, *settings]
    if "data.folder" not in own:
        words += ["--data", str(home.folder / "data")]
    if "train.steps" not in own:
        words += ["--steps", "4"]
    if command == "train":
        words += [] if "student.detector" in own else ["--detector", preset]
    else:
        words += ["--student", preset]
        words += (
            []
            if "teacher.source" in own
            else ["--teacher", str(home.folder / (family if family in ("gfl", "hf") else "teacher"))]
        )
        words += [] if "method" in own else ["--method", method]
    printed, code = io.StringIO(), 0
    with redirect_stdout(printed), redirect_stderr(printed), nullcontext() if whole else ended_after_training():
        code = main([*words, *([] if "out" in own else ["--out", str(out)])])
    place = next((Path(one.partition("=")[2]) for one in settings if one.startswith("out=")), out)
    text = re.sub(
        r"\b[\d.,:]+ ?(s|GB|MB|images/s|/s|left)\b|in \d+:\d+", "", printed.getvalue().replace(str(place), "OUT")
    )
    found: dict[str, Any] = {"code": code, SAID: sorted(set(text.splitlines())), "error": printed.getvalue()}
    if code == 0:
        results = json.loads(RunFolder(place).results.read_text()) if whole else {}
        found[RESULTS] = {key: value for key, value in results.items() if "seconds" not in key}
        table = RunFolder(place).metrics
        found[METRICS] = len(table.read_text().splitlines()) if table.is_file() else 0
        found[FILES] = sorted(str(path.relative_to(place)) for path in place.rglob("*") if ".out." not in path.name)
        weights = load_file(find_weights(place))
        found[PLACE] = place.name == out.name
        found[WEIGHTS] = hashlib.sha256(
            b"".join(weights[name].numpy().tobytes() for name in sorted(weights))
        ).hexdigest()
        found[FOUND] = detections(place) if finds else None
    return found


def detections(place: Path) -> list[Any]:
    detector = load_detector(place).detector.eval()
    with torch.no_grad():
        return [[found.boxes.tolist(), found.scores.tolist()] for found in detector.detect(scene_batch())]


def tell(home: Home, row: Row, changed: dict[str, Any], before: dict[str, Any], key: str) -> None:
    """Fails where a setting neither changes what its row says nor is refused in the sentence it names."""
    if row.refused:
        assert changed["code"] == 2, f"{key}={row.value} is accepted"
        error = [line for line in changed["error"].splitlines() if line.startswith("error: ")]
        assert len(error) == 1
        assert row.refused in error[0]
    elif row.shows == "allowed":
        assert before["code"] == 2, f"without {key} nothing is refused"
        assert changed["code"] == 0, changed["error"]
    else:
        assert before["code"] == 0, before["error"]
        assert changed["code"] == 0, changed["error"]
        differs = [
            name for name in (WEIGHTS, SAID, RESULTS, METRICS, FILES, FOUND, PLACE) if changed[name] != before[name]
        ]
        assert row.shows in differs, f"{key}={row.value} changes {differs}, not {row.shows}"


_RUNS: dict[tuple[Any, ...], dict[str, Any]] = {}


def compare(
    home: Home, tmp_path: Path, row: Row, settings: Sequence[str], *, key: str, family: str = "fcos", method: str = ""
) -> None:
    """Runs with the row's setting and without, and tells the two apart."""
    # What shows by the end of the training asks for no more than that.
    asked: dict[str, Any] = {
        "whole": bool(row.refused) or row.shows == RESULTS or key.startswith(LATE),
        "finds": row.shows == FOUND,
        "family": family,
    }
    beside = tuple(home.place(one) for one in row.beside)
    base = (row.command, *beside, row.method, *asked.values())
    if base not in _RUNS and not row.refused:
        before = tmp_path / "before"
        _RUNS[base] = run(home, row.command, *beside, out=before, method=row.method, **asked)
    own = {one.partition("=")[0] for one in settings}
    others = [one for one in beside if one.partition("=")[0] not in own]
    used = method or row.method
    changed = run(home, row.command, *others, *settings, out=tmp_path / "changed", method=used, **asked)
    tell(home, row, changed, _RUNS.get(base, {}), key)


def leaves(kind: type[Any], path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every setting of a run by its dotted key, sections taken apart; the student's are the family's."""
    for one in fields(kind):
        hint = hints_of(kind)[one.name]
        sections = [each for each in (hint, *get_args(hint)) if isinstance(each, type) and is_dataclass(each)]
        if sections and one.name not in ("settings", "method"):
            yield from leaves(sections[0], (*path, one.name))
        elif one.name != "settings":
            yield ".".join((*path, one.name))


def test_every_setting_has_a_row() -> None:
    assert set(leaves(RunConfig)) == set(ROWS)
    shared = {one.name for one in fields(FAMILIES["fcos"].settings)}
    for name, family in ((name, one) for name, one in FAMILIES.items() if one.presets):
        own = {one.name for one in fields(family.settings)}
        assert own - shared <= set(DETECTORS[name]) <= own, name
    assert shared == set(DETECTORS["fcos"])
    assert set(METHOD_ROWS) <= {f"{name}.{one.name}" for name in METHODS for one in fields(METHODS[name].settings)}


@pytest.mark.slow
@pytest.mark.parametrize("key", ROWS)
def test_a_runs_setting_does_what_it_names(home: Home, tmp_path: Path, key: str) -> None:
    row = ROWS[key]
    compare(home, tmp_path, row, [f"{key}={home.place(row.value)}"], key=key)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "key"), [(family, key) for family, rows in DETECTORS.items() for key in rows])
def test_a_detectors_setting_does_what_it_names(home: Home, tmp_path: Path, family: str, key: str) -> None:
    row = DETECTORS[family][key]
    compare(home, tmp_path, row, [f"student.{key}={row.value}"], key=f"{family}.{key}", family=family)


def other_value(key: str, kind: type[Any]) -> str:
    """A value that is not the default, by its kind."""
    one = next(found for found in fields(kind) if found.name == key)
    default, hint = default_of(one), hints_of(kind)[key]
    kinds = get_args(hint) or (hint,)
    literal = next((one for one in (hint, *kinds) if get_origin(one) is Literal), None)
    if literal is not None:
        return written(next(choice for choice in get_args(literal) if choice != default))
    if bool in kinds:
        return written(not default)
    if default is None:
        return "0.3"
    return written(default + 1 if int in kinds else default / 2)


def method_rows() -> list[str]:
    return [f"{name}.{one.name}" for name in METHODS for one in fields(METHODS[name].settings)]


@pytest.mark.slow
@pytest.mark.parametrize("name", method_rows())
def test_a_methods_setting_does_what_it_names(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    method, _, key = name.partition(".")
    for one in ("WINDOW", "_EVERY", "_LATER") if key == "calibration" else ():
        monkeypatch.setattr(calibration, one, 2)  # what follows goes on after two steps, not thirty
    own = METHODS[method]
    row = METHOD_ROWS.get(name) or Row(other_value(key, own.settings))
    inside = ["hint"] if own.wraps else []
    beside = [one.removeprefix("method.") for one in row.beside if one.startswith("method.")]
    changed = [row.value, *beside] if key == "recipe" else [*inside, f"{key}={row.value}", *beside]
    plain, other = (f"{method}({', '.join(words)})" if words else method for words in ([*inside, *beside], changed))
    runs = tuple(one for one in row.beside if one.startswith("train."))
    asked = Row(row.value, row.shows, runs, refused=row.refused, command="distill", method=plain)
    family = {"ld": "gfl", "queries": "hf"}.get(method, "fcos")
    compare(home, tmp_path, asked, [], key=name, family=family, method=other)


def command_words(app: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every word of every command, as the command line writes it."""
    for name in app:
        if name.startswith("-"):
            continue
        inner = app[name]
        if inner.default_command is None:
            yield from command_words(inner, (*path, name))
            continue
        for word in inspect.signature(inner.default_command).parameters:
            yield " ".join((*path, name, OPTION_NAMES.get(word, word).replace("_", "-")))


def test_every_word_has_a_row() -> None:
    words = {word for word in command_words(build_app()) if not word.startswith(SHOWN_ELSEWHERE)}
    assert words == set(WORDS)


_SAID: dict[str, dict[str, Any]] = {}


def say(home: Home, line: Sequence[str], out: Path) -> dict[str, Any]:
    """What a command prints, and the content of what it leaves, in a folder of its own."""
    out.mkdir()
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        code = main([home.place(word).replace("OUT", str(out)) for word in line])
    text = re.sub(_PASSING, "", printed.getvalue().replace(str(out), "OUT"))
    files = [path for path in out.rglob("*") if path.is_file() and path.name not in ("metrics.csv", "training.json")]
    content = {str(path.relative_to(out)): path.read_bytes().replace(str(out).encode(), b"OUT") for path in files}
    for name in [name for name in content if name.endswith(".json")]:
        content[name] = re.sub(rb"seconds.*", b"", content[name])
    return {"code": code, SAID: sorted(set(text.splitlines())), FILES: content, "error": printed.getvalue()}


@pytest.mark.slow
@pytest.mark.parametrize("name", WORDS)
def test_a_commands_word_does_what_it_names(home: Home, tmp_path: Path, name: str) -> None:
    word = WORDS[name]
    base, given = word.base.split(), word.given.split()
    option = given[0]
    if option in base:
        at = base.index(option)
        line = [*base[:at], *base[at + 2 :], *given]
    elif name.endswith((" checkpoint", " model", " path", " run")):
        at = len(name.split()) - 1
        line = [*base[:at], option, *base[at + 1 :]]
    else:
        line = [*base, *given]
    if word.base not in _SAID:
        _SAID[word.base] = say(home, base, tmp_path / "before")
    before, changed = _SAID[word.base], say(home, line, tmp_path / "changed")
    if word.refused:
        assert changed["code"] == 2, changed["error"]
        assert word.refused in changed["error"]
    elif word.shows == "allowed":
        assert (before["code"], changed["code"]) == (2, 0), changed["error"]
    else:
        assert (before["code"], changed["code"]) == (0, 0), before["error"] + changed["error"]
        assert changed[word.shows] != before[word.shows], f"{name} changes nothing"
