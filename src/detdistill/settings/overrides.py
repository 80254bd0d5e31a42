"""`key.sub=value`: one setting, written on the command line, that reaches into sections and lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from detdistill.errors import ConfigError
from detdistill.settings.calls import NAME
from detdistill.settings.strict_yaml import parse_yaml
from detdistill.settings.trees import Tree


@dataclass(frozen=True, slots=True)
class Override:
    """One setting: where it goes, what it is, and how the user wrote it."""

    path: tuple[str, ...]
    value: Any
    written: str


def parse_override(text: str) -> Override:
    """The setting that `text` writes; its value is read as YAML.

    Args:
        text: such as ``train.lr=1e-3``, ``train.milestones.1=0.9`` or ``teacher.allow=[a, b]``.

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


def apply_override(tree: Tree, override: Override) -> None:
    """Puts the setting into `tree`, in place; a section that is not there is made, for the later check to judge.

    Raises:
        ConfigError: the path goes through a plain value, or past the end of a list.
    """
    at: Any = tree
    for depth, part in enumerate(override.path):
        if depth == len(override.path) - 1:
            _put(at, part, override, depth)
            return
        below = at.get(part) if isinstance(at, dict) else at[_index(at, part, override, depth)]
        if below is None:
            below = {}
            _put(at, part, Override(override.path, below, override.written), depth)
        if not isinstance(below, (dict, list)):
            here = ".".join(override.path[: depth + 1])
            raise ConfigError(
                f"{here} in '{override.written}' must be a section or a list, got the value {below!r}. "
                f"Set it with {here}=VALUE."
            )
        at = below


def _put(at: Any, part: str, override: Override, depth: int) -> None:
    if isinstance(at, dict):
        if part == NAME and at.get(NAME) != override.value:
            at.clear()  # another method has other keys
        at[part] = override.value
        return
    index = _index(at, part, override, depth, end=True)
    if index == len(at):
        at.append(override.value)
    else:
        at[index] = override.value


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
