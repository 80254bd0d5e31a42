"""transformers' detectors as ours: what they show is what transformers computes, and every promise of a detector."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detdistill.detectors.base import BACKGROUND_ROW
from detdistill.detectors.catalogue import build_detector, parse_detector
from detdistill.detectors.families.hf import HFSettings
from detdistill.detectors.hf.detector import HFDetector
from detdistill.detectors.hf.presets import PRESETS
from detdistill.detectors.suppression import sorted_out
from detdistill.errors import CapabilityError, ConfigError
from detdistill.jobs.export import export_job
from detdistill.store.students import load_detector, save_detector
from detdistill.types import Batch, ClassKind, Need, Pyramid
from scenes_in_memory import CLASSES, scene_batch

pytest.importorskip("transformers")

# RT-DETR of the first version goes the way of the second.
TINY = ("rtdetr_v2_tiny", "d_fine_tiny", "detr_tiny", "deformable_detr_tiny")
WHOLE = ("conditional_detr_tiny", "dab_detr_tiny", "table_transformer_tiny")
STRIDES = {"deformable_detr_tiny": (8, 16, 32, 64), **dict.fromkeys(("detr_tiny", *WHOLE), (32,))}
SCORED = ("rtdetr_v2_tiny", "d_fine_tiny")
LOSSES = frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES})
SEEN = LOSSES | {Need.CLASS_LOGITS, Need.QUERIES}


def built(name: str, *, seed: int = 0, **changes: Any) -> HFDetector:
    settings = replace(parse_detector(f"hf:{name}"), **changes)
    detector = build_detector(settings, CLASSES, seed=seed)
    assert isinstance(detector, HFDetector)
    return detector


@pytest.fixture(scope="module", params=TINY + WHOLE)
def detector(request: pytest.FixtureRequest) -> HFDetector:
    """In eval mode, with statistics as after a batch; tests leave it as it is."""
    made = built(request.param)
    with torch.no_grad():
        made.train()(scene_batch(), SEEN)
    return made.eval()


@pytest.fixture(scope="module")
def batch() -> Batch:
    return scene_batch()


def kind_of(detector: HFDetector) -> str:
    return str(detector.settings.name).removeprefix("hf:")


def parts_of(loss: Any) -> list[Tensor]:
    named = (loss.classification, loss.box, loss.roi_classification, loss.roi_box, *loss.other.values())
    return [one for one in named if one is not None]


@pytest.mark.parametrize("grid", [(96, 128), (70, 101)])
def test_the_spec_is_what_the_maps_are(detector: HFDetector, grid: tuple[int, int]) -> None:
    with torch.no_grad():
        seen = detector(scene_batch(sizes=(grid,) * 3, grid=grid), SEEN)
    layout, strides = detector.spec.maps, STRIDES.get(kind_of(detector), (8, 16, 32))
    assert seen.maps.strides == layout.strides == strides
    cells = [(math.ceil(grid[0] / stride), math.ceil(grid[1] / stride)) for stride in strides]
    assert [tuple(level.shape) for level in seen.maps.levels] == [(3, layout.channels, *one) for one in cells]
    assert (seen.class_logits is not None) == (kind_of(detector) in SCORED)
    if seen.class_logits is not None:
        assert [tuple(level.shape) for level in seen.class_logits.levels] == [(3, 1, 3, *one) for one in cells]
    queries, said = seen.queries, detector.spec.queries
    columns = len(CLASSES) + (said.kind is ClassKind.SOFTMAX)
    assert queries.kind is said.kind
    assert tuple(queries.logits.shape) == (3, said.count, columns)
    assert tuple(queries.boxes.shape) == (3, said.count, 4)


def test_it_says_what_transformers_own_forward_says(detector: HFDetector, batch: Batch) -> None:
    """Taken apart into maps and queries, a model says what it says as a whole: logits, boxes and loss."""
    require_same(detector, batch)


def test_the_first_version_says_what_transformers_own_forward_says(batch: Batch) -> None:
    require_same(built("rtdetr_tiny").eval(), batch)


def require_same(detector: HFDetector, batch: Batch) -> None:
    labels = detector._labels(batch)
    inside = detector._inside(batch)
    with torch.no_grad():
        ours = detector(batch, SEEN)
        own_mask = {"pixel_mask": inside} if detector.parts.own_frame else {}
        theirs = detector.model(pixel_values=detector._pixels(batch), labels=labels, **own_mask)
    torch.testing.assert_close(ours.queries.logits, theirs.logits, rtol=1e-4, atol=1e-4)
    shares = detector._in_pixels(theirs.pred_boxes, batch)
    torch.testing.assert_close(ours.queries.boxes, shares, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(ours.task_loss.total, theirs.loss, rtol=1e-4, atol=1e-4)


def test_image_losses_are_each_image_alone(detector: HFDetector, batch: Batch) -> None:
    with torch.no_grad():
        together = detector(batch, LOSSES).task_loss
        for index in range(len(batch)):
            alone = detector(batch.image(index), LOSSES).task_loss
            torch.testing.assert_close(sum(one.sum() for one in parts_of(alone)), alone.total, rtol=1e-5, atol=1e-5)
            for ours, whole in zip(parts_of(alone), parts_of(together), strict=True):
                assert (ours >= 0).all()
                torch.testing.assert_close(whole[index : index + 1], ours, rtol=1e-3, atol=1e-4)
    assert together.roi_classification.sum() > 0
    assert together.roi_box.sum() > 0


def test_what_is_asked_for_is_answered_and_nothing_else(detector: HFDetector, batch: Batch) -> None:
    with torch.no_grad():
        pyramid = detector.extract(batch)
        alone = detector.observe(pyramid, batch, frozenset({Need.QUERIES}))
        loss = detector.observe(pyramid, batch, frozenset({Need.TASK_LOSS}))
    assert alone.pyramid is pyramid
    assert alone.task_loss is None
    assert alone.class_logits is None
    assert loss.queries is None
    assert loss.task_loss.roi_box is None


def test_heads_read_any_maps_of_the_layout(detector: HFDetector, batch: Batch) -> None:
    own = detector.extract(batch)
    foreign = Pyramid(tuple(torch.rand_like(level).requires_grad_() for level in own.levels), own.strides)
    if not detector.parts.reads_maps:
        with pytest.raises(CapabilityError, match=r"must be its own, as it runs as a whole, got others"):
            detector.observe(foreign, batch, LOSSES)
        return
    total = detector.observe(foreign, batch, LOSSES).task_loss.total
    gradients = torch.autograd.grad(total, foreign.levels)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_pixels_in_the_padding_are_never_seen(detector: HFDetector, batch: Batch) -> None:
    spoilt = batch.images.clone()
    for image, (height, width) in enumerate(batch.sizes):
        spoilt[image, :, height:] = 7.0
        spoilt[image, :, :, width:] = 7.0
    with torch.no_grad():
        ours, theirs = (detector(one, SEEN) for one in (batch, replace(batch, images=spoilt)))
    assert torch.equal(ours.queries.logits, theirs.queries.logits)
    assert torch.equal(ours.task_loss.total, theirs.task_loss.total)


def test_detections_are_inside_the_image_and_best_first(detector: HFDetector, batch: Batch) -> None:
    detector._least, detector._most = 0.0, 15
    with torch.no_grad():
        found = detector.detect(batch)
        alone = detector.detect(batch.image(1))[0]
    for (height, width), one in zip(batch.sizes, found, strict=True):
        assert 0 < len(one.boxes) <= 15
        assert (one.boxes >= 0).all()
        assert (one.boxes <= torch.tensor([width, height, width, height])).all()
        assert torch.equal(one.scores, one.scores.sort(descending=True).values)
        assert torch.equal(one.probabilities.gather(1, one.labels[:, None])[:, 0], one.scores)
    torch.testing.assert_close(found[1].scores, alone.scores, rtol=1e-3, atol=1e-4)


def test_images_without_boxes_cost_something_finite(detector: HFDetector) -> None:
    with torch.no_grad():
        loss = detector(scene_batch(((), ())), LOSSES).task_loss
    assert loss.total.isfinite()
    assert loss.total > 0
    assert loss.roi_box.abs().sum() == 0


def test_weights_travel_by_file_with_the_whole_configuration(
    detector: HFDetector, batch: Batch, tmp_path: Path
) -> None:
    save_detector(detector, tmp_path, image={"short_side": 96, "long_side": 128})
    # Alone, wherever it goes: nothing of it is looked up under the preset's name.
    written = (tmp_path / "student.json").read_text()
    (tmp_path / "student.json").write_text(written.replace(f'"model": "{kind_of(detector)}"', '"model": "another"'))
    loaded = load_detector(tmp_path)
    assert loaded.report.fraction == 1.0
    with torch.no_grad():
        ours, theirs = (one.eval()(batch, SEEN) for one in (detector, loaded.detector))
    assert torch.equal(ours.queries.logits, theirs.queries.logits)
    assert torch.equal(ours.task_loss.total, theirs.task_loss.total)


def test_a_step_reaches_what_learns_and_draws_by_the_batchs_seeds_alone(batch: Batch) -> None:
    """In training, where labels are made noisy: torch's own generator neither decides anything nor moves."""
    detector = built("rtdetr_v2_tiny")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = detector(batch, LOSSES).task_loss
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(first.total, detector(batch, LOSSES).task_loss.total)
    assert not torch.equal(first.total, detector(replace(batch, seeds=(9, 9, 9)), LOSSES).task_loss.total)
    alone = detector(batch.image(0), LOSSES).task_loss
    torch.testing.assert_close(sum(one.sum() for one in parts_of(alone)), alone.total, rtol=1e-5, atol=1e-4)
    first.total.backward()
    assert not [name for name, one in detector.named_parameters() if one.grad is None]


