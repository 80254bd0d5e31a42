"""Exported files that torch's exporter had no part in: a constant box, and a graph that fails where it is told to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

IMAGE = {"short_side": 64, "long_side": 96, "pad_multiple": 32}


def exported(class_names: Sequence[str], *, only: int | None = None, size: tuple[int, int] | None = None) -> bytes:
    """One sure box of the first class in every image.

    Args:
        only: how many pixels wide images have to be, or it fails.
        size: the one that its metadata name.
    """
    scores = np.zeros((1, 1, len(class_names)), np.float32)
    scores[..., 0] = 0.9
    constants = {
        "box": np.array([[[8, 8, 24, 40]]], np.float32),
        "score": scores,
        "one": np.array([1], np.int64),
        "grid": np.array([-1, 3, 64, only or 96], np.int64),
    }
    nodes = [
        helper.make_node("Shape", ["images"], ["count"], start=0, end=1),
        helper.make_node("Concat", ["count", "one", "one"], ["shape"], axis=0),
        helper.make_node("Expand", ["box", "shape"], ["boxes"]),
        helper.make_node("Expand", ["score", "shape"], ["sure"]),
        # So that it is not left out: what is reshaped counts for nothing.
        helper.make_node("Reshape", ["images" if only else "box", "grid" if only else "flat"], ["whole"]),
        helper.make_node("ReduceMax", ["whole"], ["most"], keepdims=0),
        helper.make_node("Cast", ["sizes"], ["sides"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["sides"], ["longest"], keepdims=0),
        helper.make_node("Add", ["most", "longest"], ["sum"]),
        helper.make_node("Mul", ["sum", "nought"], ["nothing"]),
        helper.make_node("Add", ["sure", "nothing"], ["scores"]),
    ]
    constants |= {"nought": np.array(0, np.float32), "flat": np.array([-1], np.int64)}
    ends = [("boxes", ["batch", 1, 4]), ("scores", ["batch", 1, len(class_names)])]
    graph = helper.make_graph(
        nodes,
        "by hand",
        [
            helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, "height", "width"]),
            helper.make_tensor_value_info("sizes", TensorProto.INT64, ["batch", 2]),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    proto.producer_name = "detdistill"
    told: dict[str, Any] = {
        "detector": "by/hand",
        "class_names": list(class_names),
        "image": IMAGE | ({"size": size} if size else {}),
        "limits": {"score": 0.1, "overlap": 0.5, "most": 10},
        "nms": "outside",
        "outside": {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.25, 0.125]},
    }
    for key, value in told.items():
        proto.metadata_props.add(key=key, value=json.dumps(value))
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString()
    return content
