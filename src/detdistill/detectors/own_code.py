"""A user's own code, named by its import path: taken apart, imported on the user's word alone, told by its text.

``package.module:Name`` or ``path/file.py:Name``, with arguments as in ``file.py:Name(width=24)``, and, for a detector
with weights, where these lie, as in ``file.py:Name(width=24)=weights.pth``.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from detdistill.errors import UNKNOWN, ConfigError, astray, suggestion
from detdistill.outside import STOPPED, count_as_outside, place_of
from detdistill.settings.calls import read_keywords, written
from detdistill.settings.strict_yaml import parse_yaml

_MODULE, _NAME = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_TEXT = re.compile(
    rf"(?P<home>{_MODULE}|[^:=()]+\.py):(?P<name>{_NAME})(?:\((?P<arguments>.*?)\))?(?:=(?P<weights>.+))?"
)
_OF_OTHERS = ("torchvision:", "hf:")
_FLAG = "--trust-code"


@dataclass(frozen=True, slots=True)
class OwnCode:
    """A text that names code, taken apart.

    Attributes:
        home: a module, or a file that ends in .py.
        name: of the class or function in it.
        arguments: as they are written; empty for none.
        weights: file or folder; empty for none.
    """

    home: str
    name: str
    arguments: str = ""
    weights: str = ""

    @property
    def is_file(self) -> bool:
        """Whether it lies in a file that was named, not in a module."""
        return self.home.endswith(".py")

    @property
    def place(self) -> str:
        """The import path alone."""
        return f"{self.home}:{self.name}"

    def text(self) -> str:
        """The whole, as `taken_apart` reads it."""
        arguments = f"({self.arguments})" if self.arguments else ""
        return f"{self.place}{arguments}{'=' if self.weights else ''}{self.weights}"

    def keywords(self) -> dict[str, Any]:
        """The arguments by name.

        Raises:
            ConfigError: they are not of the form ``width=24, depth=2``.
        """
        return read_keywords(self.arguments, where=f"The arguments of {self.place}")

    def moved(self, change: Callable[[str], str]) -> OwnCode:
        """The same with its paths changed."""
        home, weights = self.home, self.weights
        return replace(
            self,
            home=change(home) if self.is_file and not home.startswith("~") else home,
            weights=change(weights) if weights and not weights.startswith("~") else weights,
        )

    def key(self) -> str:
        """What tells it from other code, wherever it is asked from."""
        return f"{Path(self.home).expanduser().resolve()}:{self.name}" if self.is_file else self.place


def names_code(text: str) -> bool:
    """Whether a text names code of somebody's own; what lies on the disk under the whole text does not."""
    return not text.startswith(_OF_OTHERS) and _TEXT.fullmatch(text) is not None and not Path(text).exists()


def taken_apart(text: str) -> OwnCode:
    """What a text names; see `names_code`.

    Raises:
        ConfigError: it names no code.
    """
    found = None if text.startswith(_OF_OTHERS) else _TEXT.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"A detector of one's own must be written MODULE:CLASS or FILE.py:CLASS, got '{text}'. "
            "Write for example my_package.my_module:MyDetector."
        )
    return OwnCode(**{key: (value or "").strip() for key, value in found.groupdict().items()})


def with_arguments(text: str, settings: Sequence[str]) -> str:
    """A text that names code with further arguments, each written as ``width=24``; they win over those it has.

    Raises:
        ConfigError: the text names no code, or one is not of this form.
    """
    if not names_code(text):
        raise ConfigError(
            f"Arguments must be given with a detector of one's own, MODULE:CLASS or FILE.py:CLASS, got '{text}'. "
            "Leave them out, or write student.KEY=VALUE for a setting of that detector."
        )
    code = taken_apart(text)
    arguments = code.keywords()
    for one in settings:
        key, equals, value = one.partition("=")
        if not equals or not key.strip().isidentifier():
            remedy = "Write settings of the run before these." if "." in key else "Write for example width=24."
            raise ConfigError(f"An argument of {code.place} must have the form KEY=VALUE, got '{one}'. {remedy}")
        arguments[key.strip()] = parse_yaml(value, f"The value in '{one}'")
    return replace(code, arguments=shown(arguments)).text()


