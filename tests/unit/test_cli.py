"""The command line: which job a command calls, and what each way to end says to the shell."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock, create_autospec

import pytest

import detdistill
from detdistill.api.pieces import split_arguments
from detdistill.cli import main
from detdistill.detectors.catalogue import build_detector, parse_detector
from detdistill.detectors.preprocess import with_pixel_statistics
from detdistill.errors import DataError
from detdistill.jobs.methods import setting_meanings
from detdistill.methods.catalogue import METHODS, describe, parse_method
from detdistill.methods.composition import structure
from detdistill.store.students import save_detector
from detdistill.training.signals import Interrupted

SHORT = ["--teacher", "runs/t", "--student", "fcos/tiny", "--data", "d", "--method", "frs", "--out", "runs/x"]


class Found:
    """A job's result."""

    def table(self) -> list[str]:
        return ["AP 12.5"]

    def as_dict(self) -> Mapping[str, object]:
        return {"AP": 12.5, "APs": None}


def replace_job(monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> Mock:
    """Puts a stand-in for a job, which refuses arguments that the job itself does not take."""
    home = importlib.import_module(f"detdistill.{module}")
    job: Mock = create_autospec(getattr(home, name), return_value=Found())
    monkeypatch.setattr(home, name, job)
    return job


def test_train_reads_the_short_form(monkeypatch: pytest.MonkeyPatch) -> None:
    job = replace_job(monkeypatch, "jobs.run", "train_job")
    line = [
        "train",
        "--detector",
        "fcos/tiny",
        "--data",
        "d",
        "--out",
        "r",
        "--steps",
        "5",
        "--seed",
        "2",
        "train.lr=1e-3",
    ]
    assert main(line) == 0
    config = job.call_args.args[0]
    assert (config.student.detector, config.data.folder, config.out) == ("fcos/tiny", Path("d"), Path("r"))
    assert (config.train.steps, config.seed, config.train.lr) == (5, 2, 0.001)
    assert job.call_args.kwargs["resume"] is False


def test_distill_reads_the_short_form(monkeypatch: pytest.MonkeyPatch) -> None:
    job = replace_job(monkeypatch, "jobs.run", "distill_job")
    assert main(["distill", *SHORT, "--alone", "runs/a", "--resume", "method.warmup_steps=3"]) == 0
    config = job.call_args.args[0]
    assert (config.teacher.source, structure(config.method), config.alone) == ("runs/t", "frs", Path("runs/a"))
    assert config.method.warmup_steps == 3
    assert job.call_args.kwargs["resume"] is True
    assert config.inherit is False


def test_distill_reads_a_method_made_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    job = replace_job(monkeypatch, "jobs.run", "distill_job")
    line = ["aid(ikd(frs+ssim), alpha=0.5)" if word == "frs" else word for word in SHORT]
    assert main(["distill", *line, "--inherit", "method.control=true"]) == 0
    config = job.call_args.args[0]
    assert config.inherit is True
    assert config.method == parse_method("aid(ikd(frs + ssim), alpha=0.5, control=true, strength=3.0)")


def test_distill_itself_takes_the_teachers_architecture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = replace(parse_detector("fcos/tiny"), fpn_channels=16)
    save_detector(build_detector(settings, ("a",), seed=0), tmp_path / "t", image={"short_side": 8, "long_side": 8})
    line = ["distill", "--self", "--teacher", str(tmp_path / "t"), "--data", "d", "--method", "frs", "--out", "r"]
    job = replace_job(monkeypatch, "jobs.run", "distill_job")
    assert main(line) == 0
    assert job.call_args.args[0].student.settings == with_pixel_statistics(settings)
    chain = replace_job(monkeypatch, "jobs.run", "generations_job")
    assert main([*line, "--generations", "3", "--resume"]) == 0
    assert chain.call_args.args[0] == job.call_args.args[0]
    assert {key: chain.call_args.kwargs[key] for key in ("generations", "resume")} == {"generations": 3, "resume": True}
    job.assert_called_once()


def test_distill_reads_a_file_and_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    job = replace_job(monkeypatch, "jobs.run", "distill_job")
    assert main(["distill", *SHORT]) == 0
    first = job.call_args.args[0]
    file = tmp_path / "a=b.yaml"
    file.write_text(first.yaml())
    assert main(["distill", str(file)]) == 0
    assert job.call_args.args[0] == first
    assert main(["distill", str(file), "method.warmup_steps=9", "seed=1"]) == 0
    assert (job.call_args.args[0].method.warmup_steps, job.call_args.args[0].seed) == (9, 1)


MEASURED = {"agnostic": False, "confusion": None, "curves": None, "score": 0.3, "interval": False}


@pytest.mark.parametrize(
    ("name", "line", "args", "kwargs"),
    [
        ("demo.demo_job", ["demo"], (), {"out": Path("runs/demo"), "seed": 0}),
        ("demo.demo_job", ["demo", "--out", "o", "--seed", "4"], (), {"out": Path("o"), "seed": 4}),
        (
            "jobs.evaluate.evaluate_job",
            ["evaluate", "runs/x", "--data", "d", "--split", "train", "--backend", "pycocotools"],
            ("runs/x", Path("d")),
            {"split": "train", "protocol": "coco", "backend": "pycocotools", **MEASURED},
        ),
        (
            "jobs.evaluate.evaluate_job",
            ["evaluate", "runs/x", "--data", "d", "--protocol", "aid_merged"],
            ("runs/x", Path("d")),
            {"split": "val", "protocol": "aid_merged", "backend": "hotcoco", **MEASURED},
        ),
        (
            "jobs.evaluate.evaluate_job",
            ["evaluate", "runs/x", "--data", "d", "--agnostic", "--confusion", "c.png", "--score", "0.5"],
            ("runs/x", Path("d")),
            {
                "split": "val",
                "protocol": "coco",
                "backend": "hotcoco",
                "agnostic": True,
                "confusion": Path("c.png"),
                "score": 0.5,
                "interval": False,
                "curves": None,
            },
        ),
        (
            "jobs.predict.predict_job",
            ["predict", "runs/x", "a.png", "folder", "--out", "o", "--score", "0.5", "--agnostic"],
            ("runs/x", (Path("a.png"), Path("folder"))),
            {
                "data": None,
                "out": Path("o"),
                "coco": None,
                "class_scores": False,
                "frames": False,
                "score": 0.5,
                "agnostic": True,
            },
        ),
        (
            "scenes.write.make_scenes_job",
            ["data", "make", "scenes", "--out", "o", "--train", "3", "--val", "2", "--seed", "1", "--kitti"],
            (Path("o"),),
            {"train": 3, "val": 2, "seed": 1, "kitti": True},
        ),
        (
            "papers.coco_traffic.make_coco_traffic_job",
            ["data", "make", "coco-traffic", "--coco", "c", "--out", "o"],
            (Path("c"), Path("o")),
            {},
        ),
        ("jobs.data.check_data_job", ["data", "check", "d"], (Path("d"),), {}),
        (
            "jobs.audit.audit_job",
            ["data", "audit", "d", "--teacher", "t", "--out", "o", "--score", "0.5"],
            (Path("d"),),
            {"teacher": "t", "out": Path("o"), "split": "train", "score": 0.5, "images": 20},
        ),
    ],
)
def test_commands_call_their_jobs(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *,
    name: str,
    line: list[str],
    args: tuple[object, ...],
    kwargs: dict[str, object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = replace_job(monkeypatch, *name.rsplit(".", 1))
    assert main([*line, "--json", str(tmp_path / "r.json")]) == 0
    assert job.call_args.args == args
    assert {key: value for key, value in job.call_args.kwargs.items() if key != "progress"} == kwargs
    assert capsys.readouterr().out == "AP 12.5\n"
    command = " ".join(line[: 3 if line[1:2] == ["make"] else 2 if line[0] == "data" else 1])
    written = {"written_by": f"detdistill {command}", "AP": 12.5, "APs": None}
    assert json.loads((tmp_path / "r.json").read_text()) == written


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["trian"], "got 'trian'. Did you mean 'train'?"),
        (["data", "chek", "d"], "after 'data' must be one of make, check, convert, audit, got 'chek'. Did you"),
        (["data", "make", "senes"], "one of scenes, coco-traffic, got 'senes'. Did you mean 'scenes'?"),
        (["data", "make", "--out", "o"], "command after 'data make' must be one of scenes, coco-traffic, got '"),
        (["data", "make", "coco-traffic", "--out", "o"], "requires an argument"),
        (["evaluate", "x", "--data", "d", "--protocol", "kity"],
         "must be one of aid, aid_merged, coco, kitti, kitti11, voc, voc11, got 'kity'. Did you mean 'kitti'?"),
        (["distill", "--techer", "x"], "Unknown option: --techer. Did you mean --teacher?"),
        (["train", "--lr", "0.1"], "Unknown option: --lr. Write it as the setting train.lr=VALUE."),
        (["train", "--batch-size=4"], "--batch-size=4. Write it as the setting train.batch_size=VALUE."),
        (["distill", "--imgsz", "320"], "--imgsz. Write it as the setting data.image.short_side=VALUE."),
        (["evaluate", "--lr", "0.1"], "Unknown option: --lr. Add --help to see what there is."),
        (["train", "--detector", "fcos/tiny", "--data", "d", "--out", "r", "lr=1"], "'lr'. Did you mean 'train.lr'?"),
        (["train", "--detector", "fcos/tiny", "--out", "r", "data.image=9"], "Write data.image.KEY=VALUE, in a file "),
        (["evaluate", "fcos/tiny", "--data", "d"], "Train it first, by detdistill train --detector fcos/tiny, and "),
        (["train", "--steps", "many"], 'Invalid value for --steps: unable to convert "many" into int.'),
        (["evaluate"], 'Command "evaluate" parameter CHECKPOINT requires an argument.'),
        (["evaluate", "x", "--data", "d", "--split", "tset"], 'Invalid value "tset" for --split.'),
        (["predict", "x", "--out", "o"], "predict must be given an image or a folder of images, got none."),
        (["methods", "fsr"], "got 'fsr'. Did you mean 'frs'?"),
        (["methods", "frs + ssim"], "The method must be one name, got 'frs + ssim'. Ask for each method by itself"),
        (["reproduce", "aid", "--plan"], "--plan must come with --scale full, got --scale smoke. Add --scale full."),
        (["reproduce", "frs", "--row", "zzz"], "faster-1x, fcos-2x, got 'zzz'. Choose one of them."),
        (["distill", "none.yaml"], "none.yaml must be a readable file, got: No such file or directory."),
        (["distill", *SHORT[:-4], "--out", "r", "--method", "aid(fsr)"], "must be one of aid, "),
        (["distill", *SHORT, "--generations", "2"], "--generations must come with --self, got 2 generations"),
        (["distill", *SHORT, "--self"], "the student of a self-distillation must be its teacher's architecture, got a"),
        (["distill", *SHORT, "train.lrr=1"], "got the unknown 'lrr'. Did you mean 'lr'?"),
        (["distill", *SHORT[:-4], "--out", "r", "--method", "fsr"], "ssim, sum, got 'fsr'. Did you mean 'frs'?"),
        (["train", "--detector", "fcos/resnet81", "--data", "d", "--out", "r"], "Did you mean 'resnet18'?"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_two(capsys: pytest.CaptureFixture[str], line: list[str], message: str) -> None:
    assert main(line) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert message in said.err
    assert len(said.err.splitlines()) == 1


def test_a_jobs_own_error_is_told_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = replace_job(monkeypatch, "jobs.data", "check_data_job")
    job.side_effect = DataError("d must be a data set, got none. Check the path.")
    assert main(["data", "check", "d"]) == 2
    assert capsys.readouterr().err == "error: d must be a data set, got none. Check the path.\n"


def test_a_refusal_of_the_system_is_told_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = replace_job(monkeypatch, "jobs.data", "check_data_job")
    job.side_effect = PermissionError(13, "Permission denied", "/nowhere/d")
    assert main(["data", "check", "d"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: /nowhere/d must be a path that can be used, got: Permission denied."
    )
    job.side_effect = OSError("no file in it")
    with pytest.raises(OSError, match="no file in it"):
        main(["data", "check", "d"])


def test_an_interrupted_run_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    job = replace_job(monkeypatch, "jobs.run", "distill_job")
    job.side_effect = Interrupted(7, Path("runs/x/checkpoints/7"))
    assert main(["distill", *SHORT]) == 130
    assert "interrupted after step 7; the checkpoint is runs/x/checkpoints/7" in capsys.readouterr().err
    job.side_effect = KeyboardInterrupt
    assert main(["distill", *SHORT]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_methods_are_listed_and_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["methods", "--json", str(tmp_path / "all.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    written = json.loads((tmp_path / "all.json").read_text())
    assert written.pop("written_by") == "detdistill methods"
    assert [line.split()[0] for line in lines[: len(written)]] == sorted(written) == sorted(METHODS)
    assert all(described[key] for described in written.values() for key in ("formula", "needs", "source", "differs"))
    assert main(["methods", "aid"]) == 0
    assert "  alpha = 0.1" in capsys.readouterr().out.splitlines()
    assert main(["methods", "frs"]) == 0
    told = capsys.readouterr().out
    for title in ("Formula:", "Needs:", "Source:", "Differs from the source:", "  warmup_steps = 500"):
        assert title in told.splitlines()
    meaning = "multiplier of the class term; null takes the published one, 0 leaves the term out."
    assert f"  class_gain = null\n      {meaning}\n" in told


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_setting_says_what_it_means(name: str) -> None:
    # What a wrapper wraps stands in its parentheses and has no default.
    assert setting_meanings(name).keys() - {"recipe"} == describe(name).defaults.keys()


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == detdistill.__version__
    assert main([]) == 0
    listed = capsys.readouterr().out
    for name in ("demo", "train", "distill", "evaluate", "predict", "methods", "data"):
        assert f" {name} " in listed
        assert main([name, "--help"]) == 0
        assert capsys.readouterr().out.startswith(f"Usage: detdistill {name}")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), (None, ())),
        (("a=1",), (None, ("a=1",))),
        (("run.yaml",), (Path("run.yaml"), ())),
        (("run.yaml", "a=1", "b"), (Path("run.yaml"), ("a=1", "b"))),
    ],
)
def test_the_first_argument_may_be_a_file(arguments: tuple[str, ...], expected: object) -> None:
    assert split_arguments(arguments) == expected


def test_public_names_are_there_lazily() -> None:
    for name in detdistill.__all__:
        assert name in dir(detdistill)
        assert getattr(detdistill, name) is not None
    assert detdistill.errors.DistillError.__name__ == "DistillError"
    with pytest.raises(AttributeError, match="module 'detdistill' has no attribute 'Batsch'"):
        detdistill.Batsch  # noqa: B018


@pytest.mark.parametrize("line", [["help"], ["help", "train"], ["train", "help"], ["data", "make", "help"]])
def test_help_is_a_word_too(
    line: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*(word for word in line if word != "help"), "--help"]) == 0
    expected = capsys.readouterr().out
    assert main(line) == 0
    assert capsys.readouterr().out == expected
    # A file of that name is meant where there is one.
    (tmp_path / "help").write_text("student: [")
    assert main(["train", "help"]) == 2


def test_help_has_no_default_for_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--self" in shown
    assert "default: False" not in shown
    assert "default: 1" in shown
