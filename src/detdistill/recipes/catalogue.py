"""All methods by name: their settings, how they are built, and what they say about themselves."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch

from detdistill.detectors.base import DetectorSpec
from detdistill.distill.recipe import Recipe
from detdistill.errors import ConfigError, suggestion
from detdistill.recipes.frs import FRSSettings, build_frs
from detdistill.recipes.hint import HintSettings, build_hint
from detdistill.recipes.ssim import SSIMSettings, build_ssim

Settings = HintSettings | FRSSettings | SSIMSettings
_SECTIONS = ("Formula", "Needs", "Source", "Differs from the source")


@dataclass(frozen=True, slots=True)
class RecipeEntry:
    """One method of the catalogue.

    Attributes:
        settings_type: frozen dataclass of its numbers, all with defaults.
        build: (student spec, teacher spec, settings) → recipe.
    """

    settings_type: type[Any]
    build: Callable[[DetectorSpec, DetectorSpec, Any], Recipe]


RECIPES: dict[str, RecipeEntry] = {
    "hint": RecipeEntry(HintSettings, build_hint),
    "frs": RecipeEntry(FRSSettings, build_frs),
    "ssim": RecipeEntry(SSIMSettings, build_ssim),
}


@dataclass(frozen=True, slots=True)
class RecipeDescription:
    """What `detdistill methods NAME` prints; read from the builder's own documentation."""

    name: str
    summary: str
    formula: str
    needs: str
    source: str
    differs: str
    defaults: dict[str, Any]


def recipe_entry(name: str) -> RecipeEntry:
    """The catalogue's entry of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in RECIPES:
        raise ConfigError(f"The method must be one of {', '.join(RECIPES)}, got '{name}'. {suggestion(name, RECIPES)}")
    return RECIPES[name]


def build_recipe(method: str | Settings, student: DetectorSpec, teacher: DetectorSpec, *, seed: int = 0) -> Recipe:
    """A recipe for these two detectors.

    What its terms train is initialised from a generator of its own, so that the student's initial weights and
    the global random state are the same with and without distillation.

    Args:
        method: a name (published numbers), or a settings object.
        student: spec of the student.
        teacher: spec of the teacher.
        seed: of the terms' initial weights.

    Returns:
        The recipe; its modules are on the CPU.

    Raises:
        ConfigError: unknown method or number.
        CapabilityError: the detectors do not offer what it needs.
    """
    if isinstance(method, str):
        entry = recipe_entry(method)
        settings: Any = entry.settings_type()
    else:
        found = [entry for entry in RECIPES.values() if type(method) is entry.settings_type]
        if not found:
            raise ConfigError(
                f"The method must be one of {', '.join(RECIPES)}, or the settings of one, got "
                f"{type(method).__name__}. Pass a name or for example HintSettings()."
            )
        (entry,), settings = found, method
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return entry.build(student, teacher, settings)


def describe(name: str) -> RecipeDescription:
    """What a method says about itself.

    Raises:
        ConfigError: unknown method.
    """
    entry = recipe_entry(name)
    text = inspect.getdoc(entry.build) or ""
    sections = {title: _section(text, title) for title in _SECTIONS}
    default = entry.settings_type()
    return RecipeDescription(
        name=name,
        summary=text.splitlines()[0],
        formula=sections["Formula"],
        needs=sections["Needs"],
        source=sections["Source"],
        differs=sections["Differs from the source"],
        defaults={field.name: getattr(default, field.name) for field in fields(entry.settings_type)}
        if is_dataclass(entry.settings_type)
        else {},
    )


def _section(text: str, title: str) -> str:
    lines = iter(text.splitlines())
    for line in lines:
        if line == f"{title}:":
            break
    body = []
    for line in lines:
        if line and not line.startswith(" "):
            break
        body.append(line)
    return inspect.cleandoc("\n".join(body)).strip()
