"""A study of twins: trained or taken, killed and gone on with, judged; and students that were trained elsewhere."""

from __future__ import annotations

import inspect
import json
import shutil
import time
from dataclasses import replace
from functools import partial
from itertools import count, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from broken_code import broken
from coco_by_hand import CLASSES, HEIGHT, WIDTH, draw_data
from detdistill import distill, prove, run_config
from detdistill.cli import main
from detdistill.errors import ConfigError, DataError, OutsideError
from detdistill.jobs import prove as jobs_prove
from detdistill.jobs.config import read_run_config
from detdistill.jobs.found import Found, read_found, read_results
from detdistill.jobs.given_runs import compare_job
from detdistill.jobs.opening import read_split
from detdistill.jobs.prove import Study, StudyRun, prove_job, prove_plan
from detdistill.jobs.settings import RunConfig
from detdistill.jobs.side_by_side import side_by_side
from detdistill.jobs.verdicts import ProveOutcome
from detdistill.progress import Silence
from detdistill.store.layout import RunFolder, StudyFolder
from detdistill.store.students import save_detector
from scenes_in_memory import tiny_teacher
from tiny_training import KILLED, die_before, fork
from watched_jobs import Watcher

SMALL = ("student.head_depth=1", "student.strides=[8, 16, 32]", "student.fpn_channels=16", "seed=4")
SMALL += ("train.batch_size=2", "train.steps=2", "train.warmup_steps=1", "train.checkpoint_every=1")
SMALL += ("train.device=cpu", "train.log_every=1", "data.image.short_side=32", "data.image.long_side=48")
TWO = Study(seeds=2)
# What is never the same twice.
TIMES = ("training",)


def config_of(home: Path, out: Path, *changes: str, **options: object) -> RunConfig:
    words = {"data": home / "data", "student": "fcos/test_resnet", "teacher": home / "teacher", "method": "hint"}
    return read_run_config(None, [*SMALL, *changes], purpose="distill", options=words | options | {"out": out})


def verdict_of(out: Path) -> dict[str, Any]:
    content = json.loads(StudyFolder(out).verdict.read_text().replace(str(out), "OUT"))
    return {key: value for key, value in content.items() if key not in TIMES}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prove")
    draw_data(folder / "data")
    teacher = tiny_teacher("fcos", classes=CLASSES)._detector
    save_detector(teacher, folder / "teacher", image={"short_side": HEIGHT, "long_side": WIDTH})
    return folder


@pytest.fixture(scope="module")
def done(home: Path) -> tuple[Path, ProveOutcome, Watcher]:
    """A study of two seeds that went through at once."""
    watcher, out = Watcher(), home / "study"
    return out, prove_job(config_of(home, out, equal_time=True), TWO, progress=watcher), watcher


def test_a_study_trains_twins_and_judges_them(home: Path, done: tuple[Path, ProveOutcome, Watcher]) -> None:
    out, outcome, watcher = done
    place = StudyFolder(out)
    assert outcome.verdict.same_steps.seeds == (4, 5)
    assert {seed: one.twin for seed, one in outcome.twins.items()} == {4: True, 5: True}
    assert [*outcome.students[4]] == ["alone", "distilled", "alone_equal_time"]
    for seed in (4, 5):
        first = [RunFolder(place.run(seed, name)).config.read_text() for name in ("alone", "distilled")]
        assert all(f"seed: {seed}\n" in text for text in first)
        results = json.loads(RunFolder(place.run(seed, "distilled")).results.read_text())
        for name in ("alone", "distilled", "alone_equal_time"):
            assert outcome.students[seed][name]["AP"] == pytest.approx(results[name]["AP"], abs=1e-9)
        assert results["alone_run"]["twin"]
    assert json.loads(place.verdict.read_text()) == json.loads(json.dumps(outcome.as_dict()))
    kinds = outcome.as_dict()["error_types"]
    assert all({"teacher", "alone", "distilled"} <= kinds[str(seed)].keys() for seed in (4, 5))
    assert any(line.startswith("AP50 lost to") for line in outcome.table())
    assert place.picture.read_bytes().startswith(b"\x89PNG")
    table = "\n".join(outcome.table())
    assert outcome.verdict.sentence() in table
    assert outcome.verdict.rule in table
    why = outcome.beside["diagnosis"]
    assert set(why.table()) <= set(outcome.table())
    named = {cause["name"]: cause for cause in why.as_dict()["causes"]}
    assert "the teacher has 0.0 AP on these images" in named["no headroom"]["evidence"]
    assert "no headroom" in named
    assert not named.keys() & {"no twin", "strength", "stopped early", "steps not finite"}
    assert "seed 4, 5: alone: the same run but for the teacher" in table
    said = watcher.text()
    assert said.index(outcome.verdict.rule) < said.index("prove: 12")  # beforehand


