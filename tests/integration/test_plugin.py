"""A package of another's making adds a method, a detector family and a data format, and nothing here is touched."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from afresh import ran_afresh

ROOT = Path(__file__).resolve().parents[2]
COLOURS = {"bar": (220, 60, 40), "square": (40, 90, 210)}
QUICK = ["train.batch_size=2", "train.threads=1", "train.device=cpu", "train.ema_decay=0", "train.log_every=1"]
# Several command lines in one process: its start takes longer than what they do.
COMMANDS = (
    "import json, sys; from detdistill.cli import main; sys.exit(any(main(one) for one in json.loads(sys.argv[1])))"
)
SUITES = [
    *("-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "-k", "centre or cosine"),
    *(str(ROOT / "tests" / "contract" / f"test_{name}.py") for name in ("detectors", "recipes_on_detectors")),
]

Run = Callable[..., str]


def installer(target: Path) -> list[str]:
    """pip, or uv where an environment has no pip; neither asks the network for anything."""
    words = ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(target)]
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *words]
    return ["uv", "pip", "install", "--python", sys.executable, *words]


def finished(command: list[str], **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def draw_tables(folder: Path) -> None:
    """12 pictures of bars and squares, 64 to 96 px a side; the last of each table is empty."""
    random = np.random.default_rng(3)
    folder.mkdir()
    for split, count in (("train", 8), ("val", 4)):
        rows: list[tuple[object, ...]] = [("file", "class", "x1", "y1", "x2", "y2")]
        for index in range(count):
            height, width = random.integers(64, 97, size=2)
            name, pixels = f"{split}{index}.png", np.full((height, width, 3), 120, dtype=np.uint8)
            for kind, (rise, run) in {"bar": (12, 40), "square": (24, 24)}.items() if index < count - 1 else ():
                x, y = random.integers(0, width - run), random.integers(0, height - rise)
                pixels[y : y + rise, x : x + run] = COLOURS[kind]
                rows.append((name, kind, x, y, x + run, y + rise))
            if index == count - 1:
                rows.append((name, "", "", "", "", ""))
            Image.fromarray(pixels).save(folder / name)
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package in ``site``, and a data set in ``tables``."""
    folder = tmp_path_factory.mktemp("plugin")
    # Building leaves files beside the sources.
    shutil.copytree(ROOT / "examples" / "plugin", folder / "source")
    finished([*installer(folder / "site"), str(folder / "source")])
    draw_tables(folder / "tables")
    return folder


@pytest.fixture(scope="module")
def run(home: Path) -> Run:
    """The command line in a process that sees the package, as if it were installed beside detdistill."""
    paths = [str(ROOT / "src"), str(home / "site"), str(ROOT / "tests")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}

    def started(*words: str, option: tuple[str, str] = ("-m", "detdistill")) -> str:
        return finished([sys.executable, *option, *words], cwd=home, env=environment)

    return started


@pytest.fixture(scope="module")
def taught(home: Path, run: Run) -> Path:
    """Where a teacher of the package's family taught one of the same, ``same``, and one of ours, ``other``."""
    first = ["train", "--detector", "centre/tiny", "--out", "teacher"]
    same = ["distill", "--student", "centre/tiny", "--method", "aid(cosine)", "--out", "same"]
    other = ["distill", "--student", "fcos/tiny", "--method", "cosine + frs", "--out", "other"]
    shared = [*QUICK, "--data", "tables", "--steps", "4"]
    lines = [
        [*line, *shared, *(["--teacher", "teacher"] if line is not first else [])] for line in (first, same, other)
    ]
    lines.append(["evaluate", "same", "--data", "tables", "--json", "measured.json"])
    run(json.dumps(lines), option=("-c", COMMANDS))
    return home


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_the_method_is_listed_and_tells_its_formula(home: Path) -> None:
    program = "from detdistill.cli import main; assert main(['methods']) == 0; print('<>'); main(['methods', 'cosine'])"
    code, said, errors = ran_afresh(program, cwd=home, paths=[home / "site"])
    assert code == 0, errors
    listing, told = said.split("<>\n")
    assert {line.split()[0] for line in listing.splitlines() if line} >= {"cosine", "frs", "aid"}
    for expected in ("Formula:\n  L = gain · Σ_levels", "Needs:\n", "Source:\n", "Differs", "  aligner = conv1x1"):
        assert expected in told


def test_the_format_is_recognised_checked_and_converted(home: Path, run: Run) -> None:
    assert "CSV: train.csv" in run("data", "check", "tables", "--json", "checked.json")
    told = read(home / "checked.json")
    assert [(told["splits"][name]["images"], told["splits"][name]["boxes"]) for name in ("train", "val")] == [
        (8, 14),
        (4, 6),
    ]
    run("data", "convert", "tables", "--to", "coco", "--out", "coco")
    run("data", "convert", "coco", "--to", "csv", "--out", "again")
    for split in ("train", "val"):
        first, again = (
            list(csv.reader((home / name / f"{split}.csv").read_text().splitlines())) for name in ("tables", "again")
        )
        assert [row[:2] for row in first] == [row[:2] for row in again]
        numbers = [[[float(word or 0) for word in row[2:]] for row in rows[1:]] for rows in (first, again)]
        assert numbers[0] == numbers[1]


def costs_something(folder: Path, terms: set[str]) -> bool:
    """Whether the last step that was logged had a loss by each of the terms."""
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    return all(float(next(last[key] for key in last if term in key)) > 0 for term in terms)


@pytest.mark.slow
def test_its_detector_learns_by_its_method_and_is_measured(taught: Path) -> None:
    assert read(taught / "same" / "results.json")["method"] == "aid(cosine)"
    assert costs_something(taught / "same", {"cosine.features"})
    assert 0 <= read(taught / "measured.json")["AP50"] <= 100


@pytest.mark.slow
def test_its_detector_teaches_one_of_ours_by_methods_of_both(taught: Path) -> None:
    assert read(taught / "other" / "results.json")["method"] == "cosine + frs"
    assert costs_something(taught / "other", {"cosine.features", "frs.features", "frs.classes"})


@pytest.mark.slow
def test_it_keeps_what_every_method_and_every_detector_promises(run: Run) -> None:
    """The suites find what is installed by themselves."""
    told = run(*SUITES, "-vv", option=("-m", "pytest"))
    assert " passed" in told
    for case in ("test_detectors.py::test_image_losses_are_each_image_alone[centre]", "cosine-fcos", "cosine-centre"):
        assert f"{case}" in told
