"""Every annotation of some packages checked at run time, shapes included: jaxtyping's import hook at a lower cost.

jaxtyping checks the arguments of each call twice, by functions of their own, and binds them by `inspect` first, which
was a quarter of the tests' time. Here beartype stands around the function itself, in one frame of axis names: arguments
are checked when it is entered and the result when it is left.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from collections.abc import Sequence
from dataclasses import is_dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import FunctionType, ModuleType
from typing import Any, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

# An int is a float too, as for a type checker.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))

_AXES = jaxtyping.jaxtyped("context")
_CACHED = ".checked1.pyc"  # bytecode of another transformation needs another name


def shaped(what: Any) -> Any:
    """A function, or a dataclass by its `__init__`, whose annotations are checked at each call."""
    if isinstance(what, type):
        made = vars(what).get("__init__")
        if is_dataclass(what) and isinstance(made, FunctionType) and not hasattr(made, "__wrapped__"):
            what.__init__ = shaped(made)
        return what
    if inspect.isgeneratorfunction(what):
        return jaxtyping.jaxtyped(what, typechecker=checked)
    if not what.__annotations__:
        return what
    # What several arguments and the result have in common is found where each is resolved, as jaxtyping does.
    own = FunctionType(what.__code__, what.__globals__, what.__name__, what.__defaults__, what.__closure__)
    own.__kwdefaults__, own.__qualname__, own.__module__ = what.__kwdefaults__, what.__qualname__, what.__module__
    own.__annotations__ = {name: _resolved(hint, what.__globals__) for name, hint in what.__annotations__.items()}
    strict = checked(own)

    @functools.wraps(what)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if jaxtyping.config.jaxtyping_disable:
            return what(*args, **kwargs)
        with _AXES:
            return strict(*args, **kwargs)

    return call


def _resolved(hint: Any, names: dict[str, Any]) -> Any:
    """The type that an annotation names; Any where that is not known yet, as a class inside itself is not."""

    def holder(value: Any) -> None: ...

    holder.__annotations__ = {"value": hint}
    try:
        return get_type_hints(holder, names, include_extras=True)["value"]
    except Exception:  # noqa: BLE001  whatever a text evaluates to
        return Any


class _Decorated(ast.NodeTransformer):
    """Puts `shaped` innermost on every function, and outermost on every class."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        node.decorator_list.append(_decorator(node))
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.generic_visit(node)
        node.decorator_list.insert(0, _decorator(node))
        return node


def _decorator(node: ast.stmt) -> ast.expr:
    made = ast.parse(f"__import__({__name__!r}).shaped", mode="eval").body
    return ast.fix_missing_locations(ast.copy_location(made, node))


class _Loader(SourceFileLoader):
    """Compiles a module with its functions decorated, and keeps that beside the bytecode of the plain one."""

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:
        tree = compile(data, path, "exec", ast.PyCF_ONLY_AST, dont_inherit=True, optimize=_optimize)
        return compile(_Decorated().visit(tree), path, "exec", dont_inherit=True, optimize=_optimize)

    def get_data(self, path: str) -> bytes:
        return super().get_data(path.removesuffix(".pyc") + _CACHED if path.endswith(".pyc") else path)

    def set_data(self, path: str, data: bytes, *, _mode: int = 0o666) -> None:
        super().set_data(path.removesuffix(".pyc") + _CACHED, data, _mode=_mode)


class _Finder(MetaPathFinder):
    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = packages

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not any(fullname == package or fullname.startswith(f"{package}.") for package in self.packages):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def check(packages: Sequence[str]) -> None:
    """From now on, whatever is imported of these packages is checked."""
    sys.meta_path.insert(0, _Finder(packages))
