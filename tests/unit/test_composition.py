"""Methods as text: what is taken, what is refused, text ⇄ settings, and what a composition builds."""

from __future__ import annotations

import json
import string
from dataclasses import fields, replace
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detdistill.detectors.base import BoxLayout, DetectorSpec
from detdistill.distillation.recipe import Recipe
from detdistill.distillation.view import CLEAN
from detdistill.distillation.weigh import MeanOf
from detdistill.errors import ConfigError
from detdistill.methods.aid import AIDSettings
from detdistill.methods.catalogue import METHODS, SumSettings, build_recipe, method_text, parse_method
from detdistill.methods.composition import base_methods, method_tree, structure
from detdistill.methods.frs import FRSSettings
from detdistill.methods.hint import HintSettings
from detdistill.methods.ikd import IKDSettings
from detdistill.methods.ssim import SSIMSettings
from detdistill.settings import as_tree
from detdistill.settings.bounds import bare, within
from detdistill.settings.calls import LONGEST, Spelled, written
from detdistill.settings.trees import hints_of
from every_method import RECIPES, WRAPPERS
from observations import spec
from thorough import cases

STUDENT, TEACHER = spec(channels=3), spec(channels=4)
KNOWN = ", ".join(METHODS)


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_method(text)
    said = str(caught.value)
    assert said.endswith((".", "?"))
    assert "\n" not in said
    return said


# --- text to settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected", "canonical_text"),
    [
        ("frs", FRSSettings(), "frs"),
        (" frs ( ) ", FRSSettings(), "frs"),
        ("frs(warmup_steps=500)", FRSSettings(), "frs"),
        (
            "frs(standardize=true,feature_gain=1e-2)",
            FRSSettings(feature_gain=0.01, standardize=True),
            "frs(feature_gain=0.01, standardize=true)",
        ),
        ("frs(class_gain=0)", FRSSettings(class_gain=0.0), "frs(class_gain=0.0)"),
        ("frs(class_gain=null, aligner='conv1x1')", FRSSettings(aligner="conv1x1"), "frs(aligner=conv1x1)"),
        ('frs(aligner="conv1x1",)', FRSSettings(aligner="conv1x1"), "frs(aligner=conv1x1)"),
        ("hint(gain=+.5)", HintSettings(gain=0.5), "hint(gain=0.5)"),
        ("hint(p=1)", HintSettings(p=1), "hint(p=1)"),
        ("frs+ssim", SumSettings((FRSSettings(), SSIMSettings())), "frs + ssim"),
        ("aid(frs,alpha=.5)", AIDSettings(recipe=FRSSettings(), alpha=0.5), "aid(frs, alpha=0.5)"),
        ("aid(frs+ssim)", AIDSettings(SumSettings((FRSSettings(), SSIMSettings()))), "aid(frs + ssim)"),
        ("(frs)", FRSSettings(), "frs"),
        ("aid(\nfrs)\r\n+ hint", SumSettings((AIDSettings(FRSSettings()), HintSettings())), "aid(frs) + hint"),
        ("aid(ikd(frs))", AIDSettings(IKDSettings(FRSSettings())), "aid(ikd(frs))"),
        (
            "aid(ikd(frs(relu=true), until=0.5), control=true) + hint",
            SumSettings((AIDSettings(IKDSettings(FRSSettings(relu=True), until=0.5), control=True), HintSettings())),
            "aid(ikd(frs(relu=true), until=0.5), control=true) + hint",
        ),
    ],
)
def test_a_text_becomes_settings_and_its_shortest_text(text: str, expected: Any, canonical_text: str) -> None:
    parsed = parse_method(text)
    assert parsed == expected
    assert [type(getattr(parsed, field.name)) for field in fields(parsed)] == [
        type(getattr(expected, field.name)) for field in fields(expected)
    ]
    assert method_text(parsed) == canonical_text
    assert parse_method(canonical_text) == parsed


