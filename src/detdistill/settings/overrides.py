"""`key.sub=value`: one setting, written on the command line, that reaches into sections, lists and texts."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any

from detdistill.errors import ConfigError
from detdistill.settings.strict_yaml import parse_yaml
from detdistill.settings.trees import Tree, as_tree, default_of, hints_of, section_in, tagged_in


@dataclass(frozen=True, slots=True)
class Override:
    """One setting: where it goes, what it is, and how the user wrote it."""

    path: tuple[str, ...]
    value: Any
    written: str


def parse_override(text: str) -> Override:
    """The setting that a text writes, such as ``train.milestones.1=0.9``; its value is read as YAML.

    Raises:
        ConfigError: it is not of the form ``key.sub=value``, or the value is no YAML.
    """
    key, equals, value = text.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        raise ConfigError(
            f"Setting '{text}' must have the form key.sub=value, got no such form. "
            "Write it like train.lr=0.01, or name a file that ends in .yaml."
        )
    return Override(path=path, value=parse_yaml(value, f"The value in '{text}'"), written=text)


def apply_override(tree: Tree, override: Override, hint: Any = Any) -> None:
    """Puts the setting into the whole tree, in place; `hint` is the type of the settings that the tree is meant for.

    What it goes through is written out first: a text as the section that it stands for, what is not there as its
    default, or as an empty section for `build` to judge.

    Raises:
        ConfigError: the path goes through a plain value, or past the end of a list.
    """
    at: Any = tree
    *through, last = override.path
    for depth, part in enumerate(through):
        at, hint = _below(at, part, override, depth, hint)
    mark = tagged_in(hint)
    if isinstance(at, list):
        index = _index(at, last, override, len(through), end=True)
        at[index : index + 1] = [override.value]
        return
    if mark is not None and last == mark.tag and at.get(last) != override.value:
        at.clear()  # another kind has other keys
    at[last] = override.value


def _below(at: Any, part: str, override: Override, depth: int, hint: Any) -> tuple[Any, Any]:
    """The section or list under `part`, written out in `at`, and its type."""
    key: Any = part
    if isinstance(at, list):
        key = _index(at, part, override, depth)
        found = at[key]
    else:
        mark = tagged_in(hint)
        kind: Any = section_in(hint) if mark is None else mark.kinds().get(str(at.get(mark.tag)))
        defaults = {} if kind is None else {one.name: default_of(one) for one in fields(kind)}
        hint = hints_of(kind)[part] if part in defaults else Any
        default = defaults.get(part)
        found = at[part] if part in at else as_tree(None if default is MISSING else default, hint)
    here = ".".join(override.path[: depth + 1])
    mark = tagged_in(hint)
    try:
        if mark is not None and found is not None:
            found = mark.taken_apart(found)
        elif found is None or (isinstance(found, str) and section_in(hint)):
            found = {}  # a word in the place of a section gives way to its keys
    except ConfigError as error:
        raise ConfigError(f"{here} in '{override.written}': {error}") from error
    if not isinstance(found, (dict, list)):
        raise ConfigError(
            f"{here} in '{override.written}' must be a section or a list, got the value {found!r}. "
            f"Set it with {here}=VALUE."
        )
    at[key] = found
    return found, hint


def _index(at: list[Any], part: str, override: Override, depth: int, *, end: bool = False) -> int:
    last = len(at) if end else len(at) - 1
    if not part.isdecimal() or int(part) > last:
        here = ".".join(override.path[:depth])
        bounds = f"a position from 0 to {last}" if last >= 0 else "set as a whole, since it is empty"
        raise ConfigError(
            f"'{part}' in '{override.written}' must be {bounds}, got '{part}': {here} is a list of {len(at)}. "
            f"Count from 0, or set the whole list with {here}=[...]."
        )
    return int(part)
