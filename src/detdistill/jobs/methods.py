"""Which methods there are, and what each says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from detdistill.recipes.catalogue import RECIPES, WRAPPERS, RecipeDescription, describe
from detdistill.recipes.grammar import written


@dataclass(frozen=True, slots=True)
class MethodsOutcome:
    """The descriptions that were asked for.

    Attributes:
        methods: one description per method.
        detailed: whether `table` tells everything, or one line a method.
    """

    methods: tuple[RecipeDescription, ...]
    detailed: bool

    def table(self) -> list[str]:
        """One line a method, or all about one."""
        if not self.detailed:
            width = max(len(method.name) for method in self.methods)
            lines = [f"{method.name:<{width}}  {method.summary}" for method in self.methods]
            wrappers = " and ".join(method.name for method in self.methods if method.wraps)
            return [
                *lines,
                "",
                f'They add up, --method "frs + ssim", and {wrappers} wrap them, --method "aid(frs, alpha=0.5)".',
                "detdistill methods NAME tells more.",
            ]
        return [line for method in self.methods for line in _details(method)]

    def as_dict(self) -> Mapping[str, Any]:
        """Every description by the method's name."""
        return {method.name: asdict(method) for method in self.methods}


def methods_job(name: str | None = None) -> MethodsOutcome:
    """Describes all methods, or one.

    Args:
        name: the one to describe in full; None for all, one line each.

    Raises:
        ConfigError: there is no method of that name.
    """
    names = sorted(RECIPES | WRAPPERS) if name is None else [name]
    return MethodsOutcome(methods=tuple(describe(one) for one in names), detailed=name is not None)


def _details(method: RecipeDescription) -> list[str]:
    parts = {
        "Formula": method.formula,
        "Needs": method.needs,
        "Source": method.source,
        "Differs from the source": method.differs,
    }
    lines = [f"{method.name}: {method.summary}", ""]
    for title, text in parts.items():
        lines += [f"{title}:", *(f"  {line}".rstrip() for line in text.splitlines()), ""]
    lines += ["Settings (change one with method.KEY=VALUE):"]
    lines += [f"  {key} = {written(value)}" for key, value in method.defaults.items()]
    example = f"{method.name}(METHOD, KEY=VALUE)" if method.wraps else f"{method.name}(KEY=VALUE)"
    lines += ["", f'On the command line: --method "{example}"']
    return lines
