"""The checker of the tests themselves: what jaxtyping's own finds, it finds too."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import TypeCheckError

import checked_shapes
from detdistill.distillation import term
from detdistill.gfl import losses
from detdistill.methods.parts import compare

SOURCE = """
from __future__ import annotations
from collections.abc import Iterator
from dataclasses import dataclass
from jaxtyping import Float
from torch import Tensor

def total(one: Float[Tensor, "n c"], other: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    return (one + other).sum(1) if len(one) < 5 else one

def rows(one: Float[Tensor, "n c"]) -> Iterator[Tensor]:
    yield from one

def outer(one: Float[Tensor, "n c"]) -> float:
    def inner(count: int) -> float:
        return total(one[:1], one[:1]).sum().item()
    return inner(len(one) if len(one) < 5 else "many")

@dataclass(frozen=True)
class Kept:
    values: Float[Tensor, "n 4"]

class Base:
    def __init__(self, side: float) -> None:
        self.side = side

class Square(Base):
    def __init__(self, side: float, *, name: str = "a") -> None:
        super().__init__(side)
        self.name = name

    @property
    def area(self) -> float:
        return self.side if self.side < 5 else "large"

    @classmethod
    def unit(cls, value: Square | None = None) -> Square:
        return cls(1)

    @staticmethod
    def size(side: int) -> int:
        return side
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    folder = tmp_path_factory.mktemp("package")
    Path(folder / "shapes_to_check.py").write_text(SOURCE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setattr(sys, "meta_path", list(sys.meta_path))
        checked_shapes.check(("shapes_to_check",))
        yield import_module("shapes_to_check")


def test_what_fits_passes(module):
    maps = torch.ones(2, 3)
    assert module.total(maps, maps).tolist() == [6, 6]
    assert len(list(module.rows(maps))) == 2
    assert module.outer(maps) == 6
    assert module.Kept(torch.ones(2, 4)).values.shape == (2, 4)
    assert module.Square(2, name="b").area == 2
    assert module.Square.unit().side == module.Square.size(1) == 1
    assert module.Square.unit.__name__ == "unit"


@pytest.mark.parametrize(
    "call",
    [
        lambda module: module.total(torch.ones(2, 3), torch.ones(2, 4)),
        lambda module: module.total(torch.ones(2, 3).int(), torch.ones(2, 3)),
        lambda module: module.total(torch.ones(5, 3), torch.ones(5, 3)),
        lambda module: module.total(torch.ones(2, 3), None),
        lambda module: module.rows(torch.ones(2)),
        lambda module: module.outer(torch.ones(5, 3)),
        lambda module: module.Kept(torch.ones(2, 3)),
        lambda module: module.Square("wide"),
        lambda module: module.Square(2, name=3),
        lambda module: module.Square(5).area,
        lambda module: module.Square.size(1.5),
    ],
)
def test_what_does_not_fit_is_refused(module, call):
    with pytest.raises((BeartypeCallHintViolation, TypeCheckError)):
        call(module)


def test_another_call_may_have_other_sizes(module):
    module.total(torch.ones(2, 3), torch.ones(2, 3))
    module.total(torch.ones(3, 2), torch.ones(3, 2))


@pytest.mark.usefixtures("without_type_checks")
def test_nothing_is_checked_where_it_is_switched_off(module):
    assert module.Square.size(1.5) == 1.5


@pytest.mark.parametrize(
    "function", [compare.bce_sums, losses.overlap_costs, term.paired_strides], ids=["methods", "gfl", "distillation"]
)
def test_the_packages_of_the_pipeline_are_checked(function):
    names = list(inspect.signature(function).parameters)
    with pytest.raises(BeartypeCallHintViolation):
        function(**dict.fromkeys(names, "no such thing"))
