"""A detector family of another package: made of the shared parts, registered, and then as good as one of ours."""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from detdistill.detectors.backbones import build_backbone
from detdistill.detectors.base import Detector
from detdistill.detectors.catalogue import FAMILIES, Family, Naming, build_detector, parse_detector, settings_of
from detdistill.detectors.dense import all_background, assign, dense_spec, focal_cells, observe_dense, prior_bias
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.detectors.inherit import initialise
from detdistill.detectors.preprocess import IMAGENET_MEAN, Normaliser, with_pixel_statistics
from detdistill.detectors.settings import DetectorSettings, PyramidSettings
from detdistill.distillation.step import DistillationStep
from detdistill.errors import ConfigError
from detdistill.gfl.assign import Cells, make_cells
from detdistill.jobs.paths import PATHS_FROM, read_from
from detdistill.methods.catalogue import build_recipe
from detdistill.store.students import DESCRIPTION, load_detector, save_detector
from detdistill.types import Batch, Clock, Detections, Need, Observation, Pyramid, Targets, TaskLoss
from scenes_in_memory import CLASSES, scene_batch

LOSSES = frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES})


@dataclass(frozen=True, slots=True, kw_only=True)
class DotsSettings(PyramidSettings):
    """A cell learns the object whose centre lies within its reach."""

    family: Literal["dots"] = "dots"
    reach: float = 1.0

    def check(self) -> None:
        self.require("reach", self.reach > 0, "be above 0")


class DotsDetector(Detector):
    """Says a class and the box's sides in strides at every cell, by one convolution each."""

    def __init__(self, settings: DotsSettings, class_names: Sequence[str]) -> None:
        super().__init__()
        self.settings: DotsSettings = settings
        self.spec = dense_spec(settings.name, class_names, strides=settings.strides, channels=settings.fpn_channels)
        self.backbone = build_backbone(settings)
        self.classes = nn.Conv2d(settings.fpn_channels, len(class_names), 1)
        self.sides = nn.Conv2d(settings.fpn_channels, 2, 1)
        nn.init.constant_(self.classes.bias, prior_bias(0.05))
        self._pixels = Normaliser.of(settings)

    def extract(self, batch: Batch) -> Pyramid:
        return Pyramid(tuple(self.backbone(self._pixels(batch)).values()), self.spec.pyramid.strides)

    def observe(self, pyramid: Pyramid, batch: Batch, needs: Set[Need]) -> Observation:
        return observe_dense(self, pyramid, batch, needs)

    def class_outputs(self, pyramid: Pyramid) -> tuple[Tensor, ...]:
        return tuple(self.classes(level).unsqueeze(1) for level in pyramid.levels)

    def box_outputs(self, pyramid: Pyramid) -> tuple[Tensor, ...]:
        return tuple(self.sides(level).unsqueeze(1) for level in pyramid.levels)

    def class_maps(self, outputs: tuple[Tensor, ...], pyramid: Pyramid) -> tuple[Tensor, ...]:
        return outputs

    def dense_loss(
        self, classes: tuple[Tensor, ...], boxes: tuple[Tensor, ...], pyramid: Pyramid, batch: Batch, *, per_image: bool
    ) -> TaskLoss:
        targets, cells = [target.taught() for target in batch.targets], cells_of(pyramid)
        given = assign([self._match(target, cells) for target in targets], targets, counts=cells.counts)
        said, wanted = rows(boxes)[given.image, given.anchor], given.boxes[given.objects]
        sides = (wanted[:, 2:] - wanted[:, :2]) / cells.strides[given.anchor][:, None]
        box = given.by_level(given.spread(functional.l1_loss(said, sides.log(), reduction="none").sum(dim=1)))
        each = given.positives().clamp(min=1)[:, None]
        classification, box = given.by_level(focal_cells(rows(classes), given)) / each, box / each
        total = (classification + box).sum(dim=1).mean()
        return TaskLoss(total, pyramid.strides, classification, box) if per_image else TaskLoss(total)

    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        pyramid = self.extract(batch)
        scores, labels = rows(self.class_outputs(pyramid)).sigmoid().max(dim=2)
        cells = cells_of(pyramid)
        half = rows(self.box_outputs(pyramid)).exp() * cells.strides[:, None] / 2
        boxes = torch.cat((cells.points - half, cells.points + half), dim=2)
        best = scores.argsort(dim=1, descending=True)[:, : self.settings.detections_per_image]
        return tuple(
            Detections(boxes[image, chosen], scores[image, chosen], labels[image, chosen])
            for image, chosen in enumerate(best)
        )

    def _match(self, target: Targets, cells: Cells) -> Tensor:
        if not len(target.boxes):
            return all_background(cells.points)
        centres = (target.boxes[:, :2] + target.boxes[:, 2:]) / 2
        apart = (cells.points[:, None] - centres).abs().amax(dim=2) / cells.strides[:, None]
        nearest, matched = apart.min(dim=1)
        return torch.where(nearest < self.settings.reach, matched, -1)