def test_what_was_found_is_kept_with_what_it_was_found_on(
    home: Path, done: tuple[Path, ProveOutcome, Watcher], tmp_path: Path
) -> None:
    val = read_split(home / "data", "val", progress=Silence())
    files = sorted((StudyFolder(done[0]).found(4, "alone").parent).iterdir())
    assert [file.stem for file in files] == ["alone", "alone_equal_time", "distilled", "teacher"]
    found = read_found(files[0], val, agnostic=False)
    assert [one.image_id for one in found] == val.image_ids.tolist()
    one = Found(val.digest(), False, found)
    one.write(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == files[0].read_bytes()
    moved = replace(val, boxes=val.boxes + 1)
    other_ids = replace(val, image_ids=val.image_ids + 1)
    for other, agnostic in ((moved, False), (other_ids, False), (val, True)):
        with pytest.raises(ConfigError, match=r"must be of these 3 images as they are labelled now.*Make it anew\."):
            read_found(files[0], other, agnostic=agnostic)
    (tmp_path / "cut").write_bytes(files[0].read_bytes()[:-5])
    with pytest.raises(ConfigError, match=r"must hold what a detector found, got"):
        read_found(tmp_path / "cut", val, agnostic=False)
    with pytest.raises(ConfigError, match=r"must hold what a detector found, got"):
        read_found(tmp_path / "none", val, agnostic=False)


def test_runs_that_are_there_are_taken_and_others_are_refused(
    home: Path, done: tuple[Path, ProveOutcome, Watcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, outcome, _ = done
    trained: list[tuple[int, str]] = []
    monkeypatch.setattr(StudyRun, "run", lambda run, progress=None: trained.append((run.seed, run.name)))
    config, watcher = config_of(home, out), Watcher()
    with pytest.raises(ConfigError, match=r"must be new or empty.*go on with that run by --resume"):
        prove_job(config, TWO)
    again = prove_job(replace(config, equal_time=True), replace(TWO, worth=20.0), resume=True, progress=watcher)
    assert (trained, again.students, again.verdict.worth) == ([], outcome.students, 20.0)
    assert "4 of 4 runs are there, and taken" in watcher.lines
    outcome.write()
    with pytest.raises(ConfigError, match=r"train\.lr must be 0\.001 to resume from .*seed_4/alone/"):
        prove_job(config_of(home, out, "train.lr=0.5"), TWO, resume=True)
    with pytest.raises(ConfigError, match=r"method\.\w+ must be .* to resume from .*seed_4/distilled/"):
        prove_job(config_of(home, out, method="frs"), TWO, resume=True)
    plan = prove_plan(config, Study(seeds=3), resume=True)
    assert (plan.seeds, plan.steps) == ((4, 5, 6), (2, 2))
    assert plan.seconds == pytest.approx(2 * (plan.alone.step_seconds or 0) + 2 * (plan.distilled.step_seconds or 0))
    place = StudyFolder(out)
    kept = place.found(5, "distilled").read_bytes()
    place.found(5, "distilled").write_bytes(kept[:-1])
    with pytest.raises(ConfigError, match="must hold what a detector found"):
        prove_job(config, TWO, resume=True)
    assert trained == [(5, "distilled")]
    place.found(5, "distilled").write_bytes(kept)


@pytest.mark.parametrize("killed", [*(pytest.param(at, marks=pytest.mark.slow) for at in (2, 70)), "keeping"])
def test_a_study_that_was_killed_comes_to_the_same_verdict(
    home: Path, done: tuple[Path, ProveOutcome, Watcher], tmp_path: Path, killed: int | str
) -> None:
    out, whole = tmp_path / "killed", tmp_path / "whole"
    shutil.copytree(done[0], whole)
    config = config_of(home, out)
    with pytest.MonkeyPatch.context() as patch:
        if isinstance(killed, int):
            process = fork(partial(die_before, lambda: prove_job(config, TWO), out, killed))
            process.join()
            assert process.exitcode == KILLED
        else:
            begun_anew(done[0], out)
            dying(patch, at=4)
            with pytest.raises(KeyboardInterrupt):
                prove_job(config, TWO, resume=True)
            patch.undo()
        assert not StudyFolder(out).verdict.exists()
        prove_job(config, TWO, resume=True)
        prove_job(replace(config, out=whole), TWO, resume=True)
    assert verdict_of(out) == verdict_of(whole)
    assert StudyFolder(out).picture.read_bytes() == StudyFolder(whole).picture.read_bytes()


def begun_anew(done: Path, out: Path) -> None:
    """The study as it was when all but its last run had been trained, and nothing had been found."""
    shutil.copytree(done, out)
    place = StudyFolder(out)
    for seed in (4, 5):
        shutil.rmtree(place.found(seed, "alone").parent)
    shutil.rmtree(place.run(5, "distilled"))
    place.verdict.unlink()
    place.picture.unlink()


def dying(patch: pytest.MonkeyPatch, *, at: int) -> None:
    """The process ends before it keeps what the n-th detector found."""
    real, numbers = Found.write, count(1)

    def write(found: Found, path: Path) -> None:
        if next(numbers) == at:
            raise KeyboardInterrupt
        real(found, path)

    patch.setattr(Found, "write", write)


@pytest.mark.slow
@pytest.mark.usefixtures("forking")
def test_runs_side_by_side_are_those_one_by_one(
    home: Path, done: tuple[Path, ProveOutcome, Watcher], tmp_path: Path
) -> None:
    out, whole, watcher = tmp_path / "two", tmp_path / "whole", Watcher()
    shutil.copytree(done[0], whole)
    prove_job(config_of(home, out), replace(TWO, jobs=2), progress=watcher)
    prove_job(config_of(home, whole), TWO, resume=True)
    assert verdict_of(out) == verdict_of(whole)


def test_an_error_of_one_run_ends_the_others_and_a_run_waits_for_what_it_needs() -> None:
    began: list[str] = []
    work = {name: partial(began.append, name) for name in ("a", "b")}
    assert [key for key, _ in side_by_side(work, 1, after={"b": "a"})] == began == ["a", "b"]
    started = time.monotonic()
    failing = {"slow": partial(time.sleep, 600), "bad": broken, "later": partial(time.sleep, 600)}
    with pytest.raises(OutsideError, match=r"got ValueError: no number \(.*broken_code\.py, line 8\)\. Repair"):
        list(side_by_side(failing, 2, after={"later": "slow"}))
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": 0}, "--seeds must be 1 to 1000"),
        ({"jobs": 0}, "--jobs must be 1 to 64"),
        ({"worth": 0.0}, "--worth must be points of AP above 0"),
    ],
)
def test_a_study_that_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Study(**changes)


def test_what_a_study_decides_itself_is_refused(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    for option in ({"alone": home / "teacher"}, {"longer": 2.0}):
        with pytest.raises(ConfigError, match=r"must be left out of a study.*Take it out of the settings\."):
            prove_job(config_of(home, out, **option), TWO)
    poor = json.loads((home / "data/val.json").read_text())
    poor["annotations"] = []
    (home / "data/poor.json").write_text(json.dumps(poor))
    with pytest.raises(DataError, match="must have objects in enough of its images"):
        prove_job(config_of(home, out, f"data.val={home}/data/poor.json", f"data.train={home}/data/train.json"), TWO)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHELASTIC_RUN_ID", "1")
        with pytest.raises(ConfigError, match="must be started by itself, got torchrun"):
            prove_job(config_of(home, out), TWO)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=10))
    with pytest.raises(ConfigError, match=r"free for 8 checkpoints, got 10 bytes"):
        prove_job(config_of(home, out), TWO)
    assert not out.exists()


