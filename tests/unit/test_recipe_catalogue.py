"""The methods by name: what they say about themselves, what they refuse, and where their weights come from."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from detdistill.detectors.base import BoxLayout, DetectorSpec
from detdistill.distillation.recipe import Recipe, WarmUp, WeightedTerm
from detdistill.distillation.view import CLEAN
from detdistill.errors import ConfigError
from detdistill.methods import attention, crosskd, fgd, ikd, mgd, pkd
from detdistill.methods.catalogue import METHODS, build_recipe, describe
from detdistill.methods.frs import PUBLISHED_NUMBERS, FRSSettings
from detdistill.methods.hint import HintSettings
from detdistill.methods.published import Kind
from detdistill.methods.ssim import SSIMSettings
from detdistill.types import ClassKind, Knowledge, Need
from every_method import RECIPES, WRAPPERS
from observations import spec, unchecked

BOXES = BoxLayout(strides=(8, 16), anchors=1, bins=17)
STUDENT, TEACHER = (replace(spec(family="gfl", channels=channels), box_distributions=BOXES) for channels in (3, 4))
WITH_ALIGNER = [name for name, entry in RECIPES.items() if "aligner" in {one.name for one in fields(entry.settings)}]


def published_rows() -> list[tuple[str, tuple[float, ...]]]:
    """What `null` stands for among a method's settings, by method."""
    rows: list[tuple[str, tuple[float, ...]]] = [
        ("frs", (one.features, one.classes)) for one in PUBLISHED_NUMBERS.values()
    ]
    for ours in {one for numbers in attention.PUBLISHED_NUMBERS.values() for one in numbers.values()}:
        rows.append(("attention", (ours.features, ours.pooled, ours.relations, ours.temperature)))
    rows += [("fgd", (*one.gains, one.temperature)) for one in {*fgd.PUBLISHED_NUMBERS.values()}]
    rows += [("mgd", (one.gain, one.drop)) for one in {*mgd.PUBLISHED_NUMBERS.values()}]
    for cross in crosskd.PUBLISHED_NUMBERS.values():
        rows.append(("crosskd", (cross.classes, cross.boxes, cross.distributions)))
    rows += [("pkd", (gain,)) for gain in {*pkd.PUBLISHED_GAINS.values()}]
    return sorted(rows + [("ikd", (gain,)) for gain in {*ikd.PUBLISHED_GAINS.values()}])


@pytest.mark.parametrize(("name", "numbers"), published_rows())
def test_the_formula_tells_the_published_numbers(name: str, numbers: tuple[float, ...]) -> None:
    told = [float(found) for found in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e-\d+)?", describe(name).formula)]
    assert any(tuple(told[at : at + len(numbers)]) == numbers for at in range(len(told)))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_describes_itself(name: str) -> None:
    told = describe(name)
    assert told.name == name
    assert told.summary.endswith(".")
    assert "L = " in told.formula
    for text in (told.formula, told.needs, told.source, told.differs):
        assert text.strip() == text != ""
    titles = ("Args:", "Returns:", "Raises:", "Needs:", "Source:", "Differs from the source:", "Formula:")
    joined = "\n".join((told.formula, told.needs, told.source, told.differs))
    assert not [title for title in titles if title in joined]
    default = METHODS[name].settings()
    own = [field.name for field in fields(default) if field.name != "recipe"]
    assert told.defaults == {key: getattr(default, key) for key in own}
    assert told.wraps == (name in WRAPPERS)


def test_a_formula_keeps_its_lines() -> None:
    lines = describe("frs").formula.splitlines()
    assert lines[0].startswith("M = max over classes")
    assert lines[1].startswith("L = a")
    assert lines[2].startswith("  + b")


@pytest.mark.parametrize(
    ("written", "remedy"),
    [
        ("hnit", "Did you mean 'hint'?"),
        ("zzz", "Choose one of them."),
        ("ssim2", "Did you mean 'ssim'?"),
    ],
)
def test_an_unknown_method_is_refused_with_a_suggestion(written: str, remedy: str) -> None:
    for ask in (describe, METHODS.find, lambda name: build_recipe(name, STUDENT, TEACHER)):
        with pytest.raises(ConfigError) as caught:
            ask(written)
        known = ", ".join(METHODS)
        assert str(caught.value).startswith(f"The method must be one of {known}, got '{written}'. {remedy}")


@pytest.mark.usefixtures("without_type_checks")
def test_settings_of_no_method_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        build_recipe(WarmUp(), STUDENT, TEACHER)  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"The settings of the method must be those of {', '.join(METHODS)}, sum, got WarmUp. "
        "Pass for example AIDSettings()."
    )


