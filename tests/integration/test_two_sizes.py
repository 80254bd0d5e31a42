"""Distillations whose teacher and student see the images at different sizes, said and not said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import detdistill
from coco_by_hand import CLASSES, HEIGHT, WIDTH, draw_data
from detdistill.data.transforms import ImageSettings
from detdistill.detectors.base import Detector
from detdistill.errors import CapabilityError, ConfigError
from detdistill.jobs import stages
from detdistill.jobs.config import read_run_config
from detdistill.jobs.evaluate import evaluate_job
from detdistill.jobs.pictures import pictures_job
from detdistill.jobs.run import RunOutcome, distill_job, generations_job
from detdistill.jobs.settings import RunConfig
from detdistill.store.students import save_detector
from scenes_in_memory import tiny_student, tiny_teacher
from watched_jobs import Watcher, Witness

OWN = {"short_side": HEIGHT, "long_side": WIDTH, "pad_multiple": 32}
HALF = ["data.image.short_side=32", "data.image.long_side=48"]
SMALL = [
    "student.fpn_channels=16",
    "student.head_depth=1",
    "student.strides=[8, 16, 32]",
    "train.batch_size=4",
    "train.optimizer=sgd",
    "train.lr=0.002",
    "train.checkpoint_every=1",
    "train.device=cpu",
    "seed=4",
]


@dataclass
class Lab:
    """A folder with data and a teacher, and at which sizes detectors were measured."""

    folder: Path
    witness: Witness
    measured: dict[str, ImageSettings]

    def config(self, out: str, *changes: str, method: str = "hint", steps: int = 1) -> RunConfig:
        options = {
            "data": self.folder / "data",
            "student": "fcos/test_resnet",
            "teacher": self.folder / "teacher",
            "method": method,
            "out": self.folder / out,
        }
        words = [*SMALL, *HALF, f"train.steps={steps}", *changes]
        return read_run_config(None, words, purpose="distill", options=options)

    def distilled(self, out: str, *changes: str, **options: Any) -> tuple[RunOutcome, str]:
        watcher = Watcher()
        return distill_job(self.config(out, *changes, **options), progress=watcher), watcher.text()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder, witness = tmp_path_factory.mktemp("sizes"), Witness()
    measured: dict[str, ImageSettings] = {}
    draw_data(folder / "data")
    save_detector(tiny_teacher("fcos", classes=CLASSES)._detector, folder / "teacher", image=OWN)
    real = stages.measure

    def noted(opened: Any, detectors: Mapping[str, Detector], **options: Any) -> Any:
        measured.update({name: options.get("at", {}).get(name, opened.data.image) for name in detectors})
        return real(opened, detectors, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "train", witness.train)
        patch.setattr(stages, "measure", noted)
        yield Lab(folder, witness, measured)


def test_a_teacher_at_another_size_than_its_own_is_said_and_measured_at_both(lab: Lab) -> None:
    outcome, said = lab.distilled("foreign")
    assert (
        "the teacher was trained on images of short side 64, long side at most 96 and sees them here with short side "
        "32, long side at most 48, where it may be a worse teacher: set teacher.image=own to show it its own size"
    ) in said
    own, half = ImageSettings(**OWN), ImageSettings(32, 48)
    assert lab.measured == {"teacher": half, "teacher_own_size": own, "distilled": half}
    results = json.loads((lab.folder / "foreign" / "results.json").read_text(encoding="utf-8"))
    assert {"AP", "AP50"} <= results["teacher_own_size"].keys()
    assert results["sizes"]["teacher_own_size"] == OWN
    table = "\n".join(outcome.table())
    assert "teacher at its own size" in table
    assert "teacher: short side 32, long side at most 48; teacher at its own size: short side 64" in table
    assert all(batch.teacher is None for batch in lab.witness.fed["foreign"])


def test_the_remedy_works_and_is_written_down(lab: Lab) -> None:
    outcome, said = lab.distilled("own", "teacher.image=own", method="aid(frs, control=true)")
    assert "frs.features: constant weight" in said
    assert "was trained on images" not in said
    assert "the teacher sees images of short side 64, long side at most 96, the student of short side 32" in said
    assert "strides of student and teacher: 8 and 16, 16 and 32; not paired: student: 32; teacher: 8" in said
    assert lab.measured["teacher"] == ImageSettings(**OWN)
    assert "teacher_own_size" not in outcome.results
    assert "teacher: short side 64, long side at most 96; distilled: short side 32" in "\n".join(outcome.table())
    (batch,) = lab.witness.fed["own"]
    assert (batch.sizes[0], batch.for_teacher.sizes[0]) == ((32, 48), (64, 96))
    written = read_run_config(lab.folder / "own" / "config.yaml", purpose="distill")
    assert written.teacher is not None
    assert written.teacher.image == ImageSettings(**OWN)
    assert written.data.image == ImageSettings(32, 48)


def test_the_students_size_given_explicitly_changes_no_bit(lab: Lab) -> None:
    plain, _ = lab.distilled("plain", steps=2)
    same = ["teacher.image.short_side=32", "teacher.image.long_side=48"]
    given, said = lab.distilled("given", *same, steps=2)
    assert "the teacher sees images of" not in said
    first, second = (load_file(next(one.out.glob("checkpoints/step_0000002/student.*rs"))) for one in (plain, given))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kept", [True, False], ids=["cached", "on the fly"])
def test_twins_are_made_where_the_teacher_sees(lab: Lab, kept: bool) -> None:
    method = "ikd(hint, attack_steps=1, small_px=2)"
    out = f"twins_{kept}"
    changes = ["teacher.image=own", f"twins.on_the_fly={str(not kept).lower()}", "train.workers=1"]
    _, said = lab.distilled(out, *changes, method=method)
    assert "start-up proof: ikd.adversarial: loss " in said
    (batch,) = lab.witness.fed[out]
    assert bool(batch.twins) == kept
    if kept:
        ours, theirs = batch.twins["adversarial"], batch.for_teacher.twins["adversarial"]
        assert ours.shape[-2:] == batch.images.shape[-2:]
        assert theirs.shape[-2:] == batch.for_teacher.images.shape[-2:]
        (index,) = (lab.folder / out / "twins").glob("*/index.json")
        assert json.loads(index.read_text(encoding="utf-8"))["identity"]["image"] == OWN
        for change in (ours - batch.images, theirs - batch.for_teacher.images):
            assert 0 < float(change.abs().max()) <= 3 / 255 + 1e-6


def test_a_run_is_resumed_at_the_same_size_alone(lab: Lab) -> None:
    lab.distilled("resumed", "teacher.image=own", steps=1)
    other = lab.config("resumed", "teacher.image.short_side=96", "teacher.image.long_side=144", steps=1)
    with pytest.raises(ConfigError, match="teacher_image"):
        distill_job(other, resume=True)
    assert distill_job(lab.config("resumed", "teacher.image=own"), resume=True).steps == 1


def test_a_chains_next_teacher_sees_the_students_size(lab: Lab) -> None:
    lab.witness.fed.clear()
    generations_job(lab.config("chain", "teacher.image=own"), generations=2)
    assert lab.witness.fed["generation_1"][0].for_teacher.sizes[0] == (64, 96)
    assert lab.witness.fed["generation_2"][0].teacher is None


def test_a_student_alone_and_every_other_detector_is_looked_at_at_its_own_size(lab: Lab) -> None:
    """A student alone of another size is measured as what it is; other commands say at what size they look."""
    detector = tiny_student("fcos", classes=CLASSES, seed=4)
    save_detector(detector, lab.folder / "alone", image={"short_side": 48, "long_side": 72})
    config = replace(lab.config("beside"), alone=lab.folder / "alone", alone_differs=True)
    outcome = distill_job(config)
    assert lab.measured["alone"] == ImageSettings(48, 72)
    assert "alone: short side 48, long side at most 72" in "\n".join(outcome.table())
    watcher = Watcher()
    own = evaluate_job(str(lab.folder / "alone"), lab.folder / "data", progress=watcher)
    assert (
        f"{lab.folder / 'alone'} sees images with short side 48, long side at most 72: its own size" in watcher.text()
    )
    assert outcome.results["alone"] is not None
    assert outcome.results["alone"].as_dict() == own.metrics.as_dict()
    save_detector(detector, lab.folder / "nameless", image={})
    pictures_job(
        alone=lab.folder / "alone",
        distilled=lab.folder / "nameless",
        teacher=str(lab.folder / "teacher"),
        data=lab.folder / "data",
        out=lab.folder / "three.png",
        progress=watcher,
    )
    text = watcher.text()
    assert f"{lab.folder / 'teacher'} sees images with short side 64, long side at most 96: its own size" in text
    assert "short side 64, long side at most 96: the images' median size, as its checkpoint names none" in text


def test_a_loop_of_ones_own_shows_both_sizes(lab: Lab) -> None:
    loaded = detdistill.load_detector(lab.folder / "teacher")
    data = detdistill.open_data(lab.folder / "data", image={"short_side": 32, "long_side": 48})
    student = tiny_student("fcos", classes=data.class_names)
    teacher = detdistill.FrozenTeacher(loaded.detector, ratio=2.0)
    step = detdistill.DistillationStep(student, teacher, detdistill.build_recipe("fgd", student.spec, teacher.spec))
    for index, batch in enumerate(data.batches(2, steps=2, teacher_image=loaded.image)):
        assert batch.for_teacher.images.shape[-2:] == (64, 96)
        report = step(batch, detdistill.Clock(step=index, total_steps=2))
        assert report.total.isfinite()
    assert next(iter(data.batches(2, teacher_image=loaded.image))).for_teacher.sizes[0] == (64, 96)


def test_the_keys_of_a_size_win_over_the_word_in_a_file(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    written = {"data": "data", "student": "fcos/tiny", "teacher": {"source": "t", "image": "own"}, "method": "hint"}
    file.write_text(json.dumps(written | {"out": "out"}), encoding="utf-8")
    sizes = ["teacher.image.short_side=40", "teacher.image.long_side=60"]
    given = read_run_config(file, sizes, purpose="distill").teacher
    assert given is not None
    assert given.image == ImageSettings(40, 60)
    with pytest.raises(ConfigError, match=r"teacher\.image\.long_side must be given, got nothing"):
        read_run_config(file, sizes[:1], purpose="distill")


def test_sizes_that_cannot_be_are_refused(lab: Lab) -> None:
    bare = lab.folder / "bare"
    save_detector(tiny_student("fcos", classes=CLASSES), bare, image={})
    config = lab.config("refused", "teacher.image=own")
    assert config.teacher is not None
    with pytest.raises(ConfigError) as refused:
        distill_job(replace(config, teacher=replace(config.teacher, source=str(bare))))
    assert str(refused.value) == (
        f"teacher.image must be a size for {bare}, whose checkpoint does not say at what size it was trained, got "
        "own. Write teacher.image.short_side=480 teacher.image.long_side=640, or whatever it was."
    )
    with pytest.raises(ConfigError, match=r"teacher\.image must be a section of keys or own"):
        lab.config("refused", "teacher.image=mine")
    huge = ["teacher.image.short_side=512", "teacher.image.long_side=768"]
    with pytest.raises(CapabilityError, match=r"Leave teacher\.image out, or set it to a size nearer to data\.image"):
        distill_job(lab.config("refused", *huge))
    assert not (lab.folder / "refused").exists()
