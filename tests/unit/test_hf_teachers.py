"""transformers' detectors with weights, from folders that save_pretrained wrote."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.ops import clip_boxes_to_image

from detdistill import describe_methods, profile
from detdistill.detectors.base import Detector
from detdistill.detectors.catalogue import build_detector, parse_detector
from detdistill.detectors.checking import check_detector
from detdistill.detectors.frozen import FrozenTeacher, digest
from detdistill.detectors.hf.boxes import BOXES_ALONE
from detdistill.detectors.hf.presets import _hgnet
from detdistill.detectors.hf_teachers import load_hf
from detdistill.detectors.inherit import initialise
from detdistill.detectors.preprocess import normaliser_of
from detdistill.distillation.step import DistillationStep
from detdistill.errors import CapabilityError, ConfigError
from detdistill.jobs.doors import door_of
from detdistill.jobs.opening import open_detector
from detdistill.methods.catalogue import build_recipe
from detdistill.store.students import load_detector, save_detector
from detdistill.types import Clock, Need
from scenes_in_memory import BOXES, CLASSES, scene_batch, tiny_student
from watched_jobs import Watcher

pytest.importorskip("transformers")

QUERIES = frozenset({Need.QUERIES})
SEEN = frozenset({Need.QUERIES, Need.TASK_LOSS})
PROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.4],
    "size": {"height": 96, "width": 128},
}


def saved(name: str, folder: Path, *, processor: dict[str, Any] | None = None) -> Detector:
    """A detector of random weights, as transformers saves it, in eval mode."""
    detector: Any = build_detector(parse_detector(f"hf:{name}"), CLASSES, seed=0).eval()
    detector.model.config.id2label = dict(enumerate(CLASSES))
    detector.model.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return detector


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An RT-DETR of transformers'."""
    made = tmp_path_factory.mktemp("hf") / "rtdetr"
    saved("rtdetr_v2_tiny", made, processor=PROCESSOR)
    return made


def test_a_folder_is_read_with_its_processors_size_and_pixels(folder: Path) -> None:
    heard = Watcher()
    loaded = open_detector(f"hf:{folder}", progress=heard)
    assert loaded.report.fraction == 1.0
    assert loaded.class_names == CLASSES
    assert loaded.image == {"short_side": 96, "long_side": 128, "pad_multiple": 32}
    mean, std = normaliser_of(loaded.detector).numbers()
    assert mean == pytest.approx((0.4, 0.5, 0.6))
    assert std == pytest.approx((0.2, 0.3, 0.4))
    said = "\n".join(heard.lines)
    assert "matched 485 of 485 tensors (100 %)" in said
    assert "pixels normalised by mean 0.4, 0.5, 0.6 and std 0.2, 0.3, 0.4, as its image processor says" in said
    assert "its image processor stretches images" in said


