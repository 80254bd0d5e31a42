"""Which methods there are, and what each says about itself."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args, get_origin

from detdistill.errors import ConfigError
from detdistill.methods.catalogue import METHODS, RecipeDescription, describe
from detdistill.settings.calls import written
from detdistill.settings.meanings import meanings_of
from detdistill.settings.trees import hints_of


@dataclass(frozen=True, slots=True)
class MethodsOutcome:
    """The descriptions that were asked for; `table` tells everything where `detailed`, else one line a method."""

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
                f'Join them by +, --method "frs + ssim"; {wrappers} wrap them, --method "aid(frs, alpha=0.5)".',
                "detdistill methods NAME tells more.",
            ]
        return [line for method in self.methods for line in _details(method)]

    def as_dict(self) -> Mapping[str, Any]:
        """Every description by the method's name."""
        return {method.name: asdict(method) for method in self.methods}


def methods_job(name: str | None = None) -> MethodsOutcome:
    """Describes all methods, one line each, or the one of that name in full."""
    if name is not None and not name.isidentifier():
        raise ConfigError(
            f"The method must be one name, got '{name}'. Ask for each method by itself, as in detdistill methods frs."
        )
    names = list(METHODS) if name is None else [name]
    return MethodsOutcome(methods=tuple(describe(one) for one in names), detailed=name is not None)


def setting_meanings(name: str) -> dict[str, str]:
    """What each number of a method means, from the documentation of its settings, in the command line's words."""
    kind: Any = METHODS[name].settings
    meanings = meanings_of(kind)
    for key, hint in hints_of(kind).items():
        if get_origin(hint) is Literal:
            meanings[key] += f" One of {', '.join(map(written, get_args(hint)))}."
    return meanings


def _details(method: RecipeDescription) -> list[str]:
    parts = {"Formula": method.formula, "Needs": method.needs, "Source": method.source}
    parts["Differs from the source"] = method.differs
    lines = [f"{method.name}: {method.summary}", ""]
    for title, text in parts.items():
        lines += [f"{title}:", *(f"  {line}".rstrip() for line in text.splitlines()), ""]
    lines += ["Settings (change one with method.KEY=VALUE):"]
    meanings = setting_meanings(method.name)
    for key, value in method.defaults.items():
        wrapped = textwrap.wrap(meanings[key], width=104, break_on_hyphens=False)
        lines += [f"  {key} = {written(value)}", *(f"      {line}" for line in wrapped)]
    example = f"{method.name}(METHOD, KEY=VALUE)" if method.wraps else f"{method.name}(KEY=VALUE)"
    lines += ["", f'On the command line: --method "{example}"']
    return lines
