"""An ONNX file with convolutions and matrix products in 8 bits, by onnxruntime's static quantisation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detdistill.errors import CapabilityError, DistillError, reason
from detdistill.export.graph import silenced
from detdistill.files import refused, write_bytes

_QUANTISED = ("Conv", "Gemm", "MatMul")

Inputs = Mapping[str, NDArray[np.generic]]


class _Reader:
    """Calibration inputs, one at a time, as onnxruntime asks for them."""

    def __init__(self, inputs: Iterator[Inputs]) -> None:
        self._inputs = inputs

    def get_next(self) -> Inputs | None:
        return next(self._inputs, None)


def quantised(model: bytes, inputs: Iterable[Inputs], *, scratch: Path) -> bytes:
    """The file with weights and maps in 8 bits: weights per channel, maps by their extremes over the inputs.

    Args:
        model: in 32 bits; its metadata are kept.
        inputs: what the graph is calibrated on, by the names of its inputs.
        scratch: a folder for files in passing.

    Raises:
        CapabilityError: onnxruntime does not quantise it.
        DiskError: they could not be written.
    """
    onnx, quantization = import_module("onnx"), import_module("onnxruntime.quantization")
    before = onnx.load_from_string(model)
    given, source, target = (scratch / name for name in ("given.onnx", "prepared.onnx", "quantised.onnx"))
    write_bytes(given, model)
    try:
        with silenced():
            quantization.shape_inference.quant_pre_process(str(given), str(source), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(source),
                str(target),
                _reader(quantization, iter(inputs)),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(_QUANTISED),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
        after = onnx.load(str(target))
    except OSError as error:
        raise refused(target, error) from error
    except DistillError:  # of an input
        raise
    except Exception as error:  # onnxruntime's own have no common base
        raise CapabilityError(
            f"A detector to export in 8 bits must be one that onnxruntime quantises, got: {reason(error)}. "
            "Leave --int8 out."
        ) from error
    after.producer_name, after.producer_version = before.producer_name, before.producer_version
    del after.metadata_props[:]
    after.metadata_props.extend(before.metadata_props)
    content: bytes = after.SerializeToString()
    return content


def _reader(quantization: Any, inputs: Iterator[Inputs]) -> Any:
    """The reader as a child of onnxruntime's class, which is imported late."""
    return type("Reader", (_Reader, quantization.CalibrationDataReader), {})(inputs)
