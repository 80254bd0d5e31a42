"""One run's settings from a config file, options and `key.sub=value` settings, in this order of strength."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from detdistill.config.messages import Where, as_config_error
from detdistill.config.overrides import Override, Tree, apply_override, merge, parse_override
from detdistill.config.schema import as_tree, defaults, run_model
from detdistill.detectors.catalogue import parse_detector
from detdistill.detectors.settings import DetectorSettings
from detdistill.errors import ConfigError, suggestion
from detdistill.jobs.generations import same_architecture
from detdistill.jobs.settings import (
    DataSettings,
    EvaluateSettings,
    MethodChoice,
    RunConfig,
    StudentChoice,
    TwinSettings,
)
from detdistill.methods.catalogue import WRAPPERS, Settings, parse_method
from detdistill.methods.composition import canonical, method_name
from detdistill.methods.entries import known_methods, settings_types
from detdistill.strict_yaml import load_yaml
from detdistill.training.settings import TrainSettings

# `student: fcos/resnet18` is short for a section with this one key.
_SHORT = {"data": "folder", "student": "detector", "teacher": "source", "method": "name"}
_CHOSEN = ("student", "teacher", "method")
# Settings that choose a section and are then spent; a method's name may be a text that stands for several keys.
_CHOOSING = {*((section,) for section in _CHOSEN), ("method", "name")}
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
"""What a run trains with where neither the file nor the command line says; it wins over `TrainSettings`' own."""


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
    given = [Override(tuple(key.split(".")), _plain(value), key) for key, value in (options or {}).items()]
    overrides = [_long_override(override) for override in given if override.value is not None]
    overrides += [_long_override(parse_override(text)) for text in settings]
    tree = _long_form(_read(file))
    if purpose == "train":
        for key in ("teacher", "method", "alone", "twins", "inherit"):
            tree.pop(key, None)
    named = str(file) if file is not None else _COMMAND_LINE
    for section in ("student", "teacher", "method"):
        _choose(tree, overrides, section)
    if itself:
        tree["student"] = _teachers_own(tree, named)
    for section, option in _NEEDED[purpose].items():
        _require(tree, section, option=option, named=named)
    _compose(tree, named)
    tree = merge(_defaults(tree), tree)
    for override in overrides:
        if override.path not in _CHOOSING:
            apply_override(tree, override)
    return _build(tree, overrides, named)


def run_schema() -> dict[str, Any]:
    """JSON schema of a config file."""
    return run_model().model_json_schema()


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _read(file: Path | None) -> Tree:
    if file is None:
        return {}
    content = load_yaml(file)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{file} must be a section of keys, got {content!r}. Write `key: value` lines.")
    return content


def _long_form(tree: Tree) -> Tree:
    return {
        key: {_SHORT[key]: value} if key in _SHORT and isinstance(value, str) else value for key, value in tree.items()
    }


def _long_override(override: Override) -> Override:
    (section, *below), value = override.path, override.value
    if section in _SHORT and not below and isinstance(value, str):
        return Override((section, _SHORT[section]), value, override.written)
    return override


def _choose(tree: Tree, overrides: Sequence[Override], section: str) -> None:
    """Lets overrides choose a section's detector, teacher or recipe; another choice drops the old keys."""
    key = _SHORT[section]
    for override in overrides:
        if override.path == (section,):
            tree[section] = override.value
        elif override.path == (section, key):
            before = tree.get(section)
            if not (isinstance(before, dict) and before.get(key) == override.value):
                tree[section] = {key: override.value}


def _require(tree: Tree, section: str, *, option: str, named: str) -> None:
    key, inside = _SHORT[section], tree.get(section)
    chosen = inside.get(key) if isinstance(inside, dict) else inside
    if not isinstance(chosen, str) or not chosen:
        got = "nothing" if chosen is None else repr(chosen)
        raise ConfigError(
            f"{named}: {section}.{key} must be {_SAYS[section]}, got {got}. "
            f"Pass {option}, or write `{section}: ...` in the config file."
        )


