"""OpenMP's threads are told to wait quietly before torch loads, whichever way the command line starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from detdistill.cli.imports import spare_imports
from detdistill.threads import quiet_threads

# Starts the command line in a fresh process, which ends when torch is imported, and reports on its last line what
# OMP_WAIT_POLICY is then, null where it never is.
PROBE = """
import importlib.abc, json, os, sys

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":
            print(json.dumps(os.environ.get("OMP_WAIT_POLICY", "unset")), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Watch())
from detdistill.cli import main
main(sys.argv[1:])
print("null")
"""


def policy_at_torch(*arguments: str, policy: str | None = None) -> str | None:
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    if policy is not None:
        environment["OMP_WAIT_POLICY"] = policy
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    found: str | None = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("arguments", [["--help"], ["distill", "--help"], ["--version"], ["trian"], []])
def test_no_torch_is_loaded_for_help(arguments: list[str]) -> None:
    assert policy_at_torch(*arguments) is None


def test_the_policy_is_set_when_torch_loads() -> None:
    assert policy_at_torch("methods") == "PASSIVE"


def test_the_users_own_policy_stays() -> None:
    assert policy_at_torch("methods", policy="ACTIVE") == "ACTIVE"


def test_quiet_threads_sets_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    quiet_threads()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, detdistill; detdistill.__version__; dir(detdistill); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_timm_loads_no_tracker_of_trainings_and_others_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    spare_imports()
    with pytest.raises(ImportError):
        exec("import wandb", {"__name__": "timm.utils.summary"})
    exec("import wandb", {"__name__": "detectors_of_my_own"})
    del sys.modules["wandb"]


def test_torchs_compiler_does_without_what_it_only_recognises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch.distributed.fsdp", raising=False)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    spare_imports()
    with pytest.raises(ModuleNotFoundError):  # as it expects where that is not installed
        exec("import torch.distributed.fsdp", {"__name__": "torch._dynamo.variables.functions"})
