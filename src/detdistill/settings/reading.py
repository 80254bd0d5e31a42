"""From a tree to settings: every key and every value's type is checked, and every flaw has its sentence."""

from __future__ import annotations

import math
import pathlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from detdistill.errors import ConfigError, DistillError, suggestion
from detdistill.settings.bounds import bare, outside, shortened
from detdistill.settings.calls import written
from detdistill.settings.trees import (
    DEEPEST,
    GIVEN,
    ONCE,
    TEXT,
    Path,
    Tagged,
    default_of,
    hints_of,
    section_in,
    tagged_in,
)

_UNIONS = (Union, UnionType)
_WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "text", NoneType: "null"}
_WORDS |= {pathlib.Path: "a path"}
_LINES = "Write `key: value` lines."


def build(
    kind: Any,
    tree: Any,
    *,
    where: str | Callable[[Path], str],
    what: str = "the settings",
    beside: Collection[str] = (),
) -> Any:
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
        ConfigError: a key is unknown or missing, a value is of another type, or a dataclass refuses it; a line each.
    """
    place = (lambda path: f"{where}: {dotted(path)}" if path else where) if isinstance(where, str) else where
    reader = _Reader(place, what, beside)
    found = reader.read(kind, tree, ())
    if not reader.problems:
        for path, value, bounds in outside(found, kind):
            reader.refuse(path, f"{bounds.text()}, got {shortened(value)}. {bounds.remedy(value)}")
    if reader.problems:
        raise ConfigError("\n".join(reader.problems))
    return found


def dotted(path: Path) -> str:
    """A place in a tree as `key.sub=value` names it."""
    return ".".join(map(str, path))


@dataclass(frozen=True, slots=True)
class _Reader:
    where: Callable[[Path], str]
    what: str
    beside: Collection[str]
    problems: list[str] = field(default_factory=list)

    def read(self, hint: Any, value: Any, path: Path) -> Any:
        """The value as the type wants it; None, and a sentence among the problems, where it does not fit."""
        hint = bare(hint)
        origin, members = get_origin(hint), get_args(hint)
        if len(path) > DEEPEST:
            return self.refuse(path, f"at most {DEEPEST} keys deep, got more. Leave some out.")
        if origin in _UNIONS and value is not None:
            return self._option(hint, value, path)
        if origin is Annotated and isinstance(members[1], Tagged):
            return self._tagged(hint, members[1], value, path)
        if is_dataclass(hint):
            return self._section(hint, value, path)
        if origin is tuple and isinstance(value, (list, tuple)):
            kinds = members[:1] * len(value) if members[-1] is Ellipsis else members
            if len(kinds) == len(value):
                return tuple(self.read(kinds[at], one, (*path, at)) for at, one in enumerate(value))
        found = _plain(hint, value)
        return self._wrong(hint, value, path) if found is None else found[0]

    def _option(self, hint: Any, value: Any, path: Path) -> Any:
        for member in get_args(hint):
            # A list as long as a tuple is meant for it: a flaw is told where it is.
            meant = get_origin(member) is tuple and isinstance(value, list) and len(get_args(member)) == len(value)
            if meant or (isinstance(value, (dict, list)) and (tagged_in(member) or section_in(member))):
                return self.read(member, value, path)
            trial = _Reader(self.where, self.what, self.beside)
            found = trial.read(member, value, path)
            if not trial.problems:
                return found
        if isinstance(value, str) and (mark := tagged_in(hint)):
            return self._tagged(hint, mark, value, path)
        return self._wrong(hint, value, path)

    def _tagged(self, hint: Any, mark: Tagged, value: Any, path: Path) -> Any:
        kinds = mark.kinds()
        if type(value) in kinds.values():
            return value
        try:
            section = mark.taken_apart(value)
        except ConfigError as error:
            self.problems.append(f"{self.where(path if isinstance(value, str) else (*path, mark.tag))}: {error}")
            return None
        if not isinstance(section, dict):
            return self._wrong(hint, value, path)
        name = section.get(mark.tag)
        if not isinstance(name, str) or name not in kinds:
            remedy = suggestion(str(name), kinds, listed=True)
            return self.refuse((*path, mark.tag), f"one of {', '.join(kinds)}, got {_shown(name)}. {remedy}")
        return self._section(kinds[name], {k: v for k, v in section.items() if k != mark.tag}, path, called=name)

    def _section(self, kind: Any, value: Any, path: Path, *, called: str = "") -> Any:
        if isinstance(value, kind):
            return value
        if not isinstance(value, dict):
            return self._wrong(kind, value, path)
        before, hints = len(self.problems), hints_of(kind)
        known = {one.name: one for one in fields(kind) if one.init}
        beside = () if path else self.beside
        value = renamed(value, kind)
        for key in value:
            if key not in known and key not in beside:
                of, hint = called or dotted(path) or self.what, suggestion(str(key), {*known, *beside})
                below = next(_places_of(key, kind), None)
                hint = hint if below is None else f"Did you mean '{dotted((*path, *below))}'?"
                self.refuse((*path, key), f"a key of {of}, got the unknown '{key}'. {hint}")
        values: dict[str, Any] = {}
        for key, one in known.items():
            inside = (*path, key)
            if key in value:
                number = TEXT in one.metadata and type(value[key]) in (int, float)
                values[key] = self.read(hints[key], str(value[key]) if number else value[key], inside)
            elif default_of(one) is MISSING:
                remedy = one.metadata.get(GIVEN, f"Give {dotted(inside)} a value")
                self.refuse(inside, f"given, got nothing. {remedy}.")
        if len(self.problems) > before:
            return None
        try:
            return kind(**values)
        except DistillError as error:
            said, subject = str(error), self.where(path)
            # What the settings say may name themselves already, or begin with the last word of their place.
            name = subject.rpartition(": ")[2]
            section = re.split(r"[. ]", name)[-1]
            if said.startswith(f"{section}."):
                said = f"{subject}{said.removeprefix(section)}"
            elif subject not in said:
                said = f"{subject.removesuffix(f': {name}') if f'{name}.' in said else subject}: {said}"
            self.problems.append(said)
            return None

    def _wrong(self, hint: Any, value: Any, path: Path) -> None:
        members = get_args(hint) if get_origin(hint) in _UNIONS else (hint,)
        choices = [str(one) for member in members if get_origin(member) is Literal for one in get_args(member)]
        expected = " or ".join(map(_expected, members))
        remedy = "Change the value."
        if isinstance(value, float) and not math.isfinite(value):
            expected = "a finite number"
        elif choices:
            remedy = suggestion(str(value), choices, listed=True)
        elif "a section of keys" in expected:
            remedy = f"Write {dotted(path)}.KEY=VALUE, in a file indented below '{path[-1]}:'." if path else _LINES
        self.refuse(path, f"{expected}, got {_shown(value)}. {remedy}")

    def refuse(self, path: Path, said: str) -> None:
        """Adds the sentence that what stands at a place must be something else."""
        self.problems.append(f"{self.where(path)} must be {said}")


def _places_of(key: Any, kind: Any) -> Iterator[Path]:
    """Where in the sections of a section a key is one."""
    for name, hint in hints_of(kind).items():
        inner = section_in(hint)
        if inner is not None:
            if key in hints_of(inner):
                yield (name, key)
            yield from ((name, *below) for below in _places_of(key, inner))


def renamed(section: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """The section with today's names for those of before, unless another key bears the name and takes the value."""
    known, hints = {one.name: one for one in fields(kind)}, hints_of(kind)
    former = {one.metadata[ONCE]: key for key, one in known.items() if ONCE in one.metadata}

    def fits(key: str, value: Any) -> bool:
        members = get_args(hints[key]) if get_origin(bare(hints[key])) in _UNIONS else (hints[key],)
        return any(_plain(member, value) is not None for member in members)

    def now(key: str, value: Any) -> str:
        new = former.get(key, key)
        taken = new == key or new in section or (key in known and fits(key, value))
        return new if not taken and fits(new, value) else key

    return {now(key, value): value for key, value in section.items()}


