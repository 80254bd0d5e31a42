"""The formats that a detector is exported to: what each needs, makes and is run by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np

from detdistill.data.transforms import ImageSettings
from detdistill.detectors.base import Detector
from detdistill.errors import CapabilityError, ConfigError, MissingDependencyError, installing, reason
from detdistill.export.graph import MADE, Form, export_onnx, require_exporter

Format = Literal["onnx", "openvino", "executorch", "litert"]
Files = Mapping[str, bytes]
"""Contents by the endings of their names, the one that --out names first."""

_NEVER = (
    "--to must be onnx, openvino or executorch, got litert, whose converter litert-torch takes no torch from 2.15 on. "
    "Write --to executorch and an --out that ends in .pte for a phone."
)


@dataclass(frozen=True, slots=True)
class Target:
    """A format.

    Attributes:
        name: what people call it.
        package: by which a file of it is run.
        endings: of the files that it is, the one that --out names first.
        begins: what the beginning of that file holds, where this package made it; None where files cannot say so.
        eight_bits: whether it takes 8 bits.
        make: detector, image settings, form and what brings an ONNX file to 8 bits → its files.
        load: files and CPU threads → what the shipped runtime is to an ONNX file.
        how: says how a file is run.
    """

    name: str
    package: str
    endings: tuple[str, ...]
    begins: bytes | None
    eight_bits: bool
    make: Callable[[Detector, ImageSettings, Form, Callable[[bytes], bytes]], Files]
    load: Callable[[Files, int], Any]
    how: Callable[[Path], str]

    def opened(self, files: Files, threads: int = 0, *, name: str, remedy: str = "") -> Any:
        """Files of the format as the shipped runtime has them; what its package stumbles over is said in a sentence.

        Args:
            files: of all its endings.
            threads: how many it may use where the format can say so; 0 for all.
            name: what messages call the file.
            remedy: what to do then; by itself, to make the file, or the images that it is given, anew.

        Raises:
            ConfigError: the package does not load them; from what is returned: it does not compute on some images.
            MissingDependencyError: the package is not installed.
        """
        try:
            found = self.load(files, threads)
        except ImportError as error:
            extra = "export" if self.package == "onnxruntime" else f"export,{self.package}"
            raise MissingDependencyError(
                f"The package {error.name or self.package} must be installed to run {name}, got {error}. "
                f"{installing(f'detdistill[{extra}]')}"
            ) from error
        except Exception as error:  # the packages' own have no common base
            raise ConfigError(
                f"{name} must be {self.name} as detdistill exports it, which {self.package} loads, got: "
                f"{reason(error)}. {remedy or 'Export it anew.'}"
            ) from error
        run = found.session.run

        def told(names: None, inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
            try:
                said: Sequence[np.ndarray] = run(names, inputs)
                if {len(one) for one in said} != {count := len(inputs["images"])}:
                    raise ValueError(f"outputs of another number of images than {count}")  # OpenVINO does so
            except Exception as error:
                shape = " x ".join(map(str, inputs["images"].shape))
                raise ConfigError(
                    f"{name} must compute in {self.package} on images of {shape}, got: {reason(error)}. "
                    f"{remedy or 'Give it what its method prepare makes of images.'}"
                ) from error
            return said

        found.session = SimpleNamespace(run=told)
        return found


def require_target(to: str) -> None:
    """Refuses a format whose packages are not installed, or that nobody can make.

    Raises:
        ConfigError: LiteRT.
        MissingDependencyError: a package is not installed.
    """
    if to == "litert":
        raise ConfigError(_NEVER)
    require_exporter()
    if to == "onnx":
        return
    try:
        import_module(to)
    except ImportError as error:
        raise MissingDependencyError(
            f"The package {to} must be installed to export a detector to it, got {error}. "
            f"{installing(f'detdistill[export,{to}]')}"
        ) from error


def target(to: str) -> Target:
    """The format of that name."""
    found: Target = _ONNX if to == "onnx" else import_module(f"detdistill.export.{to}_file").TARGET
    return found


def open_exported(path: str | Path, threads: int = 0) -> Any:
    """An exported file as the shipped runtime has it, whatever its format: call it with an RGB image (h, w, 3).

    Args:
        path: the file that --out named; what belongs to it lies beside it.
        threads: how many it may use where the format can say so; 0 for all.

    Raises:
        ConfigError: it is no such file, or what belongs to it is not there; from what is returned: it does not
            compute on some images.
        MissingDependencyError: the package that runs it is not installed.
    """
    path = Path(path)
    kinds = {target(to).endings: target(to) for to in ("onnx", "openvino", "executorch")}
    found = next((one for endings, one in kinds.items() if endings[0] == path.suffix), None)
    if found is None or not path.is_file():
        raise ConfigError(f"An exported file must be an .onnx, .xml or .pte that is there, got {path}. Check its name.")
    parts = {ending: path.with_suffix(ending) for ending in found.endings}
    if absent := next((part for part in parts.values() if not part.is_file()), None):
        raise ConfigError(f"{absent}, a part of {path}, must be beside it, got no such file. Copy both there.")
    return found.opened({ending: part.read_bytes() for ending, part in parts.items()}, threads, name=str(path))


def bound(told: Mapping[str, Any], run: Callable[[Mapping[str, np.ndarray]], Sequence[np.ndarray]]) -> Any:
    """The shipped runtime over another program.

    Args:
        told: what an ONNX file has as its metadata.
        run: inputs by name → outputs in the order of the graph.
    """
    from detdistill.export import runtime

    found = object.__new__(runtime.Detector)
    found.session = SimpleNamespace(run=lambda _, inputs: run(inputs))
    found.class_names, found.image, found.limits, found.nms = (
        told[name] for name in ("class_names", "image", "limits", "nms")
    )
    found.mean, found.std = (np.array(told["outside"][name], dtype=np.float32) for name in ("mean", "std"))
    return found


def refuse(detector: Detector, name: str, why: str) -> CapabilityError:
    """The sentence about a detector that a format cannot hold."""
    return CapabilityError(
        f"A detector to export by --to {name} must be one that it takes, got {detector.spec.name}: {why.rstrip('.')}. "
        "Write --to onnx."
    )


def _make_onnx(detector: Detector, image: ImageSettings, form: Form, eight_bits: Callable[[bytes], bytes]) -> Files:
    return {".onnx": eight_bits(export_onnx(detector, image, form))}


def _load_onnx(files: Files, threads: int) -> Any:
    from detdistill.export import runtime

    return runtime.Detector(files[".onnx"], threads=threads, providers=["CPUExecutionProvider"])


def _how_onnx(out: Path) -> str:
    from detdistill.export import runtime

    return f"python {runtime.__file__} {out} IMAGE runs it"


_ONNX = Target("ONNX", "onnxruntime", (".onnx",), MADE, True, _make_onnx, _load_onnx, _how_onnx)


def package_version(one: Target) -> str:
    """Of the package by which a file was run."""
    return version(one.package)
