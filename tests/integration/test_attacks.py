"""The attacks of `make attack`, few of each; and that they see what they look for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks.attack import flips, full_disk
from benchmarks.attack.attacks import ATTACKS
from benchmarks.attack.material import digests, leftovers
from benchmarks.attack.processes import OURS, Ended
from benchmarks.attack.records import NOTHING, Attempt, Records, draw, table

from detdistill.cli import main
from tiny_training import run_tiny, tiny_settings

ROOT = Path(__file__).resolve().parents[2]
FINE = Attempt(0, "train", "resumed", figures={"kills": 2})


def test_attempts_go_on_where_they_were_stopped(tmp_path: Path) -> None:
    records = Records(tmp_path / "kill.jsonl")
    assert list(records.todo(3)) == [0, 1, 2]
    records.add(FINE)
    records.add(replace(FINE, number=1, end="lost", faults=("lost",), says="gone"))
    with records.file.open("a") as lines:
        lines.write('{"number": 2, "ki')  # the process that wrote it was killed
    records = Records(records.file)
    assert list(records.todo(3)) == [2]
    assert records.forget_faulty() == 1
    assert list(Records(records.file).todo(3)) == [1, 2]
    other = Records(tmp_path / "kill_backwards.jsonl")
    other.add(replace(FINE, number=2))
    both = Records(records.file, others=[other.file])
    assert both.forget_faulty() == 0
    assert sum(both.summary(())["commits"].values()) == 2


def test_a_summary_counts_every_fault_and_only_what_was_tried(tmp_path: Path) -> None:
    records = Records(tmp_path / "kill.jsonl")
    for number, faults in enumerate([(), ("lost",), ("lost", "orphan"), ("unheard of",)]):
        records.add(replace(FINE, number=number, faults=faults))
    records.add(replace(FINE, number=4, end=NOTHING))
    found = records.summary(("lost", "orphan", "hang"))
    assert found["attempts"] == 4
    assert found["bars"] == {"lost": 2, "orphan": 1, "hang": 0, "unheard of": 1}
    assert found["figures"]["kills"] == {"sum": 8, "least": 2, "most": 2}
    assert "4 of 9  2 lost, 1 orphan, 0 hang" in table({"kill": found}, {"kill": 9})


def test_draws_are_of_the_seed_and_the_number_alone() -> None:
    assert draw(0, "kill", 3).random() == draw(0, "kill", 3).random()
    assert len({draw(seed, name, n).random() for seed in (0, 1) for name in ("a", "b") for n in (0, 1)}) == 8


def test_every_damage_to_a_checkpoint_is_seen(tmp_path: Path) -> None:
    """Flips and truncations, read as the attack reads them: the last checkpoint's cost two steps, the other's none."""
    run = tmp_path / "run"
    run_tiny(run, tiny_settings(steps=4, checkpoint_every=2))
    newest, last = flips.checkpoint_in(run), run / "checkpoints" / "step_0000004"
    last.rename(tmp_path / "aside")
    written = (newest, flips.checkpoint_in(run))
    (tmp_path / "aside").rename(last)
    before, ends = digests(run), set()
    for number in range(40):
        path, content, _ = flips.damaged(run / "checkpoints", draw(0, "flip", number))
        assert digests(run) != before
        end, says = flips.outcome(lambda: flips.checkpoint_in(run), written)
        assert end in ("whole", "older"), says
        ends.add(end)
        path.write_bytes(content)
    assert ends == {"whole", "older"}
    assert digests(run) == before
    assert flips.outcome(lambda: flips.checkpoint_in(run), written[1:])[0] == "accepted wrongly"


@pytest.mark.parametrize(
    ("said", "ours"),
    [
        ('Traceback (most recent call last):\n  File "/x/detdistill/.venv/torch/api.py", line 9, in _poll\n', False),
        (f'W0101 0:0 api.py:9]   File "{OURS}/cli/app.py", line 109, in main\n', True),
        (f"{OURS}/training/loop.py:12: UserWarning: slow\n", False),
    ],
)
def test_a_call_of_ours_in_somebodys_traceback_is_found(said: str, ours: bool) -> None:
    assert Ended(2, said, 0.1).traces_ours is ours


def test_what_is_left_behind_is_found(tmp_path: Path) -> None:
    (tmp_path / "twins").mkdir()
    (tmp_path / "twins" / "a.png.0123456789ab.partial").touch()
    (tmp_path / "latest.json").touch()
    assert len(leftovers(tmp_path)) == 1


def test_a_full_disk_meets_every_kind_of_write() -> None:
    kinds = ["open a", *["open log"] * 25, "os.rename a", "open b"]
    assert full_disk.chosen(kinds, every=True) == set(range(28))
    assert full_disk.chosen(kinds, every=False) == {*range(11), 20, 26, 27}


def test_a_sentence_has_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "x" * 9000]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert len(said) < 4000
    assert said.endswith(".\n")


# The last one mounts a disk.
NUMBERS = {
    **{"kill": 60, "flip": 150, "flip and resume": 8, "fuzz": 240, "together": 6, "user's files": 30, "full disk": 30}
}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What all attacks found, and what was said: one after the other in one process, whose start takes seconds."""
    folder = tmp_path_factory.mktemp("attacks")
    words = [
        sys.executable,
        "-m",
        "benchmarks.attack",
        *NUMBERS,
        "--number",
        *map(str, NUMBERS.values()),
        "--seed",
        "1",
    ]
    words += ["--records", str(folder / "lines"), "--json", str(folder / "attack.json")]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        words, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    said = ended.stdout[-9000:] + ended.stderr[-2000:]
    assert (folder / "attack.json").is_file(), said
    return json.loads((folder / "attack.json").read_text())["attacks"], said


@pytest.mark.slow
@pytest.mark.parametrize("name", NUMBERS)
def test_an_attack_finds_nothing(name: str, attacked: tuple[dict[str, Any], str]) -> None:
    attacks, said = attacked
    assert attacks[name]["attempts"] == NUMBERS[name], said
    assert attacks[name]["bars"] == dict.fromkeys(ATTACKS[name].bars, 0), said
