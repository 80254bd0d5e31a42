"""ExecuTorch's program, for phones and small devices, by torch's own lowering; XNNPACK computes what it can."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch

from detdistill.data.transforms import ImageSettings
from detdistill.detectors.base import Detector
from detdistill.errors import CapabilityError, reason
from detdistill.export.graph import INPUTS, Form, Graph, metadata, silenced, unchecked_shapes
from detdistill.export.targets import Files, Target, bound, refuse


def _make(detector: Detector, image: ImageSettings, form: Form, eight_bits: Callable[[bytes], bytes]) -> Files:
    """One image at a time, of the form's size, or of any up to the long side that divides as the image settings say."""
    del eight_bits
    if form.nms == "inside":
        raise CapabilityError(
            "Boxes in a file for ExecuTorch must be suppressed outside, as it has no operator for that, got --nms "
            "inside. Leave --nms out."
        )
    graph, pad = Graph(detector, form), image.pad_multiple
    most = -(-image.long_side // pad)
    count = max(1, min(most, 96 // pad))
    high, wide = form.size or (count * pad, count * pad)
    pixels, sizes = torch.rand(1, 3, high, wide), torch.tensor([[high, wide]])
    sides = {2 + axis: pad * torch.export.Dim(name, min=1, max=most) for axis, name in enumerate(("high", "wide"))}
    free = most > 1 and form.size is None
    if detector.compiled_graph and form.size is None:
        raise refuse(detector, "executorch", "its code takes shapes for numbers, which a program of any size cannot")
    with torch.no_grad(), silenced(), unchecked_shapes():
        try:
            traced = torch.export.export(
                graph, (pixels, sizes), dynamic_shapes={"images": sides if free else {}, "sizes": {}}, strict=False
            )
            exir = import_module("executorch.exir")
            xnnpack = import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
            lowered = exir.to_edge_transform_and_lower(traced, partitioner=[xnnpack.XnnpackPartitioner()])
            program: bytes = lowered.to_executorch().buffer
        except Exception as error:
            raise refuse(detector, "executorch", reason(error)) from error
    return {".pte": program, ".json": (json.dumps(metadata(graph, detector, image), indent=2) + "\n").encode()}


def load(program: bytes, told: bytes) -> Any:
    """A program as the shipped runtime has it, run by ExecuTorch on the CPU.

    Args:
        program: content of the PTE.
        told: content of the JSON beside it.
    """
    with silenced():
        runtime = import_module("executorch.runtime")
    # It names what it cannot use of the machine on standard error, below Python's.
    method = (
        runtime.Runtime.get().load_program(program, verification=runtime.Verification.Minimal).load_method("forward")
    )

    def run(inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        rows = []
        for row in range(len(inputs[INPUTS[0]])):
            one = [torch.from_numpy(np.ascontiguousarray(inputs[name][row : row + 1])) for name in INPUTS]
            rows.append([part.numpy().copy() for part in method.execute(one)])
        return [np.concatenate(parts) for parts in zip(*rows, strict=True)]

    return bound(json.loads(told), run)


TARGET = Target(
    name="an ExecuTorch program",
    package="executorch",
    endings=(".pte", ".json"),
    begins=None,
    eight_bits=False,
    make=_make,
    load=lambda files, _: load(files[".pte"], files[".json"]),
    how=lambda out: f"detdistill.export.targets.open_exported({str(out)!r}) runs it in Python",
)
