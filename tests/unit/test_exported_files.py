"""What a runtime stumbles over in an exported file is one sentence, wherever the file is run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import detdistill
from coco_by_hand import CLASSES, draw_data
from detdistill.cli import main
from detdistill.data.sources import open_split
from detdistill.errors import ConfigError, MissingDependencyError, reason
from detdistill.export import graph, openvino_file, runtime, targets
from detdistill.jobs import export
from exported_by_hand import IMAGE, exported

SENTENCE = re.compile(r"[^\n]+ must [^\n]+, got: \w+: [^\n]+\. [A-Z][^.\n]+\.")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Takes images 96 pixels wide alone."""
    path = tmp_path / "model.onnx"
    path.write_bytes(exported(CLASSES, only=96))
    return path


def test_a_file_that_runs_finds_what_it_says(file: Path) -> None:
    model = targets.open_exported(file)
    found = model(np.zeros((64, 96, 3), np.uint8))
    assert found.boxes.tolist() == [[8, 8, 24, 40]]
    assert found.labels.tolist() == [0]
    assert model.class_names == list(CLASSES)


def test_what_does_not_load_is_told_with_its_name(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"none", whole.replace(b"class_names", b"class_nymes")):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=SENTENCE) as caught:
            targets.open_exported(file)
        assert str(caught.value).startswith(f"{file} must be ONNX as detdistill exports it, which onnx")
        assert str(caught.value).endswith(". Export it anew.")
    assert capfd.readouterr() == ("", "")


def test_images_that_it_does_not_compute_on_are_told(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = targets.open_exported(file)
    with pytest.raises(ConfigError, match=SENTENCE) as caught:
        model(np.zeros((64, 64, 3), np.uint8))
    assert f"{file} must compute in onnxruntime on images of 1 x 3 x 64 x 64, got: " in str(caught.value)
    assert str(caught.value).endswith(". Give it what its method prepare makes of images.")
    assert capfd.readouterr() == ("", "")  # of onnxruntime neither


@pytest.mark.parametrize("to", ["openvino", "executorch"])
def test_other_runtimes_say_the_same(to: str, tmp_path: Path, file: Path) -> None:
    pytest.importorskip(to)
    kind = targets.target(to)
    path = tmp_path / f"other{kind.endings[0]}"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigError, match=r"other\.\w+, a part of .*, must be beside it, got no such file\. Copy both"):
        targets.open_exported(path)
    path.with_suffix(kind.endings[1]).write_bytes(b"{}")
    with pytest.raises(ConfigError, match=SENTENCE) as caught:
        targets.open_exported(path)
    assert str(caught.value).startswith(f"{path} must be {kind.name} as detdistill exports it, which {to} loads, got: ")
    if to == "openvino":
        files = openvino_file.converted(file.read_bytes())
        for ending, content in files.items():
            path.with_suffix(ending).write_bytes(content)
        model = targets.open_exported(path)
        assert model(np.zeros((64, 96, 3), np.uint8)).labels.tolist() == [0]
        with pytest.raises(ConfigError, match=r"must compute in openvino on images of 1 x 3 x 64 x 64, got: "):
            model(np.zeros((64, 64, 3), np.uint8))


def test_a_runtime_that_is_not_installed_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")

    monkeypatch.setattr(runtime, "Detector", absent)
    with pytest.raises(MissingDependencyError, match=r"installed to run .*pip install 'detdistill\[export\]'\.$"):
        targets.open_exported(file)


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ((), "Export another detector."),
        (("--int8", "--calibration", "1"), "Leave --int8 out."),
        (("--half",), "Leave --half out."),
        (("--nms", "inside"), "Leave --nms out."),
        (("--to", "openvino"), "Write --to onnx."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_proof_that_cannot_be_made_says_what_to_leave_out(
    words: tuple[str, ...],
    remedy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The graph takes images of another width than the run's: whatever runs it fails."""
    if "openvino" in words:
        pytest.importorskip("openvino")
    for module in (targets, openvino_file):
        monkeypatch.setattr(module, "export_onnx", lambda *_: exported(CLASSES, only=31))
    monkeypatch.setattr(export, "quantised", lambda content, *_, **__: content)
    draw_data(tmp_path / "data", train=1, val=1)
    detector = detdistill.build_detector("fcos/tiny", CLASSES, seed=0)
    detdistill.save_detector(detector, tmp_path / "run", image=IMAGE)
    out = tmp_path / f"out/model{'.xml' if 'openvino' in words else '.onnx'}"
    code = main(["export", str(tmp_path / "run"), "--data", str(tmp_path / "data"), "--out", str(out), *words])
    told = capfd.readouterr().err
    assert code == 2
    error = told[told.index("error: ") :].rstrip("\n")
    assert SENTENCE.fullmatch(error.removeprefix("error: ")) or "in 8 bits" in error
    assert error.endswith(remedy)
    assert not out.parent.exists()


def test_a_file_of_one_size_is_proved_on_its_own_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[graph.Form]()

    def made(_: object, __: object, form: graph.Form) -> bytes:
        asked.append(form)
        return exported(CLASSES, only=64, size=(64, 64))

    monkeypatch.setattr(targets, "export_onnx", made)
    draw_data(tmp_path / "data", train=1, val=6)
    detdistill.save_detector(detdistill.build_detector("fcos/tiny", CLASSES, seed=0), tmp_path / "run", image=IMAGE)
    words = {"data": tmp_path / "data", "out": tmp_path / "model.onnx", "size": (64, 64), "allow_worse": True}
    outcome = detdistill.export_detector(tmp_path / "run", **words)
    assert (asked[0].size, outcome.together.images, outcome.images) == ((64, 64), 4, 6)
    assert "images of 64 x 64 alone; " in outcome.table()[0]
    assert json.loads(outcome.proof.read_text())["size"] == [64, 64]
    model, (truth, _) = targets.open_exported(outcome.out), open_split(tmp_path / "data", "val")
    (first, second) = export._fixed(model, truth, 4)
    assert (len(first), len(second), first.images.shape[1:]) == (4, 2, (3, 64, 64))
    assert second.image_ids == tuple(truth.image_ids[4:].tolist())
    (height, width), stored = first.sizes[0], first.stored_sizes[0]
    assert (width, stored) == (64, tuple(truth.sizes[0]))
    pixels = runtime.resize(runtime.read(truth.path(0)), height, width)
    assert np.allclose(first.images[0, :, :height].permute(1, 2, 0).numpy() * 255, pixels)
    assert not first.images[0, :, height:].any()


def test_the_shipped_script_ends_in_a_sentence(file: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "square.png")
    for given in (
        ("none.onnx", "square.png"),
        ("model.onnx", "none.png"),
        ("model.onnx", "square.png"),
        ("a", "b", "c"),
    ):
        typed = [sys.executable, str(runtime.__file__), *given]
        done = subprocess.run(typed, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        said = f"A model by detdistill and an image must be given, got {' '.join(given)}: "
        assert re.fullmatch(rf"{re.escape(said)}[^\n]+\. Give such\.\n", done.stderr)


def test_a_reason_is_one_line() -> None:
    said = "Exception from src/core.cpp:12:\nCheck 'a' failed at b.cpp:3:\nNo such operator.\n"
    assert reason(RuntimeError(said)) == "RuntimeError: No such operator"
    assert reason(ValueError("")) == "ValueError"
    assert reason(ValueError("a.\nb")) == "ValueError: a"