def _plain(hint: Any, value: Any) -> tuple[Any] | None:
    """A plain value as the type wants it, in a tuple; None where it does not fit."""
    hint = bare(hint)
    origin, members = get_origin(hint), get_args(hint)
    if origin in _UNIONS:
        hint = NoneType if NoneType in members else hint
    if origin is Literal:
        return next(((choice,) for choice in members if choice == value and type(choice) is type(value)), None)
    if origin is Mapping and isinstance(value, Mapping):
        return (MappingProxyType(dict(value)),)
    if hint is pathlib.Path and isinstance(value, (str, pathlib.Path)):
        return (pathlib.Path(value),)
    if hint in (int, float) and type(value) in (int, hint):
        try:
            number = float(value)
        except OverflowError:  # a whole number that no float can hold
            return None
        return (number if hint is float else value,) if math.isfinite(number) else None
    return (value,) if hint is Any or type(value) is hint else None


def _expected(hint: Any) -> str:
    hint = bare(hint)
    origin, members = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(map(written, members))
    if origin is tuple:
        return "a list" if members[-1] is Ellipsis else f"a list of {len(members)} values"
    if origin is Annotated:
        return f"a {members[1].what}"
    return "a section of keys" if is_dataclass(hint) or origin is Mapping else _WORDS.get(hint, str(hint))


def _shown(value: Any) -> str:
    if value is None or isinstance(value, dict):
        return "nothing" if value is None else "a section"
    return shortened(value, written if isinstance(value, (bool, list, tuple)) else repr)
