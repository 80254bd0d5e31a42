"""Any module as a detector: what hooks take of it, what is left of them, and what is said of a wrong name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import detdistill as dd
from detdistill.errors import CapabilityError, ConfigError
from detdistill.types import Need
from scenes_in_memory import CLASSES, scene_batch, tiny_student, tiny_teacher

LOSS = frozenset({Need.TASK_LOSS})
ODD = "gone"


class Net(nn.Module):
    """Levels of 6 and 10 channels, and logits and sides at each cell of both."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 6, 8, stride=8)
        self.neck = nn.ModuleDict({"p3": nn.Conv2d(6, 6, 3, padding=1), "p4": nn.Conv2d(6, 10, 2, stride=2)})
        self.heads = nn.ModuleList(nn.Conv2d(channels, len(CLASSES) + 4, 1) for channels in (6, 10))
        self.spare = nn.Identity()

    def forward(self, images: Tensor) -> list[Tensor]:
        fine = self.neck["p3"](self.body(images).relu())
        coarse = self.neck["p4"](fine)
        return [head(level) for head, level in zip(self.heads, (fine, coarse), strict=True)]


class Pair(Net):
    def forward(self, images: Tensor) -> Any:
        return self.spare((self.body(images), self.body(images) * 2))


def loss(outputs: list[Tensor], batch: dd.Batch) -> dict[str, Tensor]:
    return {str(at): one.square().mean() for at, one in enumerate(outputs)}


def detect(outputs: list[Tensor], batch: dd.Batch) -> list[tuple[Tensor, Tensor, Tensor]]:
    found = []
    for image, (height, width) in enumerate(batch.sizes):
        scores, labels = outputs[0][image, : len(CLASSES)].sigmoid().flatten(1).amax(1).sort(descending=True)
        found.append((torch.tensor([[0.0, 0.0, width, height]]).expand(len(labels), 4), scores, labels))
    return found


def wrapped(module: nn.Module | None = None, **changes: Any) -> Any:
    words: dict[str, Any] = {"pyramid": {16: "neck.p4", 8: "neck.p3"}, "class_names": CLASSES}
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = Net() if module is None else module
    logits = {"class_logits": lambda outputs: [one[:, : len(CLASSES)] for one in outputs]} if module is None else {}
    return dd.wrap(net, **(words | {"loss": loss, "detect": detect} | logits | changes))


def hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) for part in module.modules())


def test_strides_and_channels_are_probed_and_nothing_stays() -> None:
    one, batch = wrapped(), scene_batch()
    assert one.spec.pyramid == dd.PyramidLayout((8, 16), (6, 10))
    assert (one.spec.class_logits.anchors, one.spec.class_logits.strides) == (1, (8, 16))
    assert dd.check_detector(one, batch).problems == ()
    seen = one(batch, LOSS | {Need.CLASS_LOGITS})
    assert [tuple(level.shape[1:]) for level in seen.pyramid.levels] == [(6, 12, 16), (10, 6, 8)]
    assert [tuple(level.shape[1:3]) for level in seen.class_logits.levels] == [(1, 3), (1, 3)]
    seen.task_loss.total.backward()
    assert one.module.body.weight.grad is not None
    assert hooks(one) == 0
    (gradient,) = torch.autograd.grad(
        one(batch, LOSS).task_loss.total, one.extract(batch).levels[:1], allow_unused=True
    )
    assert gradient is None
    kept = one.extract(batch)
    assert all(
        level is not None for level in torch.autograd.grad(one.observe(kept, batch, LOSS).task_loss.total, kept.levels)
    )


def test_its_heads_read_another_pyramid() -> None:
    one, batch = wrapped(), scene_batch()
    own = one.extract(batch)
    same = one.observe(dd.Pyramid(own.levels, own.strides), batch, LOSS).task_loss.total
    torch.testing.assert_close(same, one.observe(own, batch, LOSS).task_loss.total)
    zeros = dd.Pyramid(tuple(torch.zeros_like(level) for level in own.levels), own.strides)
    bias = sum(head.bias.square().mean() for head in one.module.heads)
    torch.testing.assert_close(one.observe(zeros, batch, LOSS).task_loss.total, bias)


def test_a_map_may_be_one_of_several_outputs() -> None:
    one = wrapped(Pair(), pyramid={8: "spare[1]"})
    batch = scene_batch()
    (level,) = one.extract(batch).levels
    torch.testing.assert_close(level, 2 * one.module.body(one._pixels(batch)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"pyramid": {8: "neck.p5"}},
            r"must name a module of Net, .* got 'neck\.p5'\. Did you mean 'neck\.p",
        ),
        (
            {"pyramid": {16: "neck.p3"}},
            r"'neck\.p3' of Net must have 16 pixels a cell .*, got 8: .* Write 8: 'n",
        ),
        ({"pyramid": {8: "spare"}}, r"level 'spare' must be a map .* got no pass through it\. Name the module"),
        ({"pyramid": {}}, r"pyramid of Net must name at least one level, got none\. Write \{16: 'neck'\}"),
        ({"backbone": "boddy"}, r"backbone of Net must be one of its modules, got 'boddy'\. Did you mean 'body'\?"),
        ({"class_logits": lambda outputs: outputs[:1]}, r"class_logits of Net must be a map for each of its 2 levels"),
    ],
)
def test_a_wrong_name_is_said(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        wrapped(**changes)


def test_what_cannot_be_a_graph_is_not_exported() -> None:
    with pytest.raises(
        CapabilityError, match=r"must be a graph of tensors, got Net, which detdistill\.wrap made of a "
    ):
        wrapped().limits()


def test_a_loss_of_another_kind_is_said() -> None:
    with pytest.raises(CapabilityError, match=r"loss of Net must be a scalar tensor, .* got list of 2\. Return"):
        wrapped(loss=lambda outputs, _: outputs)(scene_batch(), LOSS)


@pytest.mark.parametrize(
    "method", ["hint", "hint(aligner=conv3x3)", "mgd", "fgd", "attention", "frs(class_gain=0)", "pkd"]
)
@pytest.mark.parametrize("teaches", [False, True])
def test_levels_of_different_channels_teach_and_learn(method: str, teaches: bool) -> None:
    own = wrapped()
    student = tiny_student("fcos") if teaches else own
    teacher = dd.FrozenTeacher(own) if teaches else tiny_teacher("fcos")
    recipe = dd.build_recipe(method, student.spec, teacher.spec)
    report = dd.DistillationStep(student, teacher, recipe)(scene_batch(), dd.Clock(step=0, total_steps=1))
    (report.total - report.task).backward()
    assert torch.isfinite(report.total)
    body = student.model.backbone.body if teaches else own.module.body
    assert any(one.grad is not None and one.grad.abs().sum() > 0 for one in body.parameters())
