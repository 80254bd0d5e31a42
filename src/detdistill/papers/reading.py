"""Dataclasses from sections of YAML: every key and every value's type is checked."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from detdistill.errors import ConfigError, suggestion

Part = TypeVar("Part")


def build(kind: type[Part], tree: object, *, where: str) -> Part:
    """A dataclass from a section of YAML; every key and every value's type is checked.

    Args:
        kind: the dataclass; fields may be numbers, words, choices, lists, sections and None.
        tree: the section.
        where: what messages call it, such as a file's name.

    Raises:
        ConfigError: a key is unknown or missing, or a value is of another type or refused by the dataclass.
    """
    known = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(tree, dict):
        raise ConfigError(f"{where} must be a section with the keys {', '.join(known)}, got {tree!r}. Write it so.")
    for key in tree:
        if key not in known:
            raise ConfigError(f"{where} must have known keys, got '{key}'. {suggestion(str(key), known)}")
    for key, one in known.items():
        if key not in tree and one.default is MISSING and one.default_factory is MISSING:
            raise ConfigError(f"{where} must have the key '{key}', got none. Add it.")
    hints = get_type_hints(kind)
    values = {key: _value(value, hints[key], f"{where}: {key}") for key, value in tree.items()}
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _value(value: object, hint: Any, where: str) -> Any:
    origin, members = get_origin(hint), get_args(hint)
    if origin is UnionType:
        *others, last = (member for member in members if member is not NoneType)
        for member in others:
            with suppress(ConfigError):
                return _value(value, member, where)
        return None if value is None else _value(value, last, where)
    if is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, where=where)
    if origin is Literal:
        if value not in members:
            raise _wrong(where, f"one of {', '.join(members)}", value)
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or (members[-1] is not Ellipsis and len(value) != len(members)):
            raise _wrong(where, "a list" if members[-1] is Ellipsis else f"a list of {len(members)}", value)
        return tuple(_value(one, members[0], f"{where}[{index}]") for index, one in enumerate(value))
    return _plain(value, hint, where)


def _plain(value: object, hint: Any, where: str) -> Any:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if hint is float and type(value) is int:
        return float(value)
    if hint in words:
        if type(value) is not hint:
            raise _wrong(where, words[hint], value)
        return value
    if not isinstance(value, dict):
        raise _wrong(where, "a section of keys", value)
    return MappingProxyType(value)


def _wrong(where: str, expected: str, got: object) -> ConfigError:
    return ConfigError(f"{where} must be {expected}, got {got!r}. Change the value.")
