from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from detdistill.distillation.step import SupervisedStep
from detdistill.errors import ConfigError
from detdistill.training.optimizer import build_optimizer, learning_rate
from detdistill.training.settings import TrainSettings
from detdistill.types import Clock
from scenes_in_memory import FAMILIES, scene_batch, tiny_student
from tiny_training import TinyStep, tiny_settings


def rates(**changes: object) -> list[float]:
    settings = tiny_settings(**({"steps": 12, "lr": 1.0, "warmup_steps": 0} | changes))
    return [learning_rate(step, settings) for step in range(settings.steps)]


def test_constant_rate_without_warm_up() -> None:
    assert rates(schedule="constant") == [1.0] * 12


def test_warm_up_grows_linearly_and_reaches_the_rate() -> None:
    assert rates(schedule="constant", warmup_steps=4)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_warm_up_of_the_whole_run() -> None:
    assert rates(schedule="constant", steps=4, warmup_steps=400) == [0.5, 1.0, 1.0, 1.0]


def test_cosine_starts_at_the_rate_and_halves_in_the_middle() -> None:
    found = rates(schedule="cosine", steps=14, warmup_steps=2)
    assert found[2] == 1.0
    assert found[2 + 6] == pytest.approx(0.5)
    assert found[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * 11 / 12)))
    assert all(rate > 0 for rate in found)


def test_step_schedule_drops_at_fractions_of_all_steps() -> None:
    assert rates(schedule="step", milestones=(0.5, 0.75)) == pytest.approx([1.0] * 6 + [0.1] * 3 + [0.01] * 3)


def test_no_milestones() -> None:
    assert rates(schedule="step", milestones=()) == [1.0] * 12


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_norms_and_biases_are_not_decayed_and_terms_are_trained(name: str) -> None:
    step = TinyStep()
    optimizer = build_optimizer(step, tiny_settings(optimizer=name, weight_decay=0.1))
    names = {id(parameter): key for key, parameter in step.named_parameters()}
    groups = {g["weight_decay"]: {names[id(p)] for p in g["params"]} for g in optimizer.param_groups}
    assert groups == {
        0.1: {"student.first.weight", "student.second.weight", "terms.hint.weight"},
        0.0: {"student.norm.weight", "student.norm.bias", "student.second.bias", "terms.hint.bias"},
    }


def test_frozen_parameters_are_left_out() -> None:
    step = TinyStep()
    step.student.first.requires_grad_(False)
    optimizer = build_optimizer(step, tiny_settings())
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert all(p is not step.student.first.weight for p in held)
    assert len(held) == 6


def test_a_group_without_parameters_is_left_out() -> None:
    assert len(build_optimizer(nn.Linear(2, 2, bias=False), tiny_settings()).param_groups) == 1


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"trainable parameters, got none\. Freeze fewer"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False), tiny_settings())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, r"train\.steps must be at least 1, got 0\."),
        ({"workers": -1}, r"train\.workers must be at least 0, got -1\."),
        ({"lr": 0.0}, r"train\.lr must be above 0, got 0\."),
        (
            {"backbone_lr_factor": -0.1},
            r"train\.backbone_lr_factor must be a finite number of at least 0, got -0\.1\.",
        ),
        ({"lr": float("nan")}, r"train\.lr must be a finite number of at least 0, got nan\."),
        ({"ema_decay": 1.0}, r"train\.ema_decay must be at least 0 and below 1, got 1\.0\."),
        ({"batch_size": 4, "accumulate": 3}, r"train\.accumulate must divide train\.batch_size \(4\), got 3\."),
        ({"milestones": (0.9, 0.5)}, r"train\.milestones must be rising fractions .* got \[0\.9, 0\.5\]\."),
        ({"optimizer": "lion"}, r"train\.optimizer must be one of sgd, adamw, got 'lion'\."),
        ({"precision": "64"}, r"train\.precision must be one of 32-true, bf16-mixed, 16-mixed, got '64'\."),
    ],
)
def test_wrong_settings(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_settings(**changes)


def test_sgd_matches_a_hand_computed_step() -> None:
    # w = 2, gradient 1, decay 0.5: w - lr (1 + 0.5 · 2) = 2 - 0.1 · 2 = 1.8; the bias is not decayed: 2 - 0.1.
    layer = nn.Linear(1, 1)
    optimizer = build_optimizer(layer, tiny_settings(lr=0.1, weight_decay=0.5, momentum=0.0))
    for parameter in layer.parameters():
        parameter.data.fill_(2.0)
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert layer.weight.item() == pytest.approx(1.8)
    assert layer.bias.item() == pytest.approx(1.9)


def moved(family: str, factor: float, **changes: object) -> dict[str, Tensor]:
    """How far every trained parameter goes in the run's first step of plain SGD without decay."""
    settings = TrainSettings(
        steps=1, batch_size=3, optimizer="sgd", momentum=0, weight_decay=0, warmup_steps=0, backbone_lr_factor=factor
    )
    student = tiny_student(family, **changes)
    step = SupervisedStep(student)
    optimizer = build_optimizer(step, settings)
    before = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(0, settings) * group["lr_factor"]
    step(scene_batch(), Clock(step=0, total_steps=1)).total.backward()
    optimizer.step()
    return {name: parameter.detach() - before[name] for name, parameter in student.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_backbone_moves_by_its_factor_and_nothing_else_does(family: str) -> None:
    plain, slower, held = (moved(family, factor) for factor in (1.0, 0.25, 0.0))
    own = {name for name in plain if ".body." in f".{name}"}
    assert own
    assert any(plain[name].any() for name in own)
    for name, by in plain.items():
        expected = (0.25, 0.0) if name in own else (1.0, 1.0)
        for found, times in zip((slower, held), expected, strict=True):
            torch.testing.assert_close(found[name], times * by, rtol=1e-3, atol=1e-7)
    assert not any(held[name].any() for name in own)


def test_a_backbone_that_trains_nothing_has_no_factor() -> None:
    said = (
        r"train\.backbone_lr_factor must be 1 for a student whose backbone trains no parameter, got 0\.1\. Leave it "
        "out, or freeze fewer of its stages"
    )
    with pytest.raises(ConfigError, match=said):
        moved("fcos", 0.1, freeze_stages=4)
    with pytest.raises(ConfigError, match=said):
        build_optimizer(TinyStep(), tiny_settings(backbone_lr_factor=0.1))


def test_without_a_factor_the_groups_are_the_two_there_always_were() -> None:
    step = SupervisedStep(tiny_student("fcos"))
    groups = build_optimizer(step, TrainSettings(steps=1, batch_size=1)).param_groups
    parameters = list(step.parameters())
    expected = [[p for p in parameters if p.ndim >= 2], [p for p in parameters if p.ndim < 2]]
    assert [[id(p) for p in group["params"]] for group in groups] == [[id(p) for p in own] for own in expected]
    assert [group["lr_factor"] for group in groups] == [1.0, 1.0]


class Laid(nn.Module):
    """A student whose kernels lie channels last in memory, and what is not decayed."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_one_operation_for_all_is_torchs_loop_over_parameters(name: str) -> None:
    settings = tiny_settings(optimizer=name, weight_decay=0.1, lr=0.1)
    found = []
    for loop in (False, True):
        torch.manual_seed(0)
        step = Laid()
        optimizer = build_optimizer(step, settings)
        assert optimizer.defaults["fused"] is True
        for group in optimizer.param_groups if loop else ():
            group.update(fused=False, foreach=False)
        for _ in range(5):
            for parameter in step.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        found.append([one.detach() for one in step.parameters()])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)
