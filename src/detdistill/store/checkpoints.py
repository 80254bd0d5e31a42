"""Checkpoints on the disk: complete folders only, so that a kill at any moment costs steps, never the run.

A run's ``checkpoints/step_0000600/`` holds ``student.safetensors`` and ``student.json``, a plain student, and
``training.safetensors`` and ``training.json``, all that training needs to go on; ``checkpoints/latest.json``
names the folder to resume from. Nothing is pickled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from detdistill.errors import ConfigError, DataError
from detdistill.files import (
    atomic_folder,
    discard_folder,
    read_json,
    refused,
    remove_partials,
    write_bytes,
    write_json,
)
from detdistill.json_text import used_as
from detdistill.store.layout import COUNTERS, LATEST, SIDECAR, WEIGHTS, RunFolder
from detdistill.store.students import find_weights
from detdistill.store.sums import CHECKSUM, SHA256, digest, digests, is_whole, sealed

# In the first version the counters had no checksum of their own.
_FORMATS = 1, 2
_COUNTED = ("step", "seconds", "identity", "counters")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything but the plain student that a run needs to go on.

    Attributes:
        step: steps done.
        seconds: spent on them.
        identity: settings and what else must be the same on resume, as JSON.
        counters: small figures, as JSON.
        tensors: all the rest, by name.
    """

    step: int
    seconds: float
    identity: Mapping[str, Any]
    counters: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was read and found whole."""

    path: Path
    snapshot: Snapshot
    student: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Record:
    """How a student came about, as its run wrote it.

    Attributes:
        identity: settings and what else must be the same on resume, as JSON.
        step: steps done.
        seconds: spent on them.
        finished: after how many steps the run was over; None where it is not, or nobody wrote it.
    """

    identity: Mapping[str, Any]
    step: int
    seconds: float
    finished: int | None


@final
class DamagedCheckpoint(DataError):
    """A checkpoint's files are not as they were written."""


def write_checkpoint(folder: Path, snapshot: Snapshot, *, save_student: Callable[[Path], None], keep: int) -> Path:
    """Writes a checkpoint of the run in `folder`, names it the latest, and only then removes older ones.

    Args:
        folder: the run's.
        snapshot: what to write beside the student.
        save_student: writes ``student.safetensors``, and what else makes a student, into the folder it is given.
        keep: how many checkpoints stay. One of a later step, left from before a resume, goes.

    Raises:
        DiskError: the disk refuses.
    """
    run = RunFolder(folder)
    path = run.checkpoint(snapshot.step)
    try:
        with atomic_folder(path, replace=True) as partial:
            save_student(partial)
            if not (partial / WEIGHTS).is_file():
                raise ConfigError(f"save_student must write {WEIGHTS}, got no such file. Write the weights there.")
            write_bytes(partial / SIDECAR, save(dict(snapshot.tensors)))
            content = {
                "format": _FORMATS[-1],
                **{key: getattr(snapshot, key) for key in _COUNTED},
                SHA256: digests(partial),
            }
            write_json(partial / COUNTERS, sealed(content))
        run.name_latest(snapshot.step)
        remove_surplus(folder, step=snapshot.step, keep=keep)
        for step in run.steps():
            if step > snapshot.step:
                discard_folder(run.checkpoint(step))
    except SafetensorError as error:  # of a `save_student` that writes by itself
        code = re.search(r"os error (\d+)", str(error))
        raise refused(path / WEIGHTS, OSError(int(code[1]) if code else 0, str(error))) from error
    return path


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint and proves that its files are the ones that were written.

    Raises:
        DamagedCheckpoint: a file is missing, cut short or changed.
    """
    try:
        content = _counters(path)
        for name, written in content[SHA256].items():
            if Path(name).name != name or digest(path / name) != written:
                raise DamagedCheckpoint(_damage(path, f"a changed {name}"))
        if not {WEIGHTS, SIDECAR} <= content[SHA256].keys():
            raise DamagedCheckpoint(_damage(path, f"{COUNTERS} without the sums of the weights"))
        _counted(content)
        snapshot = Snapshot(**{key: content[key] for key in _COUNTED}, tensors=load_file(path / SIDECAR))
        return Checkpoint(path=path, snapshot=snapshot, student=load_file(path / WEIGHTS))
    except (OSError, ConfigError, SafetensorError) as error:
        raise DamagedCheckpoint(_damage(path, str(error))) from error
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DamagedCheckpoint(_damage(path, f"{COUNTERS} without {error}")) from error


def _counters(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = read_json(path / COUNTERS)
    # The first version had no checksum.
    if content["format"] not in _FORMATS or (CHECKSUM in content) != (content["format"] > 1) or not is_whole(content):
        raise DamagedCheckpoint(_damage(path, f"a changed {COUNTERS}"))
    return content


def recorded_identity(folder: Path) -> tuple[Path, Mapping[str, Any]] | None:
    """The run's last checkpoint whose counters are whole, and its identity as JSON; None where there is none."""
    run = RunFolder(folder)
    for step in reversed(run.steps()):
        with suppress(DataError, ConfigError, LookupError, TypeError, ValueError, AttributeError):
            return run.checkpoint(step), dict(_counters(run.checkpoint(step))["identity"])
    return None


