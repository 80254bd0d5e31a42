"""Every setting that a run has and every word of a command: what it is for, what it may be, and other names for it."""

from __future__ import annotations

import difflib
import inspect
import pathlib
import re
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from detdistill.data.transforms import STRENGTHS
from detdistill.detectors.catalogue import FAMILIES
from detdistill.errors import ConfigError
from detdistill.jobs.config import TRAIN_DEFAULTS
from detdistill.jobs.settings import TAUGHT_KEYS, RunConfig
from detdistill.jobs.synonyms import SYNONYMS
from detdistill.methods.catalogue import METHODS
from detdistill.settings.bounds import bare, within
from detdistill.settings.calls import INNER, written
from detdistill.settings.meanings import OPTION_NAMES, PYTHON_ALONE, meanings_in, meanings_of
from detdistill.settings.trees import default_of, hints_of, in_order, section_in

_UNIONS = (Union, UnionType)
_PLAIN = {float: "number", int: "whole number", bool: "true or false", str: "text", NoneType: "null"}
_PLAIN |= {pathlib.Path: "path", Any: "text", Mapping: "section"}
_WORDS = {"str": "text", "Place": "path", "bool": "flag", "int": "whole number", "float": "number"}
_WORDS |= {
    "Source": "run folder, checkpoint, torchvision:NAME, hf:FOLDER, a file or MODULE:CLASS=WEIGHTS",
    "tuple[int, int]": "two whole numbers",
}
_WORDS |= {"Sequence[Place]": "several paths"}
_GIVEN = "to be given"
_NOT_FOUND = 9
_HEAD = """# Every setting

<!-- Made by `make settings`: edit the documentation in the code, not this page. -->

`detdistill settings WORD` finds the settings that a word is about, in your own words, such as `"early stop"`;
`detdistill train --keys` and `detdistill distill --keys` list what either reads. A key is written `KEY=VALUE` on the
command line, and as nested sections in a config file. `student.KEY` differs by the detector's family and `method.KEY`
by the method: `method.recipe.KEY` is inside one that wraps another, `method.recipes.0.KEY` in a sum."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, or one word of a command.

    Attributes:
        key: as it is written, such as ``"train.lr"``, ``"method.gain"`` or ``"--steps"``.
        of: whose it is: methods, detector families or commands; empty for every run's.
        meaning: purpose and unit.
        values: what it may be.
        default: as a text has it.
        words: what people also call it.
    """

    key: str
    of: tuple[str, ...]
    meaning: str
    values: str
    default: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SettingsOutcome:
    """The settings that were asked for; `markdown` makes of `table` the page of all of them."""

    settings: tuple[Setting, ...]
    markdown: bool = False

    def table(self) -> list[str]:
        """Two or three lines a setting: key, default and values; meaning; other names."""
        if self.markdown:
            return _page(self.settings)
        lines: list[str] = []
        for one in self.settings:
            of = f"  [{', '.join(one.of)}]" if one.of else ""
            lines.append(f"{one.key} = {one.default}{of}" if not one.key.startswith("--") else f"{one.key}{of}")
            told = f"{one.meaning} ({one.values})"
            told += f" Also: {', '.join(one.words)}." if one.words else ""
            lines += [f"    {line}" for line in textwrap.wrap(told, width=112, break_on_hyphens=False)]
        return lines

    def as_dict(self) -> Mapping[str, Any]:
        """Every setting as a dictionary of its own, in order."""
        names = [one.name for one in fields(Setting)]
        return {"settings": [{name: getattr(one, name) for name in names} for one in self.settings]}


def settings_job(
    word: str | None = None, *, commands: Mapping[str, Callable[..., Any]], markdown: bool = False
) -> SettingsOutcome:
    """All settings and words, or those that a word is about.

    Args:
        word: part of a key, of what it means, or what people call it; several words must all be found.
        commands: the public functions by the commands that they are.
        markdown: make a page of it.

    Raises:
        ConfigError: nothing is about the word.
    """
    every = (*run_settings(), *command_words(commands))
    if word is None:
        return SettingsOutcome(every, markdown)
    ranked = [(_rank(one, word), one) for one in every]
    found = [one for rank, one in sorted(ranked, key=lambda pair: pair[0]) if rank < _NOT_FOUND]
    if not found:
        raise ConfigError(
            f"The word to look for must be in a setting's key, meaning or other names, got '{word}'. "
            f"{_suggestion(word, every)}"
        )
    return SettingsOutcome(tuple(found), markdown)


