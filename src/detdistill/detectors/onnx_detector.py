"""A detector in an ONNX file, run by onnxruntime: what it takes and gives is recognised, or said in a YAML file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from detdistill.detectors.boxes_alone import BoxesAlone
from detdistill.detectors.load_report import LoadedDetector, LoadReport
from detdistill.detectors.onnx_boxes import Fit, detections, fitted
from detdistill.detectors.onnx_settings import Graph, OnnxSettings, Port, graph_of, recognised
from detdistill.detectors.preprocess import Normaliser
from detdistill.errors import ConfigError, MissingDependencyError, installing, reason
from detdistill.settings import as_tree, build
from detdistill.settings.strict_yaml import load_yaml
from detdistill.types import Batch, Detections, sent

_SLACK = 1e-6  # what single precision adds to a probability
_KINDS = {"float": np.float32, "float16": np.float16, "double": np.float64, "uint8": np.uint8}


@final
class OnnxDetector(BoxesAlone):
    """Finds what the model in an ONNX file finds in each image, which is brought to its size by itself.

    Runs on the CPU with as many threads as torch, or on the GPU that the images are on where onnxruntime has it.

    Attributes:
        settings_of_file: what it takes and gives, with nothing left open.
        graph: what the file says of itself.
        where: what messages call the YAML file.
    """

    content: Tensor

    def __init__(self, graph: Graph, settings: OnnxSettings, *, where: str, session: Any = None) -> None:
        super().__init__(graph.path.name, tuple(settings.classes or ()))
        self.graph, self.settings_of_file, self.where = graph, settings, where
        self.pixels = Normaliser(*settings.pixels())
        told = repr(as_tree(replace(settings, model=None))).encode()
        self.register_buffer("content", torch.tensor(list(_digest(graph.path, told)), dtype=torch.uint8))
        # A process forked from one that runs a session makes its own.
        self._sessions = {} if session is None else {(os.getpid(), "cpu"): session}
        self._kept: dict[int, tuple[tuple[Tensor, ...], Fit]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sessions": {}}

    @contextmanager
    def declared(self, settings: OnnxSettings) -> Iterator[None]:
        """Within, as if its YAML file said this."""
        before = self.settings_of_file
        self.settings_of_file = settings
        try:
            yield
        finally:
            self.settings_of_file = before

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Within, the model is run once an image: for reading what it gives in several ways."""
        self._kept = {}
        try:
            yield
        finally:
            self._kept = None

    @torch.no_grad()
    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        """See `Detector.detect`.

        Raises:
            ConfigError: the model cannot compute on such images, or gives something else than was said.
        """
        found = []
        for index, (height, width) in enumerate(batch.sizes):
            known = None if self._kept is None else self._kept.get(batch.image_ids[index])
            outputs, fit = known or self._run(batch.images[index, :, :height, :width])
            if self._kept is not None:
                self._kept[batch.image_ids[index]] = outputs, fit
            try:
                found.append(self._checked(detections(outputs, self.settings_of_file, fit), outputs))
            except ConfigError:
                raise
            except (RuntimeError, IndexError, ValueError) as error:
                shapes = ", ".join(str(list(one.shape)) for one in outputs)
                raise ConfigError(
                    f"The outputs of {self.graph.path} must be {self.settings_of_file.text()}, got {shapes} "
                    f"({reason(error)}). Say in {self.where} what they are."
                ) from error
        return tuple(found)

    def _checked(self, found: Detections, outputs: tuple[Tensor, ...]) -> Detections:
        if any(bool(one.isnan().any()) for one in outputs):
            raise ConfigError(
                f"The outputs of {self.graph.path} must be numbers, got NaN. Export it anew, in single precision."
            )
        if len(found.scores) and (most := float(found.scores.max())) > 1 + _SLACK:
            logits = self.settings_of_file.form in ("queries", "cells") and self.settings_of_file.activation == "none"
            remedy = "Write activation: sigmoid" if logits else "Say which outputs they are"
            raise ConfigError(
                f"The scores of {self.graph.path} must be from 0 to 1, got {most:g} from "
                f"{self.settings_of_file.text()}. {remedy} in {self.where}."
            )
        return found

    def _run(self, image: Tensor) -> tuple[tuple[Tensor, ...], Fit]:
        settings, graph = self.settings_of_file, self.graph
        canvas, fit = fitted(image, settings)
        normal = ((canvas - self.pixels.mean) / self.pixels.std)[None]
        if settings.channels == "bgr":
            normal = normal.flip(1)
        if graph.images.kind == "uint8":
            normal = (normal * 255).round().clamp(0, 255)
        if graph.last:
            normal = normal.permute(0, 2, 3, 1)
        given = normal if len(graph.images.shape) == 4 else normal[0]
        inputs = {graph.images.name: given.to("cpu").contiguous().numpy().astype(_KINDS[graph.images.kind])}
        if graph.sizes is not None:
            kind = np.int32 if graph.sizes.kind == "int32" else np.int64
            inputs[graph.sizes.name] = np.array([fit.image[::-1]], dtype=kind)
        session = self._session(image.device)
        try:
            outputs = session.run(list(settings.outputs or ()), inputs)
        except Exception as error:  # onnxruntime's own have no common base
            raise ConfigError(
                f"{graph.path} must compute on images of {fit.input[0]} x {fit.input[1]} pixels, got: "
                f"{reason(error)}. Say in {self.where} what it takes."
            ) from error
        found = (sent(torch.from_numpy(np.ascontiguousarray(one)), image.device) for one in outputs)
        # An output may have an axis of images.
        axes = (2, 1, 1) if settings.form == "detections" else (2, 2)
        return tuple(one[0] if one.dim() > least else one for one, least in zip(found, axes, strict=False)), fit

    def _session(self, device: torch.device) -> Any:
        key = (os.getpid(), device.type)
        if key not in self._sessions:
            self._sessions[key] = _session(self.graph.path, device.type)
        return self._sessions[key]


