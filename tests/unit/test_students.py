"""Saving and loading a detector, the load report, and every way in which a file can be wrong."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from detdistill.detectors.catalogue import FAMILIES, build_detector, parse_detector
from detdistill.detectors.load_report import (
    LoadReport,
    ShapeMismatch,
    load_tensors,
    require_finite,
)
from detdistill.errors import ConfigError
from detdistill.store.layout import DESCRIPTION, WEIGHTS
from detdistill.store.students import load_detector, save_detector
from scenes_in_memory import SMALLEST

CLASSES = ("car", "traffic light")
IMAGE = {"short_side": 96, "long_side": 160, "pad_multiple": 32}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "run" / "checkpoints" / "step_000600"
    detector = build_detector(parse_detector("fcos/tiny"), CLASSES, seed=3)
    save_detector(detector, folder, image=IMAGE, extra={"step": 600})
    (folder.parent / "latest.json").write_text('{"checkpoint": "step_000600"}')
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def edit(folder: Path, **changes: object) -> None:
    path = folder / DESCRIPTION
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("name", SMALLEST)
def test_round_trip_is_bit_equal_for_every_family(name: str, tmp_path: Path) -> None:
    detector = build_detector(parse_detector(name), CLASSES, seed=3)
    save_detector(detector, tmp_path, image=IMAGE, extra={"step": 7})
    loaded = load_detector(tmp_path)
    wanted, got = detector.state_dict(), loaded.detector.state_dict()
    assert list(wanted) == list(got)
    assert all(torch.equal(wanted[key], got[key]) for key in wanted)
    assert loaded.detector.spec == detector.spec
    assert loaded.detector.settings == detector.settings
    assert loaded.class_names == CLASSES
    assert loaded.image == IMAGE
    assert loaded.extra == {"step": 7}
    assert loaded.report.fraction == 1.0
    assert loaded.report.text() == f"matched {len(wanted)} of {len(wanted)} tensors (100 %)"
    assert sorted(path.name for path in tmp_path.iterdir()) == [DESCRIPTION, WEIGHTS]


def test_loading_leaves_the_global_generator_and_fetches_nothing(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pretrained"
    detector = load_detector(saved).detector
    assert detector.settings is not None
    detector.settings = replace(detector.settings, pretrained=True)
    save_detector(detector, folder, image=IMAGE)
    state = torch.get_rng_state()
    loaded = load_detector(folder)
    assert torch.equal(torch.get_rng_state(), state)
    assert loaded.detector.settings is not None
    assert loaded.detector.settings.pretrained is None


@pytest.mark.parametrize("up", [0, 1, 2])
def test_checkpoint_its_folder_and_the_run_are_all_accepted(saved: Path, up: int) -> None:
    path = [saved, *saved.parents][up]
    assert load_detector(path).report.source == str(saved / WEIGHTS)


def test_the_file_itself_is_accepted(saved: Path) -> None:
    assert load_detector(saved / WEIGHTS).extra == {"step": 600}


def test_shared_and_strided_tensors_are_saved_as_they_are(tmp_path: Path) -> None:
    detector = build_detector(parse_detector("fcos/tiny"), CLASSES, seed=3)
    weights = [p for p in detector.parameters() if p.ndim == 4 and p.shape[0] == p.shape[1]]
    first, second = weights[:2]
    second.data = first.data if second.shape == first.shape else second.data
    strided = weights[-1]
    strided.data = strided.data.transpose(0, 1)
    assert not strided.is_contiguous()
    save_detector(detector, tmp_path, image=IMAGE)
    got = load_detector(tmp_path).detector.state_dict()
    assert all(torch.equal(tensor, got[name]) for name, tensor in detector.state_dict().items())


def test_missing_path_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere must be a run folder, a checkpoint or a .*got nothing there"):
        load_detector(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"must hold student\.safetensors or checkpoints/latest\.json, got a folder"):
        load_detector(tmp_path)


def test_another_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"model\.pth must be a student\.safetensors .*torchvision:NAME=FILE"):
        load_detector(path)


@pytest.mark.parametrize("content", ['{"checkpoint": "../step"}', '{"checkpoint": ""}', "[]", '{"other": 1}'])
def test_latest_that_names_no_checkpoint(tmp_path: Path, content: str) -> None:
    (tmp_path / "latest.json").write_text(content)
    with pytest.raises(ConfigError, match=r"latest\.json must name a checkpoint beside it"):
        load_detector(tmp_path)


def test_latest_that_names_a_checkpoint_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "latest.json").write_text('{"checkpoint": "step_000001"}')
    with pytest.raises(ConfigError, match=r"step_000001.*which latest\.json names, must be a file, got nothing"):
        load_detector(tmp_path)


def test_missing_description(copy: Path) -> None:
    (copy / DESCRIPTION).unlink()
    with pytest.raises(ConfigError, match=r"student\.json must be a readable file"):
        load_detector(copy)


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": "other/1"}', '{"format": 3}'])
def test_not_ours(copy: Path, content: str) -> None:
    (copy / DESCRIPTION).write_text(content)
    with pytest.raises(ConfigError, match=r"must describe a detector that detdistill saved, got format"):
        load_detector(copy)


def test_wrong_version(copy: Path) -> None:
    edit(copy, format="detdistill-student/3")
    message = r"must have the format detdistill-student/1 or detdistill-student/2, got detdistill-student/3\. Use"
    with pytest.raises(ConfigError, match=message):
        load_detector(copy)


@pytest.mark.parametrize("name", SMALLEST)
def test_descriptions_of_the_first_version_hold_the_keys_of_every_family(name: str, tmp_path: Path) -> None:
    detector = build_detector(parse_detector(name), CLASSES, seed=3)
    save_detector(detector, tmp_path, image=IMAGE)
    written = json.loads((tmp_path / DESCRIPTION).read_text())
    assert written["format"] == "detdistill-student/2"
    assert {*written["detector"]} == {*FAMILIES[detector.settings.family].keys}
    everything = {"head_norm": "none", "box_bins": 17, "centre_radius": 1.5, "anchor_ratios": [0.5], "roi_samples": 512}
    old = {**everything, "positive_iou": 0.5, "candidates_per_level": 1000, **written["detector"]}
    edit(tmp_path, format="detdistill-student/1", detector=old)
    assert load_detector(tmp_path).detector.settings == detector.settings
    edit(tmp_path, format="detdistill-student/1", detector={**old, "roi_sampels": 7})
    with pytest.raises(ConfigError, match=r"must have known keys, got 'roi_sampels'\."):
        load_detector(tmp_path)
    edit(tmp_path, format="detdistill-student/2", detector=old)
    with pytest.raises(ConfigError, match=r"must have known keys, got '"):
        load_detector(tmp_path)


@pytest.mark.parametrize("change", [{"detector": 3}, {"class_names": []}, {"class_names": [1]}, {"image": None}])
def test_description_with_something_missing(copy: Path, change: dict[str, object]) -> None:
    edit(copy, **change)
    with pytest.raises(ConfigError, match=r"must hold detector, class_names and image, got"):
        load_detector(copy)


def test_an_image_size_or_a_setting_that_cannot_be_names_the_file(copy: Path) -> None:
    edit(copy, image={"short_side": 96})
    with pytest.raises(ConfigError, match=r"student\.json: image: long_side must be given, got nothing"):
        load_detector(copy)
    edit(copy, image=IMAGE, detector={**parse_detector("fcos/tiny").to_dict(), "mean": [123.675, 116.28, 103.53]})
    with pytest.raises(ConfigError, match=r"student\.json: student\.mean must be .* 255: student\.mean=\[0\.485,"):
        load_detector(copy)


def test_unknown_family(copy: Path) -> None:
    edit(copy, detector={"family": "fco", "backbone": "test_resnet"})
    with pytest.raises(ConfigError, match=r"family in .* must be one of .*got 'fco'\. Did you mean 'fcos'\?"):
        load_detector(copy)


@pytest.mark.parametrize("keep", [0, 4, 300, 0.5, 0.999])
def test_truncated_weights(copy: Path, keep: float) -> None:
    path = copy / WEIGHTS
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep >= 1 else keep * len(content))])
    with pytest.raises(ConfigError, match=r"must be a whole safetensors file.*copy it anew"):
        load_detector(copy)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(copy: Path, value: float) -> None:
    tensors = load_file(copy / WEIGHTS)
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    tensors[name].view(-1)[0] = value
    save_file(tensors, copy / WEIGHTS)
    with pytest.raises(ConfigError, match=r"must hold finite weights, got NaN or infinity in .*diverged"):
        load_detector(copy)


def test_other_tensors_are_an_error_unless_allowed_by_name(copy: Path) -> None:
    tensors = load_file(copy / WEIGHTS)
    names = [name for name in tensors if name.endswith("cls_logits.weight")]
    del tensors[names[0]]
    tensors["teacher.weight"] = torch.zeros(2)
    save_file(tensors, copy / WEIGHTS)
    with pytest.raises(
        ConfigError, match=r"must fit the model tensor by tensor, got:\nmatched \d+ of \d+ tensors \(9\d %\)"
    ):
        load_detector(copy)
    with pytest.raises(ConfigError, match=r"unexpected \(1\): teacher\.weight"):
        load_detector(copy, allow=frozenset({names[0]}))
    report = load_detector(copy, allow=frozenset({names[0], "teacher."})).report
    assert report.missing == (names[0],)
    assert report.unexpected == ("teacher.weight",)
    assert report.fraction < 1


def test_class_names_that_do_not_fit_the_weights(copy: Path) -> None:
    edit(copy, class_names=["car", "traffic light", "cow"])
    with pytest.raises(ConfigError, match=r"other shape .*cls_logits.* in the file"):
        load_detector(copy)


def test_a_detector_without_settings_cannot_be_saved(saved: Path, tmp_path: Path) -> None:
    detector = load_detector(saved).detector
    detector.settings = None
    with pytest.raises(ConfigError, match=r"must be built from DetectorSettings, got fcos/test_resnet"):
        save_detector(detector, tmp_path, image=IMAGE)
    assert not list(tmp_path.iterdir())


def test_report_lists_the_first_few_and_never_rounds_up_to_100() -> None:
    report = LoadReport("f", matched=tuple(f"m{i}" for i in range(999)), missing=("a",))
    assert report.text() == "matched 999 of 1000 tensors (99 %)\n  missing (1): a"
    report = LoadReport(
        "f",
        matched=(),
        unexpected=tuple("abcdefg"),
        mismatched=(ShapeMismatch("x", (2,), (3, 4)),),
    )
    assert report.text() == (
        "matched 0 of 1 tensors (0 %)\n"
        "  unexpected (7): a, b, c, d, e, and 2 more\n"
        "  other shape (1): x (2,) in the file, (3, 4) here"
    )
    assert LoadReport("f", matched=()).fraction == 1.0


def test_report_refuses_to_allow_everything() -> None:
    with pytest.raises(ConfigError, match=r"must be the beginning of a name, got an empty one"):
        LoadReport("f", matched=("a",), missing=("b",)).require_complete(allow=frozenset({""}))


def test_load_tensors_says_which_matched_and_leaves_the_rest_alone() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = module[0].weight.detach().clone()
    given = {name: torch.full_like(tensor, 7) for name, tensor in module.state_dict().items()}
    given["0.weight"] = torch.zeros(3, 5)
    del given["1.bias"]
    given["2.weight"] = torch.zeros(1)
    report = load_tensors(module, given, source="x")
    assert report.mismatched == (ShapeMismatch("0.weight", (3, 5), (3, 2)),)
    assert report.missing == ("1.bias",)
    assert report.unexpected == ("2.weight",)
    assert report.matched == ("0.bias", "1.weight", "1.running_mean", "1.running_var", "1.num_batches_tracked")
    assert torch.equal(module[0].weight, before)
    assert torch.equal(module[0].bias, torch.full((3,), 7.0))
    assert report.wanted == len(module.state_dict()) == 7
    # No hook stays behind.
    assert load_tensors(module, module.state_dict(), source="x").fraction == 1.0
    with pytest.raises(RuntimeError, match="size mismatch"):
        module.load_state_dict(given, strict=False)


def test_current_names_are_not_renamed_as_old_ones() -> None:
    # torchvision's RetinaNet head renames conv.2 to conv.1.0 in files that carry no versions, as safetensors.
    detector = build_detector(parse_detector("retinanet/tiny"), CLASSES, seed=3)
    plain = dict(detector.state_dict())
    assert load_tensors(detector, plain, source="x", current=True).fraction == 1.0
    assert load_tensors(detector, plain, source="x").fraction < 1.0


def test_finite_check_skips_counters() -> None:
    require_finite({"steps": torch.tensor(3), "empty": torch.zeros(0)}, source="x")
