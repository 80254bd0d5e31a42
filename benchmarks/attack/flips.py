"""A single bit flipped, or the end cut off, in any file of a run's folder; then everything that reads it reads it.

What is read must be what was written, an older state that was written, or a refusal in a sentence. `config.yaml`,
`results.json` and the tables are texts for people, who may change them: of these it is asked only that no reader falls
over them, and of a resume with them that it ends with the run's own bits or a refusal.
"""

from __future__ import annotations

import functools
import hashlib
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.attack.kills import SCENARIOS, words_of
from benchmarks.attack.material import STEPS, Material, leftovers, weights
from benchmarks.attack.mutations import one_bit, truncate
from benchmarks.attack.processes import Forked, command, undrawn
from benchmarks.attack.records import Attempt

BARS = ("accepted wrongly", "traceback", "hang", "crash")
_STOPPED_AFTER = 4
_BEST = ("train.evaluate_every=2", "train.keep=best", "train.checkpoint_every=2")

_READERS = {
    "checkpoints": ("find_checkpoint", "load_detector of a checkpoint", "read_record"),
    "best": ("load_detector of the run", "chosen_as"),
    "twins": ("the cache of twins",),
    "metrics.csv": ("the logs",),
    "evaluations.csv": ("the logs",),
    "config.yaml": ("run_config",),
    "results.json": ("read_record",),
}


def _words(material: Material, out: Path) -> list[str]:
    return [*words_of(SCENARIOS["ikd with its cache"], material, str(out)), *_BEST]


def stopped_run(material: Material) -> Path:
    """A distillation with twins and evaluations that was killed after its second checkpoint."""
    folder = material.home / "stopped"
    if "stopped" not in material.runs:
        _ = material.teacher
        material.run("undisturbed", _words(material, material.home / "undisturbed"))

        def work() -> int:
            from detdistill.training import run as running

            advance = running._Run._advance

            def dying(self: Any, index: int, *rest: Any) -> Any:
                if index == _STOPPED_AFTER:
                    os._exit(0)
                return advance(self, index, *rest)

            running._Run._advance = dying  # type: ignore[method-assign]
            return undrawn(command(_words(material, folder)))()

        ended = Forked(work, material.home / "stopped.said").wait()
        if ended.code != 0 or not (folder / "checkpoints").is_dir():
            raise RuntimeError(f"the run to damage must have begun, got: {ended.said[-2000:]}")
        # What a finished run has beside.
        for name in ("results.json",):
            shutil.copy(material.runs["undisturbed"] / name, folder / name)
        material.runs["stopped"] = folder
    return folder


def damaged(folder: Path, draws: random.Random) -> tuple[Path, bytes, str]:
    """Damages one file of a folder; the file, what it held, and how it was damaged."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    path = draws.choice(files)
    before = path.read_bytes()
    how = "flip" if draws.random() < 0.7 else "truncation"
    path.write_bytes((one_bit if how == "flip" else truncate)(before, draws))
    return path, before, how


def prepare(material: Material) -> None:
    """Makes what all batches read."""
    stopped_run(material)


def ready(material: Material) -> None:
    """What a process does before its first attempt: reads the folder without damage."""
    _readers(material)


def attempt(material: Material, number: int, draws: random.Random) -> Attempt:
    """One damage, and every reader of the folder."""
    readers = _readers(material)
    run = readers.run
    path, before, how = damaged(run, draws)
    kind, ends, faults, told = f"{_file(path, run)}: {how}", set[str](), list[str](), list[str]()
    try:
        for name, read in readers.of(path):
            end, says = outcome(read, readers.written[name])
            ends.add(end)
            if end in BARS:
                faults.append(end)
                told.append(f"{name} of {path.relative_to(run)}: {says}")
    finally:
        path.write_bytes(before)
        readers.mend()
    end = "refused" if "refused" in ends else "an older state" if "older" in ends else "unseen or mended"
    return Attempt(number, kind, faults[0] if faults else end, tuple(dict.fromkeys(faults)), " | ".join(told))


def outcome(read: Callable[[], object], written: tuple[object, ...]) -> tuple[str, str]:
    """How reading ended: as one of the things that were written, the first being the newest."""
    from detdistill.errors import DistillError

    try:
        found = read()
    except DistillError as error:
        return "refused", str(error)
    except Exception as error:  # noqa: BLE001  whatever it is, it is what is counted
        return "traceback", f"{type(error).__name__}: {error}"
    if found in written:
        return ("whole" if found == written[0] else "older"), ""
    return "accepted wrongly", f"{str(found)[:300]} instead of {str(written[0])[:300]}"


class _Readers:
    """All that reads a run's folder, in this process, and what it finds in a folder without damage."""

    def __init__(self, material: Material) -> None:
        self.run = material.home / "damaged"
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.copytree(stopped_run(material), self.run)
        self.twins, self.twin_bytes = self._twins(material)
        self.all: dict[str, Callable[[], object]] = {
            "find_checkpoint": lambda: checkpoint_in(self.run),
            "load_detector of the run": lambda: _detector(self.run),
            "load_detector of a checkpoint": lambda: _detector(self.run / "checkpoints"),
            "read_record": lambda: _record(self.run),
            "chosen_as": lambda: _chosen(self.run),
            "the logs": lambda: _logs(self.run),
            "run_config": lambda: _config(self.run),
            "the cache of twins": self.twins,
        }
        self.written = {name: (read(),) for name, read in self.all.items()}
        older = self.run / "checkpoints" / f"step_{_STOPPED_AFTER:07d}"
        aside = self.run / "aside"
        older.rename(aside)
        self.written["find_checkpoint"] += (checkpoint_in(self.run),)
        aside.rename(older)
        for name in ("read_record", "chosen_as"):  # what is not said is asked for otherwise
            self.written[name] += (None,)

    def _twins(self, material: Material) -> tuple[Callable[[], object], dict[Path, bytes]]:
        import detdistill
        from detdistill.jobs import samples
        from detdistill.progress import Silence

        stages = detdistill.stages
        given = [word for word in _words(material, self.run)[1:] if word.startswith(("student.", "train."))]
        config = detdistill.run_config(
            *given,
            purpose="distill",
            student="fcos/test_resnet",
            teacher=material.teacher,
            method="ikd(frs(warmup_steps=0))",
            data=material.home / "data",
            out=self.run,
            steps=STEPS,
            seed=4,
        )
        built = stages.build(stages.open_inputs(config, resume=True))
        files = {path: path.read_bytes() for path in (self.run / "twins").rglob("*") if path.is_file()}

        def read() -> object:
            step: Any = built.step
            images = built.opened.data.train
            found = samples.open_twins(step.recipe, step.teacher, built.opened, images, Silence())
            pixels = {name: [one(index) for index in range(len(one))] for name, one in found.items()}
            return {
                name: [hashlib.sha256(one.contiguous().numpy().tobytes()).hexdigest() for one in twins]
                for name, twins in pixels.items()
            }

        return read, files

    def of(self, path: Path) -> list[tuple[str, Callable[[], object]]]:
        """What reads a file."""
        place = path.relative_to(self.run).parts[0]
        named = _READERS.get(place, ())
        return [(name, self.all[name]) for name in named]

    def mend(self) -> None:
        """Puts the cache back, which mends itself otherwise than byte by byte."""
        for path, content in self.twin_bytes.items():
            if not path.is_file() or path.read_bytes() != content:
                path.write_bytes(content)


