from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detdistill.errors import ConfigError
from detdistill.settings.strict_yaml import load_yaml, parse_yaml

TAGS = (
    "!!null", "!!bool", "!!int", "!!float", "!!binary", "!!timestamp", "!!omap", "!!pairs", "!!set", "!!str", "!!seq",
    "!!map", "!!merge", "!!value", "!own",
)  # fmt: skip
VALUES = ("", "''", "foo", "0", "é", "[]", "[1]", "[[1]]", "{}", "{a: 1}", "[{a: 1}]", "{[1]: 2}", "&a [*a]", "{? [] }")


def require_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_yaml(text, "x")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "made: !!timestamp foo",
            r"x must be plain YAML, got: a value that does not fit the tag \(!!\.\.\.\) before it\.",
        ),
        ("t: !!float ''", r"x must be plain YAML, got: a value that does not fit the tag"),
        ("a: 1\nt: !!set [1]", r"x, line 2 must be YAML, got: expected a mapping node, but found sequence\. Mend"),
        ("t: !!map [1]", r"x, line 1 must be YAML, got: expected a mapping node, but found sequence\."),
        ("t: !!bool x", r"x must be plain YAML, got: a value that does not fit the tag"),
        ("t: !!int x", r"x must be plain YAML, got: invalid literal for int"),
    ],
)
def test_a_value_that_does_not_fit_its_tag_is_refused(text, told):
    require_refused(text, told)


@given(st.sampled_from(TAGS), st.sampled_from(VALUES))
@settings(max_examples=210, deadline=None)
def test_every_tag_before_every_value_is_read_or_refused(tag, value):
    for text in (f"a: {tag} {value}\n", f"{tag} {value}\n", f"? {tag} {value}\n: 1\n"):
        try:
            parse_yaml(text, "x")
        except ConfigError as error:
            message = str(error)
            assert message.startswith("x"), message
            assert " must " in message, message
            assert ", got" in message, message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1: x\n01: y", r"x, line 2: '01' must stand once in its section, got it on line 1 \(as '1'\) and on line 2\."),
        ("1: x\n1.0: y", r"'1\.0' must stand once in its section, got it on line 1 \(as '1'\)"),
        ("~: x\nnull: y", r"'null' must stand once in its section, got it on line 1 \(as '~'\)"),
        ("a: x\n'a': y", r"'a' must stand once in its section, got it on line 1 and on line 2"),
    ],
)
def test_keys_that_mean_the_same_stand_once(text, told):
    require_refused(text, told)


def test_keys_that_only_look_the_same_are_two():
    assert parse_yaml("1: x\n'1': y", "x") == {1: "x", "1": "y"}


@pytest.mark.parametrize("text", ["a: &x [1]\nb: *x", "a: &x {c: 1}\nb:\n  <<: *x", "a: &x [*x]"])
def test_aliases_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"aliases must be left out, got \*x\. Write it out\."):
        parse_yaml(text, "a.yaml")


def test_a_few_lines_that_would_fill_the_memory_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    with pytest.raises(ConfigError, match=r"a\.yaml, line 2: aliases must be left out"):
        parse_yaml("\n".join(lines), "a.yaml")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match=r"a\.yaml must be a regular file, got a pipe, device or socket"):
        load_yaml(tmp_path / "a.yaml")