def test_sorted_candidates_are_the_detections(detector: HFDetector, batch: Batch) -> None:
    """What `export` makes a graph of finds what `detect` finds."""
    detector._least, detector._most = 0.0, 15
    with torch.no_grad():
        found = detector.detect(batch)
        candidates = detector.candidates(batch, torch.tensor(batch.sizes))
    assert candidates.boxes.shape[:2] == candidates.scores.shape[:2] == (3, detector.spec.queries.count)
    _, scores, _, counts = sorted_out(candidates, detector.limits())
    assert counts.tolist() == [len(one.scores) for one in found]
    for row, one in enumerate(found):
        torch.testing.assert_close(scores[row, : counts[row]], one.scores)
        # A fresh model's scores are often equal, in whatever order: every box is a query's that says this score of it.
        near = (candidates.boxes[row][:, None] - one.boxes).abs().amax(dim=2) < 1e-3
        alike = (candidates.scores[row][:, one.labels] - one.scores).abs() < 1e-5
        assert (near & alike).any(dim=0).all()


def test_a_graph_of_one_size_says_why() -> None:
    config = {"two_stage": True, "with_box_refine": True, "two_stage_num_proposals": 20}
    assert built("deformable_detr_tiny", config=config).one_size == "whose first stage counts the cells of one size"
    assert built("conditional_detr_tiny").one_size == "whose model runs as a whole"
    assert not built("deformable_detr_tiny").one_size


