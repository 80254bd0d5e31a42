"""What a step freed is there for the next one, and given back at the end."""

from __future__ import annotations

import ctypes
import os

import pytest
import torch

from detdistill.training.pages import kept_pages

MEGABYTES = 16
PAGES = (MEGABYTES << 20) // os.sysconf("SC_PAGESIZE")
resource = pytest.importorskip("resource")
TUNED = [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]


def fresh_pages() -> int:
    """How many pages the system filled for tensors that are freed at once, one after the other."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(MEGABYTES << 18)
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="memory is not allocated by glibc")
@pytest.mark.skipif(bool(TUNED), reason=f"glibc's allocation is tuned by {TUNED}")
def test_freed_pages_are_used_again_until_the_end() -> None:
    with kept_pages():
        fresh_pages()
        assert fresh_pages() < PAGES // 4
    assert fresh_pages() > PAGES // 2


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_what_a_user_tuned_is_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "anything")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("the allocator was asked for"))
    with kept_pages():
        pass


def test_a_gpu_s_training_leaves_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("the allocator was asked for"))
    with kept_pages(where=False):
        pass


def test_other_allocators_than_glibc_s_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    with kept_pages():
        pass
