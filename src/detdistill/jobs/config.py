"""One run's settings from a config file, options and `key.sub=value` settings, in this order of strength."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

from detdistill.data.transforms import STRENGTHS
from detdistill.detectors.catalogue import namesake, parse_detector
from detdistill.detectors.own_code import trust_typed, with_arguments
from detdistill.detectors.preprocess import with_pixel_statistics
from detdistill.detectors.settings import DetectorSettings
from detdistill.errors import ConfigError, suggestion
from detdistill.jobs.doors import door_of, kinds_of_source
from detdistill.jobs.paths import PATHS_FROM, read_from
from detdistill.jobs.settings import TAUGHT_KEYS, RunConfig, StudentChoice
from detdistill.methods.composition import METHOD_MARK, of_before
from detdistill.methods.method import CALIBRATION, PUBLISHED, STRENGTH
from detdistill.settings import as_tree, build
from detdistill.settings.calls import INNER, PARTS
from detdistill.settings.overrides import Override, apply_override, parse_override
from detdistill.settings.reading import dotted
from detdistill.settings.strict_yaml import load_yaml
from detdistill.settings.trees import Path as Place
from detdistill.settings.trees import Tree, default_of, hints_of
from detdistill.store.layout import RunFolder

# `student: fcos/resnet18` is short for a section with this one key.
_SHORT = {"data": "folder", "student": "detector", "teacher": "source", "method": "name"}
# Settings that choose a section's detector, teacher or method: another choice drops the section's other keys.
_CHOOSING = {path for section in ("student", "teacher", "method") for path in ((section,), (section, _SHORT[section]))}
_CHOOSING |= {("init",)}
_NEEDED = {
    "train": {"student": "--detector"},
    "distill": {"student": "--student", "teacher": "--teacher", "method": "--method"},
}
_SAYS = {
    "student": "a detector such as fcos/resnet18",
    "teacher": kinds_of_source(),
    "method": "the name of a method",
}
_COMMAND_LINE = "The command line"
# What config files of before may say, and a person who types it may mean otherwise.
_FORMER = {
    "train.devices": "Write train.device=cuda:{value} for the GPU of that number, or train.processes={value} for so "
    "many processes that train together.",
    "train.accelerator": "Write train.device={value}.",
}

TRAIN_DEFAULTS = {"steps": 2000, "batch_size": 8}

DEFAULT_STRENGTH = 3.0
"""Of a method whose gains nobody gave."""


def read_run_config(
    file: Path | None,
    settings: Sequence[str] = (),
    *,
    purpose: Literal["train", "distill"],
    options: Mapping[str, object] | None = None,
    itself: bool = False,
    arguments: Sequence[str] = (),
    typed: bool = False,
) -> RunConfig:
    """The run that a config file and the command line describe, complete and checked.

    Args:
        file: a YAML config file; None where options say everything.
        settings: ``key.sub=value`` texts; they win over options, which win over the file.
        purpose: ``"train"`` leaves the sections teacher, method and alone aside, so the same file trains the student
            alone; ``"distill"`` needs teacher and method.
        options: values by dotted key, such as ``{"student.detector": "fcos/tiny"}``; None values are left out.
        itself: self-distillation: the student is what its teacher's checkpoint says that the teacher is. Without it a
            student that nobody names is what the checkpoint says that the run starts from.
        arguments: further ones of a student of one's own, as ``width=24``; those with a dot in their key are settings.
        typed: whether a user gave file and words, so that code which they name may be imported.
    """
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in (options or {}).items()}
    # No argument of Python's has a dot in its name.
    dotted_ones = [one for one in arguments if "." in one.partition("=")[0] and "=" in one]
    settings, arguments = (*settings, *dotted_ones), [one for one in arguments if one not in dotted_ones]
    given = [Override(tuple(key.split(".")), value, key) for key, value in plain.items() if value is not None]
    overrides = [_long_override(one) for one in (*given, *map(parse_override, settings))]
    named = str(file) if file is not None else _COMMAND_LINE
    tree = _read(file)
    if purpose == "train":
        for key in TAUGHT_KEYS:
            section, _, below = key.partition(".")
            inside = tree.get(section)
            if not below:
                tree.pop(section, None)
            elif isinstance(inside, dict):
                inside.pop(below, None)
    for override in overrides:
        if override.path in _CHOOSING:
            _choose(tree, override)
    _name_code(tree, arguments)
    trust_typed(*(_named_in(tree, overrides) if typed else ()))
    if itself:
        tree["student"] = _teachers_own(tree, named)
    elif isinstance(tree.get("init"), str):
        out = [one.value for one in overrides if one.path == ("out",)] or [tree.get("out")]
        _starting_students_own(tree, named, out=out[-1], option=_NEEDED[purpose]["student"])
    for section, option in _NEEDED[purpose].items():
        _require(tree, section, option=option, named=named)
    base = parse_detector(tree["student"]["detector"])
    tree["student"] = as_tree(base) | tree["student"]
    if isinstance(tree.setdefault("train", {}), dict):
        tree["train"] = TRAIN_DEFAULTS | tree["train"]
    for override in overrides:
        if override.path not in _CHOOSING:
            apply_override(tree, override, RunConfig)
    return _built(_strengthened(tree, file) if purpose == "distill" else tree, base, _places(named, overrides))


def _strengthened(tree: Tree, file: Path | None) -> Tree:
    """The run with a method that says how strong it is.

    Where nobody does it is calibrated, unless gains were given, which are then taken as they are, or a run is to go on,
    or to be done again, of a version that knew nothing else.
    """
    try:
        method = METHOD_MARK.taken_apart(tree["method"])
    except ConfigError:
        return tree  # for `build` to refuse
    kind = _kind_of(method)
    if kind is None or STRENGTH not in hints_of(kind) or method.get(STRENGTH) is not None:
        return tree
    begun = RunFolder(Path(str(tree.get("out")))).config
    published = _has_gain(method) or any(_ran_without(one) for one in (begun, file) if one is not None)
    return {**tree, "method": {**method, STRENGTH: PUBLISHED if published else DEFAULT_STRENGTH}}


def _ran_without(file: Path) -> bool:
    """Whether a run wrote the file that did not know strengths yet."""
    content = load_yaml(file) if file.is_file() else None
    method = content.get("method") if isinstance(content, dict) and PATHS_FROM in content else None
    return isinstance(method, dict) and CALIBRATION not in method


def _has_gain(method: Any) -> bool:
    """Whether a method's section, or one within, has another gain than its default that leaves no term out."""
    try:
        method = METHOD_MARK.taken_apart(method)
    except ConfigError:
        return False
    kind = _kind_of(method)
    if kind is None:
        return False
    gains = {one.name: default_of(one) for one in fields(kind) if one.name.endswith("gain")}
    own = any(method.get(key) not in (default, 0, None) for key, default in gains.items())
    parts = method.get(PARTS)
    return own or any(map(_has_gain, [method.get(INNER), *(parts if isinstance(parts, list) else ())]))


