"""What a step freed is there for the next one, and given back at the end."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from detdistill.training import pages
from detdistill.training.pages import kept_pages

BLOCKS, MEGABYTES = 8, 16
# In a process of its own, whose heap nothing else has cut up. It says how many pages the system filled, in pieces of a
# block, once blocks were taken and freed before: by default, while they are kept, and after that.
SCRIPT = f"""
import importlib.util, os, resource, sys
spec = importlib.util.spec_from_file_location("pages", sys.argv[1])
pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pages)

def filled():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(2):
        blocks = [b"x" * ({MEGABYTES} << 20) for _ in range({BLOCKS})]
        del blocks
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return faults * os.sysconf("SC_PAGESIZE") / ({MEGABYTES} << 20)

filled()
print(filled())
with pages.kept_pages():
    filled()
    print(filled())
print(filled())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="memory is not allocated by glibc")
def test_freed_pages_are_used_again_until_the_end() -> None:
    untuned = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    said = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(pages.__file__)], env=untuned, capture_output=True, text=True, check=True
    )
    by_default, kept, after = map(float, said.stdout.split())
    assert by_default > 2 * BLOCKS - 2
    assert kept < 1
    assert after > BLOCKS - 1


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
