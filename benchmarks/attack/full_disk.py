"""A disk that fills up just before the n-th operation that writes, of every command that writes.

Of a training, which writes the same kinds of things at each step, these are its first eleven writes, the first of every
kind (what is done, to which file, numbers in names apart) and every tenth; of every other command every write. The disk
is a small one in memory, and somebody else's file takes what was free. The command must end with one sentence that
names a file on that disk; once there is room again it goes on, or is given again, and leaves what it leaves on a disk
with room.
"""

from __future__ import annotations

import ctypes
import os
import random
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.attack import commands
from benchmarks.attack.commands import COMMANDS, Writing
from benchmarks.attack.material import Material, digests, leftovers
from benchmarks.attack.processes import Ended, Forked, command, undrawn
from benchmarks.attack.records import NOTHING, Attempt

BARS = ("traceback", "hang", "crash", "wrong file", "not resumed", "not identical", "leftover", "input changed")
MOST_WRITES = 160
_FIRST = 11
_NUMBERS = re.compile(r"[0-9a-f]{8,}|\d+")
NUMBER = MOST_WRITES * len(COMMANDS)
_SIZE = 96 << 20
_PAGE = 4096
_NEW_NAMESPACES, _PRIVATE = 0x00020000, 0x4000 | 1 << 18


def prepare(material: Material) -> None:
    """Mounts the disk, where nobody but this process and its own sees it."""
    commands.prepare(material)
    disk = _disk(material)
    disk.mkdir()
    calls = ctypes.CDLL(None, use_errno=True)
    own = calls.unshare(_NEW_NAMESPACES) == 0
    own = own and calls.mount(b"none", b"/", None, _PRIVATE, None) == 0
    if not own or calls.mount(b"tmpfs", str(disk).encode(), b"tmpfs", 0, f"size={_SIZE}".encode()) != 0:
        raise RuntimeError(f"a full disk needs the right to mount one, got: {os.strerror(ctypes.get_errno())}")


def attempt(material: Material, number: int, draws: random.Random) -> Attempt:
    """One command on a disk that is full from one of its writes on."""
    name = list(COMMANDS)[number % len(COMMANDS)]
    operation = number // len(COMMANDS)
    writing = COMMANDS[name]
    if operation not in _measured(material, name, writing)[0]:
        return Attempt(number, name, NOTHING)
    disk, out = _disk(material), _disk(material) / "work" / "out"
    _clear(disk)
    inputs = _inputs(material)
    words, room = writing.given(material, out), draws.choice((0, 0, 1, 3, 20)) * _PAGE
    ended = Forked(_filling(_work(writing, words), disk, operation, room), material.home / "full.said").wait()
    faults = _judged(ended, disk)
    (disk / "ballast").unlink(missing_ok=True)
    end = "went on" if ended.code == 0 else "refused"
    told = [f"before write {operation}, {room} bytes left: {ended.said[-700:]}"]
    if not faults or ended.code is not None:
        if ended.code != 0:
            again = Forked(_work(writing, commands.resumed(writing, words)), material.home / "again.said").wait()
            if again.code != 0:
                faults.append(again.fault or "not resumed")
                told.append(f"then: {again.said[-500:]}")
        if not {"not resumed", "traceback"} & set(faults) and writing.left(out) != _whole(material, name):
            faults.append("not identical")
            told.append(str(sorted(set(writing.left(out).items()) ^ set(_whole(material, name).items()))[:3]))
        if left := leftovers(disk):
            faults.append("leftover")
            told.append(str(left[:3]))
    if _inputs(material) != inputs:
        faults.append("input changed")
    return Attempt(number, name, faults[0] if faults else end, tuple(faults), " | ".join(told) if faults else "")


def _judged(ended: Ended, disk: Path) -> list[str]:
    if ended.fault is not None:
        return [ended.fault]
    sentence = ended.said[ended.said.rfind("error: ") :] if "error: " in ended.said else ""
    return [] if ended.code == 0 or str(disk / "work") in sentence else ["wrong file"]


_KNOWN: dict[tuple[Path, str], tuple[set[int], dict[str, str]]] = {}


def _measured(material: Material, name: str, writing: Writing) -> tuple[set[int], dict[str, str]]:
    """Numbers of the operations that are attacked, and what is left, where there is room."""
    key = (material.home, name)
    if key not in _KNOWN:
        disk, out, kinds = _disk(material), _disk(material) / "work" / "out", material.home / "kinds"
        _clear(disk)
        ended = Forked(
            _listing(_work(writing, writing.given(material, out)), disk, kinds), material.home / "whole.said"
        ).wait()
        if ended.code != 0:
            raise RuntimeError(f"{name} must run where there is room, got: {ended.said[-2000:]}")
        _KNOWN[key] = (chosen(kinds.read_text().splitlines(), every=not writing.resumes), writing.left(out))
    return _KNOWN[key]


def chosen(kinds: Sequence[str], *, every: bool) -> set[int]:
    """Which of a command's writes are attacked, by number, given the kind of each."""
    if every:
        return set(range(len(kinds)))
    first = {kind: number for number, kind in reversed(list(enumerate(kinds)))}
    return {*range(min(_FIRST, len(kinds))), *range(0, len(kinds), 10), *first.values()}


def _work(writing: Writing, words: Sequence[str]) -> Callable[[], int]:
    """A training without what its figures show, as drawing takes most of its time; another command as it is."""
    return undrawn(command(words)) if writing.resumes else command(words)


def _whole(material: Material, name: str) -> dict[str, str]:
    return _measured(material, name, COMMANDS[name])[1]


def _inputs(material: Material) -> dict[str, str]:
    return {f"{name}/{path}": one for name in ("data", "teacher", "coco") for path, one in _of(material, name).items()}


def _of(material: Material, name: str) -> dict[str, str]:
    return digests(material.home / name)


def _disk(material: Material) -> Path:
    return material.home / "disk"


def _clear(disk: Path) -> None:
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (disk / "work").mkdir()


def _watching(folder: Path, seen: Callable[[str], None]) -> None:
    """Calls `seen` with its kind before every operation of Python's that writes below a folder."""

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        names = {"open": 1, "os.mkdir": 1, "os.rename": 1, "os.link": 2, "os.symlink": 2}
        if event not in names:
            return
        if event == "open":
            flags = arguments[2] if len(arguments) > 2 and isinstance(arguments[2], int) else 0
            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        places = [str(one) for one in arguments[: names[event]] if str(one).startswith(str(folder))]
        if places:
            seen(f"{event} {_NUMBERS.sub('#', places[0])}")

    sys.addaudithook(watch)


def _listing(work: Callable[[], int], disk: Path, kinds: Path) -> Callable[[], int]:
    def listing() -> int:
        found: list[str] = []
        _watching(disk / "work", found.append)
        try:
            return work()
        finally:
            kinds.write_text("\n".join(found))

    return listing


def _filling(work: Callable[[], int], disk: Path, operation: int, room: int) -> Callable[[], int]:
    """The work, while the disk becomes full but for `room` bytes just before its n-th operation that writes."""

    def filling() -> int:
        number = 0

        def seen(_kind: str) -> None:
            nonlocal number
            number += 1
            if number == operation + 1:
                state = os.statvfs(disk)
                free = state.f_bavail * state.f_bsize - room
                ballast = os.open(disk / "ballast", os.O_CREAT | os.O_WRONLY)
                if free > 0:
                    os.posix_fallocate(ballast, 0, free)
                os.close(ballast)

        _watching(disk / "work", seen)
        return work()

    return filling
