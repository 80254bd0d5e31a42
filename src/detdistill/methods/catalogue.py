"""All methods by name: how they are built, alone, wrapped or summed, and what they say about themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from detdistill.detectors.base import DetectorSpec
from detdistill.distillation.recipe import Recipe, Strength, TwinMaker
from detdistill.distillation.term import shared_strides
from detdistill.distillation.weigh import Features
from detdistill.errors import CapabilityError, ConfigError
from detdistill.methods.composition import (
    MethodSettings,
    SumSettings,
    method_of,
    method_text,
    method_tree,
    parse_method,
    structure,
)
from detdistill.methods.features import require_gain, require_one_of
from detdistill.methods.method import METHODS, PUBLISHED, Method, StrengthSettings, scheduled, strengthened
from detdistill.settings.calls import INNER
from detdistill.settings.trees import in_order

__all__ = [
    "METHODS",
    "Method",
    "MethodSettings",
    "RecipeDescription",
    "SumSettings",
    "build_recipe",
    "describe",
    "method_text",
    "method_tree",
    "parse_method",
]

_SECTIONS = {"formula": "Formula", "needs": "Needs", "source": "Source", "differs": "Differs from the source"}


@dataclass(frozen=True, slots=True)
class RecipeDescription:
    """What `detdistill methods NAME` prints; read from the builder's own documentation.

    Attributes:
        wraps: whether it changes another method instead of standing on its own.
        needs: what both detectors must offer.
        source: the paper.
        differs: where we do otherwise, and why.
        defaults: of its settings.
    """

    name: str
    wraps: bool
    summary: str
    formula: str
    needs: str
    source: str
    differs: str
    defaults: dict[str, Any]


def build_recipe(
    method: str | MethodSettings, student: DetectorSpec, teacher: DetectorSpec, *, seed: int = 0
) -> Recipe:
    """A recipe for these two detectors, named by its methods without their numbers; its modules are on the CPU.

    What its terms train is initialised from a generator of its own, so that the student's initial weights and the
    global random state are the same with and without distillation. Every method starts from the same weights alone,
    wrapped and in a sum.

    Args:
        method: a name (published gains), a text such as ``"aid(frs + ssim, alpha=0.5)"``, or a settings object.
        student: spec of the student.
        teacher: spec of the teacher.
        seed: of the terms' initial weights.

    Raises:
        ConfigError: unknown method or number, or methods that do not go together.
        CapabilityError: the detectors do not offer what it needs.

    Example:
        >>> student = detdistill.build_detector("fcos/tiny", ("car",), seed=0)
        >>> teacher = detdistill.build_detector("fcos/small", ("car",), seed=0)
        >>> detdistill.build_recipe("aid(frs, alpha=0.5)", student.spec, teacher.spec).name
        'aid(frs)'
    """
    settings = parse_method(method) if isinstance(method, str) else method
    with torch.random.fork_rng(devices=[]):
        recipe = _built(settings, student, teacher, seed)
    kept = tuple(one for one in recipe.terms if one.strength is None or one.strength.value > 0)
    if len(kept) == len(recipe.terms):
        return recipe
    seen = {one.view.twin for one in kept}
    return replace(recipe, terms=kept, twins={name: maker for name, maker in recipe.twins.items() if name in seen})


def _built(
    settings: Any, student: DetectorSpec, teacher: DetectorSpec, seed: int, around: Strength | None = None
) -> Recipe:
    """The recipe of a method or sum; `around` is the strength of what it is a part of."""
    strength = around
    if isinstance(settings, StrengthSettings) and settings.strength is not None:
        strength, own = None, settings.strength
        if isinstance(own, str):
            require_one_of("strength", own, (PUBLISHED,))
        else:
            require_gain("strength", own)
            strength = Strength(structure(settings), own, settings.calibration)
    if isinstance(settings, SumSettings):
        return _summed([_built(part, student, teacher, seed, strength) for part in settings.recipes])
    method = method_of(settings)
    if strength is not None and isinstance(settings, StrengthSettings) and settings.strength is None:
        settings = replace(settings, strength=strength.value)
    if method.wraps:
        inner = _built(settings.recipe, student, teacher, seed, strength)
        outer = replace(
            _offered(method, (student, teacher), inner, student, teacher, settings), name=structure(settings)
        )
        return scheduled(strengthened(outer, strength, inner=inner), settings, inner=inner)
    torch.default_generator.manual_seed(seed)
    built = strengthened(_offered(method, (student, teacher), student, teacher, settings), strength, member=method.name)
    return scheduled(built, settings)


def _offered(method: Method, specs: tuple[DetectorSpec, DetectorSpec], *given: Any) -> Recipe:
    """What a method builds; one sentence for all of them where it reads more than boxes, and these are all there is."""
    student, teacher = specs
    if teacher.pyramid is not None:
        try:
            return method.build(*given)
        except CapabilityError:
            if student.pyramid is not None:
                shared_strides(student, teacher)  # its remedy first: no method on maps works without
            raise
    try:
        recipe, why = method.build(*given), None
        shown = {need for view in recipe.views() for need in recipe.teacher_needs(view)}
        if not (shown | recipe.weight_needs(Features.STUDENT) or recipe.twins):
            return recipe
    except CapabilityError as error:
        why = error
    raise CapabilityError(
        f"The method '{method.name}' must be one that reads the teacher's boxes alone, as {teacher.name} shows nothing "
        f"else, got '{method.name}'. Distil by --method boxes."
    ) from why


def _summed(recipes: Sequence[Recipe]) -> Recipe:
    name = " + ".join(recipe.name for recipe in recipes)
    changing = [recipe for recipe in recipes if recipe.sample_transform is not None]
    twins: dict[str, TwinMaker] = {}
    made = [(twin, maker) for recipe in recipes for twin, maker in recipe.twins.items()]
    differ = next((twin for twin, maker in made if twins.setdefault(twin, maker) != maker), None)
    terms = tuple(term for recipe in recipes for term in recipe.terms)
    names = [term.name for term in terms]
    twice = sorted({term for term in names if names.count(term) > 1})
    wrong = None
    if len(changing) > 1:
        together = " and ".join(recipe.name for recipe in changing)
        wrong = f"have at most one method that changes the samples, got {together}"
    elif differ is not None:
        wrong = f"make every twin in one way, got two for '{differ}'"
    elif twice:
        wrong = f"have every term once, got {', '.join(twice)} more than once"
    if wrong is not None:
        raise ConfigError(f"The sum '{name}' must {wrong}. Wrap the sum instead, as in ikd(frs + ssim).")
    notes = tuple(note for recipe in recipes for note in recipe.notes)
    return replace((changing or recipes)[0], name=name, terms=terms, twins=twins, notes=notes)


def describe(name: str) -> RecipeDescription:
    """What a method says about itself, be it one that stands on its own or one that changes another.

    Raises:
        ConfigError: unknown method.
    """
    method = METHODS.find(name)
    text = inspect.getdoc(method.build) or ""
    default = method.settings()
    return RecipeDescription(
        name=name,
        wraps=method.wraps,
        summary=text.partition("\n")[0],
        **{key: _section(text, title) for key, title in _SECTIONS.items()},
        defaults={field.name: getattr(default, field.name) for field in in_order(type(default)) if field.name != INNER},
    )


def _section(text: str, title: str) -> str:
    found = re.search(rf"^{title}:\n((?: .*\n|\n)*)", f"{text}\n", flags=re.MULTILINE)
    return inspect.cleandoc(found[1]).strip() if found else ""