def test_a_detector_of_one_size_is_told_to_have_one(tmp_path: Path) -> None:
    save_detector(built("conditional_detr_tiny"), tmp_path / "run", image={"short_side": 64, "long_side": 96})
    with pytest.raises(CapabilityError, match=r"any size, got hf:conditional.*runs as a whole\. Add --size 96 96\.$"):
        export_job(str(tmp_path / "run"), out=tmp_path / "model.onnx")


@pytest.mark.parametrize("name", ["rtdetr_v2_tiny", "detr_tiny"])
def test_a_fresh_model_tells_its_queries_apart(name: str, batch: Batch) -> None:
    """transformers draws RT-DETR's batch-norm scales around 0, and all queries of such a model say the same."""
    detector = built(name)
    with torch.no_grad():
        maps = detector.extract(batch)
    assert min(float(level.std()) for level in maps.levels) > 0.1
    scales = [one.weight for one in detector.modules() if isinstance(one, nn.BatchNorm2d)]
    assert scales
    assert all(torch.equal(one, torch.ones_like(one)) for one in scales)


@pytest.mark.parametrize("name", ["rtdetr_v2_tiny", "detr_tiny"])
def test_the_backbones_norms_learn_or_are_frozen_as_asked(name: str, batch: Batch) -> None:
    learning, frozen = built(name), built(name, norm="frozen")
    for detector, learns in ((learning, True), (frozen, False)):
        norms = [
            one for key, one in detector.named_modules() if "backbone" in key and "BatchNorm" in type(one).__name__
        ]
        assert norms
        assert all(isinstance(one, nn.BatchNorm2d) is learns for one in norms)
        shares = [one.requires_grad for key, one in detector.named_parameters() if detector.in_backbone(key)]
        assert all(shares) or not learns
    shared = frozen.state_dict().keys() & learning.state_dict().keys()
    assert learning.state_dict().keys() - shared == {
        key for key in learning.state_dict() if key.endswith("num_batches_tracked") and "backbone" in key
    }


