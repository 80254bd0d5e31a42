"""What every detector of the catalogue promises to the rest, one suite for all families."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from detdistill.data.dataset import Sample
from detdistill.data.loader import collate
from detdistill.data.resizing import transform_sample
from detdistill.data.transforms import ImageSettings
from detdistill.detectors.base import BACKGROUND_ROW, UNUSED_ROW, Detector
from detdistill.detectors.preprocess import with_pixel_statistics
from detdistill.evaluation.detect import detect_split
from detdistill.store.students import load_detector, save_detector
from detdistill.types import Batch, ClassKind, Need, Pyramid, Targets, TaskLoss
from scenes_in_memory import CLASSES, FAMILIES, STUDENT_CHANNELS, leaves_of, scene_batch, tiny_settings, tiny_student
from thorough import covering

LOSSES = frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES})
SEEN = frozenset({Need.CLASS_LOGITS, Need.BOX_DISTRIBUTIONS, *LOSSES})
ASKABLE = (Need.PYRAMID, Need.CLASS_LOGITS, Need.TASK_LOSS, Need.IMAGE_LOSSES, Need.BOX_DISTRIBUTIONS)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def detector(family: str) -> Detector:
    """In eval mode; tests leave it as it is."""
    return tiny_student(family).eval()


@pytest.fixture(scope="module")
def batch() -> Batch:
    return scene_batch()


def per_image(loss: TaskLoss) -> dict[str, Tensor]:
    named = {
        "classification": loss.classification,
        "box": loss.box,
        "roi_classification": loss.roi_classification,
        "roi_box": loss.roi_box,
        **loss.other,
    }
    return {name: values for name, values in named.items() if values is not None}


def awake(detector: Detector) -> Detector:
    """In training mode, with the residual branches opened that timm starts at a scale of zero."""
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            if name.endswith("weight") and not parameter.any():
                parameter.fill_(0.5)
    return detector.train()


def one_step(detector: Detector, batch: Batch) -> None:
    """A step of SGD large enough to move every trained bit."""
    loss = detector(batch, frozenset({Need.TASK_LOSS})).task_loss
    loss.total.backward()
    torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=0.1).step()


@pytest.mark.parametrize("grid", [(96, 128), (70, 101), (33, 64)])
def test_the_spec_is_what_the_pyramid_is(detector: Detector, grid: tuple[int, int]) -> None:
    pyramid = detector.extract(scene_batch(sizes=(grid,) * 3, grid=grid))
    layout = detector.spec.pyramid
    assert pyramid.strides == layout.strides == (8, 16, 32)
    assert [tuple(level.shape) for level in pyramid.levels] == [
        (3, layout.channels, math.ceil(grid[0] / stride), math.ceil(grid[1] / stride)) for stride in layout.strides
    ]
    assert layout.channels == STUDENT_CHANNELS


def test_levels_beyond_the_backbone_have_their_nominal_strides(family: str) -> None:
    detector = tiny_student(family, strides=(16, 32, 64, 128))
    pyramid = detector.extract(scene_batch())
    assert pyramid.strides == detector.spec.pyramid.strides == (16, 32, 64, 128)
    assert [level.shape[-2:] for level in pyramid.levels] == [(6, 8), (3, 4), (2, 2), (1, 1)]


def test_the_spec_names_detector_and_classes(detector: Detector, family: str) -> None:
    assert detector.settings.family == family
    assert detector.spec.name == f"{family}/test_resnet"
    assert detector.spec.class_names == CLASSES
    assert detector.settings == with_pixel_statistics(tiny_settings(family))


def test_observe_answers_what_is_asked_and_nothing_else(detector: Detector, batch: Batch) -> None:
    for count in range(len(ASKABLE) + 1):
        for needs in itertools.combinations(ASKABLE, count):
            pyramid = detector.extract(batch)
            seen = detector.observe(pyramid, batch, frozenset(needs))
            assert seen.pyramid is pyramid
            assert (seen.class_logits is not None) == (Need.CLASS_LOGITS in needs)
            offered = detector.spec.box_distributions is not None
            assert (seen.box_distributions is not None) == (offered and Need.BOX_DISTRIBUTIONS in needs)
            assert (seen.task_loss is not None) == bool(LOSSES & set(needs)), needs
            if seen.task_loss is not None:
                assert bool(per_image(seen.task_loss)) == (Need.IMAGE_LOSSES in needs)
        batch = batch.image(0)  # the second round on is about the words, not the images


def test_what_is_asked_does_not_change_what_is_seen(detector: Detector, batch: Batch) -> None:
    whole = detector(batch, SEEN)
    for need in (Need.CLASS_LOGITS, Need.TASK_LOSS):
        alone = detector(batch, frozenset({need}))
        assert all(map(torch.equal, alone.pyramid.levels, whole.pyramid.levels))
        if need is Need.TASK_LOSS:
            assert torch.equal(alone.task_loss.total, whole.task_loss.total)
        else:
            assert all(map(torch.equal, alone.class_logits.levels, whole.class_logits.levels))


def test_class_logits_are_laid_out_as_the_spec_says(detector: Detector, batch: Batch) -> None:
    layout, seen = detector.spec.class_logits, detector(batch, frozenset({Need.CLASS_LOGITS}))
    logits = seen.class_logits
    assert logits.kind is layout.kind
    assert logits.strides == layout.strides == seen.pyramid.strides
    assert layout.classes == (CLASSES if layout.kind is ClassKind.SIGMOID else ("object",))
    for level, maps in zip(logits.levels, seen.pyramid.levels, strict=True):
        assert tuple(level.shape) == (3, layout.anchors, len(layout.classes), *maps.shape[-2:])


def test_box_distributions_are_laid_out_as_the_spec_says(detector: Detector, batch: Batch) -> None:
    layout, seen = detector.spec.box_distributions, detector(batch, frozenset({Need.BOX_DISTRIBUTIONS}))
    if layout is None:
        assert seen.box_distributions is None
        return
    assert seen.box_distributions.strides == layout.strides == seen.pyramid.strides
    for level, maps in zip(seen.box_distributions.levels, seen.pyramid.levels, strict=True):
        assert tuple(level.shape) == (3, layout.anchors, 4, layout.bins, *maps.shape[-2:])


def test_a_cells_logits_come_from_its_place_in_the_pyramid(family: str, batch: Batch) -> None:
    """With convolutions alone, a change at one cell stays within the towers' reach: nothing is transposed."""
    detector = tiny_student(family, head_norm="none").eval()
    pyramid = detector.extract(batch.image(0))
    row, column = 2, 11
    finest = pyramid.levels[0].clone()
    finest[:, :, row, column] += 5.0
    changed = Pyramid((finest, *pyramid.levels[1:]), pyramid.strides)
    before, after = (
        detector.observe(one, batch.image(0), frozenset({Need.CLASS_LOGITS})).class_logits for one in (pyramid, changed)
    )
    moved = (before.levels[0] != after.levels[0]).flatten(0, 2).any(0).nonzero()
    assert len(moved) > 0
    assert (moved - torch.tensor([row, column])).abs().max() <= 2
    assert moved[:, 0].float().mean() == row
    assert moved[:, 1].float().mean() == column
    assert all(map(torch.equal, before.levels[1:], after.levels[1:]))


