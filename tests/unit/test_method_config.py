"""Config files and settings: methods made of others, what a recipe does to samples, self-distillation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from detdistill.data.sample_specific import SampleSpecificSettings
from detdistill.detectors.catalogue import build_detector, parse_detector
from detdistill.errors import ConfigError
from detdistill.jobs.config import read_run_config
from detdistill.jobs.settings import RunConfig, StudentChoice, TwinSettings
from detdistill.methods.aid import AIDSettings
from detdistill.methods.catalogue import SumSettings
from detdistill.methods.frs import FRSSettings
from detdistill.store.students import save_detector, saved_settings
from run_files import distil, refusal, run_file

FILE = """
data: {folder: scenes}
student: fcos/tiny
teacher: runs/teacher
method:
  name: frs
  warmup_steps: 7
train: {steps: 12}
out: runs/x
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return run_file(tmp_path, FILE)


# --- methods that are made of others --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "settings"),
    [
        ("frs(warmup_steps=3, relu=true)", "frs", FRSSettings(warmup_steps=3, relu=True)),
        ("aid(frs, alpha=0.5)", "aid", AIDSettings(recipe="frs", alpha=0.5)),
        ("aid(ikd(frs+ssim))", "aid", AIDSettings(recipe="ikd(frs + ssim)")),
        ("frs+ssim( )", "sum", SumSettings(("frs", "ssim"))),
    ],
)
def test_a_methods_text_stands_for_its_keys(tmp_path: Path, file: Path, text: str, name: str, settings: object) -> None:
    written = tmp_path / "written.yaml"
    written.write_text(FILE.replace("method:\n  name: frs\n  warmup_steps: 7\n", f"method: {text}\n"))
    configs = [distil(written), distil(file, f"method={text}"), distil(file, method__name=text)]
    resolved = tmp_path / "config.yaml"
    resolved.write_text(configs[0].yaml())
    for config in [*configs, distil(resolved), distil(resolved, method__name=name)]:
        assert config.method is not None
        assert (config.method.name, config.method.settings) == (name, settings)
    assert distil(resolved) == configs[0]
    assert distil(resolved).yaml() == configs[0].yaml()


def test_settings_reach_the_outer_methods_keys(file: Path) -> None:
    for config in (
        distil(file, "method.alpha=0.25", method__name="aid(frs(relu=true), alpha=0.5, control=true)"),
        distil(file, "method={name: aid, recipe: frs(relu=true), control: true}", "method.alpha=0.25"),
        distil(file, "method.recipe=frs( relu=true )", "method.control=true", "method.alpha=0.25", method__name="aid"),
    ):
        assert config.method is not None
        assert config.method.settings == AIDSettings(recipe="frs(relu=true)", alpha=0.25, control=True)
    method = distil(file, "method.recipes.1=hint", method__name="frs + ssim").method
    assert method is not None
    assert method.settings == SumSettings(("frs", "hint"))


def test_keys_beside_a_text_win_over_it(file: Path) -> None:
    file.write_text(FILE.replace("name: frs\n  warmup_steps: 7", "name: aid(frs, alpha=0.5)\n  alpha: 0.75"))
    method = distil(file).method
    assert method is not None
    assert method.settings == AIDSettings(recipe="frs", alpha=0.75)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method=aid(fsr)"], "The method at position 5 of 'aid(fsr)' must be one of hint, "),
        (["method=frs("], "The method 'frs(' must have key=value at position 5, got the end."),
        (["method=aid(frs, alfa=1)"], "The keys of aid in 'aid(frs, alfa=1)' must be among alpha, "),
        (["method=aid"], "method.recipe must be given, got nothing. Write the method that is wrapped, as in --method"),
        (["method=sum"], "method.recipes must be given, got nothing. Write the methods, as in --method 'frs + ssim'"),
        (["method={name: aid, recipe: fsr}"], "The command line: method.recipe: The method must be one of hint, "),
        (["method={name: aid, recipe: 3}"], "method.recipe must be text, got 3. Change the value."),
        (["method={name: sum, recipes: [frs]}"], "method.recipes must be two methods or more, got ['frs']."),
        (
            ["method={name: sum, recipes: [frs, frs]}"],
            "The command line: method.recipes: The sum 'frs + frs' must",
        ),
        (["method=aid(frs)", "method.alfa=1"], "method.alfa must be a key of method, got the unknown 'alfa'. Did you"),
        (["method=aid(frs)", "method.relu=true"], "got the unknown 'relu'."),
        (["method=aid(frs)", "method.alpha=much"], "method.alpha must be a number, got 'much'."),
        (["twins.fodler=x"], "twins.fodler must be a key of twins, got the unknown 'fodler'. Did you mean 'folder'?"),
        (["inherit=3"], "inherit must be true or false, got 3."),
        (["data.sample_specific.smal_px=3"], "data.sample_specific.smal_px must be a key of data.sample_specific, got"),
        (["data.sample_specific.small_px=-1"], "sample-specific augmentation's small_px must be a finite number of at"),
        (["data.sample_specific_until=2"], "data.sample_specific_until must be between 0 and 1, the share of the run"),
    ],
)
def test_a_composition_that_cannot_be_used_is_refused(file: Path, settings: list[str], message: str) -> None:
    said = refusal(file, *settings)
    assert message in said
    assert "\n" not in said


