"""Where a run trains: `train.device` names it, `train.processes` counts, and the words of before are told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from detdistill.errors import ConfigError
from detdistill.jobs.config import read_run_config
from detdistill.training.launch import device_kind, own_device
from detdistill.training.settings import as_recorded
from run_files import run_file
from tiny_training import tiny_settings


def configured(*settings: str, file: Path | None = None) -> Any:
    options = {"student.detector": "fcos/test_resnet", "data": "d", "out": "o"}
    return read_run_config(file, settings, purpose="train", options=options).train


def with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_a_device_is_named() -> None:
    assert [configured(f"train.device={word}").device for word in ("auto", "cpu", "cuda", "cuda:3")] == [
        "auto",
        "cpu",
        "cuda",
        "cuda:3",
    ]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("train.device=1", "got '1'. Write train.device=cuda:1 for the GPU of that number."),
        ("train.device=gpu1", "got 'gpu1'. Write train.device=cuda:1 for the GPU of that number."),
        ("train.device=cuda1", "got 'cuda1'. Write train.device=cuda:1 for the GPU of that number."),
        ("train.device=CPU", "got 'CPU'. Choose one of them."),
        ("train.device=cda", "got 'cda'. Did you mean 'cuda'?"),
        (
            "train.devices=1",
            "The setting 'train.devices=1' must be one of today's, got the former train.devices. Write "
            "train.device=cuda:1 for the GPU of that number, or train.processes=1 for so many processes that train "
            "together.",
        ),
        ("train.accelerator=cpu", "got the former train.accelerator. Write train.device=cpu."),
        ("train.processes=0", "train.processes must be at least 1, got 0. Raise it."),
    ],
)
def test_what_is_no_device_is_refused_with_what_to_write(setting: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        configured(setting)
    assert str(refused.value).endswith(said)


def test_a_certain_gpu_is_for_one_process() -> None:
    with pytest.raises(ConfigError, match=r"a GPU for each, got cuda:1\. Write train\.processes=1\."):
        configured("train.device=cuda:1", "train.processes=2")


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy of every refusal is a setting that the same machine takes."""
    for gpus, device, processes, said, remedy in (
        (0, "cuda:7", 1, "which has no CUDA device, got cuda:7. Write train.device=auto.", {"device": "auto"}),
        (0, "cuda", 2, "which has no CUDA device, got cuda. Write train.device=auto.", {"device": "auto"}),
        (2, "cuda:7", 1, "cuda:0 to cuda:1, got cuda:7. Write train.device=cuda:1.", {"device": "cuda:1"}),
        (
            1,
            "auto",
            2,
            "train.processes must be at most 1, the CUDA devices of this machine, got 2.",
            {"device": "cpu"},
        ),
    ):
        with_gpus(monkeypatch, gpus)
        with pytest.raises(ConfigError) as refused:
            device_kind(tiny_settings(device=device, processes=processes))
        assert said in str(refused.value)
        word = remedy["device"]
        assert f"train.device={word}" in str(refused.value)
        assert device_kind(tiny_settings(device=word, processes=processes)) in ("cpu", "cuda")
    with_gpus(monkeypatch, 2)
    assert own_device(tiny_settings(device="cuda:1")) == torch.device("cuda:1")


def test_a_config_file_of_before_is_read_as_it_was_meant(tmp_path: Path) -> None:
    train = configured(file=run_file(tmp_path, "train:\n  devices: 2\n  accelerator: cpu\n"))
    assert (train.processes, train.device) == (2, "cpu")


def test_a_checkpoint_of_before_is_the_run_of_today() -> None:
    stored = {"train": {"steps": 3, "devices": 2, "accelerator": "cpu"}, "teacher": "t"}
    recorded = as_recorded(stored, {"annotations": "a"})
    assert (recorded["train"]["processes"], recorded["train"]["device"], recorded["teacher"]) == (2, "cpu", "t")
    assert not {"devices", "accelerator"} & recorded["train"].keys()
