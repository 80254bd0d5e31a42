"""The text of a method, such as `aid(frs + ssim, alpha=0.5)`, taken apart; what its words mean is not known here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn, final

from detdistill.errors import ConfigError

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<text>"(?:[^"\\]|\\.)*"|'[^']*')
      | (?P<sign>[()\[\],=+])
      | (?P<end>$)
    )""",
    re.VERBOSE,
)
_CONSTANTS = {"true": True, "false": False, "null": None}
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Option:
    """A value, and where its key stands in the text, counted from 1."""

    value: object
    at: int


@dataclass(frozen=True, slots=True)
class Call:
    """One method as written.

    Attributes:
        name: the word before the parenthesis.
        at: where that word stands in the text, counted from 1.
        inner: the sum of methods that stands first in the parentheses; empty where there is none.
        options: the values by key.
    """

    name: str
    at: int
    inner: tuple[Call, ...] = ()
    options: Mapping[str, Option] = field(default_factory=dict)


def take_apart(text: str) -> tuple[Call, ...]:
    """The methods that a text adds up.

    Args:
        text: such as ``"aid(ikd(frs + ssim), alpha=0.5)"``.

    Raises:
        ConfigError: the text has another form; the sentence names the position.
    """
    return _Reader(text).whole()


def written(value: object) -> str:
    """A value as the text of a method has it; `take_apart` reads it back."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, str):
        return value if _WORD.fullmatch(value) and value not in _CONSTANTS else json.dumps(value, ensure_ascii=False)
    return repr(value)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else f"'{self.text}'"


@final
class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = self._tokens()
        self.place = 0

    def _tokens(self) -> list[_Token]:
        tokens: list[_Token] = []
        start = 0
        while not tokens or tokens[-1].kind != "end":
            found = _TOKEN.match(self.text, start)
            if found is None or found.lastgroup is None:
                at = len(self.text) - len(self.text[start:].lstrip()) + 1
                bad = self.text[at - 1]
                remedy = "Close the quotation" if bad in "\"'" else "Quote text that is no word"
                raise ConfigError(
                    f"The method '{self.text}' must be words, numbers and ( ) , = +, got '{bad}' at position {at}. "
                    f"{remedy}."
                )
            kind = found.lastgroup
            tokens.append(_Token(kind, found[kind], found.start(kind) + 1))
            start = found.end()
        return tokens

    @property
    def now(self) -> _Token:
        return self.tokens[self.place]

    def _next(self) -> _Token:
        token = self.now
        self.place += token.kind != "end"
        return token

    def _takes(self, sign: str) -> bool:
        if self.now.kind == "sign" and self.now.text == sign:
            self.place += 1
            return True
        return False

    def _refuse(self, expected: str, remedy: str, *, token: _Token | None = None) -> NoReturn:
        got = token or self.now
        raise ConfigError(f"The method '{self.text}' must have {expected} at position {got.at}, got {got}. {remedy}.")

    def whole(self) -> tuple[Call, ...]:
        calls = self._sum()
        if self.now.kind != "end":
            remedy = "Take it away" if self.now.text == ")" else "Join methods by +"
            self._refuse("+ or its end", remedy)
        return calls

    def _sum(self) -> tuple[Call, ...]:
        calls = [self._call()]
        while self._takes("+"):
            calls.append(self._call())
        return tuple(calls)

    def _call(self) -> Call:
        name = self.now
        if name.kind != "word":
            self._refuse("the name of a method", "Write for example frs, or aid(frs, alpha=0.5)")
        self.place += 1
        if not self._takes("("):
            return Call(name.text, name.at)
        inner: tuple[Call, ...] = ()
        options: dict[str, Option] = {}
        while not self._takes(")"):
            first = not inner and not options
            if self._key_follows():
                self._option(name.text, options)
            elif first and self.now.kind == "word":
                inner = self._sum()
            elif inner and self.now.kind == "word":
                self._refuse("key=value", f"Join methods by +, as in {name.text}({inner[-1].name} + {self.now.text})")
            else:
                first_in = "METHOD, " if inner or self.now.kind == "word" else ""
                remedy = f"Write it like {name.text}({first_in}KEY=VALUE)"
                self._refuse("key=value", f"{remedy}, the method first" if first_in and not inner else remedy)
            if not self._takes(",") and not (self.now.kind == "sign" and self.now.text == ")"):
                self._refuse("a comma or )", "Close every parenthesis, and put commas between options")
        return Call(name.text, name.at, inner, options)

    def _key_follows(self) -> bool:
        after = self.tokens[min(self.place + 1, len(self.tokens) - 1)]
        return self.now.kind == "word" and after.kind == "sign" and after.text == "="

    def _option(self, name: str, options: dict[str, Option]) -> None:
        key = self._next()
        self.place += 1
        if key.text in options:
            self._refuse(f"every key of {name} once", f"Remove one '{key.text}'", token=key)
        options[key.text] = Option(self._value(), key.at)

    def _value(self) -> object:
        token = self._next()
        if token.kind == "number":
            return self._number(token)
        if token.kind == "word":
            return _CONSTANTS.get(token.text, token.text)
        if token.kind == "text":
            return self._quoted(token)
        if token.kind == "sign" and token.text == "[":
            return self._list()
        self._refuse("a value", "Write a number, a word, true, false, null, quoted text or [a, list]", token=token)

    def _number(self, token: _Token) -> int | float:
        if re.fullmatch(r"-?\d{1,300}", token.text):
            return int(token.text)
        value = float(token.text)
        if not math.isfinite(value):
            self._refuse("a finite number", "Write a smaller one", token=token)
        return value

    def _quoted(self, token: _Token) -> str:
        if token.text[0] == "'":
            return token.text[1:-1]
        try:
            return str(json.loads(token.text, strict=False))
        except ValueError:
            self._refuse("quoted text", r"Write \\ for a backslash, or use single quotes", token=token)

    def _list(self) -> tuple[object, ...]:
        values: list[object] = []
        while not self._takes("]"):
            values.append(self._value())
            if not self._takes(",") and not (self.now.kind == "sign" and self.now.text == "]"):
                self._refuse("a comma or ]", "Close the list")
        return tuple(values)
