"""What a command writes to: streams that are full, closed or cannot write a name, and files for figures."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import IO
from unittest.mock import Mock

import pytest

from coco_by_hand import draw_data
from detdistill.cli import main


@pytest.fixture
def gone() -> Iterator[int]:
    """The writing end of a pipe that nobody reads any more, as `| head` leaves it."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def test_a_reader_that_has_gone_ends_nothing(tmp_path: Path, gone: int) -> None:
    """What is printed is lost, also by what Python flushes as it ends; work and its exit code are not."""
    program = "import sys; from detdistill.cli.app import main; sys.exit(main(sys.argv[1:]))"
    words = ["data", "make", "scenes", "--out", "scenes", "--train", "1", "--val", "1", "--json", "made.json"]
    command = [sys.executable, "-c", program, *words]
    assert subprocess.run(command, cwd=tmp_path, stdout=gone, stderr=gone, check=False).returncode == 0
    assert (tmp_path / "made.json").is_file()


def test_a_reader_that_goes_in_the_middle_of_much_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: int
) -> None:
    """More than the stream's buffer holds, so that printing itself fails."""
    with suppress(BrokenPipeError), os.fdopen(gone, "w", encoding="utf-8", closefd=False) as stream:
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, stream)
        code = main(["settings", "--json", str(tmp_path / "settings.json")])
    assert code == 0
    assert (tmp_path / "settings.json").stat().st_size > io.DEFAULT_BUFFER_SIZE


@pytest.fixture
def full() -> Iterator[IO[str]]:
    """A stream whose disk is full; it holds nothing back."""
    with Path("/dev/full").open("wb", buffering=0) as file:
        yield io.TextIOWrapper(file, write_through=True)


def test_a_full_disk_under_standard_error_ends_no_run_and_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: IO[str]
) -> None:
    draw_data(tmp_path / "data")
    words = [
        "train",
        "--detector",
        "fcos/test_resnet",
        "--data",
        str(tmp_path / "data"),
        "--out",
        str(tmp_path / "run"),
    ]
    words += [
        "student.head_depth=1",
        "student.fpn_channels=16",
        "train.device=cpu",
        "train.batch_size=2",
        "--steps",
        "1",
    ]
    monkeypatch.setattr(sys, "stderr", full)
    assert main(words) == 0
    noted = json.loads((tmp_path / "run/results.json").read_text())["unheard"]
    assert noted == {"standard error": "No space left on device"}


def test_a_full_disk_under_standard_output_is_said_after_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], full: IO[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", full)
    assert main(["methods", "--json", str(tmp_path / "methods.json")]) == 2
    assert capsys.readouterr().err == (
        "error: standard output must be writable, got: No space left on device. What was to be printed is lost, all "
        "else is done.\n"
    )
    assert (tmp_path / "methods.json").is_file()


def test_figures_are_written_before_anything_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = SimpleNamespace(table=lambda: [str((tmp_path / "found.json").is_file())], as_dict=dict)
    monkeypatch.setattr("detdistill.jobs.methods.methods_job", Mock(return_value=outcome))
    assert main(["methods", "--json", str(tmp_path / "found.json")]) == 0
    assert capsys.readouterr().out == "True\n"


def test_streams_that_are_closed_or_write_no_accents_end_nothing(tmp_path: Path) -> None:
    """No file takes the place of a closed stream, in which others' messages would land."""
    program = (
        "import os, sys; from pathlib import Path; from detdistill.output import LOST, unfailing\n"
        "with unfailing():\n"
        "    print('\\u00fc', os.open('.', 0) > 2)\n"
        "    print('\\u00fc', file=sys.stderr)\n"
        "    Path('lost').write_text(str(LOST))"
    )
    poor = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=poor, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\\xfc True\n", b"\\xfc\n")
    closed = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", sys.executable, "-c", program]
    assert subprocess.run(closed, cwd=tmp_path, check=False).returncode == 0
    assert (tmp_path / "lost").read_text() == "{}"


def test_a_name_that_the_locale_cannot_write_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = UnicodeEncodeError("ascii", "\u00fc.png", 0, 1, "ordinal not in range(128)")
    monkeypatch.setattr("detdistill.jobs.methods.methods_job", Mock(side_effect=error))
    assert main(["methods"]) == 2
    assert capsys.readouterr().err == (
        "error: The name '\\xfc.png' must be one that this process can write, got the encoding ascii. Start it with "
        "PYTHONUTF8=1 in its environment.\n"
    )


def test_a_folder_for_the_figures_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("d").mkdir()
    made = ["data", "make", "scenes", "--out", "scenes", "--train", "1", "--val", "1"]
    assert main([*made, "--json", "d"]) == 2
    assert capsys.readouterr().err == "error: --json must be a file, got the folder d. Write --json d/figures.json.\n"
    assert not Path("scenes").exists()
    assert main([*made, "--json", "d/figures.json"]) == 0


def test_a_file_that_cannot_be_put_in_its_place_is_named_by_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = IsADirectoryError(21, "Is a directory", "d.0123.partial", None, "d")
    monkeypatch.setattr("detdistill.jobs.methods.methods_job", Mock(side_effect=error))
    assert main(["methods"]) == 2
    assert capsys.readouterr().err == "error: d must be a path that can be used, got: Is a directory. Check the path.\n"
