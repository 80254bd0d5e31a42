"""The config file as pydantic models, built from the settings dataclasses, so that each setting is declared once."""

from __future__ import annotations

import dataclasses
import functools
import operator
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from detdistill.detectors.catalogue import FAMILIES
from detdistill.detectors.settings import DetectorSettings
from detdistill.jobs.settings import DataSettings, EvaluateSettings, TeacherSettings, TwinSettings
from detdistill.methods.catalogue import WRAPPERS
from detdistill.methods.entries import settings_types
from detdistill.training.settings import TrainSettings

# pydantic hands this on to every plain dataclass below the model.
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@functools.cache
def run_model() -> type[BaseModel]:
    """The model of a whole config file, with one variant of `method` per kind of settings, told apart by `name`."""
    method = _any_of([_method_model(name) for name in sorted(settings_types())])
    return create_model(
        "Run",
        __config__=STRICT,
        data=(DataSettings, ...),
        student=(_student(), ...),
        teacher=(TeacherSettings | None, None),
        method=(method | None, None),
        train=(TrainSettings, ...),
        evaluate=(EvaluateSettings, EvaluateSettings()),
        twins=(TwinSettings, TwinSettings()),
        inherit=(bool, False),
        seed=(Annotated[int, Field(ge=0)], 0),
        out=(Path, ...),
        alone=(Path | None, None),
    )


def _student() -> Any:
    """The settings of every detector family, told apart by `family`."""
    kinds: Any = functools.reduce(operator.or_, (family.settings for family in FAMILIES.values()))
    return Annotated[kinds, Field(discriminator="family")]


def _method_model(name: str) -> type[BaseModel]:
    settings_type = settings_types()[name]
    hints = get_type_hints(settings_type, include_extras=True)
    tag: Any = Literal[name]
    settings: dict[str, Any] = {
        field.name: (hints[field.name], _default(field)) for field in dataclasses.fields(settings_type)
    }
    if name in WRAPPERS:
        # What is wrapped is always said, although the settings have a default for it.
        settings["recipe"] = (hints["recipe"], ...)
    return create_model(name, __config__=STRICT, name=(tag, ...), **settings)


def _any_of(models: list[type[BaseModel]]) -> Any:
    if len(models) == 1:
        return models[0]
    return Annotated[functools.reduce(operator.or_, models), Field(discriminator="name")]


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return Field(default_factory=field.default_factory)
    return ... if field.default is dataclasses.MISSING else field.default


def defaults(settings_type: type[Any]) -> dict[str, Any]:
    """The default values of a settings dataclass as a tree; fields that have no default are left out."""
    tree: dict[str, Any] = {}
    for field in dataclasses.fields(settings_type):
        if field.default is not dataclasses.MISSING:
            tree[field.name] = as_tree(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            tree[field.name] = as_tree(field.default_factory())
    return tree


def as_tree(value: Any) -> Any:
    """Settings as nested dictionaries and lists, as a config file would give them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_tree(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: as_tree(below) for key, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_tree(below) for below in value]
    return value


def known_keys(path: tuple[str | int, ...], *, method: str | None, family: str | None = None) -> list[str]:
    """The keys that may stand in the section at `path`.

    Args:
        path: keys from the top; empty for the top itself.
        method: the name of the method that is chosen, None where there is none.
        family: the student's family, likewise.
    """
    sections: dict[str, tuple[Any, list[str]]] = {
        "data": (DataSettings, []),
        "student": (
            FAMILIES[family].settings if family is not None and family in FAMILIES else DetectorSettings,
            ["detector"],
        ),
        "teacher": (TeacherSettings, []),
        "train": (TrainSettings, []),
        "evaluate": (EvaluateSettings, []),
        "twins": (TwinSettings, []),
    }
    if method in settings_types():
        sections["method"] = (settings_types()[method], ["name"])
    if not path:
        return sorted(run_model().model_fields)
    kind, extra = sections.get(str(path[0]), (None, []))
    for part in path[1:]:
        settings_type, extra = _dataclass_in(kind), []
        kind = None if settings_type is None else get_type_hints(settings_type).get(str(part))
    settings_type = _dataclass_in(kind)
    if settings_type is None:
        return []
    hidden = {"seed"} if path == ("train",) else set()
    return sorted({field.name for field in dataclasses.fields(settings_type)} - hidden | set(extra))


def _dataclass_in(kind: Any) -> Any:
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return kind
    if get_origin(kind) in (Union, types.UnionType, tuple, list):
        found = (_dataclass_in(member) for member in get_args(kind))
        return next((member for member in found if member is not None), None)
    return None
