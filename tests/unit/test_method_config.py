"""Config files and settings: methods made of others, what a recipe does to samples, self-distillation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from detdistill.data.sample_specific import SampleSpecificSettings
from detdistill.detectors.base import DetectorSpec
from detdistill.detectors.catalogue import build_detector, parse_detector
from detdistill.distillation.recipe import Recipe
from detdistill.errors import ConfigError
from detdistill.jobs.config import read_run_config
from detdistill.jobs.settings import RunConfig, StudentChoice, TwinSettings
from detdistill.methods.aid import AIDSettings
from detdistill.methods.catalogue import (
    METHODS,
    Method,
    MethodSettings,
    SumSettings,
    method_text,
    method_tree,
    parse_method,
)
from detdistill.methods.composition import wrapped
from detdistill.methods.frs import FRSSettings
from detdistill.methods.hint import HintSettings
from detdistill.methods.ikd import IKDSettings
from detdistill.methods.ssim import SSIMSettings
from detdistill.store.students import save_detector, saved_settings
from run_files import bare, distil, refusal, run_file

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


@dataclasses.dataclass(frozen=True, slots=True)
class QuietSettings:
    recipe: MethodSettings = wrapped(HintSettings)
    share: float = 0.1


def wrap_quiet(recipe: Recipe, student: DetectorSpec, teacher: DetectorSpec, settings: QuietSettings) -> Recipe:
    return recipe


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return run_file(tmp_path, FILE)


# --- methods that are made of others --------------------------------------------------------------------------------


FRS_AND_SSIM = SumSettings((FRSSettings(), SSIMSettings()))


@pytest.mark.parametrize(
    ("text", "tree", "settings"),
    [
        (
            "frs(warmup_steps=3, relu=true)",
            "{name: frs, warmup_steps: 3, relu: true}",
            FRSSettings(warmup_steps=3, relu=True),
        ),
        ("aid(frs, alpha=0.5)", "{name: aid, recipe: frs, alpha: 0.5}", AIDSettings(recipe=FRSSettings(), alpha=0.5)),
        (
            "aid(ikd(frs+ssim))",
            "{name: aid, recipe: {name: ikd, recipe: frs + ssim}}",
            AIDSettings(recipe=IKDSettings(recipe=FRS_AND_SSIM)),
        ),
        ("frs+ssim( )", "{name: sum, recipes: [{name: frs}, ssim()]}", FRS_AND_SSIM),
    ],
)
def test_text_yaml_keys_and_python_give_equal_settings(
    tmp_path: Path, file: Path, text: str, tree: str, settings: object
) -> None:
    """However a method is said, and once more from the run's own config.yaml."""
    found = [distil(file, f"method={text}"), distil(file, method__name=text), distil(file, f"method={tree}")]
    for number, said in enumerate((text, tree)):
        written = tmp_path / f"written_{number}.yaml"
        written.write_text(FILE.replace("method:\n  name: frs\n  warmup_steps: 7\n", f"method: {said}\n"))
        found.append(distil(written))
    resolved = tmp_path / "config.yaml"
    resolved.write_text(found[0].yaml())
    for config in [*found, distil(resolved), distil(resolved, method__name=method_tree(settings)["name"])]:
        assert config == found[0]
        assert bare(config) == settings == parse_method(text)
        assert config.yaml() == found[0].yaml()


@pytest.mark.parametrize(
    ("method", "keys", "same"),
    [
        ("aid(frs(relu=true), alpha=0.5)", ["alpha=0.25"], "aid(frs(relu=true), alpha=0.25)"),
        ("{name: aid, recipe: frs(relu=true)}", ["alpha=0.25", "recipe.relu=false"], "aid(frs, alpha=0.25)"),
        ("aid(ikd(hint))", ["recipe.recipe.p=1"], "aid(ikd(hint(p=1)))"),
        ("aid(ikd(hint))", ["recipe.recipe=ssim( )", "recipe.recipe.window=3"], "aid(ikd(ssim(window=3)))"),
        ("aid(frs(relu=true))", ["recipe.name=ssim", "recipe.gain=2"], "aid(ssim(gain=2))"),
        ("aid(frs)", ["recipe.name=frs", "recipe.relu=true"], "aid(frs(relu=true))"),
        ("aid(frs)", ["recipe.name=ikd(hint)", "recipe.recipe.gain=3"], "aid(ikd(hint(gain=3)))"),
        ("hint + ssim", ["recipes.0.gain=2", "recipes.1=frs", "recipes.1.relu=true"], "hint(gain=2) + frs(relu=true)"),
        ("{name: sum, recipes: [hint, ikd(ssim)]}", ["recipes.1.recipe.window=3"], "hint + ikd(ssim(window=3))"),
        ("hint + ssim", ["recipes.2=aid(frs)", "recipes.2.alpha=3"], "hint + ssim + aid(frs, alpha=3)"),
    ],
)
def test_keys_reach_into_a_composition(file: Path, method: str, keys: list[str], same: str) -> None:
    words = [f"method.{key}" for key in keys]
    assert bare(distil(file, f"method={method}", *words)) == parse_method(same)
    assert bare(distil(file, *words, f"method={method}")) == parse_method(same)  # what chooses the method goes first