def _session(path: Path, device: str) -> Any:
    if find_spec("onnxruntime") is None:
        raise MissingDependencyError(
            f"onnxruntime must be installed to run {path}, got no such package. {installing('detdistill[onnx]')}"
        )
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    providers = ["CPUExecutionProvider"]
    if device == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, "CUDAExecutionProvider")
    try:
        return onnxruntime.InferenceSession(str(path), sess_options=options, providers=providers)
    except Exception as error:  # onnxruntime's own have no common base
        raise ConfigError(
            f"{path} must be an ONNX model that onnxruntime can run, got: {reason(error)}. Export it anew."
        ) from error


def load_onnx(path: Path) -> LoadedDetector:
    """An ONNX detector, by its file or by the YAML file that says what it takes and gives.

    Args:
        path: ``detector.onnx``, with ``detector.yaml`` beside it where there is one; or the YAML file.

    Raises:
        ConfigError: a file is none of the kind, or what the model takes and gives cannot be told.
        MissingDependencyError: onnxruntime is not installed.
    """
    spelled = path if path.suffix.lower() in (".yaml", ".yml") else path.with_suffix(".yaml")
    settings: OnnxSettings = OnnxSettings()
    if spelled.is_file():
        settings = build(OnnxSettings, load_yaml(spelled), where=str(spelled), what="an ONNX detector")
    model = path
    if spelled == path:
        model = spelled.parent / (settings.model or spelled.with_suffix(".onnx").name)
    if not model.is_file():
        raise ConfigError(
            f"The model of {spelled} must be an ONNX file, got nothing in {model}. Write model: FILE.onnx."
        )
    session = _session(model, "cpu")
    inputs, outputs = (
        [Port(one.name, _sides(one.shape), str(one.type).removeprefix("tensor(").removesuffix(")")) for one in ports]
        for ports in (session.get_inputs(), session.get_outputs())
    )
    graph = graph_of(model, inputs, outputs, session.get_modelmeta().custom_metadata_map)
    if graph.images.kind not in _KINDS:
        raise ConfigError(
            f"The images of {model} must be of {', '.join(_KINDS)}, got {graph.images.text()}. Export the detector so."
        )
    settings = recognised(settings, graph, where=str(spelled))
    detector = OnnxDetector(graph, settings, where=str(spelled), session=session)
    names = ", ".join(settings.classes or ())
    report = LoadReport(str(model), (), known=f"{settings.text()}; classes {names}")
    seen = settings.seen()
    return LoadedDetector(detector, report, asdict(seen) if seen else {}, detector.spec.class_names, extra={})


def _sides(shape: Sequence[Any]) -> tuple[int | None, ...]:
    return tuple(side if isinstance(side, int) else None for side in shape)


def _digest(path: Path, told: bytes) -> bytes:
    """Of the file, of the weights beside it where it keeps them so, and of what is said of it."""
    found = hashlib.sha256(told)
    for one in (path, *sorted(path.parent.glob(f"{path.name}*data"))):
        with one.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.digest()
