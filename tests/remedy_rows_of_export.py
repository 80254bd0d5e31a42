"""Rows of the table of remedies: exported files."""

from __future__ import annotations

from remedy_words import Row

EXPORTED = (
    Row(
        "push {home}/begun hf:me/x --to-folder {home}/run --licence MIT!",
        "Write for example --licence apache-2.0.",
        "push {home}/begun hf:me/x --to-folder {home}/run --licence apache-2.0",
        then="Give the folder of a run that has saved at least one checkpoint.",
    ),
    Row(
        "export {home}/others --out {home}/x.pt",
        "Write --out {home}/x.onnx.",
        "export {home}/others --out {home}/x.onnx",
        then="Add --data FOLDER.",
    ),
    Row(
        "export {home}/others --out {home}/x.onnx --half --int8",
        "Leave --half out.",
        "export {home}/others --out {home}/x.onnx --int8",
        then="Add --data FOLDER.",
    ),
    Row(
        "export {home}/others --out {home}/x.onnx --size 0 96",
        "Write --size 640 640.",
        "export {home}/others --out {home}/x.onnx --size 640 640",
        then="Add --data FOLDER.",
    ),
    Row(
        "export {home}/others --out {home}/x.onnx --opset 17",
        "Leave --opset out.",
        "export {home}/others --out {home}/x.onnx",
        then="Add --data FOLDER.",
    ),
    Row(
        "export {home}/others --out {home}/x.onnx",
        "Add --data FOLDER.",
        "export {home}/others --out {home}/x.onnx --data {home}/scenes",
        then="cat",
    ),
    Row(
        "export {home}/others --out {home}/x.tflite --to litert",
        "Write --to executorch and an --out that ends in .pte for a phone.",
        "export {home}/others --out {home}/x.pte --to executorch",
        then="Add --data FOLDER.",
    ),
    Row(
        "export {home}/others --out {home}/x.pte --to executorch --int8",
        "Leave --int8 out, or write --to onnx.",
        "export {home}/others --out {home}/x.pte --to executorch",
        then="Add --data FOLDER.",
    ),
)
