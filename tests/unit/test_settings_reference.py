"""`detdistill settings`, `--keys` and docs/settings.md: one reference, made from the settings' own documentation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import detdistill
from detdistill.cli import main
from detdistill.detectors.catalogue import FAMILIES
from detdistill.errors import ConfigError
from detdistill.jobs.config import read_run_config
from detdistill.jobs.keys import run_settings
from detdistill.jobs.synonyms import SYNONYMS
from detdistill.methods.catalogue import METHODS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"


def keys(word: str) -> list[str]:
    return [one.key for one in detdistill.describe_settings(word).settings]


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_the_page_is_that_of_today() -> None:
    made = "\n".join(detdistill.describe_settings(markdown=True).table()) + "\n"
    assert PAGE.read_text() == made, "docs/settings.md is not that of today's settings: run `make settings`"


def test_every_setting_and_word_has_a_meaning() -> None:
    bare = [(one.key, one.of) for one in detdistill.describe_settings().settings if len(one.meaning) < 8]
    assert not bare, "these need a line in the documentation of their settings, or of their function"


def test_every_key_that_has_another_name_exists() -> None:
    assert sorted(SYNONYMS.keys() - {one.key for one in detdistill.describe_settings().settings}) == []


def test_every_key_of_a_config_file_is_here_and_no_other() -> None:
    """What runs of every family and method write, beside what only some write."""
    written: set[str] = set()
    image = [
        "data.image={short_side: 8, long_side: 8}",
        "data.sample_specific={}",
        "init=here",
        "alone=there",
        "longer=2",
    ]
    options = {"data": "d", "out": "o", "teacher": "t"}
    for family in (one for one in FAMILIES.values() if one.presets):
        student = f"{family.name}/{next(iter(family.presets))}"
        run = read_run_config(None, image, purpose="distill", options={**options, "student": student, "method": "hint"})
        written |= set(leaves(run.as_dict()))
    for name, method in METHODS.items():
        text = f"{name}(hint)" if method.wraps else name
        run = read_run_config(None, [], purpose="distill", options={**options, "student": "fcos/tiny", "method": text})
        written |= set(leaves(run.as_dict()))
    known = {one.key for one in run_settings()}
    # The student's family, and backbone or model, are chosen by its name.
    assert {key for key in written if not key.startswith("method.recipe.")} - known <= {
        "student.family",
        "student.backbone",
        "student.model",
    }
    sections = {"data.augment", "data.image", "data.sample_specific", "teacher", "twins", "method", "teacher.image"}
    missing = {key for key in known - written if key not in sections}
    assert {key for key in missing if not key.startswith(("teacher.image.", "data.unlabelled."))} <= {"inherit"}


@pytest.mark.parametrize(
    ("word", "first"),
    [
        ("early stop", "train.patience"),
        ("Early stopping", "train.patience"),
        ("backbone learning rate", "train.backbone_lr_factor"),
        ("GPU 1", "train.device"),
        ("number of GPUs", "train.processes"),
        ("batch", "train.batch_size"),
        ("learning rate", "train.lr"),
        ("freeze", "student.freeze_stages"),
        ("image size", "data.image"),
        ("resolution", "data.image.short_side"),
        ("nms", "student.nms_threshold"),
        ("train.clip_norm", "train.clip_norm"),
        ("epochs", "train.steps"),
        ("more augmentation", "data.augment"),
        ("fine-tune", "init"),
    ],
)
def test_what_people_call_it_finds_it(word: str, first: str) -> None:
    assert keys(word)[0] == first


def test_a_purpose_finds_all_that_serves_it() -> None:
    assert {"train.patience", "train.keep", "train.weight_decay"} <= set(keys("overfitting"))
    assert {"data.augment.flip", "data.augment.colour", "data.augment.scale_jitter"} <= set(keys("more augmentation"))
    assert {"train.batch_size", "train.accumulate", "train.precision"} <= set(keys("out of memory"))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("learnig rate", "got 'learnig rate'. Did you mean 'learning rate'?"),
        ("zzzz", "got 'zzzz'. Look through all of them with detdistill settings."),
        ("7", "got '7'."),
    ],
)
def test_what_nothing_is_about_is_refused(word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"^The word to look for must be .*") as refused:
        keys(word)
    assert said in str(refused.value)


def test_defaults_and_values_are_told() -> None:
    by_key = {(one.key, one.of): one for one in run_settings()}
    assert by_key["train.steps", ()].default == "2000"
    assert by_key["train.optimizer", ()].values == "sgd or adamw"
    assert by_key["data.augment.scale_jitter", ()].values == "list of 2 numbers, from 0.01 to 100"
    assert by_key["student.nms_threshold", ()].default in (
        "0.5 (fcos: 0.6, gfl: 0.6)",
        "0.6 (faster_rcnn: 0.5, retinanet: 0.5)",
    )
    assert by_key["student.box_bins", ("gfl",)].default == "17"
    assert by_key["method.alpha", ("aid",)].default == "0.1"
    assert by_key["seed", ()].default == "0"


def test_a_command_lists_its_keys(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train", "--keys", "--json", str(tmp_path / "keys.json")]) == 0
    told = capsys.readouterr().out
    assert "--dry-run  [train]" in told
    assert "train.lr = 0.001" in told
    assert not any(line.startswith(("teacher.", "method.", "alone")) for line in told.splitlines())
    listed = json.loads((tmp_path / "keys.json").read_text())["settings"]
    assert {"key": "train.lr", "default": "0.001"}.items() <= next(
        one for one in listed if one["key"] == "train.lr"
    ).items()
    assert main(["distill", "--keys", "--student", "gfl/tiny", "--method", "aid(frs)"]) == 0
    told = capsys.readouterr().out
    assert "student.box_bins = 17" in told
    assert "method.alpha = 0.1" in told
    assert "student.roi_samples" not in told
    assert "method.window" not in told
    assert main(["settings", "early stop"]) == 0
    assert capsys.readouterr().out.startswith("train.patience = 0\n")
