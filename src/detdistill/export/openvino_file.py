"""OpenVINO's own files, an XML with the graph and a BIN with the weights, converted from the ONNX file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from detdistill.data.transforms import ImageSettings
from detdistill.detectors.base import Detector
from detdistill.errors import reason
from detdistill.export.graph import DETECTED, RAW, Form, export_onnx
from detdistill.export.targets import Files, Target, bound, refuse
from detdistill.files import PACKAGE

_TOLD = [PACKAGE]


def _make(detector: Detector, image: ImageSettings, form: Form, eight_bits: Callable[[bytes], bytes]) -> Files:
    content = eight_bits(export_onnx(detector, image, form))
    try:
        return converted(content)
    except RuntimeError as error:
        raise refuse(detector, "openvino", reason(error)) from error


def converted(content: bytes) -> Files:
    """An ONNX file with its metadata as OpenVINO's files; RuntimeError where OpenVINO does not take it."""
    openvino, onnx = import_module("openvino"), import_module("onnx")
    told = {one.key: json.loads(one.value) for one in onnx.load_from_string(content).metadata_props}
    model = openvino.Core().read_model(content)
    model.set_friendly_name(PACKAGE)
    model.set_rt_info(json.dumps(told), _TOLD)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "model.xml"
        openvino.save_model(model, str(place), compress_to_fp16=False)
        return {".xml": place.read_bytes(), ".bin": place.with_suffix(".bin").read_bytes()}


def load(graph: bytes, weights: bytes, threads: int = 0) -> Any:
    """A file as the shipped runtime has it, run by OpenVINO on the CPU in 32 bits.

    Args:
        graph: content of the XML.
        weights: content of the BIN.
        threads: how many it may use; 0 for all.
    """
    core = import_module("openvino").Core()
    model = core.read_model(graph, weights)
    told = json.loads(model.get_rt_info(_TOLD).value)
    # By itself it computes in bfloat16 where the CPU can.
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads})
    names = RAW if told["nms"] == "outside" else DETECTED

    def run(inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        found = compiled(inputs)
        return [np.array(found[name]) for name in names]

    return bound(told, run)


TARGET = Target(
    name="OpenVINO",
    package="openvino",
    endings=(".xml", ".bin"),
    begins=f'<net name="{PACKAGE}"'.encode(),
    eight_bits=True,
    make=_make,
    load=lambda files, threads: load(files[".xml"], files[".bin"], threads),
    how=lambda out: f"detdistill.export.targets.open_exported({str(out)!r}) runs it in Python",
)