FORM = "must be words, numbers and ( ) , = + in their places"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", f"The method '' {FORM}, got the end at position 1. Write for example frs, or aid(frs + ssim, alpha=0.5)."),
        ("fsr", f"The method must be one of {KNOWN}, got 'fsr'. Did you mean 'frs'?"),
        ("x", f"The method must be one of {KNOWN}, got 'x'. Choose one of them."),
        ("aid(fsr)", f"The method at position 5 of 'aid(fsr)' must be one of {KNOWN}, got 'fsr'. Did you mean 'frs'?"),
        ("sum(frs)", f"The method at position 1 of 'sum(frs)' must be one of {KNOWN}, got 'sum'."),
        ("hint(gian=2)", "gian at position 6 of 'hint(gian=2)' must be a key of hint, got the unknown 'gian'. Did you "
                         "mean 'gain'?"),
        ("hint(zzz=2)", "must be a key of hint, got the unknown 'zzz'. Known: aligner, calibration, decay, features, "
                        "gain, normalized, p, strength, until."),
        ("aid(frs, recipe=ssim)", "must have key=value, and what is wrapped first at position 10, got 'recipe=ssim'."),
        ("aid", "recipe of aid at position 1 of 'aid' must be given, got nothing. Write the method that is wrapped"),
        ("frs + ikd(until=1)", "recipe of ikd at position 7 of 'frs + ikd(until=1)' must be given, got nothing. Write"),
        ("frs(ssim)", "frs at position 1 of 'frs(ssim)' must be given key=value alone, got the method 'ssim' to wrap. "
                      "Join methods by +, as in frs + ssim."),
        ("frs(3)", "The method 'frs(3)' must have key=value at position 5, got '3'. Write it like frs(KEY=VALUE)."),
        ("aid(frs, 3)", "must have key=value at position 10, got '3'. Write it like aid(METHOD, KEY=VALUE)."),
        ("aid(alpha=1, frs)", "at position 17: positional argument follows keyword argument. Write what is wrapped "
                              "first, then KEY=VALUE."),
        ("aid(frs, ssim)", "must have key=value at position 10, got 'ssim'. Join methods by +, as in aid(frs + ssim)."),
        ("aid(frs", f"{FORM}, got '(' at position 4: '(' was never closed. Close every parenthesis."),
        ("aid(frs alpha=1)", "got 'frs alpha' at position 5. Join methods by +, and put commas between options."),
        ("aid(frs, alpha=+)", "got ')' at position 17. Join methods by +, write options as KEY=VALUE, and quote"),
        ("aid(frs, alpha=-true)", "must have key=value at position 10, got 'alpha=-true'. Write for a value a number,"),
        ("aid(frs, alpha={[1]: 2})", "must have key=value at position 10, got 'alpha={[1]: 2}'."),
        ("aid(frs, alpha=hint())", "must have key=value at position 10, got 'alpha=hint()'."),
        ("frs(**relu)", "must have key=value, and what is wrapped first at position 5, got '**relu'."),
        ("frs)", f"{FORM}, got ')' at position 4: unmatched ')'. Take it away."),
        ("frs ssim", f"{FORM}, got 'ssim' at position 5. Join methods by +, write options as KEY=VALUE,"),
        ("  frs ssim", "got 'ssim' at position 7."),
        ("aid(frs, é='ü', ssim=1;)", "got ';' at position 23."),
        ("aid(frs, é='ü', 3x=1)", "at position 17"),
        ("hint(p='é', p=1)", "must have every key of hint once at position 13, got 'p=1'."),
        ("frs, ssim", "must have the name of a method at position 1, got 'frs, ssim'. Join methods by +."),
        ("frs +", f"{FORM}, got the end at position 6. Write for example"),
        ("frs + 2", "must have the name of a method at position 7, got '2'. Write for example frs, or"),
        ("frs - ssim", "must have the name of a method at position 1, got 'frs - ssim'. Join methods by +."),
        ("frs(relu=[true)", "got ')' at position 15: closing parenthesis ')' does not match opening parenthesis '['."),
        ("frs(relu=true, relu=true)", "must have every key of frs once at position 16, got 'relu=true'. Remove one"),
        ("frs;", f"{FORM}, got ';' at position 4. Join methods by +,"),
        ("frs(aligner='a", "got ''' at position 13: unterminated string literal. Close the quotation."),
        (r'frs(aligner="\q")', r"at position 13: invalid escape sequence '\q'. Write \\ for a backslash"),
        ("frs(feature_gain=2x)", "at position 18: invalid decimal literal."),
        ("frs(feature_gain=1e999)", "feature_gain at position 5 of 'frs(feature_gain=1e999)' must be a finite number,"),
        ("frs(feature_gain=fast)", "feature_gain at position 5 of 'frs(feature_gain=fast)' must be a number or null, "
                                   "got 'fast'. Change the value."),
        ("frs(feature_gain=true)", "must be a number or null, got true."),
        ("frs(feature_gain=[1, 2])", "must be a number or null, got [1, 2]."),
        ("frs(warmup_steps=1.0)", "must be a whole number, got 1.0."),
        ("frs(relu=1)", "relu at position 5 of 'frs(relu=1)' must be true or false, got 1."),
        ("frs(aligner=conv4x4)", "must be identity or conv1x1 or conv3x3, got 'conv4x4'. Did you mean 'conv3x3'?"),
        ("hint(p=1.0)", "p at position 6 of 'hint(p=1.0)' must be 1 or 2, got 1.0."),
        ("frs + ssim + frs(relu=true)", "The sum 'frs + ssim + frs(relu=true)' must have every method once, got 'frs' "
                                        "2 times. Raise the gains of one 'frs' instead."),
        ("frs + aid(ikd(frs))", "must have every method once, got 'frs' 2 times."),
        ("aid(" * 100 + "frs" + ")" * 100, "must have the name of a method at position 261, got 'aid("),
        ("aid(" * 300 + "frs" + ")" * 300, "too many nested parentheses"),
        ("aid(frs, alpha=" + "-" * 1900 + "1)", "must "),
        ("frs + " * LONGEST, f"The method 'frs + frs + frs + fr...' must have at most {LONGEST} characters, got 12"),
        ("frs(warmup_steps=" + "9" * 1900 + ")", "must be a whole number, got 9999"),
        ("frs(aligner='\ud800')", "must be plain text, not too deeply nested, got: 'utf-8' codec can't encode"),
        ("frs(\0)", "null bytes"),
    ],
)  # fmt: skip
def test_what_is_no_method_is_refused_in_one_sentence(text: str, said: str) -> None:
    assert said in refusal(text)


