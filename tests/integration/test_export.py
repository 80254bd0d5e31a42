"""An exported file finds what PyTorch finds, is proved to, and runs with three packages and one file."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import detdistill
from coco_by_hand import CLASSES, draw_data
from detdistill.cli import main
from detdistill.detectors import catalogue
from detdistill.detectors.base import Detector
from detdistill.detectors.suppression import sorted_out
from detdistill.errors import CapabilityError
from detdistill.export import executorch_file, graph, openvino_file, runtime, targets
from detdistill.jobs import export
from scenes_in_memory import FAMILIES, scene_batch, tiny_settings

IMAGE = {"short_side": 64, "long_side": 96}
# Imports nothing but what comes with Python, and the three packages with what they need themselves.
ALONE = """
import importlib.machinery, runpy, sys
allowed = {"numpy", "PIL", "onnxruntime", "google", "flatbuffers", "packaging", *sys.stdlib_module_names}
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed and not name.startswith("_"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Wall())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class World:
    """A detector, its data, the file that was made of it, and what was said."""

    home: Path
    detector: Detector
    said: str

    @property
    def file(self) -> Path:
        return self.home / "out/model.onnx"


def build(family: str, **changes: object) -> Detector:
    """A detector whose scores differ, without having learned anything."""
    several = {"strides": (8, 16)}
    small = {"strides": (16,), "head_depth": 0, "detections_per_image": 20} if family != "faster_rcnn" else several
    detector = catalogue.build_detector(tiny_settings(family, **(small | changes)), CLASSES, seed=3)
    for name, parameter in detector.named_parameters():
        if parameter.dim() > 1 and any(part in name for part in ("cls_logits", "classes", "predictor")):
            parameter.data *= 20
    return detector.eval()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    home, detector, said = tmp_path_factory.mktemp("export"), build("fcos"), StringIO()
    draw_data(home / "data", train=4, val=3)
    detdistill.save_detector(detector, home / "run", image=IMAGE)
    with redirect_stdout(said), redirect_stderr(said):
        code = main(words(home, "--nms", "inside"))
    assert code == 0, said.getvalue()
    return World(home, detector, said.getvalue())


def words(home: Path, *more: str, out: str = "out/model.onnx") -> list[str]:
    return ["export", str(home / "run"), "--data", str(home / "data"), "--out", str(home / out), *more]


def agrees(model: runtime.Detector, detector: Detector, *, count: int, grid: tuple[int, int]) -> None:
    """The graph as PyTorch computes it, on a batch of so many images of different sizes."""
    batch = scene_batch(
        ((),) * count, sizes=[(grid[0] - 5 * row, grid[1] - 9 * row) for row in range(count)], grid=grid
    )
    sizes = torch.tensor(batch.sizes)
    with torch.no_grad():
        candidates = detector.candidates(batch, sizes)
        found = sorted_out(candidates, detector.limits())
    if model.nms == "outside":
        said = model.session.run(None, {"images": model_pixels(model, detector, batch.images), "sizes": sizes.numpy()})
        for one, other in zip(said, (candidates.boxes, candidates.scores), strict=True):
            assert np.abs(one - other.numpy()).max() < 0.01
    for row, one in enumerate(model.find(model_pixels(model, detector, batch.images), sizes.numpy())):
        left = int(found[3][row])
        assert len(one.scores) == left > 0
        assert np.abs(np.sort(one.scores) - np.sort(found[1][row, :left].numpy())).max() < 1e-4


def model_pixels(model: runtime.Detector, detector: Detector, images: torch.Tensor) -> np.ndarray:
    del detector
    return ((images.numpy() - model.mean[:, None, None]) / model.std[:, None, None]).astype(np.float32)


def test_the_file_finds_what_pytorch_finds(world: World) -> None:
    proof = json.loads(world.file.with_name("model.parity.json").read_text())
    assert proof["written_by"] == "detdistill export"
    assert (proof["images"], proof["nms"], proof["bits"], proof["opset"]) == (3, "inside", 32, 18)
    assert proof["agreement"]["matched"] > 10
    assert proof["agreement"]["one_alone"] == proof["agreement"]["other_alone"] == 0
    assert proof["agreement"]["box"] < 0.05
    assert proof["agreement"]["score"] < 1e-4
    assert abs(proof["ap_lost"]) < 0.1
    assert proof["exported"]["bytes"] == world.file.stat().st_size
    assert 0 < proof["exported"]["seconds_per_image"] < 60
    assert f"all {proof['agreement']['matched']} boxes matched" in world.said
    # Nothing of torch's exporter.
    assert "graph(" not in world.said
    assert "Warning" not in world.said
    assert len(world.said.splitlines()) < 30


