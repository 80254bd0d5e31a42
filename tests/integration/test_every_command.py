"""Every command, found from the command line, writes over nothing that is not its own, and ends well on a full disk."""

from __future__ import annotations

import errno
import inspect
import io
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import detdistill
from coco_by_hand import CLASSES, draw_data
from command_rows import ROWS, commands
from detdistill import build_detector, demo, files, save_detector
from detdistill.cli import main
from detdistill.export import targets
from detdistill.export.graph import export_onnx
from detdistill.jobs import measuring
from detdistill.papers import data as paper_data
from detdistill.papers import reproduce, rows
from detdistill.papers.traffic_filter import TRAFFIC_CLASSES
from films import film
from full_disk import DiskFull
from run_files import contents
from thorough import THOROUGH

EVERY = [pytest.param(name, marks=pytest.mark.slow if row.long else ()) for name, row in ROWS.items()]
# Other people's files, as they may lie anywhere: some by the names of ours.
THEIRS = {
    "notes.txt": b"notes",
    "config.yaml.partial": b"half of something",
    "results.json": b'{"images": []}',
    "curves.png": b"no picture",
    "checkpoints.old/step_0000001/student.safetensors": b"weights",
    "out2/metrics.csv": b"step\n1\n",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What commands read: data, photos, a detector, COCO's own classes."""
    folder = tmp_path_factory.mktemp("world") / "home"
    draw_data(folder / "data")
    detector = build_detector("fcos/tiny", CLASSES, seed=1)
    save_detector(detector, folder / "teacher", image={"short_side": 32, "long_side": 48})
    save_detector(detector, folder / "taught", image={"short_side": 32, "long_side": 48})
    words = {"student": "fcos/tiny", "teacher": folder / "teacher", "data": folder / "data", "method": "hint"}
    config = detdistill.run_config("train.device=cpu", purpose="distill", out=folder / "taught", **words)
    files.write_text(folder / "taught" / "config.yaml", config.yaml())
    for name in ("a.jpg", "a.png", "a_2.png", "B.png", "b.jpg"):
        (folder / "photos").mkdir(exist_ok=True)
        Image.fromarray(np.full((48, 48, 3), 90, dtype=np.uint8)).save(folder / "photos" / name)
    film(folder / "photos" / "clip.mov", frames=1)
    content = json.loads((folder / "data" / "train.json").read_text())
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(TRAFFIC_CLASSES, start=1)]
    for box in content["annotations"]:
        box["category_id"] = TRAFFIC_CLASSES.index("car") + 1
    for split in ("train2017", "val2017"):
        (folder / "coco").mkdir(exist_ok=True)
        (folder / "coco" / split).symlink_to(folder / "data" / "images")
        files.write_json(folder / "coco" / "annotations" / f"instances_{split}.json", content)
    (folder / "written.json").write_text('{\n  "written_by": "detdistill something else"\n}\n')
    (folder / "run.yaml").write_text("seed: 3\n")
    return folder


def blank_curves(_runs: Any, out: Path, **_: Any) -> None:
    Image.new("RGB", (1, 1)).save(made := io.BytesIO(), format="PNG")
    files.write_bytes(out, made.getvalue())


EXPORTED: list[bytes] = []


