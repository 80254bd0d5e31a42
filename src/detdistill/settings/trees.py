"""Settings as trees, and trees with everything in them that has a default."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from detdistill.errors import ConfigError

Tree = dict[str, Any]
Path = tuple[str | int, ...]
Where = Callable[[Path], str]

DEEPEST = 64
"""Sections in sections beyond this are taken for a mistake."""

_GIVEN = "given"


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
        """The name of the kind that the settings are of.

        Raises:
            ConfigError: they are of none.
        """
        kinds = self.kinds()
        for name, kind in kinds.items():
            if type(settings) is kind:
                return name
        example = next(iter(kinds.values())).__name__
        raise ConfigError(
            f"The settings of the {self.what} must be those of {', '.join(kinds)}, got {type(settings).__name__}. "
            f"Pass for example {example}()."
        )


def given(remedy: str, default_factory: Any = MISSING) -> Any:
    """A dataclass field that every tree must have, even where Python code may leave it to its default.

    Args:
        remedy: the sentence that says how to give it.
        default_factory: makes the default.
    """
    return field(default_factory=default_factory, metadata={_GIVEN: remedy})


def remedy_of(one: Field[Any]) -> str | None:
    """How to give a field that was made by `given`; None for any other."""
    return one.metadata.get(_GIVEN)


def needed(one: Field[Any]) -> bool:
    """Whether a tree must have the field."""
    return _GIVEN in one.metadata or (one.default is MISSING and one.default_factory is MISSING)


@functools.cache
def hints_of(kind: type[Any]) -> Mapping[str, Any]:
    """The types of a dataclass's fields."""
    return get_type_hints(kind, include_extras=True)


def tagged_in(hint: Any) -> Tagged | None:
    """The mark on a type, or on what it is a list or an option of."""
    if get_origin(hint) is Annotated:
        return next((mark for mark in hint.__metadata__ if isinstance(mark, Tagged)), None)
    return next((mark for member in get_args(hint) if (mark := tagged_in(member)) is not None), None)


def section_in(hint: Any) -> type[Any] | None:
    """The dataclass that a type is, or is a list or an option of."""
    if isinstance(hint, type) and is_dataclass(hint):
        return hint
    return next((kind for member in get_args(hint) if (kind := section_in(member)) is not None), None)


def as_tree(value: Any, hint: Any = Any) -> Any:
    """Settings as nested dictionaries and lists, as a config file would give them.

    Args:
        value: settings, or a part of them.
        hint: what it is declared as; settings that are marked by `Tagged` name their kind.
    """
    if is_dataclass(value) and not isinstance(value, type):
        hints, mark = hints_of(type(value)), tagged_in(hint)
        below = {one.name: as_tree(getattr(value, one.name), hints[one.name]) for one in fields(value)}
        return below if mark is None else {mark.tag: mark.name_of(value), **below}
    if isinstance(value, Mapping):
        return {key: as_tree(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_tree(one, hint) for one in value]
    return value


def complete(hint: Any, tree: Any, *, where: Where, path: Path = ()) -> Any:
    """The tree with its defaults written out and its texts taken apart, so that `key.sub=value` reaches everything.

    What does not fit is left as it is, for `build` to judge.

    Args:
        hint: the settings that the tree is meant for.
        tree: the tree, which stays as it is.
        where: names a place in the tree for messages.
        path: where the tree stands.

    Raises:
        ConfigError: a text that stands for settings is none.
    """
    if len(path) > DEEPEST:
        return tree
    if isinstance(tree, list):
        return [complete(hint, one, where=where, path=(*path, index)) for index, one in enumerate(tree)]
    mark, kind = tagged_in(hint), section_in(hint)
    if mark is not None:
        tree = _taken_apart(mark, hint, tree, where=where, path=path)
        name = tree.get(mark.tag) if isinstance(tree, dict) else None
        kind = mark.kinds().get(name) if isinstance(name, str) else None
    if not isinstance(tree, dict) or kind is None:
        return tree
    hints = hints_of(kind)
    filled = dict(tree)
    for one in fields(kind):
        if one.name in tree:
            filled[one.name] = complete(hints[one.name], tree[one.name], where=where, path=(*path, one.name))
        elif not needed(one):
            default = one.default if one.default_factory is MISSING else one.default_factory()
            filled[one.name] = as_tree(default, hints[one.name])
    return filled


def _taken_apart(mark: Tagged, hint: Any, tree: Any, *, where: Where, path: Path) -> Any:
    """The section that a text stands for, alone or as the tag of a section, whose other keys win over it."""
    section = {mark.tag: tree} if isinstance(tree, str) else tree
    text = section.get(mark.tag) if isinstance(section, dict) else None
    if not isinstance(text, str) or text.isidentifier():
        return section
    try:
        meant = as_tree(mark.parse(text), hint)
    except ConfigError as error:
        raise ConfigError(f"{where(path)}: {error}") from error
    return meant | {key: value for key, value in section.items() if key != mark.tag}
