"""One message a step trains as torch's DDP does: gradients to the bit, whoever takes part, and rank 0's buffers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from detdistill.errors import ConfigError
from detdistill.training.gradients import mean_norm
from detdistill.training.joined import Joined, raised_on_any, set_up
from detdistill.training.launch import launch
from detdistill.training.settings import TrainSettings

RANKS, STEPS = 2, 4
SIGNS = torch.tensor([False, True])


class Branching(nn.Module):
    """Of its branches rank 0 takes the first and rank 1 the second; none takes the third; counts in a buffer."""

    count: Tensor

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))
        self.frozen = nn.BatchNorm2d(8).eval()
        self.branches = nn.ModuleList(nn.Conv2d(8, 1, 1) for _ in range(3))
        self.still = nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("count", torch.tensor(seed))
        self.register_buffer("flags", torch.tensor([True, bool(seed % 2)]))
        nn.init.normal_(self.frozen.running_mean)  # type: ignore[arg-type]
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, number: int) -> Tensor:
        self.count += number + 1
        return self.branches[number](self.frozen(self.stem(images))).square().mean() * self.count.float()


def trained(module: nn.Module, branching: Branching, *, join: Callable[[], object], rank: int) -> dict[str, Tensor]:
    """Gradients, weights and buffers of every step."""
    found: dict[str, Tensor] = {}
    optimizer = torch.optim.SGD([one for one in branching.parameters() if one.requires_grad], lr=0.1)
    for step in range(STEPS):
        # In the last step both take the same branch.
        number = 2 if step == STEPS - 1 else rank
        images = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(10 * step + rank))
        optimizer.zero_grad()
        module(images, number).backward()
        join()
        for name, parameter in branching.named_parameters():
            if parameter.grad is not None:
                found[f"{step}.gradient.{name}"] = parameter.grad.clone()
        optimizer.step()
        found |= {f"{step}.{name}": one.clone() for name, one in branching.state_dict().items()}
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """What each rank found, by way."""
    folder: Path = tmp_path_factory.mktemp("ranks")

    def main(fabric: Fabric) -> None:
        rank = fabric.global_rank
        for way in ("ddp", "joined"):
            branching = Branching(seed=rank)  # each rank begins elsewhere
            module: Any
            if way == "ddp":
                module = DistributedDataParallel(branching, find_unused_parameters=True)
                ended = trained(module, branching, join=lambda: None, rank=rank)
            else:
                module = Joined(branching)
                ended = trained(module, branching, join=partial(module.join, SIGNS), rank=rank)
            signs = [module.join(torch.tensor([rank == at, False])) for at in range(RANKS)] if way == "joined" else []
            signs.append(raised_on_any(torch.tensor([rank == 1, False])))
            assert all(raised.tolist() == [True, False] for raised in signs)
            save_file({name: one.contiguous() for name, one in ended.items()}, folder / f"{way}{rank}.safetensors")
            del module

    launch(main, TrainSettings(steps=STEPS, batch_size=2, processes=RANKS, device="cpu"))
    return [{way: load_file(folder / f"{way}{rank}.safetensors") for way in ("ddp", "joined")} for rank in range(RANKS)]


def test_gradients_and_weights_are_those_of_torchs_own_to_the_bit(found: list[dict[str, dict[str, Tensor]]]) -> None:
    for rank, ways in enumerate(found):
        own, ddp = ways["joined"], ways["ddp"]
        assert own.keys() == ddp.keys()
        running = {name for name in own if ".stem.1." in name and name.split(".")[-1].startswith(("running", "num"))}
        assert len(running) == 3 * STEPS
        for name in own.keys() - (running if rank else set()):
            assert torch.equal(own[name], ddp[name]), (rank, name)


def test_a_branch_of_one_rank_counts_half_and_one_of_none_has_no_gradient(
    found: list[dict[str, dict[str, Tensor]]],
) -> None:
    first, second = (ways["joined"] for ways in found)
    branches = {name for name in first if "gradient.branches" in name}
    assert branches == {
        f"{step}.gradient.branches.{number}.{kind}"
        for step in range(STEPS)
        for number in ((2,) if step == STEPS - 1 else (0, 1))
        for kind in ("weight", "bias")
    }
    for name in {name for name in first if "gradient" in name}:
        assert torch.equal(first[name], second[name]), name


def test_buffers_are_rank_0s_but_for_what_batch_norms_gather_themselves(
    found: list[dict[str, dict[str, Tensor]]],
) -> None:
    first, second = (ways["joined"] for ways in found)
    # Each step begins with rank 0's count, to which each adds its own.
    assert [int(first[f"{step}.count"]) for step in range(STEPS)] == [1, 2, 3, 6]
    assert [int(second[f"{step}.count"]) for step in range(STEPS)] == [2, 3, 4, 6]
    assert first["0.flags"].tolist() == second["0.flags"].tolist() == [True, False]
    assert torch.equal(first["0.frozen.running_mean"], second["0.frozen.running_mean"])
    assert not torch.equal(first["3.stem.1.running_mean"], second["3.stem.1.running_mean"])


def test_where_nothing_changed_one_message_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(distributed, "get_world_size", lambda: 1)
    monkeypatch.setattr(distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(distributed, "all_gather_object", lambda digests, digest: digests.__setitem__(0, digest))
    monkeypatch.setattr(distributed, "all_reduce", lambda message: sent.append("gradients"))
    monkeypatch.setattr(distributed, "broadcast", lambda message, src: sent.append("state"))
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4).eval())
    joined = Joined(layers)
    for _ in range(2):
        joined(torch.rand(2, 3, 4, 4)).mean().backward()
        joined.join(SIGNS)
    assert sent == ["state", "gradients", "gradients"]
    layers[2].running_mean = torch.ones(4)  # another tensor in its place is a change too
    for _ in range(2):
        joined(torch.rand(2, 3, 4, 4)).mean().backward()
        joined.join(SIGNS)
    assert sent[3:] == ["gradients", "state", "gradients"]


@pytest.mark.parametrize("differs", ["a parameter", "a buffer"])
def test_ranks_with_different_modules_are_told_so(differs: str) -> None:
    def main(fabric: Fabric) -> None:
        wide = 3 + fabric.global_rank
        module = nn.Linear(wide if differs == "a parameter" else 3, 1)
        module.register_buffer("seen", torch.zeros(wide))
        Joined(module)

    with pytest.raises(ConfigError, match="same parameters, got others in process 2 than in process 1"):
        launch(main, TrainSettings(steps=STEPS, batch_size=2, processes=RANKS, device="cpu"))


def test_the_norm_of_a_part_is_that_of_its_mean_over_ranks() -> None:
    def main(fabric: Fabric) -> float | None:
        own = [torch.full((2, 2), 2.0 * fabric.global_rank), None, torch.zeros(3)]
        return mean_norm(own, ranks=RANKS)

    settings = TrainSettings(steps=STEPS, batch_size=2, processes=RANKS, device="cpu")
    assert launch(main, settings) == 2.0  # four ones
    assert mean_norm([torch.full((2, 2), 3.0), None], ranks=1) == 6.0
    assert mean_norm([None], ranks=RANKS) is None


def test_one_process_sends_nothing() -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    module, _, join = set_up(fabric, (layer := nn.Linear(2, 1)), torch.optim.SGD(layer.parameters(), lr=0.1))
    module(torch.ones(1, 2)).sum().backward()
    gradient = layer.weight.grad
    assert join(SIGNS) is SIGNS
    assert layer.weight.grad is gradient
