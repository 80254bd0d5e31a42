"""What is kept of a teacher stands for its looking: every family that shows maps, whatever is asked of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from detdistill import build_detector
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.replay import Form, Replay, Rows, taken_apart
from detdistill.types import Batch, Need, Observation
from scenes_in_memory import CLASSES, GRID, SMALLEST, scene_batch

PARTS = {Need.PYRAMID, Need.CLASS_LOGITS, Need.BOX_DISTRIBUTIONS, Need.BOXES, Need.QUERIES}
ALIKE = ((96, 128),) * 3


class InMemory(Rows):
    """Keeps what a teacher showed of every image of a batch, which all fill its grid."""

    def __init__(self, maps: dict[str, Tensor]) -> None:
        self.form = Form.of(maps)
        self.halves, self.singles = self.form.rows(maps)

    def __call__(self, places: Sequence[int], grid: tuple[int, int], *, half: bool) -> dict[str, Tensor] | None:
        if grid != GRID:
            return None
        held = [self.form.views(self.halves[max(place, 0)], self.singles[max(place, 0)]) for place in places]
        return {name: torch.stack([one[name] for one in held]) for name in held[0]}


def teacher_and_batch(preset: str) -> tuple[FrozenTeacher, Batch]:
    return FrozenTeacher(build_detector(preset, CLASSES, seed=7)), scene_batch(sizes=ALIKE)


def replay_of(teacher: FrozenTeacher, batch: Batch, needs: frozenset[Need]) -> Replay:
    seen = teacher.observe(batch, needs)
    return Replay(needs, teacher.observe(batch.image(0), needs), InMemory(taken_apart(seen, needs)))


def require_near(found: Observation, live: Observation, needs: frozenset[Need]) -> None:
    ours, theirs = taken_apart(found, needs), taken_apart(live, needs)
    assert ours.keys() == theirs.keys()
    for name, one in theirs.items():
        assert ours[name].dtype == torch.float32
        torch.testing.assert_close(ours[name], one.float(), rtol=2**-10, atol=1e-6, msg=name)


@pytest.mark.parametrize("preset", SMALLEST)
def test_what_is_kept_is_what_a_live_teacher_shows_but_for_half_precision(preset: str) -> None:
    teacher, batch = teacher_and_batch(preset)
    spec = teacher.spec
    shown = {
        Need.CLASS_LOGITS: spec.class_logits,
        Need.BOX_DISTRIBUTIONS: spec.box_distributions,
        Need.BOXES: spec.towers,
        Need.QUERIES: spec.queries,
    }
    needs = frozenset({Need.PYRAMID, *(need for need, layout in shown.items() if layout is not None)})
    live, replay = teacher.observe(batch, needs), replay_of(teacher, batch, needs)
    found = replay.observe(teacher, batch, (0, 1, 2), needs)
    require_near(found, live, needs)
    if live.class_logits is not None and found.class_logits is not None:
        assert found.class_logits.strides == live.class_logits.strides
        assert found.class_logits.kind == live.class_logits.kind
    # Images that are not kept are looked at, beside those that are.
    mixed = replay.observe(teacher, batch, (0, -1, 2), needs)
    require_near(mixed, live, needs)
    (level, theirs), kept = (one.maps.levels[0] for one in (mixed, live)), found.maps.levels[0]
    torch.testing.assert_close(level[1], theirs[1], rtol=1e-4, atol=1e-5)
    assert torch.equal(level[2], kept[2])


@pytest.mark.parametrize("preset", SMALLEST)
def test_what_is_not_kept_the_heads_say_of_the_pyramid_that_is(preset: str) -> None:
    teacher, batch = teacher_and_batch(preset)
    losses, pyramid = frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES}), frozenset({Need.PYRAMID})
    live = teacher.observe(batch, losses).task_loss
    found = replay_of(teacher, batch, pyramid).observe(teacher, batch, (0, 1, 2), losses | pyramid)
    assert live is not None
    assert found.task_loss is not None
    torch.testing.assert_close(found.task_loss.total, live.total, rtol=0.02, atol=0.02)


def test_a_grid_that_nothing_is_kept_of_is_looked_at() -> None:
    teacher, batch = teacher_and_batch("fcos/tiny")
    pyramid = frozenset({Need.PYRAMID})
    replay = replay_of(teacher, batch, pyramid)
    larger = scene_batch(sizes=ALIKE, grid=(128, 160))
    for asked, places in ((larger, (0, 1, 2)), (batch, (-1, -1, -1))):
        live, found = teacher.observe(asked, pyramid), replay.observe(teacher, asked, places, pyramid)
        assert all(torch.equal(*both) for both in zip(found.maps.levels, live.maps.levels, strict=True))
