"""Settings as trees, and what a type says about the tree that it is read from."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Annotated, Any, get_args, get_type_hints

from detdistill.errors import ConfigError

Tree = dict[str, Any]
Path = tuple[str | int, ...]

DEEPEST = 64
"""Sections in sections beyond this are taken for a mistake."""

GIVEN = "given"
"""The key of a field's metadata that says how to give it, where every tree must."""

PLACE = "place"
"""The key of a field's metadata that says that its text, where it is some, may name a file or folder."""


ONCE = "once"
"""The key of a field's metadata for names that its settings had in earlier versions."""


TEXT = "text"
"""The key of a field's metadata that says that a number is read as the text that was written."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """Marks a field that holds settings of one of several kinds, as in ``Annotated[Any, Tagged(...)]``.

    Attributes:
        what: such settings are of, such as ``"method"``.
        tag: the key of a tree that names the kind.
        kinds: the kinds by name, asked for anew each time, since more may be registered.
        parse: the settings that a text stands for; a text may stand wherever such settings are expected.
    """

    what: str
    tag: str
    kinds: Callable[[], Mapping[str, type[Any]]]
    parse: Callable[[str], Any]

    def name_of(self, settings: object) -> str:
        """The name of the kind that the settings are of; ConfigError where they are of none."""
        kinds = self.kinds()
        for name, kind in kinds.items():
            if type(settings) is kind:
                return name
        raise ConfigError(
            f"The settings of the {self.what} must be those of {', '.join(kinds)}, got {type(settings).__name__}. "
            f"Pass for example {next(iter(kinds.values())).__name__}()."
        )

    def taken_apart(self, tree: Any) -> Any:
        """The section that a text stands for, alone or as the tag of a section, whose other keys win over it.

        Raises:
            ConfigError: the text stands for nothing.
        """
        section = {self.tag: tree} if isinstance(tree, str) else tree
        text = section.get(self.tag) if isinstance(section, dict) else None
        if not isinstance(text, str) or text.isidentifier():
            return section
        return as_tree(self.parse(text), Annotated[Any, self]) | {k: v for k, v in section.items() if k != self.tag}


def given(remedy: str) -> dict[str, str]:
    """The metadata of a field that every tree must have, even where Python may leave it out; `remedy` says how."""
    return {GIVEN: remedy}


def once(name: str) -> dict[str, str]:
    """The metadata of a field that a tree may still give under an earlier name, where its value is for no other."""
    return {ONCE: name}


def default_of(one: Field[Any]) -> Any:
    """The default that a tree may leave a field to, `MISSING` where there is none."""
    if GIVEN in one.metadata:
        return MISSING
    return one.default if one.default_factory is MISSING else one.default_factory()


def in_order(kind: Any) -> list[Field[Any]]:
    """The fields of a dataclass as people read them: its own, then those that it has from a common base."""
    return sorted(fields(kind), key=lambda one: bool(one.kw_only))


@functools.cache
def hints_of(kind: Any) -> Mapping[str, Any]:
    """The types of a dataclass's fields."""
    return get_type_hints(kind, include_extras=True)


def _within(hint: Any) -> Iterator[Any]:
    yield hint
    for member in get_args(hint):
        yield from _within(member)


def tagged_in(hint: Any) -> Tagged | None:
    """The mark on a type, or on what it is a list or an option of."""
    return next((one for one in _within(hint) if isinstance(one, Tagged)), None)


def section_in(hint: Any) -> Any:
    """The dataclass that a type is, or is a list or an option of; None where there is none."""
    return next((one for one in _within(hint) if isinstance(one, type) and is_dataclass(one)), None)


def as_tree(value: Any, hint: Any = Any) -> Any:
    """Settings, or a part of them, as nested dictionaries and lists, as a config file would give them.

    Args:
        value: the settings.
        hint: what they are declared as; settings that are marked by `Tagged` name their kind.
    """
    if is_dataclass(value) and not isinstance(value, type):
        hints, mark = hints_of(type(value)), tagged_in(hint)
        below = {one.name: as_tree(getattr(value, one.name), hints[one.name]) for one in in_order(type(value))}
        return below if mark is None else {mark.tag: mark.name_of(value), **below}
    if isinstance(value, Mapping):
        return {key: as_tree(one) for key, one in value.items()}
    return [as_tree(one, hint) for one in value] if isinstance(value, (list, tuple)) else value


def with_paths(tree: Any, hint: Any, change: Callable[[str], str]) -> Any:
    """A tree with all its paths changed: what is declared as a path, and text of fields whose metadata hold `PLACE`.

    Args:
        tree: settings, or a part of them, as nested dictionaries and lists, not yet checked.
        hint: what they are declared as.
    """
    if isinstance(tree, (list, tuple)):
        return [with_paths(one, hint, change) for one in tree]
    if isinstance(tree, dict):
        mark = tagged_in(hint)
        kind: Any = section_in(hint) if mark is None else mark.kinds().get(str(tree.get(mark.tag)))
        known = () if kind is None else fields(kind)
        below = {one.name: pathlib.Path if PLACE in one.metadata else hints_of(kind)[one.name] for one in known}
        return {key: with_paths(value, below.get(key, Any), change) for key, value in tree.items()}
    if isinstance(tree, (str, pathlib.Path)) and str(tree) and pathlib.Path in _within(hint):
        return change(str(tree))
    return tree
