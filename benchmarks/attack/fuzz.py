"""Words, settings, texts and files that nobody should write: each is used, or refused in a sentence.

Training itself is left out: what was read, checked and built stops there. Everything else is the command line's own.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import random
import resource
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.attack.material import SMALL, Material
from benchmarks.attack.mutations import DAMAGES, TEXT_DAMAGES, VALUES
from benchmarks.attack.records import Attempt

BARS = ("traceback", "hang", "crash", "no sentence")
_MEMORY = 6 * 2**30
_LONGEST_SENTENCE = 6000
_METHODS = (
    "frs", "aid(frs + ssim, alpha=0.5)", "ikd(aid(frs, alpha=0.2), attack_steps=1)", "hint", "ssim(gain=2.0)",
    "attention", "fgd(warmup_steps=0)", "mgd", "ld", "aid(ikd(frs(until=0.5, decay=cosine) + ssim))",
)  # fmt: skip


class _Accepted(BaseException):
    """What was given can be used; training is left out."""


def prepare(material: Material) -> None:
    """Makes what is mutated."""
    from folders_by_hand import MAKERS

    _ = material.teacher
    for name, make in MAKERS.items():
        make(material.home / "formats" / name)


def ready(material: Material) -> None:
    """What a process does before its first attempt: goes to a folder of its own."""
    _ground(material.home, os.getpid())


def attempt(material: Material, number: int, draws: random.Random) -> Attempt:
    """One thing that nobody should write."""
    ground = _ground(material.home, os.getpid())
    kind, work = ground.drawn(number, draws)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = work()
    except _Accepted:
        return Attempt(number, kind, "accepted")
    except BaseException as error:  # noqa: BLE001  whatever it is, it is what is counted
        told = f"{ground.given[:300]!r}: {traceback.format_exc(limit=-4)[-900:]} {type(error).__name__}"
        return Attempt(number, kind, "traceback", ("traceback",), told)
    finally:
        ground.mend()
    text = said.getvalue()
    if code == 0:
        return Attempt(number, kind, "accepted")
    sentence = text[text.rfind("error: ") :]
    whole = sentence.startswith("error: ") and sentence.rstrip().endswith((".", "?", ")")) and code == 2
    if not whole or len(sentence) > _LONGEST_SENTENCE or "Traceback" in text:
        told = f"{ground.given[:300]!r} ends with {code}: {text[-600:]}"
        return Attempt(number, kind, "no sentence", ("no sentence",), told)
    return Attempt(number, kind, "refused")


class _Ground:
    """The folder of one process, where what is drawn is written and read."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.place = home / "fuzz" / str(os.getpid())
        shutil.rmtree(self.place, ignore_errors=True)
        self.work = self.place / "a" / "b" / "c" / "d"  # so that no .. leads far
        self.work.mkdir(parents=True)
        os.chdir(self.work)
        shutil.copytree(home / "formats", self.place / "formats")
        shutil.copytree(home / "data", self.work / "data")
        shutil.copytree(home / "teacher", self.work / "run")
        self.given = ""
        self.undo: list[Callable[[], object]] = []
        _leave_training_out()
        limit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + _MEMORY
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        self.config = self._config()
        self.keys = [key for key, _ in _leaves(self.config)]
        self.formats = sorted(path.name for path in (self.place / "formats").iterdir())

    def _config(self) -> dict[str, Any]:
        from detdistill.settings.strict_yaml import load_yaml

        found: dict[str, Any] = load_yaml(self.work / "run" / "config.yaml")
        for key in ("paths_from",):
            found.pop(key, None)
        return found | {"data": {**found["data"], "folder": "data"}, "out": "out"}

    def mend(self) -> None:
        """Puts everything back as it was."""
        os.chdir(self.work)
        while self.undo:
            self.undo.pop()()
        for path in self.work.iterdir():
            if path.name not in ("data", "run"):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def drawn(self, number: int, draws: random.Random) -> tuple[str, Callable[[], int]]:
        """What is attacked, and the attack."""
        kinds = (self._file, self._override, self._line, self._method, self._json, self._annotations)
        return kinds[number % len(kinds)](draws)

    def _main(self, words: Sequence[str]) -> Callable[[], int]:
        from detdistill.cli import main

        self.given = " ".join(words)
        return lambda: main(list(words))

    def _file(self, draws: random.Random) -> tuple[str, Callable[[], int]]:
        from detdistill.settings.strict_yaml import dump_yaml

        text = dump_yaml(self.config).encode()
        for _ in range(draws.choice((1, 1, 2, 4))):
            text = draws.choice(TEXT_DAMAGES)(text, draws) or b"x"
        (self.work / "config.yaml").write_bytes(text)
        return "config", self._main(["train", "config.yaml"])

    def _override(self, draws: random.Random) -> tuple[str, Callable[[], int]]:
        words = list[str]()
        for _ in range(draws.choice((1, 1, 2))):
            key = draws.choice([*self.keys, "student.detector", "method.gain", "method", "teacher.image.short_side"])
            if draws.random() < 0.1:
                key = draws.choice((key + ".x", key[:-1], key.upper(), key + ".0", draws.choice(VALUES)))
            words.append(f"{key}={_value(draws)}")
        taught = draws.random() < 0.3
        base = ["--data", "data", "--out", "out", "--steps", "3", *SMALL]
        who = ["distill", "--teacher", "run", "--student", "fcos/test_resnet", "--method", "frs"]
        return "override", self._main(
            [*(who if taught else ["train", "--detector", "fcos/test_resnet"]), *base, *words]
        )

    def _line(self, draws: random.Random) -> tuple[str, Callable[[], int]]:
        words = list(draws.choice(_LINES))
        for _ in range(draws.choice((1, 1, 2, 3))):
            place = draws.randrange(len(words) + 1)
            change = draws.randrange(5)
            if change == 0:
                words.insert(place, _value(draws))
            elif change == 1 and words:
                del words[min(place, len(words) - 1)]
            elif change == 2 and words:
                words[min(place, len(words) - 1)] = _value(draws)
            elif change == 3:
                words.insert(place, draws.choice(draws.choice(_LINES)))
            elif len(words) > 1:
                one, other = draws.sample(range(len(words)), 2)
                words[one], words[other] = words[other], words[one]
        words = [word.replace("\0", "") for word in words]
        if any(word.startswith("/") for word in words):
            words = ["train"]
        return "command line", self._main(words)

    def _method(self, draws: random.Random) -> tuple[str, Callable[[], int]]:
        text = draws.choice(_METHODS).encode()
        for _ in range(draws.choice((1, 1, 2, 4))):
            text = draws.choice(TEXT_DAMAGES)(text, draws) or b"x"
        words = ["distill", "--teacher", "run", "--student", "fcos/test_resnet", "--data", "data", "--out", "out"]
        method = text.decode("utf-8", "replace").replace("\0", "")
        return "method text", self._main([*words, *SMALL, "--steps", "3", "--method", method])

    def _json(self, draws: random.Random) -> tuple[str, Callable[[], int]]:
        """Damages a JSON file of the run; sums that would tell are written anew, or taken away with their file."""
        from detdistill.store.layout import RunFolder
        from detdistill.store.sums import SHA256, digests, sealed

        run = RunFolder(self.work / "run")
        place = run.checkpoint(run.latest() or 0)
        path = draws.choice((*(place / "student.json",) * 4, place / "training.json", run.checkpoints / "latest.json"))
        content = json.loads(path.read_bytes())
        for file in (path, place / "training.json"):
            self.undo.append(functools.partial(file.write_bytes, file.read_bytes()))
        sums_anew = draws.random() < 0.8
        if draws.random() < 0.6:
            changed = _changed(content, draws)
            if isinstance(changed, dict) and path.name != "student.json" and sums_anew:
                changed = sealed(changed)
            text = json.dumps(changed).encode()
        else:
            text = draws.choice((*TEXT_DAMAGES, *DAMAGES))(json.dumps(content).encode(), draws)
        path.write_bytes(text)
        if path.name == "student.json" and sums_anew:
            record = place / "training.json"
            counters = json.loads(record.read_bytes())
            record.unlink()
            if draws.random() < 0.5:
                record.write_text(json.dumps(sealed(counters | {SHA256: digests(place)})))
        words = draws.choice(_READING)
        work = self._main(words)
        self.given = f"{words[0]} with {path.name} {text[:200]!r}"
        return path.name, work

    def _annotations(self, draws: random.Random) -> tuple[str, Callable[[], int]]:
        name = draws.choice(self.formats)
        folder = self.place / "formats" / name
        suffixes = {".json", ".xml", ".txt", ".yaml", ".png", ".data", ".names"}
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in suffixes)
        chosen = [path for path in files if path.suffix != ".png" or draws.random() < 0.1]
        for path in draws.sample(chosen, min(len(chosen), draws.choice((1, 1, 2, 3)))):
            before = path.read_bytes()
            if before:
                path.write_bytes(draws.choice(DAMAGES)(before, draws))
                self.undo.append(functools.partial(path.write_bytes, before))
        words = ["data", "check", str(folder)]
        if draws.random() < 0.3:
            words = [
                "data",
                "convert",
                str(folder),
                "--to",
                draws.choice(("coco", "voc", "yolo", "kitti")),
                "--out",
                "o",
            ]
        if draws.random() < 0.2:
            words = ["train", "--detector", "fcos/test_resnet", "--data", str(folder), "--out", "out", *SMALL]
        return f"annotations: {name}", self._main(words)


