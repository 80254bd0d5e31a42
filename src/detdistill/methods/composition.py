"""Methods as one line of text and back: `aid(ikd(frs + ssim), alpha=0.5)` ⇄ settings."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from detdistill.errors import ConfigError, suggestion
from detdistill.methods.entries import RECIPES, WRAPPERS, Settings, SumSettings, known_methods, settings_types
from detdistill.methods.grammar import Call, take_apart, written

WRAPPED = "recipe"


def parse_method(text: str) -> Settings:
    """The settings that a method's text stands for.

    Args:
        text: a name (`frs`), with numbers (`frs(feature_gain=0.01)`), several at once (`frs + ssim`), or wrapped
            (`aid(frs, alpha=0.5)`). Values are numbers, `true`, `false`, `null`, words, quoted text and lists.

    Returns:
        Settings of the outermost method; what it wraps is kept as text in `settings.recipe`, the parts of a sum in
        `SumSettings.recipes`.

    Raises:
        ConfigError: another form, an unknown method or key, a value of another type, a wrapper around nothing.

    Example:
        >>> detdistill.parse_method("aid(frs, alpha=0.5)").alpha
        0.5
    """
    return _of_sum(take_apart(text), text)


def method_text(settings: Settings) -> str:
    """The shortest text that `parse_method` turns into these settings: options at their defaults are left out.

    Raises:
        ConfigError: the settings are of no method, or a text in them is none.

    Example:
        >>> detdistill.method_text(detdistill.parse_method("aid( frs, alpha = 0.1 )"))
        'aid(frs)'
    """
    if isinstance(settings, SumSettings):
        return " + ".join(method_text(part) for part in parts(settings))
    name = method_name(settings)
    inside = [method_text(inner(settings))] if name in WRAPPERS else []
    for field in fields(settings):
        value, default = getattr(settings, field.name), getattr(type(settings)(), field.name)
        if not (name in WRAPPERS and field.name == WRAPPED) and (value != default or type(value) is not type(default)):
            inside.append(f"{field.name}={written(value)}")
    return f"{name}({', '.join(inside)})" if inside else name


def structure(settings: Settings) -> str:
    """The method without its numbers, such as ``"aid(ikd(frs + ssim))"``: a recipe's name."""
    if isinstance(settings, SumSettings):
        return " + ".join(structure(part) for part in parts(settings))
    name = method_name(settings)
    return f"{name}({structure(inner(settings))})" if name in WRAPPERS else name


def base_methods(settings: Settings) -> tuple[str, ...]:
    """The names of the methods that compare, without what wraps them, in order."""
    if isinstance(settings, SumSettings):
        return tuple(name for part in parts(settings) for name in base_methods(part))
    name = method_name(settings)
    return base_methods(inner(settings)) if name in WRAPPERS else (name,)


def canonical(settings: Settings) -> Settings:
    """The same settings with every method's text in them as `method_text` writes it.

    Raises:
        ConfigError: a text in them is no method, or a method stands twice in a sum.
    """
    if isinstance(settings, SumSettings):
        return SumSettings(tuple(map(method_text, parts(settings))))
    if method_name(settings) in WRAPPERS:
        wrapper: Any = settings
        rewritten: Settings = replace(wrapper, **{WRAPPED: method_text(inner(settings))})
        return rewritten
    return settings


def method_name(settings: Settings) -> str:
    """The name of the outermost method, as a config file gives it; ``"sum"`` for a sum.

    Raises:
        ConfigError: the settings are of no method.
    """
    for name, settings_type in settings_types().items():
        if type(settings) is settings_type:
            return name
    raise ConfigError(
        f"The method must be one of {', '.join(known_methods())}, or the settings of one, got "
        f"{type(settings).__name__}. Pass a name or for example HintSettings()."
    )


def inner(settings: Settings) -> Settings:
    """Settings of the method that a wrapper wraps."""
    text: str = getattr(settings, WRAPPED)
    return parse_method(text)


def parts(settings: SumSettings) -> tuple[Settings, ...]:
    """Settings of the methods of a sum; a sum among them is taken apart too.

    Raises:
        ConfigError: a text is no method, or a method stands twice.
    """
    found: list[Settings] = []
    for text in settings.recipes:
        part = parse_method(text)
        found += parts(part) if isinstance(part, SumSettings) else [part]
    names = [name for part in found for name in base_methods(part)]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"The sum '{' + '.join(settings.recipes)}' must have every method once, got '{name}' "
                f"{names.count(name)} times. Raise the gains of one '{name}' instead."
            )
    return tuple(found)


