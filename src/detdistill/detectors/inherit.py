"""Students that start from another detector's weights: all of them, or a teacher's neck and heads (inheriting)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from detdistill.detectors.base import BACKGROUND_ROW, UNUSED_ROW, Detector
from detdistill.detectors.catalogue import build_detector
from detdistill.detectors.load_report import ClassRows, LoadReport, ShapeMismatch
from detdistill.detectors.settings import PyramidSettings
from detdistill.errors import ConfigError

_WRAPPER = "model."
Rows = Mapping[str | None, Sequence[int]]


@dataclass(frozen=True, slots=True)
class InheritReport:
    """What a student took over, tensor by tensor.

    Attributes:
        source: the teacher.
        inherited: name and shape of the student's tensors that are the teacher's now.
        other_shape: tensors of both, with different shapes; in the teacher (`in_file`) and in the student.
        not_in_teacher: tensors of the student's neck and heads that the teacher does not have.
        body: how many tensors the student's backbone has; they stay its own.
    """

    source: str
    inherited: tuple[tuple[str, tuple[int, ...]], ...]
    other_shape: tuple[ShapeMismatch, ...]
    not_in_teacher: tuple[str, ...]
    body: int

    def lines(self) -> list[str]:
        """The report, one line a tensor below a headline."""
        wanted = len(self.inherited) + len(self.other_shape) + len(self.not_in_teacher)
        shapes = ((bad.name, bad.in_file, bad.in_model) for bad in self.other_shape)
        return [
            f"inherited {len(self.inherited)} of {wanted} tensors of neck and heads from {self.source}; the backbone's "
            f"{self.body} stay the student's own",
            *(f"  inherited: {name} {shape}" for name, shape in self.inherited),
            *(f"  other shape: {name} {theirs} in the teacher, {ours} here" for name, theirs, ours in shapes),
            *(f"  not in the teacher: {name}" for name in self.not_in_teacher),
        ]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        shapes = {bad.name: {"teacher": list(bad.in_file), "student": list(bad.in_model)} for bad in self.other_shape}
        return {
            "source": self.source,
            "inherited": {name: list(shape) for name, shape in self.inherited},
            "other_shape": shapes,
            "not_in_teacher": list(self.not_in_teacher),
            "body": self.body,
        }


def inherit(student: Detector, teacher: Detector, *, source: str) -> InheritReport:
    """Copies the teacher's neck and heads into the student, where names and shapes match; never the backbone.

    Names are compared without the wrapper that some families put around their network, so that necks of different
    families match.

    Args:
        student: changed in place; on any device.
        teacher: read alone.
        source: what messages call the teacher.

    Raises:
        ConfigError: nothing matched, or the classes are as many but not the same in the same order.

    Example:
        >>> student, teacher = (detdistill.build_detector("fcos/tiny", ("car",), seed=seed) for seed in (0, 1))
        >>> report = detdistill.inherit(student, teacher, source="the teacher")
        >>> len(report.inherited) > 0
        True
    """
    ours, others = student.spec, teacher.spec
    if others.pyramid is None:
        raise ConfigError(
            f"The teacher {source} must have a neck and heads to inherit, got {others.name}, which says boxes alone. "
            "Leave out --inherit."
        )
    # Other classes in the same number would have weights of the same shapes, each taken for another class.
    if len(ours.class_names) == len(others.class_names) and ours.class_names != others.class_names:
        raise ConfigError(
            f"The classes of the teacher {source} must be the student's, in the same order, to inherit its heads, got "
            f"{', '.join(others.class_names)} and here {', '.join(ours.class_names)}. Leave out --inherit."
        )
    report = _take(student, teacher, source=source, but=student.in_backbone)
    if not report.matched:
        raise ConfigError(
            f"The teacher {source} must share a tensor of neck or heads with the student to inherit it, by name and "
            f"shape, got none: {others.name} has {others.pyramid.channels} channels in the neck, {ours.name} has "
            f"{ours.maps.channels}. Take a student of the same family with "
            f"student.fpn_channels={others.pyramid.channels}, or leave out --inherit."
        )
    own = student.state_dict()
    inherited = tuple((name, tuple(own[name].shape)) for name in report.matched)
    return InheritReport(source, inherited, report.mismatched, report.missing, len(own) - report.wanted)


def initialise(student: Detector, source: Detector, *, name: str) -> LoadReport:
    """Copies all tensors of another detector into the student, where names and shapes match.

    Names are compared as in `inherit`. The class layers go by the names of classes (`Detector.class_rows`): rows of
    classes that source and student both know are copied, the others stay as drawn.

    Args:
        student: changed in place; built from `DetectorSettings`.
        source: read alone.
        name: what messages call the source.

    Raises:
        ConfigError: the source has another backbone, or less than half of the student's tensors.
    """
    report = _take(student, source, source=name, layers=_class_layers(student, source))
    shared = len(report.matched) + len(report.by_class)
    if not _same_backbone(student, source) or 2 * shared < report.wanted:
        raise ConfigError(
            f"The detector to start from, {name}, must have the student's backbone and at least half of its tensors, "
            f"got {source.spec.name} with {shared} of {report.wanted} for {student.spec.name}. Give the student the "
            "same architecture, or leave out --init."
        )
    return report


@dataclass(frozen=True, slots=True)
class _ClassLayer:
    """Which rows of a tensor stand for which class, here in the student and there in the source; see `ClassRows`.

    The background's rows are those of None. Rows that nobody told of are not there.
    """

    here: Rows
    there: Rows
    taken: tuple[str, ...]
    drawn: tuple[str, ...]
    left: tuple[str, ...]

    @classmethod
    def between(cls, student: Detector, source: Detector, here: Rows, there: Rows) -> _ClassLayer:
        names, others = student.spec.class_names, source.spec.class_names
        taken = tuple(name for name in names if name in here and name in there)
        drawn, left = (tuple(name for name in some if name not in taken) for some in (names, others))
        return cls(here, there, taken, drawn, left)

    def fill(self, tensor: Tensor, given: Tensor) -> bool:
        """Copies the rows of what both have; False, and nothing copied, where these are of another number or shape."""
        pairs = [(self.here[name], self.there[name]) for name in self.here if name in self.there]
        if pairs and given.shape[1:] != tensor.shape[1:]:
            return False
        if any(len(here) != len(there) for here, there in pairs):
            return False
        for here, there in pairs:
            tensor[here] = given[there].to(tensor)
        return True


@torch.no_grad()
def _take(
    student: Detector,
    other: Detector,
    *,
    source: str,
    but: Callable[[str], bool] = lambda _: False,
    layers: Mapping[str, _ClassLayer] = MappingProxyType({}),
) -> LoadReport:
    """Copies another detector's tensors into the student.

    Args:
        student: changed in place.
        other: read alone.
        source: what the report calls it.
        but: says by name which of the student's tensors stay out of it.
        layers: by bare name, the tensors that go class by class.
    """
    theirs = {_bare(name): tensor for name, tensor in other.state_dict().items()}
    own = {name: tensor for name, tensor in student.state_dict().items() if not but(name)}
    matched: list[str] = []
    missing: list[str] = []
    mismatched: list[ShapeMismatch] = []
    by_class: list[ClassRows] = []
    for name, tensor in own.items():
        given, layer = theirs.get(_bare(name)), layers.get(_bare(name))
        if given is None:
            missing.append(name)
        elif layer is not None and layer.fill(tensor, given):
            by_class.append(ClassRows(name, layer.taken, layer.drawn, layer.left))
        elif layer is None and given.shape == tensor.shape:
            tensor.copy_(given)
            matched.append(name)
        else:
            mismatched.append(ShapeMismatch(name, tuple(given.shape), tuple(tensor.shape)))
    asked = {_bare(name) for name in own}
    unexpected = tuple(name for name in other.state_dict() if _bare(name) not in asked)
    return LoadReport(source, tuple(matched), tuple(missing), unexpected, tuple(mismatched), tuple(by_class))


def _class_layers(student: Detector, source: Detector) -> dict[str, _ClassLayer]:
    """The student's tensors that go class by class, by bare name; none where both have the same rows."""
    ours, theirs = _rows(student), _rows(source)
    if student.spec.class_names == source.spec.class_names:
        ours = {name: rows for name, rows in ours.items() if name in theirs and theirs[name] != rows}
    elif not ours:
        ours = {name: {} for name in _depending_on_classes(student)}
    return {name: _ClassLayer.between(student, source, rows, theirs.get(name, {})) for name, rows in ours.items()}