def command_settings(
    command: str, function: Callable[..., Any], *, detector: str | None = None, method: str | None = None
) -> SettingsOutcome:
    """The words of `train` or `distill`, and every key that it reads.

    Args:
        command: which of both.
        function: the public function that it is.
        detector: its family's keys alone; None for all families'.
        method: the keys of the methods in this text alone; None for all methods'.
    """
    families = {str(detector).partition("/")[0]} & FAMILIES.keys() or FAMILIES.keys()
    methods = {name for name in METHODS if re.search(rf"\b{name}\b", method or "")} or METHODS.keys()
    kept = []
    for one in run_settings(families=families, methods=methods):
        if command != "train" or not any(f"{one.key}.".startswith(f"{key}.") for key in TAUGHT_KEYS):
            kept.append(one)
    return SettingsOutcome((*command_words({command: function}), *kept))


def run_settings(
    *, families: Collection[str] | None = None, methods: Collection[str] | None = None
) -> tuple[Setting, ...]:
    """Every key of a run as a config file and `key=value` have it, with the families' and methods' own."""
    students = {name: one.settings for name, one in FAMILIES.items() if families is None or name in families}
    named = {key for one in students.values() for key in one.named_by}
    recipes = {name: one.settings for name, one in METHODS.items() if methods is None or name in methods}
    found: list[Setting] = []
    for one in _walked(RunConfig, ""):
        if one.key.startswith("student.settings"):
            found += _grouped(students, "student", every=len(FAMILIES), without=named)
        elif one.key == "method":
            found += [
                replace(one, key="method.name"),
                *_grouped(recipes, "method", every=len(METHODS), without=(INNER,)),
            ]
        else:
            found.append(replace(one, key="seed") if one.key == "train.seed" else one)
    return tuple(replace(one, words=SYNONYMS.get(one.key, ())) for one in found)


def command_words(commands: Mapping[str, Callable[..., Any]]) -> tuple[Setting, ...]:
    """The options of commands, grouped where several have one of the same meaning."""
    found: dict[tuple[str, ...], list[str]] = {}
    for command, function in commands.items():
        meanings = meanings_in(function.__doc__ or "", "Args")
        for name, one in inspect.signature(function).parameters.items():
            if name in PYTHON_ALONE:
                continue
            key = name.upper()
            if one.kind is inspect.Parameter.KEYWORD_ONLY:
                key = f"--{OPTION_NAMES.get(name, name).replace('_', '-')}"
            default = "" if one.default in (inspect.Parameter.empty, None, False) else written(one.default)
            found.setdefault((key, meanings[name], default, _word_values(str(one.annotation))), []).append(command)
    return tuple(
        Setting(key, tuple(of), meaning, values, default, SYNONYMS.get(key, ()))
        for (key, meaning, default, values), of in found.items()
    )


def _word_values(annotation: str) -> str:
    """What an option lets a value be, by how the function's signature writes it."""
    if chosen := re.fullmatch(r"Literal\[(.*)\]", annotation):
        return " or ".join(re.findall(r'"([^"]*)"', chosen[1]))
    return " or ".join(_WORDS.get(one, "text") for one in annotation.split(" | ") if one != "None")


def _walked(kind: Any, prefix: str) -> Iterator[Setting]:
    meanings = meanings_of(kind)
    for one in in_order(kind):
        key, hint = f"{prefix}{one.name}", hints_of(kind)[one.name]
        default = default_of(one)
        if prefix == "train." and default is MISSING:
            default = TRAIN_DEFAULTS[one.name]
        inner = section_in(hint)
        optional = inner is not hint
        if inner is None or optional or key == "student.settings":
            yield Setting(key, (), meanings.get(one.name, ""), _values(hint), _shown(default))
        if key == "data.augment":
            default = next(name for name, strength in STRENGTHS.items() if strength == default)
            yield Setting(key, (), meanings[one.name], f"{' or '.join(STRENGTHS)} or section", default)
        if inner is not None and key != "student.settings":
            yield from _walked(inner, f"{key}.")


