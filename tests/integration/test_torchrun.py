"""Two machines, played by two agents of torchrun on the loopback: equal to one process, and resumed after a loss."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.attack.nodes import agent
from benchmarks.attack.processes import command
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed import run as torchrun

from coco_by_hand import draw_data
from detdistill.cli import main
from detdistill.store.layout import SIDECAR, WEIGHTS, RunFolder

pytestmark = pytest.mark.slow

STEPS = 12
SMALL = (
    *("student.head_depth=1", "student.strides=[8, 16, 32]", "student.fpn_channels=16"),
    *("train.optimizer=sgd", "train.lr=0.002", "train.warmup_steps=1", "train.ema_decay=0", "train.log_every=1"),
    *("train.device=cpu", "train.threads=1", "train.checkpoint_every=1", "train.keep_checkpoints=99"),
)
KILLED = -signal.SIGKILL


class Node:
    """A machine's agent of torchrun, forked from this process, with one worker, in a folder of the machine's own.

    The worker is a fork too, or, which takes seconds, started `afresh` by torchrun's own words.
    """

    def __init__(self, folder: Path, rank: int, port: int, words: list[str], *, afresh: bool) -> None:
        folder.mkdir(exist_ok=True)
        self.said = folder / "said"
        where = ["--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(rank)]
        where += ["--master-addr", "127.0.0.1", "--master-port", str(port)]

        def run() -> None:
            with self.said.open("w") as said:
                for stream in (1, 2):
                    os.dup2(said.fileno(), stream)
            os.chdir(folder)
            os.environ["OMP_NUM_THREADS"] = "1"
            if not afresh:
                # pytest's own go elsewhere
                sys.stdout, sys.stderr = (open(one, "w", buffering=1, closefd=False) for one in (1, 2))  # noqa: SIM115
                sys.exit(agent(command(words), rank=rank, port=port))
            torchrun.main([*where, "-m", "detdistill", *words])

        self.agent = multiprocessing.get_context("fork").Process(target=run)
        self.agent.start()

    def lose_power(self) -> None:
        """Agent and worker are gone at once."""
        workers = Path(f"/proc/{self.agent.pid}/task/{self.agent.pid}/children").read_text().split()
        self.agent.kill()
        for worker in workers:
            os.kill(int(worker), signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(folder: Path, words: list[str], *, afresh: bool = False) -> tuple[Node, Node]:
    port = free_port()
    first, second = (
        Node(folder / name, rank, port, words, afresh=afresh) for rank, name in enumerate(("first", "second"))
    )
    return first, second


def ends(nodes: tuple[Node, Node]) -> list[Any]:
    try:
        for node in nodes:
            node.agent.join(240)
        return [node.agent.exitcode for node in nodes]
    finally:
        for node in nodes:
            node.agent.kill()


def wait_for(path: Path) -> None:
    for _ in range(6000):
        if path.exists():
            return
        time.sleep(0.01)
    pytest.fail(f"{path} never came")


def tensors(run: Path, step: int, *, file: str) -> dict[str, Tensor]:
    return load_file(RunFolder(run).checkpoint(step) / file)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a teacher, and a run on two machines that nobody disturbed."""
    folder = tmp_path_factory.mktemp("torchrun")
    draw_data(folder / "data")
    teacher = ["--detector", "fcos/test_resnet", "--data", str(folder / "data"), "--out", str(folder / "teacher")]
    assert main(["train", *teacher, *SMALL, "--steps", "2", "--seed", "9", "train.batch_size=4"]) == 0
    whole = start(folder, words(folder, out="whole"), afresh=True)
    assert ends(whole) == [0, 0], [node.said.read_text() for node in whole]
    assert f"ikd(frs): {STEPS} steps in" in whole[0].said.read_text()
    # The second machine writes and prints nothing.
    assert whole[1].said.read_text() == ""
    assert [path.name for path in (folder / "second").iterdir()] == ["said"]
    return folder


def words(folder: Path, *, out: str, batch_size: int = 2) -> list[str]:
    """`distill` with twins, which both machines make for themselves; the run's folder is each machine's own."""
    given = {"--teacher": folder / "teacher", "--data": folder / "data", "--student": "fcos/test_resnet"}
    line = ["distill", *(str(word) for pair in given.items() for word in pair)]
    line += ["--method", "ikd(frs(warmup_steps=0))", "--out", out, "--steps", str(STEPS), "--seed", "4"]
    return [*line, *SMALL, f"twins.folder={folder / 'twins'}", f"train.batch_size={batch_size}"]


def test_two_machines_equal_one_process_that_accumulates_their_halves(home: Path) -> None:
    alone = home / "alone"
    assert main([*words(home, out=str(alone), batch_size=4), "train.accumulate=2"]) == 0
    compared = 0
    for step in range(1, STEPS + 1):
        for file in (WEIGHTS, SIDECAR):  # parameters, and the momentum that the gradients left
            expected = tensors(alone, step, file=file)
            found = tensors(home / "first" / "whole", step, file=file)
            assert expected.keys() == found.keys()
            for name in (name for name in expected if "running_" not in name and "num_batches" not in name):
                torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)
                compared += 1
    assert compared > STEPS * 100


def test_a_run_that_lost_machines_is_resumed_to_the_same_bits(home: Path) -> None:
    """First the second agent is killed and leaves an orphan, then the first machine loses its power."""
    line = [*words(home, out="cut"), "--resume"]
    cut = RunFolder(home / "first" / "cut")
    nodes = start(home, line)
    wait_for(cut.checkpoint(2))
    nodes[1].agent.kill()
    first, second = ends(nodes)
    assert (first > 0, second) == (True, KILLED)
    stopped = cut.latest()
    assert stopped is not None
    assert 2 <= stopped < STEPS
    assert f"interrupted after step {stopped}; the checkpoint is cut/checkpoints/" in nodes[0].said.read_text()

    nodes = start(home, line)
    wait_for(cut.checkpoint(stopped + 2))
    nodes[0].lose_power()
    first, second = ends(nodes)
    assert (first, second > 0) == (KILLED, True)
    assert "error: The run's processes must reach each other until its end, got: " in nodes[1].said.read_text()
    assert cut.latest() != STEPS

    nodes = start(home, line)
    assert ends(nodes) == [0, 0], [node.said.read_text() for node in nodes]
    for file in (WEIGHTS, SIDECAR):
        expected, found = (tensors(home / "first" / name, STEPS, file=file) for name in ("whole", "cut"))
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    shutil.rmtree(cut.path)


def test_what_the_first_machine_refuses_ends_both(home: Path) -> None:
    """The folder of the run is full on the first machine alone; both say so once."""
    nodes = start(home, words(home, out="whole"))
    assert all(code > 0 for code in ends(nodes))
    assert nodes[0].said.read_text().count("error: The run folder whole must be new or empty") == 1
