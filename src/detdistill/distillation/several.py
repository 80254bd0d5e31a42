"""Several teachers of one student: at once, each image and level shared out among them, or one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from detdistill.detectors.base import DetectorSpec
from detdistill.distillation.recipe import Recipe, WeightedTerm, Window
from detdistill.errors import ConfigError
from detdistill.types import ClassKind, Cost, Knowledge

_MARK = "@"


def together(recipes: Sequence[Recipe], windows: Sequence[Window]) -> Recipe:
    """The recipes of one method for several teachers as one, each with terms and aligners of its own.

    A further teacher's terms are called as the first's, with its number behind, as in ``hint.features@2``. Those of the
    same part of a run share the strength of the method; each part has all of it.

    Args:
        recipes: by teacher.
        windows: when each teaches.

    Raises:
        ConfigError: the method looks at twins, which one teacher makes, or one after the other are to teach boxes that
            are found once.
    """
    first = recipes[0]
    if len(recipes) == 1:
        return first
    if any(recipe.twins for recipe in recipes):
        raise ConfigError(
            f"A method with several teachers must look at the images as they are, got {first.name}, whose twins fool "
            "one teacher. Leave ikd out, or give one teacher."
        )
    terms, starts = list[WeightedTerm](), sorted({window.start for window in windows})
    if len(starts) > 1 and first.learnable is not None:
        raise ConfigError(
            f"A method whose teachers follow each other must read what they show, got {first.name}, which learns the "
            "boxes that were found before the run. Give all teachers by --teacher."
        )
    for number, (recipe, window) in enumerate(zip(recipes, windows, strict=True)):
        part, mark = starts.index(window.start), f"{_MARK}{number + 1}" if number else ""
        for one in recipe.terms:
            strength = one.strength
            if strength is not None and part:
                strength = replace(strength, of=f"{strength.of}{_MARK}{number + 1}")
            member = f"{one.member}{mark}" if one.member else ""
            own = replace(one, name=f"{one.name}{mark}", teacher=number, window=window, strength=strength)
            terms.append(replace(own, member=member))
    notes = tuple(dict.fromkeys(note for recipe in recipes for note in recipe.notes))
    return replace(first, terms=tuple(terms), notes=notes)


def alike(terms: Sequence[WeightedTerm]) -> list[list[WeightedTerm]]:
    """The terms by what they are, whichever teacher's they are."""
    groups: dict[str, list[WeightedTerm]] = {}
    for one in terms:
        groups.setdefault(one.name.partition(_MARK)[0], []).append(one)
    return list(groups.values())


def even_shares(
    group: Sequence[WeightedTerm], costs: Mapping[str, Cost], specs: Sequence[DetectorSpec]
) -> dict[str, list[float]]:
    """How much each teacher's term counts on each of its levels where all count alike.

    On each level 1 / the number of teachers that have it. Class scores are each class's own: a teacher counts by the
    mean over the classes that it knows of 1 / the number of teachers that know it, so that specialists of different
    classes have all of theirs.
    """

    def share(one: WeightedTerm, stride: int | None) -> float:
        there = [specs[other.teacher] for other in group if stride in costs[other.name].strides]
        own = specs[one.teacher]
        scored = own.class_logits is None or own.class_logits.kind is ClassKind.SIGMOID
        if one.term.knowledge is not Knowledge.CLASSIFICATION or not scored:
            return 1 / len(there)
        known = [name for name in own.class_names if name not in own.unknown]
        return sum(1 / sum(name not in other.unknown for other in there) for name in known) / len(known)

    return {one.name: [share(one, stride) for stride in costs[one.name].strides] for one in group}