def cells_of(pyramid: Pyramid) -> Cells:
    grids = [(level.shape[-2], level.shape[-1]) for level in pyramid.levels]
    return make_cells(grids, pyramid.strides, device=torch.device("cpu"))


def rows(levels: Sequence[Tensor]) -> Tensor:
    return torch.cat([level.squeeze(1).flatten(-2).mT for level in levels], dim=1).float()


TINY = DotsSettings(backbone="test_resnet", fpn_channels=16, strides=(8, 16, 32))


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> Family:
    monkeypatch.setattr(FAMILIES, "_added", {})
    return FAMILIES.register(Family(name="dots", settings=DotsSettings, presets={"tiny": TINY}, build=DotsDetector))


def test_it_is_found_by_name_like_any_other(family: Family) -> None:
    assert FAMILIES.find("dots") is family
    assert "dots" in tuple(FAMILIES)
    assert parse_detector("dots/tiny") == TINY
    assert parse_detector("dots/resnet18") == DotsSettings(backbone="resnet18")
    assert settings_of(json.loads(json.dumps(TINY.to_dict()))) == TINY
    with pytest.raises(
        ConfigError, match=r"family must be one of dots, faster_rcnn, .* got 'dot'\. Did you mean 'dots'"
    ):
        parse_detector("dot/tiny")
    with pytest.raises(ConfigError, match=r"must be a preset or a timm model, got 'tinny'\. Did you mean 'tiny'\?"):
        parse_detector("dots/tinny")


def test_a_family_may_name_its_detectors_in_a_way_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class GivenSettings(DetectorSettings):
        family: Literal["given"] = "given"
        source: str

        def check(self) -> None:
            pass

    def settings(text: str) -> GivenSettings:
        return GivenSettings(source=text.removeprefix("given:"))

    monkeypatch.setattr(FAMILIES, "_added", {})
    naming = Naming("given:FILE", lambda text: text.startswith("given:"), settings, lambda text, _: f"{text}!")
    FAMILIES.register(Family("given", GivenSettings, presets={}, build=DotsDetector, naming=naming))
    assert parse_detector("given:here.pt") == GivenSettings(source="here.pt")
    assert with_pixel_statistics(parse_detector("given:here.pt")).mean == IMAGENET_MEAN
    with pytest.raises(ConfigError, match=r"must be written FAMILY/BACKBONE, FAMILY/PRESET.* given:FILE.*, got 'here'"):
        parse_detector("here")
    with pytest.raises(ConfigError, match=r"A detector of given must be written given:FILE, got 'given/tiny'"):
        parse_detector("given/tiny")
    with pytest.raises(ConfigError, match=r"must have the key 'source', got none"):
        settings_of({"family": "given"})
    assert read_from({PATHS_FROM: "file", "student": {"detector": "given:x"}}, Path("runs/c.yaml")) == {
        "student": {"detector": "given:x!"}
    }