def exported_once(*given: Any) -> bytes:
    """What torch's exporter, which takes long, made of the one detector here."""
    if not EXPORTED:
        EXPORTED.append(export_onnx(*given))
    return EXPORTED[0]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Demo and papers of a few steps, one export for all, and curves that take no second to draw."""
    short = partial(detdistill.training.settings.TrainSettings, steps=2, batch_size=2, warmup_steps=1, device="cpu")
    plan = partial(demo.DemoPlan, train_scenes=4, labelled_scenes=3, val_scenes=2, teacher="fcos/tiny")
    monkeypatch.setattr(demo, "DemoPlan", partial(plan, teacher_training=short(), student_training=short()))
    monkeypatch.setattr(paper_data, "_SMOKE_TRAIN", 4)
    monkeypatch.setattr(paper_data, "_SMOKE_VAL", 2)
    monkeypatch.delenv("DETDISTILL_TEST_DATA", raising=False)
    papers = tmp_path_factory.mktemp("papers")
    model = "{detector: fcos/tiny, train: {epochs: 1, drops: [], lr: 0.01, batch_size: 4, warmup_steps: 1}}"
    size = "image: {short_side: 48, long_side: 96}"
    files.write_text(papers / "aid" / "paper.yaml", "{title: A made-up paper, figures: nowhere}")
    row = f"{{title: A, metric: VOC AP50, data: kitti, {size}, student: {model[:-1]}, published: 80.0}}}}"
    files.write_text(papers / "aid" / "01-alone.yaml", row)
    monkeypatch.setattr(reproduce, "read_paper", lambda paper, folder: rows.read_paper(paper, folder=papers))
    monkeypatch.setattr(targets, "export_onnx", exported_once)
    monkeypatch.setattr(measuring, "learning_curves", blank_curves)


def typed(name: str, home: Path, out: Path, *more: str) -> list[str]:
    return [*name.split(), *ROWS[name].words.replace("{home}", str(home)).replace("{out}", str(out)).split(), *more]


def plant(folder: Path, theirs: Mapping[str, bytes] = THEIRS) -> None:
    for name, content in theirs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def kept(*folders: Path) -> dict[str, tuple[bytes, int]]:
    """Content and mode of every file."""
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mode) for path in found}


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code, and the error that was told, one sentence or none."""
    capsys.readouterr()
    code = main(words)
    told = capsys.readouterr().err
    _, error, sentence = told.partition("error: ")
    assert code == (2 if error else 0), told
    assert "Traceback" not in told
    return code, sentence.rstrip()


def test_every_command_has_its_row() -> None:
    found = dict(commands())
    assert found.keys() == ROWS.keys(), "add a row to tests/command_rows.py"
    public = [getattr(detdistill, name) for name in detdistill.__all__]
    homes = {"detdistill.api.checking", "detdistill.api.commands", "detdistill.api.runs"}
    functions = {one for one in public if inspect.isfunction(one) and one.__module__ in homes}
    assert functions == {one.function for one in found.values() if one.function.__module__ in homes}


