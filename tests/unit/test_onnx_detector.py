"""ONNX files as detectors: what is recognised, what is computed, and what a wrong description shows by."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

import detdistill
from coco_by_hand import CLASSES, draw_data
from detdistill.data.sources import open_split
from detdistill.data.transforms import ImageSettings
from detdistill.detectors import onnx_detector
from detdistill.detectors.frozen import digest
from detdistill.detectors.onnx_detector import OnnxDetector, load_onnx
from detdistill.detectors.preprocess import normaliser_of
from detdistill.errors import ConfigError, MissingDependencyError
from detdistill.jobs.examine import Sample, other_pixels
from detdistill.jobs.readings import other_readings
from detdistill.progress import Silence
from detdistill.proof.box_checks import readings
from detdistill.proof.checks import LOOK, OK, normalisation
from detdistill.types import Batch, Targets
from onnx_models import OUTPUTS, exported, seeing
from scenes_in_memory import tiny_student

TOLD = {
    "detections": "top left, rgb up to 1; detections in boxes, scores, labels: boxes xyxy in pixels, labels from 1",
    "queries": "stretch, rgb up to 1; queries in logits, pred_boxes: boxes cxcywh in shares, sigmoid of logits",
    "cells": "in the middle, rgb up to 1; cells in output0: boxes cxcywh in pixels, scores; overlapping boxes are",
    "rows": "letterbox in the middle, rgb up to 1; rows in output0: boxes xyxy in pixels, labels from 0",
}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    draw_data(folder, train=1, val=12)
    return folder


@pytest.mark.parametrize("form", OUTPUTS)
def test_conventional_outputs_are_recognised_and_told(data: Path, tmp_path: Path, form: str) -> None:
    path = seeing(tmp_path / "d.onnx", form)
    loaded = detdistill.load_detector(path)
    assert TOLD[form] in loaded.report.text()
    assert loaded.class_names == CLASSES
    assert detdistill.evaluate(path, data=data).metrics.ap > 90


class Raw(nn.Module):
    """The logits and the box of every anchor of our own RetinaNet, before anything is sorted out."""

    def __init__(self, detector: Any, images: Tensor) -> None:
        super().__init__()
        self.model, pixels = detector.model, normaliser_of(detector)
        assert pixels is not None
        self.mean, self.std = pixels.mean, pixels.std
        with torch.no_grad():
            self.anchors = torch.cat(self.model.anchor_generator.anchors(detector.extract(batch_of(images)).levels))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        levels = list(self.model.backbone((images - self.mean) / self.std).values())
        offsets = self.model.head.regression_head(levels)[0]
        boxes = self.model.box_coder.decode_single(offsets, self.anchors)
        return self.model.head.classification_head(levels), boxes[None]


def batch_of(images: Tensor) -> Batch:
    size, count = (int(images.shape[2]), int(images.shape[3])), len(images)
    none = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    return Batch(images, (size,) * count, (size,) * count, (none,) * count, (*range(count),), (0,) * count)


def test_its_boxes_are_those_of_the_model_that_it_came_from(tmp_path: Path) -> None:
    detector = tiny_student("retinanet", classes=CLASSES, score_threshold=0.001, nms_threshold=0.6).eval()
    batch = batch_of(torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(3)))
    said = {"boxes": "xyxy", "units": "pixels", "nms": True, "score_threshold": 0.001, "detections_per_image": 15}
    model = Raw(detector, batch.images[:1])
    found = exported(model, tmp_path / "retinanet.onnx", outputs=["logits", "boxes"], said=said)
    with torch.no_grad():
        expected = detector.detect(batch)
    for one, other in zip(expected, load_onnx(Path(found)).detector.detect(batch), strict=True):
        assert len(one.scores) == len(other.scores) == 15
        overlaps = box_iou(one.boxes, other.boxes).masked_fill(one.labels[:, None] != other.labels, 0)
        matched = overlaps.argmax(1)
        assert sorted(matched.tolist()) == list(range(15))
        assert (one.boxes - other.boxes[matched]).abs().max() < 1e-3
        assert (one.scores - other.scores[matched]).abs().max() < 1e-5
        assert one.probabilities is not None
        assert (one.probabilities - other.probabilities[matched]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("form", "said"),
    [("rows", {}), ("rows", {"centred": False, "fill": 0.5}), ("queries", {}), ("cells", {"nms": True})],
)
def test_images_are_fitted_and_boxes_brought_back(data: Path, tmp_path: Path, form: str, said: dict[str, Any]) -> None:
    path = seeing(tmp_path / "d.onnx", form, size=(160, 160), said=said)
    assert detdistill.evaluate(path, data=data).metrics.ap50 > 90


def test_class_names_come_from_the_files_own_metadata(data: Path, tmp_path: Path) -> None:
    path = Path(seeing(tmp_path / "d.onnx", "cells"))
    path.with_suffix(".yaml").unlink()
    with pytest.raises(ConfigError, match=r"must be named, got none .* Write classes: \[NAME, NAME\] in .*d\.yaml\."):
        load_onnx(path)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"names": "{0: 'square', 1: 'bar'}"})
    onnx.save(model, path)
    assert load_onnx(path).class_names == CLASSES


@pytest.fixture
def sample(data: Path) -> Sample:
    evaluate = SimpleNamespace(batch_size=8, agnostic=False, backend="hotcoco")
    opened: Any = SimpleNamespace(config=SimpleNamespace(evaluate=evaluate), first_device=torch.device("cpu"))
    return Sample(opened, open_split(data, "val")[0], Silence())


AT = ImageSettings(64, 96)
WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "box format": ("detections", {"said": {"boxes": "cxcywh"}}, "Write boxes: xyxy in {}."),
    "box format of cells": ("cells", {"said": {"boxes": "xyxy"}}, "Write boxes: cxcywh in {}."),
    "units": ("queries", {"said": {"units": "pixels"}}, "Write units: shares in {}."),
    "format and units": (
        "queries",
        {"said": {"units": "pixels", "boxes": "xywh"}},
        "Write boxes: cxcywh, units: shares in",
    ),
    "first label": ("rows", {"said": {"first_label": 1}}, "Write first_label: 0 in {}."),
    "channels": ("detections", {"said": {"channels": "bgr"}}, "Write channels: rgb in {}."),
    "size": ("rows", {"free": True, "side": 64, "said": {"size": [128, 192]}}, "Write size: [64, 96] in {}."),
    "size as they come": (
        "detections",
        {"free": True, "side": 128},
        "Set teacher.image.short_side=128 teacher.image.long_side=192.",
    ),
}


@pytest.fixture(scope="module")
def labelled(data: Path) -> Batch:
    return next(iter(detdistill.open_data(data, split="val").batches(8)))


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_description_shows_on_labelled_images(
    sample: Sample, labelled: Batch, tmp_path: Path, what: str
) -> None:
    form, traits, remedy = WRONG[what]
    loaded = load_onnx(Path(seeing(tmp_path / "d.onnx", form, **traits)))
    at = ImageSettings(**loaded.image) if loaded.image else AT
    read = other_readings(sample, loaded.detector, at)
    assert read is not None
    check = readings(*read)
    assert check.state == LOOK
    assert check.remedy.startswith(remedy.format(tmp_path / "d.yaml"))
    assert check.figures["ap"] < 60
    assert max(one["ap"] for one in check.figures["others"]) > 90
    (problem,) = detdistill.check_detector(loaded.detector, labelled).problems
    assert problem.startswith("What d.onnx takes and gives must be as ")
    told = "Write size: [128, 192], resize: letterbox in {}." if "teacher." in remedy else remedy
    assert f". {told.format(tmp_path / 'd.yaml')}" in problem


def test_a_right_description_is_the_best(sample: Sample, labelled: Batch, tmp_path: Path) -> None:
    detector = load_onnx(Path(seeing(tmp_path / "d.onnx", "rows"))).detector
    before = detector.settings_of_file, detector.pixels.numbers()
    assert detdistill.check_detector(detector, labelled).problems == ()
    assert (detector.settings_of_file, detector.pixels.numbers()) == before
    read = other_readings(sample, detector, AT)
    assert read is not None
    check = readings(*read)
    assert check.state == OK
    assert check.said.startswith("9 other readings are no better than images 64 x 96")
    assert other_readings(sample, tiny_student("fcos", classes=CLASSES), AT) is None


def test_a_wrong_normalisation_shows_on_labelled_images(sample: Sample, labelled: Batch, tmp_path: Path) -> None:
    loaded = load_onnx(Path(seeing(tmp_path / "d.onnx", "rows", std=(1 / 255,) * 3)))
    found, others = other_pixels(sample, loaded.detector, AT)
    assert found is not None
    check = normalisation("its own", "its own", found, others)
    assert check.state == LOOK
    assert check.remedy == "Set teacher.mean=[0,0,0] teacher.std=[0.00392157,0.00392157,0.00392157]."
    (problem,) = detdistill.check_detector(loaded.detector, labelled).problems
    assert problem.endswith(f". Write white: 255 in {tmp_path / 'd.yaml'}.")
    said = {"white": 255} | {key: [value * 255 for value in one] for key, one in IMAGENET.items()}
    right = load_onnx(Path(seeing(tmp_path / "e.onnx", "rows", said=said, **IMAGENET)))
    found, others = other_pixels(sample, right.detector, AT)
    assert found is not None
    assert found.ap > 90


REFUSED = {
    "size": ({"size": [64, 64]}, r"size of .* must be the file's own, 64 and 96, got \[64, 64\]"),
    "outputs": ({"form": "rows", "outputs": ["found"]}, "outputs of .* among boxes, scores, labels, got"),
    "form": ({"form": "cells"}, r"must be boxes, scores and labels, .* got boxes float\[2, 4\]"),
    "units": ({"units": "image"}, "units of .* must be pixels or shares for .* which is told no sizes"),
    "classes": ({"classes": ["a", "a"]}, "classes must be different names"),
    "std": ({"std": [1, 1, 0]}, "std must be three numbers above 0"),
    "key": ({"colour": "rgb"}, "colour"),
    "word": ({"boxes": "xyhw"}, "boxes"),
}


def test_descriptions_that_cannot_be_are_refused(tmp_path: Path) -> None:
    path = Path(seeing(tmp_path / "d.onnx"))
    for said, sentence in REFUSED.values():
        content = {"classes": list(CLASSES)} | said
        path.with_suffix(".yaml").write_text(repr(content))
        with pytest.raises(ConfigError, match=sentence):
            load_onnx(path)
    path.with_suffix(".yaml").write_text("{classes: [a, b], model: none.onnx}")
    with pytest.raises(ConfigError, match=r"must be an ONNX file, got nothing in .*none\.onnx"):
        load_onnx(path.with_suffix(".yaml"))
    (tmp_path / "other.onnx").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="must be an ONNX model that onnxruntime can run, got: "):
        load_onnx(tmp_path / "other.onnx")
    exported(nn.Conv2d(3, 2, 1), tmp_path / "conv.onnx", outputs=["maps"], said={})
    with pytest.raises(ConfigError, match=r"must be boxes, scores and labels, .* got maps float\[1, 2, 64, 96\]"):
        load_onnx(tmp_path / "conv.onnx")


class Constant(nn.Module):
    """Says the same of every cell: a box and two scores."""

    def __init__(self, score: float) -> None:
        super().__init__()
        self.register_buffer("said", torch.tensor([8.0, 8, 8, 8, score, 0.1])[None, :, None])

    def forward(self, images: Tensor) -> Tensor:
        return self.said + 0 * images.mean((1, 2, 3))[:, None, None].expand(-1, 6, 3)


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (float("nan"), r"must be numbers, got NaN\. Export it anew"),
        (12.0, r"must be from 0 to 1, got 12 from .* Write activation: sigmoid in .*d\.yaml\."),
    ],
)
def test_what_is_no_probability_is_refused(tmp_path: Path, score: float, said: str) -> None:
    form = {"form": "cells", "activation": "none"}
    path = exported(Constant(score), tmp_path / "d.onnx", outputs=["output0"], said=form)
    with pytest.raises(ConfigError, match=said):
        load_onnx(Path(path)).detector.detect(batch_of(torch.zeros(1, 3, 64, 96)))


def test_it_is_told_from_others_and_copied_without_its_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(seeing(tmp_path / "d.onnx", "rows"))
    first = load_onnx(path).detector
    assert isinstance(first, OnnxDetector)
    again = copy.deepcopy(first)
    assert digest(again) == digest(first)
    batch = batch_of(torch.rand(1, 3, 64, 96))
    assert all(map(torch.equal, (again.detect(batch)[0].boxes,), (first.detect(batch)[0].boxes,)))
    path.with_suffix(".yaml").write_text("{classes: [square, bar], nms_threshold: 0.4}")
    assert digest(load_onnx(path.with_suffix(".yaml")).detector) != digest(first)
    monkeypatch.setattr(onnx_detector, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"Install it: .* -m pip install 'detdistill\[onnx\]'\.$"):
        load_onnx(path)
