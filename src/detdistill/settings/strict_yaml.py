"""YAML without its surprises: duplicate keys and aliases are refused, `1e-3` is a number, `no` is a word.

Reading and writing follow the same rules, so what `dump_yaml` writes, `load_yaml` reads back as it was.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from detdistill.errors import ConfigError, astray
from detdistill.files import require_regular

Resolvers = dict[str, list[tuple[str, re.Pattern[str]]]]

_FLOAT = (
    r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)"
    r"|\.(?:nan|NaN|NAN)"
)
# What PyYAML trips over in a value that does not fit its tag.
_TRIPS = (AttributeError, LookupError, TypeError)
# What a plain word must look like to be no text, and what it begins with.
_RESOLVERS = (
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", "[-+]?[0-9]+", "-+0123456789"),
    ("float", _FLOAT, "-+0123456789."),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
)


class _Problem(Exception):
    """What is wrong with a text, before the file's name is known."""

    def __init__(self, said: str, line: int, remedy: str) -> None:
        super().__init__(said)
        self.said, self.line, self.remedy = said, line, remedy


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's plain scalars, refusing a key that stands twice, and aliases.

    A few lines of aliases that name each other make more values than any memory holds.
    """

    yaml_implicit_resolvers: Resolvers = {}  # noqa: RUF012 (PyYAML's own declaration)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise _Problem(f"aliases must be left out, got *{event.anchor}", event.start_mark.line + 1, "Write it out")
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[object, tuple[int, str]] = {}
        # What is tagged as a section and is none, PyYAML refuses.
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise _Problem("every key must be a word, got a list or a section as a key", line, "Quote the key")
            key, text = self.construct_object(key_node), key_node.value
            if key in lines:
                before, as_text = lines[key]
                first = f"line {before}" if as_text == text else f"line {before} (as '{as_text}')"
                said = f"'{text}' must stand once in its section, got it on {first} and on line {line}"
                raise _Problem(said, line, "Remove one of the two")
            lines[key] = line, text
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, quoting what `_Loader` or a YAML 1.1 reader would take for something else."""

    yaml_implicit_resolvers: Resolvers = dict(yaml.SafeDumper.yaml_implicit_resolvers)  # noqa: RUF012

    def ignore_aliases(self, data: object) -> bool:
        return True


for _tag, _pattern, _first in _RESOLVERS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))  # YAML 1.1 reads 010 as eight


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def parse_yaml(text: str, where: str) -> Any:
    """The content of a YAML text; messages call it `where`, such as a file name.

    Raises:
        ConfigError: the text is no YAML, has an alias, or a key twice in one section.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except _Problem as problem:
        raise ConfigError(f"{where}, line {problem.line}: {problem.said}. {problem.remedy}.") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        said = error.problem or "a syntax error"
        raise ConfigError(f"{where}{line} must be YAML, got: {said}. Mend that line.") from error
    except (yaml.YAMLError, ValueError, ArithmeticError, RecursionError, *_TRIPS) as error:
        # !!int x, endless nesting and \0 say what they are, !!bool x does not.
        said = "a value that does not fit the tag (!!...) before it" if isinstance(error, _TRIPS) else str(error)
        said = (said.splitlines() or ["a value that cannot be read"])[0]
        raise ConfigError(f"{where} must be plain YAML, got: {said}. Write the file anew.") from error


def load_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        ConfigError: the file is missing or unreadable, is no YAML, or has a key twice in one section.
    """
    require_regular(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} must be a readable file, got: {error.strerror}. {astray(path)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} must be YAML in UTF-8, got other bytes. Check the path.") from error
    return parse_yaml(text, str(path))


def dump_yaml(content: Any) -> str:
    """`content` (dicts, lists, tuples, text, numbers, None) as YAML, in the order given; tuples become lists."""
    return yaml.dump(_plain(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _plain(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_plain(value) for value in content]
    return str(content) if isinstance(content, Path) else content