def test_the_file_says_what_it_is(world: World) -> None:
    content = world.file.read_bytes()
    assert b"site-packages" not in content
    assert str(Path(graph.__file__).parent).encode() not in content
    weights = sum(one.numel() * one.element_size() for one in world.detector.state_dict().values())
    assert weights < len(content) < weights + 80_000
    proto = onnx.load(world.file)
    onnx.checker.check_model(proto)
    assert proto.producer_name == "detdistill"
    told = {one.key: json.loads(one.value) for one in proto.metadata_props}
    assert told["class_names"] == list(CLASSES)
    assert told["image"] == IMAGE | {"pad_multiple": 32}
    assert told["limits"]["most"] == 20
    model = runtime.Detector(world.file)
    shapes = {one.name: one.shape for one in (*model.session.get_inputs(), *model.session.get_outputs())}
    assert shapes == {
        "images": ["batch", 3, "height", "width"],
        "sizes": ["batch", 2],
        "boxes": ["batch", 20, 4],
        "scores": ["batch", 20],
        "labels": ["batch", 20],
        "count": ["batch"],
    }
    assert model.class_names == list(CLASSES)


@pytest.mark.parametrize(("count", "grid"), [(1, (64, 96)), (4, (96, 64)), (2, (50, 75))])
def test_any_number_of_images_of_any_size(count: int, grid: tuple[int, int], world: World) -> None:
    agrees(runtime.Detector(world.file), world.detector, count=count, grid=grid)


