"""A detector as a file for other programs: its graph as ONNX, 8-bit weights, and the runtime that goes with it."""
