"""Config files of a distillation, read and refused; and what a folder holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detdistill.errors import ConfigError
from detdistill.jobs.config import read_run_config
from detdistill.jobs.settings import RunConfig


def run_file(folder: Path, text: str) -> Path:
    """The file of that text."""
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def distil(file: Path | None, *settings: str, **options: object) -> RunConfig:
    """The distillation's configuration; two underscores in an option's name are a dot."""
    return read_run_config(
        file, settings, purpose="distill", options={k.replace("__", "."): v for k, v in options.items()}
    )


def refusal(file: Path | None, *settings: str, **options: object) -> str:
    """What the refused configuration's error says."""
    with pytest.raises(ConfigError) as refused:
        distil(file, *settings, **options)
    return str(refused.value)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path in it."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def bare(config: RunConfig) -> Any:
    """The run's method without the strength that it got where nobody gave it one."""
    return replace(config.method, strength=None)
