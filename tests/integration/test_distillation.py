"""A real short distillation by the job: what it leaves, what it leaves alone, and its twin without a teacher."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from afresh import ran_afresh
from coco_by_hand import CLASSES, HEIGHT, WIDTH, draw_data
from detdistill.cli import main
from detdistill.data.transforms import ImageSettings
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.detectors.settings import DetectorSettings
from detdistill.distillation.step import DistillationStep
from detdistill.errors import ConfigError, DistillError
from detdistill.jobs import stages
from detdistill.jobs.config import read_run_config
from detdistill.jobs.paths import written_from
from detdistill.jobs.run import RunOutcome, distill_job, train_job
from detdistill.jobs.settings import RunConfig
from detdistill.methods.catalogue import build_recipe, describe
from detdistill.settings.strict_yaml import dump_yaml
from detdistill.store.students import load_detector, save_detector
from detdistill.training.logs import read_rows
from every_method import ALONE
from scenes_in_memory import tiny_student, tiny_teacher
from watched_jobs import Watcher, Witness

DRAWN = True
SMALL = [
    "student.head_depth=1",
    "student.strides=[8, 16, 32]",
    "student.score_threshold=0.001",
    "train.batch_size=4",
    "train.steps=3",
    "train.optimizer=sgd",
    "train.lr=0.002",
    "train.warmup_steps=1",
    "train.log_every=1",
    "train.checkpoint_every=2",
    "train.ema_decay=0.5",
    "train.device=cpu",
]
COMPARED = ("change_by_class", "cost")
STUDENT = ["student.fpn_channels=16", "seed=4"]
TEACHER = ["student.fpn_channels=24", "seed=9"]


@dataclass
class TeacherWitness(Witness):
    """Also the teachers that a training held, and their digests when it got them."""

    teachers: list[FrozenTeacher] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)

    def frozen(self, detector: Any, **options: Any) -> FrozenTeacher:
        teacher = FrozenTeacher(detector, **options)
        self.teachers.append(teacher)
        self.digests.append(teacher.digest())
        return teacher


@dataclass(frozen=True)
class Lab:
    """One teacher, the student alone, and the student distilled by frs, on the same data."""

    folder: Path
    config: RunConfig
    outcome: RunOutcome
    watcher: Watcher
    witness: TeacherWitness
    teacher_files: dict[str, str]


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def distillation(folder: Path, out: str, *changes: str, method: str = "frs", **options: object) -> RunConfig:
    chosen = {
        "data": folder / "data",
        "student": "fcos/test_resnet",
        "teacher": folder / "teacher",
        "method": method,
        "out": folder / out,
    }
    return read_run_config(None, [*SMALL, *STUDENT, *changes], purpose="distill", options=chosen | options)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Lab:
    folder = tmp_path_factory.mktemp("lab")
    draw_data(folder / "data")
    witness, watcher = TeacherWitness(), Watcher()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "train", witness.train)
        patch.setattr(stages, "FrozenTeacher", witness.frozen)
        common = {"data": folder / "data"}
        for out, detector, changes in (("teacher", "test_efficientnet", TEACHER), ("alone", "test_resnet", STUDENT)):
            options = {**common, "student": f"fcos/{detector}", "out": folder / out}
            train_job(read_run_config(None, [*SMALL, *changes], purpose="train", options=options))
        teacher_files = hashes(folder / "teacher")
        config = distillation(folder, "distilled", alone=folder / "alone")
        outcome = distill_job(config, progress=watcher)
    request.getfixturevalue("blank")
    return Lab(folder, config, outcome, watcher, witness, teacher_files)


def checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step_*"))


def test_the_teacher_stays_bit_identical_and_in_eval_mode(lab: Lab) -> None:
    (teacher,) = lab.witness.teachers
    assert [teacher.digest()] == lab.witness.digests
    assert not any(module.training for module in teacher._detector.modules())
    assert not any(p.requires_grad or p.grad is not None for p in teacher._detector.parameters())
    assert hashes(lab.folder / "teacher") == lab.teacher_files
    on_disk = FrozenTeacher(load_detector(lab.folder / "teacher").detector)
    assert on_disk.digest() == teacher.digest()


def test_no_checkpoint_holds_a_tensor_of_the_teacher(lab: Lab) -> None:
    student = load_detector(lab.folder / "distilled").detector
    teacher = load_detector(lab.folder / "teacher").detector
    recipe = build_recipe(lab.config.method, student.spec, teacher.spec)
    step = DistillationStep(student, FrozenTeacher(teacher), recipe)
    trained = {name for name, p in step.named_parameters() if p.requires_grad}
    expected = {f"step_module.{name}" for name in step.state_dict()}
    expected |= {f"optimizer.momentum_buffer.{name}" for name in trained}
    taught = {name: tensor for name, tensor in teacher.state_dict().items() if len(tensor.unique()) > 1}
    aligner_shapes = {tuple(p.shape) for name, p in step.named_parameters() if name.startswith("terms.")}
    foreign = {tuple(t.shape) for t in taught.values()} - {tuple(t.shape) for t in student.state_dict().values()}
    foreign -= aligner_shapes
    assert len(taught) > 30
    assert len(foreign) > 10
    assert [path.name for path in checkpoints(lab.folder / "distilled")] == ["step_0000002", "step_0000003"]
    files = sorted((lab.folder / "distilled").rglob("*.safetensors"))
    assert len(files) == 4
    for path in files:
        tensors = load_file(path)
        own = set(student.state_dict()) if path.name == "student.safetensors" else expected
        assert set(tensors) == own
        assert not [name for name, tensor in tensors.items() if tuple(tensor.shape) in foreign]
        by_shape: dict[tuple[int, ...], list[Tensor]] = {}
        for tensor in tensors.values():
            by_shape.setdefault(tuple(tensor.shape), []).append(tensor)
        copies = [
            name
            for name, tensor in taught.items()
            if any(torch.equal(tensor, other) for other in by_shape.get(tuple(tensor.shape), []))
        ]
        assert not copies
    others = {path.suffix for path in (lab.folder / "distilled").rglob("*") if path.is_file()}
    assert others <= {".safetensors", ".json", ".csv", ".yaml", ".png", ".html"}


def test_a_step_moved_to_meta_takes_the_teacher_along(lab: Lab) -> None:
    student = load_detector(lab.folder / "distilled").detector
    teacher = FrozenTeacher(load_detector(lab.folder / "teacher").detector)
    step = DistillationStep(student, teacher, build_recipe("frs", student.spec, teacher.spec)).to("meta")
    assert {p.device.type for p in step.parameters()} == {"meta"}
    assert {t.device.type for t in teacher._detector.state_dict().values()} == {"meta"}


def test_the_distilled_student_predicts_with_nothing_else_around(lab: Lab, tmp_path: Path) -> None:
    """A process that has the checkpoint's two files and one image, and may not import distillation."""
    last = checkpoints(lab.folder / "distilled")[-1]
    for name in ("student.safetensors", "student.json"):
        shutil.copy(last / name, tmp_path / name)
    shutil.copy(lab.folder / "data" / "images" / "val_0.png", tmp_path / "image.png")
    told = json.loads((tmp_path / "student.json").read_text(encoding="utf-8"))
    assert not [word for word in ("teacher", "align", "terms", str(lab.folder)) if word in json.dumps(told).lower()]
    program = """
import sys
sys.modules["detdistill.distillation"] = sys.modules["detdistill.methods"] = None
from pathlib import Path
from detdistill.settings.strict_yaml import dump_yaml
from detdistill.store.students import load_detector
from detdistill.jobs.predict import predict_job
loaded = load_detector(Path("student.safetensors"))
assert loaded.report.fraction == 1.0 and not loaded.report.missing and not loaded.report.unexpected
outcome = predict_job(".", [Path("image.png")], out=Path("found"), score=0.0)
print(len(outcome.found[0].boxes), ",".join(outcome.class_names))
"""
    code, said, errors = ran_afresh(program, cwd=tmp_path)
    assert code == 0, errors
    found, names = said.split()
    assert names == ",".join(CLASSES)
    written = json.loads((tmp_path / "found" / "predictions.json").read_text(encoding="utf-8"))
    assert len(written["image.png"]) == int(found) > 0
    assert (tmp_path / "found" / "image.png").is_file()


