"""FGD on numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from detdistill.distillation.pair import Pair
from detdistill.methods.fgd import FGDSettings, build_fgd
from detdistill.methods.parts.focus import background, box_mask, foreground
from detdistill.types import Batch, Clock, Observation, Targets
from observations import batch, observation, random_observation, spec
from scenes_in_memory import targets_of

CLOCK = Clock(step=0, total_steps=1)
# I8: a 64 × 64 image, a 4 × 4 map, one box
SCENE = replace(batch([(64, 64)]), targets=(targets_of([(0, 0, 31, 31)]),))


def costs(
    student: Observation, teacher: Observation, scene: Batch, *, family: str = "retinanet", channels: int = 4
) -> dict[str, tuple[float, Tensor]]:
    layout = spec(family=family, strides=teacher.pyramid.strides, channels=channels)
    recipe = build_fgd(layout, layout, FGDSettings())
    return {
        weighted.name: (weighted.gain, weighted.term(Pair(student, teacher, scene), CLOCK).values.detach())
        for weighted in recipe.terms
    }


def test_i8_ones_against_zeros() -> None:
    # Box corner 31 / 16 = 1.94, ceil 2: cells 0..2 × 0..2, 9 of 16. Constant maps: A_s = A_c = 1.
    # L_fg = 9 · (1/9) · 4 channels · 1² = 4; L_bg = 7 · (1/7) · 4 = 4; L_att = 0; L_rel = 4 · 16 = 64 (GC adds 0)
    # 0.001 · 4 + 0.0005 · 4 + 0.0005 · 0 + 5e-6 · 64 = 0.00632
    student = observation([torch.zeros(1, 4, 4, 4)], strides=(16,))
    teacher = observation([torch.ones(1, 4, 4, 4)], strides=(16,))
    found = costs(student, teacher, SCENE)
    assert {name: value.item() for name, (_, value) in found.items()} == pytest.approx(
        {"fgd.foreground": 4.0, "fgd.background": 4.0, "fgd.attention": 0.0, "fgd.relation": 64.0}, abs=1e-5
    )
    assert sum(gain * value.item() for gain, value in found.values()) == pytest.approx(0.00632, abs=1e-8)


def test_i8_masks() -> None:
    teacher = observation([torch.ones(1, 4, 4, 4)], strides=(16,))
    ninth, seventh = 1 / 9, 1 / 7
    rows = [[ninth, ninth, ninth, 0.0]] * 3 + [[0.0] * 4]
    pair = Pair(teacher, teacher, SCENE)
    torch.testing.assert_close(foreground(pair.level(16), pair), torch.tensor([[rows]]))
    rows = [[0.0, 0.0, 0.0, seventh]] * 3 + [[seventh] * 4]
    torch.testing.assert_close(background(pair.level(16), pair), torch.tensor([[rows]]))


def test_i9_equal_detectors_cost_nothing_at_first() -> None:
    scene = replace(batch([(64, 64), (40, 60)]), targets=(targets_of([(3, 5, 40, 50)]), targets_of([(0, 0, 9, 9)])))
    both = random_observation(scene, seed=0)
    for _, value in costs(both, both, scene).values():
        assert torch.equal(value, torch.zeros(2, 2))


def test_attention_by_hand() -> None:
    # t = 0.5, one channel, two cells: |T| = (0, 0.5 ln 3), A_s(T) = 2 · (1, 3)/4 = (0.5, 1.5); |S| = (0, 0): (1, 1).
    # A_c = 1 on both sides: L_att = 0.5 + 0.5 = 1.
    # The box is the point (8, 0), cell 1 alone: M_fg = (0, 1), M_bg = (1, 0).
    # L_fg = 1 · 1.5 · (0.5 ln 3)² = 0.4526; L_bg = 1 · 0.5 · 0² = 0
    log3 = torch.tensor(3.0).log()
    teacher = observation([torch.stack([torch.zeros(()), 0.5 * log3]).reshape(1, 1, 1, 2)], strides=(8,))
    student = observation([torch.zeros(1, 1, 1, 2)], strides=(8,))
    scene = replace(batch([(8, 16)]), targets=(targets_of([(8, 0, 8, 0)]),))
    found = {name: value.item() for name, (_, value) in costs(student, teacher, scene, channels=1).items()}
    assert found["fgd.attention"] == pytest.approx(1.0)
    assert found["fgd.foreground"] == pytest.approx(1.5 * (0.5 * log3.item()) ** 2)
    assert found["fgd.background"] == pytest.approx(0.0)


def test_the_smallest_box_wins_and_ignored_boxes_are_not_there() -> None:
    # stride 8, 4 × 4 cells. Large: 0..24 / 8 = 0..3: 16 cells. Small: 9..15 → 1..2: 4 cells. Ignored: cell 0 alone.
    targets = Targets(
        boxes=torch.tensor([[9.0, 9, 15, 15], [0, 0, 24, 24], [0, 0, 0, 0]]),
        labels=torch.tensor([0, 1, 0]),
        ignored=torch.tensor([False, False, True]),
    )
    big, small = 1 / 16, 1 / 4
    expected = [[big] * 4, [big, small, small, big], [big, small, small, big], [big] * 4]
    torch.testing.assert_close(box_mask(targets, 8, grid=(4, 4)), torch.tensor(expected))


def test_cells_beyond_the_grid_count_in_a_boxs_size() -> None:
    # x: 24 / 8 = 3 to 32 / 8 = 4, of which 4 is beyond the grid; y: 0..1 (8 / 8): 1 / (2 · 2)
    mask = box_mask(targets_of([(24, 0, 32, 8)]), 8, grid=(2, 4))
    torch.testing.assert_close(mask, torch.tensor([[0.0, 0, 0, 0.25], [0, 0, 0, 0.25]]))


@pytest.mark.parametrize(
    ("family", "gains"),
    [
        ("retinanet", [1e-3, 5e-4, 5e-4, 5e-6]),
        ("gfl", [1e-3, 5e-4, 5e-4, 5e-6]),
        ("fcos", [1.6e-3, 8e-4, 8e-4, 8e-6]),
        ("faster_rcnn", [5e-5, 2.5e-5, 5e-5, 5e-7]),
    ],
)
def test_published_gains(family: str, gains: list[float]) -> None:
    layout = spec(family=family)
    assert [w.gain for w in build_fgd(layout, layout, FGDSettings()).terms] == pytest.approx(gains)
    doubled = build_fgd(layout, layout, FGDSettings(gain=2.0, attention_gain=1e-3)).terms
    assert [w.gain for w in doubled] == pytest.approx([2 * gains[0], 2 * gains[1], 2e-3, 2 * gains[3]])


@pytest.mark.parametrize(("family", "temperature"), [("retinanet", 0.5), ("fcos", 0.8), ("faster_rcnn", 0.5)])
def test_published_temperatures(family: str, temperature: float) -> None:
    # |T| = (0, t · ln 3) gives A_s(T) = (0.5, 1.5) whatever t: L_att = 0.5 + 0.5 against a flat student
    level = torch.tensor([0.0, temperature * 3.0]).reshape(1, 1, 1, 2) * torch.tensor(3.0).log() / 3
    teacher, student = observation([level], strides=(8,)), observation([torch.zeros(1, 1, 1, 2)], strides=(8,))
    found = costs(student, teacher, batch([(8, 16)]), family=family, channels=1)
    assert found["fgd.attention"][1].item() == pytest.approx(1.0)


@pytest.mark.parametrize(("family", "count"), [("retinanet", 5), ("gfl", 5), ("fcos", 5), ("faster_rcnn", 4)])
def test_published_levels(family: str, count: int) -> None:
    strides = (4, 8, 16, 32, 64)
    layout = spec(family=family, strides=strides)
    for weighted in build_fgd(layout, layout, FGDSettings()).terms:
        assert weighted.term.strides == strides[:count]
