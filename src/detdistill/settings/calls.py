"""Calls as text, such as `aid(frs + ssim, alpha=0.5)`, and the trees that they stand for; Python's `ast` reads them.

`aid(frs, alpha=0.5)` is ``{"name": "aid", "recipe": {"name": "frs"}, "alpha": 0.5}`` and `frs + ssim` is
``{"name": "sum", "recipes": [{"name": "frs"}, {"name": "ssim"}]}``, which gets keys of its own as in
`sum(frs + ssim, strength=1)`. What the names mean is not known here.
"""

from __future__ import annotations

import ast
import keyword
import re
import warnings
from typing import Any, NoReturn, final

from detdistill.errors import ConfigError
from detdistill.settings.trees import DEEPEST, Path, Tree

NAME, INNER, SUM, PARTS = "name", "recipe", "sum", "recipes"
"""The keys of a tree for what a text writes without a key, and the name of what is joined by +."""

LONGEST = 2000

_CONSTANTS = {"true": True, "false": False, "null": None}
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_EXAMPLE = "Write for example frs, or aid(frs + ssim, alpha=0.5)"
# Remedies by a part of what Python says.
_REMEDIES = {
    "closed": "Close every parenthesis",
    "unmatched": "Take it away",
    "match": "Close every list and parenthesis",
    "follows": "Write what is wrapped first, then KEY=VALUE",
    "unterminated": "Close the quotation",
    "escape": r"Write \\ for a backslash, or leave it out",
    "comma": "Join methods by +, and put commas between options",
}
_OTHERWISE = "Join methods by +, write options as KEY=VALUE, and quote text that is no word"