def test_the_twins_begin_alike_and_see_the_same_images(lab: Lab) -> None:
    alone, distilled = (lab.witness.begun[name] for name in ("alone", "distilled"))
    assert alone.keys() == distilled.keys()
    assert all(torch.equal(alone[name], distilled[name]) for name in alone)
    ours, theirs = lab.witness.fed["alone"], lab.witness.fed["distilled"]
    assert len(ours) == len(theirs) == 3
    for one, other in zip(ours, theirs, strict=True):
        assert (one.image_ids, one.seeds, one.sizes) == (other.image_ids, other.seeds, other.sizes)
        assert torch.equal(one.images, other.images)
        assert all(map(torch.equal, (t.boxes for t in one.targets), (t.boxes for t in other.targets)))
    rows = [read_rows(lab.folder / name / "metrics.csv") for name in ("alone", "distilled")]
    first = [float(row[0]["task"]) for row in rows]
    assert first[0] == first[1]
    # Distillation is the only difference, and it is one.
    assert float(rows[0][0]["total"]) == first[0]
    assert float(rows[1][0]["total"]) > first[1]
    weights = [load_file(checkpoints(lab.folder / name)[-1] / "student.safetensors") for name in ("alone", "distilled")]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_run_folder_holds_what_it_should(lab: Lab) -> None:
    run = lab.folder / "distilled"
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    told = {"method", "steps", "seconds", "clipping", "strength", "alone_run", "climb", "error_types", *COMPARED}
    assert {"teacher", "alone", "distilled", *told} == results.keys() - {"diagnosis", "gain"}
    assert results["clipping"] == {**results["clipping"], "steps": 3, "limit": 10.0}
    assert (results["alone_run"]["twin"], results["alone_run"]["differences"]) == (True, [])
    assert (results["method"], results["steps"]) == ("frs", 3)
    assert [one["verdict"] for one in results["climb"].values()] == ["unknown"] * 2
    for name in ("teacher", "alone", "distilled"):
        assert results["error_types"][name]["AP50"] == pytest.approx(results[name]["AP50"], abs=1e-9)
        assert {"AP", "AP50"} <= results[name].keys()
        assert all(0 <= results[name][key] <= 100 for key in ("AP", "AP50"))
    for name in ("pictures.png", "curves.png"):
        with Image.open(run / name) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 100
    assert 'class="sentence"' in (run / "report.html").read_text(encoding="utf-8")
    assert (run / "metrics.csv").is_file()
    assert lab.outcome.as_dict()["distilled"] == results["distilled"]
    assert [row for row in lab.outcome.table() if row.startswith(("teacher", "alone", "distilled"))]


