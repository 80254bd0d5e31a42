"""A user's files beside, above and below every place that a command writes to: each stays as it was, byte by byte."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from benchmarks.attack.commands import COMMANDS, LONG_COMMANDS, prepare, shrunk
from benchmarks.attack.material import Material, digests
from benchmarks.attack.processes import Forked, command, undrawn
from benchmarks.attack.records import Attempt

__all__ = ["BARS", "NUMBER", "attempt", "prepare"]

BARS = ("changed", "traceback", "hang", "crash")
_CASES = (
    "beside and above", "below", "below, with --resume", "a run's names below, with --resume", "a file in its place",
    "a link to a folder", "the input itself", "inside the input",
)  # fmt: skip
_SHORT = len(COMMANDS) * len(_CASES)
NUMBER = _SHORT + len(LONG_COMMANDS) * len(_CASES)
_NAMES = ("notes.txt", "draft.partial", "model.0123456789ab.partial", "config.yaml", "results.json", "street.png")
_NAMES += (
    "checkpoints.zip",
    "anything.partial/inside.txt",
    "images/mine.png",
    "train.json",
    "val_0.png",
    "latest.json",
)
_OURS = ("config.yaml", "metrics.csv", "results.json", "curves.png", "checkpoints/mine.txt", "best/mine.txt")


def attempt(material: Material, number: int, draws: random.Random) -> Attempt:
    """One command with files of the user's in one place."""
    commands = COMMANDS if number < _SHORT else LONG_COMMANDS
    case_number, place_number = divmod(number % _SHORT, len(commands))
    name, case = list(commands)[place_number], _CASES[case_number]
    writing, kind = commands[name], f"{name}: {case}"
    home = material.spare("beside")
    out = home / "above" / "work" / "out"
    out.parent.mkdir(parents=True)
    for source in ("data", "teacher", "coco"):
        shutil.copytree(material.home / source, home / source)
    mine = Material(home, runs={"teacher": home / "teacher"})
    _plant(out, case, draws)
    words = writing.given(mine, out)
    if case in ("the input itself", "inside the input"):
        read = next((word for word in words if word.startswith(str(home)) and not word.startswith(str(out))), None)
        if read is None:
            return Attempt(number, kind, "nothing to attack")
        place = Path(read) if case == "the input itself" else Path(read) / "images"
        if writing.file:
            place = next(one for one in sorted((home / "data").rglob("*.png")))
        words = [word.replace(str(out / writing.file if writing.file else out), str(place)) for word in words]
    if case.endswith("--resume"):
        words += ["--resume"] if writing.resumes else []
    before = _all(home)
    work = undrawn(command(words)) if writing.resumes or commands is not COMMANDS else command(words)
    work = work if commands is COMMANDS else shrunk(work)
    ended = Forked(work, material.home / "beside.said").wait()
    after = _all(home)
    faults = [] if ended.fault is None else [ended.fault]
    changed = [path for path, digest in before.items() if after.get(path) != digest]
    if changed:
        faults.append("changed")
    told = f"{changed[:5]}: {ended.said[-500:]}" if faults else ""
    end = "written beside" if ended.code == 0 else "refused"
    return Attempt(number, kind, faults[0] if faults else end, tuple(faults), told)


def _plant(out: Path, case: str, draws: random.Random) -> None:
    def write(place: Path, names: tuple[str, ...]) -> None:
        for name in names:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(draws.randbytes(draws.randrange(1, 200)))

    if case == "beside and above":
        write(out.parent, (*_NAMES, "out.0123456789ab.partial", "out.partial"))
        write(out.parent.parent, _NAMES)
    elif case.startswith("below"):
        write(out, _NAMES)
    elif case.startswith("a run's names"):
        write(out, _OURS)
    elif case == "a file in its place":
        write(out.parent, ("out",))
    elif case == "a link to a folder":
        write(out.parent / "elsewhere", _NAMES)
        out.symlink_to(out.parent / "elsewhere")


def _all(home: Path) -> dict[str, str]:
    """Every file of the user's: those that a command may add are not among them beforehand."""
    return {name: digest for name, digest in digests(home).items() if digest != "empty folder"}
