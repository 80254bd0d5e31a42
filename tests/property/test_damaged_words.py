"""Texts and records that nobody should write: each is used, or refused in a sentence; nothing else happens."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmarks.attack.mutations import TEXT_DAMAGES, VALUES

from detdistill.detectors.catalogue import build_detector, parse_detector
from detdistill.errors import DistillError
from detdistill.files import write_json
from detdistill.jobs.config import read_run_config
from detdistill.jobs.keys import run_settings
from detdistill.methods.composition import method_text, parse_method
from detdistill.progress import Silence
from detdistill.store.best import chosen_as
from detdistill.store.cache import INDEX
from detdistill.store.checkpoints import DamagedCheckpoint, read_checkpoint, read_record
from detdistill.store.layout import COUNTERS, DESCRIPTION, LATEST, latest_of
from detdistill.store.students import save_detector, saved_settings
from detdistill.store.twins import _index
from detdistill.training.logs import read_rows

ATTEMPTS = 60
METHODS = ("aid(ikd(frs + ssim), alpha=0.5)", "attention(temperature=0.5, norm=batch)", "ld(gain=2.0, class_gain=1)")
OPTIONS = {"data": "d", "out": "o", "teacher": "t", "student": "fcos/tiny", "method": METHODS[0]}
KEYS = [one.key for one in run_settings()]
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    10**400,
    float("nan"),
    "",
    "x" * 3000,
    "\ud800",
    "\0",
    [],
    {},
    [[]],
    [1],
)


def changed(content: Any, draw: random.Random) -> Any:
    """Something in a JSON's content is of another kind, gone, or named otherwise."""
    if isinstance(content, dict) and content and draw.random() < 0.85:
        key = draw.choice(list(content))
        if draw.random() < 0.15:
            return {other: value for other, value in content.items() if other != key}
        if draw.random() < 0.1:
            return {draw.choice(("x", "", key.upper())) if other == key else other: v for other, v in content.items()}
        return {**content, key: changed(content[key], draw)}
    if isinstance(content, list) and content and draw.random() < 0.6:
        at = draw.randrange(len(content))
        return [changed(one, draw) if at == here else one for here, one in enumerate(content)]
    return draw.choice(ODD)


def damaged(text: str, draw: random.Random) -> bytes:
    data = text.encode()
    for _ in range(draw.choice((1, 1, 2, 4))):
        data = draw.choice(TEXT_DAMAGES)(data, draw) or b"x"
    return data


def attempt(work: Callable[[], object], given: object) -> None:
    """Does it, and says with what it failed otherwise than by a sentence."""
    try:
        work()
    except DistillError as error:
        said = str(error)
        assert " must " in said or " matched " in said, (given, said)
        assert "Traceback" not in said
        assert len(said) < 6000, (given, said[:500])
    except Exception as error:
        raise AssertionError(f"{given!r:.400}") from error


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "checkpoints" / "step_0000006"
    image = {"short_side": 96, "long_side": 160, "pad_multiple": 32}
    save_detector(build_detector(parse_detector("fcos/tiny"), ("car", "van"), seed=3), folder, image=image)
    write_json(folder.parent / LATEST, {"checkpoint": folder.name, "step": 6, "metric": "AP", "value": 3.5})
    identity = {"train": {"steps": 6, "batch_size": 2, "processes": 1}, "images": 3, "method": {"name": "frs"}}
    record = {"format": 1, "step": 6, "seconds": 1.5, "identity": identity, "counters": {"ema_updates": 6}}
    write_json(folder / COUNTERS, record | {"sha256": {DESCRIPTION: "00"}})
    write_json(folder / INDEX, {"identity": identity, "twins": {"00" * 32: "ff" * 32}})
    return folder


def test_config_files(tmp_path: Path) -> None:
    draw, path = random.Random(0), tmp_path / "run.yaml"
    whole = read_run_config(
        None, [], purpose="distill", options={**OPTIONS, "student": "fcos/tiny", "method": METHODS[0]}
    )
    text = whole.yaml()
    for _ in range(ATTEMPTS // 2):
        path.write_bytes(given := damaged(text, draw))
        attempt(lambda: read_run_config(path, [], purpose="distill"), given)


def test_settings_on_the_command_line() -> None:
    draw = random.Random(0)
    for _ in range(ATTEMPTS):
        keys = [draw.choice(KEYS), draw.choice(KEYS) + draw.choice(("", ".0", ".x", ".recipe", ".1.name"))]
        given = [f"{key}={draw.choice(VALUES)}" for key in keys[: draw.choice((1, 2))]]
        attempt(lambda given=given: read_run_config(None, given, purpose="distill", options=OPTIONS).yaml(), given)


def test_method_texts() -> None:
    draw = random.Random(0)
    for _ in range(ATTEMPTS):
        given = damaged(draw.choice(METHODS), draw).decode("utf-8", "replace")
        attempt(lambda given=given: method_text(parse_method(given)), given)
    for given in ("aid(" * 10_000 + "frs" + ")" * 10_000, "aid(" * 300 + "frs" + ")" * 300, "frs + " * 300 + "ssim"):
        attempt(lambda given=given: parse_method(given), given)


@pytest.mark.parametrize("name", [DESCRIPTION, COUNTERS, f"../{LATEST}", INDEX])
def test_json_files_of_a_run(run: Path, name: str) -> None:
    draw, path = random.Random(name), run / name
    whole = path.read_bytes()

    def read() -> None:
        looks = (saved_settings, read_record, lambda it: latest_of(it.parent), chosen_as, read_checkpoint)
        for look in (*looks, lambda it: _index(it, Silence())):
            try:
                look(run)
            except DamagedCheckpoint:
                continue

    try:
        for _ in range(ATTEMPTS):
            text = json.dumps(changed(json.loads(whole), draw)).encode()
            given = text if draw.random() < 0.6 else damaged(whole.decode(), draw)
            path.write_bytes(given)
            attempt(read, given)
    finally:
        path.write_bytes(whole)


def test_tables_of_a_run(tmp_path: Path) -> None:
    draw, path = random.Random(0), tmp_path / "metrics.csv"
    for _ in range(ATTEMPTS):
        path.write_bytes(given := damaged("step,loss,AP\n1,0.5,\n2,0.25,3.5\n", draw))
        attempt(lambda: read_rows(path), given)
