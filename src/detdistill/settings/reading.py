"""From a tree to settings: every key and every value's type is checked, and every flaw has its sentence."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from detdistill.errors import ConfigError, DistillError, suggestion
from detdistill.settings.calls import written
from detdistill.settings.trees import DEEPEST, Path, Tagged, Where, hints_of, needed, remedy_of

_WORDS = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    str: "text",
    NoneType: "null",
    pathlib.Path: "a path",
}


def build(kind: Any, tree: Any, *, where: str | Where, what: str = "the settings", beside: Collection[str] = ()) -> Any:
    """Settings from a tree, the only way there is.

    Types are strict: a whole number passes for a number, a list for a tuple and text for a path, and nothing else for
    anything else. A part that is an instance of its type already is taken as it is.

    Args:
        kind: a dataclass whose fields are numbers, text, paths, choices, tuples, mappings, dataclasses and options of
            these, or a type that is marked by `Tagged`.
        tree: what it is to hold.
        where: what messages call the tree, such as a file, or a function that names a place in it.
        what: what messages call the outermost section.
        beside: keys of the outermost section that the caller reads.

    Raises:
        ConfigError: a key is unknown or missing, a value is of another type, or a dataclass refuses it; a line for
            each flaw.
    """
    problems: list[str] = []
    place = (lambda path: f"{where}: {dotted(path)}" if path else where) if isinstance(where, str) else where
    found = _Reader(place, problems, what, beside).read(kind, tree, ())
    if problems:
        raise ConfigError("\n".join(problems))
    return found


def dotted(path: Path) -> str:
    """A place in a tree as `key.sub=value` names it."""
    return ".".join(map(str, path))


@dataclass(frozen=True, slots=True)
class _Reader:
    where: Where
    problems: list[str]
    what: str
    beside: Collection[str]

    def read(self, hint: Any, value: Any, path: Path, *, option: bool = False) -> Any:
        """The value as the type wants it; None, and a sentence among the problems, where it does not fit."""
        origin, members = get_origin(hint), get_args(hint)
        if len(path) > DEEPEST:
            return self._refuse(path, f"nested at most {DEEPEST} keys deep, got more. Leave some out.")
        if origin is Annotated and isinstance(members[1], Tagged):
            return self._tagged(members[1], value, path, option=option)
        if origin in (Union, UnionType):
            return self._option(hint, value, path)
        if is_dataclass(hint):
            return self._section(hint, value, path, option=option)
        if origin is tuple and isinstance(value, (list, tuple)):
            kinds = members[:1] * len(value) if members[-1] is Ellipsis else members
            if len(kinds) == len(value):
                return tuple(
                    self.read(kind, one, (*path, at)) for at, (kind, one) in enumerate(zip(kinds, value, strict=True))
                )
        found = _plain(hint, value)
        return self._wrong(hint, value, path, option=option) if found is None else found[0]

    def _option(self, hint: Any, value: Any, path: Path) -> Any:
        if value is None and NoneType in get_args(hint):
            return None
        members = [member for member in get_args(hint) if member is not NoneType]
        if len(members) == 1:
            return self.read(members[0], value, path, option=True)
        for member in members:
            trial = _Reader(self.where, [], self.what, self.beside)
            found = trial.read(member, value, path)
            if not trial.problems:
                return found
        return self._wrong(hint, value, path)

    def _tagged(self, mark: Tagged, value: Any, path: Path, *, option: bool) -> Any:
        kinds = mark.kinds()
        if isinstance(value, str) and value not in kinds:
            try:
                return mark.parse(value)
            except ConfigError as error:
                self.problems.append(f"{self.where(path)}: {error}")
                return None
        section = {mark.tag: value} if isinstance(value, str) else value
        if type(section) in kinds.values():
            return section
        if not isinstance(section, dict):
            return self._wrong(Annotated[Any, mark], value, path, option=option)
        name = section.get(mark.tag)
        if not isinstance(name, str) or name not in kinds:
            known = tuple(kinds)
            got = "nothing" if name is None else repr(name)
            remedy = suggestion(str(name), known, listed=True)
            return self._refuse((*path, mark.tag), f"one of {', '.join(known)}, got {got}. {remedy}")
        rest = {key: one for key, one in section.items() if key != mark.tag}
        return self._section(kinds[name], rest, path, called=name)

    def _section(self, kind: Any, value: Any, path: Path, *, called: str = "", option: bool = False) -> Any:
        if isinstance(value, kind):
            return value
        if not isinstance(value, dict):
            return self._wrong(kind, value, path, option=option)
        before, hints = len(self.problems), hints_of(kind)
        known = {one.name: one for one in fields(kind) if one.init}
        beside = () if path else self.beside
        for key in value:
            if key not in known and key not in beside:
                of = called or dotted(path) or self.what
                hint = suggestion(str(key), {*known, *beside})
                self._refuse((*path, key), f"a key of {of}, got the unknown '{key}'. {hint}")
        values: dict[str, Any] = {}
        for key, one in known.items():
            if key in value:
                values[key] = self.read(hints[key], value[key], (*path, key))
            elif needed(one):
                inside = (*path, key)
                self._refuse(inside, f"given, got nothing. {remedy_of(one) or f'Give {dotted(inside)} a value'}.")
        if len(self.problems) > before:
            return None
        try:
            return kind(**values)
        except DistillError as error:
            subject, name = self.where(path), dotted(path)
            # What the settings say may name their key, or themselves, already.
            place = subject.removesuffix(f": {name}") if name and name in str(error) else subject
            self.problems.append(str(error) if subject in str(error) else f"{place}: {error}")
            return None

    def _wrong(self, hint: Any, value: Any, path: Path, *, option: bool = False) -> None:
        words = [*_expected(hint), *(["null"] if option else [])]
        if type(value) in (int, float) and not _finite(value):
            words = ["a finite number"]
        remedy = "Change the value."
        choices = [str(choice) for choice in _choices(hint)]
        if choices:
            remedy = suggestion(str(value), choices, listed=True)
        elif "a section of keys" in words:
            remedy = f"Write its keys indented below '{path[-1]}:'." if path else "Write `key: value` lines."
        self._refuse(path, f"{' or '.join(words)}, got {_shown(value)}. {remedy}")

    def _refuse(self, path: Path, said: str) -> None:
        self.problems.append(f"{self.where(path)} must be {said}")


def _plain(hint: Any, value: Any) -> tuple[Any] | None:
    """A plain value as the type wants it, in a tuple; None where it does not fit."""
    origin = get_origin(hint)
    if hint is Any:
        return (value,)
    if origin is Literal:
        return next(((choice,) for choice in get_args(hint) if choice == value and type(choice) is type(value)), None)
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return (MappingProxyType(dict(value)),)
    if hint is pathlib.Path and isinstance(value, (str, pathlib.Path)):
        return (pathlib.Path(value),)
    if type(value) in (int, float) and not _finite(value):
        return None
    if hint is float and type(value) is int:
        return (float(value),)
    return (value,) if type(value) is hint else None


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _choices(hint: Any) -> list[Any]:
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [
        choice for member in get_args(hint) if get_origin(hint) in (Union, UnionType) for choice in _choices(member)
    ]


def _expected(hint: Any) -> list[str]:
    origin, members = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return [word for member in members for word in _expected(member)]
    if origin is Literal:
        return [written(choice) for choice in members]
    if origin is tuple:
        return ["a list" if members[-1] is Ellipsis else f"a list of {len(members)} values"]
    if origin is Annotated:
        return [f"a {members[1].what}"]
    if is_dataclass(hint) or origin in (dict, Mapping):
        return ["a section of keys"]
    return [_WORDS.get(hint, str(hint))]


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a section"
    if value is None:
        return "nothing"
    return written(value) if isinstance(value, (bool, list, tuple)) else repr(value)
