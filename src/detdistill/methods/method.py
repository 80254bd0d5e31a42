"""What a method is, and where all methods are found: each at the end of its own file, or in another package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from detdistill.distillation.recipe import Recipe
from detdistill.registry import Registry
from detdistill.settings.calls import INNER


@dataclass(frozen=True, slots=True)
class Method:
    """One method.

    Attributes:
        name: what people write; a word.
        settings: frozen dataclass of its numbers, all with defaults. One with a field `recipe`, made by
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