def _kind_of(method: Any) -> Any:
    """The type of a method's settings; None where it has no such name."""
    return METHOD_MARK.kinds().get(str(method.get(METHOD_MARK.tag))) if isinstance(method, dict) else None


def _built(tree: Tree, base: DetectorSettings, where: Callable[[Place], str]) -> RunConfig:
    """The run; the student's section is short for a detector's name and its settings."""
    student = tree["student"]
    name, family = student["detector"], student.get("family")
    if family != base.family:
        raise ConfigError(
            f"{where(('student', 'family'))} must be {base.family}, as student.detector={name} says, got {family!r}. "
            f"Write student={namesake(name, family)} instead."
        )
    settings = build(
        type(base), student, where=lambda path: where(("student", *path)), what="student", beside=("detector",)
    )
    try:
        choice = StudentChoice(detector=name, settings=settings)
    except ConfigError as error:
        raise ConfigError(f"{where(('student',)).removesuffix('student')}{error}") from error
    run: RunConfig = build(RunConfig, {**tree, "student": choice}, where=where, what="a run", beside=("seed",))
    return run


def _read(file: Path | None) -> Tree:
    """The file's sections, written in full."""
    content = None if file is None else load_yaml(file)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{file} must be a section of keys, got {content!r}. Write `key: value` lines.")
    tree = {key: {_SHORT[key]: value} if _is_short(key, value) else value for key, value in content.items()}
    if PATHS_FROM in tree and "method" in tree:
        tree["method"] = of_before(tree["method"])
    tree = tree if file is None else read_from(tree, file)
    if isinstance(tree.get("data"), dict) and "augment" in tree["data"]:
        tree["data"] = {**tree["data"], "augment": _augmentation(tree["data"]["augment"], str(file))}
    train = tree.get("train", {})
    if "seed" in tree and isinstance(train, dict):
        if "seed" in train:
            raise ConfigError(f"{file}: the seed must stand once, got seed and train.seed. Remove train.seed.")
        tree["train"] = {**train, "seed": tree.pop("seed")}
    return tree


def _augmentation(value: Any, where: str) -> Any:
    """An augmentation's section, which a word for its strength stands for."""
    if not isinstance(value, str):
        return value
    if value not in STRENGTHS:
        raise ConfigError(
            f"{where}: data.augment must be one of {', '.join(STRENGTHS)}, or a section of keys, got '{value}'. "
            f"{suggestion(value, STRENGTHS, listed=True)}"
        )
    return as_tree(STRENGTHS[value])