def test_a_sum_is_two_methods_or_more() -> None:
    with pytest.raises(ConfigError, match=r"A sum must be of two methods or more, got \['frs'\]\."):
        SumSettings((FRSSettings(),))
    with pytest.raises(ConfigError, match=r"must have every method once, got 'frs' 2 times"):
        SumSettings((FRSSettings(), FRSSettings(relu=True)))
    with pytest.raises(ConfigError, match=r"The settings of the method must be those of aid, .*, sum, got str\."):
        SumSettings(("frs", "ssim"))


def test_a_sum_in_a_sum_is_one_sum() -> None:
    nested = SumSettings((SumSettings((FRSSettings(), SSIMSettings())), HintSettings()))
    assert nested == SumSettings((FRSSettings(), SSIMSettings(), HintSettings())) == parse_method("frs + (ssim + hint)")
    assert method_text(nested) == "frs + ssim + hint"


def test_names() -> None:
    whole = parse_method("aid(ikd(frs + ssim(window=3)), alpha=0.5) + hint(gain=2)")
    assert structure(whole) == "aid(ikd(frs + ssim)) + hint"
    assert base_methods(whole) == ("frs", "ssim", "hint")


def test_a_method_is_a_tree_that_json_can_hold() -> None:
    whole = parse_method("aid(ikd(hint, until=0.5), alpha=0.25) + frs")
    tree = method_tree(whole)
    assert tree["name"] == "sum"
    (aid, frs) = tree["recipes"]
    assert (aid["name"], aid["alpha"], aid["recipe"]["name"], aid["recipe"]["until"]) == ("aid", 0.25, "ikd", 0.5)
    assert aid["recipe"]["recipe"] == {"name": "hint", **as_tree(HintSettings())}
    assert frs == {"name": "frs", **as_tree(FRSSettings())}
    assert json.loads(json.dumps(tree)) == tree


