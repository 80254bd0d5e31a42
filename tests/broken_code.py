"""Code that is not detdistill's, and fails."""

from __future__ import annotations


def broken() -> None:
    """A piece of work that fails in whatever process it is done."""
    raise ValueError("no number")
