"""Methods made of others: a tree of settings, its text `aid(ikd(frs + ssim), alpha=0.5)`, and its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from detdistill.errors import ConfigError, suggestion
from detdistill.methods.method import CALIBRATION, METHODS, STRENGTH, Method, StrengthSettings
from detdistill.settings import Tagged, as_tree, build, given
from detdistill.settings.calls import INNER, NAME, PARTS, SUM, Spelled, written
from detdistill.settings.trees import default_of, in_order


def settings_types() -> Mapping[str, type[Any]]:
    """Every kind of a method's settings by the name that a config file gives it, the sum included."""
    return {name: method.settings for name, method in METHODS.items()} | {SUM: SumSettings}


def parse_method(text: str) -> Any:
    """The settings that a method's text stands for.

    Args:
        text: a name (`frs`), with numbers (`frs(feature_gain=0.01)`), several at once (`frs + ssim`), or wrapped
            (`aid(frs, alpha=0.5)`). Values are numbers, `true`, `false`, `null`, words, quoted text and lists.

    Returns:
        Settings of the outermost method; `settings.recipe` are those of what it wraps, `SumSettings.recipes` those of
        the parts of a sum.

    Raises:
        ConfigError: another form, an unknown method or key, a value of another type, a wrapper around nothing.

    Example:
        >>> detdistill.parse_method("aid(frs, alpha=0.5)").alpha
        0.5
    """
    spelled = Spelled(text)
    for *path, key in spelled.places:
        if key == NAME:
            _require_fit(spelled, tuple(path))
    return build(MethodSettings, spelled.tree, where=spelled.where)


METHOD_MARK = Tagged(what="method", tag=NAME, kinds=settings_types, parse=parse_method)
"""How a method's settings are told apart, and read from a text."""
MethodSettings = Annotated[Any, METHOD_MARK]
"""The settings of any method, in a config file a section with the key `name`, or a text."""


def wrapped(default: type[Any]) -> Any:
    """The field `recipe` of a method that wraps another: the settings of that one.

    `default` is for Python code alone, which has a recipe to wrap already; texts and config files always say them.
    """
    remedy = "Write the method that is wrapped, as in --method 'aid(frs)', or in the config file"
    return field(default_factory=default, metadata=given(remedy))


@dataclass(frozen=True, slots=True)
class SumSettings(StrengthSettings):
    """Several methods at once.

    Attributes:
        recipes: the settings of each; a sum among them without a strength of its own is taken apart.

    Raises:
        ConfigError: there are fewer than two, or a method stands twice.
    """

    recipes: tuple[MethodSettings, ...] = field(
        metadata=given("Write the methods, as in --method 'frs + ssim', or in the config file")
    )

    def __post_init__(self) -> None:
        loose = [isinstance(part, SumSettings) and part.strength is None for part in self.recipes]
        both = zip(self.recipes, loose, strict=True)
        flat = [one for part, apart in both for one in (part.recipes if apart else (part,))]
        object.__setattr__(self, "recipes", tuple(flat))
        if len(flat) < 2:
            raise ConfigError(
                f"A sum must be of two methods or more, got {[method_text(one) for one in flat]}. Write a single one "
                "as it is."
            )
        names = base_methods(self)
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(
                f"The sum '{' + '.join(map(method_text, flat))}' must have every method once, got '{twice}' "
                f"{names.count(twice)} times. Raise the gains of one '{twice}' instead."
            )


def method_of(settings: object) -> Method:
    """The method that settings other than a sum's are of; ConfigError where they are of none."""
    return METHODS[METHOD_MARK.name_of(settings)]


def method_tree(settings: object) -> dict[str, Any]:
    """The settings as a config file has them, with the name of every method in them."""
    tree: dict[str, Any] = as_tree(settings, MethodSettings)
    return tree


def of_before(tree: Any) -> Any:
    """A method's tree that a run wrote, in today's words; before there were strengths, fgd had a gain so named."""
    if isinstance(tree, list):
        return [of_before(one) for one in tree]
    if not isinstance(tree, dict):
        return tree
    mixed = tree.get(NAME) == "fgd" and CALIBRATION not in tree
    return {"gain" if mixed and key == STRENGTH else key: of_before(value) for key, value in tree.items()}


def method_text(settings: Any) -> str:
    """The shortest text that `parse_method` turns into these settings: options at their defaults are left out.

    Example:
        >>> detdistill.method_text(detdistill.parse_method("aid( frs, alpha = 0.1 )"))
        'aid(frs)'
    """
    return _text(settings, options=True)


def structure(settings: Any) -> str:
    """The method without its numbers, such as ``"aid(ikd(frs + ssim))"``: a recipe's name."""
    return _text(settings, options=False)


def _text(settings: Any, *, options: bool) -> str:
    inside = []
    for one in in_order(type(settings)) if options else ():
        value, default = getattr(settings, one.name), default_of(one)
        if one.name not in (INNER, PARTS) and (value != default or type(value) is not type(default)):
            inside.append(f"{one.name}={written(value)}")
    if isinstance(settings, SumSettings):
        parts = " + ".join(_text(one, options=options) for one in settings.recipes)
        return f"{SUM}({', '.join([parts, *inside])})" if inside else parts
    method = method_of(settings)
    if method.wraps:
        inside.insert(0, _text(settings.recipe, options=options))
    return f"{method.name}({', '.join(inside)})" if inside else method.name


def base_methods(settings: Any) -> tuple[str, ...]:
    """The names of the methods that compare, without what wraps them, in order."""
    if isinstance(settings, SumSettings):
        return tuple(name for part in settings.recipes for name in base_methods(part))
    method = method_of(settings)
    return base_methods(settings.recipe) if method.wraps else (method.name,)


def _require_fit(spelled: Spelled, path: tuple[Any, ...]) -> None:
    """The word at `path` names a method, and one that wraps where it stands around another."""
    section, at = spelled.section(path), spelled.places[*path, NAME]
    name, inner = section[NAME], section.get(INNER)
    if name not in METHODS:
        where = "" if name == spelled.text.strip() else f" at position {at} of '{spelled.text}'"
        raise ConfigError(
            f"The method{where} must be one of {', '.join(METHODS)}, got '{name}'. "
            f"{suggestion(name, METHODS, listed=True)}"
        )
    if inner is not None and not METHODS[name].wraps:
        raise ConfigError(
            f"{spelled.where(path)} must be given key=value alone, got the method '{inner[NAME]}' to wrap. "
            f"Join methods by +, as in {name} + {inner[NAME]}."
        )