# --- round trips ----------------------------------------------------------------------------------------------------

# A share of the run is checked as soon as it is given.
STRENGTHS = st.none() | st.just("published") | st.floats(0, 1e9)
SHARES = {"until": st.floats(min_value=0, max_value=1, exclude_min=True)}


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) in (Union, type(int | None)):
        return st.one_of([values_of(member) for member in get_args(hint)])
    if get_origin(hint) is tuple:
        return st.lists(values_of(get_args(hint)[0]), max_size=3).map(tuple)
    if (bounds := within(hint)) is not None:
        low, high = (int(bounds.low), int(bounds.high)) if bare(hint) is int else (bounds.low, bounds.high)
        return st.integers(low, high) if bare(hint) is int else st.floats(low, high)
    plain = {bool: st.booleans(), type(None): st.none()}
    return plain.get(hint, st.text())


def settings_of(kind: type[Any], **fixed: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    hints = {name: hint for name, hint in hints_of(kind).items() if name not in fixed}
    return st.fixed_dictionaries(
        {}, optional={name: SHARES.get(name, values_of(hint)) for name, hint in hints.items()}
    ).flatmap(lambda some: st.builds(kind, **{name: st.just(value) for name, value in some.items()} | fixed))


def bases(names: tuple[str, ...]) -> st.SearchStrategy[Any]:
    return st.one_of([settings_of(RECIPES[name].settings) for name in names])


def compositions(names: tuple[str, ...] = tuple(RECIPES), depth: int = 2) -> st.SearchStrategy[Any]:
    if depth == 0:
        return bases(names)
    below = compositions(names, depth - 1)
    wrapped = [settings_of(method.settings, recipe=below) for method in WRAPPERS.values()]
    half = len(names) // 2
    if not half:
        return st.one_of(bases(names), *wrapped)
    first, second = compositions(names[:half], depth - 1), compositions(names[half:], depth - 1)
    added = st.builds(SumSettings, st.tuples(first, second), strength=STRENGTHS)
    return st.one_of(bases(names), *wrapped, added)


@pytest.mark.usefixtures("without_type_checks")
@given(compositions())
@settings(max_examples=cases(50, 150), deadline=None)
def test_settings_survive_their_text(chosen: Any) -> None:
    text = method_text(chosen)
    again = parse_method(text)
    assert again == chosen
    assert method_text(again) == text
    spaced = text.replace(" + ", "+").replace(", ", " ,  ")
    if "'" not in text and '"' not in text:
        assert parse_method(spaced) == chosen


@given(st.text(alphabet=string.printable, max_size=12) | st.text(alphabet="frsaid()+,=\"' 1.-[]", max_size=20))
@settings(max_examples=cases(130, 400), deadline=None)
def test_any_text_is_a_method_or_one_sentence(text: str) -> None:
    try:
        parsed = parse_method(text)
    except ConfigError as error:
        said = str(error)
    else:
        said = "a method must come back"
        assert parse_method(method_text(parsed)) == parsed
    assert " must " in said


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inside: st.lists(inside, max_size=3).map(tuple),
        max_leaves=5,
    )
)
@settings(max_examples=cases(30, 100))
def test_a_value_is_read_as_it_was_written(value: object) -> None:
    found = Spelled(f"frs(key={written(value)})").tree["key"]
    assert repr(found) == repr(as_tree(value))


# --- recipes --------------------------------------------------------------------------------------------------------


def weights(recipe: Recipe, beginning: str) -> list[torch.Tensor]:
    terms = [weighted.term for weighted in recipe.terms if weighted.name.startswith(beginning)]
    return [parameter for term in terms for parameter in term.parameters()]


