"""Settings for every test: one thread, and the real data sets where they are present."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of small real data sets; skips where it is absent."""
    folder = Path(os.environ.get("DETDISTILL_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the real data sets are absent: set DETDISTILL_TEST_DATA to their folder")
    return folder
