"""The table of methods: what each is called, its numbers, and what builds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from detdistill.detectors.base import DetectorSpec
from detdistill.distillation.recipe import Recipe
from detdistill.errors import ConfigError
from detdistill.methods.aid import AIDSettings, wrap_aid
from detdistill.methods.attention import AttentionSettings, build_attention
from detdistill.methods.fgd import FGDSettings, build_fgd
from detdistill.methods.frs import FRSSettings, build_frs
from detdistill.methods.hint import HintSettings, build_hint
from detdistill.methods.ikd import IKDSettings, wrap_ikd
from detdistill.methods.ld import LDSettings, build_ld
from detdistill.methods.mgd import MGDSettings, build_mgd
from detdistill.methods.ssim import SSIMSettings, build_ssim

SUM = "sum"
"""How a config file calls several methods at once."""


@dataclass(frozen=True, slots=True)
class RecipeEntry:
    """One method of the catalogue.

    Attributes:
        settings_type: frozen dataclass of its numbers, all with defaults.
        build: (student spec, teacher spec, settings) → recipe.
    """

    settings_type: type[Any]
    build: Callable[[DetectorSpec, DetectorSpec, Any], Recipe]


@dataclass(frozen=True, slots=True)
class WrapperEntry:
    """One method of the catalogue that changes another.

    Attributes:
        settings_type: frozen dataclass of its numbers, all with defaults; its field `recipe` is the text of the
            method that it wraps.
        wrap: (that method's recipe, student spec, teacher spec, settings) → recipe.
    """

    settings_type: type[Any]
    wrap: Callable[[Recipe, DetectorSpec, DetectorSpec, Any], Recipe]


@dataclass(frozen=True, slots=True)
class SumSettings:
    """Several methods at once.

    Attributes:
        recipes: the text of each.

    Raises:
        ConfigError: there are fewer than two.
    """

    recipes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.recipes) < 2:
            raise ConfigError(
                f"method.recipes must be two methods or more, got {list(self.recipes)}. Write a single one as it is."
            )


RECIPES: dict[str, RecipeEntry] = {
    "hint": RecipeEntry(HintSettings, build_hint),
    "attention": RecipeEntry(AttentionSettings, build_attention),
    "frs": RecipeEntry(FRSSettings, build_frs),
    "ssim": RecipeEntry(SSIMSettings, build_ssim),
    "fgd": RecipeEntry(FGDSettings, build_fgd),
    "mgd": RecipeEntry(MGDSettings, build_mgd),
    "ld": RecipeEntry(LDSettings, build_ld),
}
"""The methods that stand on their own."""

WRAPPERS: dict[str, WrapperEntry] = {
    "aid": WrapperEntry(AIDSettings, wrap_aid),
    "ikd": WrapperEntry(IKDSettings, wrap_ikd),
}
"""The methods that change another one."""

BaseSettings = HintSettings | AttentionSettings | FRSSettings | SSIMSettings | FGDSettings | MGDSettings | LDSettings
Settings = BaseSettings | AIDSettings | IKDSettings | SumSettings


def known_methods() -> tuple[str, ...]:
    """The names that may stand in a method's text."""
    return (*RECIPES, *WRAPPERS)


def settings_types() -> dict[str, type[Any]]:
    """Every kind of settings by the name that a config file gives it, the sum included."""
    return {name: entry.settings_type for name, entry in (RECIPES | WRAPPERS).items()} | {SUM: SumSettings}
