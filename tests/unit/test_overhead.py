"""The overhead benchmark on tiny detectors: which parts it measures, and how ratios are made of them."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import bench_table

from detdistill.bench import rounds
from detdistill.bench.__main__ import BAD_INPUT, main
from detdistill.bench.overhead import bench_overhead
from detdistill.bench.rounds import BenchOutcome, BenchSettings, Ratio, interleaved, noise_batch
from detdistill.bench.rows import ROWS, row
from detdistill.bench.step import separate
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.step import DistillationStep
from detdistill.errors import ConfigError
from detdistill.progress import Silence
from detdistill.types import Batch, Need
from scenes_in_memory import tiny_student

TINY = BenchSettings(teacher="retinanet/tiny", student="retinanet/tiny", batch_size=2, image_px=64, rounds=2)
NAMES = ["aid_frs", "aid_frs_plain", "aid_attention", "aid_attention_plain", "attention"]
NAMES += ["attention, with its aligners", "ikd(fgd)"]
LOSSES = {Need.TASK_LOSS, Need.IMAGE_LOSSES}
STUDENT = "student step (plain)"


MADE_UP = {"device": "made up", "cores": 2, "threads": 1, "torch": "2.0"}


def outcome(milliseconds: Mapping[str, list[float]], compared: Mapping[str, Ratio]) -> BenchOutcome:
    return BenchOutcome(TINY, milliseconds, compared, MADE_UP)


def test_a_ratio_is_taken_in_every_round() -> None:
    measured = outcome(
        {"a": [3.0, 12.0], "b": [1.0, 2.0], "c": [2.0, 4.0]}, {"x": Ratio("a", ("b", "c"), "a ÷ (b + c)")}
    )
    assert measured.ratios() == {"x": [1.0, 2.0]}
    told = measured.as_dict()
    assert told["ratios"] == {"x": 1.5}
    assert told["milliseconds"]["a"]["all"] == [3.0, 12.0]
    assert told["compared"]["x"] == {"step": "a", "floor": ("b", "c"), "meaning": "a ÷ (b + c)", "at_most": None}
    assert any(line.split()[:2] == ["x", "1.500"] for line in measured.table())


def test_parts_take_turns_after_two_rounds_that_do_not_count() -> None:
    turns: list[str] = []
    parts = {name: (lambda name=name: turns.append(name)) for name in "ab"}
    measured = interleaved(parts, 3, device=torch.device("cpu"), progress=Silence())
    assert turns == ["a", "b"] * 5
    assert {name: len(times) for name, times in measured.items()} == {"a": 3, "b": 3}


def test_fewer_than_two_rounds_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        BenchSettings(rounds=1)
    assert str(caught.value) == "--rounds must be at least 2, got 1. Leave it out."
    assert main(["overhead", "--rounds", "1"]) == BAD_INPUT
    assert capsys.readouterr().err.strip() == f"error: {caught.value}"


def test_images_of_noise_carry_boxes_inside_them() -> None:
    batch = noise_batch(2, 64, boxes=3, classes=4)
    assert batch.images.shape == (2, 3, 64, 64)
    for target in batch.targets:
        assert target.boxes.shape == (3, 4)
        assert (target.boxes[:, 2:] > target.boxes[:, :2]).all()
        assert ((target.boxes >= 0) & (target.boxes <= 64)).all()
        assert target.labels.max() < 4


def test_each_part_does_what_its_name_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """One round of every part, watched: what the teacher is asked, and on which images."""
    asked: list[tuple[bool, frozenset[Need]]] = []
    steps: list[str] = []
    observe, forward = FrozenTeacher.observe, DistillationStep.forward
    clean = noise_batch(2, 64, boxes=6, classes=5).images

    def watched(teacher: FrozenTeacher, batch: Batch, needs: Any) -> Any:
        asked.append((torch.equal(batch.images, clean), frozenset(needs)))
        return observe(teacher, batch, needs)

    def stepped(step: DistillationStep, batch: Batch, clock: Any) -> Any:
        steps.append(step.recipe.name)
        return forward(step, batch, clock)

    def once(parts: Mapping[str, Any], rounds: int, **_: Any) -> dict[str, list[float]]:
        found = {}
        for name, run in parts.items():
            asked.clear()
            steps.clear()
            run()
            seen[name] = (list(steps), list(asked))
            found[name] = [1.0] * rounds
        return found

    seen: dict[str, tuple[list[str], list[tuple[bool, frozenset[Need]]]]] = {}
    monkeypatch.setattr(FrozenTeacher, "observe", watched)
    monkeypatch.setattr(DistillationStep, "forward", stepped)
    monkeypatch.setattr(rounds, "interleaved", once)
    compared = bench_overhead(TINY).compared
    assert list(compared) == NAMES
    assert seen[STUDENT] == seen["student forward-backward for ikd(fgd) on the twins"] == ([], [])
    for method, own in (("frs", {Need.PYRAMID, Need.CLASS_LOGITS}), ("attention", {Need.PYRAMID})):
        assert seen[f"step {method}"] == ([method], [(True, own)])
        fuller = f"step {method}, the teacher asked for what aid needs"
        # Beside aid's step stands the same step with the same teacher's work, without the weights.
        assert seen[fuller] == ([method], [(True, own | LOSSES)])
        assert seen[f"step aid({method})"] == ([f"aid({method})"], [(True, own | LOSSES)])
        assert compared[f"aid_{method}"].floor == (fuller,)
        assert compared[f"aid_{method}_plain"].floor == (f"step {method}",)
        assert compared[f"aid_{method}"].step == compared[f"aid_{method}_plain"].step == f"step aid({method})"
    assert seen["teacher.observe for attention"] == ([], [(True, {Need.PYRAMID})])
    assert compared["attention"].step == "step attention"
    assert compared["attention"].floor == (STUDENT, "teacher.observe for attention")
    # The twins are at hand: the step makes none, and looks at them once.
    floor = compared["ikd(fgd)"].floor
    assert floor[::2] == (STUDENT, "student forward-backward for ikd(fgd) on the twins")
    assert seen[compared["ikd(fgd)"].step] == (["ikd(fgd)"], seen[floor[1]][1] + seen[floor[3]][1])
    assert [on_clean for on_clean, _ in seen["step ikd(fgd)"][1]] == [True, False]


def test_the_second_view_is_computed_forward_and_back() -> None:
    student = tiny_student("retinanet")
    batch = noise_batch(2, 64, boxes=1, classes=1)
    rounds.forward_backward(student, batch, needs=frozenset({Need.CLASS_LOGITS}))()
    first = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    assert any("body" in name and grad.any() for name, grad in first.items())
    rounds.forward_backward(student, batch, needs=frozenset())()
    # Gradients of one pass do not pile up on the next, and only what is read is gone back from.
    assert all(p.grad is None for name, p in student.named_parameters() if "classification_head" in name)


def test_the_command_prints_and_writes_every_ratio(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "overhead.json"
    tiny = ["--teacher", "retinanet/tiny", "--student", "retinanet/tiny", "--batch-size", "1", "--image-px", "64"]
    assert main(["overhead", *tiny, "--rounds", "2", "--json", str(written)]) == 0
    told = json.loads(written.read_text())
    assert list(told["ratios"]) == NAMES
    for name, ratio in told["compared"].items():
        steps = told["milliseconds"][ratio["step"]]["all"]
        floors = [told["milliseconds"][part]["all"] for part in ratio["floor"]]
        expected = statistics.median(step / sum(floor) for step, *floor in zip(steps, *floors, strict=True))
        assert told["ratios"][name] == pytest.approx(expected, rel=0.01)
    assert told["settings"]["rounds"] == 2
    assert told["machine"]["torch"] == torch.__version__
    printed = capsys.readouterr().out
    assert all(name in printed for name in NAMES)


@pytest.mark.parametrize(
    ("text", "methods"),
    [
        ("hint,frs", ("hint", "frs")),
        ("hint, aid(frs, alpha=0.5),fgd", ("hint", "aid(frs, alpha=0.5)", "fgd")),
        ("aid(ikd(frs + ssim, until=1.0), alpha=0)", ("aid(ikd(frs + ssim, until=1.0), alpha=0)",)),
    ],
)
def test_commas_within_parentheses_belong_to_a_method(text: str, methods: tuple[str, ...]) -> None:
    assert separate(text) == methods


def test_any_methods_step_is_measured_against_its_floor(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--teacher", "retinanet/tiny", "--student", "retinanet/tiny", "--batch-size", "1", "--image-px", "64"]
    written = tmp_path / "step.json"
    methods = ["--methods", "hint,aid(frs, alpha=0.5)"]
    assert main(["step", *tiny, *methods, "--rounds", "2", "--json", str(written)]) == 0
    told = json.loads(written.read_text())
    whole = {name: f"{name}, with its aligners" for name in ("hint", "aid(frs, alpha=0.5)")}
    assert list(told["ratios"]) == [one for both in whole.items() for one in both]
    assert told["compared"]["hint"]["floor"] == [STUDENT, "teacher.observe for hint"]
    assert told["compared"][whole["hint"]]["floor"] == [STUDENT, "teacher.observe for hint", "aligners of hint"]
    assert told["compared"][whole["hint"]]["at_most"] is None
    assert main(["step", *tiny, "--methods", "hnit", "--rounds", "2"]) == BAD_INPUT
    assert "got 'hnit'" in capsys.readouterr().err


def test_a_ratio_says_its_goal_and_where_it_was_measured() -> None:
    cheap = row("a ÷ b", [1.0, 1.02, 1.04], hardware=MADE_UP, at_most=1.03)
    assert cheap["hardware"] == "made up, 2 cores, 1 threads, torch 2.0"
    assert (cheap["ratio"], cheap["quartiles"], cheap["rounds"]) == (1.02, [1.0, 1.04], 3)
    assert (cheap["target"], cheap["met"]) == ("≤ 1.03", True)
    assert row("b ÷ a", [1.0, 3.0], hardware=MADE_UP, at_least=3)["met"] is False
    assert row("a ÷ b", [1.0, 3.0], hardware=MADE_UP)["met"] is None
    exact = row("peak memory: a ÷ b", [0.4], hardware=MADE_UP, at_most=0.5)
    assert (exact["ratio"], exact["quartiles"], exact["rounds"], exact["met"]) == (0.4, [0.4, 0.4], 1, True)


def test_one_table_has_every_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh, kept, page = tmp_path / "fresh", tmp_path / "kept", tmp_path / "page.md"
    fresh.mkdir()
    kept.mkdir()
    missed = row("a ÷ b", [2.0, 2.0], hardware=MADE_UP, at_most=1.0, tried="twice")
    (fresh / "a.json").write_text(json.dumps({ROWS: [missed]}))
    (kept / "a.json").write_text(json.dumps({ROWS: [row("a ÷ b", [9.0, 9.0], hardware=MADE_UP)]}))
    (kept / "b.json").write_text(json.dumps({ROWS: [row("b ÷ c", [1.5, 1.5], hardware=MADE_UP, at_least=1.0)]}))
    (kept / "other.json").write_text("[]")
    (kept / "others_rows.json").write_text(json.dumps({ROWS: [{"what": "else"}, 3]}))
    page.write_text(f"before\n{bench_table.BEGIN}\nold\n{bench_table.END}\nafter\n")
    words = [str(fresh), str(kept), "--json", str(tmp_path / "table.json"), "--markdown", str(page)]
    monkeypatch.setattr(sys, "argv", ["bench_table.py", *words])
    bench_table.main()
    table = json.loads((tmp_path / "table.json").read_text())["table"]
    assert [(one["what"], one["ratio"], one["met"]) for one in table] == [("a ÷ b", 2.0, False), ("b ÷ c", 1.5, True)]
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| a ÷ b | 2.000 | 2.000 to 2.000 | 2 | ≤ 1 | not met | A |" in text
    assert "- a ÷ b: twice" in text
    assert "Measured on A: made up, 2 cores" in text


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ([0.9, 0.95, 1.0], "met"),
        ([0.5, 0.95, 2.4], "met by the median alone"),
        ([0.5, 1.05, 2.4], "missed by the median alone"),
        ([1.04, 1.05, 1.06], "not met"),
    ],
)
def test_a_goal_within_the_quartiles_is_met_or_missed_by_the_median_alone(ratios: list[float], said: str) -> None:
    assert bench_table.cells(row("a ÷ b", ratios, hardware=MADE_UP, at_most=1.0))[-1] == said
