"""Calls as text, such as `aid(frs + ssim, alpha=0.5)`, and the trees that they stand for; Python's own `ast` reads them.

`aid(frs, alpha=0.5)` is ``{"name": "aid", "recipe": {"name": "frs"}, "alpha": 0.5}`` and `frs + ssim` is
``{"name": "sum", "recipes": [{"name": "frs"}, {"name": "ssim"}]}``. What the names mean is not known here.
"""

from __future__ import annotations

import ast
import keyword
import math
import re
import warnings
from dataclasses import dataclass, field
from typing import Any, NoReturn, final

from detdistill.errors import ConfigError
from detdistill.settings.trees import DEEPEST, Path, Tree

NAME, INNER, SUM, PARTS = "name", "recipe", "sum", "recipes"
"""The keys of a tree for what a text writes without a key, and the name of what is joined by +."""

LONGEST = 2000

_CONSTANTS = {"true": True, "false": False, "null": None}
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_EXAMPLE = "Write for example frs, or aid(frs, alpha=0.5)"
# Remedies by a part of what Python says.
_REMEDIES = {
    "never closed": "Close every parenthesis",
    "unmatched": "Take it away",
    "does not match": "Close every list and parenthesis",
    "follows keyword": "Write what is wrapped first, then KEY=VALUE",
    "unterminated": "Close the quotation",
    "escape": r"Write \\ for a backslash, or leave it out",
    "forgot a comma": "Join methods by +, and put commas between options",
    "cannot contain assignment": "Write a word before =",
}
_OTHERWISE = "Join methods by +, write options as KEY=VALUE, and quote text that is no word"


@dataclass(frozen=True, slots=True)
class Spelled:
    """A text that was taken apart.

    Attributes:
        text: as it was written.
        tree: what it stands for.
        places: where the keys of the tree stand in the text, counted from 1; that of `NAME` is the name's own.
    """

    text: str
    tree: Tree
    places: dict[Path, int]

    def section(self, path: Path) -> Tree:
        """The part of the tree at `path`, which leads through sections and lists alone."""
        at: Any = self.tree
        for part in path:
            at = at[part]
        found: Tree = at
        return found

    def where(self, path: Path) -> str:
        """What messages call a place in the tree."""
        own = path
        while own and own not in self.places and (*own, NAME) not in self.places:
            own = own[:-1]
        if own in self.places:
            return f"{own[-1]} at position {self.places[own]} of '{self.text}'"
        if (*own, NAME) not in self.places:
            return f"The sum '{self.text}'"
        called = f"{self.section(own)[NAME]} at position {self.places[*own, NAME]} of '{self.text}'"
        return called if own == path else f"{path[-1]} of {called}"


def take_apart(text: str) -> Spelled:
    """The tree that a text stands for.

    Args:
        text: such as ``"aid(ikd(frs + ssim), alpha=0.5)"``. Values are numbers, `true`, `false`, `null`, words, quoted
            text and lists.

    Raises:
        ConfigError: the text has another form; the sentence names the position.
    """
    reader = _Reader(text)
    tree = reader.sum(reader.parsed(), ())
    return Spelled(text, tree, reader.places)


