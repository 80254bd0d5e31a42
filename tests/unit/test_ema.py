from __future__ import annotations

import torch
from torch import nn

from detdistill.training.state import Ema
from tiny_training import TinyStudent


def test_ramp_up_then_the_given_decay() -> None:
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(1.0)
    ema = Ema(layer, decay=0.15)
    layer.weight.data.fill_(0.0)
    found = []
    for _ in range(3):
        ema.update(layer)
        found.append(ema.student.weight.item())
    # d = min(0.15, 1/10), min(0.15, 2/11), min(0.15, 3/12) = 0.1, 0.15, 0.15
    torch.testing.assert_close(torch.tensor(found), torch.tensor([0.1, 0.015, 0.00225]))
    assert ema.updates == 3


def test_buffers_floats_are_averaged_and_counters_copied() -> None:
    student = TinyStudent()
    ema = Ema(student, decay=0.99)
    student.train()
    student(torch.rand(4, 3, 12, 16))
    moved = student.norm.running_mean.clone()
    ema.update(student)
    torch.testing.assert_close(ema.student.norm.running_mean, 0.9 * moved)
    assert ema.student.norm.num_batches_tracked.item() == 1


def test_the_average_is_a_copy_in_eval_mode_without_gradients() -> None:
    student = TinyStudent().train()
    ema = Ema(student, decay=0.5)
    assert student.training
    assert not any(module.training for module in ema.student.modules())
    assert not any(p.requires_grad for p in ema.student.parameters())
    assert all(p.requires_grad for p in student.parameters())
    student.first.weight.data.add_(1.0)
    assert not torch.equal(ema.student.first.weight, student.first.weight)


def test_equal_weights_stay_bit_equal() -> None:
    student = TinyStudent()
    ema = Ema(student, decay=0.9)
    for _ in range(5):
        ema.update(student)
    for name, tensor in ema.student.state_dict().items():
        assert torch.equal(tensor, student.state_dict()[name])