def _grouped(kinds: Mapping[str, Any], section: str, *, every: int, without: Collection[str]) -> Iterator[Setting]:
    """The keys of several kinds, each once for all kinds in which it means the same."""
    groups: dict[tuple[str, str, str], dict[str, str]] = {}
    for name, kind in kinds.items():
        meanings = meanings_of(kind)
        for one in in_order(kind):
            if one.name not in without:
                what = (one.name, meanings.get(one.name, ""), _values(hints_of(kind)[one.name]))
                groups.setdefault(what, {})[name] = _shown(default_of(one))
    for (key, meaning, values), defaults in groups.items():
        common = max(defaults.values(), key=list(defaults.values()).count)
        others = {name: default for name, default in defaults.items() if default != common}
        shown = common + (f" ({', '.join(f'{name}: {default}' for name, default in others.items())})" if others else "")
        of = () if len(defaults) == every else tuple(defaults)
        yield Setting(f"{section}.{key}", of, meaning, values, shown)


def _values(hint: Any) -> str:
    """What a type lets a value be, and between which bounds."""
    bounds = within(hint)
    return f"{_kinds(hint)}{'' if bounds is None else f', {bounds.text()}'}"


def _kinds(hint: Any) -> str:
    hint = bare(hint)
    origin, members = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(map(written, members))
    if origin in _UNIONS:
        return " or ".join(dict.fromkeys(map(_kinds, members)))
    if origin is tuple:
        what = _kinds(members[0])
        return f"list of {what}s" if members[-1] is Ellipsis else f"list of {len(members)} {what}s"
    if origin is Annotated:
        return "method as text or section"
    return "section" if is_dataclass(hint) else _PLAIN.get(origin or hint, str(hint))


def _shown(default: Any) -> str:
    if default is MISSING:
        return _GIVEN
    return f"{default:.3g}" if isinstance(default, float) else written(default)


def _tokens(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _meets(wanted: str, tokens: Collection[str]) -> bool:
    """Whether a word is among others, up to its ending: "stopping" meets "stop"."""

    def begins(long: str, short: str, least: int) -> bool:
        return len(short) >= least and long.startswith(short)

    return any(token == wanted or begins(token, wanted, 3) or begins(wanted, token, 4) for token in tokens)


def _rank(one: Setting, word: str) -> float:
    """How well a setting answers: -1 by name, below 1 by another name, 1 by part of it, 2 by its key, 3 by all else."""
    if not one.key.startswith("--") and _tokens(word) == _tokens(one.key.rpartition(".")[2]):
        return -1
    names = [_tokens(name) for name in one.words]
    if _tokens(word) in names:
        return names.index(_tokens(word)) / len(names)
    wanted = [token for token in _tokens(word) if not token.isdigit()]
    key, all_words = _tokens(one.key), _tokens(" ".join((one.key, one.meaning, *one.of, *one.words)))
    for rank, places in enumerate((names, [key], [all_words]), start=1):
        if wanted and any(all(_meets(token, place) for token in wanted) for place in places):
            return rank
    return _NOT_FOUND


def _suggestion(word: str, every: Sequence[Setting]) -> str:
    known = {name: one.key for one in every for name in (*one.words, *one.key.split("."), one.key)}
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.5)
    return f"Did you mean '{close[0]}'?" if close else "Look through all of them with detdistill settings."


def _page(settings: Sequence[Setting]) -> list[str]:
    """A page of Markdown, a table a section."""
    sections: dict[str, list[Setting]] = {}
    for one in settings:
        section = one.key.partition(".")[0] if "." in one.key else "the run as a whole"
        section = "words of commands" if one.key.startswith("--") or one.key.isupper() else section
        sections.setdefault(section, []).append(one)
    lines = _HEAD.splitlines()
    for section, members in sections.items():
        title = f"{section[0].upper()}{section[1:]}"
        lines += ["", f"## {title}", "", "| key | default | may be | what for |", "|---|---|---|---|"]
        for one in members:
            of = f" Of {', '.join(one.of)}." if one.of else ""
            also = f" Also: {', '.join(one.words)}." if one.words else ""
            cells = (f"`{one.key}`", f"`{one.default}`" if one.default else "", one.values, f"{one.meaning}{of}{also}")
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return lines