def test_rows_of_class_layers_are_known(detector: HFDetector) -> None:
    rows = detector.class_rows()
    state = detector.state_dict()
    assert rows
    for name, labels in rows.items():
        assert len(labels) == state[name].shape[0]
        assert labels[:3] == (0, 1, 2)
        assert labels[3:] in ((), (BACKGROUND_ROW,))
    grown = replace(detector.settings, config={**detector.settings.config, "num_labels": 4})
    other = build_detector(grown, (*CLASSES, "tram"), seed=0).state_dict()
    assert {name for name, one in state.items() if other[name].shape != one.shape} == set(rows)


def test_slots_choose_the_models_own_classes(batch: Batch) -> None:
    """A model of more classes than ours, as DETR's with its unnamed ones: theirs count as no object."""
    named = parse_detector("hf:detr_tiny")
    whole = build_detector(replace(named, config={"num_labels": 5}), tuple("abcde"), seed=0).eval()
    ours = build_detector(replace(named, config={"num_labels": 5}, slots=(3, 1)), ("d", "b"), seed=0).eval()
    with torch.no_grad():
        all_shares, some = (one(batch, frozenset({Need.QUERIES})).queries.logits.softmax(-1) for one in (whole, ours))
    torch.testing.assert_close(some[..., :2], all_shares[..., [3, 1]])
    torch.testing.assert_close(some[..., 2], all_shares[..., [0, 2, 4, 5]].sum(-1))


def test_what_is_not_finite_is_a_loss_that_is_not() -> None:
    """transformers' matching raises where boxes are not finite; a run leaves such a step out or stops in words."""
    detector = built("detr_tiny").eval()
    with torch.no_grad():
        detector.model.bbox_predictor.layers[-1].bias.fill_(float("nan"))
        loss = detector(scene_batch(), LOSSES).task_loss
    assert loss.total.isnan()


def test_a_configuration_is_changed_by_its_keys() -> None:
    detector = built("rtdetr_v2_tiny", config={"num_queries": 12, "decoder_layers": 3})
    assert detector.spec.queries.count == 12
    assert detector.settings.config["decoder_layers"] == 3
    assert detector.settings.config["d_model"] == 32


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_querries": 12}, "student.config must have keys of rt_detr_v2's configuration, got 'num_querries'"),
        (
            {"num_queries": -1},
            "student.config must fit together as .*, got: -1 queries, of which it can have 1 to 10000",
        ),
        ({"num_queries": 10**9}, "student.config must fit together as .*, got: 1000000000 queries, of which it can"),
        ({"d_model": "wide"}, "student.config must fit together as a configuration of rt_detr_v2, got"),
        ({"decoder_in_channels": [1, 2, 3]}, "student.config must fit together as a configuration of rt_detr_v2, got"),
    ],
)
def test_a_configuration_that_is_none_is_refused_in_a_sentence(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        built("rtdetr_v2_tiny", config=changes)


def test_images_of_fewer_cells_than_queries_are_refused_in_a_sentence() -> None:
    detector = built("rtdetr_v2_tiny").eval()
    with pytest.raises(
        ConfigError, match=r"must have at least as many .* 30, .* got 21. Set student.config.num_queries=21"
    ):
        detector(scene_batch(((),), sizes=((32, 32),), grid=(32, 32)), LOSSES)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'rtdetr_v2_small'"):
        parse_detector("hf:rtdetr_v2_smal")


def test_every_preset_is_a_name_that_is_read_again() -> None:
    for name in PRESETS:
        settings = parse_detector(f"hf:{name}")
        assert isinstance(settings, HFSettings)
        assert settings.name == f"hf:{name}"
        assert parse_detector(settings.name) == settings