@pytest.mark.usefixtures("family")
def test_its_keys_are_its_own() -> None:
    with pytest.raises(ConfigError, match=r"settings of dots must have known keys, got 'centre_radius'\."):
        settings_of({**TINY.to_dict(), "centre_radius": 1.5})
    with pytest.raises(ConfigError, match=r"settings of fcos must have known keys, got 'reach'\."):
        settings_of({**parse_detector("fcos/tiny").to_dict(), "reach": 1.0})
    with pytest.raises(ConfigError, match=r"student\.reach must be above 0, got 0\.0\."):
        replace(TINY, reach=0.0)
    with pytest.raises(ConfigError, match=r"student\.norm must be one of .*got 'frozn'\. Did you mean 'frozen'\?"):
        replace(TINY, norm="frozn")  # type: ignore[arg-type]


@pytest.mark.usefixtures("family")
def test_it_keeps_what_detectors_promise(tmp_path: Path) -> None:
    detector, batch = build_detector(TINY, CLASSES, seed=3), scene_batch()
    detector.eval()
    assert detector.observe(detector.extract(batch), batch, frozenset({Need.BOX_DISTRIBUTIONS})).task_loss is None
    for index in range(len(batch)):
        loss = detector(batch.image(index), LOSSES).task_loss
        torch.testing.assert_close(loss.classification.sum() + loss.box.sum(), loss.total)
    save_detector(detector, tmp_path, image={"short_side": 96, "long_side": 128})
    assert "reach" in json.loads((tmp_path / DESCRIPTION).read_text())["detector"]
    loaded = load_detector(tmp_path)
    assert loaded.detector.settings == with_pixel_statistics(TINY)
    assert torch.equal(loaded.detector.eval()(batch, LOSSES).task_loss.total, detector(batch, LOSSES).task_loss.total)
    assert all(len(found.boxes) == 100 for found in detector.detect(batch))


@pytest.mark.usefixtures("family")
def test_it_learns_and_is_distilled_on_both_sides() -> None:
    batch = scene_batch()
    for student, teacher in (("dots/tiny", "fcos/tiny"), ("fcos/tiny", "dots/tiny")):
        pupil = build_detector(parse_detector(student), CLASSES, seed=0)
        shown = FrozenTeacher(build_detector(parse_detector(teacher), CLASSES, seed=1))
        step = DistillationStep(pupil, shown, build_recipe("frs", pupil.spec, shown.spec))
        optimizer = torch.optim.AdamW(step.parameters(), lr=3e-3)
        tasks = []
        for number in range(12):
            report = step(batch, Clock(number, 12))
            optimizer.zero_grad()
            report.total.backward()
            optimizer.step()
            tasks.append(float(report.parts["task"]))
        assert report.parts["frs.features"] > 0
        assert report.parts["frs.classes"] > 0
        assert tasks[-1] < 0.9 * tasks[0]


def test_settings_of_another_name_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'dashes' must have the tag family = 'dashes', got 'dots'\. Give the field"):
        Family(name="dashes", settings=DotsSettings, presets={}, build=DotsDetector)
    with pytest.raises(ConfigError, match=r"family of register\(\) must be a Family, got str\."):
        FAMILIES.register("dots")  # type: ignore[arg-type]


@pytest.mark.usefixtures("family")
def test_among_other_classes_what_depends_on_their_number_is_drawn_anew() -> None:
    """It does not say where its classes are."""
    source, student = (build_detector(TINY, names, seed=seed) for seed, names in ((1, CLASSES), (2, CLASSES[::-1])))
    fresh = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    report = initialise(student, source, name="runs/a")
    own = {"classes.weight", "classes.bias"}
    assert report.text().splitlines()[-1] == (
        f"  by class (2): drawn anew {', '.join(CLASSES[::-1])}; left behind {', '.join(CLASSES)}"
    )
    assert set(report.matched) == set(fresh) - own
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, fresh[name] if name in own else source.state_dict()[name])
    again = build_detector(TINY, CLASSES, seed=2)
    assert initialise(again, source, name="runs/a").fraction == 1.0
    student.settings = None
    with pytest.raises(ConfigError, match=r"must be built from DetectorSettings, got dots/test_resnet\. Build it by"):
        initialise(student, source, name="runs/a")