@functools.cache
def _ground(home: Path, process: int) -> _Ground:
    del process
    return _Ground(home)


_TRAIN = ("train", "--detector", "fcos/test_resnet", "--data", "data", "--out", "out", "--steps", "3", *SMALL)
_DISTILL = ("distill", "--teacher", "run", "--student", "fcos/test_resnet", "--data", "data", "--method", "frs")
_LINES: tuple[tuple[str, ...], ...] = (
    _TRAIN, (*_TRAIN, "--resume"), (*_TRAIN, "--dry-run"),
    (*_DISTILL, "--out", "out", "--alone", "run", "--alone-differs", *SMALL),
    ("distill", "--teacher", "run", "--data", "data", "--self", "--generations", "2", "--method", "frs", "--out", "o"),
    ("evaluate", "run", "--data", "data"),
    ("evaluate", "run", "--data", "data", "--protocol", "voc", "--confusion", "c.png", "--json", "f.json"),
    ("predict", "run", "data/images/val_0.png", "--out", "drawn", "--score", "0.5"), ("methods", "frs"), ("methods",),
    ("settings", "early stop"), ("profile", "fcos/test_resnet", "--size", "32", "48", "--classes", "3"),
    ("pictures", "--alone", "run", "--distilled", "run", "--teacher", "run", "--data", "data", "--out", "found.png"),
    ("data", "check", "data"), ("data", "convert", "data", "--to", "yolo", "--out", "yolo"),
    ("data", "make", "scenes", "--out", "scenes", "--train", "2", "--val", "1", "--seed", "3"),
    ("data", "make", "coco-traffic", "--coco", "data", "--out", "traffic"), ("demo", "--out", "demo"),
    ("train", "--keys"),
    ("reproduce", "aid", "--row", "x", "--scale", "smoke", "--plan"), ("--version",), ("distill", "--help"),
)  # fmt: skip
_READING = (
    ("evaluate", "run", "--data", "data"), ("predict", "run", "data/images/val_0.png", "--out", "drawn"),
    (*_DISTILL, "--out", "out", *SMALL), (*_DISTILL, "--out", "out", "--alone", "run", "--alone-differs", *SMALL),
    (*_TRAIN, "--init", "run"),
)  # fmt: skip