def test_heads_read_any_pyramid_of_the_layout(detector: Detector, batch: Batch) -> None:
    own = detector.extract(batch)
    foreign = Pyramid(tuple(torch.rand_like(level).requires_grad_() for level in own.levels), own.strides)
    seen = detector.observe(foreign, batch, SEEN)
    gradients = torch.autograd.grad(seen.task_loss.total, foreign.levels, allow_unused=True)
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize(
    ("norm", "freeze_stages"), covering([(norm, frozen) for norm in ("batch", "group", "frozen") for frozen in (0, 2)])
)
def test_the_task_loss_reaches_every_trainable_parameter(family: str, norm: str, freeze_stages: int) -> None:
    detector = awake(tiny_student(family, norm=norm, freeze_stages=freeze_stages, head_norm="group"))
    trained = {name: p for name, p in detector.named_parameters() if p.requires_grad}
    assert len(trained) < len(list(detector.parameters())) or (norm != "frozen" and freeze_stages == 0)
    # The first two images have boxes of all sizes.
    seen = detector(scene_batch(), frozenset({Need.TASK_LOSS}))
    gradients = torch.autograd.grad(seen.task_loss.total, [*trained.values()], allow_unused=True)
    silent = [
        name for name, g in zip(trained, gradients, strict=True) if g is None or not g.isfinite().all() or not g.any()
    ]
    assert not silent


def test_images_without_boxes_cost_something_finite(detector: Detector) -> None:
    seen = detector(scene_batch(((), ())), LOSSES)
    assert seen.task_loss.total.isfinite()
    assert seen.task_loss.total > 0
    assert seen.task_loss.box.abs().sum() == 0
    seen.task_loss.total.backward()
    assert next(detector.parameters()).grad is not None
    detector.zero_grad()


