"""What a method is, and where all methods are found: each at the end of its own file, or in another package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from detdistill.distillation.recipe import Calibrated, Decay, Fade, Recipe, Strength, WeightedTerm
from detdistill.errors import ConfigError
from detdistill.registry import Registry
from detdistill.settings.bounds import Gain, Share
from detdistill.settings.calls import INNER

STRENGTH, CALIBRATION = "strength", "calibration"
"""The keys of a method's settings that say how strong it is."""

PUBLISHED: Literal["published"] = "published"
"""The strength of a method whose gains are taken as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StrengthSettings:
    """What the numbers of every method and sum derive from: how strong it is beside the task.

    Attributes:
        strength: how long the gradient of its terms is, as a multiple of the task's, at the student's pyramid: a
            number of at least 0, to which its gains are scaled, or ``"published"``, which takes them as they are. Null
            takes that of the method or sum around it, which its parts share equally; outermost it is ``"published"``.
        calibration: whether the scale is measured over the first 30 steps, or followed through the whole run.
    """

    strength: Gain | Literal["published"] | None = None
    calibration: Calibrated = "fixed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledSettings(StrengthSettings):
    """What the numbers of every method derive from: how strong it is, and when it ends.

    The schedule is that of the terms that a method adds or, as `aid` does, changes.

    Attributes:
        until: share of the run, above 0 and at most 1, after which its terms are off and cost nothing.
        decay: how their gains fall until then: not at all, or to 0 in a straight line, along half a cosine, or in a
            straight line over the last third alone.

    Raises:
        ConfigError: `until` is no such share.
    """

    until: Share = 1.0
    decay: Decay = "none"

    def __post_init__(self) -> None:
        if not 0 < self.until <= 1:
            raise ConfigError(
                "The method's share of the run until must be above 0 and at most 1, got "
                f"{self.until}. Give one such as 0.5."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSettings(ScheduledSettings):
    """What the numbers of a method on feature maps derive from: its schedule, and on which scale it sees the maps.

    Attributes:
        features: ``"standardized"``: student's (aligned) and teacher's maps to zero mean and unit variance per image
            and channel before anything looks at them; ``"raw"``: as they are, for which published gains were made.
            Null is standardized at a strength that is a number, raw at the published one.
    """

    features: Literal["raw", "standardized"] | None = None


def scheduled(recipe: Recipe, settings: object, *, inner: Recipe | None = None) -> Recipe:
    """The recipe of a method with the schedule that its settings have on every term that is not as in `inner`."""
    if not isinstance(settings, ScheduledSettings):
        return recipe
    fade, kept = Fade(settings.until, settings.decay), () if inner is None else inner.terms
    if fade == Fade():
        return recipe

    def faded(term: WeightedTerm) -> WeightedTerm:
        return term if term in kept else replace(term, fades=(*term.fades, fade))

    return replace(recipe, terms=tuple(map(faded, recipe.terms)))


def strengthened(recipe: Recipe, strength: Strength | None, *, member: str = "", inner: Recipe | None = None) -> Recipe:
    """The recipe of a method with its strength; what a wrapper adds to `inner` has that of the first term in there."""
    kept = {} if inner is None else {one.name: one.strength for one in inner.terms}
    own = next(iter(kept.values()), strength)
    terms = (one if one.name in kept else replace(one, strength=own, member=member) for one in recipe.terms)
    return replace(recipe, terms=tuple(terms))


@dataclass(frozen=True, slots=True)
class Method:
    """One method.

    Attributes:
        name: what people write; a word.
        settings: frozen dataclass of its numbers, all with defaults, derived from `ScheduledSettings` where it is to
            have a schedule. One with a field `recipe`, made by
            `detdistill.methods.composition.wrapped`, changes the method whose settings stand there.
        build: (student spec, teacher spec, settings) → recipe; for a method that changes another, (that method's
            recipe, student spec, teacher spec, settings) → recipe. `detdistill methods NAME` prints its docstring.
    """

    name: str
    settings: type[Any]
    build: Callable[..., Recipe]

    @property
    def wraps(self) -> bool:
        """Whether it changes another method instead of standing on its own."""
        return any(one.name == INNER for one in fields(self.settings))


METHODS: Registry[Method] = Registry(
    "method", group="detdistill.methods", package="detdistill.methods", attribute="METHOD", entry_type=Method
)
"""The methods by name; `METHODS.register` adds one for this process."""
