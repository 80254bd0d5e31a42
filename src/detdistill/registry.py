"""What can be found by name and added from outside: methods, detector families, data formats.

An entry comes from a module of this library that defines it, from another package's entry points, or from a call to
`Registry.register`, as in a notebook. Nothing is imported before somebody asks for an entry.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Generic, Protocol, TypeVar

from detdistill.errors import ConfigError, suggestion
from detdistill.outside import count_as_outside


class Named(Protocol):
    """Anything with a name of its own."""

    @property
    def name(self) -> str:
        """What people write; a word."""


Entry = TypeVar("Entry", bound=Named)

# What a package raises that is broken, or made for another version of this one.
_UNLOADABLE = (ImportError, AttributeError, NameError, SyntaxError, TypeError, ValueError, LookupError, OSError)


class Registry(Mapping[str, Entry], Generic[Entry]):
    """Entries of one kind by name.

    Args:
        what: the kind in messages, such as ``"method"``.
        group: entry-point group of other packages; each entry point names an entry.
        package: package of this library whose modules are looked through.
        attribute: the name under which a module of `package` holds its entry, or a tuple of entries.
        entry_type: what every entry must be an instance of.
    """

    def __init__(self, what: str, *, group: str, package: str, attribute: str, entry_type: type[Entry]) -> None:
        self.what, self.group = what, group
        self._package, self._attribute, self._type = package, attribute, entry_type
        self._added: dict[str, Entry] = {}

    def register(self, entry: Entry) -> Entry:
        """Adds an entry for this process, in place of an added one of its name; returns it, so that it decorates.

        Raises:
            ConfigError: it is of another kind, or has the name of one that is not added here.
        """
        name = self._checked(entry, "register()").name
        if name in self._found and name not in self._added:
            raise ConfigError(
                f"The {self.what} to register must have a name of its own, got '{name}', which there is. Rename it."
            )
        self._added[name] = entry
        return entry

    def __getitem__(self, name: str) -> Entry:
        return self._added[name] if name in self._added else self._found[name]

    def find(self, name: str) -> Entry:
        """The entry of a name that a user wrote.

        Raises:
            ConfigError: there is none.
        """
        if name not in self:
            raise ConfigError(
                f"The {self.what} must be one of {', '.join(self)}, got '{name}'. {suggestion(name, self, listed=True)}"
            )
        return self[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._found, *self._added}))

    def __len__(self) -> int:
        return len({*self._found, *self._added})

    @cached_property
    def _found(self) -> dict[str, Entry]:
        entries = {entry.name: entry for entry in self._own()}
        for point in importlib.metadata.entry_points(group=self.group):
            entry = self._checked(_loaded(point, self.what), f"entry point '{point.name}' of {self.group}")
            if entry.name in entries:
                raise ConfigError(
                    f"The {self.what} of the entry point '{point.name}' of {self.group} must have a name of its own, "
                    f"got '{entry.name}', which there is. Uninstall one of the packages that add it."
                )
            entries[entry.name] = entry
        return entries

    def _own(self) -> Iterator[Entry]:
        package = importlib.import_module(self._package)
        for module in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
            held = getattr(importlib.import_module(f"{self._package}.{module}"), self._attribute, ())
            for entry in held if isinstance(held, tuple) else (held,):
                yield self._checked(entry, f"{self._package}.{module}")

    def _checked(self, entry: object, where: str) -> Entry:
        if not isinstance(entry, self._type):
            raise ConfigError(
                f"The {self.what} of {where} must be a {self._type.__name__}, got {type(entry).__name__}. "
                f"Give an instance of detdistill's {self._type.__name__}."
            )
        return entry


def _loaded(point: importlib.metadata.EntryPoint, what: str) -> object:
    count_as_outside(point.module)
    try:
        return point.load()
    except _UNLOADABLE as error:
        package = point.dist.name if point.dist is not None else "its package"
        raise ConfigError(
            f"The {what} '{point.name}' of the installed package {package} must be importable, got: {error}. "
            "Repair that package, or uninstall it."
        ) from error