def _long_override(override: Override) -> Override:
    (section, *below), value = override.path, override.value
    if override.path == ("data", "augment"):
        return replace(override, value=_augmentation(value, _COMMAND_LINE))
    if (key := ".".join(override.path)) in _FORMER:
        remedy = _FORMER[key].format(value=value)
        raise ConfigError(f"The setting '{override.written}' must be one of today's, got the former {key}. {remedy}")
    if override.path == ("seed",):
        return replace(override, path=("train", "seed"))
    short = not below and _is_short(section, value)
    return replace(override, path=(section, _SHORT[section])) if short else override


def _is_short(key: str, value: object) -> bool:
    """Whether a value stands for a whole section: a text, or a list of several data sets or teachers."""
    return key in _SHORT and isinstance(value, (str, list) if key in ("data", "teacher") else str)


def _places(named: str, overrides: Sequence[Override]) -> Callable[[Place], str]:
    """Says for a path whether the file or the command line wrote it."""
    set_here = {override.path for override in overrides}

    def where(path: Place) -> str:
        words, place = tuple(map(str, path)), named
        if any(words[: len(own)] == own for own in set_here):
            place = _COMMAND_LINE
        elif named != _COMMAND_LINE and any(own[: len(words)] == words for own in set_here):
            place = f"{named} and the command line"
        return f"{place}: {dotted(path)}" if path else place

    return where


def _choose(tree: Tree, override: Override) -> None:
    section, *key = override.path
    before = tree.get(section)
    if not key:
        tree[section] = override.value
    elif not (isinstance(before, dict) and before.get(key[0]) == override.value):
        tree[section] = {key[0]: override.value}


def _named_in(tree: Tree, overrides: Sequence[Override]) -> list[Any]:
    """What a run's settings say where detectors come from, among others."""
    teacher = tree.get("teacher")
    followed = teacher.get("then") if isinstance(teacher, dict) else None
    chosen = [tree[section].get(_SHORT[section]) for section in _SHORT if isinstance(tree.get(section), dict)]
    return [*chosen, followed, tree.get("init"), *(one.value for one in overrides)]


def _name_code(tree: Tree, arguments: Sequence[str]) -> None:
    """Gives a student of one's own further arguments."""
    if arguments:
        student = tree.get("student")
        student = {key: value for key, value in student.items() if key != "source"} if isinstance(student, dict) else {}
        tree["student"] = {**student, "detector": with_arguments(str(student.get("detector", "")), arguments)}


def _require(tree: Tree, section: str, *, option: str, named: str) -> None:
    key, inside = _SHORT[section], tree.get(section)
    chosen = inside.get(key) if isinstance(inside, dict) else inside
    several = section == "teacher" and isinstance(chosen, list)
    if not isinstance(inside, dict) or not (isinstance(chosen, str) or several) or not chosen:
        got = "nothing" if chosen is None else repr(chosen)
        raise ConfigError(
            f"{named}: {section}.{key} must be {_SAYS[section]}, got {got}. "
            f"Pass {option}, or write `{section}: ...` in the config file."
        )


def _teachers_own(tree: Tree, named: str) -> Tree:
    """The section of a student that has its teacher's architecture, as its checkpoint says; no weights are read."""
    _require(tree, "teacher", option=_NEEDED["distill"]["teacher"], named=named)
    if "student" in tree:
        raise ConfigError(
            f"{named}: the student of a self-distillation must be its teacher's architecture, got a student of its "
            "own. Leave out --student and the section student, or --self."
        )
    source = tree["teacher"]["source"]
    if not isinstance(source, str):
        raise ConfigError(
            f"{named}: the teacher of a self-distillation must be one, got {len(source)}. Leave out all but one "
            "--teacher, or choose a student by --student."
        )
    opened = door_of(source).settings
    if opened is None:
        raise ConfigError(
            f"The teacher of a self-distillation must be a run or a checkpoint of ours, got {source}. "
            "Give --teacher RUN, or choose a student by --student."
        )
    settings = opened(source)
    return {"detector": settings.name, **as_tree(settings)}


def _starting_students_own(tree: Tree, named: str, *, out: object, option: str) -> None:
    """Gives a student that nobody named the architecture of the detector that the run starts from.

    Where that is gone, a run that has begun says itself what its student is.
    """
    section, source = tree.get("student", {}), tree["init"]
    if not isinstance(section, dict) or "detector" in section:
        return
    opened = door_of(source).settings
    if opened is None:
        raise ConfigError(
            f"{named}: student.detector must be {_SAYS['student']} for a run that starts from {source}, got nothing. "
            f"Pass {option}."
        )
    begun = RunFolder(Path(str(out))).config
    if begun.is_file() and not Path(source).exists():
        tree["student"] = _read(begun).get("student")
        return
    # Its weights are here: nothing is to be fetched for the backbone.
    settings = with_pixel_statistics(opened(source)).at_home()
    tree["student"] = {"detector": settings.name, **as_tree(settings), **section}
