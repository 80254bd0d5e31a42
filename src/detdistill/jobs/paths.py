"""The paths of a config file: counted from where a command runs, or from the file's own folder.

The file that a run leaves says `paths_from: file`: what was given as a relative path, and what lies in the run's
folder, is counted from that folder, so that the file is right from every working directory and wherever the tree that
holds run and data is moved. What was given as an absolute path stays one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from detdistill.detectors.catalogue import naming_of, settings_type
from detdistill.errors import ConfigError, suggestion
from detdistill.jobs.doors import door_of
from detdistill.jobs.settings import RunConfig
from detdistill.settings import with_paths
from detdistill.settings.trees import Tree

PATHS_FROM = "paths_from"
"""The key of a config file that says what its relative paths are counted from."""
_HERE, _FILE = "cwd", "file"


def written_from(tree: Tree, folder: Path) -> Tree:
    """A run's settings as a file in `folder` holds them, whatever the working directory of its reader."""
    home = folder.resolve()

    def from_home(text: str) -> str:
        path, place = Path(text), Path(text).resolve()
        if place.is_relative_to(home):
            return os.path.relpath(place, home)
        # Links in what was given are kept: only the way there must have none.
        return text if path.is_absolute() else os.path.relpath(place if ".." in path.parts else path.absolute(), home)

    return {PATHS_FROM: _FILE, **_changed(tree, from_home)}


def read_from(tree: Tree, file: Path) -> Tree:
    """A file's settings with its paths as the working directory sees them.

    Raises:
        ConfigError: it counts them from something else than there is.
    """
    choice = tree.pop(PATHS_FROM, _HERE)
    if choice not in (_HERE, _FILE):
        remedy = suggestion(str(choice), (_HERE, _FILE), listed=True)
        raise ConfigError(f"{file}: {PATHS_FROM} must be {_HERE} or {_FILE}, got {choice!r}. {remedy}")
    if choice == _HERE:
        return tree
    home, here = file.resolve().parent, Path.cwd()

    def from_here(text: str) -> str:
        if Path(text).is_absolute():
            return text
        path = Path(os.path.normpath(home / text))
        return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)

    return _changed(tree, from_here)


def _changed(tree: Tree, change: Callable[[str], str]) -> Tree:
    def changed(text: str) -> str:
        if text.startswith("~"):
            return text
        return door_of(text).moved(text, change)

    found: Tree = with_paths(tree, RunConfig, changed)
    # The student's section is its settings themselves, beside the detector's name.
    student = found.get("student")
    if isinstance(student, dict) and isinstance(name := student.get("detector"), str):
        naming, kind = naming_of(name), settings_type(name)
        student = with_paths(student, kind, changed)
        for key in ("detector", *kind.named_by) if naming is not None else ():
            if naming is not None and isinstance(student.get(key), str):
                student[key] = naming.moved(student[key], change)
        found["student"] = student
    return found
