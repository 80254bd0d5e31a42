"""Damage to bytes and texts, drawn: bits, lines, words, and what no reader expects in their place."""

from __future__ import annotations

import random
from collections.abc import Callable

TOKENS = (
    "nan", "inf", "-1", "0", "1e999", "-7.5", "9" * 400, "99999999999999999999", "1_0", "0x10", "٣", "true", "null",
    "../../etc/passwd", "/etc/passwd", "images/../../../x", "..", ".", "a" * 300, "", " ", "\0", "\r", "\t", "é",
    "\ud7ff", "\\ud800", "&e;", "<!DOCTYPE x>", "<object>", "</object>", "DontCare", "%s", "[[", "}", "{", "'", '"',
    "!!int x", "*a", "&a [*a]",
)  # fmt: skip
# What a setting may be given instead: no path among them but such as lie where nothing is.
VALUES = (
    "nan", "inf", "-inf", "-1", "0", "1", "2", "0.5", "-0.0", "1e-300", "1e308", "1e999", "9" * 400, "9" * 5000,
    "2147483648", "18446744073709551616", "1_0", "0x10", "0o7", "٣", "true", "false", "null", "~", "yes", "off", "a",
    "é", "🚗", "\t", " ", "", "[]", "{}", "[1,2]", "[[1]]", "[null]", "{a: 1}", "{a: {b: 1}}", "[" * 400, "{a: " * 300,
    "- 1", "!!int x", "!!binary aGk=", "!!python/object:os.system x", "*a", "&a [*a]", "<<: {a: 1}", "2001-01-01",
    "12:30:45", "%s", "'", '"', "frs", "aid(frs)", "sum", "(", "frs + ", "1 + 1", "x" * 3000, "\\", "$HOME", "~root",
    "nowhere/x", "#", "|", ">", "? a", "lambda: 0", "__import__('os')", "(" * 200 + ")" * 200, "-" * 300 + "1",
    "not " * 300 + "a", "f'{1}'", "a\nb", "\r\n",
)  # fmt: skip

Damage = Callable[[bytes, random.Random], bytes]


def flip(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 3, 30))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def truncate(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def empty(data: bytes, draw: random.Random) -> bytes:
    del data, draw
    return b""


def drop_line(data: bytes, draw: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    del lines[draw.randrange(len(lines))]
    return b"".join(lines)


def repeat_line(data: bytes, draw: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    lines.insert(draw.randrange(len(lines)), draw.choice(lines))
    return b"".join(lines)


def words(data: bytes) -> list[tuple[int, int]]:
    """Where every run of letters and digits, with what belongs to numbers and paths, begins and ends."""
    spans, begin = [], None
    for place, byte in enumerate(data + b" "):
        inside = chr(byte).isalnum() or byte in b"./_-"
        if inside and begin is None:
            begin = place
        elif not inside and begin is not None:
            spans.append((begin, place))
            begin = None
    return spans


def put_token(data: bytes, draw: random.Random) -> bytes:
    return _put(data, draw, TOKENS)


def put_value(data: bytes, draw: random.Random) -> bytes:
    return _put(data, draw, VALUES)


def _put(data: bytes, draw: random.Random, tokens: tuple[str, ...]) -> bytes:
    spans = words(data)
    if not spans:
        return draw.choice(tokens).encode()
    begin, end = draw.choice(spans)
    return data[:begin] + draw.choice(tokens).encode() + data[end:]


def swap_words(data: bytes, draw: random.Random) -> bytes:
    spans = words(data)
    if len(spans) < 2:
        return data[::-1]
    (a, b), (c, d) = sorted(draw.sample(spans, 2))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def insert_bytes(data: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(data) + 1)
    return data[:place] + draw.randbytes(draw.choice((1, 4, 100))) + data[place:]


DAMAGES: tuple[Damage, ...] = (
    flip, truncate, empty, drop_line, repeat_line, put_token, put_token, put_token, swap_words, swap_words,
    insert_bytes,
)  # fmt: skip
# The same for texts of settings, whose paths must stay where nothing is harmed.
TEXT_DAMAGES: tuple[Damage, ...] = (
    put_value, put_value, put_value, put_value, swap_words, repeat_line, drop_line, truncate, insert_bytes, flip,
)  # fmt: skip


def one_bit(data: bytes, draw: random.Random) -> bytes:
    """A single bit, flipped."""
    place = draw.randrange(len(data))
    return data[:place] + bytes((data[place] ^ 1 << draw.randrange(8),)) + data[place + 1 :]