def _leave_training_out() -> None:
    """What trains, or would draw for hours, stops once everything was read and built."""
    import detdistill.demo
    import detdistill.papers.reproduce
    import detdistill.scenes.write
    from detdistill.jobs import stages

    built, scenes = stages.build, detdistill.scenes.write.make_scenes_job

    def stop(*arguments: object, **options: object) -> NoReturn:
        raise _Accepted

    def build(*arguments: Any, **options: Any) -> NoReturn:
        built(*arguments, **options)
        raise _Accepted

    def few(out: Path, *, train: int, val: int, **options: Any) -> object:
        if train + val > 20:
            raise _Accepted
        return scenes(out, train=train, val=val, **options)

    stages.build = build
    detdistill.demo.demo_job = stop
    detdistill.papers.reproduce.reproduce_job = stop
    detdistill.scenes.write.make_scenes_job = few


def _value(draws: random.Random) -> str:
    return draws.choice(VALUES).replace("\0", "")


def _leaves(tree: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _changed(content: Any, draws: random.Random) -> Any:
    """JSON with one value, anywhere in it, of another kind."""
    others: tuple[Any, ...] = (
        None,
        True,
        0,
        -1,
        1.5,
        10**400,
        1e308,
        float("nan"),
        "",
        "x",
        [],
        {},
        [[]],
        [None],
        "nan",
    )
    others += ({"a": 1}, [1, 2, 3], "9" * 5000, -(2**63), {"": {"": {}}}, "../..", ["é"] * 50)
    if isinstance(content, dict) and content and draws.random() < 0.85:
        key = draws.choice(sorted(content))
        if draws.random() < 0.1:
            return {name: value for name, value in content.items() if name != key}
        return content | {key: _changed(content[key], draws)}
    if isinstance(content, list) and content and draws.random() < 0.7:
        index = draws.randrange(len(content))
        return [*content[:index], _changed(content[index], draws), *content[index + 1 :]]
    return draws.choice(others)