def _of_sum(calls: Sequence[Call], text: str) -> Settings:
    several = [_of_call(call, text) for call in calls]
    if len(several) == 1:
        return several[0]
    whole = SumSettings(tuple(method_text(one) for one in several))
    parts(whole)
    return whole


def _of_call(call: Call, text: str) -> Settings:
    entry = RECIPES.get(call.name) or WRAPPERS.get(call.name)
    if entry is None:
        where = "" if call.name == text.strip() else f" at position {call.at} of '{text}'"
        raise ConfigError(
            f"The method{where} must be one of {', '.join(known_methods())}, got '{call.name}'. "
            f"{suggestion(call.name, known_methods(), listed=True)}"
        )
    if call.name in RECIPES and call.inner:
        raise ConfigError(
            f"{call.name} at position {call.at} of '{text}' must be given key=value alone, got the method "
            f"'{call.inner[0].name}' to wrap. Join methods by +, as in {call.name} + {call.inner[0].name}."
        )
    if call.name in RECIPES:
        return _filled(call, entry.settings_type, text, {})
    if not call.inner:
        raise ConfigError(
            f"{call.name} at position {call.at} of '{text}' must be given the method that it wraps, got none. "
            f"Write for example {call.name}(frs)."
        )
    return _filled(call, entry.settings_type, text, {WRAPPED: method_text(_of_sum(call.inner, text))})


def _filled(call: Call, settings_type: type[Any], text: str, fixed: Mapping[str, str]) -> Settings:
    """The settings with what the call says; its keys and the types of its values are checked."""
    hints = {key: hint for key, hint in get_type_hints(settings_type).items() if key not in fixed}
    values: dict[str, Any] = dict(fixed)
    for key, option in call.options.items():
        if key not in hints:
            raise ConfigError(
                f"The keys of {call.name} in '{text}' must be among {', '.join(hints)}, got '{key}' at position "
                f"{option.at}. {suggestion(key, hints, listed=True)}"
            )
        found = _fit(option.value, hints[key])
        if found is None:
            words = [str(choice) for choice in _choices(hints[key])]
            remedy = suggestion(str(option.value), words, listed=True) if words else "Change the value."
            raise ConfigError(
                f"{key} at position {option.at} of '{text}' must be {' or '.join(_expected(hints[key]))}, got "
                f"{_shown(option.value)}. {remedy}"
            )
        values[key] = found[0]
    settings: Settings = settings_type(**values)
    return settings


def _shown(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else written(value)


def _choices(hint: Any) -> list[Any]:
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return [choice for member in get_args(hint) for choice in _choices(member)]
    return []


def _fit(value: object, hint: Any) -> tuple[Any] | None:
    """The value as the type wants it, in a tuple; None where it does not fit."""
    origin, members = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return next((found for member in members if (found := _fit(value, member)) is not None), None)
    if origin is Literal:
        same = [choice for choice in members if choice == value and type(choice) is type(value)]
        return (same[0],) if same else None
    if origin is tuple:
        return _fit_list(value, members)
    if hint is float and type(value) is int:
        return (float(value),)
    return (value,) if type(value) is hint else None


def _fit_list(value: object, members: tuple[Any, ...]) -> tuple[Any] | None:
    if not isinstance(value, tuple):
        return None
    kinds = members[:1] * len(value) if members[-1:] == (Ellipsis,) else members
    if len(kinds) != len(value):
        return None
    found = [_fit(one, kind) for one, kind in zip(value, kinds, strict=True)]
    return None if None in found else (tuple(one[0] for one in found if one is not None),)


_WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "text", type(None): "null"}


def _expected(hint: Any) -> list[str]:
    origin, members = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return [word for member in members for word in _expected(member)]
    if origin is Literal:
        return [written(choice) for choice in members]
    if origin is tuple:
        count = "" if members[-1:] == (Ellipsis,) else f" of {len(members)}"
        return [f"a list{count}"]
    return [_WORDS.get(hint, str(hint))]
