"""Loading weights strictly: which tensors matched, which did not, and whether two class lists agree."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detdistill.detectors.base import Detector
from detdistill.detectors.class_map import ClassMap
from detdistill.errors import ConfigError

_LISTED = 5
_KNOWN_DTYPES = frozenset(
    {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool}
    | {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
)
_KINDS = ("taken", "drawn", "left")


@dataclass(frozen=True, slots=True)
class ShapeMismatch:
    """A tensor that stands in the file and in the model with different shapes."""

    name: str
    in_file: tuple[int, ...]
    in_model: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ClassRows:
    """A tensor of a class layer that was filled row by row, by the names of classes.

    Attributes:
        name: of the tensor.
        taken: classes whose rows are the source's now.
        drawn: classes whose rows stay freshly drawn.
        left: classes that the source alone has.
    """

    name: str
    taken: tuple[str, ...]
    drawn: tuple[str, ...]
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What loading a file, or another model's tensors, into a model did, tensor by tensor.

    Attributes:
        source: the file, or what else the tensors came from.
        matched: tensors of the model that were filled from the file.
        missing: tensors of the model that the file lacks.
        unexpected: tensors of the file that the model does not have.
        mismatched: tensors of both, with different shapes; not loaded.
        by_class: tensors of the class layers that were filled class by class.
        classes: what each class of a teacher is to its student; None where they are the same.
        known: what is known instead, in words, of a detector of which no tensor is.
    """

    source: str
    matched: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[ShapeMismatch, ...] = ()
    by_class: tuple[ClassRows, ...] = ()
    classes: ClassMap | None = None
    known: str = ""

    @property
    def wanted(self) -> int:
        """How many tensors the model has."""
        return len(self.matched) + len(self.missing) + len(self.mismatched) + len(self.by_class)

    @property
    def fraction(self) -> float:
        """Share of the model's tensors that matched, 0 to 1; 1 for a model without tensors."""
        return len(self.matched) / self.wanted if self.wanted else 1.0

    def text(self) -> str:
        """The report in a few lines: ``matched 296 of 296 tensors (100 %)`` and the first of what did not match."""
        if self.known:
            return self.known
        # Rounded down, so that only a full match reads 100 %.
        lines = [f"matched {len(self.matched)} of {self.wanted} tensors ({int(100 * self.fraction)} %)"]
        shapes = tuple(f"{bad.name} {bad.in_file} in the file, {bad.in_model} here" for bad in self.mismatched)
        for title, names in (("missing", self.missing), ("unexpected", self.unexpected), ("other shape", shapes)):
            if names:
                lines.append(f"  {title} ({len(names)}): {_listed(names)}")
        for taken, drawn, left in dict.fromkeys((one.taken, one.drawn, one.left) for one in self.by_class):
            count = sum((one.taken, one.drawn, one.left) == (taken, drawn, left) for one in self.by_class)
            kinds = (("taken over", taken), ("drawn anew", drawn), ("left behind", left))
            said = "; ".join(f"{kind} {_listed(classes)}" for kind, classes in kinds if classes)
            lines.append(f"  by class ({count}): {said}")
        if self.classes is not None:
            lines.append(f"  {self.classes.text()}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        shapes = {bad.name: {"source": list(bad.in_file), "student": list(bad.in_model)} for bad in self.mismatched}
        rows = {one.name: {kind: list(getattr(one, kind)) for kind in _KINDS} for one in self.by_class}
        return {
            "matched": list(self.matched),
            "by_class": rows,
            "other_shape": shapes,
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
            **({} if self.classes is None else {"classes": self.classes.as_dict()}),
        }

    def require_complete(self, *, allow: frozenset[str] = frozenset()) -> None:
        """Refuses anything but a full match, apart from names that begin as `allow` says.

        Raises:
            ConfigError: some tensor that is not allowed for did not match, or `allow` holds the empty name.
        """
        if "" in allow:
            raise ConfigError(
                "a tensor name to allow for must be the beginning of a name, got an empty one, which would "
                "allow everything. Name the tensors."
            )
        names = (*self.missing, *self.unexpected, *(bad.name for bad in self.mismatched))
        if not all(name.startswith(tuple(allow)) for name in names):
            raise ConfigError(
                f"{self.source} must fit the model tensor by tensor, got:\n{self.text()}\n"
                "Use the file that belongs to this model, or allow the tensors by name."
            )


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{', '.join(names[:_LISTED])}{more}"


@dataclass(frozen=True, slots=True)
class LoadedDetector:
    """A detector with weights, and what its file, or whoever made it, says about it.

    Attributes:
        detector: on the CPU, in train mode, as freshly built.
        image: how its training images were prepared; empty where nobody said.
        class_names: in label order.
        extra: whatever else was saved beside it.
        notes: what else a person should know, one sentence each.
    """

    detector: Detector
    report: LoadReport
    image: Mapping[str, Any]
    class_names: tuple[str, ...]
    extra: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str, current: bool = False) -> LoadReport:
    """Copies tensors into a module by name.

    What does not fit is left out and reported: call `LoadReport.require_complete` on the result.

    Args:
        module: filled in place.
        tensors: by name.
        source: what the report and its error call the tensors.
        current: the names are those of `module.state_dict()` as it is now. False: torch and torchvision may rename what
            older versions of their layers wrote, by the versions that come with the tensors. A safetensors file carries
            none, and torchvision would then rename tensors that need no renaming.
    """
    mismatched: dict[str, ShapeMismatch] = {}

    def leave_out_other_shapes(owner: nn.Module, state: dict[str, Any], prefix: str, *_rest: object) -> None:
        # Runs after the owner renamed its old tensors, before they are copied.
        for name, held in (*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False)):
            key = prefix + name
            given = state.get(key)
            if isinstance(given, Tensor) and given.shape != held.shape:
                mismatched[key] = ShapeMismatch(key, tuple(given.shape), tuple(held.shape))
                del state[key]

    for name, held in module.state_dict().items():
        if name in tensors and tensors[name].is_floating_point() != held.is_floating_point():
            raise ConfigError(
                f"The tensor {name} of {source} must be of {_kind(held)}, got {_kind(tensors[name])}. "
                "Use the file as it was written."
            )
    state: OrderedDict[str, Tensor] = OrderedDict(tensors)
    # torch reads the versions that renaming needs from this attribute, which a plain copy loses.
    metadata = getattr(module.state_dict() if current else tensors, "_metadata", None)
    if metadata is not None:
        state._metadata = metadata  # type: ignore[attr-defined]
    register = nn.Module.register_load_state_dict_pre_hook
    handles = [register(part, leave_out_other_shapes) for part in module.modules()]  # type: ignore[no-untyped-call]
    try:
        result = module.load_state_dict(state, strict=False)
    finally:
        for handle in handles:
            handle.remove()
    missing = tuple(name for name in result.missing_keys if name not in mismatched)
    matched = tuple(name for name in module.state_dict() if name not in {*missing, *mismatched})
    return LoadReport(source, matched, missing, tuple(result.unexpected_keys), tuple(mismatched.values()))


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def require_finite(tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Refuses weights that are not numbers, or that no model here computes with.

    Raises:
        ConfigError: a tensor holds NaN, or what is infinite in 32 bits, or is of another kind than floats of 16 to 64
            bits and whole numbers, or a variance is negative.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _KNOWN_DTYPES:
            raise ConfigError(
                f"{source} must hold tensors of floats of 16 to 64 bits or of whole numbers, got {_kind(tensor)} in "
                f"{name}. Use the file as it was written."
            )
        if name.rpartition(".")[2] == "running_var" and bool((tensor < 0).any()):
            raise ConfigError(
                f"{source} must hold variances of at least 0, got {float(tensor.min()):g} in {name}. "
                "The file is damaged: use an earlier checkpoint."
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
            raise ConfigError(
                f"{source} must hold finite weights, got NaN or infinity in {name}. "
                "The training that wrote it diverged: use an earlier checkpoint."
            )