def test_a_study_begins_where_a_killed_one_made_nothing_and_in_no_other_folder(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    StudyFolder(out).run(4, "alone").mkdir(parents=True)
    with pytest.raises(ConfigError, match="must be new or empty"):
        prove_plan(config_of(home, out), TWO)
    assert prove_plan(config_of(home, out), TWO, resume=True).steps == (4, 4)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="must hold a run to go on with, or nothing, got other files"):
        prove_plan(config_of(home, out), TWO, resume=True)


def test_the_words_are_those_of_distill(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(jobs_prove, "prove_job", lambda *given, **more: asked.append((*given, more)))
    words = {"data": home / "data", "student": "fcos/test_resnet", "teacher": home / "teacher", "method": "hint"}
    words |= {"out": tmp_path / "out"}
    own = {"seeds": 5, "worth": 2.0, "jobs": 3, "resume": True}
    others = {"unlabelled": home / "data/images", "strength": 1.0, "inherit": True, "equal_time": True, "steps": 3}
    others |= {"seed": 6, "allow_problems": True, "method": "frs", "student": "fcos/tiny", "init": home / "teacher"}
    others |= {"then": "torchvision:fcos_resnet50_fpn", "classes_map": "square=square"}
    mine = {
        "student": f"{Path(__file__).parents[2] / 'examples' / 'own_detector.py'}:CenterNet",
        "student_args": ["width=24"],
    }
    shared = inspect.signature(prove).parameters.keys() & inspect.signature(distill).parameters.keys()
    assert {*others, *words, *mine, "settings", "itself", "resume", "dry_run", "keys", "progress"} == shared
    for changed in (*({name: value} for name, value in others.items()), mine):
        settings = () if changed is mine else SMALL
        prove(*settings, **words | changed)
        assert asked.pop()[0] == run_config(*settings, purpose="distill", **words | changed)
    itself = {key: value for key, value in words.items() if key != "student"}
    prove(itself=True, **itself)
    assert asked.pop()[0] == run_config(purpose="distill", itself=True, **itself)
    prove(*SMALL, **words, **own)
    assert asked.pop()[1:] == (Study(5, 2.0, 3), {"resume": True, "progress": None})


def test_runs_of_elsewhere_and_results_of_other_programs_come_to_the_same_verdict(
    home: Path, done: tuple[Path, ProveOutcome, Watcher], tmp_path: Path
) -> None:
    place, outcome = StudyFolder(done[0]), done[1]
    distilled, alone = ([place.run(seed, name) for seed in (4, 5)] for name in ("distilled", "alone"))
    found = prove(runs=distilled, against=alone, out=tmp_path / "runs")
    assert isinstance(found, ProveOutcome)
    assert found.verdict.same_steps == outcome.verdict.same_steps
    assert all(one.twin for one in found.twins.values())
    assert StudyFolder(tmp_path / "runs").found(4, "alone").read_bytes() == place.found(4, "alone").read_bytes()
    val = read_split(home / "data", "val", progress=Silence())
    files = {}
    for name, seed in product(("distilled", "alone"), (4, 5)):
        results = [
            {"image_id": one.image_id, "category_id": val.category_ids[label], "bbox": [x, y, z - x, w - y], "score": s}
            for one in read_found(place.found(seed, name), val, agnostic=False)
            for (x, y, z, w), s, label in zip(one.boxes.tolist(), one.scores.tolist(), one.labels, strict=True)
        ]
        files[name, seed] = tmp_path / f"{name}_{seed}.json"
        files[name, seed].write_text(json.dumps(results, default=int))
    words = ["--runs", *(str(files["distilled", seed]) for seed in (4, 5))]
    words += ["--against", *(str(files["alone", seed]) for seed in (4, 5)), "--data", str(home / "data")]
    assert main(["prove", *words, "--out", str(tmp_path / "files")]) == 0
    told = verdict_of(tmp_path / "files")
    mine = outcome.verdict.same_steps.figures["AP"]
    assert told["same_steps"]["figures"]["AP"]["per_seed"] == pytest.approx(list(mine.per_seed), abs=1e-6)
    assert not told["twins"]["0"]["recorded"]
    swapped = compare_job([distilled[0]], [alone[1]], out=tmp_path / "swapped")
    assert swapped.twins[4].text() == "alone: NOT the same run but for the teacher: seed 5 (here 4)"


def test_given_runs_that_make_no_pairs_are_refused(
    home: Path, done: tuple[Path, ProveOutcome, Watcher], tmp_path: Path
) -> None:
    run, out = StudyFolder(done[0]).run(4, "alone"), tmp_path / "out"
    file = tmp_path / "found.json"
    file.write_text("[]")
    (tmp_path / "other.json").write_text("[]")
    for runs, against, data, said in (
        ([run], [], None, "must be as many students each, all of them different, got 1 and 0"),
        ([run], [run], None, "all of them different"),
        ([file], [tmp_path / "other.json"], None, "must be told the validation images"),
        ([home / "none"], [run], home / "data", "must be a run folder, a checkpoint or a"),
    ):
        with pytest.raises(ConfigError, match=said):
            compare_job(runs, against, data=data, out=out)
    for words, said in (
        ({"out": out, "steps": 3}, "must come without what trains students, got steps as well"),
        ({}, "--runs must come with --out FOLDER"),
        ({"out": out, "data": ["a", "b"]}, "--runs must come with one --data FOLDER"),
    ):
        with pytest.raises(ConfigError, match=said):
            prove(runs=[file], against=[run], **words)
    assert not out.exists()


GOOD: dict[str, Any] = {"image_id": 100, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([GOOD, GOOD | {"image_id": 7}], "image_id of Entry 2 of FILE must be an image of the validation data, got 7."),
        ([GOOD | {"image_id": True}], "image_id of Entry 1 of FILE must be a number or a name, got True."),
        (
            [GOOD | {"category_id": 2}],
            "category_id of Entry 1 of FILE must be a class of the validation data, 1, 4, got",
        ),
        ([GOOD | {"score": float("nan")}], "score of Entry 1 of FILE must be a finite number, got nan."),
        ([GOOD | {"score": "0.5"}], "score of Entry 1 of FILE must be a finite number, got '0.5'."),
        ([GOOD | {"bbox": [1, 2, -3, 4]}], "bbox of Entry 1 of FILE must be x, y, width and height in pixels, got"),
        ([GOOD | {"bbox": [1, 2, 3]}], "bbox of Entry 1 of FILE must be x, y, width and height in pixels, got"),
        ([GOOD | {"bbox": [1, 2, 3, None]}], "bbox of Entry 1 of FILE must be x, y, width and height in pixels, got"),
        ([[1]], "Entry 1 of FILE must have image_id, category_id, bbox and score, got [1]."),
        ({"annotations": []}, "FILE must be a list of results as COCO has them"),
        ([GOOD][:0], ""),
    ],
)
def test_results_of_another_program_are_read_entry_by_entry(
    home: Path, tmp_path: Path, content: Any, said: str
) -> None:
    val = read_split(home / "data", "val", progress=Silence())
    file = tmp_path / "found.json"
    file.write_text(json.dumps(content))
    if not said:
        assert [len(one.scores) for one in read_results(file, val)] == [0, 0, 0]
        return
    with pytest.raises(DataError) as refused:
        read_results(file, val)
    assert str(refused.value).startswith(said.replace("FILE", str(file)))
    assert len(str(refused.value).splitlines()) == 1