def test_ignored_boxes_teach_nothing(detector: Detector, batch: Batch) -> None:
    """An ignored box neither becomes an object nor changes what the taught ones cost."""
    crowd = torch.tensor([[40.0, 30.0, 60.0, 60.0]])
    withheld = tuple(
        replace(
            target,
            boxes=torch.cat([crowd, target.boxes]),
            labels=torch.cat([torch.tensor([1]), target.labels]),
            ignored=torch.cat([torch.tensor([True]), target.ignored]),
        )
        for target in batch.targets
    )
    plain, flagged = (detector(one, LOSSES).task_loss for one in (batch, replace(batch, targets=withheld)))
    assert torch.equal(plain.total, flagged.total)
    taught = tuple(replace(target, ignored=torch.zeros_like(target.ignored)) for target in withheld)
    assert detector(replace(batch, targets=taught), LOSSES).task_loss.total != plain.total


def test_pixels_in_the_padding_are_never_seen(detector: Detector, batch: Batch) -> None:
    noisy = torch.rand(batch.images.shape, generator=torch.Generator().manual_seed(9)) * 50
    for image, (height, width) in enumerate(batch.sizes):
        noisy[image, :, :height, :width] = batch.images[image, :, :height, :width]
    assert not torch.equal(noisy, batch.images)
    clean, spoilt = (detector(one, SEEN) for one in (batch, replace(batch, images=noisy)))
    assert all(map(torch.equal, leaves_of(clean), leaves_of(spoilt)))
    assert torch.equal(clean.task_loss.total, spoilt.task_loss.total)


def test_image_losses_are_each_image_alone(detector: Detector, batch: Batch) -> None:
    together = detector(batch, LOSSES).task_loss
    count, levels = len(batch), len(detector.spec.pyramid.strides)
    assert together.strides == detector.spec.pyramid.strides
    for name, values in per_image(together).items():
        assert tuple(values.shape) == ((count, levels) if name in ("classification", "box") else (count,)), name
        assert (values >= 0).all()
    assert (together.roi_classification is not None) == (together.roi_box is not None) == detector.spec.two_stage
    for index in range(count):
        alone = detector(batch.image(index), LOSSES).task_loss
        for name, values in per_image(alone).items():
            torch.testing.assert_close(per_image(together)[name][index : index + 1], values, rtol=1e-5, atol=1e-6)
        summed = sum(values.sum() for values in per_image(alone).values())
        torch.testing.assert_close(summed, alone.total, rtol=1e-5, atol=1e-6)


def test_an_image_draws_by_its_own_seed(detector: Detector, batch: Batch) -> None:
    first = detector(batch, LOSSES).task_loss
    torch.manual_seed(123)
    assert torch.equal(first.total, detector(batch, LOSSES).task_loss.total)
    other = detector(replace(batch, seeds=(999, *batch.seeds[1:])), LOSSES).task_loss
    assert torch.equal(first.classification[1:], other.classification[1:])


def test_detections_are_inside_the_image_and_best_first(family: str, batch: Batch) -> None:
    detector = tiny_student(family, score_threshold=0.0).eval()
    with torch.no_grad():
        found = detector.detect(batch)
        again = detector.detect(batch.image(1))
    assert len(found) == len(batch)
    for (height, width), one in zip(batch.sizes, found, strict=True):
        assert 0 < len(one.boxes) <= 15
        assert one.boxes.shape[1:] == (4,)
        assert len(one.scores) == len(one.labels) == len(one.boxes)
        assert (one.boxes >= 0).all()
        assert (one.boxes <= torch.tensor([width, height, width, height])).all()
        assert (one.boxes[:, 2:] >= one.boxes[:, :2]).all()
        assert ((one.scores >= 0) & (one.scores <= 1)).all()
        assert torch.equal(one.scores, one.scores.sort(descending=True).values)
        assert one.labels.dtype == torch.int64
        assert ((one.labels >= 0) & (one.labels < len(CLASSES))).all()
    torch.testing.assert_close(found[1].boxes, again[0].boxes, rtol=1e-4, atol=1e-3)


def test_a_threshold_keeps_the_better_detections(family: str, batch: Batch) -> None:
    loose = tiny_student(family, score_threshold=0.0).eval()
    with torch.no_grad():
        scores = loose.detect(batch)[0].scores
        threshold = float(scores.median())
        strict = tiny_student(family, score_threshold=threshold).eval()
        kept = strict.detect(batch)[0].scores
    assert (kept > threshold).all()
    assert len(kept) < len(scores)


