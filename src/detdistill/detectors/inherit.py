"""The inheriting strategy: a student whose neck and heads start from its teacher's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from detdistill.detectors.base import Detector
from detdistill.detectors.load_report import ShapeMismatch
from detdistill.errors import ConfigError

_WRAPPER = "model."


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
    # Other classes in the same number would have weights of the same shapes, each taken for another class.
    if len(ours.class_names) == len(others.class_names) and ours.class_names != others.class_names:
        raise ConfigError(
            f"The classes of the teacher {source} must be the student's, in the same order, to inherit its heads, got "
            f"{', '.join(others.class_names)} and here {', '.join(ours.class_names)}. Leave out --inherit."
        )
    theirs = {name.removeprefix(_WRAPPER): tensor for name, tensor in teacher.state_dict().items()}
    own = {name: name.removeprefix(_WRAPPER) for name in student.state_dict()}
    wanted = {full: name for full, name in own.items() if not student.in_backbone(full)}
    inherited, other_shape = [], []
    for full, tensor in student.state_dict().items():
        given = theirs.get(wanted.get(full, ""))
        if given is None:
            continue
        if given.shape != tensor.shape:
            other_shape.append(ShapeMismatch(full, tuple(given.shape), tuple(tensor.shape)))
            continue
        with torch.no_grad():
            tensor.copy_(given)
        inherited.append((full, tuple(tensor.shape)))
    if not inherited:
        raise ConfigError(
            f"The teacher {source} must share a tensor of neck or heads with the student to inherit it, by name and "
            f"shape, got none: {others.name} has {others.pyramid.channels} channels in the neck, {ours.name} has "
            f"{ours.pyramid.channels}. Take a student of the same family with "
            f"student.fpn_channels={others.pyramid.channels}, or leave out --inherit."
        )
    missing = tuple(full for full, name in wanted.items() if name not in theirs)
    return InheritReport(source, tuple(inherited), tuple(other_shape), missing, len(own) - len(wanted))
