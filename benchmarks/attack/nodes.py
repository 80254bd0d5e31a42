"""Two machines, played by two of torchrun's agents that fork their worker instead of starting Python anew."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.attack.processes import HANGS_AFTER_S, Ended, Forked, children

NODES = "two torchrun nodes"
_AGENTS_ALONE_S = 5.0


class Nodes:
    """Work on two nodes with a worker each, in a folder of the node's own."""

    def __init__(self, folder: Path, work: Callable[[], int]) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = int(listener.getsockname()[1])
        self.nodes: list[Forked] = []
        for rank in range(2):
            home = folder / str(rank)
            home.mkdir(parents=True, exist_ok=True)

            ranked = partial(agent, work, rank=rank, port=port)
            self.nodes.append(Forked(ranked, folder / f"{rank}.said", cwd=home))

    def poll(self) -> int | None:
        """The first node's exit code that is not 0, else 0; None while one of them runs."""
        codes = [node.poll() for node in self.nodes]
        return None if None in codes else next((code for code in codes if code), 0)

    def wait(self) -> list[Ended]:
        """How both ended; an agent that waits for a lost one long after its own worker has ended is let go."""
        until, idle = time.monotonic() + HANGS_AFTER_S, dict[int, float]()
        while time.monotonic() < until and (left := [node for node in self.nodes if node.poll() is None]):
            for node in left:
                began = idle.setdefault(node.pid, time.monotonic())
                if children(node.pid):
                    idle[node.pid] = time.monotonic()
                elif time.monotonic() - began > _AGENTS_ALONE_S:
                    node.kill_session()
            time.sleep(0.02)
        return [node.wait(HANGS_AFTER_S) for node in self.nodes]

    def kill(self, victim: str, draws: random.Random) -> bool:
        """Kills the agent, the worker or all of one node; whether it was still there."""
        node = draws.choice(self.nodes)
        workers = children(node.pid)
        if node.poll() is not None:
            return True  # the other one has not ended yet, and ends by itself
        if victim == "worker" and workers:
            os.kill(workers[0], signal.SIGKILL)
        elif victim == "agent":
            node.kill()
        else:
            node.kill_session()
        return True

    def orphans(self) -> list[int]:
        """What still runs of both nodes."""
        return [pid for node in self.nodes for pid in node.orphans()]


def agent(work: Callable[[], int], *, rank: int, port: int) -> int:
    """Torchrun's own agent, as `torchrun --nnodes 2 --nproc-per-node 1` sets it up."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=2,
        max_nodes=2,
        nproc_per_node=1,
        run_id="none",
        rdzv_backend="static",
        rdzv_endpoint=f"127.0.0.1:{port}",
        rdzv_configs={"rank": rank, "timeout": 900},
        max_restarts=0,
        monitor_interval=0.1,
        start_method="fork",
    )
    try:
        elastic_launch(config, _worker)(work)
    except ChildFailedError:
        return 1
    return 0


def _worker(work: Callable[[], int]) -> None:
    if code := work():
        raise SystemExit(code)