def read_record(source: Path) -> Record | None:
    """How the student that `load_detector` reads from `source` came about; None where its run's record is not there.

    Raises:
        ConfigError: there is no such student, or the record cannot be read.
        DamagedCheckpoint: the record is not as it was written.
    """
    place = find_weights(source).parent
    run = RunFolder(place.parents[1])
    if place.parent == run.best and (latest := run.latest()) is not None:
        place = run.checkpoint(latest)
    if not (place / COUNTERS).is_file():
        return None
    with used_as(place / COUNTERS, "a record of how its student was trained"):
        content = _counters(place)
        _counted(content)
        if not isinstance(content["identity"].get("train", {}), dict):
            raise ValueError("identity without train's settings")
    with used_as(run.results, "a run's results"):
        finished = read_json(run.results).get("steps") if run.results.is_file() else None
    return Record(content["identity"], content["step"], content["seconds"], finished)


def _counted(content: Mapping[str, Any]) -> None:
    """Refuses counters of another kind than those written, by the errors that using them would raise."""
    step, seconds, identity, counters = (content[key] for key in _COUNTED)
    if type(step) is not int or step < 0 or type(seconds) not in (int, float) or not 0 <= seconds < math.inf:
        raise ValueError("step and seconds that are numbers")
    if not (isinstance(identity, dict) and isinstance(counters, dict)):
        raise ValueError("identity and counters that are objects")


def find_checkpoint(folder: Path) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The checkpoint to resume a run from: the latest, or, where that one is damaged, the one before it.

    Where the one named as the latest is gone, any whole one will do, the last first.

    Returns:
        The checkpoint, None where the run has none yet; and a warning for every one that was passed over.

    Raises:
        DataError: there are checkpoints, and all are damaged.
    """
    run = RunFolder(folder)
    steps = run.steps()
    warnings: list[str] = []
    pointer = run.checkpoints / LATEST
    if pointer.exists():
        latest = run.latest()
        if latest is None:
            warnings.append(f"{pointer} is damaged; the checkpoints themselves are looked through.")
        elif latest in steps:
            steps = [step for step in steps if step <= latest]
        else:
            warnings.append(f"{run.checkpoint(latest)}, the latest as {pointer} says, is gone.")
    for step in reversed(steps):
        try:
            return read_checkpoint(run.checkpoint(step)), tuple(warnings)
        except DamagedCheckpoint as error:
            warnings.append(f"passed over: {error}")
    if warnings:
        raise DataError(
            f"{run.checkpoints} must hold a whole checkpoint, got only damaged ones ({' '.join(warnings)}). "
            "Start the run anew in another folder."
        )
    return None, ()


def remove_surplus(folder: Path, *, step: int, keep: int) -> None:
    """Removes all but the last `keep` of a run's checkpoints up to and including `step`."""
    run = RunFolder(folder)
    for surplus in [found for found in run.steps() if found <= step][:-keep]:
        discard_folder(run.checkpoint(surplus))


def remove_leftovers(folder: Path) -> None:
    """Removes what writes that were cut off left under temporary names."""
    run = RunFolder(folder)
    for place in (folder, run.checkpoints, run.best):
        remove_partials(place)


# How that of an identity which is no setting is set back.
_BACK = {
    "classes_map": "Give --teacher and --classes-map as in the run's config.yaml",
    "finds": "Give --teacher and its settings as in the run's config.yaml",
    "teacher": "Give --teacher as in the run's config.yaml, with the same weights",
    "teachers": "Give --teacher, --then, teacher.shares and teacher.choose as in the run's config.yaml",
}


def require_same(stored: Mapping[str, Any], current: Mapping[str, Any], *, where: Path) -> None:
    """Refuses to resume a run as another one.

    Args:
        stored: the identity in the checkpoint `where`, as JSON.
        current: the identity of the run that wants to go on, as JSON.

    Raises:
        ConfigError: a key differs; names the first.
    """
    for key, before, now in differences(stored, current):
        expected, got = ("left out" if before is None else repr(before)), ("nothing" if now is None else repr(now))
        back = _BACK.get(key.partition(".")[0], "Set it back")
        raise ConfigError(
            f"{key} must be {expected} to resume from {where}, got {got}. {back}, or start a new run in another folder."
        )


def differences(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Every key in which two identities differ, dotted, with both values: None where it has no such key, these last."""
    found: list[tuple[str, Any, Any]] = []
    for key in sorted({*stored, *current}):
        before, now = stored.get(key), current.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            found += [(f"{key}.{name}", *values) for name, *values in differences(before, now)]
        elif before != now:
            found.append((key, before, now))
    return sorted(found, key=lambda one: one[1] is None or one[2] is None)


def _damage(path: Path, found: str) -> str:
    return f"{path} must be a whole checkpoint, got {found.rstrip('.')}. Use an earlier one."
