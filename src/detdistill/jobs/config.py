"""One run's settings from a config file, options and `key.sub=value` settings, in this order of strength."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from detdistill.detectors.catalogue import parse_detector
from detdistill.errors import ConfigError
from detdistill.jobs.generations import same_architecture
from detdistill.jobs.settings import RunConfig, StudentChoice
from detdistill.methods.composition import MethodSettings
from detdistill.settings import as_tree, build, complete
from detdistill.settings.overrides import Override, apply_override, parse_override
from detdistill.settings.reading import dotted
from detdistill.settings.strict_yaml import load_yaml
from detdistill.settings.trees import Path as Place
from detdistill.settings.trees import Tree, Where

# `student: fcos/resnet18` is short for a section with this one key.
_SHORT = {"data": "folder", "student": "detector", "teacher": "source", "method": "name"}
# Settings that choose a section's detector, teacher or method: another choice drops the section's other keys.
_CHOOSING = {path for section in ("student", "teacher", "method") for path in ((section,), (section, _SHORT[section]))}
_NEEDED = {
    "train": {"student": "--detector"},
    "distill": {"student": "--student", "teacher": "--teacher", "method": "--method"},
}
_SAYS = {
    "student": "a detector such as fcos/resnet18",
    "teacher": "a run folder, a checkpoint or torchvision:NAME",
    "method": "the name of a method",
}
_COMMAND_LINE = "The command line"

TRAIN_DEFAULTS: Mapping[str, Any] = MappingProxyType({"steps": 2000, "batch_size": 8})
"""What a run trains with where neither the file nor the command line says."""


def read_run_config(
    file: Path | None,
    settings: Sequence[str] = (),
    *,
    purpose: Literal["train", "distill"],
    options: Mapping[str, object] | None = None,
    itself: bool = False,
) -> RunConfig:
    """The run that a config file and the command line describe, complete and checked.

    Args:
        file: a YAML config file; None where options say everything.
        settings: ``key.sub=value`` texts; they win over options, which win over the file.
        purpose: ``"train"`` leaves the sections teacher, method and alone aside, so the same file trains the student
            alone; ``"distill"`` needs teacher and method.
        options: values by dotted key, such as ``{"student.detector": "fcos/tiny"}``; None values are left out.
        itself: self-distillation: the student is what its teacher's checkpoint says that the teacher is.

    Raises:
        ConfigError: anything cannot be read or used; it says which key, what is wrong, and what to do.
    """
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in (options or {}).items()}
    given = [Override(tuple(key.split(".")), value, key) for key, value in plain.items() if value is not None]
    overrides = [_long_override(one) for one in (*given, *map(parse_override, settings))]
    named = str(file) if file is not None else _COMMAND_LINE
    where = _places(named, overrides)
    tree = {key: {_SHORT[key]: v} if key in _SHORT and isinstance(v, str) else v for key, v in _read(file).items()}
    if purpose == "train":
        for key in ("teacher", "method", "alone", "twins", "inherit"):
            tree.pop(key, None)
    for override in overrides:
        if override.path in _CHOOSING:
            _choose(tree, override)
    if itself:
        tree["student"] = _teachers_own(tree, named)
    for section, option in _NEEDED[purpose].items():
        _require(tree, section, option=option, named=named)
    detector = tree["student"]["detector"]
    base = parse_detector(detector)
    tree["student"] = as_tree(base) | tree["student"]
    tree = _with_defaults(tree, where)
    for override in overrides:
        if override.path not in _CHOOSING:
            apply_override(tree, override)
            # A text may have come into the method, for the next setting to reach into.
            tree["method"] = complete(MethodSettings | None, tree.get("method"), where=where, path=("method",))
    train, student, seed = tree["train"], tree["student"], tree["seed"]
    if isinstance(train, dict):
        if "seed" in train:
            said = "the seed must be the key seed at the top, got train.seed. Write seed instead."
            raise ConfigError(f"{where(('train', 'seed'))[: -len(': seed')]}: {said}")
        tree["train"] = {**train, "seed": seed}
    if isinstance(student, dict) and student.get("family") != base.family:
        raise ConfigError(
            f"{where(('student', 'family'))} must be {base.family}, as student.detector={detector} says, got "
            f"{student.get('family')!r}. Choose another student.detector instead."
        )
    chosen = build(
        type(base), student, where=lambda path: where(("student", *path)), what="student", beside=("detector",)
    )
    tree["student"] = StudentChoice(detector=detector, settings=chosen)
    run: RunConfig = build(RunConfig, tree, where=where, what="a run", beside=("seed",))
    return run


def _read(file: Path | None) -> Tree:
    content = None if file is None else load_yaml(file)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{file} must be a section of keys, got {content!r}. Write `key: value` lines.")
    return content


def _long_override(override: Override) -> Override:
    (section, *below), value = override.path, override.value
    if section in _SHORT and not below and isinstance(value, str):
        return Override((section, _SHORT[section]), value, override.written)
    return override


def _places(named: str, overrides: Sequence[Override]) -> Where:
    """Says for a path whether the file or the command line wrote it."""
    set_here = {override.path for override in overrides}

    def where(path: Place) -> str:
        words = tuple(map(str, path))
        place = named
        if any(words[: len(own)] == own for own in set_here):
            place = _COMMAND_LINE
        elif named != _COMMAND_LINE and any(own[: len(words)] == words for own in set_here):
            place = f"{named} and the command line"
        key = "seed" if words == ("train", "seed") else dotted(path)
        return f"{place}: {key}" if key else place

    return where


def _choose(tree: Tree, override: Override) -> None:
    section, *key = override.path
    if not key:
        tree[section] = override.value
        return
    before = tree.get(section)
    if not (isinstance(before, dict) and before.get(key[0]) == override.value):
        tree[section] = {key[0]: override.value}


def _require(tree: Tree, section: str, *, option: str, named: str) -> None:
    key, inside = _SHORT[section], tree.get(section)
    chosen = inside.get(key) if isinstance(inside, dict) else inside
    if not isinstance(inside, dict) or not isinstance(chosen, str) or not chosen:
        got = "nothing" if chosen is None else repr(chosen)
        raise ConfigError(
            f"{named}: {section}.{key} must be {_SAYS[section]}, got {got}. "
            f"Pass {option}, or write `{section}: ...` in the config file."
        )


def _with_defaults(tree: Tree, where: Where) -> Tree:
    """The tree with everything that has a default; the seed stands at the top, beside what it decides."""
    train = tree.get("train", {})
    given_seed = isinstance(train, dict) and "seed" in train
    if isinstance(train, dict):
        tree = {**tree, "train": {**TRAIN_DEFAULTS, **train}}
    filled: Tree = complete(RunConfig, {"seed": 0, "data": {}, "evaluate": {}, "twins": {}, **tree}, where=where)
    if isinstance(train, dict) and not given_seed:
        del filled["train"]["seed"]
    return filled


def _teachers_own(tree: Tree, named: str) -> Tree:
    """The section of a student that has its teacher's architecture."""
    _require(tree, "teacher", option=_NEEDED["distill"]["teacher"], named=named)
    if "student" in tree:
        raise ConfigError(
            f"{named}: the student of a self-distillation must be its teacher's architecture, got a student of its "
            "own. Leave out --student and the section student, or --self."
        )
    choice = same_architecture(tree["teacher"]["source"])
    return {"detector": choice.detector, **as_tree(choice.settings)}