@pytest.mark.parametrize("name", EVERY)
def test_other_peoples_files_stay_as_they_are(
    name: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "place"
    out, json_file = place / "out", place / "out.json"
    plant(tmp_path)
    plant(place)
    if ROWS[name].shared:
        plant(out)
    else:
        plant(place / "full")
    before = kept(home, tmp_path)
    assert said(typed(name, home, out, "--json", str(json_file)), capsys) == (0, "")
    after = kept(home, tmp_path)
    assert {path: after.get(path) for path in before} == before
    assert json.loads(json_file.read_text())["written_by"] == f"detdistill {name}"
    assert not [path for path in after if re.search(r"\.[0-9a-f]{12}\.partial", path)]
    written = [Path(path).relative_to(out) for path in after if path not in before and Path(path).is_relative_to(out)]
    assert bool(written) == ("{out}" in ROWS[name].words)
    # What it has written is its own: it is gone on with, or made anew, or refused, and stays whole in any case.
    said(typed(name, home, out, "--json", str(json_file)), capsys)
    assert {path: kept(tmp_path, home).get(path) for path in before} == before
    # Another file under any name that it writes.
    for number, other in enumerate([*written[:3], *written[-2:]]):
        theirs = tmp_path / f"theirs{number}"
        plant(theirs, {str(other): b'{"images": [], "annotations": [], "categories": []}'})
        before = kept(theirs)
        _, sentence = said(typed(name, home, theirs), capsys)
        assert " must be " in sentence
        assert {path: kept(theirs).get(path) for path in before} == before
    if not ROWS[name].shared:
        assert said(typed(name, home, place / "full"), capsys)[0] == 2


INPUTS = (
    "data/train.json",
    "data/images/val_0.png",
    "teacher/student.json",
    "teacher/student.safetensors",
    "written.json",
    "run.yaml",
)


@pytest.mark.parametrize("name", ROWS)
def test_figures_are_written_over_no_other_file(name: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, at = kept(home), list(ROWS).index(name)
    for place in INPUTS if THOROUGH else (INPUTS[at % len(INPUTS)], INPUTS[(at + 1) % len(INPUTS)]):
        file = home / place
        _, sentence = said(typed(name, home, home / "new", "--json", str(file)), capsys)
        assert sentence == (
            f"--json must be a new file, or one that this command wrote, got {file}, which is another. "
            "Give another name, or move that file away."
        )
    _, sentence = said(typed(name, home, home / "new", "--json", "/dev/null"), capsys)
    assert sentence == "/dev/null must be a regular file, got a pipe, device or socket. Check the path."
    assert kept(home) == before


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if row.long and row.shared else ())
        for name, row in ROWS.items()
        if "{out}" in row.words
    ],
)
def test_no_command_writes_onto_what_it_reads(name: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = kept(home)
    for place in ("data", "data/images", "photos", "teacher", "coco", "."):
        code, _ = said(typed(name, home, home / place), capsys)
        after = kept(home)
        assert {path: after[path] for path in before} == before
        for path in after.keys() - before.keys():
            assert code == 0
            assert ROWS[name].shared
            Path(path).unlink()


@pytest.mark.parametrize("name", ["evaluate", "pictures"])
def test_a_picture_is_drawn_over_no_other(name: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, file = kept(home), home / "photos" / "a.png"
    words = [re.sub(r".*/(confusion|found)\.png", str(file), word) for word in typed(name, home, home)]
    _, sentence = said(words, capsys)
    assert sentence.startswith(("--confusion", "--out"))
    assert f" must be a new file, or one that this command wrote, got {file}, which is another." in sentence
    assert kept(home) == before


def test_images_of_one_name_get_a_drawing_each(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert said(typed("predict", home, tmp_path), capsys) == (0, "")
        drawings = sorted(path.name for path in tmp_path.glob("*.png"))
        assert drawings == ["B.png", "a.png", "a_2.png", "a_2_2.png", "b_2.png"]
    (tmp_path / "predictions.json").write_text('{"a.png": [{"box": [], "label": 3}]}')
    assert "predictions.json must be a new file, or one that" in said(typed("predict", home, tmp_path), capsys)[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "demo"])
def test_a_picture_that_cannot_be_drawn_keeps_back_no_figures(
    name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, draw = typed(name, home, tmp_path / "out", "--json", str(tmp_path / "out.json")), measuring.draw_confusion
    full = partial(files.refused, error=OSError(errno.ENOSPC, "No space left on device"))

    def refuse(matrices: object, out: Path) -> None:
        raise full(out)

    monkeypatch.setattr(measuring, "draw_confusion", refuse)
    code, sentence = said(words, capsys)
    assert code == 2
    assert re.match(r"/\S+/confusion\.png must be written, got: No space left on device, ", sentence)
    assert (tmp_path / "out" / "results.json").is_file()
    assert (tmp_path / "out.json").is_file() == (name == "train")
    monkeypatch.setattr(measuring, "draw_confusion", draw)
    assert said([*words, *(["--resume"] if name == "train" else [])], capsys) == (0, "")
    assert list((tmp_path / "out").rglob("confusion.png"))


def attempts(name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, Path]]:
    """Some writes of a command: their numbers, and a new folder each for a run in which that write fails."""
    counted = DiskFull(at=None)
    monkeypatch.setattr(files, "_write", counted)
    assert main(typed(name, home, tmp_path / "whole" / "out", "--json", str(tmp_path / "whole.json"))) == 0
    for number in sorted({0, counted.writes // 2, counted.writes - 1}):  # `make attack` tries all of them
        plant(tmp_path / str(number))
        yield number, tmp_path / str(number)


@pytest.mark.parametrize("name", EVERY)
def test_a_full_disk_ends_every_command_with_a_sentence(
    name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers, resume = count(), ["--resume"] if name in ("train", "distill", "prove", "tune") else []
    for number, folder in attempts(name, home, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        before = kept(home, folder)
        monkeypatch.setattr(files, "_write", DiskFull(at=number))
        words = typed(name, home, folder / "out", "--json", str(folder / "out.json"))
        code, sentence = said(words, capsys)
        after = kept(home, folder)
        assert {path: after.get(path) for path in before} == before
        assert not list(folder.rglob("*.[0-9a-f]*[0-9a-f].partial"))
        monkeypatch.setattr(files, "_write", DiskFull(at=None))
        if not code:  # a log, which ends nothing
            assert ROWS[name].long
            continue
        assert re.search(
            r"^/\S+ must be written, which takes at least .*: No space left on device, .* free\. ", sentence
        )
        assert str(folder) in sentence
        assert ".partial" not in sentence
        if "/out.json must" in sentence:
            assert sentence.endswith("another time; all else was done, and the figures are printed.")
        else:
            assert ("with --resume; " in sentence) == bool(resume)
            assert said([*words, *resume], capsys) == (0, "")
        next(numbers)
    assert next(numbers) > 0
    assert not any(part.endswith(".partial") and "config" not in part for part in contents(tmp_path))