def _defaults(tree: Tree) -> Tree:
    """Everything that has a default, for the detector and the recipe that `tree` chooses."""
    train = {**defaults(TrainSettings), **TRAIN_DEFAULTS}
    train.pop("seed", None)
    below: Tree = {"data": defaults(DataSettings), "train": train, "evaluate": defaults(EvaluateSettings), "seed": 0}
    student = tree.get("student")
    if isinstance(student, dict) and isinstance(student.get("detector"), str):
        below["student"] = as_tree(parse_detector(student["detector"]))
    below["twins"] = defaults(TwinSettings)
    method = tree.get("method")
    if isinstance(method, dict) and isinstance(method.get("name"), str):
        below["method"] = defaults(settings_types()[method["name"]])
        if method["name"] in WRAPPERS:
            del below["method"]["recipe"]
    return below


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


def _compose(tree: Tree, named: str) -> None:
    """Takes a method's text, such as ``aid(frs, alpha=0.5)``, apart into the keys that it stands for."""
    method = tree.get("method")
    if not isinstance(method, dict) or not isinstance(method.get("name"), str) or method["name"] in settings_types():
        return
    text: str = method["name"]
    if text.isidentifier():
        raise ConfigError(f"method.name must be a known method, got '{text}'. {suggestion(text, known_methods())}")
    try:
        settings = parse_method(text)
    except ConfigError as error:
        raise ConfigError(f"{named}: {error}") from error
    rest = {key: value for key, value in method.items() if key != "name"}
    tree["method"] = merge({"name": method_name(settings), **as_tree(settings)}, rest)


def _build(tree: Tree, overrides: Sequence[Override], named: str) -> RunConfig:
    set_here = {override.path for override in overrides}

    def where(path: tuple[str | int, ...]) -> str:
        words = tuple(map(str, path))
        if any(words[: len(own)] == own for own in set_here):
            return _COMMAND_LINE
        below = any(own[: len(words)] == words for own in set_here)
        return f"{named} and the command line" if below and named != _COMMAND_LINE else named

    train, student, method = tree.get("train"), tree.get("student"), tree.get("method")
    if isinstance(train, dict) and "seed" in train:
        raise ConfigError(
            f"{where(('train', 'seed'))}: the seed must be the key seed at the top, got train.seed. Write seed instead."
        )
    detector = ""
    if isinstance(student, dict):
        detector = str(student.get("detector", ""))
        tree = {**tree, "student": {key: value for key, value in student.items() if key != "detector"}}
    name = str(method.get("name")) if isinstance(method, dict) else None
    try:
        # JSON: pydantic's strict mode then still takes a list for a tuple and text for a path.
        model = run_model().model_validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        raise as_config_error(error, tree=tree, method=name, where=where) from error
    return _as_run(model, detector, where)


def _as_run(model: BaseModel, detector: str, where: Where) -> RunConfig:
    parts: dict[str, Any] = {name: getattr(model, name) for name in type(model).model_fields}
    settings: DetectorSettings = parts["student"]
    train: TrainSettings = parts["train"]
    return RunConfig(
        data=parts["data"],
        student=StudentChoice(detector=detector, settings=settings),
        train=dataclasses.replace(train, seed=parts["seed"]),
        out=parts["out"],
        evaluate=parts["evaluate"],
        teacher=parts["teacher"],
        method=_method(parts["method"], where),
        twins=parts["twins"],
        inherit=parts["inherit"],
        alone=parts["alone"],
    )


def _method(model: BaseModel | None, where: Where) -> MethodChoice | None:
    if model is None:
        return None
    values: dict[str, Any] = {key: getattr(model, key) for key in type(model).model_fields}
    name = str(values.pop("name"))
    try:
        settings: Settings = canonical(settings_types()[name](**values))
    except ConfigError as error:
        key = "recipes" if "recipes" in values else "recipe"
        raise ConfigError(f"{where(('method', key))}: method.{key}: {error}") from error
    return MethodChoice(name=name, settings=settings)