def shown(arguments: Mapping[str, Any]) -> str:
    """Arguments as a text has them."""
    return ", ".join(f"{key}={written(value)}" for key, value in arguments.items())


_trusted: set[str] = set()
_EVERYTHING = "*"


def trust_code(*texts: str) -> None:
    """Lets this process import code that checkpoints name: that of these texts, or, without any, whatever they name.

    What a user types, or passes as an import path, is trusted already. Code of others can do anything that you can.

    Example:
        >>> detdistill.trust_code("my_package.my_module:MyDetector")
    """
    _trusted.update({taken_apart(text).key() for text in texts} or {_EVERYTHING})


def trusted() -> frozenset[str]:
    """What this process may import, for another one to take over by `trust_keys`."""
    return frozenset(_trusted)


def trust_keys(known: frozenset[str]) -> None:
    """Lets this process import what another may."""
    _trusted.update(known)


def trust_typed(*words: object) -> None:
    """Lets this process import the code that words of a user name; other words, and None, are passed over."""
    for word in words:
        if isinstance(word, (list, tuple)):
            trust_typed(*word)
        elif isinstance(word, (str, Path)) and names_code(str(word)):
            _trusted.add(taken_apart(str(word)).key())


def imported(code: OwnCode) -> Any:
    """What the code is: a class or a function.

    Raises:
        ConfigError: nobody said that it may be imported, it cannot be, or holds no such name.
    """
    if not _trusted & {_EVERYTHING, code.key()}:
        raise ConfigError(
            f"The code {code.place}, which a checkpoint or a run names, must be trusted before it is imported, got "
            f"nobody's word for it. Look at it, then add {_FLAG} (in Python: detdistill.trust_code())."
        )
    module = _module(code)
    found: Any = module
    for part in code.name.split("."):
        found = getattr(found, part, None)
        if found is None:
            names = [name for name, one in vars(module).items() if callable(one) and not name.startswith("_")]
            remedy = suggestion(code.name, names) if names else "Name the module or the file that holds it."
            raise ConfigError(f"{code.home} must hold {code.name}, got no such name. {remedy}")
    return found


def digest_of(code: OwnCode) -> str | None:
    """SHA-256 of the text of the file that holds the code, which was imported; None where there is no such file."""
    file = inspect.getsourcefile(_module(code))
    return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _module(code: OwnCode) -> ModuleType:
    try:
        if not code.is_file:
            count_as_outside(code.home)
            _add_to_path(Path.cwd())
            return importlib.import_module(code.home)
        path = Path(code.home).expanduser().resolve()
        if not path.is_file():
            remedy = f"Write where it is: FILE.py:{code.name}, with =RUN behind it for the weights of a run."
            meant = astray(Path(code.home).expanduser())
            raise ConfigError(
                f"The file {code.home} of the detector {code.place} must be there, got nothing. "
                f"{meant if meant != UNKNOWN else remedy}"
            )
        return _of_file(path)
    except ConfigError:
        raise
    except STOPPED as error:
        first = code.home.partition(".")[0]
        absent = isinstance(error, ModuleNotFoundError) and f"{code.home}.".startswith(f"{error.name}.")
        remedy = "Repair it."
        if absent:
            remedy = f"Give the command in the folder where {first} is, or write FILE.py:{code.name}."
        raise ConfigError(f"{code.home} must be importable, got {place_of(error)}. {remedy}") from error


def _of_file(path: Path) -> ModuleType:
    """The file's module, which is run once; files beside it can be imported by it, as in a script."""
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    _add_to_path(path.parent)
    sys.modules[name] = module  # dataclasses look themselves up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _add_to_path(folder: Path) -> None:
    """Lets modules in a folder be imported, after all that are installed."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