def _same_backbone(student: Detector, source: Detector) -> bool:
    """Whether both backbones are the same: by timm's name where both were built from it, else weight by weight.

    Those of another depth share many names and shapes, which do not do the same there.
    """
    ours, theirs = student.settings, source.settings
    if isinstance(ours, PyramidSettings) and isinstance(theirs, PyramidSettings):
        return ours.backbone.partition(".")[0] == theirs.backbone.partition(".")[0]
    weights = (
        {(_bare(name), tensor.shape) for name, tensor in one.state_dict().items() if one.in_backbone(name)}
        for one in (student, source)
    )
    own, others = ({one for one in some if len(one[1]) > 1} for some in weights)
    return own == others


def _rows(detector: Detector) -> dict[str, dict[str | None, list[int]]]:
    """The rows of every class in the class layers' tensors, by bare name."""
    names, found = detector.spec.class_names, dict[str, dict[str | None, list[int]]]()
    for tensor, labels in detector.class_rows().items():
        rows = found.setdefault(_bare(tensor), {})
        for row, label in enumerate(labels):
            if label != UNUSED_ROW:
                rows.setdefault(None if label == BACKGROUND_ROW else names[label], []).append(row)
    return found


def _depending_on_classes(student: Detector) -> set[str]:
    """The bare names of tensors whose shape depends on the number of classes, found by building the like once more."""
    if student.settings is None:
        raise ConfigError(
            f"A student that starts from other classes must be built from DetectorSettings, got {student.spec.name}. "
            "Build it by build_detector."
        )
    names = student.spec.class_names
    one_more = (*names, f"{' '.join(names)} and one more")
    like = build_detector(student.settings.at_home(), one_more, seed=0).state_dict()
    return {_bare(name) for name, tensor in student.state_dict().items() if like[name].shape != tensor.shape}


def _bare(name: str) -> str:
    """A tensor's name without the wrapper that some families put around their network."""
    return name.removeprefix(_WRAPPER)