def test_weights_travel_by_state_dict_and_by_file(
    family: str, detector: Detector, batch: Batch, tmp_path: Path
) -> None:
    expected = detector(batch, SEEN)
    other = tiny_student(family, seed=5).eval()
    assert not torch.equal(other(batch, SEEN).pyramid.levels[0], expected.pyramid.levels[0])
    other.load_state_dict(detector.state_dict(), strict=True)
    save_detector(detector, tmp_path, image={"short_side": 96, "long_side": 128})
    loaded = load_detector(tmp_path)
    assert loaded.report.fraction == 1.0
    assert loaded.class_names == CLASSES
    assert loaded.detector.spec == detector.spec
    for copied in (other, loaded.detector.eval(), copy.deepcopy(detector)):
        seen = copied(batch, SEEN)
        assert all(map(torch.equal, leaves_of(seen), leaves_of(expected)))
        assert torch.equal(seen.task_loss.total, expected.task_loss.total)


def test_torchvisions_model_in_a_loaded_student_finds_the_same_boxes(family: str, tmp_path: Path) -> None:
    detector = tiny_student(family, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), score_threshold=0.0)
    size = ImageSettings(short_side=72, long_side=120, pad_multiple=64)
    save_detector(detector, tmp_path, image=asdict(size))
    student = load_detector(tmp_path).detector.eval()
    if not hasattr(student, "model"):
        return
    pixels = torch.randint(0, 256, (3, 131, 190), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    empty = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    resized, targets = transform_sample(pixels, empty, settings=size)
    shape = (int(resized.shape[1]), int(resized.shape[2]))
    sample = Sample(resized, targets, size=shape, stored_size=(131, 190), image_id=1, seed=0)
    (ours,) = detect_split(student, [collate([sample], pad_multiple=size.pad_multiple)], device="cpu")
    with torch.no_grad():
        (theirs,) = student.model([pixels / 255])
    first = 1 if student.spec.two_stage else 0  # torchvision counts the background
    assert len(ours.scores) > 5
    torch.testing.assert_close(theirs["scores"], torch.from_numpy(ours.scores))
    torch.testing.assert_close(theirs["boxes"], torch.from_numpy(ours.boxes), atol=1e-3, rtol=1e-4)
    assert torch.equal(theirs["labels"], torch.from_numpy(ours.labels) + first)


def test_it_says_which_tensors_are_the_classes_and_which_the_backbones(family: str) -> None:
    """Of the classes it may say nothing, but nothing wrong."""
    fewer, detector = (tiny_student(family, classes=CLASSES[:count]) for count in (2, 3))
    tensors, rows = detector.state_dict(), detector.class_rows()
    depending = {name for name, tensor in fewer.state_dict().items() if tensor.shape != tensors[name].shape}
    assert set(rows) in (depending, set())
    for name, labels in rows.items():
        assert len(labels) == len(tensors[name])
        assert set(labels) - {BACKGROUND_ROW, UNUSED_ROW} == {0, 1, 2}
    backbone = {name for name in tensors if detector.in_backbone(name)}
    assert backbone < set(tensors) - depending


def test_the_same_seed_gives_the_same_weights_and_no_global_number_is_drawn(family: str) -> None:
    before = torch.get_rng_state()
    first, second, third = (tiny_student(family, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)


@pytest.mark.parametrize(("norm", "freeze_stages"), [("frozen", 0), ("batch", 2), ("frozen", 2)])
def test_what_is_frozen_stays_so_through_training(family: str, norm: str, freeze_stages: int, batch: Batch) -> None:
    detector = awake(tiny_student(family, norm=norm, freeze_stages=freeze_stages).eval())
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    one_step(detector, batch)
    moved = {name for name, tensor in detector.state_dict().items() if not torch.equal(tensor, before[name])}
    trained = {name for name, p in detector.named_parameters() if p.requires_grad}
    statistics = {name for name in before if "running_" in name or "num_batches" in name}
    assert trained <= moved
    if norm == "frozen":
        assert moved == trained
    else:
        # Past the frozen stages both weights and statistics of batch-norm live.
        assert moved == trained | (moved & statistics)
        assert moved & statistics
    # The backbone's stages that moved: with 2 frozen stages none up to stride 8.
    stages = {name.split(".body.")[1].split(".")[0] for name in moved if ".body." in name}
    deep, shallow = {"layer3", "layer4"}, {"conv1", "layer1", "layer2"}
    assert deep <= stages
    assert not (shallow & stages) if freeze_stages else shallow <= stages


def test_group_norm_leaves_no_statistics(family: str) -> None:
    detector = tiny_student(family, norm="group")
    assert not [name for name in detector.state_dict() if "running_" in name]
