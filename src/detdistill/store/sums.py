"""Checksums: whether a JSON file, and the files that it names, are as they were written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detdistill.errors import ConfigError
from detdistill.files import read_json, require_regular

CHECKSUM, SHA256 = "checksum", "sha256"


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with a checksum of all of it."""
    return {**content, CHECKSUM: _checksum(content)}


def is_whole(content: Mapping[str, Any]) -> bool:
    """Whether sealed content is as it was written; what bears no checksum, as an earlier version wrote it, is."""
    return content.get(CHECKSUM) in (None, _checksum(content))


def digest(path: Path) -> str:
    """SHA-256 of a regular file, as hex."""
    require_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, by name."""
    return {file.name: digest(file) for file in sorted(folder.iterdir()) if file.is_file()}


def require_as_written(folder: Path, record: Path) -> None:
    """Refuses a folder with a file that is not the one whose SHA-256 a sealed record has; one without sums is taken.

    Raises:
        ConfigError: a file, or the record, was changed or cut off.
    """
    content = read_json(record)
    sums = content.get(SHA256, {}) if isinstance(content, dict) and is_whole(content) else None
    try:
        changed = (
            [record]
            if sums is None
            else [
                folder / name for name, sum_ in sums.items() if Path(name).name != name or digest(folder / name) != sum_
            ]
        )
    except (OSError, AttributeError, TypeError) as error:
        raise ConfigError(f"{folder} must hold every file that {record} names, got: {error}. Copy it anew.") from error
    if changed:
        raise ConfigError(
            f"{changed[0]} must be as it was written, got another content by its checksum in {record.name}. "
            "Copy it anew, or give an earlier checkpoint."
        )


def _checksum(content: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
