"""Config files and `key.sub=value` settings: what is taken, what is refused, and with which sentence."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from detdistill.data.transforms import ImageSettings
from detdistill.detectors.catalogue import build_detector, parse_detector
from detdistill.errors import ConfigError
from detdistill.jobs.config import read_run_config
from detdistill.jobs.settings import DataSettings, RunConfig, StudentChoice
from detdistill.methods.frs import FRSSettings
from detdistill.methods.ssim import SSIMSettings
from detdistill.settings.overrides import apply_override, parse_override
from detdistill.settings.strict_yaml import dump_yaml, load_yaml, parse_yaml
from detdistill.store.students import DESCRIPTION, save_detector, saved_settings
from detdistill.training.settings import TrainSettings
from every_method import RECIPES
from run_files import distil, refusal, run_file

FILE = """
data:
  folder: scenes
  image: {short_side: 96, long_side: 160}
student: fcos/tiny
teacher:
  source: runs/teacher
  allow: [a, b]
method:
  name: frs
  warmup_steps: 7
train: {steps: 12, batch_size: 4, lr: 1e-3, milestones: [0.5, 0.9]}
seed: 3
out: runs/x
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return run_file(tmp_path, FILE)


# --- YAML -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("", None),
        ("a: 1e-3", {"a": 0.001}),
        ("a: 2E4", {"a": 20000.0}),
        ("a: no", {"a": "no"}),
        ("a: 010", {"a": 10}),
        ("a: 1:30", {"a": "1:30"}),
        ("a: 2026-01-01", {"a": "2026-01-01"}),
        ("a: [1, -2.5, .5, ~, true]", {"a": [1, -2.5, 0.5, None, True]}),
    ],
)
def test_yaml_has_no_surprises(text: str, content: object) -> None:
    assert parse_yaml(text, "x") == content


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: 1\nb: 2\na: 3",
            "x, line 3: 'a' must stand once in its section, got it on line 1 and on line 3. Remove one",
        ),
        ("a: {b: 1,\n b: 2}", "x, line 2: 'b' must stand once"),
        ("a: [1", "x, line 1 must be YAML, got: expected ',' or ']'"),
        ("a: !!python/name:os.system", "x, line 1 must be YAML, got: could not determine a constructor"),
        ("\x00", "x must be plain YAML, got: unacceptable character"),
        ("? [1, 2]\n: 3", "x, line 1: every key must be a word"),
    ],
)
def test_bad_yaml_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_yaml(text, "x")
    assert str(refused.value).startswith(message)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml must be a readable file, got: No such file"):
        load_yaml(tmp_path / "none.yaml")
    (tmp_path / "image.yaml").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ConfigError, match="must be YAML in UTF-8, got other bytes"):
        load_yaml(tmp_path / "image.yaml")


def test_what_is_dumped_is_read_back() -> None:
    words = ["1e-3", "no", "true", "010", "null", "", "x: y", "~", "1.5", "ünï"]
    content = {"words": words, "numbers": (1, 2.5, 1e-05, True, None), "path": Path("a/b"), "deep": {"x": [{"y": 1}]}}
    expected = {"words": words, "numbers": [1, 2.5, 1e-05, True, None], "path": "a/b", "deep": {"x": [{"y": 1}]}}
    assert parse_yaml(dump_yaml(content), "x") == expected


