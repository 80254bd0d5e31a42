"""What is found by name: this library's own, an installed package's, a notebook's, and what is said of broken ones."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import detdistill
from detdistill.data.formats import FORMATS
from detdistill.detectors.catalogue import FAMILIES
from detdistill.errors import ConfigError
from detdistill.methods.catalogue import METHODS, build_recipe, describe
from detdistill.registry import Registry
from observations import spec

GROUP = "detdistill.methods"
HINT = METHODS["hint"]
MINE = replace(HINT, name="mine")


@dataclass(frozen=True)
class Installed:
    """A package with entry points, one a file of its own."""

    folder: Path

    def add(self, package: str, content: str, *, name: str = "mine", value: str = "") -> None:
        module = f"{package}_{self.folder.name}"  # modules of other tests stay loaded
        (self.folder / f"{module}.py").write_text(content, encoding="utf-8")
        info = self.folder / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {value or f'{module}:METHOD'}\n", encoding="utf-8")


def methods() -> Registry[detdistill.Method]:
    """The methods as a fresh process finds them."""
    package = "detdistill.methods"
    return Registry("method", group=GROUP, package=package, attribute="METHOD", entry_type=detdistill.Method)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installed]:
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield Installed(tmp_path)
    for name in set(sys.modules) - before:
        if name.endswith(tmp_path.name):
            del sys.modules[name]


GOOD = """
from dataclasses import replace
from detdistill.methods.hint import METHOD as HINT
METHOD = replace(HINT, name="{}")
"""


def test_what_is_installed_is_found(installed: Installed) -> None:
    before = tuple(methods())
    installed.add("good", GOOD.format("mine"), name="whatever")
    found = methods()
    assert tuple(found) == tuple(sorted((*before, "mine")))
    assert len(found) == len(before) + 1
    assert found.find("mine").settings is HINT.settings


@pytest.mark.parametrize(
    ("content", "value", "got"),
    [
        ("import no_such_module_anywhere", "", "No module named 'no_such_module_anywhere'"),
        ("", "", " has no attribute 'METHOD'"),
        ("", "no_such_package:METHOD", "No module named 'no_such_package'"),
        ("METHOD = (", "", "'(' was never closed"),
        (
            "from detdistill import Method\nMETHOD = Method(name='mine', settings=int, build=print, label='')",
            "",
            "unexpected keyword argument 'label'",
        ),
        ("METHOD = {}['mine']", "", "'mine'"),
        ("METHOD = int('mine')", "", "invalid literal for int"),
        ("METHOD = mine", "", "name 'mine' is not defined"),
        ("METHOD = open('/no/such/file')", "", "No such file or directory"),
    ],
)
def test_a_broken_package_is_told_by_name(installed: Installed, content: str, value: str, got: str) -> None:
    installed.add("broken", content, value=value)
    with pytest.raises(ConfigError) as refused:
        tuple(methods())
    message = str(refused.value)
    assert message.startswith("The method 'mine' of the installed package broken must be importable, got: ")
    assert got in message
    assert message.endswith(". Repair that package, or uninstall it.")


def test_a_package_that_cannot_be_named_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("mine", "no_such_package:METHOD", GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [point])
    with pytest.raises(ConfigError, match=r"The method 'mine' of the installed package its package must be importable"):
        tuple(methods())


def test_an_entry_of_another_kind_is_refused(installed: Installed) -> None:
    installed.add("wrong", "METHOD = 'frs'")
    with pytest.raises(
        ConfigError,
        match=r"^The method of entry point 'mine' of detdistill\.methods must be a Method, "
        r"got str\. Give an instance of detdistill's Method\.$",
    ):
        tuple(methods())


@pytest.mark.parametrize(("names", "point"), [(("frs",), "mine"), (("mine", "mine"), "mine")])
def test_a_name_that_there_is_already_is_refused(installed: Installed, names: tuple[str, ...], point: str) -> None:
    for index, name in enumerate(names):
        installed.add(f"package{index}", GOOD.format(name), name=point)
    with pytest.raises(
        ConfigError,
        match=rf"^The method of the entry point '{point}' of detdistill\.methods must have "
        rf"a name of its own, got '{names[0]}', which there is\. Uninstall one of the packages that add ",
    ):
        tuple(methods())


def test_registering_adds_and_replaces_what_was_added_alone() -> None:
    found = methods()
    assert found.register(MINE) is MINE
    again = replace(MINE, settings=METHODS["frs"].settings)
    found.register(again)
    assert found["mine"] is again
    assert list(found) == sorted(found)
    with pytest.raises(
        ConfigError,
        match=r"^The method to register must have a name of its own, got 'hint', which "
        r"there is\. Rename it\.$",
    ):
        found.register(HINT)
    assert "mine" not in METHODS


@pytest.mark.parametrize(
    ("register", "kind", "what"),
    [
        (detdistill.register_method, "Method", "method"),
        (detdistill.register_detector, "Family", "detector's family"),
        (detdistill.register_format, "Format", "data format"),
    ],
)
def test_what_is_registered_must_be_of_the_kind(register: object, kind: str, what: str) -> None:
    assert callable(register)
    with pytest.raises(ConfigError, match=rf"^The {what} of register\(\) must be a {kind}, got int\. Give an instance"):
        register(3)


def test_a_notebook_registers_one_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (METHODS, FAMILIES, FORMATS):
        monkeypatch.setattr(registry, "_added", {})
    coco = replace(FORMATS["coco"], name="mine", title="Mine")
    assert detdistill.register_method(MINE) is MINE
    assert detdistill.register_format(coco) is FORMATS.find("mine")
    with pytest.raises(ConfigError, match=r"family to register must have a name of its own, got 'fcos', which there"):
        detdistill.register_detector(FAMILIES["fcos"])
    assert describe("mine").formula == describe("hint").formula
    assert build_recipe("mine(gain=2)", spec(), spec()).terms[0].gain == 2

    def quiet(*given: Any) -> Any:
        return MINE.build(*given)

    detdistill.register_method(replace(MINE, build=quiet))
    assert (describe("mine").summary, describe("mine").formula) == ("", "")


def test_a_name_that_there_is_not_is_answered_with_the_closest() -> None:
    with pytest.raises(ConfigError, match=r"The method must be one of aid, .*, got 'hnit'\. Did you mean 'hint'\?"):
        METHODS.find("hnit")
    with pytest.raises(KeyError):
        METHODS["hnit"]
    assert METHODS.get("hnit") is None
