"""Which teacher can teach which student by which method: what works, and why the rest is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detdistill.detectors.base import ClassLayout, DetectorSpec, PyramidLayout
from detdistill.detectors.catalogue import FAMILIES, build_detector, parse_detector
from detdistill.detectors.families.hf import is_name
from detdistill.detectors.settings import PyramidSettings
from detdistill.errors import CapabilityError
from detdistill.jobs.doors import HUB, door_of
from detdistill.jobs.profile import open_model
from detdistill.methods.catalogue import METHODS, build_recipe
from detdistill.progress import Progress, Silence
from detdistill.types import ClassKind

_CLASSES = ("car", "truck")
_STRIDES = (8, 16, 32)
_INSIDE = "hint"
_HEAD = """# Who can teach whom

<!-- Made by `make pairs`: what each method says of two detectors' specs, not kept by hand. -->

A table a teacher, a row a student: whether each method works, or the number of the reason why it is refused, listed
at the end; `aid` and `ikd` around `hint`. `detdistill methods --pair TEACHER STUDENT` says it of two detectors by
their names, of files and of code of your own. Detectors here have their smallest size; a module of your own shows
three maps and class logits. Names in capitals stand for the two."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a method works; else why not, in one sentence, and what helps."""

    method: str
    refused: str = ""


@dataclass(frozen=True, slots=True)
class PairsOutcome:
    """What each method says of pairs of a teacher and a student; `markdown` makes a page of `table`."""

    pairs: Mapping[tuple[str, str], tuple[Verdict, ...]]
    markdown: bool = False

    def table(self) -> list[str]:
        """A line a method for each pair."""
        if self.markdown:
            return _page(self.pairs)
        lines: list[str] = []
        for (teacher, student), verdicts in self.pairs.items():
            width = max(len(one.method) for one in verdicts)
            lines += [f"{teacher} teaches {student} by", ""]
            lines += [f"  {one.method:<{width}}  {one.refused or 'works'}" for one in verdicts]
        return lines

    def as_dict(self) -> Mapping[str, Any]:
        """Every verdict, with None for what works."""
        return {
            "pairs": [
                {
                    "teacher": teacher,
                    "student": student,
                    "methods": {one.method: one.refused or None for one in verdicts},
                }
                for (teacher, student), verdicts in self.pairs.items()
            ]
        }


def pair_job(teacher: str, student: str, *, progress: Progress | None = None) -> PairsOutcome:
    """What each method says of two detectors, by what they are and offer; weights are not asked for.

    A detector without classes of its own gets those of the other.
    """
    watcher = progress or Silence()
    both: dict[str, DetectorSpec] = {}
    stored = door_of(teacher) is HUB and not is_name(teacher)
    theirs = open_model(teacher, _CLASSES, watcher).spec if stored else None
    names = dict.fromkeys((student,) if stored else (teacher, student))
    for name in sorted(names, key=lambda one: not Path(one).exists()):
        known = next((spec.class_names for spec in (theirs, *both.values()) if spec is not None), _CLASSES)
        # A student of the hub is of that kind, built anew for the data's classes.
        anew = name == student and door_of(name) is HUB
        built = build_detector(parse_detector(name), known, seed=0) if anew else open_model(name, known, watcher)
        both[name] = built.spec
    return PairsOutcome({(teacher, student): verdicts(both[student], theirs or both[teacher])})


def every_pair() -> PairsOutcome:
    """All families' smallest detectors, a module of one's own, and as a teacher a black box, as a page."""
    built = {name: build_detector(settings, _CLASSES, seed=0).spec for name, settings in _smallest()}
    built["a module of your own"] = own_module()
    teachers = {**built, "boxes alone (JSON, ONNX, a function)": DetectorSpec("a black box", _CLASSES)}
    pairs = {
        (teacher, student): (theirs, ours) for teacher, theirs in teachers.items() for student, ours in built.items()
    }
    return PairsOutcome({names: _in_general(ours, theirs) for names, (theirs, ours) in pairs.items()}, markdown=True)


def _in_general(student: DetectorSpec, teacher: DetectorSpec) -> tuple[Verdict, ...]:
    """The verdicts with capitals in the places of the detectors' names."""

    def told(said: str) -> str:
        return said.replace(teacher.name, "TEACHER").replace(student.name, "STUDENT")

    return tuple(replace(one, refused=told(one.refused)) for one in verdicts(student, teacher))


def own_module(class_names: tuple[str, ...] = _CLASSES) -> DetectorSpec:
    """What `detdistill.wrap` makes of a module with three maps and class logits."""
    pyramid, logits = PyramidLayout(_STRIDES, (64, 128, 256)), ClassLayout(_STRIDES, ClassKind.SIGMOID, 1, class_names)
    return DetectorSpec("a module of your own", class_names, pyramid, logits)


def verdicts(student: DetectorSpec, teacher: DetectorSpec) -> tuple[Verdict, ...]:
    """What each method says of two detectors."""
    found = []
    for name, method in METHODS.items():
        text = f"{name}({_INSIDE})" if method.wraps else name
        try:
            build_recipe(text, student, teacher)
            found.append(Verdict(name))
        except CapabilityError as error:
            found.append(Verdict(name, str(error)))
    return tuple(found)


def _smallest() -> Iterator[tuple[str, Any]]:
    """The smallest detector of every family, and of a family of several kinds each kind's."""
    for family in FAMILIES.values():
        kinds = set()
        for preset, settings in family.presets.items():
            kind = family.name if isinstance(settings, PyramidSettings) else preset.rpartition("_")[0]
            if kind not in kinds:
                yield f"{family.name}{'/' if family.naming is None else ':'}{preset}", settings
            kinds.add(kind)


def _page(pairs: Mapping[tuple[str, str], Sequence[Verdict]]) -> list[str]:
    reasons: dict[str, int] = {}
    lines, methods = _HEAD.splitlines(), [one.method for one in next(iter(pairs.values()))]
    for teacher in dict.fromkeys(names[0] for names in pairs):
        lines += ["", f"## {teacher} as the teacher", "", f"| student | {' | '.join(methods)} |"]
        lines += [f"|---|{'---|' * len(methods)}"]
        for (_, student), row in ((names, row) for names, row in pairs.items() if names[0] == teacher):
            cells = [str(reasons.setdefault(one.refused, len(reasons) + 1)) if one.refused else "works" for one in row]
            lines += [f"| {student} | {' | '.join(cells)} |"]
    return [*lines, "", "## Reasons", "", *(f"{number}. {reason}" for reason, number in reasons.items())]