# --- overrides ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=9", {"a": {"b": 9}, "methods": [{"t": 1}, {"t": 2}], "none": None}),
        ("methods.1.t=9", {"a": {"b": 1}, "methods": [{"t": 1}, {"t": 9}], "none": None}),
        ("methods.2=9", {"a": {"b": 1}, "methods": [{"t": 1}, {"t": 2}, 9], "none": None}),
        ("none.c=[1, x]", {"a": {"b": 1}, "methods": [{"t": 1}, {"t": 2}], "none": {"c": [1, "x"]}}),
        ("new.c=a=b", {"a": {"b": 1}, "methods": [{"t": 1}, {"t": 2}], "none": None, "new": {"c": "a=b"}}),
    ],
)
def test_a_setting_reaches_into_sections_and_lists(text: str, expected: object) -> None:
    tree = {"a": {"b": 1}, "methods": [{"t": 1}, {"t": 2}], "none": None}
    apply_override(tree, parse_override(text))
    assert tree == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("methods.3.t=1", "'3' in 'methods.3.t=1' must be a position from 0 to 1, got '3': methods is a list of 2."),
        ("methods.x=1", "'x' in 'methods.x=1' must be a position from 0 to 2, got 'x'"),
        ("methods.-1=1", "'-1' in 'methods.-1=1' must be a position"),
        ("empty.0.a=1", "'0' in 'empty.0.a=1' must be set as a whole, since it is empty"),
        ("a.b.c=1", "a.b in 'a.b.c=1' must be a section or a list, got the value 1. Set it with a.b=VALUE."),
    ],
)
def test_a_setting_that_leads_nowhere_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        apply_override({"a": {"b": 1}, "methods": [{"t": 1}, {"t": 2}], "empty": []}, parse_override(text))
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("text", ["foo", "=1", "a..b=1", ".a=1", ""])
def test_a_setting_must_have_its_form(text: str) -> None:
    with pytest.raises(ConfigError, match=r"must have the form key\.sub=value"):
        parse_override(text)


# --- runs -----------------------------------------------------------------------------------------------------------


def test_a_file_becomes_plain_settings(file: Path) -> None:
    config = distil(file)
    assert config.data.image == ImageSettings(short_side=96, long_side=160)
    assert config.student == StudentChoice("fcos/tiny", parse_detector("fcos/tiny"))
    assert config.teacher is not None
    assert (config.teacher.source, config.teacher.allow) == ("runs/teacher", ("a", "b"))
    assert config.method == FRSSettings(warmup_steps=7, strength=3.0)
    assert config.train == TrainSettings(steps=12, batch_size=4, lr=0.001, milestones=(0.5, 0.9), seed=3)
    assert (config.seed, config.out, config.alone) == (3, Path("runs/x"), None)


@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize("detector", ["fcos/tiny", "retinanet/resnet18", "faster_rcnn/small"])
def test_a_resolved_run_runs_again_as_it_is(tmp_path: Path, file: Path, name: str, detector: str) -> None:
    config = distil(file, f"method={name}", f"student={detector}", "alone=runs/alone")
    resolved = tmp_path / "config.yaml"
    resolved.write_text(config.yaml())
    again = distil(resolved)
    assert again == config
    assert again.yaml() == config.yaml()


def test_options_win_over_the_file_and_settings_over_options(file: Path) -> None:
    assert distil(file, train__steps=20).train.steps == 20
    assert distil(file, "train.steps=30", train__steps=20).train.steps == 30
    assert distil(file, train__steps=None).train.steps == 12


def test_settings_reach_into_lists(file: Path) -> None:
    assert distil(file, "train.milestones.1=0.8", "teacher.allow.2=c").train.milestones == (0.5, 0.8)
    # The file does not write this list: the default is what is changed.
    assert distil(file, "data.augment.scale_jitter.1=1.5").data.augment.scale_jitter == (1.0, 1.5)


def test_one_seed_decides(file: Path) -> None:
    assert distil(file, "seed=9").train.seed == 9
    assert distil(file, "train.seed=9") == distil(file, "seed=9")
    file.write_text(FILE.replace("steps: 12", "steps: 12, seed: 4"))
    assert refusal(file) == f"{file}: the seed must stand once, got seed and train.seed. Remove train.seed."


def test_another_method_drops_the_old_ones_settings(file: Path) -> None:
    assert distil(file, method__name="ssim").method == SSIMSettings(strength=3.0)


def test_another_student_drops_the_old_ones_settings(tmp_path: Path, file: Path) -> None:
    resolved = tmp_path / "config.yaml"
    resolved.write_text(distil(file).yaml())
    student = distil(resolved, "student.norm=frozen", student__detector="fcos/small").student
    assert student.settings == dataclasses.replace(parse_detector("fcos/small"), norm="frozen")


def test_the_same_student_keeps_the_files_settings(file: Path) -> None:
    file.write_text(FILE.replace("student: fcos/tiny", "student: {detector: fcos/tiny, norm: group}"))
    assert distil(file, student__detector="fcos/tiny").student.settings.norm == "group"