def written(value: object) -> str:
    """A value as a text has it; `Spelled` reads it back."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, str) and _WORD.fullmatch(value) and not keyword.iskeyword(value) and value not in _CONSTANTS:
        return value
    return repr(value)


def read_keywords(text: str, *, where: str) -> Tree:
    """Values by name, as in ``width=24, names=[car, truck]``, of the kinds that a method's text has.

    Raises:
        ConfigError: the text has another form; messages call it `where`.
    """
    try:
        call = ast.parse(f"_({text.strip()})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not all(one.arg for one in call.keywords):
            raise ValueError("a value without a name")
        return {str(one.arg): ast.literal_eval(_Words().visit(one.value)) for one in call.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ConfigError(
            f"{where} must be written KEY=VALUE with commas between them, got '{text}'. Write for example width=24."
        ) from error


@final
class Spelled:
    """A text such as ``"aid(ikd(frs + ssim), alpha=0.5)"``, taken apart.

    Values are numbers, `true`, `false`, `null`, words, quoted text and lists.

    Attributes:
        text: as it was written.
        tree: what it stands for.
        places: where the keys of the tree stand in the text, counted from 1; that of `NAME` is the name's own.

    Raises:
        ConfigError: the text has another form; the sentence names the position.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        # A text may have several lines in a config file; Python would end it with the first.
        self._line = re.sub(r"[\r\n]", " ", text).lstrip()
        self._lead = len(text) - len(self._line)
        self.places: dict[Path, int] = {}
        self.tree = self._sum(self._parsed(), ())

    def section(self, path: Path) -> Tree:
        """The part of the tree at `path`, which leads through sections and lists alone."""
        found: Any = self.tree
        for part in path:
            found = found[part]
        section: Tree = found
        return section

    def where(self, path: Path) -> str:
        """What messages call a place in the tree."""
        for own in (path[:end] for end in range(len(path), -1, -1)):
            if own in self.places:
                return f"{own[-1]} at position {self.places[own]} of '{self.text}'"
            if (*own, NAME) in self.places:
                of = "" if own == path else f"{path[-1]} of "
                called, at = self.section(own)[NAME], self.places[*own, NAME]
                return f"{of}{called} at position {at} of '{self.text}'"
        return f"The sum '{self.text}'"

    def _parsed(self) -> ast.expr:
        if len(self.text) > LONGEST:
            raise ConfigError(
                f"The method '{self.text[:20]}...' must have at most {LONGEST} characters, got {len(self.text)}. "
                "Shorten it."
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # an unknown escape is a mistake here
                return ast.parse(self._line, mode="eval").body
        except SyntaxError as error:
            said = re.split(r"; | \(|\. ", error.msg)[0]
            remedy = next((own for part, own in _REMEDIES.items() if part in error.msg), _OTHERWISE)
            # Python gives no offset, or 0, where the text ends too early.
            start = error.offset or len(self._line) + 1
            got = self._line[start - 1 : max(start, (error.end_offset or 0) - 1)]
            shown, remedy = (f"'{got}'", remedy) if got.strip() else ("the end", _EXAMPLE)
            raise ConfigError(
                f"The method '{self.text}' must be words, numbers and ( ) , = + in their places, got {shown} at "
                f"position {start + self._lead}{'' if said == 'invalid syntax' else f': {said}'}. {remedy}."
            ) from error
        except (ValueError, RecursionError, MemoryError) as error:
            raise ConfigError(
                f"The method {self.text!r} must be plain text, not too deeply nested, got: {error}. {_EXAMPLE}."
            ) from error

    def _at(self, node: ast.expr | ast.keyword) -> int:
        """Where a node begins, counted from 1; Python counts bytes of UTF-8."""
        return self._lead + len(self._line.encode()[: node.col_offset].decode()) + 1

    def _refuse(self, node: ast.expr | ast.keyword, expected: str, remedy: str) -> NoReturn:
        got = self._line.encode()[node.col_offset : node.end_col_offset].decode()
        raise ConfigError(
            f"The method '{self.text}' must have {expected} at position {self._at(node)}, got '{got}'. {remedy}."
        )

    def _sum(self, node: ast.expr, path: Path) -> Tree:
        parts: list[ast.expr] = []
        while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            parts.insert(0, node.right)
            node = node.left
        if not parts:
            return self._call(node, path)
        return {NAME: SUM, PARTS: [self._sum(one, (*path, PARTS, at)) for at, one in enumerate([node, *parts])]}

    def _call(self, node: ast.expr, path: Path) -> Tree:
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        if not isinstance(call.func, ast.Name) or len(path) > DEEPEST:
            remedy = "Join methods by +" if isinstance(node, (ast.Tuple, ast.BinOp, ast.BoolOp)) else _EXAMPLE
            self._refuse(node, "the name of a method", remedy)
        name, wraps = call.func.id, call.args
        if name == SUM and len(wraps) == 1 and isinstance(wraps[0], ast.BinOp):
            tree, wraps = self._sum(wraps[0], path), []
        else:
            tree = {NAME: name}
            self.places[*path, NAME] = self._at(call.func)
        for wrapped in wraps:
            if not isinstance(wrapped, (ast.Name, ast.Call, ast.BinOp)):
                self._refuse(wrapped, "key=value", f"Write it like {name}({'METHOD, ' * (INNER in tree)}KEY=VALUE)")
            if INNER in tree:
                first, second = (ast.unparse(one) for one in (call.args[0], wrapped))
                self._refuse(wrapped, "key=value", f"Join methods by +, as in {name}({first} + {second})")
            tree[INNER] = self._sum(wrapped, (*path, INNER))
        for one in call.keywords:
            if one.arg is None or one.arg in (NAME, INNER, PARTS):
                self._refuse(one, "key=value, and what is wrapped first", f"Write it like {name}(METHOD, KEY=VALUE)")
            if one.arg in tree:
                self._refuse(one, f"every key of {name} once", f"Remove one '{one.arg}'")
            self.places[*path, one.arg] = self._at(one)
            try:
                tree[one.arg] = ast.literal_eval(_Words().visit(one.value))
            except (ValueError, TypeError, RecursionError):  # a list as a key is a TypeError
                words = "a number, a word, true, false, null, quoted text or [a, list]"
                self._refuse(one, "key=value", f"Write for a value {words}")
        return tree


class _Words(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.Constant:
        """The word as the text or the constant that it stands for."""
        return ast.Constant(_CONSTANTS.get(node.id, node.id))