def test_its_weights_say_the_same_here_and_when_saved_by_us(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForObjectDetection

    loaded: Any = load_hf(f"hf:{folder}").detector.eval()
    own = AutoModelForObjectDetection.from_pretrained(folder).eval()
    batch = scene_batch(sizes=((96, 128),) * 3)
    with torch.no_grad():
        ours = loaded(batch, SEEN)
        theirs = own(pixel_values=loaded._pixels(batch))
        save_detector(loaded, tmp_path, image={})
        again = load_detector(tmp_path).detector.eval()(batch, SEEN)
    torch.testing.assert_close(ours.queries.logits, theirs.logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(ours.queries.logits, again.queries.logits)
    assert torch.equal(ours.task_loss.total, again.task_loss.total)


def test_frozen_norms_stay_frozen_and_start_a_student_that_learns(tmp_path: Path) -> None:
    """A DETR as transformers has it, whose norms and first layers are held; a student of other classes starts there."""
    saved("detr_tiny", tmp_path / "detr")
    loaded = load_hf(f"hf:{tmp_path / 'detr'}").detector
    assert loaded.settings.norm == "frozen"
    student = build_detector(parse_detector(f"hf:{tmp_path / 'detr'}"), ("pedestrian", "tram"), seed=3)
    assert student.settings.norm == "batch"
    report = initialise(student, loaded, name="detr")
    rows = {one.name: (one.taken, one.drawn) for one in report.by_class}
    assert rows["model.class_labels_classifier.weight"] == (("pedestrian",), ("tram",))
    weights, source = (one.model.class_labels_classifier.weight for one in (student, loaded))
    assert torch.equal(weights[0], source[2])
    assert torch.equal(weights[2], source[3])
    assert not [name for name in report.missing if not name.endswith("num_batches_tracked")]


def test_yolos_teaches_and_does_not_learn(tmp_path: Path) -> None:
    from transformers import YolosConfig, YolosForObjectDetection

    sides = {"hidden_size": 32, "intermediate_size": 64, "image_size": [64, 96]}
    config = YolosConfig(num_hidden_layers=2, num_attention_heads=4, num_detection_tokens=20, **sides)
    config.id2label = {0: "N/A", 1: "car", 2: "truck", 3: "pedestrian"}
    own = YolosForObjectDetection(config).eval()
    own.save_pretrained(tmp_path)
    loaded: Any = load_hf(f"hf:{tmp_path}").detector.eval()
    batch = scene_batch(sizes=((96, 128),) * 3)
    with torch.no_grad():
        seen = loaded(batch, SEEN)
        theirs = own(pixel_values=loaded._pixels(batch)).logits
    assert loaded.spec.class_names == CLASSES
    assert tuple(seen.maps.levels[0].shape) == (3, 32, 6, 8)
    shares = theirs.softmax(-1)
    torch.testing.assert_close(seen.queries.logits.softmax(-1)[..., :3], shares[..., 1:4], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen.queries.logits.softmax(-1)[..., 3], shares[..., [0, 4]].sum(-1))
    with pytest.raises(ConfigError, match="must be of a kind that learns here, got yolos"):
        parse_detector(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("cut", "must be whole safetensors files, got one that cannot be read"),
        ("pickle", r"must be model.safetensors, got pytorch_model.bin, a pickle, which can run code"),
        ("none", "must hold model.safetensors, got no weights"),
        (
            "kind",
            r"must be one of rt_detr, rt_detr_v2, .*, table-transformer, yolos, deimv2, .*, got 'bert'",
        ),
        ("shape", "must fit the model tensor by tensor"),
        ("nan", "must hold finite weights, got NaN or infinity in"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(folder: Path, tmp_path: Path, spoil: str, said: str) -> None:
    from safetensors.torch import load_file, save_file

    bad = tmp_path / "bad"
    shutil.copytree(folder, bad)
    weights, config = bad / "model.safetensors", bad / "config.json"
    content = json.loads(config.read_text())
    if spoil == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif spoil == "pickle":
        weights.rename(bad / "pytorch_model.bin")
    elif spoil == "none":
        weights.unlink()
    elif spoil == "kind":
        config.write_text(json.dumps({**content, "model_type": "bert"}))
    else:
        tensors = load_file(weights)
        name = "model.enc_score_head.weight"
        tensors[name] = tensors[name][:1].clone() if spoil == "shape" else tensors[name] * float("nan")
        save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=said):
        load_hf(f"hf:{bad}")


def test_names_that_are_no_folder_are_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match=r"got a path without config\.json"):
        load_hf(f"hf:{tmp_path}")
    with pytest.raises(ConfigError, match="got nothing there"):
        load_hf("hf:/nowhere")
    with pytest.raises(ConfigError, match="must be in the hub's cache or downloadable"):
        load_hf("hf:someone/something")


def test_a_name_of_the_hub_is_read_from_its_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models--me--street"
    shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    named, lying = (load_hf(f"hf:{place}") for place in ("me/street", folder))
    assert named.image == lying.image
    assert digest(named.detector) == digest(lying.detector)
    (row,) = describe_methods(pair=("hf:me/street", "fcos/tiny")).as_dict()["pairs"]
    assert row["methods"]["hint"] is None
    assert profile("hf:me/street", size=(96, 96)).classes == len(CLASSES)


def test_the_door_says_what_a_folder_is_built_from(folder: Path) -> None:
    door = door_of(f"hf:{folder}")
    settings = door.settings(f"hf:{folder}")
    assert settings.name == "hf:rt_detr_v2"
    assert parse_detector(settings.name).kind == "rt_detr_v2"
    assert door.moved(f"hf:{folder}", lambda path: f"/there{path}") == f"hf:/there{folder}"


@pytest.mark.parametrize("name", ["conditional_detr_tiny", "dab_detr_tiny", "table_transformer_tiny"])
def test_models_that_run_as_a_whole_are_read_from_a_folder(name: str, tmp_path: Path) -> None:
    own = saved(name, tmp_path)
    loaded = load_hf(f"hf:{tmp_path}")
    assert loaded.report.fraction == 1.0
    with torch.no_grad():
        ours, theirs = (one.eval()(scene_batch(), SEEN) for one in (loaded.detector, own))
    assert torch.equal(ours.queries.boxes, theirs.queries.boxes)
    assert torch.equal(ours.task_loss.total, theirs.task_loss.total)


HYBRID = {
    "d_model": 32,
    "encoder_hidden_dim": 32,
    "decoder_in_channels": [32] * 3,
    "encoder_in_channels": [32, 64, 128],
    **{f"{part}_ffn_dim": 64 for part in ("encoder", "decoder")},
    **{f"{part}_attention_heads": 4 for part in ("encoder", "decoder")},
    "decoder_layers": 2,
    "num_queries": 30,
}
GROUPS = {"d_model": 32, "num_queries": 10, "group_detr": 2, "decoder_ffn_dim": 64, "decoder_layers": 2}
GROUPS |= {"decoder_self_attention_heads": 2, "decoder_cross_attention_heads": 2}
VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_windows": 4, "patch_size": 16}
READING = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 32}
AS_A_WHOLE: dict[str, dict[str, Any]] = {
    "deimv2": {**HYBRID, "backbone_config": _hgnet(16)},
    "lw_detr": {
        **GROUPS,
        "backbone_config": {"model_type": "lw_detr_vit", **VIT, "image_size": 64, "out_indices": [1, 2]},
        "projector_scale_factors": [1.0],
    },
    "rf_detr": {
        **GROUPS,
        "backbone_config": {"model_type": "rf_detr_dinov2", **VIT, "image_size": 64, "out_indices": [1, 2]},
    },
    "pp_doclayout_v2": {
        **HYBRID,
        "backbone_config": _hgnet(16),
        "class_thresholds": [0.5] * 4,
        "class_order": [0, 1, 2, 3],
        "reading_order_config": {**READING, "num_classes": 4, "coordinate_size": 5, "shape_size": 6},
    },
    "pp_doclayout_v3": {
        **HYBRID,
        "backbone_config": {**_hgnet(16), "out_features": ["stage1", "stage2", "stage3", "stage4"]},
        "x4_feat_dim": 16,
    },
}


def as_a_whole(kind: str, folder: Path, *, processor: dict[str, Any] | None = None) -> Any:
    """One of transformers' models that is not taken apart, of random weights, as it is saved; in eval mode."""
    import transformers

    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(kind, num_labels=4, **AS_A_WHOLE[kind])
        config.id2label = {0: "car", 1: "N/A", 2: "truck", 3: "pedestrian"}
        own = transformers.AutoModelForObjectDetection.from_config(config).eval()
        for name, one in own.named_parameters():
            if "class_embed" in name or "score_head" in name:  # lest nothing is found
                one.data.normal_(std=0.5)
    own.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return own


@pytest.mark.filterwarnings("ignore:.*:UserWarning:transformers.*")
@pytest.mark.parametrize("kind", BOXES_ALONE)
def test_models_that_are_not_taken_apart_say_the_boxes_that_transformers_says(kind: str, tmp_path: Path) -> None:
    """Of images of the size that it stretches to, in the names of its classes, and of others stretched alike."""
    from transformers import RTDetrImageProcessor

    own = as_a_whole(kind, tmp_path, processor={**PROCESSOR, "size": {"height": 64, "width": 128}})
    loaded = load_hf(f"hf:{tmp_path}")
    assert loaded.report.fraction == 1.0
    assert loaded.class_names == CLASSES
    assert loaded.image["short_side"] == 64
    teacher, whole = FrozenTeacher(loaded.detector), scene_batch(BOXES[:1], sizes=((64, 128),), grid=(64, 128))
    (found,) = teacher.detect(whole)
    mean, std = (torch.tensor(PROCESSOR[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
    with torch.no_grad():
        said = own(pixel_values=(whole.images - mean) / std)
    (expected,) = RTDetrImageProcessor().post_process_object_detection(said, threshold=0.05, target_sizes=[(64, 128)])
    named = {0: 0, 2: 1, 3: 2}
    boxes = clip_boxes_to_image(expected["boxes"], (64, 128))
    theirs = [
        (round(float(score), 4), named[int(label)], box)
        for score, label, box in zip(expected["scores"], expected["labels"], boxes, strict=True)
        if int(label) in named
    ]
    assert theirs
    for score, label, box in theirs:
        like = ((found.scores - score).abs() < 1e-3) & (found.labels == label)
        assert float((found.boxes[like] - box).abs().amax(1).min()) < 1e-3
    assert found.probabilities.shape == (len(found.labels), 3)
    # An image that is half as large, beside padding, is stretched to what the model sees.
    half = torch.nn.functional.interpolate(whole.images, scale_factor=0.5, mode="bilinear", antialias=True)
    padded = torch.nn.functional.pad(half, (0, 16, 0, 8))
    (small,) = teacher.detect(replace(whole, images=padded, sizes=((32, 64),), stored_sizes=((32, 64),)))
    assert len(small.boxes)
    assert (small.boxes <= torch.tensor([64.0, 32, 64, 32])).all()
    assert check_detector(loaded.detector, scene_batch(BOXES[:2])).problems == ()


def test_a_model_that_says_boxes_alone_teaches_by_boxes_and_does_not_learn(tmp_path: Path) -> None:
    folder = tmp_path / "lw"
    as_a_whole("lw_detr", folder, processor={**PROCESSOR, "size": {"shortest_edge": 64}})
    with pytest.raises(
        ConfigError, match=r"must be the height and width to which lw_detr has .*, got none\. Write \"size"
    ):
        load_hf(f"hf:{folder}")
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 64, "width": 64}}))
    heard = Watcher()
    teacher = FrozenTeacher(open_detector(f"hf:{folder}", progress=heard).detector)
    assert "it says boxes alone, of images stretched to 64 x 64 pixels" in "\n".join(heard.lines)
    student = tiny_student("fcos")
    step = DistillationStep(
        student, teacher, build_recipe("boxes(score=0.06, doubtful=0.06)", student.spec, teacher.spec)
    )
    assert step(scene_batch(), Clock(0, 1)).parts["boxes.objects"] > 0
    with pytest.raises(
        CapabilityError, match=r"boxes alone, as hf:lw_detr shows nothing else, .* Distil by --method boxes"
    ):
        build_recipe("hint", student.spec, teacher.spec)
    with pytest.raises(
        ConfigError, match=r"must be of a kind that learns here, got lw_detr .*\. Write for example --student"
    ):
        parse_detector(f"hf:{folder}")
    with pytest.raises(ConfigError, match=r"got lw_detr in .*\. Choose a student by --student, without --self\."):
        door_of(f"hf:{folder}").settings(f"hf:{folder}")
    (row,) = describe_methods(pair=(f"hf:{folder}", "fcos/tiny")).as_dict()["pairs"]
    assert [method for method, refused in row["methods"].items() if refused is None] == ["boxes"]
    before = teacher.digest()
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 64, "width": 128}}))
    assert FrozenTeacher(load_hf(f"hf:{folder}").detector).digest() != before