def test_training_alone_leaves_the_teacher_aside(file: Path) -> None:
    config = read_run_config(file, purpose="train")
    assert (config.teacher, config.method) == (None, None)
    assert config.train == distil(file).train


def test_the_short_form_needs_no_file() -> None:
    config = read_run_config(
        None, purpose="train", options={"student.detector": "fcos/tiny", "data.folder": Path("d"), "out": Path("r")}
    )
    assert config.data == DataSettings(folder=Path("d"))
    assert "teacher" not in config.as_dict()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["train.lrr=1"],
            "The command line: train.lrr must be a key of train, got the unknown 'lrr'. Did you mean 'lr'?",
        ),
        (["trian.lr=1"], "trian must be a key of a run, got the unknown 'trian'. Did you mean 'train'?"),
        (
            ["data.augment.flp=1"],
            "data.augment.flp must be a key of data.augment, got the unknown 'flp'. Did you mean 'flip'?",
        ),
        (
            ["data.image.shortside=1"],
            "must be a key of data.image, got the unknown 'shortside'. Did you mean 'short_side'?",
        ),
        (
            ["method.warmup=1"],
            "method.warmup must be a key of frs, got the unknown 'warmup'. Did you mean 'warmup_steps'?",
        ),
        (["student.nrm=batch"], "must be a key of student, got the unknown 'nrm'. Did you mean 'norm'?"),
        (["method.name=fsr"], "ikd, ld, mgd, pkd, queries, ssim, sum, got 'fsr'. Did you mean 'frs'?"),
        (["student.detector=fcos/resnet81"], "got 'resnet81'. Did you mean 'resnet18'?"),
        (["train.lr=fast"], "The command line: train.lr must be a number, got 'fast'. Change the value."),
        (["train.lr=.nan"], "train.lr must be a finite number, got nan."),
        (["train.steps=1.5"], "train.steps must be a whole number, got 1.5."),
        (["train.steps=true"], "train.steps must be a whole number, got true."),
        (["train.optimizer=sdg"], "train.optimizer must be sgd or adamw, got 'sdg'. Did you mean 'sgd'?"),
        (["train.milestones=3"], "train.milestones must be a list, got 3."),
        (
            ["train=3"],
            "train must be a section of keys, got 3. Write train.KEY=VALUE, in a file indented below ",
        ),
        (["student.pretrained=[1]"], "student.pretrained must be true or false or text or null, got [1]."),
        (
            ["data.augment.scale_jitter=[1, 1, 1]"],
            "data.augment.scale_jitter must be a list of 2 values, got [1, 1, 1].",
        ),
        (["data.augment.flip=2"], "augment.flip must be between 0 and 1, got 2.0."),
        (
            ["data.image={short_side: 3}"],
            "data.image.long_side must be given, got nothing. Give data.image.long_side a value.",
        ),
        (["data.folder="], "data.folder must be a data set folder or a COCO JSON, got nothing. Pass --data FOLDER"),
        (["seed=-1"], "train.seed must be at least 0, got -1. Raise it."),
        (["out="], "out must be a path, got nothing."),
        (
            ["teacher="],
            "teacher.source must be a run folder, a checkpoint, torchvision:NAME",
        ),
        (["student.detector=3"], "student.detector must be a detector such as fcos/resnet18, got 3. Pass --student"),
        (["train.lr=[1"], "The value in 'train.lr=[1', line 1 must be YAML"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(file: Path, settings: list[str], message: str) -> None:
    said = refusal(file, *settings)
    assert message in said
    assert "\n" not in said


def test_every_wrong_key_of_a_file_is_named(file: Path) -> None:
    file.write_text(FILE.replace("lr: 1e-3", "lrr: 1e-3, stesp: 4"))
    said = refusal(file).splitlines()
    assert len(said) == 2
    assert said[0].startswith(f"{file}: train.lrr must be a key of train")
    assert said[1].endswith("got the unknown 'stesp'. Did you mean 'steps'?")


def test_what_is_missing_is_named(file: Path) -> None:
    assert "The command line: student.detector must be" in refusal(None)
    assert "teacher.source must be" in refusal(None, student__detector="fcos/tiny")
    assert "method.name must be the name of a method, got nothing. Pass --method" in refusal(file, "method=")
    file.write_text(FILE.replace("out: runs/x", ""))
    assert (
        refusal(file) == f"{file}: out must be given, got nothing. Pass --out FOLDER, or write it in the config file."
    )


@pytest.mark.parametrize("text", ["- 1\n- 2", "3"])
def test_a_file_without_sections_is_refused(file: Path, text: str) -> None:
    file.write_text(text)
    assert "must be a section of keys, got" in refusal(file)


def test_the_splits_have_their_own_sources_or_the_folder() -> None:
    data = DataSettings(folder=Path("f"), val=Path("v.json"))
    assert (data.sources("train"), data.sources("val")) == ((Path("f"),), (Path("v.json"),))
    with pytest.raises(ConfigError, match=r"data\.folder must be"):
        DataSettings(val=Path("v.json"))


# --- a run that starts from another ---------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A saved detector of an architecture that no short name gives, begun with weights from a file."""
    settings = dataclasses.replace(parse_detector("gfl/tiny"), fpn_channels=16, box_bins=9)
    save_detector(build_detector(settings, ("a",), seed=0), tmp_path / "begun", image={})
    description = tmp_path / "begun" / DESCRIPTION
    content = json.loads(description.read_text())
    content["detector"]["pretrained"] = "gone.safetensors"
    description.write_text(json.dumps(content))
    return tmp_path / "begun"


def training(*settings: str, file: Path | None = None, **options: object) -> RunConfig:
    plain = {"data.folder": "d", "out": "r"} if file is None else {}
    return read_run_config(file, settings, purpose="train", options=plain | options)


def test_a_student_that_nobody_names_is_what_the_run_starts_from(source: Path, tmp_path: Path) -> None:
    config = training(init=source)
    saved = saved_settings(source)
    assert (config.init, config.student.detector) == (str(source), "gfl/test_resnet")
    # Its weights are taken over: the file it began with is not asked for again.
    assert config.student.settings == dataclasses.replace(saved, pretrained=None)
    assert training(f"init={source}") == config
    changed = training("student.score_threshold=0.2", init=source).student.settings
    assert changed == dataclasses.replace(saved, pretrained=None, score_threshold=0.2)
    file = run_file(tmp_path, f"{{data: d, out: r, init: {source}, student: {{nms_threshold: 0.4}}}}")
    assert training(file=file).student.settings == dataclasses.replace(saved, pretrained=None, nms_threshold=0.4)
    again = run_file(tmp_path, config.yaml())
    assert training(file=again) == config
    # A student's own word wins, and so does no start at all.
    assert training(init=source, **{"student.detector": "fcos/tiny"}).student == StudentChoice(
        "fcos/tiny", parse_detector("fcos/tiny")
    )
    assert training("init=", file=again).init is None


def test_a_distilled_student_starts_from_a_run_too(file: Path, source: Path) -> None:
    assert distil(file, init=source).student.settings == parse_detector("fcos/tiny")
    assert distil(file, init=source).init == str(source)
    file.write_text(FILE.replace("student: fcos/tiny", ""))
    assert distil(file, init=source).student.settings.family == "gfl"
    # The same file trains the student alone, from the same weights.
    assert read_run_config(file, [f"init={source}"], purpose="train").init == str(source)
    options = {"teacher.source": source, "init": source}
    itself = read_run_config(file, purpose="distill", options=options, itself=True)
    assert (itself.init, itself.student.settings) == (str(source), saved_settings(source))


def test_a_start_that_cannot_be_is_refused(file: Path, source: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        training(init="torchvision:fcos_resnet50_fpn")
    assert str(caught.value) == (
        "The command line: student.detector must be a detector such as fcos/resnet18 for a run that starts from "
        "torchvision:fcos_resnet50_fpn, got nothing. Pass --detector."
    )
    with pytest.raises(ConfigError, match=r"none must be a run folder, a checkpoint, .*, got nothing there\."):
        training(init="none")
    assert refusal(file, f"init={source}", inherit=True) == (
        f"{file} and the command line: inherit must be false for a student that starts from {source}, got true. Leave "
        "out --inherit, or --init."
    )
    assert "init must be text or null, got 3." in refusal(file, "init=3")