def test_twins_inheriting_and_augmentation_by_samples(tmp_path: Path, file: Path) -> None:
    plain = distil(file)
    assert (plain.twins, plain.inherit, plain.data.sample_specific) == (TwinSettings(), False, None)
    config = distil(
        file, "twins.folder=cache", "twins.on_the_fly=true", "data.sample_specific.small_px=16", inherit=True
    )
    assert config.twins == TwinSettings(folder=Path("cache"), on_the_fly=True)
    assert config.inherit is True
    assert config.data.sample_specific == SampleSpecificSettings(small_px=16.0)
    assert distil(file, "data.sample_specific={}").data.sample_specific == SampleSpecificSettings()
    resolved = tmp_path / "config.yaml"
    resolved.write_text(config.yaml())
    assert distil(resolved) == config
    alone = read_run_config(resolved, purpose="train")
    assert (alone.twins, alone.inherit, alone.data) == (TwinSettings(), False, config.data)
    assert not {"twins", "inherit"} & alone.as_dict().keys()


# --- self-distillation ----------------------------------------------------------------------------------------------


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    settings = dataclasses.replace(parse_detector("fcos/tiny"), fpn_channels=16, head_depth=1)
    save_detector(build_detector(settings, ("a",), seed=0), tmp_path / "t", image={"short_side": 8, "long_side": 8})
    return tmp_path / "t"


def itself(file: Path | None, *settings: str, **options: object) -> RunConfig:
    given = {"data": Path("d"), "out": Path("r"), "method": "frs"} | options
    return read_run_config(file, settings, purpose="distill", options=given, itself=True)


def test_the_student_of_a_self_distillation_is_its_teachers_architecture(tmp_path: Path, teacher: Path) -> None:
    config = itself(None, "student.score_threshold=0.1", teacher=teacher)
    expected = dataclasses.replace(saved_settings(teacher), score_threshold=0.1)
    assert config.student == StudentChoice("fcos/test_resnet", expected)
    assert (expected.fpn_channels, expected.head_depth) == (16, 1)
    resolved = tmp_path / "config.yaml"
    resolved.write_text(config.yaml())
    assert read_run_config(resolved, purpose="distill") == config
    file = tmp_path / "run.yaml"
    file.write_text(f"teacher: {teacher}")
    assert itself(file).student.settings == saved_settings(teacher)


def test_a_self_distillation_that_cannot_be_is_refused(tmp_path: Path, teacher: Path, file: Path) -> None:
    for given, message in (
        ({"student": "fcos/tiny", "teacher": teacher}, "got a student of its own. Leave out --student and the section"),
        ({}, "teacher.source must be a run folder, a checkpoint or torchvision:NAME, got nothing. Pass --teacher"),
        (
            {"teacher": "torchvision:fcos_resnet50_fpn"},
            "must be a run or a checkpoint of ours, got torchvision",
        ),
        (
            {"teacher": tmp_path / "none"},
            "none must be a run folder, a checkpoint or a student.safetensors",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            itself(None, **given)
        assert message in str(caught.value)
    with pytest.raises(ConfigError, match=r"run\.yaml: the student of a self-distillation must be its teacher's"):
        itself(file, teacher=teacher)