def written(value: object) -> str:
    """A value as a text has it; `take_apart` reads it back."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, str) and _WORD.fullmatch(value) and not keyword.iskeyword(value) and value not in _CONSTANTS:
        return value
    return repr(value)


@final
@dataclass(slots=True)
class _Reader:
    text: str
    places: dict[Path, int] = field(default_factory=dict)

    def parsed(self) -> ast.expr:
        """Python's tree of the text."""
        if len(self.text) > LONGEST:
            start = f"{self.text[:20]}..."
            raise ConfigError(
                f"The method '{start}' must have at most {LONGEST} characters, got {len(self.text)}. Shorten it."
            )
        # A text may have several lines in a config file; Python would end it with the first.
        line = re.sub(r"[\r\n]", " ", self.text).lstrip()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # an unknown escape is a mistake here
                return ast.parse(line, mode="eval").body
        except SyntaxError as error:
            self._refuse_syntax(error, line)
        except (ValueError, RecursionError, MemoryError) as error:
            raise ConfigError(
                f"The method {self.text!r} must be plain text, not too deeply nested, got: {error}. {_EXAMPLE}."
            ) from error

    def _refuse_syntax(self, error: SyntaxError, line: str) -> NoReturn:
        said = error.msg.partition(";")[0].partition(" (")[0].partition(". ")[0]
        remedy = next((own for part, own in _REMEDIES.items() if part in error.msg), _OTHERWISE)
        # Python gives no offset, or 0, where the text ends too early.
        start = error.offset or len(line) + 1
        end = max(start + 1, error.end_offset or 0)
        got = f"'{line[start - 1 : end - 1]}'" if line[start - 1 :].strip() else "the end"
        at = start + len(self.text) - len(line)
        raise ConfigError(
            f"The method '{self.text}' must be words, numbers and ( ) , = + in their places, got {got} at position {at}"
            f"{'' if said == 'invalid syntax' else f': {said}'}. {_EXAMPLE if got == 'the end' else remedy}."
        ) from error

    def _at(self, node: ast.expr | ast.keyword) -> int:
        """Where a node begins, counted from 1; Python counts bytes of UTF-8 in the text without leading space."""
        lead = len(self.text) - len(re.sub(r"[\r\n]", " ", self.text).lstrip())
        return lead + len(self.text[lead:].encode()[: node.col_offset].decode()) + 1

    def _refuse(self, node: ast.expr | ast.keyword, expected: str, remedy: str) -> NoReturn:
        at = self._at(node)
        got = self.text.encode()[len(self.text[: at - 1].encode()) :][: (node.end_col_offset or 0) - node.col_offset]
        raise ConfigError(
            f"The method '{self.text}' must have {expected} at position {at}, got '{got.decode()}'. {remedy}."
        )

    def sum(self, node: ast.expr, path: Path) -> Tree:
        """One call, or several that are joined by +."""
        parts: list[ast.expr] = []
        while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            parts.insert(0, node.right)
            node = node.left
        if not parts:
            return self._call(node, path)
        return {
            NAME: SUM,
            PARTS: [self.sum(part, (*path, PARTS, index)) for index, part in enumerate([node, *parts])],
        }

    def _call(self, node: ast.expr, path: Path) -> Tree:
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        if not isinstance(call.func, ast.Name) or len(path) > DEEPEST:
            remedy = "Join methods by +" if isinstance(node, (ast.Tuple, ast.BinOp, ast.BoolOp)) else _EXAMPLE
            self._refuse(node, "the name of a method", remedy)
        name = call.func.id
        tree: Tree = {NAME: name}
        self.places[*path, NAME] = self._at(call.func)
        for wrapped in call.args:
            if not isinstance(wrapped, (ast.Name, ast.Call, ast.BinOp)):
                self._refuse(wrapped, "key=value", f"Write it like {name}({'METHOD, ' * (INNER in tree)}KEY=VALUE)")
            if INNER in tree:
                first, second = (ast.unparse(one) for one in (call.args[0], wrapped))
                self._refuse(wrapped, "key=value", f"Join methods by +, as in {name}({first} + {second})")
            self.places[*path, INNER] = self._at(wrapped)
            tree[INNER] = self.sum(wrapped, (*path, INNER))
        for one in call.keywords:
            if one.arg is None or one.arg in (NAME, INNER, PARTS):
                self._refuse(one, "key=value, and what is wrapped first", f"Write it like {name}(METHOD, KEY=VALUE)")
            if one.arg in tree:
                self._refuse(one, f"every key of {name} once", f"Remove one '{one.arg}'")
            self.places[*path, one.arg] = self._at(one)
            tree[one.arg] = self._value(one.value)
        return tree

    def _value(self, node: ast.expr) -> object:
        if isinstance(node, ast.Name):
            return _CONSTANTS.get(node.id, node.id)
        if isinstance(node, ast.List):
            return [self._value(one) for one in node.elts]
        negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
        inside = node.operand if isinstance(node, ast.UnaryOp) and negative else node
        value = inside.value if isinstance(inside, ast.Constant) else ...
        if type(value) in (int, float):
            return self._number(node, -value if negative else value)
        if isinstance(value, (bool, str, type(None))) and not negative:
            return value
        self._refuse(node, "a value", "Write a number, a word, true, false, null, quoted text or [a, list]")

    def _number(self, node: ast.expr, value: Any) -> int | float:
        try:
            finite = math.isfinite(value)
        except OverflowError:
            finite = False
        if not finite:
            self._refuse(node, "a finite number", "Write a smaller one")
        number: int | float = value
        return number