def test_the_runtime_needs_three_packages_and_one_file(world: World, tmp_path: Path) -> None:
    alone = tmp_path / "alone.py"
    shutil.copy(runtime.__file__, alone)
    assert len(alone.read_text().splitlines()) <= 150
    image = world.home / "data/images/val_0.png"
    typed = [sys.executable, "-I", "-c", ALONE, str(alone), str(world.file)]
    done = subprocess.run([*typed, str(image), "0.05"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = runtime.Detector(world.file)(runtime.read(image))
    assert len(done.stdout.splitlines()) == int((found.scores >= 0.05).sum()) > 0
    name, score, *box = done.stdout.splitlines()[0].split()
    assert name == CLASSES[found.labels[0]]
    assert float(score) == pytest.approx(float(found.scores[0]), abs=1e-3)
    assert [float(edge) for edge in box] == pytest.approx(found.boxes[0].tolist(), abs=0.06)
    done = subprocess.run(typed, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "python runtime.py model.onnx image.jpg" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_programs_of_the_documentation_run(world: World, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/export.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    shutil.copy(runtime.__file__, tmp_path / "runtime.py")
    shutil.copy(world.file, tmp_path / "model.onnx")
    for name, size in (("image.jpg", (96, 64)), ("other.jpg", (50, 80))):
        Image.new("RGB", size, (90, 200, 30)).save(tmp_path / name)
    (command,) = re.findall(r"    python (runtime.py .*)", page)
    shown = f"{program}\nassert len(boxes) == len(scores) == len(labels)\nassert len(found) == len(sizes) == 2\n"
    for typed in (command.split(), ["-c", shown]):
        done = subprocess.run([sys.executable, *typed], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def made(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter, which takes long, makes the file that it made before."""
    content = world.file.read_bytes()
    for module in (targets, openvino_file):
        monkeypatch.setattr(module, "export_onnx", lambda *_: content)


@pytest.mark.usefixtures("made")
def test_a_worse_file_is_written_on_request_alone(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export, "MOST_LOST", -1.0)
    out = world.home / "worse/model.onnx"
    assert main(words(world.home, out="worse/model.onnx")) == 2
    told = capsys.readouterr()
    assert "PyTorch" in told.out
    assert f"error: The AP of {out} must be at most -1.0 points below PyTorch's " in told.err
    assert told.err.endswith("so that nothing was written. Add --allow-worse to have it all the same.\n")
    assert not out.parent.exists()
    assert main(words(world.home, "--allow-worse", out="worse/model.onnx")) == 0
    assert sorted(path.name for path in out.parent.iterdir()) == ["model.onnx", "model.parity.json"]
    assert main(words(world.home, "--allow-worse", out="worse/model.onnx")) == 0  # over its own


OURS = "must be a new file, or one that this command wrote, got"


@pytest.mark.parametrize(
    ("more", "out", "sentence"),
    [
        ((), "a.pt", "--out must be a file name that ends in .onnx, got {home}/a.pt. Write --out {home}/a.onnx."),
        ((), "theirs.onnx", f"--out {OURS} {{home}}/theirs.onnx, which is another."),
        ((), "proved.onnx", f"proved.parity.json, beside --out, {OURS} {{home}}/proved.parity.json, which is another."),
        (("--half", "--int8"), "a.onnx", "The bits of a file must be either 16 or 8, got --half and --int8."),
        (("--calibration", "0"), "a.onnx", "--calibration must be 1 image or more, got 0. 100 is usual."),
        (("--opset", "17"), "a.onnx", "--opset must be 18 to 21, got 17. Leave --opset out."),
    ],
    ids=lambda value: value if isinstance(value, str) and value.endswith(("onnx", "pt")) else "",
)
def test_what_cannot_be_done_is_said_before_anything_is_done(
    more: Sequence[str], out: str, sentence: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    (world.home / "theirs.onnx").write_bytes(b"\x08\x08\x12\x07pytorch")
    (world.home / "proved.parity.json").write_text('{"written_by": "somebody"}')
    assert main(words(world.home, *more, out=out)) == 2
    assert capsys.readouterr().err.startswith("error: " + sentence.replace("{home}", str(world.home)))


@pytest.mark.usefixtures("made")
def test_eight_bits_are_calibrated_on_training_images(world: World, tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    outcome = detdistill.export_detector(
        world.home / "run", data=world.home / "data", out=out, nms="inside", int8=True, calibration=3, allow_worse=True
    )
    assert (outcome.int8, outcome.as_dict()["bits"], outcome.as_dict()["calibration_images"]) == (3, 8, 3)
    assert "in 8 bits, calibrated on 3 training images" in outcome.table()[0]
    # The weights, a quarter as large, are most of the file.
    assert outcome.file.size < 0.6 * world.file.stat().st_size
    assert runtime.Detector(out).class_names == list(CLASSES)
    assert {one.op_type for one in onnx.load(out).graph.node} >= {"QuantizeLinear", "DequantizeLinear"}
    assert outcome.agreement.matched > 0.5 * (outcome.agreement.matched + outcome.agreement.one_alone)


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("int8", [False, True], ids=["32 bits", "8 bits"])
def test_openvinos_file_finds_what_pytorch_finds(world: World, tmp_path: Path, int8: bool) -> None:
    out = tmp_path / "model.xml"
    form = {"nms": "inside", "int8": int8, "calibration": 3, "allow_worse": int8}
    outcome = detdistill.export_detector(world.home / "run", data=world.home / "data", out=out, to="openvino", **form)
    assert {path.name for path in tmp_path.iterdir()} == {"model.xml", "model.bin", "model.parity.json"}
    found, told = outcome.agreement, outcome.as_dict()
    assert (told["to"], told["opset"], "openvino" in told["machine"]) == ("openvino", 18, True)
    assert told["exported"]["bytes"] == out.stat().st_size + out.with_suffix(".bin").stat().st_size
    if not int8:
        assert (found.one_alone, found.other_alone) == (0, 0)
        assert (found.box < 0.05, found.score < 1e-4, abs(outcome.lost) < 0.1) == (True, True, True)
    assert outcome.table()[0].startswith(
        "fcos/test_resnet as OpenVINO, in 8" if int8 else "fcos/test_resnet as OpenVINO"
    )
    model = targets.open_exported(out)
    assert (model.class_names, model.limits["most"]) == (list(CLASSES), 20)
    if not int8:
        agrees(model, world.detector, count=4, grid=(96, 64))
    # What it wrote it may write over; somebody's weights it may not.
    target = targets.target("openvino")
    export._require_words(out, target, graph.Form(), int8=False, calibration=1)
    outcome.proof.unlink()
    with pytest.raises(detdistill.errors.ConfigError, match=r"--out must be a new file, .* got .*model\.bin, which is"):
        export._require_words(out, target, graph.Form(), int8=False, calibration=1)


def test_a_format_that_cannot_be_made_is_refused_in_a_sentence(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(world.home, "--to", "litert", out="a.tflite")) == 2
    assert capsys.readouterr().err == (
        "error: --to must be onnx, openvino or executorch, got litert, whose converter litert-torch takes no torch "
        "from 2.15 on. Write --to executorch and an --out that ends in .pte for a phone.\n"
    )
    assert main(words(world.home, "--to", "executorch", out="a.onnx")) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: --out must be a file name that ends in .pte, got ")
    assert told.endswith("a.pte.\n")
    assert main(words(world.home, "--to", "executorch", "--int8", out="a.pte")) == 2
    assert capsys.readouterr().err.endswith("Leave --int8 out, or write --to onnx.\n")
    assert main(words(world.home, "--to", "executorch", "--nms", "inside", out="a.pte")) == 2
    assert "must be suppressed outside, as it has no operator for that, got --nms inside. Leave --nms out.\n" in (
        capsys.readouterr().err
    )
    with pytest.raises(
        detdistill.errors.ConfigError, match=r"^An exported file must be an \.onnx, \.xml or \.pte that"
    ):
        targets.open_exported(tmp_path / "a.pt")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        detdistill.errors.MissingDependencyError, match=r"pip install 'detdistill\[export,openvino\]'\.$"
    ):
        targets.require_target("openvino")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["fcos", "gfl"])
def test_executorchs_program_finds_what_pytorch_finds(family: str, tmp_path: Path) -> None:
    detector = build(family)
    draw_data(tmp_path / "data", train=2, val=3)
    detdistill.save_detector(detector, tmp_path / "run", image=IMAGE)
    out = tmp_path / "model.pte"
    outcome = detdistill.export_detector(tmp_path / "run", data=tmp_path / "data", out=out, to="executorch")
    assert {path.name for path in tmp_path.glob("model.*")} == {"model.pte", "model.json", "model.parity.json"}
    found = outcome.agreement
    assert (found.one_alone, found.other_alone, found.matched > 10) == (0, 0, True)
    assert (found.box < 0.05, found.score < 1e-4, abs(outcome.lost) < 0.1) == (True, True, True)
    assert "opset" not in outcome.as_dict()
    assert len(executorch_file.load(out.read_bytes(), out.with_suffix(".json").read_bytes()).class_names) == len(
        CLASSES
    )


@pytest.mark.usefixtures("made")
def test_a_runs_own_data_is_what_it_is_proved_on(world: World, tmp_path: Path) -> None:
    with pytest.raises(detdistill.errors.ConfigError, match=r"must be named where no run's settings name it, got "):
        detdistill.export_detector(world.home / "run", out=tmp_path / "a.onnx")
    run = tmp_path / "run"
    shutil.copytree(world.home / "run", run)
    config = detdistill.run_config(purpose="train", out=run, student="fcos/tiny", data=world.home / "data")
    (run / "config.yaml").write_text(config.yaml())
    outcome = detdistill.export_detector(run, out=tmp_path / "a.onnx")
    assert outcome.images == 3
    assert outcome.proof.is_file()


def test_what_the_exporter_stumbles_over_is_told_in_a_sentence(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        sys.stdout.write("graph(%p_backbone...")
        raise RuntimeError("Failed.\nNext steps: none") from ValueError("no translation of aten::odd.\nTrace: ...")

    monkeypatch.setattr(torch.onnx, "export", fail)
    monkeypatch.setattr(torch.export, "export", lambda *_, **__: None)
    with pytest.raises(CapabilityError) as caught:
        graph.export_onnx(world.detector, export.ImageSettings(**IMAGE), graph.Form())
    assert str(caught.value) == (
        "A detector to export must be one that torch's exporter takes, got fcos/test_resnet: ValueError: no "
        "translation of aten::odd. Export another detector."
    )
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("nms", ["outside", "inside"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_in_both_forms(family: str, nms: str) -> None:
    detector = build(family)
    try:
        detector.limits()
    except CapabilityError:
        pytest.skip("a family without a graph")
    form = graph.Form(nms=nms, normalise=nms == "inside", opset=18 if nms == "outside" else 21)
    content = graph.export_onnx(detector, export.ImageSettings(**IMAGE), form)
    assert [(one.domain, one.version) for one in onnx.load_from_string(content).opset_import] == [("", form.opset)]
    model = runtime.Detector(content)
    for count, grid in ((1, (64, 96)), (4, (96, 64))):
        agrees(model, detector, count=count, grid=grid)


@pytest.mark.slow
def test_sixteen_bits_keep_pixels_boxes_and_scores_in_32(world: World) -> None:
    detector, image = world.detector, export.ImageSettings(**IMAGE)
    model = runtime.Detector(graph.export_onnx(detector, image, graph.Form(half=True)))
    assert {one.type for one in (*model.session.get_inputs()[:1], *model.session.get_outputs())} == {"tensor(float)"}
    assert next(detector.parameters()).dtype is torch.float32  # it stays as it was
    batch = scene_batch()
    with torch.no_grad():
        candidates = detector.candidates(batch, torch.tensor(batch.sizes))
    said = model.session.run(None, {"images": batch.images.numpy(), "sizes": np.array(batch.sizes)})
    assert 0 < np.abs(said[1] - candidates.scores.numpy()).max() < 0.05
    assert np.abs(said[0] - candidates.boxes.numpy()).max() < 2
