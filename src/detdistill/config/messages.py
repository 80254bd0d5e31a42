"""pydantic's findings as detdistill's one sentence form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from detdistill.config.schema import known_keys
from detdistill.errors import ConfigError, DistillError, suggestion

Where = Callable[[tuple[str | int, ...]], str]

_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_MISSING = ("missing", "missing_argument", "missing_keyword_only_argument")
_SECTION = ("dataclass_type", "model_type", "model_attributes_type", "dict_type")
_OPTIONS: dict[tuple[str | int, ...], str] = {
    ("out",): "Pass --out FOLDER",
    ("method", "recipe"): "Write the method that is wrapped, as in --method 'aid(frs)'",
    ("method", "recipes"): "Write the methods, as in --method 'frs + ssim'",
}
_EXPECTED = {
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "tuple_type": "a list",
    "list_type": "a list",
    "none_required": "null",
}


def as_config_error(error: ValidationError, *, tree: dict[str, Any], method: str | None, where: Where) -> ConfigError:
    """One `ConfigError` with a sentence per key that cannot be used.

    Args:
        error: what pydantic found.
        tree: what pydantic was given.
        method: the recipe that is chosen.
        where: says for a path whether the file or the command line wrote it.
    """
    found: dict[tuple[str | int, ...], list[ErrorDetails]] = {}
    for details in error.errors():
        found.setdefault(_path(details, tree), []).append(details)
    student = tree.get("student")
    family = student.get("family") if isinstance(student, dict) else None
    return ConfigError("\n".join(_sentence(path, details, method, family, where) for path, details in found.items()))


def _path(details: ErrorDetails, tree: dict[str, Any]) -> tuple[str | int, ...]:
    """Where the finding is in the tree: pydantic's own location without the names of union members."""
    path: list[str | int] = []
    at: Any = tree
    location = details["loc"]
    for depth, part in enumerate(location):
        inside = part in at if isinstance(at, dict) else isinstance(at, list) and part in range(len(at))
        if inside:
            at = at[part]
        elif not (depth == len(location) - 1 and details["type"] in _MISSING):
            continue
        path.append(part)
    return tuple(path)


def _sentence(
    path: tuple[str | int, ...], several: list[ErrorDetails], method: str | None, family: str | None, where: Where
) -> str:
    details = several[0]
    kind, value, key = details["type"], details["input"], ".".join(map(str, path))
    if kind in _UNKNOWN:
        section = ".".join(map(str, path[:-1])) or "a run"
        hint = suggestion(str(path[-1]), known_keys(path[:-1], method=method, family=family))
        return f"{where(path)}: {key} must be a key of {section}, got the unknown '{path[-1]}'. {hint}"
    if kind in _MISSING:
        remedy = _OPTIONS.get(path, f"Add {key}=VALUE")
        return f"{where(path)}: {key} must be given, got nothing. {remedy}, or write it in the config file."
    if kind in ("value_error", "assertion_error"):
        cause = details.get("ctx", {}).get("error")
        if isinstance(cause, DistillError):
            return f"{where(path)}: {cause}" if key in str(cause) else f"{where(path)}, {key}: {cause}"
        return f"{where(path)}: {key} must be usable, got {value!r} ({cause}). Change it."
    expected = list(dict.fromkeys(_expected(one) for one in several))
    remedy = "Change the value."
    if kind == "literal_error":
        choices = str(details["ctx"]["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        remedy = suggestion(str(value), choices, listed=True)
    if kind in _SECTION:
        remedy = f"Write its keys indented below '{path[-1]}:'." if path else "Write `key: value` lines."
    return f"{where(path)}: {key} must be {' or '.join(expected)}, got {_shown(value)}. {remedy}"


def _expected(details: ErrorDetails) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind == "literal_error":
        return str(context["expected"])
    if kind in _SECTION:
        return "a section of keys"
    if kind in ("too_long", "too_short", "missing_positional_only_argument"):
        bound = context.get("max_length", context.get("min_length"))
        return f"a list of {'at most' if kind == 'too_long' else 'at least'} {bound} values"
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    said = details["msg"].removeprefix("Input should be ").removeprefix("Value should be ")
    return said[:1].lower() + said[1:]


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a section"
    return "nothing" if value is None else repr(value)