def test_keys_beside_a_text_win_over_it(file: Path) -> None:
    file.write_text(FILE.replace("name: frs\n  warmup_steps: 7", "name: aid(frs, alpha=0.5)\n  alpha: 0.75"))
    assert bare(distil(file)) == AIDSettings(recipe=FRSSettings(), alpha=0.75)


def test_a_method_from_outside_is_composed_and_reached_like_any_other(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(METHODS, "_added", {})
    METHODS.register(Method("quiet", QuietSettings, wrap_quiet))
    config = distil(file, "method=aid(quiet(hint, share=0.5))", "method.recipe.share=0.25", "method.recipe.recipe.p=1")
    assert method_text(config.method) == "aid(quiet(hint(p=1), share=0.25), strength=3.0)"
    assert METHODS["quiet"].wraps
    assert "got the unknown 'shar'. Did you mean 'share'?" in refusal(file, "method=quiet(hint)", "method.shar=1")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method=aid(fsr)"], "The command line: method.name: The method at position 5 of 'aid(fsr)' must be one of "),
        (["method=frs("], "got '(' at position 4: '(' was never closed."),
        (
            ["method=aid(frs, alfa=1)"],
            "alfa at position 10 of 'aid(frs, alfa=1)' must be a key of aid, got the unknown",
        ),
        (["method=aid"], "method.recipe must be given, got nothing. Write the method that is wrapped, as in --method"),
        (["method=aid", "method.recipe.alpha=3"], "method.recipe.name must be one of aid, "),
        (["method=aid(ikd(frs))", "method.recipe.recipe=aid"], "method.recipe.recipe.recipe must be given, got"),
        (["method=sum"], "method.recipes must be given, got nothing. Write the methods, as in --method 'frs + ssim'"),
        (["method={name: aid, recipe: fsr}"], "The command line: method.recipe.name must be one of aid, "),
        (["method={name: aid, recipe: fsr()}"], "The command line: method.recipe: The method at position 1 of 'fsr()'"),
        (["method=aid(frs)", "method.recipe=hint(", "method.recipe.p=1"], "method.recipe in 'method.recipe.p=1': The"),
        (["method={name: aid, recipe: 3}"], "method.recipe must be a method, got 3. Change the value."),
        (["method={name: sum, recipes: frs}"], "method.recipes must be a list, got"),
        (["method={name: sum, recipes: [frs]}"], "method: A sum must be of two methods or more, got ['frs']."),
        (["method={name: sum, recipes: [frs, frs]}"], "The command line: method: The sum 'frs + frs' must have every"),
        (["method=aid(frs)", "method.alfa=1"], "method.alfa must be a key of aid, got the unknown 'alfa'. Did you"),
        (
            ["method=aid(frs)", "method.recipe.rleu=1"],
            "method.recipe.rleu must be a key of frs, got the unknown 'rleu'. Did",
        ),
        (["method=aid(frs)", "method.recipe.relu=1"], "method.recipe.relu must be true or false, got 1."),
        (["method=aid(frs)", "method.alpha=much"], "method.alpha must be a number or auto, got 'much'."),
        (["method=hint + frs", "method.recipes.2.p=1"], "'2' in 'method.recipes.2.p=1' must be a position from 0 to 1"),
        (
            ["student.family=retinanet"],
            "student.family must be fcos, as student.detector=fcos/tiny says, got 'retinanet'",
        ),
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


def test_endless_sections_are_refused(file: Path) -> None:
    deep = "{name: aid, recipe: " * 70 + "frs" + "}" * 70
    assert "must be at most 64 keys deep, got more." in refusal(file, f"method={deep}")


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
        ({}, "teacher.source must be a run folder, a checkpoint, torchvision:NAME"),
        (
            {"teacher": "torchvision:fcos_resnet50_fpn"},
            "must be a run or a checkpoint of ours, got torchvision",
        ),
        (
            {"teacher": tmp_path / "none"},
            "none must be a run folder, a checkpoint, torchvision:NAME",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            itself(None, **given)
        assert message in str(caught.value)
    with pytest.raises(ConfigError, match=r"run\.yaml: the student of a self-distillation must be its teacher's"):
        itself(file, teacher=teacher)