@pytest.mark.parametrize("name", RECIPES)
def test_a_name_builds_the_defaults(name: str) -> None:
    by_name = build_recipe(name, STUDENT, TEACHER)
    by_settings = build_recipe(RECIPES[name].settings(), STUDENT, TEACHER)
    assert by_name.name == by_settings.name == name
    assert [(term.name, term.gain, term.warm_up) for term in by_name.terms] == [
        (term.name, term.gain, term.warm_up) for term in by_settings.terms
    ]
    assert all(term.name.startswith(f"{name}.") for term in by_name.terms)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (unchecked(HintSettings(), p=3), "p must be one of 1, 2, got '3'. Choose one of them."),
        (HintSettings(gain=-1.0), "gain must be a finite number of at least 0, got -1.0. Give one such as 1."),
        (HintSettings(gain=float("nan")), "gain must be a finite number of at least 0, got nan. Give one such as 1."),
        (
            unchecked(FRSSettings(), normalizer="all"),
            "normalizer must be one of image, batch, got 'all'. Choose one of them.",
        ),
        (unchecked(FRSSettings(), scale="x"), "scale must be one of source, per_channel, got 'x'. Choose one of them."),
        (FRSSettings(class_gain=-0.1), "class_gain must be a finite number of at least 0, got -0.1. Give one such"),
        (FRSSettings(feature_gain=-0.1), "feature_gain must be a finite number of at least 0, got -0.1. Give one"),
        (FRSSettings(warmup_steps=-5), "warmup_steps must be at least 0, got -5. Give a number of steps such as 500."),
        (
            unchecked(SSIMSettings(), rescale_over="x"),
            "rescale_over must be one of image, channel, batch, got 'x'. Choose one",
        ),
        (SSIMSettings(gain=-4.0), "gain must be a finite number of at least 0, got -4.0. Give one such as 1."),
    ],
)
def test_numbers_that_mean_nothing_are_refused_when_built(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_recipe(settings, STUDENT, TEACHER)
    assert str(caught.value).startswith(f"The recipe's {message}")


def test_an_even_window_is_refused_when_built() -> None:
    with pytest.raises(ConfigError, match=r"must be a positive odd number of cells, got 4\. Try 11\."):
        build_recipe(SSIMSettings(window=4), STUDENT, TEACHER)


def test_an_exponent_other_than_on_or_off_is_refused_when_built() -> None:
    with pytest.raises(ConfigError, match=r"SSIM exponent beta must be 0 \(off\) or 1 \(on\), got 2\. Choose 0 or 1"):
        build_recipe(unchecked(SSIMSettings(), beta=2), STUDENT, TEACHER)


@pytest.mark.usefixtures("without_type_checks")
def test_an_unknown_aligner_is_refused() -> None:
    for name in WITH_ALIGNER:
        with pytest.raises(ConfigError) as caught:
            build_recipe(replace(RECIPES[name].settings(), aligner="conv5x5"), STUDENT, TEACHER)
        said = str(caught.value)
        assert said.startswith("The recipe's aligner must be one of "), name
        assert said.endswith(", got 'conv5x5'. Choose one of them."), name


@pytest.mark.parametrize("name", RECIPES)
def test_weights_are_drawn_from_the_seed_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        recipe = build_recipe(name, STUDENT, TEACHER, seed=seed)
        return [p for term in recipe.terms for p in term.term.parameters()]

    # torch.manual_seed would seed CUDA's generators too, which nobody restores.
    monkeypatch.setattr(torch, "manual_seed", None)
    torch.default_generator.manual_seed(1)
    before = torch.get_rng_state()
    first = weights(5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert all(map(torch.equal, first, weights(5)))
    # What starts at a constant, such as a block that begins as the identity, is the same for every seed.
    drawn = [(one, other) for one, other in zip(first, weights(6), strict=True) if len(one.unique()) > 1]
    assert not any(torch.equal(one, other) for one, other in drawn)
    assert len(drawn) > 0 or not first


KINDS = {
    "retinanet": Kind.ANCHORS, "fcos": Kind.ANCHOR_FREE, "gfl": Kind.DISTRIBUTIONS, "faster_rcnn": Kind.TWO_STAGE
}  # fmt: skip


@pytest.mark.parametrize(("family", "kind"), KINDS.items())
def test_gains_are_those_published_for_the_students_kind(family: str, kind: Kind) -> None:
    one = spec(family=family)
    recipe = build_recipe("frs", one, one)
    assert [term.gain for term in recipe.terms] == [PUBLISHED_NUMBERS[kind].features, PUBLISHED_NUMBERS[kind].classes]
    assert recipe.notes == ()


@pytest.mark.parametrize(
    "unknown",
    [replace(spec(), class_logits=None), spec(kind=ClassKind.OBJECTNESS)],
    ids=["no class scores", "one-stage objectness"],
)
def test_a_detector_without_published_gains_is_told_so(unknown: DetectorSpec) -> None:
    for method, given in (
        ("frs(class_gain=0)", "frs(feature_gain=0.3, class_gain=0)"),
        ("fgd", "fgd(foreground_gain=1.0, background_gain=1.0, attention_gain=1.0, relation_gain=1.0)"),
        ("mgd", "mgd(gain=1.0)"),
        ("pkd", "pkd(gain=1.0)"),
        ("attention", "attention(feature_gain=1.0, channel_gain=1.0, cell_gain=1.0, nonlocal_gain=1.0)"),
        ("ikd(hint)", "ikd(hint, adversarial_gain=1.0)"),
    ):
        name = method.partition("(")[0]
        note = (
            f"{name} has no published gains for a detector such as fcos/made-up, a one-stage one without sigmoid "
            "scores of its classes: FCOS's are taken. Compare a few gains before you trust the result."
        )
        for text, notes in ((method, (note,)), (f"ssim + {method}", (note,)), (given, ())):
            assert build_recipe(text, unknown, spec()).notes == notes
    assert build_recipe("hint", unknown, unknown).notes == ()


def test_frs_scaled_per_channel_has_the_published_strength() -> None:
    """fcos, 4 of 256 channels, 3 of 80 classes: 0.01 · 64 and 0.05 · 80/3; retinanet, 3 of 9 anchors: 0.02 · 80."""
    scaled = FRSSettings(scale="per_channel")
    fcos, retinanet = spec(family="fcos"), spec(family="retinanet")
    assert [t.gain for t in build_recipe(scaled, fcos, fcos).terms] == pytest.approx([0.64, 0.05 * 80 / 3])
    assert [t.gain for t in build_recipe(scaled, retinanet, retinanet).terms] == pytest.approx([0.32, 0.02 * 80])
    rpn = spec(family="faster_rcnn", kind=ClassKind.OBJECTNESS, anchors=6, classes=("object",))
    assert [t.gain for t in build_recipe(scaled, rpn, rpn).terms] == pytest.approx([0.128, 0.05])
    published = spec(family="retinanet", channels=256, anchors=9, classes=[str(index) for index in range(80)])
    for scale in ("source", "per_channel"):
        gains = [t.gain for t in build_recipe(FRSSettings(scale=scale), published, published).terms]
        assert gains == pytest.approx([0.005, 0.02])


def test_a_class_gain_of_zero_leaves_the_term_and_its_needs_out() -> None:
    recipe = build_recipe(FRSSettings(class_gain=0), STUDENT, TEACHER)
    assert [term.name for term in recipe.terms] == ["frs.features"]
    assert recipe.views() == (CLEAN,)
    assert recipe.student_needs(CLEAN) == {Need.PYRAMID}
    assert recipe.teacher_needs(CLEAN) == {Need.PYRAMID, Need.CLASS_LOGITS}
    assert build_recipe("frs", STUDENT, TEACHER).student_needs(CLEAN) == {Need.PYRAMID, Need.CLASS_LOGITS}


def test_a_feature_gain_of_zero_leaves_the_class_term_alone() -> None:
    recipe = build_recipe(FRSSettings(feature_gain=0), STUDENT, TEACHER)
    assert [term.name for term in recipe.terms] == ["frs.classes"]


def test_a_method_without_any_gain_is_refused() -> None:
    for name, method in RECIPES.items():
        gains = {one.name: 0 for one in fields(method.settings) if one.name.endswith(("gain", "strength"))}
        with pytest.raises(ConfigError) as caught:
            build_recipe(method.settings(**gains), STUDENT, TEACHER)
        assert str(caught.value) == (
            f"At least one gain of the recipe '{name}' must be above 0, got 0 for every term. Raise one of them, or "
            "train the student alone with detdistill train."
        )


def test_every_term_says_what_kind_of_knowledge_it_carries() -> None:
    kinds = {term.name: term.term.knowledge for name in RECIPES for term in build_recipe(name, STUDENT, TEACHER).terms}
    others = {
        "crosskd.classes": Knowledge.CLASSIFICATION,
        "crosskd.boxes": Knowledge.LOCALIZATION,
        "crosskd.distributions": Knowledge.LOCALIZATION,
        "frs.classes": Knowledge.CLASSIFICATION,
        "ld.boxes": Knowledge.LOCALIZATION,
        "ld.region": Knowledge.LOCALIZATION,
        "ld.classes": Knowledge.CLASSIFICATION,
    }
    assert kinds == {name: others.get(name, Knowledge.FEATURE) for name in kinds}
    assert {"hint.features", "frs.features", "frs.classes", "ssim.features", "ld.boxes"} <= kinds.keys()


def test_a_hint_and_ssim_need_the_pyramid_alone() -> None:
    for name in ("hint", "ssim"):
        recipe = build_recipe(name, replace(STUDENT, class_logits=None), replace(TEACHER, class_logits=None))
        assert recipe.views() == (CLEAN,)
        assert recipe.student_needs(CLEAN) == recipe.teacher_needs(CLEAN) == {Need.PYRAMID}


def test_terms_of_one_name_are_refused() -> None:
    term = build_recipe("hint", STUDENT, TEACHER).terms[0].term
    for names in (("a", "a"), ("a.b", "a_b")):
        with pytest.raises(ConfigError) as caught:
            Recipe("r", tuple(WeightedTerm(name, term, 1.0) for name in names))
        assert (
            str(caught.value)
            == f"The terms of the recipe 'r' must have different names, got {list(names)}. Rename one."
        )


def test_the_relu_of_an_aligner_is_the_recipes_choice() -> None:
    for relu in (False, True):
        recipe = build_recipe(FRSSettings(relu=relu, class_gain=0), STUDENT, TEACHER)
        assert recipe.terms[0].term.align.relu is relu
