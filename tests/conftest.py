"""Settings for every test: shapes checked at run time, one thread, and the real data sets where they are present."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ROOT = Path(__file__).resolve().parents[1]
# Each look through what lives costs the time of a test: after so many new objects, instead of 700.
GARBAGE_AFTER = 20_000


def pytest_configure(config: pytest.Config) -> None:
    """What tests need, in whoever runs some: not in the process that only hands them out."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return
    import torch

    import checked_shapes

    # Before anything imports them: every annotated shape of these packages is checked wherever a test calls them.
    checked_shapes.check(("detdistill.methods", "detdistill.gfl", "detdistill.distillation"))
    from detdistill.cli.imports import spare_imports

    spare_imports()
    torch.set_num_threads(1)
    os.fsync = _unsynced
    gc.disable()  # until the tests are collected: what is imported until then stays


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    from thorough import thin_out

    thin_out(items)


def _unsynced(descriptor: int) -> None:
    """Files outlive a process that dies without it, and no test cuts the power: the disk took a sixth of the time."""


def pytest_collection_finish() -> None:
    """What is imported by now is not looked through at each collection of garbage."""
    gc.freeze()
    gc.set_threshold(GARBAGE_AFTER)
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of small real data sets; skips where it is absent."""
    folder = Path(os.environ.get("DETDISTILL_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the real data sets are absent: set DETDISTILL_TEST_DATA to their folder")
    return folder


@pytest.fixture
def without_type_checks() -> Iterator[None]:
    """For tests of what is said to somebody who gives values of a wrong type, and for those of settings alone."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def hearing() -> Iterator[None]:
    """A lost terminal is heard, even where the tests were started so that it is not."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