def test_a_sum_has_the_terms_of_all_and_each_starts_as_alone() -> None:
    recipe = build_recipe("hint + aid(frs + ssim)", STUDENT, TEACHER, seed=5)
    assert recipe.name == "hint + aid(frs + ssim)"
    assert [term.name for term in recipe.terms] == ["hint.features", "frs.features", "frs.classes", "ssim.features"]
    assert [term.weigh is None for term in recipe.terms] == [True, False, False, False]
    assert (recipe.twins, recipe.sample_transform, recipe.transform_until) == ({}, None, 1.0)
    for name in ("hint", "frs", "ssim"):
        alone = weights(build_recipe(name, STUDENT, TEACHER, seed=5), name)
        assert len(alone) > 0
        assert all(map(torch.equal, alone, weights(recipe, name)))


def test_a_sum_keeps_transform_schedule_and_twins() -> None:
    for text in ("hint + ikd(frs, until=0.25)", "ikd(frs, until=0.25) + hint"):
        recipe = build_recipe(text, STUDENT, TEACHER)
        assert recipe.sample_transform is not None
        assert recipe.transform_until == 0.25
        assert list(recipe.twins) == ["adversarial"]
        assert [term.name for term in recipe.terms if term.view != CLEAN] == ["ikd.adversarial"]
    assert build_recipe("aid(ikd(frs, until=0.25))", STUDENT, TEACHER).transform_until == 0.25


def test_wrappers_commute_up_to_the_name() -> None:
    one, other = (build_recipe(text, STUDENT, TEACHER, seed=3) for text in ("aid(ikd(frs))", "ikd(aid(frs))"))
    assert (one.name, other.name) == ("aid(ikd(frs))", "ikd(aid(frs))")
    assert [term.name for term in one.terms] == [term.name for term in other.terms]
    assert [term.weigh is None for term in one.terms] == [term.weigh is None for term in other.terms]
    assert all(map(torch.equal, weights(one, ""), weights(other, "")))


def test_settings_build_what_their_text_builds() -> None:
    text = "aid(frs(class_gain=0), control=true)"
    by_text, by_settings = (build_recipe(method, STUDENT, TEACHER) for method in (text, parse_method(text)))
    for recipe in (by_text, by_settings):
        assert recipe.name == "aid(frs)"
        assert [term.name for term in recipe.terms] == ["frs.features"]
        assert isinstance(recipe.terms[0].weigh, MeanOf)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ikd(frs) + ikd(ssim)", "must have at most one method that changes the samples, got ikd(frs) and ikd(ssim). "
                                 "Wrap the sum instead, as in ikd(frs + ssim)."),
        ("ikd(frs, augment=false, eps_255=2) + ikd(ssim, augment=false)",
         "must make every twin in one way, got two for 'adversarial'. Wrap the sum instead"),
        ("ikd(frs) + ikd(ssim, augment=false)",
         "must have every term once, got ikd.adversarial more than once. Wrap the sum instead, as in ikd(frs + ssim)."),
        ("ikd(ikd(frs))", "Wrap with ikd once."),
        ("aid(aid(frs))", "Wrap the method in aid once."),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_recipe(text, STUDENT, TEACHER)
    assert said in str(caught.value)


def test_twins_of_one_maker_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    maker = METHODS["ikd"].build(build_recipe("frs", STUDENT, TEACHER), STUDENT, TEACHER, IKDSettings()).twins
    build = METHODS["frs"].build

    def looking(student: DetectorSpec, teacher: DetectorSpec, chosen: Any) -> Recipe:
        return replace(build(student, teacher, chosen), twins=maker)

    monkeypatch.setattr(METHODS, "_added", {"frs": replace(METHODS["frs"], build=looking)})
    recipe = build_recipe("frs + ikd(ssim)", STUDENT, TEACHER)
    assert recipe.twins == maker


def test_a_wrapped_method_must_fit_the_detectors_too() -> None:
    other = replace(TEACHER, class_logits=None, box_distributions=BoxLayout((8, 16), 1, 17))
    with pytest.raises(TypeError, match=r"The recipe 'frs' must|class logits"):
        build_recipe("ikd(ssim + frs)", STUDENT, other)