def test_the_job_says_what_it_pairs_caps_and_proves(lab: Lab) -> None:
    said = "\n".join(lab.watcher.lines)
    assert "levels paired by stride: 8, 16, 32; none left over" in said
    for name in ("frs.features", "frs.classes"):
        assert f"{name}: warm-up of 500 steps capped at 0 of 3" in said
        assert f"start-up proof: {name}: loss " in said
    assert "perturbed" not in said
    assert "distil fcos/test_resnet by frs: 3" in said


def test_the_written_config_is_the_run_and_runs_again(lab: Lab) -> None:
    """Run again as it is, in an empty place: the same bits."""
    run, aside = lab.folder / "distilled", lab.folder / "aside"
    again = read_run_config(run / "config.yaml", purpose="distill")
    # What the run chose by itself, the teacher's image size, is written out.
    image = ImageSettings(short_side=HEIGHT, long_side=WIDTH)
    assert again == replace(lab.config, data=replace(lab.config.data, image=image))
    written = dump_yaml(written_from(again.as_dict(), run))
    assert written == (run / "config.yaml").read_text(encoding="utf-8")
    assert "\nout: .\n" in written
    with pytest.raises(ConfigError, match="must be new or empty, got one with files in it"):
        distill_job(again)
    run.rename(aside)
    try:
        distill_job(again)
        first, second = (load_file(checkpoints(one)[-1] / "student.safetensors") for one in (aside, run))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert (run / "config.yaml").read_bytes() == (aside / "config.yaml").read_bytes()
        results = [json.loads((one / "results.json").read_text(encoding="utf-8")) for one in (aside, run)]
        for result in results:
            result.pop("seconds")
            result.pop("cost")
        assert results[0] == results[1]
    finally:
        shutil.rmtree(run)
        aside.rename(run)


