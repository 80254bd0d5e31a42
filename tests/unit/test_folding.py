"""A frozen teacher with its batch norms in its convolutions: shows the same, and folds nothing that it may not."""

from __future__ import annotations

import copy
from collections.abc import Set

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detdistill.bench.rounds import noise_batch
from detdistill.detectors.base import Detector, DetectorSpec, PyramidLayout
from detdistill.detectors.catalogue import build_detector, parse_detector
from detdistill.detectors.folding import Folded, folded
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.types import Batch, Detections, Need, Observation, Pyramid
from scenes_in_memory import SMALLEST

CLASSES = ("car", "truck")


@pytest.fixture(autouse=True)
def _drawn() -> None:
    torch.manual_seed(0)


def lived(detector: nn.Module) -> nn.Module:
    """Its norms as a training leaves them: no identities."""
    for part in detector.modules():
        if isinstance(getattr(part, "running_var", None), Tensor):
            nn.init.normal_(part.running_mean, std=0.2)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
            part.weight.data.uniform_(0.5, 1.5)
            part.bias.data.normal_(std=0.2)
    return detector.eval()


def apart(one: Observation, other: Observation) -> float:
    levels = [(x, y) for part in ("pyramid", "class_logits") for x, y in zip(
        *(getattr(seen, part).levels for seen in (one, other)), strict=True
    ) if getattr(one, part) is not None]  # fmt: skip
    return max(float((x - y).abs().max() / x.abs().max()) for x, y in levels)


@pytest.mark.parametrize("name", [*(one for one in SMALLEST if not one.startswith("hf/")), "fcos/resnext26ts"])
def test_every_family_shows_the_same(name: str) -> None:
    detector = lived(build_detector(parse_detector(name), CLASSES, seed=0))
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in detector.modules())
    plain, other = FrozenTeacher(copy.deepcopy(detector)), FrozenTeacher(detector, fold=True)
    assert other.folded == norms > 0
    assert other.digest() == plain.digest()
    batch, needs = noise_batch(2, 96, boxes=2, classes=2), {Need.PYRAMID, Need.CLASS_LOGITS}
    assert 0 < apart(plain.observe(batch, needs), other.observe(batch, needs)) < 1e-5
    # What gradients flow through, and what finds boxes, is as it was.
    for one, own in zip(plain.input_gradient(batch), other.input_gradient(batch), strict=True):
        torch.testing.assert_close(one, own, atol=0, rtol=0)


class Made(Detector):
    """A detector of one level from a body."""

    def __init__(self, body: nn.Module, channels: int = 6) -> None:
        super().__init__()
        self.body, self.spec = body, DetectorSpec("made", CLASSES, PyramidLayout((1,), channels))

    def extract(self, batch: Batch) -> Pyramid:
        return Pyramid((self.body(batch.images),), (1,))

    def observe(self, pyramid: Pyramid, batch: Batch, needs: Set[Need]) -> Observation:
        return Observation(pyramid)

    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        return ()


class Residual(nn.Module):
    """A block as torchvision writes it: one ReLU for all, and a sum in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.Conv2d(6, 6, 1)
        self.norms, self.relu = nn.ModuleList([FrozenBatchNorm2d(6), FrozenBatchNorm2d(6)]), nn.ReLU(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        found = self.norms[1](self.second(self.relu(self.norms[0](self.first(maps)))))
        found += maps
        return self.relu(found)


class Twice(nn.Module):
    """What the norm reads is read by somebody else too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)

    def forward(self, maps: Tensor) -> Tensor:
        found = self.conv(maps)
        return self.norm(found) * found


class Shared(nn.Module):
    """One convolution with a norm of each level's own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norms = nn.Conv2d(3, 6, 1), nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(6)])

    def forward(self, maps: Tensor) -> Tensor:
        return self.norms[0](self.conv(maps)) + self.norms[1](self.conv(2 * maps))


BODIES = {
    "torchvision's": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(), Residual()), 3),
    "timm's": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), BatchNormAct2d(6), nn.Conv2d(6, 6, 3, groups=6)), 1),
    "another activation": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), BatchNormAct2d(6, act_layer=nn.SiLU)), 1),
    "without numbers": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)), 1),
    "before a convolution": (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 6, 3)), 0),
    "reflecting": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(6)), 0),
    "read twice": (Twice, 0),
    "a norm of each level": (Shared, 0),
}


@pytest.mark.parametrize("name", BODIES)
def test_it_folds_what_may_be_folded(name: str) -> None:
    made, count = BODIES[name]
    detector = lived(Made(made())).requires_grad_(False)
    batch = noise_batch(2, 40, boxes=1, classes=2)
    with torch.no_grad():
        before = detector(batch, {Need.PYRAMID}).pyramid.levels[0]
        other, number = folded(detector)
        after = other(batch, {Need.PYRAMID}).pyramid.levels[0]
    assert number == count
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    assert torch.equal(detector(batch, {Need.PYRAMID}).pyramid.levels[0], before), "the detector is left as it is"


def test_what_somebody_listens_to_is_left_alone() -> None:
    detector = lived(Made(BODIES["torchvision's"][0]())).requires_grad_(False)
    detector.body[0].register_forward_hook(lambda *_: None)
    assert folded(detector) == (detector, 0)


def test_the_same_bits_whatever_was_seen_before() -> None:
    """So that a run that is resumed learns from the same maps."""
    conv = nn.Conv2d(40, 24, 3, padding=1)
    one, other = (Folded.of(conv, nn.BatchNorm2d(24).eval(), rectifies=True, calls=1) for _ in range(2))
    maps = torch.rand(3, 40, 13, 17)
    with torch.no_grad():
        other(torch.rand(1, 40, 64, 64))
        first = one(maps)
        assert torch.equal(other(maps), first)
        assert torch.equal(one(maps), first)
    torch.testing.assert_close(one(maps), first)  # with gradients on, another way to compute it