@functools.cache
def _readers_at(home: Path, process: int) -> _Readers:
    del process
    made = {name: home / name for name in ("stopped", "teacher", "undisturbed")}
    return _Readers(Material(home, runs=made))


def _readers(material: Material) -> _Readers:
    return _readers_at(material.home, os.getpid())


def _file(path: Path, run: Path) -> str:
    """A file's name without what differs between checkpoints and twins."""
    place = path.relative_to(run)
    if place.parts[0] == "twins":
        return "a twin" if path.suffix == ".png" else "the twins' index"
    return f"{place.parts[0]}/{place.name}" if len(place.parts) > 1 else place.name


def _tensors(tensors: Any) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def checkpoint_in(run: Path) -> object:
    from detdistill.store.checkpoints import find_checkpoint

    found, _ = find_checkpoint(run)
    if found is None:
        return None
    one = found.snapshot
    said = (one.step, one.seconds, repr(one.identity), repr(one.counters))
    return (*said, _tensors(one.tensors), _tensors(found.student))


def _detector(source: Path) -> object:
    from detdistill.store.students import load_detector

    found = load_detector(source)
    settings = found.detector.settings
    named = (found.class_names, repr(found.image), repr(found.extra), repr(settings and settings.to_dict()))
    return (*named, _tensors(found.detector.state_dict()))


def _record(run: Path) -> object:
    from detdistill.store.checkpoints import read_record

    found = read_record(run / "checkpoints")
    return None if found is None else (repr(found.identity), found.step, found.seconds)


def _chosen(run: Path) -> object:
    from detdistill.store.best import chosen_as

    found = chosen_as(run)
    return None if found is None else repr(asdict(found))


def _logs(run: Path) -> object:
    from detdistill.training.logs import read_rows

    return bool([read_rows(run / name) for name in ("metrics.csv", "evaluations.csv")])


def _config(run: Path) -> object:
    import detdistill

    return bool(detdistill.run_config(run / "config.yaml", purpose="distill"))


def attempt_resumed(material: Material, number: int, draws: random.Random) -> Attempt:
    """One damage, and a resume of the run: to the bits of one that nobody disturbed, or a refusal."""
    whole = stopped_run(material)
    run = material.spare("flip") / "stopped"
    shutil.copytree(whole, run)
    path, _, how = damaged(run, draws)
    kind = f"{_file(path, run)}: {how}"
    said = run.parent / "said"
    ended = Forked(undrawn(command([*_words(material, run), "--resume"])), said).wait()
    if ended.fault is not None:
        return Attempt(number, kind, ended.fault, (ended.fault,), ended.said[-1500:])
    if ended.code != 0:
        return Attempt(number, kind, "refused", says=ended.said[-300:])
    if weights(run) != weights(material.runs["undisturbed"]) or leftovers(run):
        return Attempt(number, kind, "accepted wrongly", ("accepted wrongly",), f"{path}: {ended.said[-500:]}")
    return Attempt(number, kind, "resumed to the same bits")
