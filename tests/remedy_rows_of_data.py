"""The remedies about what is read and kept of the data."""

from __future__ import annotations

from remedy_words import Row, train

KEPT = (
    Row(
        train("data.cache=disk"),
        "Write data.cache_folder=FOLDER.",
        train("data.cache=disk", "data.cache_folder={home}/kept"),
    ),
    Row(
        train("data.cache=ram", "data.cache_folder={home}/kept"),
        "Write data.cache_folder=null.",
        train("data.cache=ram", "data.cache_folder=null"),
    ),
)