@pytest.mark.parametrize("method", [ALONE[0], *(pytest.param(name, marks=pytest.mark.slow) for name in ALONE[1:])])
def test_self_distillation_is_proved_on_a_perturbed_observation_and_says_so(lab: Lab, method: str) -> None:
    """The teacher is the student's own beginning: same architecture, same seed."""
    changes = ["student.norm=group", "train.steps=1"]
    if "aligner" in describe(method).defaults:
        changes.append("method.aligner=identity")
    teacher = lab.folder / f"self_{method}_teacher"
    options = {"method": method, "student": "gfl/test_resnet", "teacher": teacher}
    config = distillation(lab.folder, f"self_{method}", *changes, **options)
    settings: DetectorSettings = config.student.settings
    student = stages.build_detector(settings, CLASSES, seed=config.seed)
    save_detector(student, teacher, image={"short_side": HEIGHT, "long_side": WIDTH, "pad_multiple": 32})
    watcher = Watcher()
    distill_job(config, progress=watcher)
    proofs = [line for line in watcher.lines if line.startswith("start-up proof: ")]
    assert proofs
    assert all("(student equals teacher here: proved on a perturbed observation)" in line for line in proofs)


def test_a_frozen_student_is_refused_before_any_step(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    build = stages.build_detector
    monkeypatch.setattr(stages, "build_detector", lambda *given, seed: build(*given, seed=seed).requires_grad_(False))
    config = distillation(lab.folder, "frozen", method="hint")
    with pytest.raises(DistillError, match="Check that the student is not frozen"):
        distill_job(config)
    assert not (lab.folder / "frozen").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["student.strides=[16, 32]", "student.detector=fcos/test_resnet"], None),
        (["student.strides=[64]"], "must start at strides that the backbone"),
        (["method.aligner=identity"], r"must get equal channels on both sides, got 16 \(student\) and 24 \(teacher\)"),
        (["method.aligner=conv5x5"], "method.aligner"),
        (["method=hnit"], "Did you mean 'hint'"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_the_run_folder_exists(
    lab: Lab, changes: list[str], message: str | None
) -> None:
    if message is None:
        assert distillation(lab.folder, "unused", *changes).student.settings.strides == (16, 32)
        return
    with pytest.raises(ConfigError if "aligner=identity" not in changes[0] else DistillError, match=message):
        distill_job(distillation(lab.folder, "unused", *changes))
    assert not (lab.folder / "unused").exists()


def test_a_teacher_of_other_classes_is_refused_and_allowed_by_name(lab: Lab) -> None:
    teacher = lab.folder / "other_classes"
    save_detector(tiny_student("fcos", classes=("beam", "disc")), teacher, image={"short_side": 64, "long_side": 96})
    config = distillation(lab.folder, "others", "train.steps=1", method="hint", teacher=teacher)
    with pytest.raises(ConfigError, match=r"must know one of the data's classes.*teacher\.allow=\[classes\]"):
        distill_job(config)
    allowed = replace(config, teacher=replace(config.teacher, allow=("classes",)))
    outcome = distill_job(allowed)
    # Its figures would mean nothing on these classes.
    assert outcome.results["teacher"] is None
    assert outcome.results["distilled"] is not None


def test_pairs_across_families_distil_too(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = tiny_teacher("faster_rcnn", classes=CLASSES)._detector
    save_detector(teacher, lab.folder / "two_stage", image={"short_side": 64, "long_side": 96})
    config = distillation(lab.folder, "crossed", "train.steps=1", method="ssim", teacher=lab.folder / "two_stage")
    outcome = distill_job(config)
    assert outcome.method == "ssim"
    assert outcome.results["alone"] is None
    # What it advises then works.
    advice = next(
        line for line in outcome.table() if line.startswith("The student alone is not known. To see it beside: ")
    )
    monkeypatch.chdir(tmp_path)
    for command in advice.removesuffix(".").partition(": ")[2].split("; then "):
        assert main(shlex.split(command)[1:]) == 0, command
    assert json.loads((outcome.out / "results.json").read_text())["alone"] is not None
